"""Volumes of a through-plane task and batches of thick-sliced and sharp patches, both from in-plane images.

In-plane detail teaches what is missing between slices: a slice image is averaged along one of its own axes by the
profile of a thick slice, sampled at the distance of thick slices, and interpolated back (Zhao et al., SMORE, IEEE TMI
2021). No isotropic scan is needed.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from fedmr.data.datalist import read_entries
from fedmr.data.splits import SPLITS
from fedmr.data.volumes import normalisation, read_volume
from fedmr.metrics import foreground
from fedmr.physics.slice_profile import ThickSlices, acquire, along, interpolation_matrix, slice_matrix
from fedmr.tasks.base import SamplerSettings
from fedmr.tasks.patches import MIN_FOREGROUND, ScanPair
from fedmr.utils.errors import DataError

_FINE = 0.7  # mm: images of smaller pixels are trained on at half their matrix, too, as most are used
_REACH = 2.5  # slice distances around a patch that its interpolation is made from
_STRIDE = 4  # pixels between corners of patches
_DEVIATION = 0.6745  # median absolute value of a normal variable of deviation 1


class ThickSliceSettings(SamplerSettings, Protocol):
    """Settings of a task that its patches need, see `through_plane.ThroughPlaneTask`."""

    @property
    def factors(self) -> Sequence[float]: ...
    @property
    def slice_profile(self) -> Mapping[str, Any]: ...
    @property
    def test_slices(self) -> ThickSlices: ...
    @property
    def patch_size(self) -> int: ...
    @property
    def patches_per_slice(self) -> int: ...
    @property
    def noise(self) -> float: ...
    @property
    def rotated(self) -> float: ...


@dataclass(frozen=True)
class ThickVolume(ScanPair):
    """A scan whose `lr` (S, h, W) has the rows of each slice as thick slices; `pixel` is an in-plane one's size, mm."""

    pixel: float


def load_volumes(folder: Path, task: ThickSliceSettings, splits: tuple[str, ...] = SPLITS) -> list[ThickVolume]:
    """Load a site's volumes, in the order of its datalist, with the rows of each slice acquired as thick slices.

    Args:
        folder: site folder with `datalist.json`.
        task: gives the thick slices of evaluation, and the patch size that a slice must hold.
        splits: which splits to load; each must be there.

    Raises:
        DataError: naming the offending file or the empty split.
    """
    volumes = []
    for entry in read_entries(folder, splits):
        path = folder / entry["image"]
        hr = read_volume(path, entry.get("shape"))
        if min(hr.shape[1:]) < task.smallest_side:
            raise DataError(
                f"{path} has slices of {tuple(hr.shape[1:])} voxels, too small for patch_size {task.patch_size}: "
                f"{task.smallest_side} are needed. Take a smaller patch_size or leave out this volume"
            )
        lr = acquire(hr, task.test_slices)
        intensity = normalisation(lr)
        fields = entry["image"], entry["patient"], entry["contrast"], entry["split"]
        pixel = min(float(side) for side in entry.get("spacing", [1.0]))
        volumes.append(ThickVolume(*fields, hr / intensity, lr / intensity, pixel))
    return volumes


def patch_corners(inside: Tensor, size: int) -> Tensor:
    """Return (K, 2) int32 rows and columns of patches of `size` whose share of foreground (H, W) is enough."""
    share = F.avg_pool2d(inside.float()[None, None], size, stride=_STRIDE)[0, 0]
    return _STRIDE * (share >= MIN_FOREGROUND).nonzero().int()


def usable_slices(images: Tensor, size: int) -> Tensor:
    """Return whether `ThickSliceSampler` takes each slice of a volume (S, H, W) in any unit, bool (S,)."""
    marked = foreground(images)
    if min(images.shape[1:]) < size:
        return marked.sum(dim=(1, 2)) >= MIN_FOREGROUND * size**2
    return torch.tensor([len(patch_corners(inside, size)) > 0 for inside in marked])


