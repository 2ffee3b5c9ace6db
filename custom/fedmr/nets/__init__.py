"""Networks by name or class path. A new network is one class here and one line in `NETWORKS`, or one elsewhere."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from fedmr.nets.baselines import SRCNN, VDSR
from fedmr.nets.mscan import MSCAN
from fedmr.nets.residual import EDSR, MSRN, RCAN
from fedmr.nets.span import SPAN
from fedmr.nets.unet import UNet
from fedmr.nets.wrapped import wrap
from fedmr.utils.class_path import TARGET

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


def build(name: str = "", *, seed: int = 0, **args: Any) -> nn.Module:
    """Construct a network with reproducible initial weights, in channels_last memory format.

    Args:
        name: key of `NETWORKS`; none if `_target_` is the path of a class, see `wrapped.wrap`.
        seed: seed of the initial weights; the global random state is left alone.
        args: constructor arguments of the network, `_target_` among them if it is no network of ours.

    Returns:
        the network; (N, 1, h, w) -> (N, 1, scale*h, scale*w); scale 1 for reconstruction.

    Raises:
        ValueError: unknown name, or arguments the network does not take.
    """
    path = args.pop(TARGET, None)
    if path is not None and name:
        raise ValueError(f"network has both name {name!r} and {TARGET} {path!r}; write `task.network = null` before it")
    if path is None and name not in NETWORKS:
        raise ValueError(f"network {name!r} is unknown; known are {sorted(NETWORKS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            net = NETWORKS[name](**args) if path is None else wrap(path, **args)
        except TypeError as error:
            raise ValueError(f"network {name!r} does not take the arguments {args}: {error}") from error
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def build_trained(network: Mapping[str, Any], weights: Mapping[str, Any]) -> nn.Module:
    """Construct the network of a task with weights from a file.

    Args:
        network: arguments of `build`.
        weights: tensors or arrays by their names in the network.

    Returns:
        the network; (N, 1, h, w) -> (N, 1, scale*h, scale*w); scale 1 for reconstruction.

    Raises:
        ValueError: weights of another network, or that are not finite; the message continues the name of the file.
    """
    try:
        net = build(**network)
        tensors = {name: torch.as_tensor(value) for name, value in weights.items()}
        net.load_state_dict(tensors)
    except (RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())  # torch writes a line per tensor
        raise ValueError(f"does not hold the network {dict(network)}: {reason[:300]}") from None
    bad = [name for name, value in tensors.items() if not torch.isfinite(value).all()]
    if bad:
        raise ValueError(f"holds weights that are NaN or infinite, in {bad[0]}; its training failed")
    return net


def name_of(network: Mapping[str, Any]) -> str:
    """Return the name in a task's network: ours, or the class's without its module."""
    return str(network["name"]) if TARGET not in network else str(network[TARGET]).rpartition(".")[2]


def title(network: Mapping[str, Any]) -> str:
    """Return the name of a task's network as people write it."""
    name = name_of(network)
    return name if TARGET in network else {"unet": "U-Net"}.get(name, name.upper())


def count_parameters(net: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)
