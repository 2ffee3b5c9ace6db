"""SPAN, a published network made to be fast. See `fedmr.nets.baselines.Peer`."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedmr.nets.baselines import Peer, PixelShuffle
from fedmr.nets.mscan import conv
from fedmr.physics.degradation import Grid, Scale, pair


class SPAB(nn.Module):
    """Swift parameter-free attention block of SPAN: the features gate themselves by sigmoid(H) - 1/2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList([conv(channels, channels) for _ in range(3)])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, C, h, w) to the output and the activated output of the first convolution, both (N, C, h, w)."""
        first = F.silu(self.convs[0](x))
        features = self.convs[2](F.silu(self.convs[1](first)))
        return (x + features) * (torch.sigmoid(features) - 0.5), first


class SPANBody(nn.Module):
    """From the image to the fused features of SPAN."""

    def __init__(self, in_channels: int, channels: int, blocks: int) -> None:
        super().__init__()
        self.head = conv(in_channels, channels)
        self.blocks = nn.ModuleList([SPAB(channels) for _ in range(blocks)])
        self.last = conv(channels, channels)
        self.fuse = conv(4 * channels, channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, in_channels, h, w) to (N, C, h, w)."""
        shallow = self.head(image)
        x, outputs = shallow, []
        for block in self.blocks:
            x, first = block(x)
            outputs.append(x)
        fused: Tensor = self.fuse(torch.cat([shallow, self.last(x), outputs[0], first], dim=1))
        return fused


class Times(nn.Module):
    """Multiplication by a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Return the features times the factor, in the same shape."""
        return self.factor * x


class SPAN(Peer):
    """SPAN: the attention of a block is an odd function of its own features, without parameters.

    Wan, Yu, Li, Chen, Zou, Liu, Yin, Zuo, "Swift parameter-free attention network for efficient super-resolution", CVPR
    workshops 2024, arXiv 2311.12770. Each 3x3 convolution is one here; the authors train a sum of convolutions in its
    place and fold it afterwards, which would send four times as many weights through a federation. The gate is not
    indifferent to the scale of intensities, so the layers work on 0 to 255, as published.

    Args:
        scale, grid, skip: as of `Peer`.
        channels: features per layer.
        blocks: number of attention blocks.
        in_channels: of the image.
    """

    def __init__(
        self,
        scale: Scale = 2,
        *,
        channels: int = 48,
        blocks: int = 6,
        in_channels: int = 1,
        grid: Grid = "pixel0",
        skip: bool = False,
    ) -> None:
        layers = nn.Sequential(
            Times(255),
            SPANBody(in_channels, channels, blocks),
            conv(channels, math.prod(pair(scale)) * in_channels),
            PixelShuffle(scale),
            Times(1 / 255),
        )
        super().__init__(layers, scale, grid, skip=skip)
