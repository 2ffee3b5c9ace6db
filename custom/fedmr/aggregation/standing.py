"""Whether a model is good, by the metrics of the sites that received it.

A metric of the received model says something about that model and nothing about the site. One site alone can lie, or
have odd scans; when most sites say the same at once, it is the model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from statistics import median


class Verdict(Enum):
    """On a model: the best so far, neither, or bad at most sites."""

    BEST = "best"
    FAIR = "fair"
    BAD = "bad"


@dataclass
class Standing:
    """The best model's metric by site, against which every other model is measured.

    Attributes:
        max_fall: a model is bad at a site if the metric there is this much below the best model's, in dB for PSNR.
    """

    max_fall: float

    def __post_init__(self) -> None:
        self._best: dict[str, float] = {}

    def look(self, values: Mapping[str, float], poor: frozenset[str] = frozenset()) -> tuple[Verdict, list[str]]:
        """The verdict on a model, and the sites at which it is bad.

        Args:
            values: the metric by site, the higher the better.
            poor: sites that reported a value which no usable model has.
        """
        changes = {site: value - self._best[site] for site, value in values.items() if site in self._best}
        bad_at = sorted({site for site, value in values.items() if self.fell(site, value)} | poor)
        reporting = len(set(values) | poor)
        if len(bad_at) > 1 and 2 * len(bad_at) > reporting:
            return Verdict.BAD, bad_at
        if values and (not changes or median(changes.values()) > 0):
            self._best.update(values)
            return Verdict.BEST, bad_at
        return Verdict.FAIR, bad_at

    def fell(self, site: str, value: float) -> bool:
        """Whether a model is much worse at a site than the best one."""
        return value < self._best.get(site, value) - self.max_fall
