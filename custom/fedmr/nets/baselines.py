"""Published super-resolution networks to compare MSCAN with: what they share, and SRCNN and VDSR.

The others, which upsample last, are in `fedmr.nets.residual` and `fedmr.nets.span`. Default arguments give the
published size, RCAN apart.
"""

from itertools import pairwise
from typing import ClassVar

from torch import Tensor, nn

from fedmr.nets.mscan import conv
from fedmr.physics.degradation import Grid, Scale, interpolate, interpolation_kernel, pair, pixel_shuffle, scale_text


class Peer(nn.Module):
    """A published architecture, on the grid of the task.

    SRCNN and VDSR start from the interpolated image. The others upsample last and publish no skip from image to image:
    they have to learn the interpolation, and the grid with it. `skip` adds the interpolation on the right grid to
    their output and starts their last convolution at zero, as MSCAN has it, so that they can be compared with and
    without. No mean of a data set is subtracted: MR intensities come scaled to about [0, 1].

    Args:
        layers: the network; interpolated image to image if `upsamples_first`, else LR image to SR image.
        scale: factor, 2, 3 or 4, or a pair (rows, columns) of them and 1; 1 for an image of the same size.
        grid: sampling grid of the interpolation, "pixel0" for k-space truncation, "half" for bicubic.
        skip: add the interpolated image to the output of the layers.

    Raises:
        ValueError: a scale or grid that is none of these.
    """

    upsamples_first: ClassVar[bool] = False

    def __init__(self, layers: nn.Sequential, scale: Scale, grid: Grid, *, skip: bool) -> None:
        super().__init__()
        self.scale, self.grid, self.skip, self.layers = pair(scale), grid, skip, layers
        if max(self.scale) not in (1, 2, 3, 4):
            raise ValueError(f"{type(self).__name__}: scale is {scale_text(scale)}; known are 1, 2, 3, 4")
        if grid not in ("pixel0", "half"):
            raise ValueError(f"{type(self).__name__}: grid is {grid!r}; known are 'pixel0', 'half'")
        if skip:
            last = [layer for layer in layers.modules() if isinstance(layer, nn.Conv2d)][-1]
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.register_buffer("kernel", interpolation_kernel(self.scale, grid).clone(), persistent=False)

    def forward(self, low: Tensor) -> Tensor:
        """LR image (N, in_channels, h, w), about [0, 1], to SR image (N, in_channels, rows*h, columns*w)."""
        if not (self.skip or self.upsamples_first):
            return self.layers(low)
        image = self._interpolated(low)
        high: Tensor = self.layers(image if self.upsamples_first else low)
        return image + high if self.skip else high

    def _interpolated(self, low: Tensor) -> Tensor:
        channels = low.flatten(0, 1).unsqueeze(1)
        high = interpolate(channels, self.scale, self.grid, self.get_buffer("kernel"))
        return high.squeeze(1).unflatten(0, low.shape[:2])


class PixelShuffle(nn.Module):
    """Last part of a sub-pixel convolution, `physics.degradation.pixel_shuffle`, with a factor for each axis."""

    def __init__(self, scale: Scale) -> None:
        super().__init__()
        self.scale = pair(scale)

    def forward(self, phases: Tensor) -> Tensor:
        """Map (N, C*rows*columns, h, w) to (N, C, rows*h, columns*w)."""
        return pixel_shuffle(phases, self.scale)


class SRCNN(Peer):
    """SRCNN 9-5-5: patch extraction, non-linear mapping, reconstruction.

    Dong, Loy, He, Tang, "Image super-resolution using deep convolutional networks", TPAMI 2016, arXiv 1501.00092,
    equations 1-3; 9-5-5 with 64 and 32 filters is what section 4.4 compares with others. The convolutions of the paper
    shrink the image in training; here zeros are padded.

    The published start (section 3.3), normal weights of deviation 0.001, is made for 10^8 steps of gradient descent.
    Under Adam it closes half of the ReLUs for good and after 432 steps is 4 dB behind torch's start, which is the
    default. Either wants a learning rate of about 5e-4; at 2e-3 and with `skip` nearly all of the second layer closes.

    Args:
        scale, grid, skip: as of `Peer`.
        channels: n1, filters of the first layer; the second has half of it.
        mapping: f2, kernel size of the second layer: 1, 3 or 5 in section 4.3.2.
        deviation: of the starting weights, 0.001 as published; torch's start if None.
        in_channels: of the image.
    """

    upsamples_first = True

    def __init__(
        self,
        scale: Scale = 2,
        *,
        channels: int = 64,
        mapping: int = 5,
        deviation: float | None = None,
        in_channels: int = 1,
        grid: Grid = "pixel0",
        skip: bool = False,
    ) -> None:
        widths = in_channels, channels, channels // 2, in_channels
        convs = [conv(*width, kernel) for width, kernel in zip(pairwise(widths), (9, mapping, 5), strict=True)]
        if deviation is not None:
            for layer in convs:
                nn.init.normal_(layer.weight, std=deviation)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        layers = nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU(), convs[2])
        super().__init__(layers, scale, grid, skip=skip)


class VDSR(Peer):
    """VDSR: 20 convolutions that add a residual to the interpolated image.

    Kim, Lee, Lee, "Accurate image super-resolution using very deep convolutional networks", CVPR 2016,
    arXiv 1511.04587, section 3.1. The skip is part of it. Weights start as of He et al. (section 5.2).

    Args:
        scale, grid: as of `Peer`.
        channels: filters per layer.
        depth: number of convolutions, 2 or more; the receptive field is 2 * depth + 1 HR pixels.
        in_channels: of the image.
    """

    upsamples_first = True

    def __init__(
        self, scale: Scale = 2, *, channels: int = 64, depth: int = 20, in_channels: int = 1, grid: Grid = "pixel0"
    ) -> None:
        widths = [in_channels, *[channels] * (depth - 1), in_channels]
        convs = [conv(*width) for width in pairwise(widths)]
        layers = nn.Sequential(*(module for layer in convs[:-1] for module in (layer, nn.ReLU())), convs[-1])
        super().__init__(layers, scale, grid, skip=True)
        for layer in convs:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
