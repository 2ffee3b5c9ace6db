"""Image formation: centred FFT, degradation to low resolution, and upsampling that stays on the grid.

Images are real or complex tensors whose last two axes are (H, W), any batch axes before them, on any device.
Two sampling grids occur; `GRID_OF` says which degradation makes which:

- ``"pixel0"``: low-resolution (LR) sample p lies at high-resolution (HR) position s*p. K-space truncation.
- ``"half"``: LR sample p lies at s*p + (s-1)/2, the centre of its s x s block. Resampling with pixel areas.

Taking one for the other shifts the image by (s-1)/2 HR pixels, which costs 2-3 dB.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Degradation = Literal["truncation", "bicubic"]
Grid = Literal["pixel0", "half"]
Scale = int | Sequence[int]  # a factor for both axes, or one each for rows and columns, the last two axes
GRID_OF: dict[str, Grid] = {"truncation": "pixel0", "bicubic": "half"}

_AXES = (-2, -1)


def fft2c(image: Tensor) -> Tensor:
    """Centred orthonormal 2-D FFT: image (..., H, W), origin at (H//2, W//2), to k-space with DC there."""
    return torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(image, dim=_AXES), norm="ortho"), dim=_AXES)


def ifft2c(kspace: Tensor) -> Tensor:
    """Inverse of `fft2c`: k-space (..., H, W) with DC at (H//2, W//2) to the complex image (..., H, W)."""
    return torch.fft.fftshift(torch.fft.ifft2(torch.fft.ifftshift(kspace, dim=_AXES), norm="ortho"), dim=_AXES)


