"""Volumes of a super-resolution task and batches of aligned LR/HR patches.

Volumes are degraded once and kept as flat arrays; a batch is one gather.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from fedmr.data.datalist import read_entries
from fedmr.data.splits import SPLITS
from fedmr.data.volumes import VolumeReader, normalisation
from fedmr.metrics import foreground
from fedmr.physics.degradation import Degradation, Grid, degrade, low_size, scale_text
from fedmr.tasks.base import SamplerSettings
from fedmr.utils.class_path import construct_from
from fedmr.utils.errors import DataError

MIN_FOREGROUND = 0.25  # share of a patch that must be foreground


class PatchSettings(SamplerSettings, Protocol):
    """Settings of a task that patches need, see `super_resolution.SuperResolutionTask`."""

    @property
    def scale(self) -> tuple[int, int]: ...
    @property
    def degradation(self) -> Degradation: ...
    @property
    def grid(self) -> Grid: ...
    @property
    def patch_size(self) -> int: ...
    @property
    def patches_per_slice(self) -> int: ...
    @property
    def reader(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class ScanPair:
    """One scan, normalised, and its measurement: `hr` (S, H, W) and `lr` (S, h, w) float32, about [0, 1]."""

    name: str
    patient: str
    contrast: str
    split: str
    hr: Tensor
    lr: Tensor

    @property
    def reference(self) -> Tensor:
        """Return what the result is compared with, `hr`, (S, H, W)."""
        return self.hr


@dataclass(frozen=True)
class Volume(ScanPair):
    """A scan degraded in the plane of its slices; `intensity` is the divisor of both images."""

    intensity: float


def load_volumes(folder: Path, task: PatchSettings, splits: tuple[str, ...] = SPLITS) -> list[Volume]:
    """Load, degrade and normalise a site's volumes, in the order of its datalist.

    Args:
        folder: site folder with `datalist.json`.
        task: gives scale, degradation and the patch size that a slice must hold.
        splits: which splits to load; each must be there.

    Raises:
        DataError: naming the offending file or the empty split.
    """
    reader = construct_from("reader", task.reader, VolumeReader) if task.reader else VolumeReader()
    volumes = []
    for entry in read_entries(folder, splits):
        path = folder / entry["image"]
        hr = _checked(reader.read(path, entry), path)
        if entry["split"] == "train" and min(hr.shape[1:]) < task.smallest_side:
            raise DataError(
                f"{path} has slices of {tuple(hr.shape[1:])} voxels, too small for patch_size {task.patch_size} "
                f"at x{scale_text(task.scale)}: {task.smallest_side} are needed. "
                "Take a smaller patch_size or leave out this volume"
            )
        lr = degrade(hr, task.scale, task.degradation)
        intensity = normalisation(lr)
        fields = entry["image"], entry["patient"], entry["contrast"], entry["split"]
        volumes.append(Volume(*fields, hr / intensity, lr / intensity, intensity))
    return volumes


def _checked(volume: Tensor, path: Path) -> Tensor:
    """Return what a reader made of a file, (S, H, W); refuse what no sampler can use."""
    if (
        volume.ndim != 3
        or volume.dtype != torch.float32
        or not torch.isfinite(volume).all()
        or bool((volume < 0).any())
    ):
        raise DataError(
            f"{path}: the task's reader made {tuple(volume.shape)} {volume.dtype} of it; it must be slices (S, H, W) "
            "float32 of finite values >= 0"
        )
    return volume


def patch_corners(inside: Tensor, task: PatchSettings, height: int, width: int) -> Tensor:
    """Return flat LR indices (K,) int32 of patch corners whose LR and HR patch, flipped or not, lie in the slice.

    Args:
        inside: bool (h, w), the foreground of an LR slice.
        task: patch size and scale.
        height, width: of the HR slice.
    """
    p, (down, right) = task.patch_size, task.scale
    # counts by sums over a rectangle: the shares of avg_pool2d, bit for bit, in a fraction of its time
    sums = F.pad(inside.int(), (1, 0, 1, 0)).cumsum(0, dtype=torch.int32).cumsum(1, dtype=torch.int32)
    share = (sums[p:, p:] - sums[:-p, p:] - sums[p:, :-p] + sums[:-p, :-p]).float() / (p * p)
    # row 0 and column 0 are left out: a flipped patch needs the s-1 HR pixels before its corner
    good = share[1 : (height // down) - p + 1, 1 : (width // right) - p + 1] >= MIN_FOREGROUND
    y, x = good.nonzero(as_tuple=True)
    return ((y + 1) * low_size(width, right) + x + 1).int()


def usable_slices(hr: Tensor, task: PatchSettings) -> Tensor:
    """Return whether `PatchSampler` takes each slice of a volume (S, H, W) in any unit, bool (S,).

    A volume whose slices hold no patch is refused in training by its size; here its foreground alone is asked.
    """
    height, width = hr.shape[1:]
    if min(height, width) < task.smallest_side:
        return foreground(hr).sum(dim=(1, 2)) >= task.least_foreground
    lr = degrade(hr, task.scale, task.degradation)
    marked = foreground(lr / normalisation(lr))  # divided as in `load_volumes`, for the same rounding
    return torch.tensor([len(patch_corners(inside, task, height, width)) > 0 for inside in marked])


class PatchSampler:
    """Batches of augmented, aligned patch pairs from the training slices of a site.

    All slices lie in two flat arrays, so that slices of any size share one gather. Flips go through the grid:
    on the pixel0 grid the HR partner of a flipped LR patch starts scale-1 pixels earlier, because LR sample p
    stays at HR position scale*p. Patches are transposed only if both axes have one scale.
    Slices and patches that are mostly background are left out.

    Args:
        volumes: training volumes.
        task: patch and batch size, patches per slice, seed, grid.
        device: where the arrays live.
    """

    def __init__(self, volumes: list[Volume], task: PatchSettings, device: torch.device | str = "cpu") -> None:
        self.task, self.device = task, torch.device(device)
        lr, hr, corners, rows = [], [], [], []
        lr_offset = hr_offset = corner_offset = 0
        for volume in volumes:
            (height, width), (low_height, low_width) = volume.hr.shape[1:], volume.lr.shape[1:]
            for hr_slice, lr_slice, inside in zip(volume.hr, volume.lr, foreground(volume.lr), strict=True):
                valid = patch_corners(inside, task, height, width)
                if len(valid) == 0:
                    continue
                rows.append((lr_offset, low_width, hr_offset, width, corner_offset, len(valid)))
                lr.append(lr_slice.reshape(-1))
                hr.append(hr_slice.reshape(-1))
                corners.append(valid)
                lr_offset += low_height * low_width
                hr_offset += height * width
                corner_offset += len(valid)
        if not rows:
            raise DataError(
                f"no training patch of {task.patch_size} x {task.patch_size} LR pixels holds {MIN_FOREGROUND:.0%} "
                f"foreground in {len(volumes)} volumes; take a smaller patch_size"
            )
        self.lr, self.hr = torch.cat(lr).to(self.device), torch.cat(hr).to(self.device)
        self.corners = torch.cat(corners).to(self.device)
        self.table = torch.tensor(rows, device=self.device)

    @property
    def n_slices(self) -> int:
        """Number of training slices."""
        return len(self.table)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch: `patches_per_slice` patches of every slice."""
        return -(-self.n_slices * self.task.patches_per_slice // self.task.batch_size)

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of epoch `number`, which with the seed determines them, so nothing needs saving for a resume.

        Yields:
            LR (B, 1, p, p) and HR (B, 1, rows*p, columns*p); all batches but the last have `batch_size` patches.
        """
        generator = torch.Generator().manual_seed(self.task.seed * 1_000_003 + number)
        order = torch.randperm(self.n_slices * self.task.patches_per_slice, generator=generator) % self.n_slices
        for chosen in order.split(self.task.batch_size):
            where = torch.rand(len(chosen), generator=generator, dtype=torch.float64)
            flips = torch.randint(0, 2, (3, len(chosen)), generator=generator).bool()
            yield self.gather(chosen, where, flips)

    def gather(self, chosen: Tensor, where: Tensor, flips: Tensor) -> tuple[Tensor, Tensor]:
        """Cut patches.

        Args:
            chosen: (B,) slice numbers.
            where: (B,) in [0, 1), which of the slice's valid corners.
            flips: (3, B) bool: up-down, left-right, transpose.
        """
        task, p = self.task, self.task.patch_size
        where, flips = where.to(self.device), flips.to(self.device)
        lr_offset, lr_width, hr_offset, hr_width, first, count = self.table[chosen.to(self.device)].T
        corner = self.corners[first + (where * count).long()].long()
        lr_rows = _axis(corner // lr_width, flips[0], p)
        lr_columns = _axis(corner % lr_width, flips[1], p)
        lr = _take(self.lr, lr_offset, lr_width, lr_rows, lr_columns)
        hr_rows = _refine(lr_rows, flips[0], task.scale[0], task.grid)
        hr_columns = _refine(lr_columns, flips[1], task.scale[1], task.grid)
        hr = _take(self.hr, hr_offset, hr_width, hr_rows, hr_columns)
        if task.scale[0] != task.scale[1]:
            return lr, hr
        transpose = flips[2].view(-1, 1, 1, 1)
        return torch.where(transpose, lr.mT, lr), torch.where(transpose, hr.mT, hr)


def _axis(start: Tensor, flip: Tensor, length: int) -> Tensor:
    """(B,) starts to (B, length) indices, running backwards where `flip`."""
    steps = torch.arange(length, device=start.device)
    return start[:, None] + torch.where(flip[:, None], length - 1 - steps, steps)


def _refine(low: Tensor, flip: Tensor, s: int, grid: Grid) -> Tensor:
    """LR indices (B, p) to the HR indices (B, s*p) that lie on the same grid after the flip."""
    steps = torch.arange(s, device=low.device)
    backwards = (0 if grid == "pixel0" else s - 1) - steps
    offset = torch.where(flip[:, None], backwards, steps)
    return (s * low[:, :, None] + offset[:, None, :]).flatten(1)


def _take(flat: Tensor, offset: Tensor, width: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Gather (B, 1, R, C) from a flat array of slices."""
    index = (offset[:, None] + rows * width[:, None])[:, :, None] + columns[:, None, :]
    return flat[index].unsqueeze(1)
