"""A study with every cell in one process, which spares a cell the start and the imports of five.

    python benchmarks/studies/in_one_process.py benchmarks/studies/training.yaml runs/small runs/studies/training
    fedmr report runs/studies/training

FLARE's own workflows and the job's own components run by `tests/federation.py`, which serialises messages, and leaves
what the simulator leaves; tests/e2e compares the two. `fedmr study` runs the same cells in the simulator. Bytes are of
the whole messages of the rounds; seconds are of sites that take turns.
"""

import argparse
import os
import re
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, also for evaluation

from fedmr.runs.run import Run
from fedmr.study import Cell, runner
from fedmr.study.files import StudyError
from fedmr.study.grid import read_study
from fedmr.study.results import RUN
from fedmr.utils.environment import ROOT

sys.path.insert(0, str(ROOT / "tests"))
from federation import Federation, federate

_ROUND_TASKS = ("train", "latents")
_ABOUT = """
Every cell ran in one process, its sites taking turns: FLARE's workflows and the job's components over serialised
messages, but no network. So bytes are of whole messages, and minutes and ms per step of sites in turns, evaluation
included.
"""
_finished: dict[Path, tuple[Federation, float]] = {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="its YAML file")
    parser.add_argument("data", type=Path, help="data root, such as smaller_scans.py makes")
    parser.add_argument("out", type=Path, help="the study's folder")
    parser.add_argument("--cells", default="", help="regular expression; other cells are left for a later call")
    arguments = parser.parse_args()
    configs = ROOT / "app_configs"
    study = read_study(arguments.study, data=arguments.data, configs=configs)
    study = replace(study, about=f"{study.about}{_ABOUT}")
    runner._simulate, runner._cost = partial(_federate, re.compile(arguments.cells)), _cost
    problems = runner.run_study(study, arguments.out, data=arguments.data, configs=configs, say=_say)
    for name, reason in problems.items():
        print(f"failed: {name}: {reason}")


def _federate(wanted: re.Pattern[str], cell: Cell, folder: Path, *, data: Path, configs: Path) -> None:
    """In place of the simulator."""
    if not wanted.search(cell.name):
        raise StudyError("left for later")
    sites, root = runner._sites(cell, folder, data)
    job = runner._render(cell, folder, configs)
    started = time.perf_counter()
    try:
        run = federate(job, folder / RUN, root, sites=sites)
    except (RuntimeError, ValueError) as error:
        raise StudyError(str(error)) from error
    _finished[folder / RUN] = run, time.perf_counter() - started
    Run(folder / RUN).figures()


def _cost(cell: Cell, run: Path) -> dict[str, Any]:
    """As `runner._cost`, from the messages themselves. "seconds_per_step" is of the whole run, evaluation included."""
    rounds, (federation, seconds) = Run(run).rounds, _finished.pop(run)
    steps = round(sum(site["steps"] for record in rounds for site in record["sites"].values()))
    return {
        "parameters": cell.parameters,
        "rounds": len(rounds),
        "steps": steps,
        "bytes_up": sum(federation.up[task] for task in _ROUND_TASKS),
        "bytes_down": sum(federation.down[task] for task in _ROUND_TASKS),
        "seconds_training": seconds,
        "seconds_per_step": seconds / steps,
    }


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


if __name__ == "__main__":
    main()
