"""Patches per second of the package's sampler, and of the same augmentation by MONAI's transforms and data loader.

    python benchmarks/data_sampler.py [--turns 10] [--batches 60]

Checks first that all ways give patches of one size, range and distribution, LR and HR on the same grid. Needs no data;
the table goes to benchmarks/results.
"""

import argparse
import os
import statistics
import time
from collections.abc import Iterator
from itertools import count, islice
from typing import Any

import torch
from common import facts, table, write_page
from monai.data import CacheDataset, DataLoader, set_track_meta
from monai.transforms import Compose, EnsureTyped, MapTransform, RandFlipd, Randomizable, RandRotate90d, SpatialCropd
from torch import Tensor, nn

from fedmr.federation.render import read_task
from fedmr.tasks.patches import PatchSampler, Volume
from fedmr.tasks.registry import build_task
from fedmr.tasks.super_resolution import SuperResolutionTask
from fedmr.utils.environment import ROOT

Batches = Iterator[tuple[Tensor, Tensor]]
SLICES, HEIGHT, WIDTH = 72, 200, 232  # of a demo hospital's training scans
CHECKED, TOLERANCE = 500, 0.02  # batches; difference of means in deviations


class RandAlignedCropd(Randomizable, MapTransform):
    """Patches from one of the slice's corners: LR (1, p, p), and HR with the scale - 1 pixels before it that a flip
    on the grid of truncated k-space needs. MONAI has no crop of two images of different size."""

    def __init__(self, size: int, scale: int) -> None:
        super().__init__(keys=("lr", "hr"))
        self.size, self.scale = size, scale

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        p, s = self.size, self.scale
        y, x = divmod(int(data["corners"][self.R.randint(len(data["corners"]))]), data["lr"].shape[-1])
        low = data["lr"][:, y : y + p, x : x + p]
        return {"lr": low, "hr": data["hr"][:, s * (y - 1) + 1 : s * (y + p), s * (x - 1) + 1 : s * (x + p)]}


def make_sampler(task: SuperResolutionTask) -> PatchSampler:
    """Of smooth noise, so that no slice is left out; every LR pixel is the HR pixel at its place, for the check."""
    noise = torch.rand(SLICES, 1, HEIGHT + 4, WIDTH + 4, generator=torch.Generator().manual_seed(0))
    high = nn.functional.avg_pool2d(noise, 5, stride=1)[:, 0]
    low = high[:, :: task.scale[0], :: task.scale[1]].contiguous()
    return PatchSampler([Volume("noise", "noise", "T1w", "train", high, low, 1.0)], task)


def monai_loader(sampler: PatchSampler, *, copy_cache: bool, workers: int) -> Batches:
    """The sampler's slices, corners and augmentation, written with MONAI."""
    task, keys = sampler.task, ("lr", "hr")
    p, s = task.patch_size, task.scale[0]
    low = sampler.lr.view(SLICES, 1, HEIGHT // s, WIDTH // s)
    high, corners = sampler.hr.view(SLICES, 1, HEIGHT, WIDTH), sampler.corners.view(SLICES, -1)
    items = [dict(zip((*keys, "corners"), parts, strict=True)) for parts in zip(low, high, corners, strict=True)]
    steps = [
        EnsureTyped(keys),
        RandAlignedCropd(p, s),
        RandFlipd(keys, prob=0.5, spatial_axis=0),
        RandFlipd(keys, prob=0.5, spatial_axis=1),
        RandRotate90d(keys, prob=0.5, max_k=1),  # with the flips the same as transposition with them
        SpatialCropd("hr", roi_start=(s - 1, s - 1), roi_end=(s - 1 + s * p, s - 1 + s * p)),
    ]
    dataset = CacheDataset(items, Compose(steps), copy_cache=copy_cache, progress=False)
    order = torch.utils.data.RandomSampler(dataset, num_samples=10**6)
    loader = DataLoader(dataset, batch_size=task.batch_size, sampler=order, num_workers=workers)
    return ((batch["lr"], batch["hr"]) for batch in loader)


def ours(sampler: PatchSampler) -> Batches:
    """Epoch after epoch."""
    return (batch for number in count() for batch in sampler.epoch(number))


def ways(sampler: PatchSampler) -> dict[str, Batches]:
    """Endless batches by what makes them. MONAI's tensors carry no metadata in the ways after the first two."""
    cores = os.cpu_count() or 1
    made = {"`fedmr.tasks.patches.PatchSampler`": ours(sampler)}
    for name, lean in (("MONAI as documented", False), ("MONAI without metadata and copies of the cache", True)):
        for workers in (0, cores):
            set_track_meta(not lean)
            loader = monai_loader(sampler, copy_cache=not lean, workers=workers)
            next(loader)  # workers start, and keep the setting that they started with
            made[f"{name}, {workers or 'no'} workers"] = loader
    return made


def check(batches: Batches, task: SuperResolutionTask) -> tuple[float, float]:
    """Mean and deviation of HR patches.

    Raises:
        RuntimeError: the patches are not what the task asks for, or LR and HR do not lie on one grid.
    """
    p, s, high = task.patch_size, task.scale[0], []
    for lr, hr in islice(batches, CHECKED):
        if lr.shape != (task.batch_size, 1, p, p) or hr.shape != (task.batch_size, 1, s * p, s * p):
            raise RuntimeError(f"patches have shapes {tuple(lr.shape)} and {tuple(hr.shape)}")
        if not torch.equal(torch.as_tensor(lr), torch.as_tensor(hr)[..., ::s, ::s]):
            raise RuntimeError("LR and HR patch do not lie on one grid")
        high.append(torch.as_tensor(hr).flatten())
    values = torch.cat(high)
    return float(values.mean()), float(values.std())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--batches", type=int, default=60, help="of each way in a turn")
    arguments = parser.parse_args()
    known = facts()
    task = build_task(read_task(ROOT / "jobs" / "mscan_fedavg"))
    assert isinstance(task, SuperResolutionTask)
    made = ways(make_sampler(task))
    moments = {name: check(batches, task) for name, batches in made.items()}
    expected, spread = next(iter(moments.values()))
    if any(abs(mean - expected) > TOLERANCE * spread for mean, _ in moments.values()):
        raise RuntimeError(f"the patches' intensities differ: {moments}")
    seconds: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(arguments.turns):
        for name, batches in made.items():
            started = time.perf_counter()
            for _ in islice(batches, arguments.batches):
                pass
            seconds[name].append((time.perf_counter() - started) / arguments.batches)
    fastest, rows = seconds[next(iter(made))], []
    for name, taken in seconds.items():
        ratio = statistics.median(b / a for a, b in zip(fastest, taken, strict=True))
        mean, deviation = moments[name]
        each = statistics.median(taken)
        rows.append(
            [
                name,
                f"{task.batch_size / each:,.0f}",
                f"{1000 * each:.2f}",
                f"{ratio:.1f}",
                f"{mean:.4f}, {deviation:.4f}",
            ]
        )
    head = ["way", "patches per second", "ms per batch", "times as long as ours", "HR intensities: mean, deviation"]
    note = (
        f"Batches of {task.batch_size} patches of {task.patch_size} x {task.patch_size} LR pixels, x{task.scale[0]}, "
        f"from {SLICES} cached slices; medians over {arguments.turns} turns of {arguments.batches} batches. "
        f"In {CHECKED} batches of each way every LR pixel was the HR pixel at its place. Workers are processes beside "
        "the one that trains."
    )
    write_page("data_sampler", "Patches for training", known, table(head, rows), note)


if __name__ == "__main__":
    main()