def low_size(size: int, scale: int) -> int:
    """Return the number of LR samples for `size` HR samples: ceil(size / scale)."""
    return -(-size // scale)


def pair(scale: Scale) -> tuple[int, int]:
    """Return the factors (rows, columns) of a scale.

    Raises:
        ValueError: neither a whole number nor two, or a factor below 1.
    """
    factors = (scale, scale) if isinstance(scale, int) else scale
    listed = isinstance(factors, Sequence) and not isinstance(factors, str) and len(factors) == 2
    if not listed or any(type(factor) is not int or factor < 1 for factor in factors):
        raise ValueError(
            f"scale is {scale!r}; it must be an integer of 1 or more (2, 3 and 4 are usual), or two of them, "
            "[rows, columns]"
        )
    return factors[0], factors[1]


def scale_text(scale: Scale) -> str:
    """Return a scale as people read it: "2", or "4x1" where rows and columns have factors of their own."""
    rows, columns = pair(scale)
    return str(rows) if rows == columns else f"{rows}x{columns}"


def pixel_shuffle(phases: Tensor, scale: Scale) -> Tensor:
    """Interleave phases (N, C*rows*columns, h, w) to an image (N, C, rows*h, columns*w); phase (r, c) is r*columns + c.

    Sub-pixel convolution, Shi et al., CVPR 2016; torch has it for equal factors only.
    """
    rows, columns = pair(scale)
    if rows == columns:
        return F.pixel_shuffle(phases, rows)
    count, channels, height, width = phases.shape
    split = phases.reshape(count, channels // (rows * columns), rows, columns, height, width)
    return split.permute(0, 1, 4, 2, 5, 3).reshape(count, -1, rows * height, columns * width)


def truncate(image: Tensor, scale: Scale) -> Tensor:
    """Low-pass and sub-sample by k-space truncation; linear, complex.

    Keeps the central 1/scale of k-space along each axis, scaled so that a constant keeps its value. The image
    origin is pixel 0, so LR sample p lies at HR position scale*p for every parity of both sizes (a centred FFT
    would shift by a pixel when the LR size is odd). A size that is not a multiple of `scale` is extended with
    zeros at its far end, i.e. the field of view grows by less than one LR pixel.

    Args:
        image: (..., H, W), real or complex.
        scale: integer factor, 1 or more, or a pair of them (rows, columns).

    Returns:
        complex tensor (..., ceil(H/rows), ceil(W/columns)).
    """
    factors = pair(scale)
    height, width = image.shape[-2:]
    low = low_size(height, factors[0]), low_size(width, factors[1])
    padded = F.pad(image, (0, low[1] * factors[1] - width, 0, low[0] * factors[0] - height))
    kspace = torch.fft.fftshift(torch.fft.fft2(padded, norm="ortho"), dim=_AXES)
    top, left = ((n * factor) // 2 - n // 2 for n, factor in zip(low, factors, strict=True))
    kept = kspace[..., top : top + low[0], left : left + low[1]]
    return torch.fft.ifft2(torch.fft.ifftshift(kept, dim=_AXES), norm="ortho") / math.sqrt(math.prod(factors))


def truncate_adjoint(low: Tensor, scale: Scale, size: tuple[int, int] | None = None) -> Tensor:
    """Adjoint of `truncate`: zero-fill k-space; <truncate(x), y> = <x, truncate_adjoint(y)>.

    Args:
        low: (..., h, w), real or complex.
        scale: the factor of `truncate`.
        size: HR size (H, W) of x; scale times (h, w) if not given.

    Returns:
        complex tensor (..., H, W).
    """
    factors = pair(scale)
    n = low.shape[-2:]
    full = n[0] * factors[0], n[1] * factors[1]
    kspace = torch.fft.fftshift(torch.fft.fft2(low, norm="ortho"), dim=_AXES)
    top, left = (full[0] // 2 - n[0] // 2), (full[1] // 2 - n[1] // 2)
    kspace = F.pad(kspace, (left, full[1] - n[1] - left, top, full[0] - n[0] - top))
    image = torch.fft.ifft2(torch.fft.ifftshift(kspace, dim=_AXES), norm="ortho") / math.sqrt(math.prod(factors))
    height, width = size or full
    return image[..., :height, :width]


def degrade(image: Tensor, scale: Scale, kind: Degradation = "truncation") -> Tensor:
    """Return the LR image of a real, non-negative HR image.

    ``"truncation"`` is the MR acquisition with 1/scale of the matrix: magnitude of `truncate` (grid pixel0).
    ``"bicubic"`` is anti-aliased bicubic resampling (grid half), the convention of most published tables.

    Args:
        image: (..., H, W), real, values >= 0.
        scale: integer factor, or a pair (rows, columns); 1 returns the image.
        kind: the degradation.

    Returns:
        real tensor (..., ceil(H/scale), ceil(W/scale)), values >= 0, same intensity scale.

    Raises:
        ValueError: unknown `kind` or scale below 1.
    """
    if kind == "truncation":
        return truncate(image, scale).abs()
    if kind != "bicubic":
        raise ValueError(f"degradation is {kind!r}; known are {sorted(GRID_OF)}")
    rows, columns = pair(scale)
    height, width = image.shape[-2:]
    low = low_size(height, rows), low_size(width, columns)
    flat = image.reshape(-1, 1, height, width)
    flat = F.pad(flat, (0, low[1] * columns - width, 0, low[0] * rows - height), mode="replicate")
    small = F.interpolate(flat, size=low, mode="bicubic", antialias=True, align_corners=False)
    return small.clamp_min(0).reshape(*image.shape[:-2], *low)


def zero_filled(low: Tensor, scale: Scale, size: tuple[int, int] | None = None, grid: Grid = "pixel0") -> Tensor:
    """Zero-filled (sinc) upsampling of a real LR image.

    Exact for band-limited images. For the half grid the linear phase of (scale-1)/2 HR pixels is undone.

    Args:
        low: (..., h, w), real.
        scale: integer factor.
        size: HR size (H, W) to crop to; scale * (h, w) if not given.
        grid: where the LR samples lie.

    Returns:
        real tensor (..., H, W), same intensity scale; may ring below zero.
    """
    rows, columns = pair(scale)
    if grid == "pixel0":
        return (truncate_adjoint(low, scale, size) * (rows * columns)).real
    height, width = low.shape[-2] * rows, low.shape[-1] * columns
    kspace = torch.fft.fft2(truncate_adjoint(low, scale) * (rows * columns))
    shift = (max(rows, columns) - 1) / 2  # along the axis with the larger factor; in the same units along the other
    down, right = (0.0 if factor == 1 else (factor - 1) / 2 / shift for factor in (rows, columns))
    fy = torch.fft.fftfreq(height, device=low.device).unsqueeze(-1)
    fx = torch.fft.fftfreq(width, device=low.device)
    moved = torch.fft.ifft2(kspace * torch.exp(-2j * torch.pi * shift * (down * fy + right * fx))).real
    return moved[..., : size[0], : size[1]] if size else moved


def zero_filled_acquisition(image: Tensor, scale: Scale) -> Tensor:
    """Magnitude of the image whose k-space is zero outside the central 1/scale: what a scanner's "ZIP" shows.

    It starts from the complex k-space, as the scanner does, and so is 0.3-0.5 dB better than `zero_filled` of the
    magnitude LR image, which has lost the sign of the ringing. The baseline to beat.

    Args:
        image: (..., H, W) HR image.
        scale: integer factor.

    Returns:
        real tensor (..., H, W), values >= 0.
    """
    size = image.shape[-2], image.shape[-1]
    return (truncate_adjoint(truncate(image, scale), scale, size) * math.prod(pair(scale))).abs()


def _cubic(x: float, a: float = -0.75) -> float:
    """Cubic convolution kernel (Keys, IEEE TASSP 1981), with the a of `torch.nn.functional.interpolate`."""
    x = abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


@lru_cache(maxsize=32)
def interpolation_kernel(scale: int | tuple[int, int], grid: Grid) -> Tensor:
    """Bicubic interpolation as a convolution to rows * columns phases, the factors of `scale`.

    Returns:
        (rows*columns, 1, 5, 5) float32: kernel of HR phase (r, c) at row r * columns + c, taps at LR offsets -2..2.
    """
    kernel = torch.einsum("ri,cj->rcij", *(_phases(factor, grid) for factor in pair(scale)))
    return kernel.flatten(0, 1).unsqueeze(1).float()


def _phases(scale: int, grid: Grid) -> Tensor:
    """Return the weights (scale, 5) float64 of LR samples -2..2 in each HR phase along one axis."""
    centre = 0.0 if grid == "pixel0" else (scale - 1) / 2
    rows = [[_cubic((phase - centre) / scale - tap) for tap in range(-2, 3)] for phase in range(scale)]
    return torch.tensor(rows, dtype=torch.float64)


def interpolate(low: Tensor, scale: Scale, grid: Grid = "pixel0", kernel: Tensor | None = None) -> Tensor:
    """Grid-aligned bicubic upsampling.

    On the half grid this is `torch.nn.functional.interpolate(mode="bicubic")`; on pixel0 it has no torch name.

    It computes in the precision of `low` under autocast, too: 16 bits would round the image itself.

    Args:
        low: (N, 1, h, w), real.
        scale: integer factor, or a pair (rows, columns).
        grid: where the LR samples lie.
        kernel: `interpolation_kernel(scale, grid)` on the right device, where the caller keeps one.

    Returns:
        (N, 1, rows*h, columns*w), same intensity scale.
    """
    if kernel is None:
        kernel = interpolation_kernel(pair(scale), grid).to(low)
    if torch.is_autocast_enabled(low.device.type):
        with torch.autocast(low.device.type, enabled=False):
            return interpolate(low, scale, grid, kernel)
    phases = F.conv2d(F.pad(low, (2, 2, 2, 2), mode="replicate"), kernel)
    return pixel_shuffle(phases, scale)
