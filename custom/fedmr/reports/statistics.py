"""Statistics of a site's scans, in numbers that may leave it, and how far sites differ.

Intensities are given in thousandths of the volume's 99.9th percentile, which is what training divides by (there of
the low-resolution volume), so that scanners' units do not matter. Foreground are the voxels above `FOREGROUND` of it.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from fedmr.data.datalist import read_datalist
from fedmr.data.images import Image, check, read_nifti, slices
from fedmr.data.splits import SPLITS
from fedmr.data.volumes import normalisation
from fedmr.federation.render import CLIENT_CONFIG, read_argument
from fedmr.metrics import FOREGROUND
from fedmr.runs.run import Figures, RunError, find_run, participants

ARTEFACT = Path("statistics") / "statistics.json"  # where the job writes it within the server's run folder
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

_PANELS = {
    "voxel_size": "voxel size in plane (mm)",
    "slice_spacing": "slice spacing (mm)",
    "slices": "slices per volume",
    "white_level": "white level (file's units)",
}


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


def is_statistics(run: Path) -> bool:
    """Whether a run's result are statistics, not a model.

    Raises:
        RunError: no run there.
    """
    return (find_run(run) / ARTEFACT).is_file()


def read_statistics(run: Path) -> Figures:
    """Statistics as the server received and pooled them.

    Returns:
        ``{"min_patients": n, "data_sets": {NAME: {"edges": [..], "sites": {SITE: ROW or None}, "all sites": ROW}}}``,
        None for a hidden site; a ROW holds "patients", "volumes", {"mean", "stddev"} per feature, "histogram" of the
        intensities, and "shift" (see `shift`).

    Raises:
        RunError: a site or one of its figures is missing.
    """
    path = find_run(run) / ARTEFACT
    raw, sites = json.loads(path.read_text()), sorted(participants(run))
    data_sets: Figures = {}
    try:
        for name in raw[PER_PATIENT]["count"]["Global"]:
            rows = {site: _row(raw, site, name) for site in [*sites, "Global"]}
            pooled = rows.pop("Global")
            for row in rows.values():
                if row and pooled:
                    row["shift"] = shift(row["histogram"], pooled["histogram"])
            bins = raw[INTENSITY]["histogram"]["Global"][name] if pooled else []
            edges = [low for low, _, _ in bins] + [high for _, high, _ in bins[-1:]]
            data_sets[name] = {"edges": edges, "sites": rows, "all sites": pooled}
    except KeyError as error:
        raise RunError(f"{path} is incomplete: it has no {error}. Look into the sites' log.txt") from None
    minimum = int(read_argument(find_run(run) / "app_server", CLIENT_CONFIG, "min_count"))
    return {"min_patients": minimum, "data_sets": data_sets}


def _row(raw: dict[str, Any], site: str, data_set: str) -> Figures | None:
    patients = raw[PER_PATIENT]["count"][site][data_set]
    if patients == 0:
        return None
    moments = {
        name: {statistic: raw[name][statistic][site][data_set] for statistic in ("mean", "stddev")}
        for name in (INTENSITY, *PER_VOLUME, PER_PATIENT)
    }
    counts = [number for _, _, number in raw[INTENSITY]["histogram"][site][data_set]]
    return {"patients": patients, "volumes": raw["slices"]["count"][site][data_set], **moments, "histogram": counts}


def shift(site: Sequence[int], pooled: Sequence[int]) -> float:
    """Jensen-Shannon divergence of two histograms with the same bins, in bit: 0 for equal ones, 1 for disjoint ones.

    With M = (P + Q) / 2 it is D(P||M) / 2 + D(Q||M) / 2, D the Kullback-Leibler divergence (Lin, IEEE Trans. Inf.
    Theory 37(1), 1991).
    """
    from scipy.spatial.distance import jensenshannon

    return float(jensenshannon(site, pooled, base=2) ** 2)


def table(data_set: Figures, title: str, min_patients: int) -> Table:
    """Sites and all of them together by features, as mean ± standard deviation over volumes or voxels."""
    caption = (
        f"mean±standard deviation; hidden: fewer than {min_patients} patients\n"
        "intensity: of the foreground, in thousandths of a volume's 99.9th percentile\n"
        "shift: Jensen-Shannon divergence of the intensities from all sites', 0 to 1"
    )
    view = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, padding=0)  # fits 80 columns
    view.add_column("site", no_wrap=True)
    for header in ("patients", "volumes", "slices", "voxel\n(mm)", "spacing\n(mm)", "matrix", "intensity", "shift"):
        view.add_column(header, justify="right", no_wrap=True)
    for site, row in data_set["sites"].items():
        view.add_row(site, *_cells(row), end_section=site == list(data_set["sites"])[-1])
    view.add_row("all sites", *_cells(data_set["all sites"]))
    return view


def _cells(row: Figures | None) -> list[str]:
    if row is None:
        return ["hidden"]

    def cell(name: str, digits: int) -> str:
        return "±".join(f"{row[name][statistic]:.{digits}f}" for statistic in ("mean", "stddev"))

    matrix = "x".join(f"{row[name]['mean']:.0f}" for name in ("rows", "columns"))
    mm = [cell(name, 2) for name in ("voxel_size", "slice_spacing")]
    far = f"{row['shift']:.3f}" if "shift" in row else ""
    return [str(row["patients"]), str(row["volumes"]), cell("slices", 0), *mm, matrix, cell(INTENSITY, 0), far]


def draw(figures: Figures, path: Path) -> None:
    """Write a row per data set: the sites' intensity histograms over one another, then mean ± sd of geometry.

    Args:
        figures: of `read_statistics`.
        path: .png to write.

    Raises:
        RunError: every site is hidden.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    shown = {name: d for name, d in figures["data_sets"].items() if d["all sites"]}
    if not shown:
        raise RunError(f"every site is hidden: none has {figures['min_patients']} patients. There is nothing to draw")
    ratios = [4, *[1] * len(_PANELS)]
    with plt.style.context("petroff10"):  # colours that readers with any colour vision tell apart
        size = (13, 3.7 * len(shown))
        fig, axes = plt.subplots(len(shown), len(ratios), figsize=size, width_ratios=ratios, squeeze=False)
        for (intensities, *panels), (name, data_set) in zip(axes, shown.items(), strict=True):
            rows = {site: row for site, row in data_set["sites"].items() if row}
            _draw_histograms(intensities, rows, data_set)
            intensities.set_title(f"data set {name}", fontsize=9)
            for axis, (feature, title) in zip(panels, _PANELS.items(), strict=True):
                _draw_means(axis, {site: row[feature] for site, row in rows.items()})
                axis.set_title(title, fontsize=9)
        fig.tight_layout(w_pad=1.5)
        path.parent.mkdir(parents=True, exist_ok=True)
        fig.savefig(path, dpi=110)
        plt.close(fig)


