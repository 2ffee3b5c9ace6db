"""Several runs beside each other: test figures of their models by site."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from fedmr.runs.checks import RunError
from fedmr.runs.run import Run

_METRICS = ("psnr", "ssim")


@dataclass(frozen=True)
class Comparison:
    """Test figures of several runs' final models.

    Attributes:
        names: of the runs, each once.
        sites: all sites that any run has, each with one row of figures per run, None where the run lacks the site.
        mean: per run the mean over the sites that all runs have, so that it compares like with like.
        shared: the number of these.
    """

    names: list[str]
    sites: dict[str, list[Mapping[str, Any] | None]]
    mean: Sequence[Mapping[str, float]]
    shared: int

    @property
    def figures(self) -> dict[str, Any]:
        """The same as JSON takes it: runs, and for each site and the mean a row per run."""
        return {"runs": self.names, "sites": self.sites, "mean": self.mean, "sites_in_all_runs": self.shared}


def compare(runs: Sequence[Run]) -> Comparison:
    """Put the final models of two or more runs side by side.

    Raises:
        RunError: a run is incomplete, or the runs share no site.
    """
    figures = [run.figures()["sites"] for run in runs]
    shared = [site for site in figures[0] if all(site in one for one in figures)]
    if not shared:
        raise RunError(f"{' and '.join(str(run.path) for run in runs)} share no site; compare runs on the same sites")
    rows = {site: [_row(one.get(site)) for one in figures] for site in sorted({s for one in figures for s in one})}
    means = [{m: sum(one[site]["model"][m] for site in shared) / len(shared) for m in _METRICS} for one in figures]
    return Comparison(_names([run.path for run in runs]), rows, means, len(shared))


def comparison_table(comparison: Comparison) -> Table:
    """Return sites by runs: PSNR in dB and SSIM, with the difference of each run from the first."""
    view = Table(
        title="final models of several runs",
        caption=f"PSNR (dB) / SSIM; difference in PSNR from {escape(comparison.names[0])}; "
        f"mean over the {comparison.shared} sites of all runs",
    )
    view.add_column("site", no_wrap=True)
    view.add_column("n", justify="right")
    for number, name in enumerate(comparison.names):
        view.add_column(escape(name), justify="right")
        if number:
            view.add_column("difference", justify="right")
    for site, rows in comparison.sites.items():
        scans = sorted({str(row["n_volumes"]) for row in rows if row})
        view.add_row(escape(site), " / ".join(scans), *_cells(rows), end_section=site == list(comparison.sites)[-1])
    view.add_row("mean", "", *_cells(comparison.mean))
    return view


def _row(figures: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if figures is None:
        return None
    return {"n_volumes": figures["n_volumes"], **{metric: figures["model"][metric] for metric in _METRICS}}


def _names(paths: Sequence[Path]) -> list[str]:
    """Return the last part of every path, or the whole path where runs share it."""
    last = [path.resolve().name for path in paths]
    return [name if last.count(name) == 1 else str(path) for name, path in zip(last, paths, strict=True)]


def _cells(models: Sequence[Mapping[str, Any] | None]) -> list[str]:
    first, cells = models[0], []
    for number, model in enumerate(models):
        cells.append(f"{model['psnr']:.2f} / {model['ssim']:.4f}" if model else "-")
        if number:
            cells.append(f"{model['psnr'] - first['psnr']:+.2f}" if model and first else "-")
    return cells
