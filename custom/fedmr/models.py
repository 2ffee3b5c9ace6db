"""Model files: what FLARE and `fedmr train` leave on disk, as a network that can be used."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from fedmr.config import Task
from fedmr.jobs import read_task
from fedmr.nets import build

TASK_KEY = "fedmr_task"


def save_model(path: Path, net: nn.Module, task: Task) -> None:
    """Write weights under "model", as FLARE's persistor does, with the task beside them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": net.state_dict(), TASK_KEY: task.to_dict()}, path)


def load_model(path: Path, job: Path | None = None) -> tuple[nn.Module, Task]:
    """Load a network from a file of `save_model` or from FLARE's saved model as it lies on disk.

    FLARE's file holds weights only; the task comes from the job config, which FLARE leaves beside it in
    `config/`, or from `job`.

    Args:
        path: model file.
        job: job folder or client config, where it is not beside the file.

    Raises:
        FileNotFoundError: no model file, or no job config for a file without a task.
        ValueError: no model file, or weights of another network than the task's.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give a model file such as FL_global_model.pt")
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch documents no closed set of errors for a file that is not its own
        raise ValueError(f"{path} is not a torch model file: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise ValueError(f'{path} holds no weights under "model"; give a file of FLARE or of `fedmr train`')
    if job is None and TASK_KEY in content:
        task = Task.from_dict(content[TASK_KEY])
    else:
        try:
            task = Task.from_dict(read_task(job or path.parent))
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{path} says nothing of its network and no job config lies beside it ({error}); name one by --job"
            ) from None
    net = build(**task.network)
    try:
        net.load_state_dict({name: torch.as_tensor(value) for name, value in content["model"].items()})
    except RuntimeError as error:
        raise ValueError(f"{path} does not hold the network {dict(task.network)}: {error}") from None
    return net, task
