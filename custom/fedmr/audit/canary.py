"""Canaries for DP-SGD: a lower bound on epsilon by experiment, to compare with the stated upper bound.

Nasr et al., "Adversary instantiation" (IEEE S&P 2021), the gradient canary: the worst unit there can be always sends a
gradient of the largest norm in one direction, and the attacker sees every step's noised sum. Trainings with and
without it are told apart by how far the sums went that way. An epsilon below the bound from the attack's errors
(Kairouz et al., ICML 2015; intervals by Clopper and Pearson) would be a lie; the stated one must lie above it.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from fedmr.training.dp_sgd import private_sum


@dataclass(frozen=True)
class Setting:
    """DP-SGD's numbers: noise per C, chance that a unit is drawn in a step, steps; values in a gradient, and C."""

    noise_multiplier: float
    rate: float
    steps: int
    size: int = 16
    max_grad_norm: float = 1.0


def scores(setting: Setting, trainings: int, *, present: bool, rng: np.random.Generator) -> NDArray[np.float64]:
    """How far the noised sums of each training went along the canary, in C: the attacker's statistic.

    Args:
        setting: of DP-SGD, run by `fedmr.training.dp_sgd.private_sum`.
        trainings: number of trainings.
        present: whether the canary is one of the units.
        rng: for the drawing and the noise.
    """
    canary = np.zeros(setting.size)
    canary[0] = 1e6  # to be clipped
    reached = np.zeros(trainings)
    for number in range(trainings):
        for _ in range(setting.steps):
            drawn = [canary] if present and rng.random() < setting.rate else []
            total = private_sum(
                drawn,
                setting.size,
                max_grad_norm=setting.max_grad_norm,
                noise_multiplier=setting.noise_multiplier,
                normal=rng.standard_normal,
            )
            reached[number] += total[0] / setting.max_grad_norm
    return reached


def epsilon_at_least(
    present: NDArray[np.float64], absent: NDArray[np.float64], delta: float, confidence: float = 0.95
) -> float:
    """Lower bound on epsilon from the best threshold between two samples of scores.

    The threshold is chosen on one half of the trainings and judged on the other, so that the bound holds with the
    confidence. 0 if the attack tells nothing.

    Args:
        present: scores of trainings with the canary.
        absent: scores of trainings without it.
        delta: of epsilon.
        confidence: with which the bound holds.
    """
    known, judged = (present[::2], absent[::2]), (present[1::2], absent[1::2])
    thresholds = np.unique(np.quantile(np.concatenate(known), np.linspace(0.01, 0.99, 99)))
    best = max(thresholds, key=lambda limit: _bound(known, limit, delta, confidence))
    return _bound(judged, float(best), delta, confidence)


def _bound(
    samples: tuple[NDArray[np.float64], NDArray[np.float64]], limit: float, delta: float, confidence: float
) -> float:
    """Of both directions of the test "present if the score is above the limit", the larger bound."""
    with_it, without = samples
    half = (1 - confidence) / 2
    found_most = _upper(int((without > limit).sum()), len(without), half)
    missed_most = _upper(int((with_it <= limit).sum()), len(with_it), half)
    bounds = [0.0]
    for wrong, other in ((found_most, missed_most), (missed_most, found_most)):
        if 1 - delta - other > 0 and wrong > 0:
            bounds.append(math.log((1 - delta - other) / wrong))
    return max(bounds)


def _upper(count: int, of: int, level: float) -> float:
    """Upper end of Clopper and Pearson's interval of a share."""
    return 1.0 if count == of else float(beta.ppf(1 - level, count + 1, of - count))
