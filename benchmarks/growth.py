"""How time and memory grow: with sites, rounds and weights in FLARE's simulator, and with the size of the images.

    python benchmarks/growth.py

A few steps on small scans, made here, so it needs no data; the tables go to benchmarks/results.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch
from common import alone, facts, forget_peak, memory, table, write_page
from torch.nn.functional import avg_pool2d

from federation import Run, make_job, mb, simulate
from fedmr.federation.render import read_task
from fedmr.nets import build, count_parameters
from fedmr.physics.degradation import degrade
from fedmr.tasks.patches import Volume
from fedmr.tasks.registry import build_task
from fedmr.training.trainer import Trainer, evaluate
from fedmr.utils.environment import ROOT

JOB = ROOT / "jobs" / "mscan_fedavg"
ROUNDS = 3
SCANS = {"patients": 3, "shape": (64, 60, 6)}  # one volume each to train, validate and test: nine steps a round
SITES = (2, 4, 8, 16, 32)
MANY_ROUNDS = (3, 12, 48)
NETWORKS = {"demo": {}, "paper": {"channels": 64, "blocks": 8}, "wide": {"channels": 384, "blocks": 1}}
CASES = (("demo", 2), ("demo", 16), ("paper", 2), ("paper", 16), ("wide", 2))
SIDES, SLICES, STEPS = (128, 256, 384, 512), 16, 10

HEAD = ["seconds", "server and sites start, s", "a round, s", "of it overhead, s", "server", "its threads"]
HEAD += ["largest site", "all"]


def write_scans(data: Path, sites: int) -> None:
    """Small scans of as many sites."""
    sys.path.append(str(ROOT / "tests" / "support"))
    from phantoms import write_site

    for number in range(1, sites + 1):
        write_site(data, f"site-{number}", number, **SCANS)


def of_network(arguments: dict[str, int]) -> str:
    """Config lines of a job with one of NETWORKS."""
    return f"task {{ network {{ {', '.join(f'{key} = {value}' for key, value in arguments.items())} }} }}"


def small(rounds: int, sites: int, overlay: str = "", *, settings: bool = True) -> tuple[Run, list[str]]:
    """A job of a few steps, with the cells of HEAD."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_scans(folder / "data", sites)
        job = make_job(folder / "job", rounds, overlay=overlay)
        run = simulate(job, folder / "data", sites, settings=settings)
    starts = run.stages["server starts"] + run.stages["sites start"]
    later = (run.stages["sites work"] + run.stages["between rounds"]) / rounds
    memories = [mb(run.peaks[role]) for role in ("server", "site", "together")]
    cells = [f"{run.seconds:.1f}", f"{starts:.1f}", f"{later:.2f}", f"{run.overhead:.2f}", *memories]
    cells.insert(5, str(run.peaks["server threads"]))
    print(sites, "sites,", rounds, "rounds:", *cells, flush=True)
    return run, cells


def by_sites() -> list[str]:
    """Bytes are a round's."""
    rows = []
    for number in SITES:
        run, cells = small(ROUNDS, number)
        rows.append([str(number), *cells, f"{run.down / number:,.0f}", f"{run.up / number:,.0f}"])
    return table(["sites", *HEAD, "bytes down a site", "up"], rows)


def by_rounds() -> list[str]:
    return table(["rounds", *HEAD], [[str(number), *small(number, 2)[1]] for number in MANY_ROUNDS])


def by_networks() -> list[str]:
    """Few and many sites, to tell what a site adds to the server from what its weights add."""
    rows = []
    for name, sites in CASES:
        weights = count_parameters(build(**read_task(JOB)["network"] | NETWORKS[name]))
        run, cells = small(ROUNDS, sites, of_network(NETWORKS[name]))
        sent = f"{run.down / sites:,.0f}", f"{run.up / sites:,.0f}"
        rows.append([f"{name}, {weights:,} weights", str(sites), *cells, *sent])
    return table(["network", "sites", *HEAD, "bytes down a site", "up"], rows)


def by_settings() -> list[str]:
    """With FLARE's own settings, to compare with the rows of `by_networks`."""
    rows = [
        [name, str(sites), *small(ROUNDS, sites, of_network(NETWORKS[name]), settings=False)[1]]
        for name, sites in CASES
    ]
    return table(["network", "sites", *HEAD], rows)


def one_image(side: int) -> list[str]:
    """A site's training and evaluation on one volume, by one thread."""
    torch.set_num_threads(1)
    noise = torch.rand(SLICES, 1, side + 4, side + 4, generator=torch.Generator().manual_seed(0))
    high = avg_pool2d(noise, 5, stride=1)[:, 0]
    task = build_task(read_task(JOB))
    forget_peak()
    before, _ = memory()
    started = time.perf_counter()
    low = degrade(high, 2, "truncation")
    volume = Volume("noise", "noise", "T1w", "train", high, low, 1.0)
    trainer = Trainer(task, task.sampler([volume]), rounds=1)
    prepared = time.perf_counter()
    number = iter(range(STEPS))
    done = trainer.run_epoch(lambda: next(number, None) is None)
    _, trained = memory()
    forget_peak()
    begun = time.perf_counter()
    evaluate(trainer.net, [volume], task)
    evaluated = time.perf_counter() - begun
    cells = [f"{prepared - started:.2f}", f"{1000 * done.seconds / done.steps:.0f}", f"{evaluated:.2f}"]
    return [f"{side} x {side}", *cells, mb(trained - before), mb(memory()[1] - before)]


def by_images() -> list[str]:
    head = ["slices", "degrade and index, s", "step, ms", "evaluate, s", "memory to train", "to evaluate"]
    return table(head, [alone(one_image, side) for side in SIDES])


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    known = facts()
    note = (
        f"All tables but the last: the demo job in the simulator, nine steps a round, {ROUNDS} rounds and two sites "
        "where nothing else is said, every site a process of its own, all at once. A round: without the start of the "
        "sites; overhead: less the slowest site's validation and training. Memory: largest of the server's processes "
        "and of a site's; all: of all processes together, shared pages counted once. Settings: those of "
        "[flare.env](../../poc/flare.env) but in one table. Bytes are of one round. "
        f"Images: one site's volume of {SLICES} slices, one thread; memory beside what the process held before."
    )
    parts: list[list[str] | str] = []
    for title, rows in (
        ("Sites", by_sites),
        ("Rounds", by_rounds),
        ("Weights", by_networks),
        ("Weights, with FLARE's own settings", by_settings),
        ("Images", by_images),
    ):
        parts += [f"## {title}", rows()]
    write_page("growth", "Growth of time and memory", known, *parts, note)


if __name__ == "__main__":
    main()
