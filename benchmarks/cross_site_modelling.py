"""Cost of FL-MRCM compared with FL-MR: time and memory of a step, bytes of a round; and what it costs to distribute it.

    python benchmarks/cross_site_modelling.py [--turns 12] [--paper] [--data DATA --rounds 8 --seeds 1]

The arms take turns of a few steps on the same batches, so that what else runs on the machine meets all of them alike;
each then runs alone in a process for its memory. "In one process" is the published form, which takes the target's
images to the source and sends the gradient through the latents of both. With a data root, the three are also trained as
a federation that leaves the target out, by the package's trainers but without FLARE, and tested on the target's scans.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import alone, facts, forget_peak, memory, table, write_page
from torch import Tensor

from fedmr.algorithms.base import Algorithm
from fedmr.algorithms.flmrcm import LATENTS, CrossSiteModelling, Mrcm, latent_width
from fedmr.data.datalist import site_folders
from fedmr.federation.render import read_task
from fedmr.losses import WeightedSum
from fedmr.nets import build
from fedmr.tasks.reconstruction import ReconstructionTask
from fedmr.tasks.registry import build_task
from fedmr.tasks.slices import SliceSampler, load_volumes
from fedmr.training.engine import fit
from fedmr.training.target_latents import site_latents
from fedmr.training.trainer import Trainer, evaluate
from fedmr.utils.environment import ROOT

PLAIN, OURS, PUBLISHED = "FL-MR", "FL-MRCM", "FL-MRCM in one process"
ARMS = (PLAIN, OURS, PUBLISHED)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def task_of(size: str) -> ReconstructionTask:
    """The job's numbers, and the paper's network and slices in batches of the same size, not of 16."""
    task = build_task(read_task(ROOT / "jobs" / "unet_flmrcm"))
    assert isinstance(task, ReconstructionTask)
    if size == "demo":
        return task
    return replace(task, network={"name": "unet", "channels": 32, "seed": 0}, size=256)


def hooks_of(arm: str, seed: int, images: Callable[[int], Tensor] | None = None) -> list[Algorithm]:
    """The hook of an arm, with the target's images for the published one."""
    if arm == PLAIN:
        return []
    return [CrossSiteModelling(seed=seed, target_images=images if arm == PUBLISHED else None)]


class Arm:
    """A network in training on made-up images; what is in them does not matter here."""

    def __init__(self, arm: str, task: ReconstructionTask) -> None:
        self.task, self.net, self.loss = task, build(**task.network).to(DEVICE), WeightedSum(task.loss)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=1e-4)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 10_000)
        self.generator = torch.Generator().manual_seed(0)
        self.hooks = hooks_of(arm, 0, self.images)
        vectors, width = Mrcm.from_dict(task.algorithm).vectors, latent_width(self.net.state_dict())
        for hook in self.hooks:
            hook.receive({LATENTS: torch.randn(vectors, width)})
            hook.round_started(self.net)

    def images(self, number: int) -> Tensor:
        side = self.task.size, self.task.size
        return torch.randn(number, 1, *side, generator=self.generator).to(DEVICE)

    def turn(self, steps: int) -> float:
        """Seconds per step."""
        batches = [(self.images(self.task.batch_size), self.images(self.task.batch_size)) for _ in range(steps)]
        _wait()
        started = time.perf_counter()
        fit(
            self.net,
            batches,
            self.loss,
            optimizer=self.optimizer,
            schedule=self.schedule,
            hooks=self.hooks,
            clip_norm=self.task.clip_norm,
        )
        _wait()
        return (time.perf_counter() - started) / steps


def _wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def peak(size: str, arm: str, threads: int) -> int:
    """Bytes that training adds to what a process with the network holds."""
    torch.set_num_threads(threads)
    trained = Arm(arm, task_of(size))
    if DEVICE == "cuda":
        trained.turn(2)
        return torch.cuda.max_memory_allocated()
    forget_peak()
    before, _ = memory()
    trained.turn(2)
    return memory()[1] - before


def costs(size: str, turns: int, steps: int) -> Iterator[list[str]]:
    """A row for each arm."""
    arms = {name: Arm(name, task_of(size)) for name in ARMS}
    for arm in arms.values():
        arm.turn(1)  # sets up kernels and memory
    seconds: dict[str, list[float]] = {name: [] for name in ARMS}
    for _ in range(turns):
        for name, arm in arms.items():
            seconds[name].append(arm.turn(steps))
    peaks = {name: alone(peak, size, name, torch.get_num_threads()) for name in ARMS}
    for name in ARMS:
        ratio = statistics.median(own / plain for own, plain in zip(seconds[name], seconds[PLAIN], strict=True))
        milliseconds, size_of = 1000 * statistics.median(seconds[name]), peaks[name] / 2**20
        times = f"{peaks[name] / peaks[PLAIN]:.2f}"
        yield [name, f"{milliseconds:.1f}", f"{ratio:.2f}", f"{size_of:.0f}", times]


