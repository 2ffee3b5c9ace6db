"""FL-MRCM (Guo et al., CVPR 2021): a source site makes its latents look like those of a target site.

Every source site also teaches a domain identifier of its own to tell its latents from the target's, and
the network to deceive it. The published code runs in one process, takes the target's images to every source site, and
sends the adversarial gradient through the latents of both. Here only latents travel: the target has made them with the
weights that the round started from, they stay what they are while the source's network moves on, and the gradient goes
through the source's latents alone.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fedmr.algorithms.base import Algorithm, AlgorithmSettings
from fedmr.nets.unet import LATENT_SIDE, SLOPE, UNet, pooled
from fedmr.physics.masks import seed_of
from fedmr.utils.optimizers import OPTIMIZERS
from fedmr.utils.validation import Count, Delta, Flag, NotNegative, Number, Positive, require, settings

LATENTS = "latents"  # name of the array in messages
_SOURCE, _TARGET = (1.0, 0.0), (0.0, 1.0)


_Sites = Annotated[Sequence[str], Field(min_length=1, description="a list of sites, each once, e.g. [site-4]")]


@settings("task: flmrcm")
class Mrcm(AlgorithmSettings):
    """How latents are aligned with a target site's; see the module and `fedmr.training.target_latents`.

    Attributes:
        target_sites: whose latents the others are aligned with, one site per round in turn.
        train_target: whether target sites train, too, without the adversarial term in their own rounds. If not, they
            give latents and test models, and no weights come from them.
        weight: lambda of the adversarial loss; at 0 training is FL-MR's to the last bit.
        learning_rate: of the domain identifier.
        vectors: latents that a target gives in a round.
        clip: largest L2 norm C of a latent; longer ones are scaled down. 0 leaves them as they are.
        noise_multiplier: deviation of the Gaussian noise on every value, divided by the largest norm C sqrt(vectors)
            of all latents of a round together. 0 adds none.
        delta: for epsilon.
        max_epsilon: the site's budget over all its jobs; it refuses a round that would exceed it. Needed with noise.
    """

    target_sites: _Sites
    train_target: Flag = True
    weight: NotNegative = 1.0
    learning_rate: Positive = 1e-3
    vectors: Count = 64
    clip: NotNegative = 0.0
    noise_multiplier: NotNegative = 0.0
    delta: Delta = 1e-5
    max_epsilon: Number = 0.0

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = self.target_sites
        if len(set(names)) < len(names):
            raise ValueError(f"task: flmrcm target_sites is {names!r}; it must be a list of sites, each once")
        if self.noise_multiplier:  # else the noise has no scale, and nothing is accounted
            require("task: flmrcm clip", self.clip, 0)
            require("task: flmrcm max_epsilon", self.max_epsilon, 0)
        return self

    @classmethod
    def from_dict(cls, algorithm: Mapping[str, Any]) -> "Mrcm":
        """Build from a task's `algorithm`, with or without its name.

        Raises:
            ValueError: naming the offending entry.
        """
        return cls(**{key: value for key, value in algorithm.items() if key != "name"})

    def target_of(self, number: int) -> str:
        """The target site of round `number`, from 0."""
        return self.target_sites[number % len(self.target_sites)]

    @property
    def outside(self) -> tuple[str, ...]:
        """Sites that do not train."""
        return () if self.train_target else tuple(self.target_sites)

    def local(self, *, seed: int) -> Algorithm:
        """Return the adversarial term."""
        return CrossSiteModelling(weight=self.weight, learning_rate=self.learning_rate, seed=seed)

    def check_network(self, network: Mapping[str, Any]) -> None:
        """Refuse a network without the U-Net's bottleneck, by a ValueError."""
        if network.get("name") != "unet":
            raise ValueError(
                f"task: algorithm flmrcm needs network unet, not {network.get('name') or network.get('_target_')}"
            )


def latent_width(weights: Mapping[str, Any]) -> int:
    """Values of a latent by the weights of a U-Net, its `state_dict` or a message with it: 4 times the bottleneck's
    channels.

    Raises:
        ValueError: the weights are of a network without a bottleneck.
    """
    bottleneck = [value for name, value in weights.items() if name.startswith("bottleneck.")]
    if not bottleneck:
        raise ValueError("these weights are of a network without a bottleneck; FL-MRCM needs a U-Net")
    return LATENT_SIDE**2 * int(bottleneck[-1].shape[0])


