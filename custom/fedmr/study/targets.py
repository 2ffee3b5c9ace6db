"""Figures of each method at sites it was not trained on, in a study that leaves out one site after another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedmr.metrics import METRICS
from fedmr.runs.figures import METHODS
from fedmr.study.results import Row
from fedmr.study.tables import Spread, difference, markdown, spread, text_of

_SHOWN = ("psnr", "ssim", "nmse")
_MODELS = ("global", "local", "elsewhere")


@dataclass(frozen=True)
class Targets:
    """The rows of test volumes of sites that were left out.

    Attributes:
        names: of the sites, which are all that the baseline was tested on as unseen.
        methods: rows by variant of the axis that the baseline is one of; "elsewhere" among them.
        baseline: variant that the others are compared with.
        without: rows of methods without a network.
    """

    names: list[str]
    methods: dict[str, list[Row]]
    baseline: str
    without: list[Row]


def find_targets(rows: Sequence[Row], plan: Mapping[str, Any]) -> Targets | None:
    """Return the targets of a study, if it leaves out several sites, each in one arm of a method."""
    baseline = plan["baseline"]
    axis = next(name for name, variants in plan["axes"].items() if baseline in variants)
    unseen = [row for row in rows if row["seen"] == "False" and row["method"] in _MODELS]
    names = sorted({row["site"] for row in unseen if row[axis] == baseline})
    unseen = [row for row in unseen if row["site"] in names]
    arms = {(row[axis], row["seed"], row["site"]): row["cell"] for row in unseen}
    if len(names) < 2 or any(arms[row[axis], row["seed"], row["site"]] != row["cell"] for row in unseen):
        return None
    methods = {variant: [row for row in unseen if row[axis] == variant] for variant in plan["axes"][axis]}
    without = [row for row in rows if row["method"] in METHODS and row["site"] in names]
    return Targets(names, {name: own for name, own in methods.items() if own}, baseline, without)


def target_tables(targets: Targets) -> str:
    """Return every metric by method and target, mean and spread over seeds, and the differences from the baseline."""
    parts = ["## Sites that were left out of training"]
    for metric in _SHOWN:
        title, decimals = METRICS[metric].title, METRICS[metric].digits
        body = []
        for method, label in METHODS.items():
            own = [row for row in targets.without if row["method"] == method]
            fixed = [Spread(one.mean, None) if one else None for one in _by_target(own, targets.names, metric)]
            body += [[label, *(text_of(one, decimals) for one in fixed)]] if own else []
        for label, own in targets.methods.items():
            body.append([label, *(text_of(one, decimals) for one in _by_target(own, targets.names, metric))])
        parts.append(markdown([title, *targets.names, "mean"], body))
    return "\n\n".join(part for part in [*parts, _differences(targets)] if part)


def _by_target(rows: Sequence[Row], names: Sequence[str], metric: str) -> list[Spread | None]:
    """At every target, and their mean if every seed has all of them."""
    found = [spread([row for row in rows if row["site"] == name], metric) for name in names]
    done = {(row["seed"], row["site"]) for row in rows}
    whole = len(done) == len({seed for seed, _ in done}) * len(names)
    return [*found, spread(rows, metric) if whole else None]


def _differences(targets: Targets) -> str:
    others, body = targets.methods[targets.baseline], []
    for method, own in targets.methods.items():
        if method == targets.baseline:
            continue
        at = [difference([row for row in own if row["site"] == name], others, "psnr") for name in targets.names]
        body.append([method, *(text_of(one, 2) for one in [*at, difference(own, others, "psnr")])])
        body[-1].append(text_of(difference(own, others, "ssim"), 4))
    head = [
        f"difference from {targets.baseline}",
        *(f"{name}: PSNR" for name in targets.names),
        "all: PSNR",
        "all: SSIM",
    ]
    return markdown(head, body) if body else ""