def traffic(size: str) -> list[str]:
    """Bytes of arrays in a round: what the target sends for it, what comes to a source with the weights, and theirs."""
    task = task_of(size)
    weights, vectors = build(**task.network).state_dict(), Mrcm.from_dict(task.algorithm).vectors
    own = sum(value.nbytes for value in weights.values())
    latents = 4 * vectors * latent_width(weights)
    width = latent_width(weights)
    return [size, f"{vectors} x {width}", f"{latents:,}", f"{own:,}", f"{100 * latents / own:.1f} %"]


def federate(
    arm: str, task: ReconstructionTask, data: Path, target: str, rounds: int
) -> tuple[dict[str, float], float]:
    """Metrics on the target's test volumes after unweighted averaging over the other sites, and seconds of training."""
    samplers = {
        folder.name: SliceSampler(load_volumes(folder, task, ("train",)), task) for folder in site_folders(data)
    }
    goal, generator = samplers.pop(target), torch.Generator().manual_seed(task.seed)

    def images(number: int) -> Tensor:
        chosen = torch.randint(goal.n_slices, (number,), generator=generator).tolist()
        return torch.stack([goal.pair(*goal.slices[int(index)], generator)[0] for index in chosen]).unsqueeze(1)

    sites = [Trainer(task, s, rounds=rounds, hooks=hooks_of(arm, task.seed, images)) for s in samplers.values()]
    shared, vectors, started = build(**task.network), Mrcm.from_dict(task.algorithm).vectors, time.perf_counter()
    for number in range(rounds):
        given = {LATENTS: site_latents(shared, goal, vectors=vectors, number=number)} if arm == OURS else {}
        for site in sites:
            site.net.load_state_dict(shared.state_dict())
            site.receive(given)
            site.run_round()
        states = [site.net.state_dict() for site in sites]
        shared.load_state_dict({name: torch.stack([s[name] for s in states]).mean(0) for name in states[0]})
    seconds = time.perf_counter() - started
    return evaluate(shared, load_volumes(data / target, task, ("test",)), task)["model"], seconds


def distributed(data: Path, targets: Sequence[str], rounds: int, size: int, seeds: int) -> Iterator[list[str]]:
    """A row for each target and arm: means over seeds, and the difference from FL-MR with its range."""
    for target in targets or [folder.name for folder in site_folders(data)]:
        psnr: dict[str, list[float]] = {}
        for arm in ARMS:
            found: list[dict[str, Any]] = []
            for seed in range(seeds):
                task = task_of("demo")
                task = replace(task, seed=seed, size=size, network={**task.network, "seed": seed})
                metrics, seconds = federate(arm, task, data, target, rounds)
                found.append(metrics | {"seconds": seconds})
            psnr[arm] = [metrics["psnr"] for metrics in found]
            gains = np.subtract(psnr[arm], psnr[PLAIN])
            mean = {name: float(np.mean([metrics[name] for metrics in found])) for name in ("psnr", "ssim", "seconds")}
            gain = "" if arm == PLAIN else f"{gains.mean():+.2f} ({gains.min():+.2f} to {gains.max():+.2f})"
            yield [target, arm, f"{mean['psnr']:.2f}", gain, f"{mean['ssim']:.4f}", f"{mean['seconds']:.0f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--paper", action="store_true", help="also at paper size")
    parser.add_argument("--data", type=Path, help="data root, to train on")
    parser.add_argument("--targets", nargs="*", default=[], help="sites to leave out, each in turn; all by default")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--size", type=int, default=128, help="side of the slices to train on")
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    known, parts = facts(device=DEVICE), []
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    head = ["", "step, ms", f"times {PLAIN}", "memory, MB", f"times {PLAIN}"]
    for size in ("demo", "paper") if arguments.paper else ("demo",):
        task = task_of(size)
        of = f"batches of {task.batch_size} slices of {task.size} x {task.size}, {task.network['channels']} channels"
        turns, steps = (arguments.turns, 4) if size == "demo" else (max(arguments.turns // 3, 1), 1)
        parts += [f"## {size.capitalize()} size: {of}", table(head, costs(size, turns, steps))]
    parts += [
        "## Bytes of a round",
        "The target sends its latents once, every source receives them; every site receives and sends the weights.",
        table(["size", "latents", "bytes of latents", "bytes of weights", "ratio"], map(traffic, ("demo", "paper"))),
    ]
    if arguments.data:
        rows = distributed(arguments.data, arguments.targets, arguments.rounds, arguments.size, arguments.seeds)
        parts += [
            f"## Trained without the target: {arguments.rounds} rounds, slices of {arguments.size} x {arguments.size}, "
            f"{arguments.seeds} seed{'s' if arguments.seeds > 1 else ''}",
            table(["target", "", "PSNR, dB", f"beside {PLAIN} (range)", "SSIM", "training, s"], rows),
        ]
    note = (
        f"Medians of turns; times {PLAIN}: median over turns. Memory: what a step adds to a process that holds the "
        "network. Making the source's images is not in the times. In one process the target gives as many images to a "
        "step as the source."
    )
    write_page("cross_site_modelling", "FL-MRCM", known, *parts, note)


if __name__ == "__main__":
    main()