def _draw_histograms(axis: Any, rows: Mapping[str, Figures], data_set: Figures) -> None:
    edges = np.array(data_set["edges"])
    for number, (site, row) in enumerate(rows.items()):
        share = 100 * np.array(row["histogram"]) / sum(row["histogram"])
        axis.stairs(share, edges, fill=True, alpha=0.12, color=f"C{number}")
        axis.stairs(share, edges, color=f"C{number}", linewidth=1.6, label=f"{site}, shift {row['shift']:.3f}")
    pooled = np.array(data_set["all sites"]["histogram"])
    axis.stairs(100 * pooled / pooled.sum(), edges, color="black", linestyle="--", label="all sites")
    axis.set(xlabel="intensity (thousandths of the volume's 99.9th percentile)", ylabel="foreground voxels (%)")
    axis.set(xlim=(edges[0], edges[-1]), ylim=(0, None))
    axis.legend(fontsize=8, frameon=False)


def _draw_means(axis: Any, moments: Mapping[str, Mapping[str, float]]) -> None:
    for number, value in enumerate(moments.values()):
        axis.errorbar(number, value["mean"], value["stddev"], fmt="o", capsize=4)
    axis.set_xticks(range(len(moments)), moments, rotation=60, ha="right", fontsize=8)
    axis.set(xlim=(-0.7, len(moments) - 0.3), ylim=(0, 1.1 * axis.get_ylim()[1]))
    axis.tick_params(labelsize=8)


def show(run: Path, console: Console, *, json_file: Path | None = None, picture: Path | None = None) -> None:
    """Print a table per data set; write the figures and the plot to files, if they are named.

    Raises:
        RunError: as `read_statistics` and `draw`.
    """
    figures = read_statistics(run)
    for name, data_set in figures["data_sets"].items():
        console.print(table(data_set, f"statistics of {run}, data set {name}", figures["min_patients"]))
    if json_file:
        json_file.write_text(json.dumps(figures, indent=1) + "\n")
    if picture:
        draw(figures, picture)
        console.print(f"wrote {picture}")
