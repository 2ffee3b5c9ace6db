"""Cost of an optimisation step, by phase: MSCAN and published networks in the package's loop, on the same batches.

    python benchmarks/training_step.py [--turns 12] [--steps 6]

The networks take turns of a few steps, so that what else runs on the machine meets all of them alike; each then runs
alone in a process for its memory. Needs no data; the table goes to benchmarks/results.
"""

import argparse
import os
import statistics
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
import yaml
from common import alone, facts, forget_peak, memory, table, write_page
from torch import Tensor, nn

from fedmr.algorithms.base import Algorithm
from fedmr.federation.render import read_task
from fedmr.losses import WeightedSum
from fedmr.nets import build, count_parameters
from fedmr.physics.degradation import degrade, interpolate
from fedmr.tasks.patches import PatchSampler, Volume
from fedmr.tasks.registry import build_task
from fedmr.tasks.super_resolution import SuperResolutionTask
from fedmr.training.engine import fit
from fedmr.utils.environment import ROOT
from fedmr.utils.optimizers import OPTIMIZERS

PHASES = ("data", "forward", "backward", "optimiser")
BASE = "EDSR"
PLAIN = ", no channels_last"
# the sizes of the study, and those that were published; RCAN's of about the size of EDSR's baseline. The smaller MSCAN
# of the study is still better than EDSR there; at paper size that was not measured.
STUDY = ROOT / "benchmarks" / "studies" / "peers_steps.yaml"
PUBLISHED: dict[str, dict[str, Any]] = {
    "MSCAN": {"channels": 64, "blocks": 8, "activate": True},
    "MSCAN, 7 blocks": {"channels": 64, "blocks": 7, "activate": True},
    "EDSR": {"channels": 64, "blocks": 16},
    "RCAN": {"channels": 64, "groups": 4, "blocks": 4},
    "MSRN": {"channels": 64, "blocks": 8},
    "U-Net": {"channels": 32},
}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Upsampled(nn.Module):
    """A network from image to image behind the interpolation, which the others add to their result."""

    def __init__(self, net: nn.Module, scale: int) -> None:
        super().__init__()
        self.net, self.scale = net, scale

    def forward(self, low: Tensor) -> Tensor:
        return self.net(interpolate(low, self.scale))


class Stopwatch(Algorithm):
    """Seconds of each phase of each step, where the loop asks for a batch and where it calls its hooks."""

    def __init__(self) -> None:
        self.laps: dict[str, list[float]] = {phase: [] for phase in PHASES}

    def _lap(self, phase: str) -> None:
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.laps[phase].append(now - self._last)
        self._last = now

    def watch(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        self._last = time.perf_counter()
        for batch in batches:
            self._lap("data")
            yield batch
            self._lap("optimiser")

    def add_loss(self, net: nn.Module, loss: Tensor) -> Tensor:
        self._lap("forward")
        return loss

    def gradients_ready(self, net: nn.Module) -> None:
        self._lap("backward")


class Arm:
    """A network in training."""

    def __init__(self, net: nn.Module, task: SuperResolutionTask) -> None:
        self.net, self.loss, self.clip_norm = net.to(DEVICE), WeightedSum(task.loss), task.clip_norm
        self.optimizer = OPTIMIZERS[task.optimizer](net.parameters(), lr=1e-4)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 10_000)

    def turn(self, sampler: PatchSampler, number: int, steps: int) -> dict[str, list[float]]:
        """Seconds by phase of some steps on the batches of an epoch."""
        watch, batches = Stopwatch(), islice(sampler.epoch(number), steps)
        fit(
            self.net,
            watch.watch(batches),
            self.loss,
            optimizer=self.optimizer,
            schedule=self.schedule,
            hooks=[watch],
            clip_norm=self.clip_norm,
        )
        return watch.laps


def task_of(size: str) -> SuperResolutionTask:
    """The job's numbers; at paper size with the patches that EDSR was published with."""
    task = build_task(read_task(ROOT / "jobs" / "mscan_fedavg"))
    assert isinstance(task, SuperResolutionTask)
    return task if size == "demo" else replace(task, patch_size=48)


def networks(size: str) -> dict[str, dict[str, Any]]:
    """Arguments of the networks by title; the U-Net's of the demo are those of its job."""
    if size == "paper":
        return PUBLISHED
    study = yaml.safe_load(STUDY.read_text())
    axis = {title: changes.get("network", {}) for title, changes in study["axes"]["network"].items()}
    mscan = dict(task_of(size).network) | study["base"]["network"]
    nets = {title: mscan | changes for title, changes in axis.items() if title.startswith("MSCAN")}
    return nets | {title: axis[title] for title in ("EDSR", "RCAN", "MSRN")} | {"U-Net": {"channels": 8}}


