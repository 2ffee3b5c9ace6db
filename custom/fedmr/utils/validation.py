"""Checks of settings; errors name the field, the value and the remedy."""

import math
from collections.abc import Callable, Mapping
from dataclasses import field
from functools import wraps
from typing import Annotated, Any, TypeVar, dataclass_transform

import numpy as np
from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

T = TypeVar("T")

# Types of settings. The description completes "it must be ..." in an error. An integer stays one where a float will do.
Number = Annotated[int | float, Field(description="a finite number")]
Positive = Annotated[int | float, Field(gt=0, description="a number above 0")]
NotNegative = Annotated[int | float, Field(ge=0, description="a number of at least 0")]
Delta = Annotated[int | float, Field(gt=0, le=0.1, description="a number above 0 and at most 0.1")]
Count = Annotated[int, Field(gt=0, description="a whole number above 0")]
Whole = Annotated[int, Field(description="a whole number")]
Flag = Annotated[bool, Field(description="true or false")]
Text = Annotated[str, Field(description="text")]

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field, Field))
def settings(what: str, *, kw_only: bool = True) -> Callable[[type[T]], type[T]]:
    """Make a class of settings: a frozen pydantic dataclass that takes nothing but what its fields say.

    No bool or text passes for a number, no NaN or infinity for a finite one, and no unknown name is ignored.
    `dataclasses.replace`, `asdict` and `fields` work on it, and `replace` checks again.

    Args:
        what: what the settings are of, the first words of an error, e.g. "guard:".
        kw_only: whether values are given by name only.

    Returns:
        decorator of the class, whose constructor raises a ValueError that names field, value and remedy.
    """

    def decorate(cls: type[T]) -> type[T]:
        made: Any = dataclass(frozen=True, kw_only=kw_only, config=_STRICT)(cls)
        checked = made.__init__

        @wraps(checked)
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            try:
                checked(self, *args, **kwargs)
            except ValidationError as error:
                raise ValueError(explain(what, made, error, kwargs)) from None

        made.__init__ = __init__
        return made

    return decorate


def explain(what: str, cls: Any, error: ValidationError, given: Mapping[str, Any]) -> str:
    """Return what is wrong with settings, in our words: a clause for each wrong field.

    Args:
        what: what the settings are of.
        cls: class of the settings.
        error: of its validation.
        given: the values by name, as far as they were given by name.
    """
    fields, unknown, clauses = cls.__pydantic_fields__, [], dict[str, str]()
    for fault in error.errors(include_url=False):
        name = str(fault["loc"][0]) if fault["loc"] else ""
        if fault["type"] == "unexpected_keyword_argument":
            unknown.append(name)
        elif not name:  # a check over several fields, which has its own words
            clauses[name] = str(fault["ctx"]["error"]) if fault["type"] == "value_error" else fault["msg"]
        else:
            state = "missing" if fault["type"] == "missing" else f"{given.get(name, fault['input'])!r:.200}"
            remedy = fields[name].description if name in fields else None
            clauses[name] = f"{what} {name} is {state}; it must be {remedy or fault['msg']}"
    if unknown:
        known = f"known are {', '.join(fields)}" if fields else "it takes none"
        clauses["unknown"] = f"{what} {', '.join(sorted(unknown))} is unknown; {known}"
    return "; ".join(clauses.values())


def require(name: str, value: object, low: float, high: float = math.inf) -> float:
    """Return a finite number above `low` and at most `high`.

    Raises:
        ValueError: naming the value and the range.
    """
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not number or not low < float(value) <= high or math.isinf(float(value)):  # type: ignore[arg-type]
        raise ValueError(f"{name} is {value!r}; it must be a number above {low:g}" + _at_most(high))
    return float(value)  # type: ignore[arg-type]


def _at_most(high: float) -> str:
    return f" and at most {high:g}" if math.isfinite(high) else ""
