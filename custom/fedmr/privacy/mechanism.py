"""Privacy mechanisms for a site's weight update and figures before they leave: pure functions, without FLARE.

An update is treated as one vector, so that a norm, a percentile or noise is over all its weights at once.

The Gaussian mechanism here protects a site's whole update of a round, against everybody who sees it, the server
included: the noise is added at the site (local differential privacy of the site, not of a patient). Two updates of a
site that are clipped to norm C differ by at most 2C, whatever the data behind them: the sensitivity of replacing the
site's data is 2C. Adding or removing a site, sensitivity C, would say less: the server sees who takes part.
"""

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmr.metrics import VOLUME_METRICS
from fedmr.utils.errors import UnsafeError

Vector = NDArray[np.float64]
Update = dict[str, NDArray[Any]]
Protection = Callable[[Vector, int], Vector]  # an update and its number of steps to what is sent

SUBJECTS = ("model", "personal", "zero_filled", "interpolated")
# more than a float64 norm is off: n * 2^-53 for up to 9 million values
_ROUNDING = 1e-9
DIGITS = 4  # significant, of a metric that leaves: 0.01 dB; a float64's 16 could carry a message


def to_vector(update: Mapping[str, Any]) -> Vector:
    """All floating-point arrays of an update as one float64 vector, in the order of the update.

    Integer arrays, such as counters of batches, are left out: they enter no norm and get no noise.

    Raises:
        UnsafeError: no weights, something that is no numeric array, or values that are not finite.
    """
    parts = []
    for name, array in update.items():
        if not isinstance(array, (np.ndarray, np.generic)) or array.dtype.kind not in "fiub":
            raise UnsafeError(f"{name!r} of the update is no numeric array")
        if array.dtype.kind == "f":
            if not np.isfinite(array).all():
                raise UnsafeError(f"{name!r} of the update holds values that are NaN or infinite")
            parts.append(np.asarray(array, dtype=np.float64).reshape(-1))
    if not sum(part.size for part in parts):
        raise UnsafeError("the update holds no floating-point weights")
    return np.concatenate(parts)


def from_vector(vector: Vector, like: Mapping[str, NDArray[Any]]) -> Update:
    """Return the inverse of `to_vector`, (N,) to arrays of names, shapes and types of `like`, integer ones all zero.

    Values are rounded towards zero, so that rounding to float32 makes no norm larger.

    Raises:
        UnsafeError: `vector` has another length or values that are not finite.
    """
    sizes = [array.size if array.dtype.kind == "f" else 0 for array in like.values()]
    if vector.shape != (sum(sizes),) or not np.isfinite(vector).all():
        raise UnsafeError("a privacy filter made an update of another size or with values that are not finite")
    parts = np.split(vector, np.cumsum(sizes)[:-1])
    return {
        name: _towards_zero(part, array.dtype).reshape(array.shape) if size else np.zeros_like(array)
        for (name, array), part, size in zip(like.items(), parts, sizes, strict=True)
    }


def clip(vector: Vector, bound: float) -> Vector:
    """The vector, scaled down to an L2 norm of at most `bound` if it is longer; never scaled up."""
    norm = float(np.linalg.norm(vector))
    if norm <= bound * (1 - _ROUNDING):
        return vector
    return vector * (bound / norm * (1 - _ROUNDING))


def system_normal(count: int) -> Vector:
    """`count` standard normal numbers from the operating system's cryptographic source; nobody can repeat them.

    Each is half the sum of four, made from 52 random bits by the inverse distribution function. The sum hampers the
    attack of Mironov (CCS 2012) on the gaps between floating-point numbers (Holohan and Braghin, ESORICS 2021,
    arXiv 2107.10138; Opacus' secure mode does the same). It is a mitigation, not an exact discrete mechanism.
    """
    from scipy.special import ndtri  # takes a fifth of a second, and few jobs need it

    bits = np.frombuffer(os.urandom(32 * count), dtype=np.uint64) >> np.uint64(12)
    return ndtri((bits + 0.5) * 2.0**-52).reshape(4, count).sum(axis=0) / 2


def gaussian_mechanism(
    vector: Vector, bound: float, noise_multiplier: float, normal: Callable[[int], Vector] = system_normal
) -> Vector:
    """Clip to L2 norm `bound` and add Gaussian noise of standard deviation `noise_multiplier * bound` to every value.

    Args:
        vector: update.
        bound: C; infinite means no clipping, and then no noise is possible.
        noise_multiplier: noise per clip; 0 means no noise.
        normal: source of standard normal numbers; another one than the system's is for tests alone.
    """
    clipped = clip(vector, bound)
    return clipped + noise_multiplier * bound * normal(vector.size) if noise_multiplier else clipped


def compare(true: Vector, sent: Vector) -> dict[str, float]:
    """Cosine between the true and the sent update, 0 if one of them is zero, and the ratio of their norms."""
    norms = float(np.linalg.norm(true)), float(np.linalg.norm(sent))
    cosine = float(true @ sent) / (norms[0] * norms[1]) if all(norms) else 0.0
    return {"cosine": cosine, "norm_ratio": norms[1] / norms[0] if norms[0] else math.inf}


def public_metrics(metrics: Mapping[str, Any], min_volumes: int = 1) -> dict[str, Any]:
    """Metrics as they may leave: known names, finite numbers, `DIGITS` significant digits.

    Args:
        metrics: metric to number, or subject to metrics with the number of volumes as ``"n_volumes"``.
        min_volumes: means over fewer volumes must not leave.

    Raises:
        UnsafeError: anything else, or too few volumes.
    """
    if not isinstance(metrics, Mapping) or not metrics:
        raise UnsafeError("the metrics are no dictionary with entries")
    if dict(metrics) == {"n_volumes": 0}:
        return {"n_volumes": 0}  # of no volume, so it tells of none
    public: dict[str, Any] = {}
    for name, value in metrics.items():
        if name in SUBJECTS and isinstance(value, Mapping):
            public[name] = {key: _public(key, number) for key, number in value.items()}
        elif name == "n_volumes" and isinstance(value, int) and not isinstance(value, bool):
            public[name] = value
        else:
            public[name] = _public(name, value)
    if min_volumes > 1 and public.get("n_volumes", 0) < min_volumes:
        raise UnsafeError(f"the metrics are of {public.get('n_volumes', 'unknown')} volumes, fewer than {min_volumes}")
    return public


def _public(name: str, value: object) -> float:
    if name not in VOLUME_METRICS or isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise UnsafeError(f"{str(name)[:40]!r} is no known metric with a number; known are {', '.join(VOLUME_METRICS)}")
    if not math.isfinite(float(value)):
        raise UnsafeError(f"metric {name} is {float(value)}")
    return rounded_figure(float(value))


def rounded_figure(value: float) -> float:
    """A figure that was measured on scans, with `DIGITS` significant digits; NaN stays NaN."""
    return float(f"{value:.{DIGITS}g}")


def _towards_zero(part: Vector, dtype: np.dtype[Any]) -> NDArray[Any]:
    with np.errstate(over="ignore"):  # what overflows becomes the largest finite value
        rounded = part.astype(dtype)
    grown = np.abs(rounded) > np.abs(part)
    return np.where(grown, np.nextafter(rounded, dtype.type(0)), rounded)
