"""Any network from image to image, e.g. of `monai.networks.nets`, made fit for super-resolution and reconstruction."""

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedmr.physics.degradation import Grid, Scale, interpolate, interpolation_kernel, pair
from fedmr.utils.class_path import construct, locate

_DEFAULTS = {"spatial_dims": 2, "in_channels": 1, "out_channels": 1}


class Wrapped(nn.Module):
    """A network that predicts what is missing from the interpolated, or from the zero-filled, image.

    Slices are padded to a multiple that the network's poolings divide and cut back. Training starts at the
    interpolation: the network's output has a gain that starts at zero (Bachlechner et al., UAI 2021, "ReZero"), which
    unlike a last layer at zero goes with every architecture.

    Args:
        net: maps (N, 1, H, W) to (N, 1, H, W).
        scale: super-resolution factor, or a pair (rows, columns); 1 for reconstruction.
        grid: sampling grid of the interpolation, "pixel0" for k-space truncation, "half" for bicubic.
        multiple: of which sides must be for the network.

    Raises:
        ValueError: the network gives something else than an image of the same size.
    """

    def __init__(self, net: nn.Module, *, scale: Scale = 1, grid: Grid = "pixel0", multiple: int = 32) -> None:
        super().__init__()
        self.net, self.scale, self.grid, self.multiple = net, pair(scale), grid, multiple
        if self.enlarges:
            self.register_buffer("kernel", interpolation_kernel(self.scale, grid).clone(), persistent=False)
        self.gain = nn.Parameter(torch.zeros(()))
        _check_output(net, torch.linspace(-1, 1, (2 * multiple) ** 2).reshape(1, 1, 2 * multiple, 2 * multiple))

    @property
    def enlarges(self) -> bool:
        """Whether it is for super-resolution."""
        return self.scale != (1, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, 1, h, w) to (N, 1, scale*h, scale*w)."""
        if self.enlarges:
            image = interpolate(image, self.scale, self.grid, self.get_buffer("kernel"))
        height, width = image.shape[-2:]
        padded = F.pad(image, (0, -width % self.multiple, 0, -height % self.multiple), mode="replicate")
        missing: Tensor = self.net(padded)[..., :height, :width]
        return image + self.gain * missing


def wrap(path: str, *, scale: Scale = 1, grid: Grid = "pixel0", multiple: int = 32, **args: Any) -> nn.Module:
    """Construct a network by its class path.

    A class that takes `scale` is taken to enlarge by itself and stays as it is; it is given `grid` if it takes that.
    Others are wrapped. Number of axes and channels need not be given.

    Args:
        path: class path, allowed as `utils.class_path` says.
        scale, grid, multiple: as of `Wrapped`.
        args: the class's arguments.

    Returns:
        the network; (N, 1, h, w) -> (N, 1, scale*h, scale*w).

    Raises:
        ValueError: the class is not allowed, takes other arguments, or is no such network.
    """
    parameters = inspect.signature(locate(path, nn.Module)).parameters
    args = {name: value for name, value in _DEFAULTS.items() if name in parameters} | args
    if "scale" in parameters:
        own = {"scale": scale} | ({"grid": grid} if "grid" in parameters else {})
        return construct(path, nn.Module, **args, **own)
    net = construct(path, nn.Module, **args)
    try:
        return Wrapped(net, scale=scale, grid=grid, multiple=multiple)
    except ValueError as error:
        raise ValueError(f"task: {path}: {error}") from None


@torch.no_grad()
def _check_output(net: nn.Module, probe: Tensor) -> None:
    """Refuse a network whose output for an image (1, 1, h, w) is none of the same shape, by a ValueError."""
    was_training = net.training
    try:
        output = net.eval()(probe)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"it fails on an image of {tuple(probe.shape)}: {reason}. Set multiple or its args") from None
    finally:
        net.train(was_training)
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if shape != tuple(probe.shape):
        raise ValueError(f"it makes {shape} of an image of {tuple(probe.shape)}; it must be an image of the same size")
