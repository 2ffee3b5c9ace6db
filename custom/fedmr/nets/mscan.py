"""MSCAN, our reconstruction of the multi-scale channel attention network.

Liu, Jiang, Chen, "A multi-scale channel attention network with federated learning for magnetic resonance image
super-resolution", Multimedia Systems 2024, doi 10.1007/s00530-024-01415-8. Only the abstract is public; every
choice it leaves open is a constructor argument, so that the published ablations can be run.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedmr.physics.degradation import Grid, Scale, interpolate, interpolation_kernel, pair, pixel_shuffle

Attention = Literal["none", "joint", "softmax"]
Scales = Literal["chain", "parallel", "single"]
Start = Literal["torch", "he"]
Pooling = Literal["mean", "contrast"]

N_SCALES = 3  # receptive fields 3, 5 and 7
FUSE_GAIN = 0.3  # of the start "he"; from one run each with 1, 0.3 and 0.1 (benchmarks/archive/tuning_study.md)


def conv(inputs: int, outputs: int, kernel: int = 3) -> nn.Conv2d:
    """Convolution that keeps the image size."""
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)


def start_he(layer: nn.Module, gain: float = 1.0) -> None:
    """Draw normal weights whose outputs have gain^2 times the mean square of the inputs (He et al., ICCV 2015)."""
    if isinstance(layer, nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
        with torch.no_grad():
            layer.weight.mul_(gain)
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


def spatial_mean(features: Tensor) -> Tensor:
    """(N, C, h, w) to (N, C). As `.mean`, whose gradient fills an array of the features' size."""
    return features.sum(dim=(2, 3)) / features[0, 0].numel()


