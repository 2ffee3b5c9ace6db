"""A network over slices of any size: whole where memory allows, else in tiles that leave no seams.

A tile is computed with a surrounding as wide as the network sees, so that convolutions give what they give on the
whole slice. Pooling over the slice (channel attention) is not local. Its means are found first, one pooling layer
after the other, each in a pass over all tiles up to that layer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fedmr.physics.degradation import Scale, pair
from fedmr.utils.precision import has_bfloat16

CELL = 32  # tiles begin at multiples of this
BATCH_PIXELS = 2**16  # LR pixels per forward pass: more is slower on a CPU, whose caches it leaves
# What 16-bit arithmetic may change on noise in [0, 1], root mean square. On real scans it is a third of that or less,
# which changes their PSNR by less than 0.01 dB.
FAST_ERROR = 1e-3
_PROBE = 16  # side of the image on which memory is measured
_NOISE = 96  # side of the image on which `FAST_ERROR` is measured
_MEANS, _SUMS = (torch.mean, Tensor.mean), (torch.sum, Tensor.sum)
_INTERPOLATION = 2  # LR pixels to each side that interpolation reads


class TileError(RuntimeError):
    """A slice is too large for the memory, and the network cannot be computed in tiles."""


class SliceNetwork:
    """A super-resolution network made ready for slices of any size.

    Unless `exact`, convolutions run in 16 bits (bfloat16) where the hardware has them and the network does not suffer
    by more than `FAST_ERROR`. Interpolation, which carries the intensities themselves, never does.

    Args:
        net: (N, 1, h, w) to (N, 1, rows*h, columns*w), on its device; its convolutions have stride 1.
        scale: its factor, or a pair (rows, columns).
        tile: side of a tile in LR pixels, a multiple of `CELL`; 0 for whole slices where memory allows.
        exact: compute in 32 bits throughout.

    Raises:
        ValueError: a tile of another size.
    """

    def __init__(self, net: nn.Module, scale: Scale, *, tile: int = 0, exact: bool = True) -> None:
        if tile < 0 or tile % CELL:
            raise ValueError(f"tile is {tile}; it must be a multiple of {CELL}, or 0 to choose by memory")
        self.net, self.scale, self.tile = net.eval(), pair(scale), tile
        self.device = next(net.parameters()).device
        self.reach = _reach(net)
        self.fast = False
        if not exact and has_bfloat16(self.device):
            self.fast = self._rounding_error() <= FAST_ERROR

    @torch.inference_mode()
    def __call__(self, low: Tensor) -> Tensor:
        """LR slices (N, h, w), about [0, 1], to SR slices (N, rows*h, columns*w) float32, values >= 0.

        Raises:
            TileError: a slice exceeds the memory, and tiles are still too large or would change the image.
        """
        part = low.unsqueeze(1).to(self.device).contiguous(memory_format=torch.channels_last)
        side = self._side(low.shape[-2], low.shape[-1])
        high = self._in_tiles(part, side) if side else self._forward(part, _Pooling(), fast=self.fast)
        return high[:, 0].clamp_min(0).to(low.device)

    def _forward(self, part: Tensor, pooling: "_Pooling", *, fast: bool) -> Tensor:
        precision = torch.backends.cudnn.flags(enabled=True, allow_tf32=fast)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=fast), precision, pooling:
            output: Tensor = self.net(part)
        return output.float()

    @torch.inference_mode()
    def _rounding_error(self) -> float:
        noise = torch.rand(1, 1, _NOISE, _NOISE, generator=torch.Generator().manual_seed(0)).to(self.device)
        fast, exact = (self._forward(noise, _Pooling(), fast=fast) for fast in (True, False))
        return float((fast - exact).square().mean().sqrt())

    def _side(self, height: int, width: int) -> int:
        """Side of the tiles, 0 for the whole slice."""
        if self.tile:
            return self.tile if self.tile < max(height, width) else 0
        room = int(_free_memory(self.device) / 2 / self._bytes_per_pixel)
        if height * width <= room:
            return 0
        side = (int(room**0.5) - 2 * self.reach) // CELL * CELL
        if side < CELL:
            raise TileError(
                f"slices of {height} x {width} need more memory than there is, even in tiles; free some, or use a "
                "smaller network"
            )
        return side

    @cached_property
    def _bytes_per_pixel(self) -> float:
        """Memory of a forward pass per LR pixel, at most: every layer's output, twice because they are joined."""
        total = 0

        def add(module: nn.Module, inputs: Any, output: Tensor) -> None:
            nonlocal total
            total += output.numel() * output.element_size()

        handles = [m.register_forward_hook(add) for m in self.net.modules() if not list(m.children())]
        self._forward(torch.zeros(1, 1, _PROBE, _PROBE, device=self.device), _Pooling(), fast=False)
        for handle in handles:
            handle.remove()
        return 2 * total / _PROBE**2

    def _in_tiles(self, low: Tensor, side: int) -> Tensor:
        if not self._is_seamless:
            raise TileError(
                "this network gives another image in tiles, because it sees the slice as a whole in a way that is not "
                "known here. Use whole slices, on a machine with more memory if need be"
            )
        return self._tiled(low, side, fast=self.fast)

    @cached_property
    def _is_seamless(self) -> bool:
        """A network may see the slice in ways that tiles do not know; a small image shows it."""
        size = 2 * CELL + 2 * self.reach
        image = torch.rand(1, 1, size, size + 1, generator=torch.Generator().manual_seed(0)).to(self.device)
        whole, tiled = self._forward(image, _Pooling(), fast=False), self._tiled(image, CELL, fast=False)
        return bool((whole - tiled).abs().max() <= 1e-4 * whole.abs().max())

    def _tiled(self, low: Tensor, side: int, *, fast: bool) -> Tensor:
        """Map (N, 1, h, w) to (N, 1, rows*h, columns*w) in tiles."""
        (height, width), (down, right) = low.shape[-2:], self.scale
        high = low.new_empty(len(low), 1, down * height, right * width)
        means: list[Tensor] = []
        while True:
            sums = []
            for tile in _tiles(height, width, side, self.reach):
                part = low[..., tile.outer[0], tile.outer[1]].contiguous(memory_format=torch.channels_last)
                try:
                    result = self._forward(part, _Pooling(tile, means), fast=fast)
                except _MeanNotKnown as reached:
                    sums.append(reached.sums)
                    continue
                (top, left), (rows, columns) = (_times(self.scale, part) for part in (tile.core, tile.inner))
                high[..., top, left] = result[..., rows, columns]
            if not sums:
                return high
            means.append(torch.stack(sums).sum(dim=0) / (height * width))


