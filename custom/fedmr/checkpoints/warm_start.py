"""Weights to start a training from: those of a model, after a check that they are of the task's network."""

from pathlib import Path

import torch
from torch import Tensor

from fedmr.checkpoints.model_file import load_model
from fedmr.nets import build
from fedmr.tasks.base import Task


def starting_weights(model: Path, task: Task) -> dict[str, Tensor]:
    """Return a model's weights, by name, on the CPU.

    Args:
        model: model file, run, or name of a model of the package, as `model_file.load_model` takes it.
        task: of the training that starts from it; the rest of it need not be the model's.

    Raises:
        FileNotFoundError: no such model.
        ValueError: it is no model, or one of another network.
    """
    weights = {name: value.detach().cpu() for name, value in load_model(model).net.state_dict().items()}
    wanted = {name: tuple(value.shape) for name, value in build(**task.network).state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    if found != wanted:
        different = next(name for name in sorted(wanted | found) if wanted.get(name) != found.get(name))
        raise ValueError(
            f"{model} is of another network than the job's {dict(task.network)}: {different!r} has the shape "
            f"{found.get(different, 'of nothing')} there and {wanted.get(different, 'of nothing')} here. Set "
            "task.network to the model's, see `fedmr card`"
        )
    return weights


def write_start(model: Path, task: Task, path: Path) -> None:
    """Write those weights as FLARE's persistor reads them; arguments and errors as `starting_weights`."""
    torch.save({"model": starting_weights(model, task)}, path)
