"""Volumes of a reconstruction task, with their k-space, and batches of under-sampled and reference slices.

A datalist entry with `kspace`, a .npy (S, C, ky, kx) as `fedmr prepare` keeps it, is a real measurement; its reference
is the root sum of squares over the coils, of which `image` tells the size. Of an entry without, k-space is simulated as
single-coil from the magnitude image. Columns are the last axis. A site can state a `mask` of its own in its datalist,
for all its volumes or in one of them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fedmr.data.datalist import read_datalist, read_entries
from fedmr.data.images import read_nifti
from fedmr.data.splits import SPLITS
from fedmr.data.volumes import normalisation, read_volume
from fedmr.metrics import foreground
from fedmr.physics.coils import crop_or_pad, reconstruct_zero_filled, statistics
from fedmr.physics.degradation import fft2c
from fedmr.physics.masks import Mask, make_mask, seed_of
from fedmr.tasks.base import SamplerSettings
from fedmr.utils.errors import DataError

MIN_SIGNAL = 0.05  # share of a whole slice that must be foreground


class SliceSettings(SamplerSettings, Protocol):
    """Settings of a task that slices need, see `reconstruction.ReconstructionTask`."""

    @property
    def mask(self) -> Mapping[str, Any]: ...
    @property
    def size(self) -> int: ...


@dataclass(frozen=True)
class KspaceVolume:
    """One scan. `reference` (S, H, W) float32, values >= 0, in the file's units.

    Attributes:
        name, patient, contrast, split: as in the datalist.
        mask: how it is under-sampled.
        raw: the file of its k-space, (S, C, ky, kx) complex64; None where k-space is simulated.
    """

    name: str
    patient: str
    contrast: str
    split: str
    reference: Tensor
    mask: Mask
    raw: Path | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of a slice."""
        return self.reference.shape[1], self.reference.shape[2]

    def kspace(self, start: int, stop: int) -> Tensor:
        """Fully sampled k-space (N, C, ky, kx) complex64 of slices; a raw one is read from its file each time."""
        if self.raw is None:
            return fft2c(self.reference[start:stop]).unsqueeze(1)
        return torch.from_numpy(np.array(np.load(self.raw, mmap_mode="r")[start:stop]))

    def measured(self, start: int, stop: int) -> tuple[Tensor, Tensor, slice]:
        """Return what evaluation gives of slices, under one mask for the volume, by its name.

        Returns:
            k-space (N, C, ky, kx) with zeros elsewhere, the measured columns (kx,) bool, and the columns around the
            middle that are measured in any case.
        """
        kspace = self.kspace(start, stop)
        width = kspace.shape[-1]
        columns = self.mask.columns(width, torch.Generator().manual_seed(seed_of(self.name)))
        return kspace * columns, columns, self.mask.center(width)


def load_volumes(folder: Path, task: SliceSettings, splits: tuple[str, ...] = SPLITS) -> list[KspaceVolume]:
    """Load a site's volumes, in the order of its datalist.

    Args:
        folder: site folder with `datalist.json`.
        task: gives the mask, unless the datalist has one.
        splits: which splits to load; each must be there.

    Raises:
        DataError: naming the offending file, the empty split, or what is wrong with the datalist's mask.
    """
    of_site = read_datalist(folder).get("mask", {})
    volumes = []
    for entry in read_entries(folder, splits):
        path, raw = folder / entry["image"], entry.get("kspace")
        if raw is None:
            reference = read_volume(path, entry.get("shape"))
        else:
            reference = _reference(folder / str(raw), read_nifti(path).voxels.shape)
        if min(reference.shape[1:]) < task.smallest_side:
            raise DataError(
                f"{path} has slices of {tuple(reference.shape[1:])} voxels; reconstruction needs "
                f"{task.smallest_side}. Leave out this volume"
            )
        fields = entry["image"], entry["patient"], entry["contrast"], entry["split"]
        mask = _mask(folder, task, of_site, entry.get("mask", {}))
        volumes.append(KspaceVolume(*fields, reference, mask, None if raw is None else folder / str(raw)))
    return volumes


