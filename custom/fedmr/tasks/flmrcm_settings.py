"""The numbers of FL-MRCM in a task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from fedmr.utils.validation import refuse_unknown, require


@dataclass(frozen=True, kw_only=True)
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

    target_sites: Sequence[str]
    train_target: bool = True
    weight: float = 1.0
    learning_rate: float = 1e-3
    vectors: int = 64
    clip: float = 0.0
    noise_multiplier: float = 0.0
    delta: float = 1e-5
    max_epsilon: float = 0.0

    def __post_init__(self) -> None:
        names = self.target_sites
        listed = isinstance(names, Sequence) and not isinstance(names, str) and all(isinstance(n, str) for n in names)
        if not listed or not names or len(set(names)) < len(names):
            raise ValueError(f"task: flmrcm target_sites is {names!r}; it must be a list of sites, each once")
        if not isinstance(self.train_target, bool):
            raise ValueError(f"task: flmrcm train_target is {self.train_target!r}; it must be true or false")
        if not isinstance(self.vectors, int):
            raise ValueError(f"task: flmrcm vectors is {self.vectors!r}; it must be a whole number")
        for name in ("weight", "clip", "noise_multiplier"):
            if getattr(self, name) != 0:
                require(f"task: flmrcm {name}", getattr(self, name), 0)
        for name in ("learning_rate", "vectors"):
            require(f"task: flmrcm {name}", getattr(self, name), 0)
        require("task: flmrcm delta", self.delta, 0, 0.1)
        if self.noise_multiplier:  # else the noise has no scale, and nothing is accounted
            require("task: flmrcm clip", self.clip, 0)
            require("task: flmrcm max_epsilon", self.max_epsilon, 0)

    @classmethod
    def from_dict(cls, algorithm: Mapping[str, Any]) -> "Mrcm":
        """Build from a task's `algorithm`, with or without its name.

        Raises:
            ValueError: naming the offending entry.
        """
        values = {key: value for key, value in algorithm.items() if key != "name"}
        refuse_unknown("task: flmrcm", values, [f.name for f in fields(cls)])
        if "target_sites" not in values:
            raise ValueError("task: flmrcm target_sites is missing; name the target site, e.g. [site-4]")
        return cls(**values)

    def target_of(self, number: int) -> str:
        """The target site of round `number`, from 0."""
        return self.target_sites[number % len(self.target_sites)]

    @property
    def outside(self) -> tuple[str, ...]:
        """Sites that do not train."""
        return () if self.train_target else tuple(self.target_sites)
