"""Federated statistics for people: a table per data set, and a picture of how far sites differ."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedmr.data.statistics import INTENSITY
from fedmr.runs.checks import RunError
from fedmr.runs.figures import Figures
from fedmr.runs.run import Run

_PANELS = {
    "voxel_size": "voxel size in plane (mm)",
    "slice_spacing": "slice spacing (mm)",
    "slices": "slices per volume",
    "white_level": "white level (file's units)",
}


def statistics_table(data_set: Figures, title: str, min_patients: int) -> Table:
    """Sites and all of them together by features, as mean ± standard deviation over volumes or voxels."""
    caption = (
        f"mean±standard deviation; hidden: fewer than {min_patients} patients\n"
        "intensity: of the foreground, in thousandths of a volume's 99.9th percentile\n"
        "shift: Jensen-Shannon divergence of the intensities from all sites', 0 to 1"
    )
    view = Table(title=escape(title), caption=caption, box=box.SIMPLE_HEAD, padding=0)  # fits 80 columns
    view.add_column("site", no_wrap=True)
    for header in ("patients", "volumes", "slices", "voxel\n(mm)", "spacing\n(mm)", "matrix", "intensity", "shift"):
        view.add_column(header, justify="right", no_wrap=True)
    for site, row in data_set["sites"].items():
        view.add_row(escape(site), *_cells(row), end_section=site == list(data_set["sites"])[-1])
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


def draw_statistics(figures: Figures, path: Path) -> None:
    """Write a row per data set: the sites' intensity histograms over one another, then mean ± sd of geometry.

    Args:
        figures: `Run.statistics`.
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


def show_statistics(run: Run, console: Console, *, json_file: Path | None = None, picture: Path | None = None) -> None:
    """Print a table per data set; write the figures and the plot to files, if they are named.

    Raises:
        RunError: as `Run.statistics` and `draw_statistics`.
    """
    figures = run.statistics
    for name, data_set in figures["data_sets"].items():
        title = f"statistics of {run.path}, data set {name}"
        console.print(statistics_table(data_set, title, figures["min_patients"]))
    for line in run.refused.lines():
        console.print(f"[yellow]refused:[/] {escape(line)}", soft_wrap=True)
    if json_file:
        json_file.write_text(json.dumps(figures, indent=1) + "\n")
    if picture:
        draw_statistics(figures, picture)
        console.print(f"wrote {escape(str(picture))}", soft_wrap=True)