def noise_of(images: Tensor) -> float:
    """Return the deviation of white noise in the foreground of (S, H, W), in its unit.

    From the median of the diagonal detail of a Haar wavelet (Donoho, Johnstone, Biometrika 1994), which holds little
    else.
    """
    even = images[:, : images.shape[1] // 2 * 2, : images.shape[2] // 2 * 2]
    detail = (even[:, ::2, ::2] - even[:, 1::2, ::2] - even[:, ::2, 1::2] + even[:, 1::2, 1::2]) / 2
    inside = foreground(even)[:, ::2, ::2]
    return float(detail[inside].abs().median()) / _DEVIATION if inside.any() else 0.0


class ThickSliceSampler:
    """Batches of augmented patch pairs from the training slices of a site.

    Every batch has its own factor, thickness and position of the slices, so that one network serves all. A patch lies
    at a random place and angle of its slice, flipped or not, so that slices lie along any of its directions.

    Args:
        volumes: training volumes.
        task: patch and batch size, patches per slice, seed, factors, profile, noise, share of rotated patches.
        device: where batches are made.

    Raises:
        DataError: no slice holds a patch with enough foreground.
    """

    def __init__(
        self, volumes: Sequence[ThickVolume], task: ThickSliceSettings, device: torch.device | str = "cpu"
    ) -> None:
        self.task, self.device = task, torch.device(device)
        self.slices: list[tuple[Tensor, Tensor, float]] = []  # image, corners, deviation of its noise
        for volume in volumes:
            self._add(volume.hr)
            if volume.pixel < _FINE and min(volume.hr.shape[1:]) >= 2 * task.patch_size:
                self._add(F.avg_pool2d(volume.hr, 2))
        self.n_slices = len(self.slices)
        if not self.slices:
            raise DataError(
                f"no training patch of {task.patch_size} x {task.patch_size} pixels holds {MIN_FOREGROUND:.0%} "
                f"foreground in {len(volumes)} volumes; take a smaller patch_size"
            )

    def _add(self, images: Tensor) -> None:
        noise = noise_of(images) if self.task.noise else 0.0
        for image, inside in zip(images, foreground(images), strict=True):
            if len(corners := patch_corners(inside, self.task.patch_size)):
                self.slices.append((image.to(self.device), corners, noise))

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch: `patches_per_slice` patches of every slice."""
        return -(-self.n_slices * self.task.patches_per_slice // self.task.batch_size)

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of epoch `number`, which with the seed determines them, so nothing needs saving for a resume.

        Yields:
            interpolated thick slices (B, 1, p, p) and the sharp image (B, 1, p, p).
        """
        generator = torch.Generator().manual_seed(self.task.seed * 1_000_003 + number)
        order = torch.randperm(self.n_slices * self.task.patches_per_slice, generator=generator) % self.n_slices
        for chosen in order.split(self.task.batch_size):
            yield self.batch(chosen.tolist(), generator)

    def batch(self, chosen: Sequence[int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Make the pair of one batch, of patches of the slices with these numbers."""
        task, p = self.task, self.task.patch_size
        share, wide, where, level = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
        least, most = task.factors
        spacing = least + share * (most - least)
        thin, thick = task.slice_profile["thickness"]
        margin = math.ceil(_REACH * spacing)
        slices = ThickSlices(
            spacing * (thin + wide * (thick - thin)), spacing, task.slice_profile["kind"], where * spacing
        )
        cut = [self._cut(number, margin, generator) for number in chosen]
        sharp = torch.stack([image for image, _ in cut]).unsqueeze(1)
        weights = slice_matrix(p + 2 * margin, slices)
        low = along(sharp, weights)
        if task.noise:
            # what averaging has taken away, as a thick slice is as noisy as an in-plane image
            lost = (1 - weights.square().sum(dim=1)).clamp_min(0).sqrt()[:, None]
            noise = torch.tensor([deviation for _, deviation in cut])[:, None, None, None] * task.noise * level
            low = low + torch.randn(low.shape, generator=generator).to(low) * (noise * lost).to(low)
        back = interpolation_matrix(p + 2 * margin, slices)
        return along(low, back[margin : margin + p]), sharp[:, :, margin : margin + p].contiguous()

    def _cut(self, number: int, margin: int, generator: torch.Generator) -> tuple[Tensor, float]:
        """Return a patch with `margin` rows more to both sides, (p + 2 * margin, p), and the noise of its slice."""
        image, corners, noise = self.slices[number]
        place, angle, turned = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
        quarter, flip = (int(torch.randint(0, n, (1,), generator=generator)) for n in (4, 2))
        p = self.task.patch_size
        centre = corners[int(place * len(corners))].double() + (p - 1) / 2
        turn = math.pi / 2 * (quarter + (angle - 0.5 if turned < self.task.rotated else 0))
        return _turned(image, centre, (p + 2 * margin, p), turn, bool(flip)), noise


def _turned(image: Tensor, centre: Tensor, size: tuple[int, int], angle: float, flip: bool) -> Tensor:
    """Return the cubic interpolation of (H, W) on a turned grid of `size` around a centre; 0 beyond the image."""
    rows, columns = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in size)
    if flip:
        columns = -columns
    cos, sin = math.cos(angle), math.sin(angle)
    y = centre[0] + cos * rows[:, None] - sin * columns
    x = centre[1] + sin * rows[:, None] + cos * columns
    height, width = image.shape
    grid = torch.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], dim=-1).to(image)
    turned = F.grid_sample(image[None, None], grid[None], mode="bicubic", align_corners=True)
    return turned[0, 0].clamp_min(0)