class DomainIdentifier(nn.Sequential):
    """Latents (N, 4C) to two logits (N, 2), source and target. It stays at its site."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, 256), nn.LeakyReLU(SLOPE), nn.Linear(256, 2))


class CrossSiteModelling(Algorithm):
    """The adversarial term of FL-MRCM: loss + weight * BCE(identifier, domains swapped), as the published code has it.

    Per step the identifier first learns from the step's latents, detached, and as many of the target's, by RMSprop. A
    round without latents of a target is plain training: that of the target itself, or one whose target did not answer.

    Args:
        weight: the paper's lambda; at 0 the identifier learns, and the network's training is untouched.
        learning_rate: of the identifier.
        seed: of the identifier's initial weights and of which target latents a step takes.
        target_images: batches of the target's images (n, 1, H, W), standardised, for n; as in the published code, the
            gradient then also goes through their latents. For measuring what distribution costs, in one process: no
            task can ask for it.
    """

    def __init__(
        self,
        *,
        weight: float = 1.0,
        learning_rate: float = 1e-3,
        seed: int = 0,
        target_images: Callable[[int], Tensor] | None = None,
    ) -> None:
        self.weight, self.learning_rate, self.target_images = weight, learning_rate, target_images
        self.identifier: DomainIdentifier | None = None
        self._seed = seed
        self._generator = torch.Generator().manual_seed(seed + seed_of("cross-site modelling"))
        self._latents: Tensor | None = None
        self._caught: Tensor | None = None
        self._handle: RemovableHandle | None = None

    def receive(self, arrays: Mapping[str, Tensor]) -> None:
        """The target's latents (V, 4C) of this round, if the server sends any.

        Raises:
            ValueError: they are no table of finite numbers.
        """
        self._latents = arrays.get(LATENTS)
        if self._latents is None:
            return
        if self._latents.dim() != 2 or not len(self._latents) or not self._latents.isfinite().all():
            raise ValueError(f"the target's latents, {tuple(self._latents.shape)}, are no table of finite numbers")

    def round_started(self, net: nn.Module) -> None:
        """Begin to catch the bottleneck, if there is something to align with.

        Raises:
            ValueError: the target's latents are not as wide as the network's.
        """
        self._stop()
        if self._latents is None and self.target_images is None:
            return
        width, device = latent_width(net.state_dict()), next(net.parameters()).device
        if self._latents is not None:
            if self._latents.shape[1] != width:
                raise ValueError(f"the target's latents have {self._latents.shape[1]} values, the network's {width}")
            self._latents = self._latents.to(device, torch.float32)
        self.identifier = (self.identifier or self._new_identifier(width)).to(device)
        self._optimizer.load_state_dict(self._optimizer.state_dict())  # which takes its state to the device, too
        self._handle = net.get_submodule("bottleneck").register_forward_hook(self._catch)

    def add_loss(self, net: nn.Module, loss: Tensor) -> Tensor:
        """Teach the identifier; return the loss, a scalar, with the adversarial term."""
        if self._caught is None or self.identifier is None:
            return loss
        own = pooled(self._caught.float())
        targets = self._targets(net, len(own))
        self._caught = None
        both = torch.cat([own, targets])
        truth = torch.tensor([_SOURCE] * len(own) + [_TARGET] * len(targets), device=both.device)
        self._optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(self.identifier(both.detach()), truth).backward()
        self._optimizer.step()
        if not self.weight:
            return loss
        self.identifier.requires_grad_(False)
        adversarial = F.binary_cross_entropy_with_logits(self.identifier(both), 1 - truth)
        self.identifier.requires_grad_(True)
        return loss + self.weight * adversarial

    def round_finished(self, net: nn.Module, steps: int) -> None:
        """Let go of the network and of the target's latents."""
        self._stop()
        self._latents = None

    def state_dict(self) -> dict[str, Any]:
        """The identifier, its optimiser, and which latents come next; empty before the first aligned round."""
        if self.identifier is None:
            return {}
        return {
            "identifier": self.identifier.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        if state:
            self.identifier = self._new_identifier(state["identifier"]["0.weight"].shape[1])
            self.identifier.load_state_dict(state["identifier"])
            self._optimizer.load_state_dict(state["optimizer"])
            self._generator.set_state(state["generator"])

    def _new_identifier(self, width: int) -> DomainIdentifier:
        """An identifier, the same at every site and in every run, and its optimiser."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            identifier = DomainIdentifier(width)
        self._optimizer = OPTIMIZERS["rmsprop"](identifier.parameters(), lr=self.learning_rate)
        return identifier

    def _targets(self, net: nn.Module, count: int) -> Tensor:
        """Latents (count, 4C) of the target, with a gradient if they are made here."""
        if self.target_images is not None:
            assert isinstance(net, UNet)
            return net.latent(self.target_images(count)).float()
        assert self._latents is not None
        chosen = torch.randint(len(self._latents), (count,), generator=self._generator)
        return self._latents[chosen.to(self._latents.device)]

    def _catch(self, module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        self._caught = output

    def _stop(self) -> None:
        if self._handle is not None:
            self._handle.remove()
        self._handle = self._caught = None
