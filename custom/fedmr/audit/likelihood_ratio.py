"""Membership by a likelihood ratio: was an example in a model's training data, as told by models with and without it?

Carlini et al., "Membership inference attacks from first principles" (IEEE S&P 2022), the online attack: many shadow
models are trained on random halves of a population. An example's losses under the models that had it, and under those
that had not, are two normal distributions; a model under attack gives one more loss, which is likelier under one.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve  # type: ignore[import-untyped]

LEAST_MODELS = 64
_SMALLEST = 1e-12  # a loss of 0 has no logarithm

Losses = NDArray[np.float64]
Members = NDArray[np.bool_]


@dataclass(frozen=True)
class Power:
    """How well an attack tells members from others.

    Attributes:
        auc: area under the ROC curve, 0.5 is guessing.
        low, high: ends of the central 95 % of the AUC over models drawn anew (bootstrap).
        at_low_rate: share of members found where one in a hundred others is taken for one, 0.01 is guessing.
        trials: pairs of a model and an example.
    """

    auc: float
    low: float
    high: float
    at_low_rate: float
    trials: int


def likelihood_ratios(losses: Losses, members: Members) -> Losses:
    """Log likelihood ratio of every example under every model, each model attacked by all the others.

    Args:
        losses: of M models on N examples, (M, N), at least 0.
        members: (M, N), whether the example was in the model's training data.

    Returns:
        (M, N), higher where the example looks like a member.

    Raises:
        ValueError: fewer than `LEAST_MODELS` models, other shapes, or an example that almost all or no models had.
    """
    if losses.shape != members.shape or len(losses) < LEAST_MODELS:
        raise ValueError(
            f"losses {losses.shape} and members {members.shape} must have one shape, with {LEAST_MODELS} models or more"
        )
    if min(members.sum(axis=0).min(), (~members).sum(axis=0).min()) < 3:
        raise ValueError("every example must be in at least three models and out of at least three")
    logs = np.log(np.maximum(losses, _SMALLEST))
    ratios = np.empty_like(logs)
    for model in range(len(logs)):
        others = np.arange(len(logs)) != model
        inside = _likelihood(logs[model], np.where(members, logs, np.nan)[others])
        outside = _likelihood(logs[model], np.where(members, np.nan, logs)[others])
        ratios[model] = inside - outside
    return ratios


def power_of(scores: Losses, members: Members, seed: int = 0) -> Power:
    """How well scores, of any attack, tell members from others; `seed` draws the models of the interval."""
    rng, number = np.random.default_rng(seed), len(scores)
    drawn = [rng.integers(number, size=number) for _ in range(200)]
    areas = [roc_auc_score(members[rows].ravel(), scores[rows].ravel()) for rows in drawn]
    wrong, right, _ = roc_curve(members.ravel(), scores.ravel())
    return Power(
        auc=float(roc_auc_score(members.ravel(), scores.ravel())),
        low=float(np.quantile(areas, 0.025)),
        high=float(np.quantile(areas, 0.975)),
        at_low_rate=float(right[np.searchsorted(wrong, 0.01, side="right") - 1]),
        trials=members.size,
    )


def _likelihood(values: Losses, known: Losses) -> Losses:
    """Log density of `values` (N,) under normals fitted to the columns of `known` (M, N), of which NaN are left out."""
    mean = np.nanmean(known, axis=0)
    spread = np.maximum(np.nanstd(known, axis=0, ddof=1), 1e-6)
    density: Losses = -np.log(spread) - ((values - mean) / spread) ** 2 / 2
    return density
