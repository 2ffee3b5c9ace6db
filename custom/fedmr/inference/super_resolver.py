"""One volume to its super-resolved volume: slices through the network, and the place of every voxel in the scanner."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmr.checkpoints.model_file import Model
from fedmr.data.images import Image, canonical
from fedmr.data.volumes import normalisation
from fedmr.inference.flips import over_flips
from fedmr.inference.resolver import Options, Resolver, check_memory, turn_back
from fedmr.inference.tiling import BATCH_PIXELS, SliceNetwork
from fedmr.physics.degradation import Grid, Scale, pair, scale_text
from fedmr.tasks.registry import expect
from fedmr.tasks.super_resolution import SuperResolutionTask

_EVERY = 4  # slices whose k-space is compared


class SuperResolver(Resolver):
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

    def with_spread(
        self, image: Image, *, plane: str = "", progress: Callable[[int, int], None] = lambda done, total: None
    ) -> tuple[Image, Image | None, NDArray[np.float64]]:
        """Super-resolve a volume, scale times as many voxels along the two axes of a slice; see `Resolver`."""
        task, turned = self.task, canonical(image)
        axis = self.axis(turned, plane)
        scales = [*task.scale]  # of the axes of a slice, in their order
        scales.insert(axis, 1)
        # 32 bits, and as much for the file; twice with a map
        shape = [n * s for n, s in zip(turned.voxels.shape, scales, strict=True)]
        check_memory(shape, 16 if self.options.uncertainty else 8)
        low = torch.from_numpy(np.ascontiguousarray(np.moveaxis(turned.voxels, axis, 0), dtype=np.float32))
        high, spread = self._slices(low, progress)
        result, step = turn_back(np.moveaxis(high.numpy(), 0, axis), image, scales, task.grid)
        if spread is None:
            return result, None, step
        return result, turn_back(np.moveaxis(spread.numpy(), 0, axis), image, scales, task.grid)[0], step

    @property
    def label(self) -> str:
        """The scale."""
        return f"x{scale_text(self.task.scale)}"

    @property
    def facts(self) -> dict[str, Any]:
        """The scale."""
        return {"scale": list(self.task.scale)}

    def describe(self, plane: str) -> str:
        """Return what is done to slices of a plane."""
        return f"Super-resolution {self.label} of {plane} slices"

    @property
    def trained_on(self) -> str:
        """Images made by the task's degradation."""
        return f"images made by {self.task.degradation}"

    @property
    def kept(self) -> str:
        """K-space."""
        return "k-space"

    def departure(self, image: Image, result: Image, plane: str = "") -> float:
        """Return how far a result is from the nearest image whose k-space agrees with the scan's; of some slices."""
        turned = canonical(image)
        axis = self.axis(turned, plane)
        low, high = (
            torch.from_numpy(np.ascontiguousarray(np.moveaxis(voxels, axis, 0)[::_EVERY], dtype=np.float32))
            for voxels in (turned.voxels, canonical(result).voxels)
        )
        change = impose(high, low, self.task.scale, self.task.grid) - high
        return float(change.norm() / high.norm().clamp_min(1e-12))

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
