"""The numbers of FL-MRCM in a task."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from fedmr.utils.validation import Count, Delta, Flag, NotNegative, Number, Positive, require, settings

_Sites = Annotated[Sequence[str], Field(min_length=1, description="a list of sites, each once, e.g. [site-4]")]


@settings("task: flmrcm")
class Mrcm:
    """How latents are aligned with a target site's; see `fedmr.training.flmrcm` and `fedmr.training.target_latents`.

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
