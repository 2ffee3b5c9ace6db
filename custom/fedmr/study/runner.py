"""Running the cells of a study, each through FLARE's simulator as `make sim` does, and going on where it stopped."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from fedmr.data.datalist import DATA_ROOT_VARIABLE
from fedmr.data.pool import pool
from fedmr.federation.render import rendered
from fedmr.federation.simulator import end_processes, run_flare
from fedmr.runs.checks import RunError
from fedmr.runs.run import Run
from fedmr.study import Cell, Study
from fedmr.study.evaluation import evaluate_cell, write_latents
from fedmr.study.files import StudyError, only_one, write_plan
from fedmr.study.results import LATENTS, PANEL, RUN, Results
from fedmr.study.timing import equalise
from fedmr.utils.environment import circumstances

_OVERLAY = """include required("{job}.conf")
name = cell
num_rounds = {rounds}
task = null  # else HOCON merges the one with the other
task = {task}
"""


def run_study(
    study: Study, out: Path, *, data: Path, configs: Path, say: Callable[[str], None] = print
) -> dict[str, str]:
    """Run the cells that have no rows in OUT/results.csv yet; a half-finished one is run anew.

    Args:
        study: the study.
        out: its folder: results.csv, and cells/NAME with the run, its log and pictures.
        data: data root.
        configs: folder with the job sources.
        say: receives a line per cell.

    Returns:
        why a cell failed, by its name; the others were run.

    Raises:
        StudyError: another process is at work in `out`, or it holds results of other settings.
    """
    if any(character.isspace() for character in str(out.resolve())):
        raise StudyError(f"{out.resolve()} has a space in it, at which FLARE's simulator fails; name another --out")
    with only_one(out):
        study = equalise(study, out, data=data, say=say)
        results = Results(out, study.cells, study.axes)
        write_plan(study, out)
        problems = {}
        for number, cell in enumerate(study.cells, start=1):
            if cell.name in results.done:
                continue
            say(f"{number}/{len(study.cells)} {cell.name}: {cell.parameters:,} parameters, {cell.rounds} rounds")
            try:
                rows = list(_run_cell(cell, out / "cells" / cell.name, study, data=data, configs=configs))
            except (RunError, StudyError) as error:
                problems[cell.name] = str(error)
                continue
            results.add(cell, rows)
            psnr = [row["psnr"] for row in rows if row["method"] in ("global", "local") and row["seen"]]
            say(f"{'':4}{rows[0]['seconds']:.0f} s, PSNR {sum(psnr) / len(psnr):.2f} dB on the test volumes")
        return problems


def _run_cell(cell: Cell, folder: Path, study: Study, *, data: Path, configs: Path) -> Iterator[dict[str, Any]]:
    folder = folder.resolve()
    end_processes(folder / RUN)  # of a study that was killed
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    facts, started = circumstances(), time.perf_counter()
    _simulate(cell, folder, data=data.resolve(), configs=configs)
    cost = {"seconds": time.perf_counter() - started, **_cost(cell, Run(folder / RUN))}
    named = {"cell": cell.name, **dict(zip(study.axes, cell.arm, strict=True)), "seed": cell.seed}
    for row in evaluate_cell(cell, folder / RUN, data=data, panel=folder / PANEL):
        yield named | row | cost | {"job": cell.job, **facts, "settings": cell.settings}
    write_latents(cell, folder / RUN, data=data, path=folder / LATENTS)


def _simulate(cell: Cell, folder: Path, *, data: Path, configs: Path) -> None:
    """Render the cell's job and run it; what FLARE prints goes to FOLDER/log.txt.

    Raises:
        StudyError: it was ended after the cell's minutes, or a site or a model is missing.
    """
    sites, root = _sites(cell, folder, data)
    job = _render(cell, folder, configs)
    command = ["simulator", job, "-w", folder / RUN, "-c", ",".join(sites), "-t", len(sites)]
    command += ["-l", configs.resolve() / "log_config.json"]
    log, environment = folder / "log.txt", {DATA_ROOT_VARIABLE: str(root)}
    try:
        run_flare(command, folder / RUN, environment=environment, log=log, seconds=60 * cell.minutes)
    except subprocess.TimeoutExpired:
        raise StudyError(f"ended after {cell.minutes:g} minutes, see {log}") from None
    try:
        run = Run(folder / RUN)
        run.figures()
        if run.refused.lines():  # of a simulation, whose records are the cell's own
            raise RunError("; ".join(run.refused.lines()))
    except RunError as error:
        raise StudyError(f"{_first_error(folder / 'log.txt') or error}; see {folder / 'log.txt'}") from None


def _sites(cell: Cell, folder: Path, data: Path) -> tuple[list[str], Path]:
    """Who takes part, and the data root; of a pooled cell the one site that holds all scans, made in `folder`."""
    if not cell.pooled:
        return [*cell.sites, *cell.guests], data
    root = pool(data, folder / "data", sites=cell.sites).parent.parent
    return [site.name for site in root.iterdir()], root


def _first_error(log: Path) -> str:
    """Return the first error in the run's log, "" if it has none."""
    lines = log.read_text(errors="replace").splitlines()
    return next((line.partition(" ERROR ")[2] for line in lines if " ERROR " in line), "")


def _render(cell: Cell, folder: Path, configs: Path) -> Path:
    """Return the job folder, by the sources of the committed jobs and an overlay with what the cell changes."""
    sources = folder / "app_configs"
    shutil.copytree(configs, sources)
    overlay = _OVERLAY.format(job=cell.job, rounds=cell.rounds, task=json.dumps(cell.task))
    (sources / "cell.conf").write_text(overlay)
    for path, text in rendered(sources, "cell").items():
        (folder / "job" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "job" / path).write_text(text)
    shutil.rmtree(sources)
    return folder / "job"


def _cost(cell: Cell, run: Run) -> dict[str, Any]:
    """Measure the cost of a run.

    Returns:
        optimisation steps of all sites; bytes that sites sent ("up") and received in the rounds, as FLARE's server
        logs the arrays that travel apart from messages; seconds of all rounds, and of a step at a site.
    """
    rounds, log = run.rounds, run.log
    if log is None:
        raise RunError(f"the server's log.txt is missing in {run.path}: the job failed")
    times = [value for site in sorted(run.sites) for value in run.step_times(site)]
    return {
        "parameters": cell.parameters,
        "rounds": len(rounds),
        "steps": round(sum(site["steps"] for record in rounds for site in record["sites"].values())),
        "bytes_up": sum(phase.up for phase in log.rounds.values()),
        "bytes_down": sum(phase.down for phase in log.rounds.values()),
        "seconds_training": log.training_seconds,
        "seconds_per_step": median(times) / 1000,
    }
