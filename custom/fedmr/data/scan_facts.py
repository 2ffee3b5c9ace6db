"""Simple facts of a scan by which one sees whether it is of the kind that a model was trained on."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_UNITS = {"voxel": "mm", "field_of_view": "mm", "thickness": "mm", "noise": "of the intensity that becomes 1"}
_WORDS = {
    "voxel": "voxel size in the plane",
    "field_of_view": "field of view",
    "thickness": "slice spacing",
    "noise": "noise",
}
_MARGIN = 1.25  # facts up to this factor beyond the training's range count as inside
_FOREGROUND = 0.1  # of the intensity that becomes 1
_LEAST_NOISE = 1e-3  # below it noise does not matter: files round intensities
# Immerkaer's operator: the difference of two Laplacians, blind to constant, linear and, on average, curved parts
_OPERATOR = np.outer([1, -2, 1], [1, -2, 1]).astype(np.float32)
_GAIN = 6.0  # of the operator on the standard deviation of white noise
_MEDIAN_OF_NORMAL = 0.6745  # median of the modulus of a standard normal number


def scan_facts(slices: NDArray[np.float32], spacing: Sequence[float], intensity: float) -> dict[str, float]:
    """Measure a scan.

    Args:
        slices: (S, h, w), in any unit.
        spacing: mm from slice to slice, row to row, and column to column.
        intensity: what the network's input is divided by, in the unit of the slices.

    Returns:
        voxel and field_of_view, geometric means over the two axes of the plane, and thickness, in mm; noise, the
        standard deviation as a share of `intensity`, by the median of Immerkaer's operator over the foreground
        (Immerkaer, Fast noise variance estimation, CVIU 1996).
    """
    height, width = slices.shape[1:]
    return {
        "voxel": float(np.sqrt(spacing[1] * spacing[2])),
        "field_of_view": float(np.sqrt(spacing[1] * height * spacing[2] * width)),
        "thickness": float(spacing[0]),
        "noise": _noise(slices / np.float32(intensity)),
    }


def _noise(slices: NDArray[np.float32]) -> float:
    """Return the standard deviation of the noise of slices (S, h, w), about [0, 1]; 0 if nothing is foreground."""
    residual = np.abs(ndimage.convolve(slices, _OPERATOR[None]))
    inside = slices > _FOREGROUND
    return float(np.median(residual[inside])) / (_GAIN * _MEDIAN_OF_NORMAL) if inside.any() else 0.0


def ranges(scans: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Return the least and the largest of every fact over at least one scan, for a card."""
    return {name: [min(s[name] for s in scans), max(s[name] for s in scans)] for name in _UNITS}


def outside(facts: Mapping[str, float], known: Mapping[str, Sequence[float]]) -> list[str]:
    """Return a message for every fact beyond the range of a card by more than a quarter; facts it lacks say nothing."""
    messages = []
    for name, value in facts.items():
        if name not in known:
            continue
        low, high = known[name]
        if name == "noise":
            low, high = 0.0, max(high, _LEAST_NOISE)  # less noise does no harm
        if not low / _MARGIN <= value <= high * _MARGIN:
            messages.append(
                f"its {_WORDS[name]} is {value:.3g} {_UNITS[name]}; the model was trained on {low:.3g} to {high:.3g}"
            )
    return messages
