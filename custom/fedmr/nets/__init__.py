"""Networks by name. A new network is one class here and one line in `NETWORKS`."""

from typing import Any

import torch
from torch import nn

from fedmr.nets.baselines import SRCNN, VDSR
from fedmr.nets.mscan import MSCAN
from fedmr.nets.residual import EDSR, MSRN, RCAN
from fedmr.nets.span import SPAN
from fedmr.nets.unet import UNet

NETWORKS: dict[str, type[nn.Module]] = {
    "mscan": MSCAN,
    "srcnn": SRCNN,
    "vdsr": VDSR,
    "edsr": EDSR,
    "rcan": RCAN,
    "msrn": MSRN,
    "span": SPAN,
    "unet": UNet,
}


def build(name: str, *, seed: int = 0, **args: Any) -> nn.Module:
    """Construct a network with reproducible initial weights, in channels_last memory format.

    Args:
        name: key of `NETWORKS`.
        seed: seed of the initial weights; the global random state is left alone.
        args: constructor arguments of the network.

    Returns:
        the network; (N, 1, h, w) -> (N, 1, scale*h, scale*w); scale 1 for reconstruction.

    Raises:
        ValueError: unknown name, or arguments the network does not take.
    """
    if name not in NETWORKS:
        raise ValueError(f"network {name!r} is unknown; known are {sorted(NETWORKS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            net = NETWORKS[name](**args)
        except TypeError as error:
            raise ValueError(f"network {name!r} does not take the arguments {args}: {error}") from error
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def title(name: str) -> str:
    """Return the name of a network as people write it."""
    return {"unet": "U-Net"}.get(name, name.upper())


def count_parameters(net: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)
