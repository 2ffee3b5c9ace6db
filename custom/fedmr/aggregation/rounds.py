"""The updates of one round compared: who is left out, and what the others count.

A round in which no site is beyond a bound passes unchanged: FedAvg's weighted mean stays what it is, to the last bit.
A site that claims many times the others' steps, goes many times as far, or goes against a direction in which the
others clearly agree, counts less or not at all. The bounds are those under which real scans of sites of unequal size
and other contrasts lost nothing (benchmarks/results/defaults.md); an honest site beyond them, e.g. of more than six
times the median's scans, counts less than by its size.

Norms are clipped relative to the round's own median, in the manner of Sun et al. ("Can you really backdoor federated
learning?", 2019); directions are compared as in FLTrust (Cao et al., NDSS 2021), with the other sites in the place of
a server's own data. All of it holds for fewer than half of the sites.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from fedmr.utils.validation import NotNegative, Positive, settings

Arrays = Mapping[str, np.ndarray]

_COUNTER = "num_batches_tracked"  # torch's, of batch normalisation: the number of steps, and no direction


@settings("aggregator bounds:")
class Bounds:
    """Bounds of a site's update compared with the others of its round; multiples of the round's medians over the sites.

    Attributes:
        weight: steps count up to this multiple.
        norm: an update goes as far as this multiple; a longer one is shortened.
        far_steps: a site that claims more steps than this multiple is left out.
        far_norm: a site whose L2 norm per step is beyond this multiple is left out.
        agreement: cosine, 0 to 1. Where updates agree at least so much, one that opposes them is left out, and one
            of less than a quarter of the usual agreement counts no more than the median site if there are four. Where
            they agree less, as sites of other contrasts do late in a training, directions tell nothing.
    """

    weight: Positive = 6.0
    norm: Positive = 3.0
    far_steps: Positive = 100.0
    far_norm: Positive = 10.0
    agreement: NotNegative = 0.25


@dataclass(frozen=True)
class Contribution:
    """Contribution of a site: optimisation steps, and by part of its message the differences by variable."""

    steps: float
    parts: Mapping[str, Arrays]


@dataclass(frozen=True)
class Share:
    """Weight of a site's update in the mean.

    Attributes:
        weight: in the mean, in steps.
        factors: by part, by which its values are multiplied, at most 1.
    """

    weight: float
    factors: Mapping[str, float]


@dataclass(frozen=True)
class Shares:
    """Of a round, by site: what counts, why a site counts not at all or less, and L2 norms of the first part."""

    counted: dict[str, Share]
    left_out: dict[str, str] = field(default_factory=dict)
    tempered: dict[str, str] = field(default_factory=dict)
    norms: dict[str, float] = field(default_factory=dict)


def shares_of(contributions: Mapping[str, Contribution], bounds: Bounds) -> Shares:
    """Look at a round; with fewer than three sites nobody can tell who is right, and all count as they say.

    Args:
        contributions: by site, all with the same parts and variables.
        bounds: of an update compared with the others.
    """
    sites, steps = list(contributions), {site: float(c.steps) for site, c in contributions.items()}
    products = {part: _products([c.parts[part] for c in contributions.values()]) for part in _parts(contributions)}
    norms = {part: dict(zip(sites, np.sqrt(np.diag(gram)).tolist(), strict=True)) for part, gram in products.items()}
    own_norms = dict(next(iter(norms.values()), {}))
    if len(sites) < 3:
        factors = dict.fromkeys(norms, 1.0)
        return Shares({site: Share(steps[site], factors) for site in sites}, norms=own_norms)
    own = dict(zip(sites, _agreement(next(iter(products.values()))), strict=True)) if products else {}
    typical = median(own.values()) if own else 0.0
    agree = typical >= bounds.agreement
    left_out = (_opposing(own, typical) if agree else {}) | _far(steps, norms, bounds)
    kept = [site for site in sites if site not in left_out]
    counted = {}
    for site in kept:
        strange = agree and len(sites) > 3 and own[site] < typical / 4
        times = (1.0, 1.0) if strange else (bounds.weight, bounds.norm)
        counted[site] = _tempered(site, kept, steps, norms, times)
    reasons = {site: _reason(steps[site], share) for site, share in counted.items()}
    return Shares(counted, left_out, {site: text for site, text in reasons.items() if text}, own_norms)


def _parts(contributions: Mapping[str, Contribution]) -> list[str]:
    return list(next(iter(contributions.values())).parts) if contributions else []


def _products(updates: list[Arrays]) -> np.ndarray:
    """Inner products of all pairs, float64 (n, n), variable by variable; counters of batches do not count.

    Raises:
        ValueError: the sites' shapes of a variable differ.
    """
    gram = np.zeros((len(updates), len(updates)))
    for name in updates[0]:
        if name.endswith(_COUNTER):
            continue
        shapes = {np.shape(update[name]) for update in updates}
        if len(shapes) > 1:
            raise ValueError(f"the sites' {name!r} could not be broadcast together: shapes {sorted(shapes)}")
        rows = np.stack([np.ravel(update[name]).astype(np.float64) for update in updates])
        with np.errstate(all="ignore"):
            gram += rows @ rows.T
    return gram


def _far(steps: Mapping[str, float], norms: Mapping[str, Mapping[str, float]], bounds: Bounds) -> dict[str, str]:
    """Sites that are far beyond the others in steps, or in norm per step."""
    usual, found = median(steps.values()), {}
    paces = {part: median(by_site[site] / steps[site] for site in steps) for part, by_site in norms.items()}
    for site, taken in steps.items():
        # a site of few steps goes further in each of them: it is measured as one of the usual number; many that are
        # claimed excuse no more than those that count
        credit = min(max(taken, usual), bounds.weight * usual)
        times = [norms[part][site] / credit / pace for part, pace in paces.items() if pace]
        if taken > bounds.far_steps * usual:
            found[site] = f"it claims {taken:g} steps, {taken / usual:.3g} times the round's median"
        elif max(times, default=0.0) > bounds.far_norm:
            found[site] = f"its norm is, per step, {max(times):.3g} times the round's median"
    return found


def _agreement(gram: np.ndarray) -> list[float]:
    """Each site's median cosine with the others; the upper one of two, so that two of three sites can agree."""
    lengths = np.sqrt(np.diag(gram))
    with np.errstate(divide="ignore", invalid="ignore"):
        cosines = np.nan_to_num(gram / np.outer(lengths, lengths))
    return [float(np.sort(np.delete(row, number))[(len(row) - 1) // 2]) for number, row in enumerate(cosines)]


def _opposing(own: Mapping[str, float], typical: float) -> dict[str, str]:
    """Sites that go against the others."""
    said = "it goes against the others: its cosine with them is {:.2f}, theirs is {:.2f}"
    return {site: said.format(cosine, typical) for site, cosine in own.items() if cosine < -typical / 2}


def _tempered(
    site: str,
    kept: list[str],
    steps: Mapping[str, float],
    norms: Mapping[str, Mapping[str, float]],
    times: tuple[float, float],
) -> Share:
    """Return what a site counts among the others kept; `times` are the largest multiples of weight and norm."""
    weight = min(steps[site], times[0] * median(steps[other] for other in kept))
    factors = {}
    for part, by_site in norms.items():
        most = times[1] * median(by_site[other] for other in kept)
        own = by_site[site]
        factors[part] = most / own if own > most > 0 and math.isfinite(own) else 1.0
    return Share(weight, factors)


def _reason(steps: float, share: Share) -> str:
    """Why a site counts less than it says; empty if it does not."""
    found, factor = [], min(share.factors.values(), default=1.0)
    if share.weight < steps:
        found.append(f"its {steps:g} steps count as {share.weight:g}")
    if factor < 1:
        found.append(f"its update is shortened to {factor:.3g} of its length")
    return " and ".join([*found, "it is far from the round's median"]) if found else ""
