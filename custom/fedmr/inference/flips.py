"""Mean and spread of a network over the flips of its input, which a perfect network would not notice.

The mean is the geometric self-ensemble of EDSR (Lim et al., CVPR Workshops 2017); the standard deviation, as a map of
uncertainty, is the test-time augmentation of Wang et al. (Neurocomputing 2019). How far it tells the true error is
measured by `benchmarks/uncertainty.py`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from fedmr.physics.degradation import Grid

FLIPS: tuple[tuple[int, ...], ...] = ((), (-2,), (-1,), (-2, -1))  # axes that are turned round


def flip(image: Tensor, axes: tuple[int, ...], grid: Grid) -> Tensor:
    """Turn axes of (..., H, W) round such that a flipped HR image has the flipped LR image as its measurement.

    On grid "half" samples lie symmetrically, so this is the plain flip. On grid "pixel0" the first LR sample lies on
    the first HR sample; that one stays where it is, and sample i changes places with sample n - i.
    """
    turned = image.flip(axes)
    return turned.roll([1] * len(axes), axes) if grid == "pixel0" and axes else turned


def over_flips(net: Callable[[Tensor], Tensor], low: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Apply a network to all flips of (N, h, w), about [0, 1]: mean and standard deviation, (N, rows*h, columns*w)."""
    results = torch.stack([flip(net(flip(low, axes, grid)), axes, grid) for axes in FLIPS])
    return results.mean(0), results.std(0)