def _mask(folder: Path, task: SliceSettings, *own: Mapping[str, Any]) -> Mask:
    """Return the mask of a volume: the task's settings, overridden by the site's and then by the volume's."""
    try:
        return make_mask({name: value for settings in (task.mask, *own) for name, value in {**settings}.items()})
    except (ValueError, TypeError) as error:
        raise DataError(f"{folder / 'datalist.json'}: {error}") from None


def _reference(path: Path, shape: tuple[int, ...]) -> Tensor:
    """Root sum of squares (S, h, w) of raw k-space for an image (X, Y, S), whose X runs along w and Y along h."""
    from fedmr.data.readers.fastmri import under_sampling

    try:
        raw: Any = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read ({error}). Run `fedmr prepare` again") from None
    width, height, slices = shape
    fits = raw.ndim == 4 and len(raw) == slices and height <= raw.shape[2] and width <= raw.shape[3]
    if not fits or raw.dtype != np.complex64:
        raise DataError(
            f"{path} holds {raw.dtype} of shape {raw.shape}; complex64 (slices, coils, ky, kx) is needed, as large as "
            f"the image of {slices} slices of {height} x {width}. Run `fedmr prepare` again"
        )
    pictures = []
    for number, coils in enumerate(raw):
        if gap := under_sampling(coils):
            raise DataError(
                f"{path} is no reference for reconstruction: slice {number} is under-sampled ({gap}). Leave it out"
            )
        pictures.append(reconstruct_zero_filled(torch.from_numpy(np.array(coils)), (height, width)))
    return torch.stack(pictures)


def usable_slices(reference: Tensor, task: SliceSettings) -> Tensor:
    """Return whether `SliceSampler` takes each slice of a volume (S, H, W) in any unit, bool (S,)."""
    return foreground(reference, normalisation(reference)).sum(dim=(1, 2)) >= task.least_foreground


class SliceSampler:
    """Batches of standardised zero-filled and reference slices, with a fresh mask for every slice and epoch.

    A slice is under-sampled at its own matrix size; image and reference are standardised by mean and standard deviation
    of the whole zero-filled slice, and then cut or padded with zero signal around the middle, so that a batch has one
    size. Slices that are mostly background are left out.

    Args:
        volumes: training volumes.
        task: size, batch size and seed.
        device: where batches are made.
    """

    def __init__(self, volumes: list[KspaceVolume], task: SliceSettings, device: torch.device | str = "cpu") -> None:
        self.task, self.device = task, torch.device(device)
        self.slices: list[tuple[KspaceVolume, int]] = []
        for volume in volumes:
            self.slices += [(volume, int(n)) for n in usable_slices(volume.reference, task).nonzero()]
        if not self.slices:
            raise DataError(
                f"no slice of {len(volumes)} training volumes holds {task.least_foreground:.0f} foreground voxels; "
                "take a smaller size in the task"
            )

    @property
    def n_slices(self) -> int:
        """Number of training slices."""
        return len(self.slices)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch: every slice once."""
        return -(-self.n_slices // self.task.batch_size)

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of epoch `number`, which with the seed determines them, so nothing needs saving for a resume.

        Yields:
            zero-filled (B, 1, size, size) and reference (B, 1, size, size), standardised.
        """
        generator = torch.Generator().manual_seed(self.task.seed * 1_000_003 + number)
        order = torch.randperm(self.n_slices, generator=generator)
        for chosen in order.split(self.task.batch_size):
            pairs = [self.pair(*self.slices[int(index)], generator) for index in chosen]
            images, targets = (torch.stack(side).unsqueeze(1) for side in zip(*pairs, strict=True))
            yield images, targets

    def pair(self, volume: KspaceVolume, number: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Zero-filled and reference slice (size, size), standardised, under a mask that `generator` draws."""
        kspace = volume.kspace(number, number + 1)[0].to(self.device)
        columns = volume.mask.columns(kspace.shape[-1], generator).to(self.device)
        image, target = reconstruct_zero_filled(kspace * columns, volume.size), volume.reference[number].to(self.device)
        mean, std = statistics(image)
        size = self.task.size, self.task.size
        # padded first, so that the margin is what a place without signal is anywhere in the slice
        return (crop_or_pad(image, size) - mean) / std, (crop_or_pad(target, size) - mean) / std