class ScaleAttention(nn.Module):
    """Attention among the features at different scales; every gain starts at 1.

    joint: squeeze-and-excitation over all S*C channels at once, gain 2*sigmoid.
    softmax: per channel a softmax across the S scales, gain S*softmax (as in selective-kernel networks).
    """

    def __init__(self, channels: int, kind: Attention, reduction: int, pooling: Pooling) -> None:
        super().__init__()
        self.kind, self.pooling = kind, pooling
        squeezed = channels * (N_SCALES if kind == "joint" else 1)
        self.squeeze = nn.Linear(squeezed, max(squeezed // reduction, 4))
        self.excite = nn.Linear(self.squeeze.out_features, channels * N_SCALES)
        nn.init.zeros_(self.excite.weight)
        nn.init.zeros_(self.excite.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, S*C, h, w) to their gains (N, S*C)."""
        n = features.shape[0]
        pooled = spatial_mean(features)
        if self.pooling == "contrast":
            spread = spatial_mean(features * features) - pooled * pooled
            pooled = pooled + (spread.clamp_min(0) + 1e-6).sqrt()
        if self.kind == "softmax":
            pooled = pooled.view(n, N_SCALES, -1).sum(dim=1)
        # leaky: with few squeezed channels all of them can die under a plain ReLU, and attention with them
        logits = self.excite(F.leaky_relu(self.squeeze(pooled), 0.1))
        if self.kind == "joint":
            return 2 * torch.sigmoid(logits)
        return N_SCALES * torch.softmax(logits.view(n, N_SCALES, -1), dim=1).flatten(1)


class Fusion(nn.Conv2d):
    """1x1 convolution of features that attention weighs.

    The gains multiply the weights, not the features, which are far more: a training step takes a tenth less time. The
    convolution is then a matrix product of its own for every image.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)

    def forward(self, features: Tensor, gains: Tensor | None = None) -> Tensor:
        """Features (N, inputs, h, w) and gains (N, inputs), 1 if None -> (N, outputs, h, w)."""
        if gains is None:
            return super().forward(features)
        weights = self.weight.flatten(1) * gains.unsqueeze(1)
        pixels = features.permute(0, 2, 3, 1)
        fused = torch.baddbmm(self.get_parameter("bias"), pixels.flatten(1, 2), weights.mT)
        return fused.unflatten(1, pixels.shape[1:3]).permute(0, 3, 1, 2)


class MultiScaleBlock(nn.Module):
    """Multi-scale feature block (MSFB): features at three receptive fields, attention, 1x1 fusion, residual.

    chain: three 3x3 convolutions, with ReLU between them, whose intermediate outputs are the scales. parallel: one
    3x3, 5x5 and 7x7 kernel. single: one 3x3 path of the same width S*C, the ablation without scales.
    """

    def __init__(self, channels: int, variant: "Variant") -> None:
        super().__init__()
        scales, attention = variant.scales, variant.attention
        self.scales, self.preactivate, self.activate_scales = scales, variant.preactivate, variant.activate_scales
        if scales == "single":
            self.convs = nn.ModuleList([conv(channels, N_SCALES * channels)])
        else:
            kernels = (3, 3, 3) if scales == "chain" else (3, 5, 7)
            self.convs = nn.ModuleList([conv(channels, channels, k) for k in kernels])
        looks = variant.reduction, variant.pooling
        self.attention = None if attention == "none" else ScaleAttention(channels, attention, *looks)
        self.fuse = Fusion(N_SCALES * channels, channels)

    def start_he(self) -> None:
        """Features keep their size at every scale; the block is near the identity."""
        after_relu, chain = 2**0.5, self.scales == "chain"  # a ReLU halves the mean square
        for number, layer in enumerate(self.convs):
            start_he(layer, after_relu if chain and number else 1.0)
        start_he(self.fuse, FUSE_GAIN * (1.0 if chain else after_relu))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, h, w) to (N, C, h, w)."""
        if self.scales == "chain":
            features = [self.convs[0](F.leaky_relu(x, 0.1) if self.preactivate else x)]
            for layer in list(self.convs)[1:]:
                features.append(layer(F.relu(features[-1])))
        else:
            features = [F.relu(layer(x)) for layer in self.convs]
        joined = torch.cat(features, dim=1)
        if self.activate_scales:
            joined = F.leaky_relu(joined, 0.1)
        fused: Tensor = self.fuse(joined, self.attention(joined) if self.attention else None)
        return x + fused


@dataclass(frozen=True)
class Variant:
    """Choices that the abstract of the MSCAN paper leaves open.

    Attributes:
        scales: "chain", "parallel", or "single" (multi-scale switched off).
        attention: "joint", "softmax" or "none".
        reduction: squeeze factor of the attention.
        fuse_all: concatenate all block outputs before the last body layers, as MSRN does.
        start: initial weights of the convolutions before the last: "torch" draws them as torch does, and features lose
            about half of their size with every convolution; "he" keeps it.
        activate: leaky ReLU before the last convolution, else only blocks are non-linear.
        pooling: what the attention sees of a feature: its "mean", or "contrast", its mean plus its standard deviation
            (Hui et al., ACM Multimedia 2019).
        preactivate: leaky ReLU before the first convolution of a block of scales "chain".
        activate_scales: leaky ReLU on the features of every scale before they are fused; the scales that are no chain
            have a ReLU there already.

    Raises:
        ValueError: an unknown choice.
    """

    scales: Scales = "chain"
    attention: Attention = "joint"
    reduction: int = 4
    fuse_all: bool = True
    start: Start = "torch"
    activate: bool = False
    pooling: Pooling = "mean"
    preactivate: bool = False
    activate_scales: bool = False

    def __post_init__(self) -> None:
        _check("scales", self.scales, ("chain", "parallel", "single"))
        _check("attention", self.attention, ("joint", "softmax", "none"))
        _check("start", self.start, ("torch", "he"))
        _check("pooling", self.pooling, ("mean", "contrast"))


class MSCAN(nn.Module):
    """Multi-scale channel attention network for one-channel super-resolution.

    An untrained network is exactly the bicubic interpolation on `grid`: the last convolution starts at zero.
    No normalisation layers: they break federated averaging, encryption and DP-SGD.

    Args:
        scale: factor, 2, 3 or 4, or a pair (rows, columns) of them and 1; 1 for an image of the same size, as in
            reconstruction.
        channels: C; 64 is paper size.
        blocks: N; 8 is paper size (1.2 M parameters at x2).
        grid: sampling grid of the global skip, "pixel0" for k-space truncation, "half" for bicubic.
        variant: fields of `Variant`.

    Raises:
        ValueError: an unknown choice.
        TypeError: an unknown argument.
    """

    def __init__(
        self,
        scale: Scale = 2,
        *,
        channels: int = 64,
        blocks: int = 8,
        grid: Grid = "pixel0",
        **variant: Any,
    ) -> None:
        super().__init__()
        for factor in pair(scale):
            _check("scale", factor, (1, 2, 3, 4))
        _check("grid", grid, ("pixel0", "half"))
        v = Variant(**variant)
        self.scale, self.grid, self.fuse_all, self.activate = pair(scale), grid, v.fuse_all, v.activate
        self.head = conv(1, channels)
        self.body = nn.ModuleList([MultiScaleBlock(channels, v) for _ in range(blocks)])
        gathered = conv(blocks * channels, channels, 1) if v.fuse_all else nn.Identity()
        self.gather = nn.Sequential(gathered, conv(channels, channels))
        if v.start == "he":
            self._start_he()
        self.tail = conv(channels, math.prod(self.scale))
        nn.init.zeros_(self.tail.weight)
        nn.init.zeros_(self.tail.bias)  # type: ignore[arg-type]
        self.register_buffer("kernel", interpolation_kernel(self.scale, grid).clone(), persistent=False)

    def _start_he(self) -> None:
        for block in self.body:
            block.start_he()  # type: ignore[operator]
        for layer in (self.head, *self.gather):
            start_he(layer)

    def forward(self, low: Tensor) -> Tensor:
        """LR image (N, 1, h, w), about [0, 1], to SR image (N, 1, rows*h, columns*w)."""
        shallow = self.head(low)
        x, outputs = shallow, []
        for block in self.body:
            x = block(x)
            outputs.append(x)
        deep = shallow + self.gather(torch.cat(outputs, dim=1) if self.fuse_all else x)
        if self.activate:
            deep = F.leaky_relu(deep, 0.2)
        residual = pixel_shuffle(self.tail(deep), self.scale)
        return interpolate(low, self.scale, self.grid, self.get_buffer("kernel")) + residual


def _check(name: str, value: object, known: tuple[object, ...]) -> None:
    if value not in known:
        raise ValueError(f"MSCAN: {name} is {value!r}; known are {', '.join(map(repr, known))}")
