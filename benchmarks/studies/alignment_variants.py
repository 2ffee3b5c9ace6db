"""FL-MRCM's alignment done otherwise than published: runs a study with it, as `in_one_process.py` does.

    python benchmarks/studies/alignment_variants.py moments \
        benchmarks/studies/reconstruction_variants.yaml runs/real_small runs/studies/moments --cells "weight_0.1_"

moments: mean and variance of a source's latents are drawn to the target's, without an identifier, so without a game.
growing: the weight grows evenly from 0 in the first round to the whole in the last.
shallow: the features before the last pooling are aligned, half as many channels at twice the side.
"""

import sys
from typing import Any

import in_one_process
import torch
from torch import Tensor, nn

import fedmr.algorithms.flmrcm
import fedmr.flare.flmrcm
from fedmr.algorithms.flmrcm import CrossSiteModelling
from fedmr.nets.unet import LATENT_SIDE, UNet, pooled

ROUNDS = 4  # of the study
_LEVEL = "down.3"  # before the last pooling


class Moments(CrossSiteModelling):
    """loss + weight * `moment_distance`; plain in a batch of one slice."""

    def add_loss(self, net: nn.Module, loss: Tensor) -> Tensor:
        """See the class."""
        if self._caught is None or self._latents is None or len(self._caught) < 2:
            return loss
        own, self._caught = pooled(self._caught.float()), None
        return loss + self.weight * moment_distance(own, self._latents)


class Growing(CrossSiteModelling):
    """See the module."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._whole, self._started = self.weight, 0

    def round_started(self, net: nn.Module) -> None:
        """The weight of this round; the job ends with the round that has the whole."""
        self.weight = self._whole * min(self._started / (ROUNDS - 1), 1.0)
        self._started += 1
        super().round_started(net)


class Shallow(CrossSiteModelling):
    """See the module."""

    def round_started(self, net: nn.Module) -> None:
        """Catch the other level."""
        super().round_started(net)
        if self._handle is not None:
            self._handle.remove()
            self._handle = net.get_submodule(_LEVEL).register_forward_hook(self._catch)


def moment_distance(own: Tensor, targets: Tensor) -> Tensor:
    """Squared distance of means and of variances, in the target's standard deviations, mean over the latent's values.

    It is the unbiased estimate from pairs of different slices, the linear-time MMD of Gretton et al., JMLR 2012,
    section 6, with the features u and (u^2 - 1) / 2 of u = (z - mean) / std. The plain square of a batch's mean would
    also punish the source's own variance, most in small batches. It can be below 0.

    Args:
        own: latents (n, D) of a batch, n at least 2.
        targets: latents (V, D).
    """
    std, mean = torch.std_mean(targets, dim=0)
    scaled = (own - mean) / std.clamp_min(1e-3)
    features = torch.cat([scaled, (scaled.square() - 1).clamp_max(9) / 2], dim=1)
    pairs = features.sum(dim=0).square() - features.square().sum(dim=0)
    return pairs.mean() / (len(own) * (len(own) - 1))


def use_shallow_latents() -> None:
    """Latents of targets, and how wide they may be, for `Shallow`."""
    UNet.latent = lambda net, image: pooled(net.encode(image)[1][-1])  # type: ignore[method-assign]
    for module in (fedmr.algorithms.flmrcm, fedmr.flare.flmrcm):
        module.latent_width = _shallow_width  # type: ignore[attr-defined]


def _shallow_width(weights: dict[str, Tensor]) -> int:
    level = [value for name, value in weights.items() if name.startswith(f"{_LEVEL}.")]
    return LATENT_SIDE**2 * int(level[-1].shape[0])


def main() -> None:
    variants = {"moments": Moments, "growing": Growing, "shallow": Shallow}
    if len(sys.argv) < 2 or sys.argv[1] not in variants:
        sys.exit(f"{__doc__}\nfirst argument: {', '.join(variants)}")
    chosen = variants[sys.argv.pop(1)]
    fedmr.algorithms.flmrcm.CrossSiteModelling = chosen  # type: ignore[misc]
    if chosen is Shallow:
        use_shallow_latents()
    in_one_process.main()


if __name__ == "__main__":
    main()
