"""Thick slices to a volume of cubic voxels: a network on the planes across the slices, from both sides, and their mean.

The planes that hold the normal of the slices (sagittal and coronal ones, of axial slices) are interpolated along it and
sharpened by the network; every voxel lies in one plane of each kind, and the two results are averaged (Zhao et al.,
SMORE, IEEE TMI 2021).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmr.checkpoints.model_file import Model
from fedmr.data.images import Image, canonical
from fedmr.data.volumes import normalisation
from fedmr.inference.resolver import Options, Resolver, check_memory, turn_back
from fedmr.inference.tiling import BATCH_PIXELS, SliceNetwork
from fedmr.physics.slice_profile import (
    Profile,
    ThickSlices,
    acquire,
    agree,
    along,
    fine_size,
    interpolate_slices,
    interpolation_matrix,
)
from fedmr.tasks.registry import expect
from fedmr.tasks.through_plane import SliceProfile, ThroughPlaneTask
from fedmr.utils.errors import DataError

_SAME = 0.01  # share by which two lengths differ that are taken as equal
_MARGIN = 1.25  # factor beyond the range of the training that counts as inside


@dataclass(frozen=True)
class _Grid:
    """The finer grid of a canonical scan.

    Attributes:
        axis: across the slices.
        slices: how they sample it.
        shape: voxels of the result along each axis.
        scales: how many times as fine each axis is.
    """

    axis: int
    slices: ThickSlices
    shape: tuple[int, int, int]
    scales: tuple[float, float, float]


class IsotropicResolver(Resolver):
    """A through-plane model ready to make volumes of cubic voxels of thick slices.

    Nothing is shifted: along right-anterior-superior axes, the edges of the first voxels of scan and result lie at one
    place. The result ends where the scan does or, where that is no whole number of voxels, less than a voxel behind it.

    Args:
        model: network and card; the network moves to the device.
        options: how.

    Raises:
        ValueError: another kind of model, no GPU here, though one is asked for, a tile of a size that cannot be, or an
            option that is for single slices.
    """

    def __init__(self, model: Model, options: Options | None = None) -> None:
        self.model, self.options = model, options or Options()
        refusal = f"this is a {model.task.purpose} model; only a through-plane model makes isotropic volumes"
        self.task = expect(model.task, ThroughPlaneTask, refusal)
        if self.options.uncertainty:
            raise ValueError("a through-plane model makes no map of uncertainty; leave out --uncertainty")
        net = model.net.to(self.options.chosen_device)
        self.net = SliceNetwork(net, 1, tile=self.options.tile, exact=self.options.exact)

    def with_spread(
        self, image: Image, *, plane: str = "", progress: Callable[[int, int], None] = lambda done, total: None
    ) -> tuple[Image, Image | None, NDArray[np.float64]]:
        """Make a volume of cubic voxels, without a map; see `Resolver`."""
        turned = canonical(image)
        grid = self._grid(turned, self.axis(turned, plane))
        check_memory(grid.shape, 12)  # result, its copy in the order of the file, and the file
        low = self._across(turned, grid)
        fine = self.sharpen(low, grid.slices, grid.shape[grid.axis], progress=progress)
        result, step = turn_back(np.moveaxis(fine.numpy(), 0, grid.axis), image, grid.scales, "half")
        return result, None, step

    def _grid(self, turned: Image, axis: int) -> _Grid:
        """Return the grid of a canonical scan.

        Raises:
            DataError: the slices are no thicker than the voxels of the result.
        """
        spacing = turned.spacing
        in_plane = [size for number, size in enumerate(spacing) if number != axis]
        side = self.options.isotropic or min(in_plane)
        factor = spacing[axis] / side
        if factor < 1 + _SAME:
            raise DataError(
                f"its slices are {spacing[axis]:.3g} mm apart, which is no more than the {side:.3g} mm of the result's "
                "voxels; a through-plane model has nothing to do. Give smaller voxels by --isotropic, or name the "
                "plane of the slices by --plane"
            )
        scales, shape = [], []
        for number, (size, count) in enumerate(zip(spacing, turned.voxels.shape, strict=True)):
            scale = size / side if number == axis or abs(size / side - 1) > _SAME else 1.0
            scales.append(scale)
            shape.append(fine_size(count, scale))
        thickness = self.thickness(turned, axis) / side
        profile = cast(Profile, self.options.slice_profile or SliceProfile(**self.task.slice_profile).kind)
        slices = ThickSlices(thickness, factor, profile)
        return _Grid(axis, slices, (shape[0], shape[1], shape[2]), (scales[0], scales[1], scales[2]))

    def thickness(self, image: Image, axis: int) -> float:
        """Return the thickness of the slices in mm: of the options, else of the header, else their distance."""
        return self.options.slice_thickness or image.thickness or image.spacing[axis]

    def _across(self, turned: Image, grid: _Grid) -> Tensor:
        """Return the scan with its slices along the first axis, (n, H, W), in-plane axes on the result's grid."""
        low = torch.from_numpy(np.ascontiguousarray(np.moveaxis(turned.voxels, grid.axis, 0), dtype=np.float32))
        others = [number for number in range(3) if number != grid.axis]
        for place, number in enumerate(others, start=1):
            scale, size = grid.scales[number], grid.shape[number]
            if scale > 1:
                low = interpolate_slices(low, ThickSlices(scale, scale), size, axis=place)
            elif scale < 1:
                # the other way round: the result's pixels are thick slices of the scan's
                low = acquire(low, ThickSlices(1 / scale, 1 / scale, "box"), axis=place)
                low = torch.cat([low, *[low.narrow(place, -1, 1)] * (size - low.shape[place])], dim=place)
        return low

    def sharpen(
        self,
        low: Tensor,
        slices: ThickSlices,
        size: int,
        *,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Tensor:
        """Return the mean of both passes over thick slices; of the planes, one batch is held beside it.

        Args:
            low: (n, H, W), thick slices of square pixels, in any unit.
            slices: how they sample the axis, in these pixels.
            size: N, number of fine voxels along it.
            progress: receives the numbers of planes done and in all.

        Returns:
            (N, H, W) in the unit of `low`, values >= 0 unless data consistency is asked for.
        """
        intensity = normalisation(low.clamp_min(0))
        matrix = interpolation_matrix(size, slices) / intensity
        fine = torch.zeros(size, *low.shape[1:])
        total, done = low.shape[1] + low.shape[2], 0
        for across in (2, 1):
            planes, target = low.movedim(across, 0), fine.movedim(across, 0)
            batch = max(1, BATCH_PIXELS // (size * planes.shape[2]))
            for start in range(0, len(planes), batch):
                part = along(planes[start : start + batch], matrix)
                target[start : start + batch] += self.net(part) * (intensity / 2)
                done += len(part)
                progress(done, total)
        return agree(fine, low, slices, axis=0) if self.options.data_consistency else fine

    @property
    def label(self) -> str:
        """The side of the voxels, where it is given."""
        return f"{self.options.isotropic:g} mm" if self.options.isotropic else "isotropic"

    @property
    def facts(self) -> dict[str, Any]:
        """The side of the voxels asked for, and what was said of the slices."""
        options = self.options
        return {
            "isotropic": options.isotropic or 0,
            "slice_thickness": options.slice_thickness,
            "slice_profile": options.slice_profile or self.task.slice_profile["kind"],
        }

    def describe(self, plane: str) -> str:
        """Return what is done to slices of a plane."""
        return f"Through-plane super-resolution of {plane} slices to cubic voxels"

    @property
    def trained_on(self) -> str:
        """In-plane images, averaged by a profile."""
        return f"in-plane images averaged by a {self.task.slice_profile['kind']} slice profile"

    @property
    def kept(self) -> str:
        """The slices."""
        return "slices"

    def remarks(self, image: Image, plane: str = "") -> list[str]:
        """Return what thickness is assumed, and what lies beyond the training."""
        turned = canonical(image)
        axis = self.axis(turned, plane)
        spacing, thickness = turned.spacing[axis], self.thickness(turned, axis)
        notes = []
        if not (self.options.slice_thickness or image.thickness):
            notes.append(
                f"nothing says how thick its slices are; {spacing:.3g} mm, their distance, is assumed "
                "(--slice-thickness says otherwise)"
            )
        factor = self._grid(turned, axis).slices.spacing
        ranges = (
            ("slices lie {:.3g} voxels apart", factor, self.task.factors),
            ("slices are {:.3g} times as thick as their distance", thickness / spacing, self._thicknesses),
        )
        for text, value, (least, most) in ranges:
            if not least / _MARGIN <= value <= most * _MARGIN:
                notes.append(f"its {text.format(value)}; the model was trained on {least:g} to {most:g}")
        return notes

    @property
    def _thicknesses(self) -> tuple[float, float]:
        thin, thick = SliceProfile(**self.task.slice_profile).thickness
        return float(thin), float(thick)

    def departure(self, image: Image, result: Image, plane: str = "") -> float:
        """Return how far the result's own thick slices are from the measured ones; see `Resolver`."""
        turned = canonical(image)
        grid = self._grid(turned, self.axis(turned, plane))
        low = self._across(turned, grid)
        fine = torch.from_numpy(np.moveaxis(canonical(result).voxels, grid.axis, 0))
        difference = acquire(fine, grid.slices, axis=0) - low
        return float(difference.norm() / low.norm().clamp_min(1e-12))
