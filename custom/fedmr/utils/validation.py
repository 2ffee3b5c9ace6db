"""Checks of settings; errors name the field, the value and the remedy."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def require(name: str, value: object, low: float, high: float = math.inf) -> float:
    """Return a finite number above `low` and at most `high`.

    Raises:
        ValueError: naming the value and the range.
    """
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not number or not low < float(value) <= high or math.isinf(float(value)):  # type: ignore[arg-type]
        raise ValueError(f"{name} is {value!r}; it must be a number above {low:g}" + _at_most(high))
    return float(value)  # type: ignore[arg-type]


def refuse_unknown(what: str, values: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse a config with other entries than the known ones.

    Raises:
        ValueError: naming them.
    """
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"{what}: {', '.join(unknown)} is unknown; known are {', '.join(known)}")


def _at_most(high: float) -> str:
    return f" and at most {high:g}" if math.isfinite(high) else ""