def make(size: str, title: str) -> nn.Module:
    """The network of a row."""
    title, plain = title.removesuffix(PLAIN), title.endswith(PLAIN)
    arguments, name = networks(size)[title], title.split(",")[0]
    if name == "U-Net":
        net: nn.Module = Upsampled(build("unet", skip=True, channels=arguments["channels"]), 2)
    else:
        skip = {} if name == "MSCAN" else {"skip": True}
        net = build(**{"name": name.lower(), "scale": 2} | arguments | skip)
    return net.to(memory_format=torch.contiguous_format) if plain else net


def make_sampler(task: SuperResolutionTask) -> PatchSampler:
    """Smooth noise of the size of a demo hospital's training scans; what is in the patches does not matter here."""
    noise = torch.rand(72, 1, 204, 236, generator=torch.Generator().manual_seed(0))
    high = nn.functional.avg_pool2d(noise, 5, stride=1)[:, 0]
    volume = Volume("noise", "noise", "T1w", "train", high, degrade(high, task.scale), 1.0)
    return PatchSampler([volume], task, DEVICE)


def peak(size: str, title: str) -> int:
    """Bytes that training adds to what a process with the data holds."""
    torch.set_num_threads(1)
    task = task_of(size)
    sampler = make_sampler(task)
    arm = Arm(make(size, title), task)
    if DEVICE == "cuda":
        arm.turn(sampler, 0, 3)
        return torch.cuda.max_memory_allocated()
    forget_peak()
    before, _ = memory()
    arm.turn(sampler, 0, 3)
    return memory()[1] - before


def measure(size: str, titles: list[str], turns: int, steps: int) -> dict[str, list[dict[str, float]]]:
    """Median seconds by phase of every turn of every network."""
    task = task_of(size)
    sampler, arms = make_sampler(task), {title: Arm(make(size, title), task) for title in titles}
    laps: dict[str, list[dict[str, float]]] = {title: [] for title in titles}
    for number in range(turns + 1):
        for title, arm in arms.items():
            seconds = arm.turn(sampler, number, steps)
            if number:  # the first turn sets up kernels and memory
                laps[title].append({phase: statistics.median(values) for phase, values in seconds.items()})
    return laps


def rows(size: str, turns: int, steps: int) -> Iterator[list[str]]:
    """A row for each network."""
    titles = [*networks(size), f"MSCAN{PLAIN}", f"{BASE}{PLAIN}"]
    laps = measure(size, titles, turns, steps)
    whole = {title: [sum(turn.values()) for turn in laps[title]] for title in titles}
    for title in titles:
        phases = {phase: statistics.median(turn[phase] for turn in laps[title]) for phase in PHASES}
        ratio = statistics.median(a / b for a, b in zip(whole[title], whole[BASE], strict=True))
        waiting = statistics.median(turn["data"] / total for turn, total in zip(laps[title], whole[title], strict=True))
        yield [
            title,
            f"{count_parameters(make(size, title)):,}",
            *(f"{1000 * phases[phase]:.1f}" for phase in PHASES),
            f"{1000 * statistics.median(whole[title]):.1f}",
            f"{ratio:.2f}",
            f"{100 * waiting:.1f} %",
            f"{alone(peak, size, title) / 2**20:.0f}",
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--steps", type=int, default=6, help="steps of a turn at demo size; two at paper size")
    arguments = parser.parse_args()
    known = facts(device=DEVICE)
    head = ["network", "parameters", *(f"{phase}, ms" for phase in PHASES), "step, ms", f"times {BASE}"]
    head += ["waiting for data", "memory, MB"]
    parts: list[list[str] | str] = []
    for size, threads in (("demo", 1), ("demo", os.cpu_count() or 1), ("paper", os.cpu_count() or 1)):
        torch.set_num_threads(threads)
        task = task_of(size)
        turns, steps = (arguments.turns, arguments.steps) if size == "demo" else (max(arguments.turns // 3, 1), 2)
        parts += [
            f"## {size.capitalize()} size, {threads} thread{'s' if threads > 1 else ''}: "
            f"batches of {task.batch_size} patches of {task.patch_size} x {task.patch_size}",
            table(head, rows(size, turns, steps)),
        ]
    note = (
        f"Medians of turns of {arguments.steps} steps (paper size: 2). Forward with the loss, backward with clipping. "
        f"Times {BASE}: median over turns. Memory: what a step adds to a process that holds network and data, one "
        "thread. The U-Net works on the interpolated patch, of twice the side. Demo size: the networks of the study "
        "[peers_steps](../studies/peers_steps.yaml); paper size: as published, RCAN smaller."
    )
    write_page("training_step", "A training step", known, *parts, note)


if __name__ == "__main__":
    main()
