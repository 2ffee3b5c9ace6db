"""Equal time: how many rounds each arm may train so that all take as long as the one they are compared with."""

import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from fedmr.study import Arm, Cell, Study
from fedmr.study.grid import MIN_ROUNDS
from fedmr.tasks.registry import build_task
from fedmr.training.trainer import Trainer
from fedmr.utils.files import write_atomically

FILE = "timing.json"
_PASSES, _STEPS = 5, 8


def equalise(study: Study, out: Path, *, data: Path, say: Callable[[str], None]) -> Study:
    """Return the study with its rounds changed, if it asks for equal seconds.

    An arm's seconds per round are measured once and kept in OUT/timing.json, so that a study that goes on has the same
    rounds; evaluation and FLARE's messages are not in them. The rounds are whole, so times differ by up to half a
    round.

    Args:
        study: the study.
        out: its folder.
        data: data root.
        say: receives a line when it measures.
    """
    if study.equal != "seconds":
        return study
    cells = {cell.arm: cell for cell in study.cells if cell.seed == study.cells[0].seed}
    path = out / FILE
    known = json.loads(path.read_text()) if path.is_file() else {}
    if set(known) != {_key(arm) for arm in cells}:
        say(f"measuring the time per step of {len(cells)} arms")
        known = measure(cells, data)
        write_atomically(path, lambda handle: handle.write((json.dumps(known, indent=1) + "\n").encode()))
    rounds = {}
    for arm in cells:
        other = study.counterpart(arm)
        seconds = known[_key(other)] * cells[other].rounds
        rounds[arm] = max(MIN_ROUNDS, round(seconds / known[_key(arm)]))
    return replace(study, cells=[replace(cell, rounds=rounds[cell.arm]) for cell in study.cells])


def measure(cells: Mapping[Arm, Cell], data: Path) -> dict[str, float]:
    """Seconds that every arm trains per round on its first site: the fastest of some passes of a few steps, which the
    arms take in turn, so that what else the machine does meets all of them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a site has where there are as many sites as cores
    trainers = {arm: _trainer(cell, data) for arm, cell in cells.items()}
    seconds: dict[Arm, float] = {}
    for _ in range(_PASSES):
        for arm, trainer in trainers.items():
            taken = _seconds_per_step(trainer)
            seconds[arm] = min(taken, seconds.get(arm, taken))
    torch.set_num_threads(threads)
    return {_key(arm): seconds[arm] * _steps_per_round(trainers[arm]) for arm in cells}


def _trainer(cell: Cell, data: Path) -> Trainer:
    task = build_task(cell.task)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sampler = task.sampler(task.load(data / cell.sites[0], ("train",)), device)
    return Trainer(task, sampler, rounds=cell.rounds)


def _seconds_per_step(trainer: Trainer) -> float:
    number = itertools.count()
    done = trainer.run_epoch(lambda: next(number) >= _STEPS)
    return done.seconds / max(done.steps, 1)


def _steps_per_round(trainer: Trainer) -> int:
    return trainer.sampler.steps_per_epoch * trainer.task.local_epochs


def _key(arm: Arm) -> str:
    return ", ".join(arm)
