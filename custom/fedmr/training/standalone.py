"""Training and evaluation in one process, without FLARE, by the same code as a job."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedmr.checkpoints.card import make_card, summarise_volumes
from fedmr.checkpoints.model_file import Model, load_model, save_model
from fedmr.checkpoints.warm_start import starting_weights
from fedmr.data.datalist import present_splits, site_folders
from fedmr.data.splits import SPLITS
from fedmr.federation.render import CUSTOM, read_num_rounds, read_task
from fedmr.reports.pictures import comparison_image
from fedmr.runs.figures import Figures, summarise
from fedmr.tasks.base import Task, Volume
from fedmr.tasks.registry import build_task
from fedmr.training.build import make_trainer
from fedmr.training.engine import TrainingStats
from fedmr.training.trainer import Trainer, evaluate
from fedmr.utils.class_path import allow_folder
from fedmr.utils.errors import DataError

_Load = Callable[[], Sequence[Volume]]


def train_pooled(
    data: Path,
    out: Path,
    *,
    job: Path,
    sites: Sequence[str] = (),
    rounds: int = 0,
    init_from: Path | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Train on the pooled volumes of sites as a job would with one site that holds them all.

    Args:
        data: data root or a site's folder.
        out: folder for `model.pt` (last round) and `log.jsonl` (a line per round).
        job: job folder with the task.
        sites: site names to pool; all if empty.
        rounds: number of rounds; the job's if 0.
        init_from: model whose weights are the first, see `warm_start.starting_weights`; random ones if None.
        say: receives a progress line per round.

    Returns:
        the model file, with its card.

    Raises:
        DataError: a volume cannot be used, or a named site is not there.
    """
    task = _task(job)
    rounds = rounds or read_num_rounds(job)
    folders = _folders(data, sites)
    volumes = [v for folder in folders for v in _load_present(task, folder, ("train", "val"))]
    validation = [v for v in volumes if v.split == "val"]
    trainer = _trainer(task, volumes, rounds, init_from)
    out.mkdir(parents=True, exist_ok=True)
    with (out / "log.jsonl").open("w") as log:
        for number in range(rounds):
            received = evaluate(trainer.net, validation, task).get("model", {})
            done = trainer.run_round()
            record = {"round": number, "loss": done.loss, "val": received, "steps": done.steps, "seconds": done.seconds}
            log.write(json.dumps(record) + "\n")
            log.flush()
            say(f"round {number}/{rounds - 1} | {_line(done, received.get('psnr', math.nan))}")
    trainer.net.load_state_dict(trainer.result())
    steps = trainer.epoch * trainer.sampler.steps_per_epoch
    training = {"federated": False, "sites": len(folders), "rounds": rounds, "steps": steps}
    metrics = {"split": "val", **evaluate(trainer.net, validation, task, with_baselines=True)}
    card = make_card(task, training=training, data=summarise_volumes(volumes), metrics=metrics)
    save_model(out / "model.pt", Model(trainer.net, card))
    say(f"wrote {out / 'model.pt'}")
    return out / "model.pt"


def _trainer(task: Task, volumes: Sequence[Volume], rounds: int, init_from: Path | None) -> Trainer:
    """Return the trainer of a site that trains alone, with the first weights."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    plain = replace(task, algorithm={"name": "fedavg"})
    trainer = make_trainer(plain, task.sampler(volumes, device), rounds=rounds, shared=False)
    if init_from:
        trainer.net.load_state_dict(starting_weights(init_from, task))
    return trainer


def _task(job: Path) -> Task:
    """Return a job's task, of which the classes may be in the job's own files: the user names the job to run it."""
    allow_folder(job / CUSTOM)
    return build_task(read_task(job))


def _line(done: TrainingStats, psnr: float) -> str:
    pace = 1000 * done.seconds / done.steps
    before = "not known" if math.isnan(psnr) else f"{psnr:.2f} dB"
    return f"loss {done.loss:.5f} | PSNR before {before} | {pace:.0f} ms/step"


def _load_present(task: Task, folder: Path, splits: Sequence[str]) -> Sequence[Volume]:
    """Load what a site's datalist has of the splits; none of them need be there."""
    present = tuple(split for split in present_splits(folder) if split in splits)
    return task.load(folder, present) if present else []


def _folders(data: Path, sites: Sequence[str]) -> list[Path]:
    """Return the folders of the named sites, of all sites if none is named."""
    folders = [f for f in site_folders(data) if not sites or f.name in sites]
    absent = sorted(set(sites) - {f.name for f in folders})
    if absent:
        raise DataError(
            f"{data} has no site {', '.join(absent)}; it has {', '.join(f.name for f in site_folders(data))}"
        )
    return folders


def evaluate_sites(model: Path, data: Path, *, split: str = "test", job: Path | None = None) -> Figures:
    """Return the figures of a model, with the baselines, on every site of a data root.

    Raises:
        DataError: a volume cannot be used or a split is empty.
        ValueError: unknown split or unusable model file.
    """
    opened, sites = _open(model, data, split, job)
    return summarise({s: evaluate(opened.net, load(), opened.task, with_baselines=True) for s, load in sites.items()})


def comparison_images(
    model: Path, data: Path, *, split: str = "test", job: Path | None = None
) -> dict[str, np.ndarray[Any, Any]]:
    """Return `pictures.comparison_image`, (H, 4*W) uint8, of every site's first volume; errors as `evaluate_sites`."""
    opened, sites = _open(model, data, split, job)
    return {site: comparison_image(opened.net, load()[0], opened.task)[0] for site, load in sites.items()}


def _open(
    model: Path, data: Path, split: str, job: Path | None
) -> tuple[Model, dict[str, Callable[[], Sequence[Volume]]]]:
    """Model, and per site a function that loads its volumes, so that one site at a time is in memory."""
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; known are {', '.join(SPLITS)}")
    opened = load_model(model, job)
    opened.net.to("cuda" if torch.cuda.is_available() else "cpu")
    folders = [f for f in site_folders(data) if split in present_splits(f)]
    if not folders:
        raise DataError(f"no site of {data} has a volume of split {split!r}; give one at least one")
    return opened, {f.name: partial(opened.task.load, f, (split,)) for f in folders}
