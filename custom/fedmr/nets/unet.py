"""The U-Net of fastMRI, which FL-MR and FL-MRCM train.

Zbontar et al., arXiv:1811.08839, section 5.2, after Ronneberger et al., MICCAI 2015; Guo et al., CVPR 2021, align its
bottleneck across sites. MONAI's BasicUNet and ComplexUnet are other networks: maximum pooling, biases before the
normalisation, no normalisation after upsampling, and widths that do not give these weights.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.2
LATENT_SIDE = 2  # FL-MRCM pools the bottleneck to 2 x 2


class UNet(nn.Module):
    """U-Net from image to image of the same size, one channel each, for images of any size from 32 x 32 on.

    Nothing in it counts or averages over batches (instance norm without weights), so it suits federated averaging.

    Args:
        channels: of the first level, doubled by each pooling; 32 is paper size (7.76 M parameters with 4 poolings).
        pools: number of poolings by 2.
        skip: add the input to the output and start from zero, so that the untrained network changes nothing. Not in
            the paper.
    """

    def __init__(self, *, channels: int = 32, pools: int = 4, skip: bool = False) -> None:
        super().__init__()
        widths = [channels * 2**level for level in range(pools + 1)]
        self.skip = skip
        self.down = nn.ModuleList(_double(a, b) for a, b in pairwise([1, *widths[:-1]]))
        self.bottleneck = _double(*widths[-2:])
        self.up = nn.ModuleList(_upsample(2 * width, width) for width in reversed(widths[:-1]))
        self.merge = nn.ModuleList(_double(2 * width, width) for width in reversed(widths[:-1]))
        self.head = nn.Conv2d(channels, 1, 1)
        if skip:
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, 1, H, W), standardised, to (N, 1, H, W) on the same scale."""
        features, levels = self.encode(image)
        for up, merge, level in zip(self.up, self.merge, reversed(levels), strict=True):
            features = up(features)
            short = level.shape[-1] - features.shape[-1], level.shape[-2] - features.shape[-2]
            if any(short):  # a pooling dropped the last row or column of an odd size
                features = F.pad(features, (0, short[0], 0, short[1]), mode="reflect")
            features = merge(torch.cat([features, level], dim=1))
        output: Tensor = self.head(features)
        return image + output if self.skip else output

    def encode(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the bottleneck (N, C, h, w), C = channels * 2**pools, and the features that the way up takes in."""
        levels = []
        for down in self.down:
            image = down(image)
            levels.append(image)
            image = F.avg_pool2d(image, 2)
        return self.bottleneck(image), levels

    def latent(self, image: Tensor) -> Tensor:
        """Return the pooled bottleneck (N, 4*C) of images (N, 1, H, W)."""
        return pooled(self.encode(image)[0])


def pooled(bottleneck: Tensor) -> Tensor:
    """Return the latent of FL-MRCM, (N, 4*C), of a bottleneck (N, C, h, w), e.g. of one that a forward hook caught."""
    return F.adaptive_avg_pool2d(bottleneck, LATENT_SIDE).flatten(1)


def _double(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(*_normalised(_conv(inputs, outputs)), *_normalised(_conv(outputs, outputs)))


def _conv(inputs: int, outputs: int) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)


def _upsample(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(*_normalised(nn.ConvTranspose2d(inputs, outputs, 2, stride=2, bias=False)))


def _normalised(layer: nn.Module) -> list[nn.Module]:
    width = int(layer.out_channels)  # type: ignore[arg-type]
    return [layer, nn.InstanceNorm2d(width), nn.LeakyReLU(SLOPE)]