@dataclass(frozen=True)
class _Tile:
    """Rows and columns of a tile in the slice (`core`), with its surrounding (`outer`), and of the core in that."""

    core: tuple[slice, slice]
    outer: tuple[slice, slice]

    @property
    def inner(self) -> tuple[slice, slice]:
        rows, columns = (slice(c.start - o.start, c.stop - o.start) for c, o in zip(self.core, self.outer, strict=True))
        return rows, columns


def _tiles(height: int, width: int, side: int, margin: int) -> Iterator[_Tile]:
    for top in range(0, height, side):
        for left in range(0, width, side):
            bottom, right = min(top + side, height), min(left + side, width)
            yield _Tile(
                (slice(top, bottom), slice(left, right)),
                (
                    slice(max(top - margin, 0), min(bottom + margin, height)),
                    slice(max(left - margin, 0), min(right + margin, width)),
                ),
            )


def _times(scale: tuple[int, int], area: tuple[slice, slice]) -> tuple[slice, slice]:
    rows, columns = (slice(factor * side.start, factor * side.stop) for factor, side in zip(scale, area, strict=True))
    return rows, columns


class _MeanNotKnown(Exception):  # noqa: N818 it steers and reports no error
    """A pooling layer was reached whose means over the slice are still to be found.

    Attributes:
        sums: (N, C) float64, over the core of the present tile.
    """

    def __init__(self, sums: Tensor) -> None:
        self.sums = sums


class _Pooling(TorchFunctionMode):
    """Within it, pooling over all of an image is pooling over the slice, of which the image may be a tile.

    Means are taken in a fixed raster of cells and added in 64 bits, so that they do not depend on the tiles even where
    features have 16 bits; it is also several times as fast as `Tensor.mean` of those. Interpolation, which has a fixed
    kernel, is kept out of 16 bits.

    Args:
        tile: the tile that is computed, None for a whole slice.
        means: (N, C) float64 of the first pooling layers over the slice, so far as they are known.
    """

    def __init__(self, tile: _Tile | None = None, means: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self.tile, self.means, self.number = tile, means, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.conv2d and not isinstance(args[1], nn.Parameter):
            with torch.autocast(args[0].device.type, enabled=False):
                return func(*args, **kwargs)
        if not _pools_all(func, args, kwargs):
            return func(*args, **kwargs)
        features: Tensor = args[0]
        pooled = self._mean(features)
        if func in _SUMS:  # of which the caller makes a mean, by the size of what it has
            pooled = pooled * features[0, 0].numel()
        return func(pooled.to(features.dtype)[..., None, None], *args[1:], **kwargs)

    def _mean(self, features: Tensor) -> Tensor:
        if self.tile is None:
            return _sums(features) / features[0, 0].numel()
        if self.number == len(self.means):
            size = tuple(part.stop - part.start for part in self.tile.outer)
            if features.shape[-2:] != size:
                raise TileError(f"this network pools features of another size ({tuple(features.shape)}) than its input")
            raise _MeanNotKnown(_sums(features[..., self.tile.inner[0], self.tile.inner[1]]))
        self.number += 1
        return self.means[self.number - 1]


def _pools_all(func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    if func is F.adaptive_avg_pool2d:
        return (args[1] if len(args) > 1 else kwargs["output_size"]) in (1, (1, 1))
    if func not in (*_MEANS, *_SUMS) or args[0].ndim != 4:
        return False
    dims = kwargs.get("dim", args[1] if len(args) > 1 else None)
    return isinstance(dims, tuple | list) and {d % 4 for d in dims} == {2, 3}


def _sums(features: Tensor) -> Tensor:
    """Map (N, C, h, w) to (N, C) float64."""
    cells = F.avg_pool2d(features, CELL, ceil_mode=True, count_include_pad=False).double()
    rows, columns = (
        cells.new_tensor([min(CELL, side - start) for start in range(0, side, CELL)]) for side in features.shape[-2:]
    )
    return torch.einsum("ncij,i,j->nc", cells, rows, columns)


def _reach(net: nn.Module) -> int:
    """How far a network of stride 1 sees to each side, in LR pixels; at most, since branches are added up."""
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    return _INTERPOLATION + sum(max(m.kernel_size) // 2 * max(m.dilation) for m in layers)


def _free_memory(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
