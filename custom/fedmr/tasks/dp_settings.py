"""The numbers of DP-SGD in a task."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from fedmr.utils.validation import Count, Delta, Positive, settings


@settings("task: dp_sgd")
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

    unit: Annotated[Literal["slice", "patient"], Field(description="slice or patient")]
    units_per_step: Positive
    patches_per_unit: Count
    max_grad_norm: Positive
    noise_multiplier: Positive
    delta: Delta
    max_epsilon: Positive

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "DpSgd":
        """Build from a config; every number must be there.

        Raises:
            ValueError: naming the offending entry.
        """
        return cls(**values)
