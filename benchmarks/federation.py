"""Overhead of federation: the demo job in FLARE's simulator against one process that takes the same steps.

    python benchmarks/federation.py [--data data] [--before COMMIT]

Four sites and five rounds, from start to end; with --before also by the code and the job of an earlier commit. The data
are those of `fedmr demo-data`; the table goes to benchmarks/results.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import psutil
import torch
from common import alone, facts, memory, table, write_page

from fedmr.data.datalist import DATA_ROOT_VARIABLE, site_folders
from fedmr.federation.render import rendered
from fedmr.runs.run import Run
from fedmr.training.standalone import evaluate_sites, train_pooled
from fedmr.utils.environment import ROOT

ROUNDS = 5
TESTED_MODELS = 2  # the job's last and best
INTERVAL = 2.0  # seconds between looks at the processes
FINAL_MODEL = Path("server/simulate_job/app_server/FL_global_model.pt")
_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) - ")


@dataclass
class FinishedJob:
    """A finished job. Seconds by stage; per round what it took beside the slowest site's work; of the processes the
    largest memory in bytes and number of threads; bytes sent in the last round."""

    folder: Path
    stages: dict[str, float]
    overheads: list[float]
    peaks: dict[str, int]
    up: int
    down: int

    @property
    def seconds(self) -> float:
        return sum(self.stages.values())

    @property
    def overhead(self) -> float:
        """Of a round after the first, which starts the sites."""
        return statistics.median(self.overheads[1:])


def make_job(folder: Path, rounds: int, *, overlay: str = "", source: Path = ROOT) -> Path:
    """The demo job with other rounds and further config lines."""
    shutil.copytree(source / "app_configs", folder / "app_configs")
    text = f'include required("mscan_fedavg.conf")\nname = bench\nnum_rounds = {rounds}\n{overlay}\n'
    (folder / "app_configs" / "bench.conf").write_text(text)
    for path, content in rendered(folder / "app_configs", "bench").items():
        (folder / "bench" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "bench" / path).write_text(content)
    return folder / "bench"


def flare_settings() -> dict[str, str]:
    """Return the settings of poc/flare.env for FLARE's processes."""
    lines = (ROOT / "poc" / "flare.env").read_text().splitlines()
    return dict(line.removeprefix("export ").split("=", 1) for line in lines if line.startswith("export "))


