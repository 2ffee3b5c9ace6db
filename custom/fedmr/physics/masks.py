"""Cartesian under-sampling: which columns of k-space are measured.

The rules are those of fastMRI (Zbontar et al., arXiv:1811.08839, section 4.4), as in MONAI's `RandomKspaceMask` and
`EquispacedKspaceMask`. Those under-sample, invert and combine one k-space for each mask that they draw, and importing
them costs a site's process seconds and 70 MB, so the few lines that choose columns are here; a test compares them.
"""

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

import torch
from pydantic import Field, model_validator
from torch import Tensor

from fedmr.utils.validation import Positive, settings

Kind = Literal["random", "equispaced"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_Kind = Annotated[Kind, Field(description=" or ".join(KINDS))]
_Acceleration = Annotated[int | float, Field(gt=1, description="a number above 1")]


@settings("mask:", kw_only=False)
class Mask:
    """A rule by which columns are drawn.

    Attributes:
        kind: "random": every column outside the centre with the same probability; "equispaced": at equal distances
            from a random first one.
        acceleration: columns in all over columns measured, on average.
        center_fraction: share of the columns, in the middle, that is always measured.

    Raises:
        ValueError: naming the value.
    """

    kind: _Kind = "random"
    acceleration: _Acceleration = 4
    center_fraction: Positive = 0.08

    @model_validator(mode="after")
    def _leaves_columns_to_draw(self) -> Self:
        if not self.center_fraction * self.acceleration < 1:
            raise ValueError(
                f"mask: center_fraction {self.center_fraction} times acceleration {self.acceleration} must be below 1, "
                "else there is nothing left to draw"
            )
        return self

    def center(self, width: int) -> slice:
        """Return the columns in the middle that are always measured, at least one."""
        low = max(round(width * self.center_fraction), 1)
        start = (width - low + 1) // 2
        return slice(start, start + low)

    def columns(self, width: int, generator: torch.Generator) -> Tensor:
        """Draw the measured columns.

        Args:
            width: number of columns N.
            generator: decides, with `width`, which are measured.

        Returns:
            (N,) bool.
        """
        center = self.center(width)
        low = center.stop - center.start
        if self.kind == "random":
            share = (width / self.acceleration - low) / (width - low)
            measured = torch.rand(width, generator=generator) < share
        else:
            step = self.acceleration * (low - width) / (low * self.acceleration - width)
            first = int(torch.randint(0, max(round(step), 1), (), generator=generator))
            measured = torch.zeros(width, dtype=torch.bool)
            measured[torch.arange(first, width - 1, step).round().long()] = True
        measured[center] = True
        return measured


def make_mask(values: Mapping[str, Any]) -> Mask:
    """`Mask` from a config.

    Raises:
        ValueError: naming an unknown entry or the offending value.
    """
    try:
        return Mask(**values)
    except TypeError as error:
        raise ValueError(
            f"mask: {dict(values)} is no mask ({error}); give kind, acceleration and center_fraction"
        ) from None


def seed_of(name: str) -> int:
    """Return a seed that is the same for the same name on every machine, as Python's `hash` is not."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7])
