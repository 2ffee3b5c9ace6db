"""Judgement of a site's update. Needs neither FLARE nor another site's update, so it runs on both sides.

An update is judged when it comes, and a running sum takes it in: the server's memory does not grow with the number of
sites. The median of the round itself is not known by then. What is known is that of the last round, which does not
depend on who answers first, what the site itself stated before, and, in the first round as in any, how far the
optimiser can go at all. Before the round's mean counts, `outliers` looks at all its updates together.

Metrics that come with an update are of the model that the site *received*. Low ones say that this model is bad, not
that the site is: `poor_metrics` finds them, and they are no fault of the update.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Real
from statistics import median
from typing import Annotated, Any, Self, TypeGuard

import numpy as np
from pydantic import Field, Strict, model_validator

from fedmr.utils.text import one_line
from fedmr.utils.validation import Count, Number, Positive, Text, settings

# What an optimiser moves a value by in a step at most, in learning rates: RMSprop with torch's alpha 10, i.e.
# 1 / sqrt(1 - alpha); Adam with its betas 3.2, (1 - beta1) / sqrt(1 - beta2) (Kingma & Ba, ICLR 2015, section 2.1).
# In training of the networks here by Adam it was an RMS of 0.02 to 0.4.
_REACH = 1 / math.sqrt(1 - 0.99)

Shape = tuple[int, ...]


_Rate = Annotated[int | float, Field(gt=0, description="the task's, a number above 0")]
_Range = Annotated[tuple[Number, Number], Strict(False)]  # a list in configs
_Ranges = Annotated[Mapping[str, _Range], Field(description="[lowest, highest] by name of the metric")]


@settings("guard:", kw_only=False)
class Limits:
    """Limits of an update that a site may send.

    Attributes:
        learning_rate: the task's, with which it bounds the L2 norm by what the optimiser can do in the steps; more
            where sites add noise for privacy.
        max_steps: steps in a round.
        steps_factor: steps, as a multiple of the last round's median; sites differ in size.
        own_steps_factor: steps, as a multiple of what the site stated with its first accepted update; its data and
            the job are the same all the time.
        norm_factor: L2 norm per step, as a multiple of the last round's median; of a site of fewer steps than the
            median, per step of the median.
        metric_ranges: lowest and highest value of metrics that come with the update, PSNR in dB.
        key_metric: by which models are compared, the higher the better.
        max_fall: how far that metric may fall at most sites below the best model's, in dB; a model below it is undone.
        exclude_vars: variables that sites keep to themselves, as a regular expression that is searched in names.
    """

    learning_rate: _Rate
    max_steps: Count = 100_000
    steps_factor: Positive = 100.0
    own_steps_factor: Positive = 2.0
    norm_factor: Positive = 10.0
    metric_ranges: _Ranges = field(default_factory=lambda: {"psnr": (0.0, 100.0)})
    key_metric: Text = "psnr"
    max_fall: Positive = 2.0
    exclude_vars: Text = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, bounds in self.metric_ranges.items():
            if not bounds[0] < bounds[1]:
                raise ValueError(f"guard: metric_ranges gives {name} {list(bounds)}; it must be [lowest, highest]")
        return self

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Limits":
        """Build from a config.

        Raises:
            ValueError: naming the offending entry.
        """
        return cls(**values)


@dataclass(frozen=True)
class Update:
    """Update as a site sends it, whatever it is.

    Attributes:
        parts: should be arrays by name, for each part: the weights' differences, and SCAFFOLD's controls.
        steps: should be a number of optimisation steps.
        metrics: should be figures by name of the model as received, or None.
    """

    parts: Mapping[str, Any]
    steps: Any
    metrics: Any


@dataclass(frozen=True)
class Typical:
    """Medians over the sites of a round: steps, and by part L2 norm per step."""

    steps: float
    paces: Mapping[str, float]

    @classmethod
    def of(cls, accepted: Iterable[tuple[float, Mapping[str, float]]]) -> "Typical":
        """Medians over pairs of steps and norms by part, at least one, all with the same parts."""
        pairs = list(accepted)
        paces = {part: median(norms[part] / steps for steps, norms in pairs) for part in pairs[0][1]}
        return cls(median(steps for steps, _ in pairs), paces)


def judge(
    update: Update,
    shapes: Mapping[str, Shape],
    limits: Limits,
    last: Typical | None = None,
    own_steps: float | None = None,
) -> tuple[str | None, dict[str, float]]:
    """Return what is wrong with an update, None if nothing is, and the L2 norms of the parts up to the first wrong one.

    Args:
        update: of one site.
        shapes: of the model's variables, which are those of every part.
        limits: the bounds.
        last: medians of the last round, if there was one.
        own_steps: steps that the site stated with its first accepted update, if there was one.
    """
    expected = {n: s for n, s in shapes.items() if not (limits.exclude_vars and re.search(limits.exclude_vars, n))}
    fault = fault_of_claims(update, limits, last, own_steps)
    norms: dict[str, float] = {}
    for part, values in update.parts.items():
        wrong = _fault_of_values(values, expected)
        if wrong:
            return wrong, norms
        norms[part] = norm_of(values)
        fault = fault or _fault_of_norm(norms[part], update.steps, expected, limits, last, part)
    return fault, norms


def fault_of_claims(
    update: Update, limits: Limits, last: Typical | None = None, own_steps: float | None = None
) -> str | None:
    """Return what is wrong with the figures that come with an update, which encryption leaves readable."""
    steps, metrics = update.steps, update.metrics
    if not (_is_number(steps) and 1 <= steps <= limits.max_steps):
        return f"it claims {_short(steps)} steps; 1 to {limits.max_steps} are allowed (max_steps)"
    if last and steps > limits.steps_factor * last.steps:
        allowed = f"{limits.steps_factor:g} times are allowed (steps_factor)"
        return f"it claims {steps} steps, {steps / last.steps:.3g} times the last round's median; {allowed}"
    if own_steps and steps > limits.own_steps_factor * own_steps:
        allowed = f"{limits.own_steps_factor:g} times are allowed (own_steps_factor)"
        return f"it claims {steps} steps, {steps / own_steps:.3g} times its own first ones; {allowed}"
    if not isinstance(metrics, Mapping | None):
        return f"its metrics are {_short(metrics)}, which has no names"
    for name, (low, high) in limits.metric_ranges.items():
        if metrics and name in metrics and not (_is_number(metrics[name]) and metrics[name] <= high):
            return f"its {name} is {_short(metrics[name])}; {low:g} to {high:g} is allowed (metric_ranges)"
    return None


def poor_metrics(metrics: Any, limits: Limits) -> dict[str, float]:
    """Metrics below their range, by name, with the lowest value of the range in the place of their own."""
    if not isinstance(metrics, Mapping):
        return {}
    ranges = limits.metric_ranges.items()
    return {n: low for n, (low, _) in ranges if _is_number(metrics.get(n)) and metrics[n] < low}


def value_of(metrics: Any, name: str) -> float | None:
    """A metric that a site sends, None if there is none or it is no finite number."""
    value = metrics.get(name) if isinstance(metrics, Mapping) else None
    return float(value) if _is_number(value) and math.isfinite(value) else None


def outliers(accepted: Mapping[str, tuple[float, Mapping[str, float]]], limits: Limits) -> dict[str, str]:
    """Return what is wrong with sites' updates compared with each other, by site; nobody can tell with less than three.

    Args:
        accepted: steps and norms by part, by site, of one round.
        limits: the bounds, `steps_factor` and `norm_factor`.
    """
    if len(accepted) < 3:
        return {}
    typical, found = Typical.of(accepted.values()), {}
    for site, (steps, norms) in accepted.items():
        # a site of few steps goes further in each of them: it is measured as one of the usual number
        usual = max(steps, typical.steps)
        times = [norms[part] / usual / pace for part, pace in typical.paces.items() if pace]
        if steps > limits.steps_factor * typical.steps:
            found[site] = f"it claims {steps} steps, {steps / typical.steps:.3g} times the round's median"
        elif max(times, default=0.0) > limits.norm_factor:
            found[site] = f"its norm is, per step, {max(times):.3g} times the round's median"
    return found


def norm_of(values: Mapping[str, Any]) -> float:
    """L2 norm over all variables; infinite if float64 cannot hold its square."""
    with np.errstate(over="ignore"):
        return math.sqrt(sum(float(np.square(value, dtype=np.float64).sum()) for value in values.values()))


def _fault_of_values(values: Any, shapes: Mapping[str, Shape]) -> str | None:
    if not isinstance(values, Mapping):
        return "it holds no variables"
    for name in shapes:
        if name not in values:
            return f"it lacks the variable {name!r}"
    for name, value in values.items():
        if name not in shapes:
            return f"it has a variable {_short(name)}, which is not expected"
        if not isinstance(value, np.ndarray | np.generic) or value.dtype.kind not in "fiu":
            return f"{name!r} holds no real numbers"
        if value.shape != tuple(shapes[name]):
            return f"{name!r} has the shape {value.shape}, the model's has {tuple(shapes[name])}"
        if not np.isfinite(value).all():
            return f"{name!r} is not finite in {value.size - np.isfinite(value).sum()} of {value.size} values"
    return None


def _fault_of_norm(
    norm: float, steps: Any, shapes: Mapping[str, Shape], limits: Limits, last: Typical | None, part: str
) -> str | None:
    """`steps` were checked before; `last` holds the last round's medians, if there was one."""
    rate, size = limits.learning_rate, sum(math.prod(shape) for shape in shapes.values())
    reach = _REACH * rate * steps * math.sqrt(size)
    if norm > reach:
        return f"its norm {norm:.3g} is beyond the {reach:.3g} that {steps} steps can do at {rate:g} (learning_rate)"
    # a site of few steps goes further in each of them: it is measured as one of the usual number
    times = norm / max(steps, last.steps) / last.paces[part] if last and last.paces[part] else 0.0
    if times > limits.norm_factor:
        allowed = f"{limits.norm_factor:g} times are allowed (norm_factor)"
        return f"its norm {norm:.3g} is, per step, {times:.3g} times the last round's median; {allowed}"
    return None


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, Real) and not isinstance(value, bool)


def _short(value: Any) -> str:
    """A site's own words on one line of the log, and few of them."""
    return one_line(repr(value), 60)