def simulate(job: Path, data: Path, sites: int, *, code: Path = ROOT, settings: bool = True) -> FinishedJob:
    """Run a job as `make sim` does, or with FLARE's own settings.

    Raises:
        RuntimeError: it left no final model.
    """
    folder = job.parent / "run"
    command = [Path(sys.executable).parent / "nvflare", "simulator", job, "-w", folder, "-n", sites, "-t", sites]
    known = flare_settings()
    environment = {name: value for name, value in os.environ.items() if name not in known} | (known if settings else {})
    environment |= {DATA_ROOT_VARIABLE: str(data.resolve()), "PYTHONPATH": str(code / "custom")}
    peaks: dict[str, int] = defaultdict(int)
    started = datetime.now()
    with (job.parent / "output.txt").open("w") as output:
        process = subprocess.Popen(
            [str(c) for c in (*command, "-l", ROOT / "app_configs" / "log_config.json")],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        while process.poll() is None:
            look(psutil.Process(process.pid), peaks)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(INTERVAL)
    ended = datetime.now()
    if not (folder / FINAL_MODEL).is_file():
        raise RuntimeError(f"the job ended without a model: {(job.parent / 'output.txt').read_text()[-2000:]}")
    return read_run(folder, started, ended, peaks)


def look(parent: psutil.Process, peaks: dict[str, int]) -> None:
    """Note the most that the server and a site held so far, and all together now, with shared pages counted once."""
    together = 0
    # a process may end while it is looked at
    with contextlib.suppress(psutil.Error, OSError, KeyError, ValueError):
        for process in (parent, *parent.children(recursive=True)):
            with contextlib.suppress(psutil.Error, OSError, KeyError, ValueError):
                role = "site" if "--client" in process.cmdline() else "server"
                peaks[role] = max(peaks[role], memory(process.pid)[1])
                peaks[f"{role} threads"] = max(peaks[f"{role} threads"], process.num_threads())
                together += process.memory_full_info().pss
    peaks["together"] = max(peaks["together"], together)


def work(folder: Path) -> list[float]:
    """Seconds by round that the slowest site validates and trains, by the sites' logs."""
    rounds: dict[int, float] = defaultdict(float)
    for path in folder.glob("site-*/log.txt"):
        begun, number = None, -1
        for line in path.read_text(errors="replace").splitlines():
            if "task_name=train" not in line:
                continue
            if "invoking task executor" in line:
                begun, number = stamp(line), number + 1
            elif "finished processing task" in line and begun:
                rounds[number] = max(rounds[number], (stamp(line) - begun).total_seconds())
    return [rounds[number] for number in sorted(rounds)]


def stamp(line: str) -> datetime:
    found = _LINE.match(line)
    if found is None:
        raise ValueError(f"a line of FLARE's log has no time: {line[:80]}")
    return datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S,%f")


def read_run(folder: Path, started: datetime, ended: datetime, peaks: dict[str, int]) -> FinishedJob:
    """Read the figures of a run from its logs."""
    log = Run(folder).log
    assert log is not None
    assert log.test is not None
    lines = (folder / "server" / "log.txt").read_text().splitlines()
    results = [stamp(line) for line in lines if "got result from client" in line]
    begins = [phase.started for phase in log.rounds.values()] + [log.test.started]
    busy = work(folder)
    overheads = [(b - a).total_seconds() - w for (a, b), w in zip(pairwise(begins), busy, strict=True)]
    stages = {
        "server starts": (begins[0] - started).total_seconds(),
        "sites start": overheads[0],
        "sites work": sum(busy),
        "between rounds": sum(overheads[1:]),
        "test": (results[-1] - begins[-1]).total_seconds(),
        "end": (ended - results[-1]).total_seconds(),
    }
    last = list(log.rounds.values())[-1]
    return FinishedJob(folder, stages, overheads, dict(peaks), last.up, last.down)


def plain(data: Path, job: Path, out: Path) -> dict[str, float]:
    """`fedmr train` on the scans of all sites, then the tests that the job ends with; times of day."""
    model = train_pooled(data, out, job=job, say=lambda line: None)
    trained = time.time()
    for _ in range(TESTED_MODELS):
        evaluate_sites(model, data)
    return {"trained": trained, "tested": time.time(), "memory": memory()[1]}


def row(title: str, run: FinishedJob, base: float) -> list[str]:
    """Of the table in `report`; the last cell is the ratio to `base` seconds."""
    cells = [f"{seconds:.1f}" for seconds in run.stages.values()]
    return [title, f"{run.seconds:.1f}", *cells, f"{run.overhead:.2f}", f"{run.seconds / base:.2f}"]


def report(data: Path, before: str, folder: Path) -> list[list[str] | str]:
    """The job and one process, with their stages."""
    sites, code = len(site_folders(data)), folder / "code"
    if before:
        checkout(before, code)  # now, while the name means what it meant when it was typed
    job = make_job(folder / "now", ROUNDS)
    runs = {"the job": simulate(job, data, sites)}
    began = time.time()
    single = alone(plain, data, job, folder / "plain")
    base, steps = single["tested"] - began, single["trained"] - began
    if before:
        runs[f"the job at {before}"] = simulate(
            make_job(folder / "before", ROUNDS, source=code), data, sites, code=code
        )
    train, test = f"{single['trained'] - began:.1f}", f"{single['tested'] - single['trained']:.1f}"
    one = ["one process: `fedmr train`, then the job's tests", f"{base:.1f}", "", "", train, "", test, "", "", "1.00"]
    run = runs["the job"]
    head = ["way", "seconds", *run.stages, "overhead of a round", "times one process"]
    lines = (folder / "plain" / "log.jsonl").read_text().splitlines()
    taken = sum(json.loads(line)["steps"] for line in lines)
    federated = sum(site["steps"] for entry in Run(run.folder).rounds for site in entry["sites"].values())
    notes = [
        f"{sites} sites, {ROUNDS} rounds, the demo's data and network, start-up included. The one process trains on "
        f"the scans of all sites with all cores: {taken:,} steps, the sites together {federated:,.0f}. It evaluates "
        f"all validation volumes before each round as the sites do, once more at the end, and tests {TESTED_MODELS} "
        f"models on all test volumes; without these the job takes {run.seconds / steps:.2f} times as long.",
        "Sites work: the slowest site's validation and training, summed over the rounds. Overhead of a round: median "
        "of the rounds after the first, from start to start, less the slowest site's work.",
        f"Largest memory: server {mb(run.peaks['server'])}, a site {mb(run.peaks['site'])}, all processes "
        f"together {mb(run.peaks['together'])}; the one process {mb(single['memory'])}. A round moves {run.down:,} "
        f"bytes down and {run.up:,} up.",
    ]
    if before:
        weights, decibels = differences(*runs.values())
        notes.append(
            f"The two jobs' last models differ by {weights:.1g} in a weight and {decibels:.1g} dB in a site's PSNR."
        )
    return [table(head, [one, *(row(title, each, base) for title, each in runs.items())]), *notes]


def mb(size: float) -> str:
    return f"{size / 2**20:,.0f} MB"


def checkout(commit: str, folder: Path) -> None:
    """The package and its job sources as they were."""
    folder.mkdir()
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", commit, "custom", "app_configs"], check=True, capture_output=True
    )
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)


def differences(one: FinishedJob, other: FinishedJob) -> tuple[float, float]:
    """Largest differences between the last models of two runs: of a weight, and of a site's test PSNR in dB."""
    models = [torch.load(run.folder / FINAL_MODEL, weights_only=True)["model"] for run in (one, other)]
    weights = max(float((models[0][name] - models[1][name]).abs().max()) for name in models[0])
    tested = [Run(run.folder).figures()["sites"] for run in (one, other)]
    return weights, max(abs(tested[0][site]["model"]["psnr"] - tested[1][site]["model"]["psnr"]) for site in tested[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "data")
    parser.add_argument("--before", default="", help="commit to compare with")
    arguments = parser.parse_args()
    known = facts()
    with tempfile.TemporaryDirectory() as name:
        parts = report(arguments.data, arguments.before, Path(name))
    write_page("federation", "Federation in the simulator", known, *parts)


if __name__ == "__main__":
    main()
