"""Published super-resolution networks of residual blocks: EDSR, RCAN and MSRN. See `fedmr.nets.baselines.Peer`."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedmr.nets.baselines import Peer, PixelShuffle
from fedmr.nets.mscan import conv
from fedmr.physics.degradation import Grid, Scale, pair


class Residual(nn.Sequential):
    """Layers whose output is added to their input."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, h, w) to (N, C, h, w)."""
        return x + super().forward(x)  # type: ignore[no-untyped-call]


def sub_pixel(channels: int, scale: Scale) -> list[nn.Module]:
    """Upsampling of features by sub-pixel convolution, x4 in two steps, as EDSR (figure 3), RCAN and MSRN have it."""
    steps = [(2, 2), (2, 2)] if pair(scale) == (4, 4) else [pair(scale)]
    return [layer for s in steps for layer in (conv(channels, math.prod(s) * channels), PixelShuffle(s))]


class EDSR(Peer):
    """EDSR, by default the single-scale baseline model.

    Lim, Son, Kim, Nah, Lee, "Enhanced deep residual networks for single image super-resolution", CVPR workshops 2017,
    arXiv 1707.02921, figures 2c and 3; 16 blocks of 64 channels without residual scaling are the baseline (table 1).

    Args:
        scale, grid, skip: as of `Peer`.
        channels: features per layer.
        blocks: number of residual blocks.
        in_channels: of the image.
    """

    def __init__(
        self,
        scale: Scale = 2,
        *,
        channels: int = 64,
        blocks: int = 16,
        in_channels: int = 1,
        grid: Grid = "pixel0",
        skip: bool = False,
    ) -> None:
        body = [Residual(conv(channels, channels), nn.ReLU(), conv(channels, channels)) for _ in range(blocks)]
        layers = nn.Sequential(
            conv(in_channels, channels),
            Residual(*body, conv(channels, channels)),
            *sub_pixel(channels, scale),
            conv(channels, in_channels),
        )
        super().__init__(layers, scale, grid, skip=skip)


class ChannelAttention(nn.Module):
    """Squeeze-and-excitation: a gain in (0, 1) for each channel from the means of all."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        squeezed = max(channels // reduction, 4)  # 4 is what the paper has; fewer can all die under the ReLU
        self.gain = nn.Sequential(conv(channels, squeezed, 1), nn.ReLU(), conv(squeezed, channels, 1), nn.Sigmoid())

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, C, h, w) to (N, C, h, w)."""
        gain: Tensor = self.gain(features.mean(dim=(2, 3), keepdim=True))
        return features * gain


class RCAN(Peer):
    """RCAN: residual groups of residual blocks with channel attention.

    Zhang, Li, Li, Wang, Zhong, Fu, "Image super-resolution using very deep residual channel attention networks",
    ECCV 2018, arXiv 1807.02758, sections 3.2-3.4. The published size is groups=10, blocks=20 (section 3.5), ten times
    the default, which is about that of EDSR's baseline.

    Args:
        scale, grid, skip: as of `Peer`.
        channels: features per layer.
        groups: G, number of residual groups.
        blocks: B, residual blocks per group.
        reduction: squeeze factor r of the attention.
        in_channels: of the image.
    """

    def __init__(
        self,
        scale: Scale = 2,
        *,
        channels: int = 64,
        groups: int = 4,
        blocks: int = 4,
        reduction: int = 16,
        in_channels: int = 1,
        grid: Grid = "pixel0",
        skip: bool = False,
    ) -> None:
        def block() -> Residual:
            convs = conv(channels, channels), nn.ReLU(), conv(channels, channels)
            return Residual(*convs, ChannelAttention(channels, reduction))

        def group() -> Residual:
            return Residual(*(block() for _ in range(blocks)), conv(channels, channels))

        layers = nn.Sequential(
            conv(in_channels, channels),
            Residual(*(group() for _ in range(groups)), conv(channels, channels)),
            *sub_pixel(channels, scale),
            conv(channels, in_channels),
        )
        super().__init__(layers, scale, grid, skip=skip)


class MSRB(nn.Module):
    """Multi-scale residual block of MSRN: two paths of 3x3 and of 5x5 kernels that exchange features."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.ModuleList([conv(channels, channels, k) for k in (3, 5)])
        self.second = nn.ModuleList([conv(2 * channels, 2 * channels, k) for k in (3, 5)])
        self.fuse = conv(4 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, h, w) to (N, C, h, w)."""
        features = x
        for layers in (self.first, self.second):
            features = torch.cat([F.relu(layer(features)) for layer in layers], dim=1)
        fused: Tensor = self.fuse(features)
        return x + fused


class Hierarchy(nn.Module):
    """Blocks one after the other; the input and all their outputs are fused by a 1x1 convolution."""

    def __init__(self, channels: int, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.fuse = conv((len(blocks) + 1) * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, h, w) to (N, C, h, w)."""
        outputs = [x]
        for block in self.blocks:
            outputs.append(block(outputs[-1]))
        fused: Tensor = self.fuse(torch.cat(outputs, dim=1))
        return fused


class MSRN(Peer):
    """MSRN: multi-scale residual blocks and fusion of their outputs.

    Li, Fang, Mei, Zhang, "Multi-scale residual network for image super-resolution", ECCV 2018, sections 3.1-3.3; x4 is
    done in two steps, as in the code that the authors published.

    Args:
        scale, grid, skip: as of `Peer`.
        channels: features per layer.
        blocks: number of multi-scale residual blocks.
        in_channels: of the image.
    """

    def __init__(
        self,
        scale: Scale = 2,
        *,
        channels: int = 64,
        blocks: int = 8,
        in_channels: int = 1,
        grid: Grid = "pixel0",
        skip: bool = False,
    ) -> None:
        layers = nn.Sequential(
            conv(in_channels, channels),
            Hierarchy(channels, [MSRB(channels) for _ in range(blocks)]),
            conv(channels, channels),
            *sub_pixel(channels, scale),
            conv(channels, in_channels),
        )
        super().__init__(layers, scale, grid, skip=skip)
