"""Latents that a target site of FL-MRCM gives away: pooled latents of a few of its training slices, and nothing else.

A latent is the bottleneck of the global network for a slice's zero-filled image, averaged over the image's quarters:
for the published U-Net 2048 numbers of a slice of 65,536. No pixel leaves, but a latent is made from a patient's slice.
Who has it and the network, i.e. the server and every source site, can look for images with the same latent, and can
tell whether a slice that they hold was among the target's. What bounds that is the number of latents per round, and
clipping with noise, if the task asks for them.

The noise gives the site the (epsilon, delta) that `privacy.mechanism` gives an update: all latents of a round are one
release, of norm at most C sqrt(V) for V latents of norm C, and any other data of the site would move it by at most
twice that. So noise that protects the whole site is large compared with one latent.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedmr.algorithms.flmrcm import LATENTS, Mrcm
from fedmr.nets.unet import UNet
from fedmr.physics.masks import seed_of
from fedmr.privacy.ledger import Charge
from fedmr.privacy.mechanism import Vector, clip, from_vector, gaussian_mechanism, system_normal
from fedmr.tasks.base import Sampler
from fedmr.tasks.slices import SliceSampler
from fedmr.utils.errors import UnsafeError

Latents = NDArray[np.float32]


@torch.no_grad()
def site_latents(net: nn.Module, sampler: Sampler, *, vectors: int, number: int) -> Tensor:
    """Latents (vectors, 4C) of training slices, as the network holds them in training, under fresh masks.

    Slices and masks depend on the task's seed and the round only. A site with fewer slices takes some again, under
    other masks, so that the number of latents says nothing about it.

    Args:
        net: the global network of the round, a U-Net.
        sampler: the site's training slices.
        vectors: number of latents.
        number: of the round.

    Raises:
        TypeError: they are of another kind of task.
    """
    if not isinstance(net, UNet) or not isinstance(sampler, SliceSampler):
        raise TypeError(f"latents are of a U-Net on slices, not of {type(net).__name__} on {type(sampler).__name__}")
    generator = torch.Generator().manual_seed(sampler.task.seed + seed_of(f"latents of round {number}"))
    orders = (torch.randperm(sampler.n_slices, generator=generator).tolist() for _ in itertools.count())
    chosen = itertools.islice(itertools.chain.from_iterable(orders), vectors)
    images = (sampler.pair(*sampler.slices[int(index)], generator)[0] for index in chosen)
    batches = iter(lambda: list(itertools.islice(images, sampler.task.batch_size)), [])
    return torch.cat([net.latent(_batch(batch)).float() for batch in batches])


def charge_of(settings: Mrcm) -> Charge | None:
    """The cost of the noised latents of a round; None without noise, where no epsilon holds."""
    if not settings.noise_multiplier:
        return None
    return Charge(noise_multiplier=settings.noise_multiplier, delta=settings.delta, max_epsilon=settings.max_epsilon)


def protect(latents: Latents, settings: Mrcm, normal: Callable[[int], Vector] = system_normal) -> Latents:
    """Latents (V, 4C) clipped one by one and noised, as far as the settings ask for it.

    Args:
        latents: of a round.
        settings: clip and noise multiplier.
        normal: source of standard normal numbers; another one than the system's is for tests alone.
    """
    if not settings.clip:
        return latents
    clipped = np.concatenate([clip(row.astype(np.float64), settings.clip) for row in latents])
    bound = settings.clip * math.sqrt(len(latents))
    sent = gaussian_mechanism(clipped, bound, settings.noise_multiplier, normal)
    return from_vector(sent, {LATENTS: latents})[LATENTS]


def check_latents(arrays: Any, *, vectors: int, width: int) -> Latents:
    """The one array of a message that may hold nothing but latents.

    Args:
        arrays: should be ``{LATENTS: (V, width) float32}``, finite, 1 <= V <= vectors.
        vectors: largest number of latents.
        width: values of a latent.

    Raises:
        UnsafeError: it holds anything else.
    """
    if not isinstance(arrays, Mapping) or set(arrays) != {LATENTS}:
        raise UnsafeError(f"it holds {str(arrays)[:60]!r} and not the latents alone")
    latents = arrays[LATENTS]
    if not isinstance(latents, np.ndarray) or latents.dtype != np.float32:
        raise UnsafeError(f"its latents are {getattr(latents, 'dtype', type(latents).__name__)}, not float32")
    if latents.ndim != 2 or not 1 <= len(latents) <= vectors or latents.shape[1] != width:
        raise UnsafeError(f"its latents have the shape {latents.shape}; 1 to {vectors} of {width} values are allowed")
    if not np.isfinite(latents).all():
        raise UnsafeError("its latents are not finite")
    return latents


def _batch(images: list[Tensor]) -> Tensor:
    return torch.stack(images).unsqueeze(1).contiguous(memory_format=torch.channels_last)
