"""The card of a model: what one must know to use it, as plain values that travel inside the model file."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from fedmr import __version__
from fedmr.data.readers import contrast_of
from fedmr.nets import title
from fedmr.runs.figures import METHODS
from fedmr.runs.run import Run
from fedmr.tasks.base import Task, Volume
from fedmr.tasks.registry import build_task

Card = dict[str, Any]

FORMAT = 1
# of every card, in addition to the facts of its task
_ENTRIES = ("format", "task", "normalisation", "training", "data", "metrics", "versions", "licence", "intended_use")
INTENDED_USE = "Research on MR {}. Not a medical device; not for diagnosis."
NO_LICENCE = "Not stated. The weights come from the training sites' data: ask those sites before passing them on."


class CardError(ValueError):
    """A card that cannot be relied on; the message says what in it is wrong."""


def make_card(
    task: Task,
    *,
    training: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    licence: str = NO_LICENCE,
) -> Card:
    """Card of a network trained on a task; json-able, so that `torch.load(weights_only=True)` reads it.

    Args:
        task: gives the network and the facts of the task, e.g. scale, degradation and grid.
        training: ``{"federated": bool, "sites": n, "rounds": n, "steps": n}``; nothing if not known.
        data: `summarise_volumes`, or what is known of it.
        metrics: ``{"split": .., "n_volumes": n, METHOD: {"psnr": dB, ..}}`` for the methods of `report.METHODS`.
        licence: terms of the weights.
    """
    card = {
        "format": FORMAT,
        "task": task.to_dict(),
        **task.facts,
        "normalisation": dict(task.normalisation),
        "training": dict(training or {}),
        "data": dict(data or {}),
        "metrics": dict(metrics or {}),
        "versions": {"fedmr": __version__} | {name: version(name) for name in ("torch", "monai", "nvflare")},
        "licence": licence,
        "intended_use": INTENDED_USE.format(task.purpose),
    }
    return json.loads(json.dumps(card))  # plain dictionaries, whatever a config's reader gave


def summarise_volumes(volumes: Sequence[Volume]) -> dict[str, dict[str, int]]:
    """Numbers of volumes, ``{"volumes": {SPLIT: n}, "contrasts": {CONTRAST: n}}``; no names, patients or paths."""
    return {
        "volumes": dict(Counter(v.split for v in volumes)),
        "contrasts": dict(Counter(contrast_of(v.contrast) for v in volumes)),
    }


def card_of_run(run: Run, task: Task) -> Card:
    """Card of a federated run's final global model, from what the server received. The sites stay nameless.

    Args:
        run: the run.
        task: its task.

    Raises:
        RunError: a model, a site's round or its test figures are missing.
    """
    figures = run.figures()
    steps = sum(site["steps"] for record in run.rounds for site in record["sites"].values())
    volumes = sum(site["n_volumes"] for site in figures["sites"].values())
    return make_card(
        task,
        training={"federated": True, "sites": len(run.sites), "rounds": len(run.rounds), "steps": steps},
        data={"volumes": {"test": volumes}},
        metrics={"split": "test", "n_volumes": volumes, **figures["mean"]},
    )


def gain_of(card: Card, contrast: str = "") -> float | None:
    """Return the mean gain in PSNR over zero-filling on the card's volumes, dB; None if it has no figures.

    Args:
        card: of the model.
        contrast: whose volumes to take, where the card tells of it; else all are.
    """
    metrics = card["metrics"]
    if not {"model", "zero_filled"} <= set(metrics):
        return None
    overall = metrics["model"]["psnr"] - metrics["zero_filled"]["psnr"]
    return float(metrics.get("gain_by_contrast", {}).get(contrast, overall))


def task_of(card: Any) -> Task:
    """Return the task of a card read from a file, after checking that the card does not contradict itself.

    Raises:
        CardError: no card, of a later format, or facts of the task, e.g. scale, or normalisation that do not fit.
        ValueError: its task is none.
    """
    numbers = card.get("task") if isinstance(card, dict) else None
    if not isinstance(numbers, dict):
        raise CardError("its card is damaged: it has no task")
    if card.get("format") != FORMAT:
        raise CardError(f"its card has format {card.get('format')!r}, this FedMR reads {FORMAT}; use the other release")
    task = build_task(numbers)
    if absent := sorted({*_ENTRIES, *task.facts} - set(card)):
        raise CardError(f"its card is damaged: it has no {', '.join(absent)}")
    for name, meant in task.facts.items():
        said = card.get(name)
        if said != meant:
            raise CardError(f"its card contradicts itself: {name} is {said!r}, that of its network {meant!r}")
    if card.get("normalisation") != task.normalisation:
        raise CardError(f"its card states another normalisation than this FedMR's: {card.get('normalisation')}")
    return task


def describe(card: Card) -> str:
    """Return the card as a Markdown list for people."""
    training, metrics, network = card["training"], card["metrics"], card["task"]["network"]
    methods = METHODS | {"model": title(network)}
    scores = [f"{methods[m]} {metrics[m]['psnr']:.2f} dB / {metrics[m]['ssim']:.4f}" for m in methods if m in metrics]
    trained = "{sites} sites, {rounds} rounds, {steps} steps".format_map(training) if training else ""
    facts = {
        "Network": ", ".join(f"{name} = {value}" for name, value in network.items()),
        **build_task(card["task"]).describe(),
        "Normalisation": card["normalisation"]["text"],
        "Federated training" if training.get("federated") else "Training": trained,
        "Volumes": ", ".join(f"{n} {split}" for split, n in card["data"].get("volumes", {}).items()),
        "Contrasts": ", ".join(f"{n} {name}" for name, n in card["data"].get("contrasts", {}).items()),
        f"PSNR / SSIM on {metrics.get('split', 'test')} volumes": "; ".join(scores),
        "Versions": ", ".join(f"{name} {number}" for name, number in card["versions"].items()),
        "Licence of the weights": card["licence"],
        "Intended use": card["intended_use"],
    }
    return "\n".join(f"- {name}: {value or 'not recorded'}" for name, value in facts.items())
