"""The numbers of DP-SGD in a task."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from fedmr.utils.validation import require

UNITS = ("slice", "patient")


@dataclass(frozen=True, kw_only=True)
class DpSgd:
    """How a site's training is made differentially private; see `fedmr.training.dp_sgd`.

    Attributes:
        unit: what one release hides: a "slice", or a "patient" with all slices. An epsilon belongs to its unit.
        units_per_step: mean number of units in a step; every unit is drawn by itself.
        patches_per_unit: patches that a drawn unit gives to a step, from slices of the unit.
        max_grad_norm: largest L2 norm C of a unit's gradient; longer ones are scaled down.
        noise_multiplier: deviation of the noise on a step's sum of gradients, divided by C.
        delta: for epsilon; below one over the number of units.
        max_epsilon: the site's budget over all its jobs with DP-SGD; it stops before a round that would exceed it.
    """

    unit: str
    units_per_step: float
    patches_per_unit: int
    max_grad_norm: float
    noise_multiplier: float
    delta: float
    max_epsilon: float

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ValueError(f"task: dp_sgd unit is {self.unit!r}; known are {', '.join(UNITS)}")
        if not isinstance(self.patches_per_unit, int):
            raise ValueError(f"task: dp_sgd patches_per_unit is {self.patches_per_unit!r}; it must be a whole number")
        for name in ("units_per_step", "patches_per_unit", "max_grad_norm", "noise_multiplier", "max_epsilon"):
            require(f"task: dp_sgd {name}", getattr(self, name), 0)
        require("task: dp_sgd delta", self.delta, 0, 0.1)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "DpSgd":
        """Build from a config; every number must be there.

        Raises:
            ValueError: naming the offending entry.
        """
        known = [f.name for f in fields(cls)]
        for problem, names in (("unknown", set(values) - set(known)), ("missing", set(known) - set(values))):
            if names:
                raise ValueError(f"task: dp_sgd {', '.join(sorted(names))} is {problem}; it takes {', '.join(known)}")
        return cls(**values)
