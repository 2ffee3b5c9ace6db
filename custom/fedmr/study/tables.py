"""Figures of a study: means with their spread over seeds, and differences paired by test volume."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from scipy.stats import sem, t

from fedmr.metrics import METRICS, Metric
from fedmr.study import Arm
from fedmr.study.results import Row

# what an arm is: its global model, or where it has none the sites' own; Ditto's personal ones are an arm of their own
_MAIN = ("global", "local")
NONE = "\N{EN DASH}"


@dataclass(frozen=True)
class Spread:
    """Mean over seeds and standard deviation among them (n - 1 in the denominator); None for one seed."""

    mean: float
    deviation: float | None

    def text(self, decimals: int) -> str:
        """As "34.24 ± 0.05"."""
        spread = f" ± {self.deviation:.{decimals}f}" if self.deviation is not None else ""
        return f"{self.mean:.{decimals}f}{spread}"


@dataclass(frozen=True)
class Difference:
    """A paired difference over test volumes: mean, half of its 95 % interval (None for one volume), number of volumes,
    and in how many it is above 0."""

    mean: float
    half: float | None
    volumes: int
    better: int

    def text(self, decimals: int) -> str:
        """As "+0.12 ± 0.05 (3 of 4)"."""
        half = f" ± {self.half:.{decimals}f}" if self.half is not None else ""
        return f"{self.mean:+.{decimals}f}{half} ({self.better} of {self.volumes})"


def rows_of(rows: Iterable[Row], arm: Arm, axes: Sequence[str], *, personal: bool = False) -> list[Row]:
    """Return an arm's rows: of its global model, or of the sites' own if they trained alone; or of personal models."""
    methods = ("personal",) if personal else _MAIN
    return [row for row in rows if tuple(row[axis] for axis in axes) == arm and row["method"] in methods]


def measured_metrics(rows: Iterable[Row]) -> dict[str, Metric]:
    """Return the metrics, by name, that any row has: an older study has fewer."""
    there = {name for row in rows for name in METRICS if row.get(name)}
    return {name: metric for name, metric in METRICS.items() if name in there}


def spread(rows: Sequence[Row], metric: str) -> Spread | None:
    """Of a metric: mean over volumes per site, over sites per seed, then over seeds; None without rows.

    Where several models were tested on a volume, as of sites that trained alone on an unseen one, their mean counts.
    """
    per_seed = [
        fmean(_mean(group, metric) for group in _grouped(of_seed, "site").values())
        for of_seed in _grouped(rows, "seed").values()
    ]
    if not per_seed:
        return None
    return Spread(fmean(per_seed), stdev(per_seed) if len(per_seed) > 1 else None)


def difference(rows: Sequence[Row], others: Sequence[Row], metric: str) -> Difference | None:
    """Rows minus others, by test volume: the mean over the seeds that both have, then Student's t over volumes.

    Volumes count that both arms have and have both seen, or both not seen; None if there is none. Seeds are not taken
    as independent samples, since they share their volumes.
    """
    keys = ("site", "volume", "seen", "seed")
    ours, theirs = ({k: _mean(g, metric) for k, g in _grouped(part, *keys).items()} for part in (rows, others))
    volumes: dict[Sequence[str], list[float]] = {}
    for key in ours.keys() & theirs.keys():
        volumes.setdefault(key[:3], []).append(ours[key] - theirs[key])
    if not volumes:
        return None
    means = [fmean(values) for values in volumes.values()]
    half = None
    if len(means) > 1:
        half = float(t.ppf(0.975, len(means) - 1) * sem(means))
    return Difference(fmean(means), half, len(means), sum(value > 0 for value in means))


def cost(rows: Sequence[Row], column: str) -> float:
    """Mean over the cells of a column that is the same in all rows of a cell."""
    return fmean(float(group[0][column]) for group in _grouped(rows, "cell").values())


def seen(rows: Iterable[Row], yes: bool = True) -> list[Row]:
    """Rows of test volumes of sites that were trained on, or of the others."""
    return [row for row in rows if row["seen"] == str(yes)]


def text_of(value: Spread | Difference | None, decimals: int) -> str:
    """Its text, or a dash."""
    return value.text(decimals) if value else NONE


def markdown(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, figures to the right."""
    table = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join(f"| {' | '.join(row)} |" for row in table)


def _grouped(rows: Iterable[Row], *keys: str) -> dict[tuple[str, ...], list[Row]]:
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups


def _mean(rows: Sequence[Mapping[str, Any]], metric: str) -> float:
    """Mean over volumes of a metric, each volume as the mean over the models tested on it."""
    volumes: dict[str, list[float]] = {}
    for row in rows:
        volumes.setdefault(row["volume"], []).append(float(row[metric]))
    return fmean(fmean(values) for values in volumes.values())
