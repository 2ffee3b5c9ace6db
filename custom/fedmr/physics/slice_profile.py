"""Thick slices: what a 2-D multi-slice scan measures along the normal of its slices, and how that is interpolated.

Everything is one small matrix along one axis, so that factors need not be whole numbers and the adjoint is the
transpose. Lengths are in voxels of the fine image. Slice p has its centre at `first` + p * spacing; by default the edge
of the first slice's share of space is that of the first voxel, (spacing - 1) / 2, so that both cover one field of view.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
import torch
from scipy.interpolate import make_interp_spline
from torch import Tensor

Profile = Literal["gaussian", "box", "sinc"]
Interpolation = Literal["nearest", "linear", "cubic", "sinc"]

_SIGMA = 1 / (2 * math.sqrt(2 * math.log(2)))  # of a Gaussian whose full width at half maximum (FWHM) is 1
_LOBES = 3  # zeros of the sinc to each side, within its Hann window
_SINC_WIDTH = 1.1369203  # FWHM of that windowed sinc, in distances of its zeros
_ROUNDING = 0.02  # of a voxel or slice distance: headers state lengths in 32 bits or as short decimals
_SMALLEST = 1e-3  # singular values below this share of the largest say nothing about the fine image


@dataclass(frozen=True)
class ThickSlices:
    """How slices sample an axis.

    Attributes:
        thickness: FWHM of the profile, fine voxels. Below one voxel the profile is a point, interpolated linearly.
        spacing: distance of the slices' centres, fine voxels.
        profile: "gaussian", "box", or "sinc" with a Hann window over three zeros to each side.
        first: centre of the first slice, fine voxels; None for (spacing - 1) / 2.

    Raises:
        ValueError: a length that is no number above 0, or an unknown profile.
    """

    thickness: float
    spacing: float
    profile: Profile = "gaussian"
    first: float | None = None

    def __post_init__(self) -> None:
        for name in ("thickness", "spacing"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"slices: {name} is {value}; it must be a number above 0")
        if self.profile not in get_args(Profile):
            raise ValueError(f"slices: profile is {self.profile!r}; known are {', '.join(get_args(Profile))}")

    @property
    def gap(self) -> float:
        """Return what is left between two slices, fine voxels; negative where they overlap."""
        return self.spacing - self.thickness

    @property
    def start(self) -> float:
        """Return the centre of the first slice, fine voxels."""
        return (self.spacing - 1) / 2 if self.first is None else self.first

    def count(self, size: int) -> int:
        """Return the number of slices whose centres lie within `size` fine voxels, at least 1."""
        return max(1, math.floor((size - 1 - self.start) / self.spacing + _ROUNDING) + 1)

    def centres(self, size: int) -> Tensor:
        """Return the centres of the slices over `size` fine voxels, (n,) float64."""
        return self.start + self.spacing * torch.arange(self.count(size), dtype=torch.float64)


def fine_size(count: int, spacing: float) -> int:
    """Return the number of fine voxels that `count` slices cover, the last one perhaps in part: the finer grid."""
    return max(1, math.ceil(count * spacing - _ROUNDING / 2))


def _gaussian(distance: Tensor, thickness: float) -> Tensor:
    return torch.exp(-0.5 * (distance / (_SIGMA * thickness)) ** 2)


def _box(distance: Tensor, thickness: float) -> Tensor:
    """Share of each voxel that lies within the slice."""
    return (thickness / 2 + 0.5 - distance.abs()).clamp(0, 1)


def _sinc(distance: Tensor, thickness: float) -> Tensor:
    zeros = distance * _SINC_WIDTH / thickness
    window = 0.5 * (1 + torch.cos(torch.pi * (zeros / _LOBES).clamp(-1, 1)))
    return torch.sinc(zeros) * window


_PROFILES: dict[str, Callable[[Tensor, float], Tensor]] = {"gaussian": _gaussian, "box": _box, "sinc": _sinc}


@lru_cache(maxsize=64)
def slice_matrix(size: int, slices: ThickSlices) -> Tensor:
    """Return the weights (n, size) float64 of the fine voxels in every slice; each row has the sum 1.

    What a profile reaches beyond the image is left out, so that a constant stays one up to the border.
    """
    distance = torch.arange(size, dtype=torch.float64) - slices.centres(size)[:, None]
    if slices.thickness < 1:
        weights = (1 - distance.abs()).clamp_min(0)
    else:
        weights = _PROFILES[slices.profile](distance, slices.thickness)
    return weights / weights.sum(dim=1, keepdim=True)


def along(image: Tensor, matrix: Tensor, axis: int = -2) -> Tensor:
    """Apply a matrix (n, m) along an axis of m voxels of a real image; the axis has n then."""
    return torch.tensordot(image, matrix.to(image), dims=([axis], [1])).movedim(-1, axis)


def acquire(image: Tensor, slices: ThickSlices, axis: int = -2) -> Tensor:
    """Return the thick slices of a fine image: averages by the profile along an axis; linear.

    Args:
        image: real, of any shape and unit.
        slices: how they sample the axis.
        axis: along the normal of the slices.

    Returns:
        like `image`, with `slices.count` voxels along the axis.
    """
    return along(image, slice_matrix(image.shape[axis], slices), axis)


def acquire_adjoint(low: Tensor, slices: ThickSlices, size: int, axis: int = -2) -> Tensor:
    """Adjoint of `acquire`, to `size` voxels along the axis: <acquire(x), y> = <x, acquire_adjoint(y)>."""
    return along(low, slice_matrix(size, slices).T, axis)


@lru_cache(maxsize=16)
def _inverse(size: int, slices: ThickSlices) -> Tensor:
    return torch.linalg.pinv(slice_matrix(size, slices), rtol=_SMALLEST)


def agree(image: Tensor, low: Tensor, slices: ThickSlices, axis: int = -2) -> Tensor:
    """Return the nearest fine image whose thick slices are those measured.

    Args:
        image: real, of any shape and unit.
        low: its slices as they were measured, with `slices.count` voxels along the axis.
        slices: how they sample the axis.
        axis: along the normal of the slices.
    """
    return image + along(low - acquire(image, slices, axis), _inverse(image.shape[axis], slices), axis)


@lru_cache(maxsize=64)
def interpolation_matrix(size: int, slices: ThickSlices, kind: Interpolation = "cubic") -> Tensor:
    """Return the weights (size, n) float64 of the slices in every fine voxel; each row has the sum 1.

    Beyond the centres of the first and the last slice these are continued, but for "sinc", which is periodic.

    Args:
        size: number of fine voxels.
        slices: where the slices lie.
        kind: "nearest", "linear", "cubic" for the cubic B-spline through all slices, with not-a-knot ends (Unser, IEEE
            Signal Processing Magazine 1999), or "sinc" for zero-filling of the k-space of the slices.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in get_args(Interpolation):
        raise ValueError(f"interpolation is {kind!r}; known are {', '.join(get_args(Interpolation))}")
    count = slices.count(size)
    place = (torch.arange(size, dtype=torch.float64) - slices.start) / slices.spacing
    if kind == "sinc":
        return _dirichlet(place[:, None] - torch.arange(count), count)
    place = place.clamp(0, count - 1)
    if kind == "nearest":
        return torch.eye(count, dtype=torch.float64)[(place + 0.5).floor().long().clamp_max(count - 1)]
    degree = min(1 if kind == "linear" else 3, count - 1)
    spline = make_interp_spline(np.arange(count), np.eye(count), k=degree)
    return torch.from_numpy(np.ascontiguousarray(spline(place.numpy())))


def _dirichlet(distance: Tensor, count: int) -> Tensor:
    """Interpolation of `count` periodic samples at a distance in samples; an even count has half its Nyquist twice."""
    angle = torch.pi * distance / count
    whole = (distance / count - (distance / count).round()).abs() < 1e-12
    scale = torch.tan(angle) if count % 2 == 0 else torch.sin(angle)
    return torch.where(whole, 1.0, torch.sin(torch.pi * distance) / (count * torch.where(whole, 1.0, scale)))


def interpolate_slices(
    low: Tensor, slices: ThickSlices, size: int, kind: Interpolation = "cubic", axis: int = -2
) -> Tensor:
    """Return thick slices interpolated to `size` fine voxels along an axis; see `interpolation_matrix`."""
    return along(low, interpolation_matrix(size, slices, kind), axis)
