"""Statistics of a site's scans, in numbers that may leave it.

Intensities are given in thousandths of the volume's 99.9th percentile, which is what training divides by (there of
the low-resolution volume), so that scanners' units do not matter. Foreground are the voxels above `FOREGROUND` of it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedmr.data.datalist import read_datalist
from fedmr.data.images import Image, check, read_nifti, slices
from fedmr.data.splits import SPLITS
from fedmr.data.volumes import normalisation
from fedmr.metrics import FOREGROUND

BRIGHTEST = 2000  # thousandths; the few voxels above count as this, so that a table of counts holds every volume

# Features, one record per foreground voxel, volume or patient.
INTENSITY = "intensity"  # thousandths
PER_VOLUME = (
    "white_level",  # 99.9th percentile, in the file's units
    "voxel_size",  # mm in the slice plane, mean of both directions
    "slice_spacing",  # mm between slice centres
    "slices",
    "rows",  # voxels
    "columns",  # voxels
)
PER_PATIENT = "volumes_per_patient"


@dataclass(frozen=True)
class Sample:
    """Records of one feature of one data set.

    Attributes:
        values: (K,) float64, the values that occur.
        times: (K,) int64, how often each does.
    """

    values: NDArray[np.float64]
    times: NDArray[np.int64]

    @classmethod
    def of(cls, values: Sequence[float]) -> "Sample":
        """A sample of single records."""
        return cls(np.array(values, dtype=np.float64), np.ones(len(values), dtype=np.int64))

    @property
    def count(self) -> int:
        """Number of records."""
        return int(self.times.sum())

    @property
    def total(self) -> float:
        """Sum of all records; a NumPy number, so that FLARE's division by a count of 0 gives NaN and no error."""
        return np.float64(self.values @ self.times)

    @property
    def mean(self) -> float:
        """Mean record, 0 where there is none."""
        return self.total / max(self.count, 1)

    @property
    def stddev(self) -> float:
        """Standard deviation, over the number of records less one."""
        return self.variance(self.mean, self.count) ** 0.5

    def variance(self, mean: float, count: int) -> float:
        """Squared distances of the records from `mean`, summed, over `count` - 1 (0 for a single record).

        With the mean and count of several samples pooled, these add up to the pooled variance.
        """
        return float((self.values - mean) ** 2 @ self.times) / max(count - 1, 1)

    def extremes(self) -> tuple[float, float]:
        """Smallest and largest record."""
        occurring = self.values[self.times > 0]
        return float(occurring.min(initial=np.inf)), float(occurring.max(initial=-np.inf))

    def histogram(self, bins: int, low: float, high: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Edges (bins + 1,) and counts (bins,); records outside [low, high] count in the outermost bins."""
        inside = np.clip(self.values, low, high)
        counts, edges = np.histogram(inside, bins, (low, high), weights=self.times)
        return edges, counts


def measure(folder: Path, data_sets: Mapping[str, Mapping[str, Sequence[str]]]) -> dict[str, dict[str, Sample]]:
    """Features of a site's data sets; one volume at a time is in memory.

    Args:
        folder: site folder with `datalist.json`.
        data_sets: name -> {"splits": [..], "contrasts": [..]}; what is not given is not restricted.

    Returns:
        data set -> feature -> sample, empty samples where the site has no such volume.

    Raises:
        DataError: a volume or the datalist cannot be used.
        ValueError: data sets that overlap, or an unknown split or restriction.
    """
    chosen = _choose(read_datalist(folder)["volumes"], data_sets)
    return {name: _measure(folder, entries) for name, entries in chosen.items()}


def cohorts(folder: Path, data_sets: Mapping[str, Mapping[str, Sequence[str]]]) -> dict[str, dict[str, str]]:
    """Patient by volume of every data set; arguments and errors are those of `measure`."""
    chosen = _choose(read_datalist(folder)["volumes"], data_sets)
    return {name: {e["image"]: e["patient"] for e in entries} for name, entries in chosen.items()}


def _choose(
    entries: Sequence[dict[str, Any]], data_sets: Mapping[str, Mapping[str, Sequence[str]]]
) -> dict[str, list[dict[str, Any]]]:
    chosen = {}
    for name, limits in data_sets.items():
        unknown = sorted(set(limits) - {"splits", "contrasts"} | set(limits.get("splits", ())) - set(SPLITS))
        if unknown:
            raise ValueError(
                f"data set {name!r}: {', '.join(unknown)} is unknown; known are splits, contrasts, and "
                f"the splits {', '.join(SPLITS)}"
            )
        fields = {"split": limits.get("splits"), "contrast": limits.get("contrasts")}
        chosen[name] = [e for e in entries if all(v is None or e[k] in v for k, v in fields.items())]
    most = Counter(e["image"] for selected in chosen.values() for e in selected)
    if any(number > 1 for number in most.values()):
        # the difference of the two would describe the rest, however small
        raise ValueError(f"data sets {', '.join(data_sets)} share volumes; give each volume to one data set at most")
    return chosen


def _measure(folder: Path, entries: Sequence[dict[str, Any]]) -> dict[str, Sample]:
    voxels = np.zeros(BRIGHTEST + 1, dtype=np.int64)
    rows = []
    for entry in entries:
        path = folder / entry["image"]
        image = read_nifti(path)
        check(image, path)
        counts, row = volume_features(image)
        voxels += counts
        rows.append(row)
    per_volume = {name: Sample.of([row[name] for row in rows]) for name in PER_VOLUME}
    patients = Sample.of(list(Counter(entry["patient"] for entry in entries).values()))
    return {INTENSITY: Sample(np.arange(BRIGHTEST + 1.0), voxels), **per_volume, PER_PATIENT: patients}


def volume_features(image: Image) -> tuple[NDArray[np.int64], dict[str, float]]:
    """Return the features of one scan, (N,) each.

    Returns:
        number of foreground voxels per thousandth (BRIGHTEST + 1,), and the features of `PER_VOLUME`.
    """
    voxels = slices(image)
    level = normalisation(torch.from_numpy(voxels))
    thousandths = np.rint(voxels * (1000 / level)).clip(max=BRIGHTEST).astype(np.int16)
    foreground = thousandths[thousandths > 1000 * FOREGROUND]
    in_plane = [size for axis, size in enumerate(image.spacing) if axis != image.slice_axis]
    number, rows, columns = voxels.shape
    values = level, sum(in_plane) / 2, image.spacing[image.slice_axis], number, rows, columns
    counts = np.bincount(foreground, minlength=BRIGHTEST + 1).astype(np.int64)
    return counts, dict(zip(PER_VOLUME, map(float, values), strict=True))
