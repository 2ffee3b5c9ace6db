"""One volume to its super-resolved volume: slices through the network, and the place of every voxel in the scanner."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import nibabel as nib
import numpy as np
import psutil
import torch
from nibabel.orientations import inv_ornt_aff
from numpy.typing import NDArray
from torch import Tensor

from fedmr.checkpoints.model_file import Model
from fedmr.data.images import MIN_SIDE, Image, canonical
from fedmr.data.volumes import normalisation
from fedmr.inference.flips import over_flips
from fedmr.inference.tiling import BATCH_PIXELS, SliceNetwork
from fedmr.physics.degradation import Grid, Scale, pair
from fedmr.tasks.registry import expect
from fedmr.tasks.super_resolution import SuperResolutionTask
from fedmr.utils.errors import DataError

# name of a plane to the axis across it, in right-anterior-superior order
PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}
_CANONICAL = np.array([[0, 1], [1, 1], [2, 1]])


@dataclass(frozen=True)
class Options:
    """How to super-resolve.

    Attributes:
        plane: plane of the slices, a name in `PLANES`; "" for the acquisition plane.
        data_consistency: put the scan's own k-space back into the result.
        tile: side of tiles in LR pixels, 0 for whole slices where memory allows.
        exact: 32-bit arithmetic throughout; else faster, see `tiles.SliceNetwork`.
        device: "cpu", "cuda", or "" for the GPU where there is one.
        deidentify: leave the person, dates, places and free text out of the result's header.
        uncertainty: average over the flips of a slice, and map how far they differ; see `inference.flips`.
    """

    plane: str = ""
    data_consistency: bool = False
    tile: int = 0
    exact: bool = True
    device: str = ""
    deidentify: bool = False
    uncertainty: bool = False

    def __post_init__(self) -> None:
        for name, known in (("plane", [*PLANES]), ("device", ["cpu", "cuda"])):
            value = getattr(self, name)
            if value and value not in known:
                raise ValueError(f"{name} is {value!r}; known are {', '.join(known)}")

    @property
    def chosen_device(self) -> str:
        """The device, or the GPU where none is named and there is one.

        Raises:
            ValueError: no GPU here, though one is asked for.
        """
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("there is no GPU here that torch can use; leave out --device, or give cpu")
        return self.device or ("cuda" if torch.cuda.is_available() else "cpu")


class SuperResolver:
    """A model ready to super-resolve volumes slice by slice, in the orientation in which it was trained.

    A volume is turned to right-anterior-superior axes, because the grid "pixel0" does not look the same from both ends
    of an axis, and the result is turned back to the axes of the input; nothing is resampled. Without a named plane,
    slices lie across the axis with the largest voxel size (the last of equals), as in training.

    Args:
        model: network and card; the network moves to the device.
        options: how.

    Raises:
        ValueError: another kind of model, no GPU here, though one is asked for, or a tile of a size that cannot be.
    """

    def __init__(self, model: Model, options: Options | None = None) -> None:
        self.model, self.options = model, options or Options()
        refusal = f"this is a {model.task.purpose} model; only a super-resolution model takes images"
        self.task = expect(model.task, SuperResolutionTask, refusal)
        net = model.net.to(self.options.chosen_device)
        self.net = SliceNetwork(net, self.task.scale, tile=self.options.tile, exact=self.options.exact)

    def __call__(
        self, image: Image, *, plane: str = "", progress: Callable[[int, int], None] = lambda done, total: None
    ) -> tuple[Image, NDArray[np.float64]]:
        """Super-resolve a volume.

        Args:
            image: voxels (X, Y, Z), checked by `images.check`.
            plane: of the slices, a name in `PLANES`; "" for that of the options.
            progress: receives the numbers of slices done and in all.

        Returns:
            the image: voxels float32, scale times as many along the two axes of a slice, in the units of the input; at
            least 0, but for data consistency, which may ring below. And the (4, 4) map from its voxel indices to those
            of the input; its affine is that of the input times this map.

        Raises:
            DataError: the result is too large for the memory.
            TileError: see `tiles.SliceNetwork`.
        """
        result, _, step = self.with_spread(image, plane=plane, progress=progress)
        return result, step

    def with_spread(
        self, image: Image, *, plane: str = "", progress: Callable[[int, int], None] = lambda done, total: None
    ) -> tuple[Image, Image | None, NDArray[np.float64]]:
        """Super-resolve a volume as `__call__` does, and map its uncertainty if the options ask for it.

        Returns:
            the image and the map of voxel indices, as `__call__`; between them the standard deviation over the flips
            of a slice, of the same shape and in the units of the input, or None.
        """
        task, turned = self.task, canonical(image)
        axis = self.axis(turned, plane)
        scales = [*task.scale]  # of the axes of a slice, in their order
        scales.insert(axis, 1)
        # 32 bits, and as much for the file; twice with a map
        shape = [n * s for n, s in zip(turned.voxels.shape, scales, strict=True)]
        check_memory(shape, 16 if self.options.uncertainty else 8)
        low = torch.from_numpy(np.ascontiguousarray(np.moveaxis(turned.voxels, axis, 0), dtype=np.float32))
        high, spread = self._slices(low, progress)
        result, step = _turn_back(np.moveaxis(high.numpy(), 0, axis), image, scales, task.grid)
        if spread is None:
            return result, None, step
        return result, _turn_back(np.moveaxis(spread.numpy(), 0, axis), image, scales, task.grid)[0], step

    def axis(self, turned: Image, plane: str = "") -> int:
        """Return the axis across the slices of a canonical image: of the plane, else of the options', else its own."""
        chosen = plane or self.options.plane
        return PLANES[chosen] if chosen else turned.slice_axis

    @property
    def least_side(self) -> int:
        """Return the least side of a slice, for `images.check`: a plane that a person names is taken as it is."""
        return 1 if self.options.plane else MIN_SIDE

    def _slices(self, low: Tensor, progress: Callable[[int, int], None]) -> tuple[Tensor, Tensor | None]:
        """Map (S, h, w) to (S, rows*h, columns*w) in the units of the input, and to its spread if that is asked for."""
        task = self.task
        intensity = normalisation(low.clamp_min(0))
        high = torch.empty(len(low), task.scale[0] * low.shape[1], task.scale[1] * low.shape[2])
        spread = torch.empty_like(high) if self.options.uncertainty else None
        batch = max(1, BATCH_PIXELS // low[0].numel())
        for start in range(0, len(low), batch):
            chosen = slice(start, start + batch)
            part = low[chosen] / intensity
            if spread is None:
                result = self.net(part.clamp_min(0))
            else:
                result, deviation = over_flips(self.net, part.clamp_min(0), task.grid)
                spread[chosen] = deviation * intensity
            if self.options.data_consistency:
                result = impose(result, part, task.scale, task.grid)
            high[chosen] = result * intensity
            progress(min(start + batch, len(low)), len(low))
        return high, spread


def check_memory(shape: Sequence[int], bytes_per_voxel: int) -> None:
    """Refuse a result that the memory does not hold.

    Raises:
        DataError: what it needs and what there is.
    """
    size = float(np.prod(shape, dtype=np.float64)) * bytes_per_voxel
    free = psutil.virtual_memory().available
    if size > free:
        raise DataError(
            f"the result of {' x '.join(map(str, shape))} voxels needs {size / 2**30:.1f} GB of memory, "
            f"{free / 2**30:.1f} GB are free. Split the volume or series"
        )


def _turn_back(
    voxels: NDArray[np.float32], image: Image, scales: list[int], grid: Grid
) -> tuple[Image, NDArray[np.float64]]:
    """From canonical axes to those of `image`, with the geometry."""
    turn = nib.io_orientation(image.affine)
    back = nib.orientations.ornt_transform(_CANONICAL, turn)
    finer = np.diag([1 / s for s in scales] + [1.0])
    if grid == "half":
        finer[:3, 3] = [(1 - s) / (2 * s) for s in scales]
    step = inv_ornt_aff(turn, image.voxels.shape) @ finer @ inv_ornt_aff(back, voxels.shape)
    turned = nib.apply_orientation(voxels, back)
    return replace(image, voxels=turned, affine=image.affine @ step), step


def impose(high: Tensor, low: Tensor, scale: Scale, grid: Grid) -> Tensor:
    """Replace the part of k-space that was measured; the nearest image to `high` that agrees with the measurement.

    A real image has conjugate values at opposite places of k-space, so the Nyquist row and column of an even LR size,
    which `physics.truncate` takes from one side only, are set on both.

    Args:
        high: (..., rows*h, columns*w), real.
        low: (..., h, w), real; the measurement, as an image.
        scale: integer factor, or a pair (rows, columns).
        grid: where the LR samples lie.

    Returns:
        real tensor like `high`. On grid pixel0 its `physics.truncate` is `low`; on grid half it is after a shift by
        (scale-1)/2 HR pixels.
    """
    kspace, measured = torch.fft.fft2(high), torch.fft.fft2(low) * math.prod(pair(scale))
    frequencies = [torch.fft.fftfreq(n, 1 / n, device=high.device) for n in low.shape[-2:]]
    if grid == "half":
        y, x = (f * (s - 1) / (2 * s * len(f)) for f, s in zip(frequencies, pair(scale), strict=True))
        measured = measured * torch.exp(-2j * torch.pi * (y[:, None] + x))
    rows, columns = (f.round().long() for f in frequencies)
    kspace[..., rows[:, None], columns] = measured
    kspace[..., -rows[:, None], -columns] = measured.conj()
    return torch.fft.ifft2(kspace).real
