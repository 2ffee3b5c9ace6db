"""Model files: what FLARE and `fedmr train` leave on disk, as a network that can be used, with its card."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fedmr.checkpoints.card import Card, card_of_run, make_card, task_of
from fedmr.checkpoints.decrypt import decrypt
from fedmr.checkpoints.stored import encryption_of, locate, read_content
from fedmr.federation.render import CUSTOM, read_task
from fedmr.nets import build, build_trained
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
    run = Run(path) if path.is_dir() else None
    path = run.model_file() if run else path
    content = _opened(path, context)
    if run:
        task = build_task(read_task(job)) if job else run.read_task()
        card = card_of_run(run, task)
    else:
        try:
            card = content[CARD_KEY] if CARD_KEY in content and job is None else _card(content, path, job)
            task = task_of(card)
        except ValueError as error:
            raise ValueError(f"{path} cannot be used: {error}") from None
    weights = content["model"] if context is None else _decrypted(content, path, task, context)
    try:
        return Model(build_trained(task.network, weights), card)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None


def _opened(path: Path, context: Path | None) -> dict[str, Any]:
    content = read_content(path)
    encryption = encryption_of(content)
    if encryption is None and context is not None:
        raise ValueError(f"{path} is not encrypted; use it as it is")
    if encryption is not None and context is None:
        raise ValueError(
            f"{path} is encrypted ({encryption}). On a site that took part, `fedmr decrypt {path} --context "
            "startup/client_context.tenseal -o model.pt` makes a model of it"
        )
    return content


def _decrypted(content: dict[str, Any], path: Path, task: Task, context: Path) -> dict[str, Any]:
    layout = {name: list(value.shape) for name, value in build(**task.network).state_dict().items()}
    try:
        return decrypt(content, context, layout)
    except ValueError as error:
        raise ValueError(f"{path} cannot be decrypted by {context}: {error}") from None


def _card(content: dict[str, Any], path: Path, job: Path | None) -> Any:
    """Return the card of a file that has none, from its job, or one that has been compared with the job's."""
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
