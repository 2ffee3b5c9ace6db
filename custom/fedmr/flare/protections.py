"""The privacy filters as plain functions of an update, for the leakage audit: no account, no federation."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.filters.exclude_vars import ExcludeVars

from fedmr.flare.filters import StrictPercentilePrivacy, StrictSVTPrivacy
from fedmr.privacy import mechanism as privacy
from fedmr.privacy.mechanism import Protection, Vector

PERCENTILE = ((10, 1e-2), (80, 5e-4), (99, 5e-4))  # percentile, gamma
SVT = ((0.1, 0.1, 1e-5), (0.9, 40, 5e-4))  # fraction, noise_var, gamma
GAUSSIAN = ((8, 1e-8), (8, 1e-7), (8, 1e-6), (8, 1e-5), (8, 1e-3))  # clip, noise_multiplier
EXCLUDED = {"first layer": "^head", "body": "^body"}
_NO_LIMIT = 1e12


def protections(parameters: Mapping[str, int]) -> dict[str, Protection]:
    """The filters by their settings.

    Args:
        parameters: the network's, their names to their sizes, in the order of the update.
    """
    made: dict[str, Protection] = {f"percentile {p:g}, gamma {g:g}": partial(_percentile, p, g) for p, g in PERCENTILE}
    made |= {f"SVT fraction {f:g}, noise_var {v:g}, gamma {g:g}": partial(_svt, f, v, g) for f, v, g in SVT}
    made |= {f"Gaussian clip {c:g}, noise_multiplier {m:g}": partial(_gaussian, c, m) for c, m in GAUSSIAN}
    return made | {f"{name} excluded": partial(_without, regex, parameters) for name, regex in EXCLUDED.items()}


def _percentile(percentile: float, gamma: float, update: Vector, steps: int) -> Vector:
    return _sent(StrictPercentilePrivacy(percentile, gamma), update, steps)


def _svt(fraction: float, noise_var: float, gamma: float, update: Vector, steps: int) -> Vector:
    return _sent(StrictSVTPrivacy(fraction, 0.1, noise_var, gamma, max_epsilon=_NO_LIMIT), update, steps)


def _gaussian(clip: float, noise_multiplier: float, update: Vector, steps: int) -> Vector:
    return privacy.gaussian_mechanism(update, clip, noise_multiplier)


def _without(regex: str, parameters: Mapping[str, int], update: Vector, steps: int) -> Vector:
    parts = dict(zip(parameters, np.split(update, np.cumsum(list(parameters.values()))[:-1]), strict=True))
    dxo = DXO(DataKind.WEIGHT_DIFF, data=dict(parts))
    kept = ExcludeVars(regex).process_dxo(dxo, Shareable(), FLContext()).data
    return np.concatenate([kept.get(name, np.zeros_like(part)) for name, part in parts.items()])


def _sent(made: Any, update: Vector, steps: int) -> Vector:
    return np.asarray(made.run_inner(update, steps, FLContext()).data["update"])
