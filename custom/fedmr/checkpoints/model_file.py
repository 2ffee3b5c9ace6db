"""Model files: what FLARE and `fedmr train` leave on disk, as a network that can be used, with its card."""

import pickle
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fedmr.checkpoints.card import Card, card_of_run, make_card, task_of
from fedmr.checkpoints.decrypt import decrypt, encryption_of
from fedmr.checkpoints.shipped import locate
from fedmr.federation.render import CUSTOM, read_task
from fedmr.nets import build
from fedmr.runs.run import Run
from fedmr.tasks.base import Task
from fedmr.tasks.registry import build_task
from fedmr.utils.class_path import allow_folder
from fedmr.utils.files import write_atomically

CARD_KEY = "fedmr_card"


@dataclass(frozen=True)
class Model:
    """A trained network and the card that says how to use it."""

    net: nn.Module
    card: Card

    @cached_property
    def task(self) -> Task:
        """The task of the card."""
        return build_task(self.card["task"])


def save_model(path: Path, model: Model) -> None:
    """Write weights under "model", as FLARE's persistor does, and the card in the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"model": model.net.state_dict(), CARD_KEY: model.card}
    write_atomically(path, lambda handle: torch.save(content, handle))


def load_model(path: Path, job: Path | None = None, context: Path | None = None) -> Model:
    """Load a model from a file with a card, from FLARE's saved model as it lies on disk, or from a whole run.

    FLARE's file holds weights only; the task comes from the job config, which FLARE leaves next to it in
    `config/`, or from `job`, and the card knows no more than that. Of a run, i.e. a simulator workspace or a
    downloaded job, the final global model is taken, and the card has the run's figures. Nothing in a file is executed.

    Args:
        path: model file or run, or the name of a model that comes with the package.
        job: job folder or client config, if a file without a card lies elsewhere.
        context: a site's client_context.tenseal, for an encrypted model.

    Raises:
        FileNotFoundError: no model file, or no job config for a file without a card.
        ValueError: no model file, a card that contradicts itself or `job`, weights of another network, or an encrypted
            model without the context that it takes.
        RunError: an incomplete run.
    """
    if job is not None:
        allow_folder(job / CUSTOM)
    path = locate(path)
    if path.is_dir():
        run = Run(path)
        file = run.model_file()
        task = build_task(read_task(job)) if job else run.read_task()
        return Model(_network(task, _weights(_read(file), file, task, context), file), card_of_run(run, task))
    content = _read(path)
    try:
        card = _card(content, path, job)
        task = task_of(card)
    except ValueError as error:
        raise ValueError(f"{path} cannot be used: {error}") from None
    return Model(_network(task, _weights(content, path, task, context), path), card)


def _weights(content: dict[str, Any], path: Path, task: Task, context: Path | None) -> dict[str, Any]:
    encryption = encryption_of(content)
    if encryption is None and context is None:
        return content["model"]
    if encryption is None:
        raise ValueError(f"{path} is not encrypted; use it as it is")
    if context is None:
        raise ValueError(
            f"{path} is encrypted ({encryption}). On a site that took part, `fedmr decrypt {path} --context "
            "startup/client_context.tenseal -o model.pt` makes a model of it"
        )
    layout = {name: list(value.shape) for name, value in build(**task.network).state_dict().items()}
    try:
        return decrypt(content, context, layout)
    except ValueError as error:
        raise ValueError(f"{path} cannot be decrypted by {context}: {error}") from None


def _card(content: dict[str, Any], path: Path, job: Path | None) -> Any:
    if CARD_KEY not in content:
        try:
            return make_card(build_task(read_task(job or path.parent)))
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{path} says nothing of its network and no job config lies next to it ({error}); name one by --job"
            ) from None
    card = content[CARD_KEY]
    if job is not None and task_of(card).network != (network := build_task(read_task(job)).network):
        raise ValueError(f"its card says {card['task']['network']}, the job {job} {dict(network)}. Leave out --job")
    return card


def _read(path: Path) -> dict[str, Any]:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        # torch's own message advises to load without weights_only, which would run whatever the file says
        raise ValueError(
            f"{path} is not a model file: it holds more than weights and plain values, and was not opened, because "
            "that could run foreign code. Do not open it otherwise unless you trust its origin"
        ) from None
    except Exception as error:  # torch documents no closed set of errors for a file that is not its own
        reason = str(error).partition(". ")[0] or type(error).__name__  # the rest of torch's text is advice
        raise ValueError(f"{path} is not a torch model file or is truncated: {reason}") from None
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise ValueError(f'{path} holds no weights under "model"; give a file of FLARE or of `fedmr train`')
    return content


def _network(task: Task, weights: dict[str, Any], path: Path) -> nn.Module:
    try:
        net = build(**task.network)
        tensors = {name: torch.as_tensor(value) for name, value in weights.items()}
        net.load_state_dict(tensors)
    except (RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())  # torch writes a line per tensor
        raise ValueError(f"{path} does not hold the network {dict(task.network)}: {reason[:300]}") from None
    bad = [name for name, value in tensors.items() if not torch.isfinite(value).all()]
    if bad:
        raise ValueError(f"{path} holds weights that are NaN or infinite, in {bad[0]}; its training failed")
    return net
