"""Figures, table and picture of a run. Reads what the server received; needs no site's data."""

from collections.abc import Mapping

from rich.markup import escape
from rich.table import Table

from fedmr.nets import title as title_of
from fedmr.runs.figures import METHODS, PERSONAL, Figures
from fedmr.tasks.base import Task


def labels_of(task: Task | None) -> dict[str, str]:
    """`METHODS` with the name of the task's network; as it is where the task is not known."""
    return METHODS | ({"model": title_of(task.network)} if task else {})


def figures_rows(figures: Figures) -> list[list[str]]:
    """Cells of a row per site and of the mean: site, number of volumes, PSNR / SSIM per method, gain in dB."""
    total = sum(site["n_volumes"] for site in figures["sites"].values())
    rows = []
    for site, row in [*figures["sites"].items(), ("mean", {"n_volumes": total, **figures["mean"]})]:
        cells = [f"{row[m]['psnr']:.2f} / {row[m]['ssim']:.4f}" for m in METHODS if m in figures["mean"]]
        rows.append([site, str(row["n_volumes"]), *cells, f"{row['model']['psnr'] - row['zero_filled']['psnr']:+.2f}"])
    return rows


def figures_table(figures: Figures, title: str, labels: Mapping[str, str] = METHODS) -> Table:
    """Sites by methods, PSNR in dB and SSIM, with the gain over zero-filled; `labels` names the methods."""
    view = Table(title=escape(title), caption="PSNR (dB) / SSIM per volume, range = volume maximum, mean over volumes")
    view.add_column("site", no_wrap=True)
    for label in ("n", *(labels[m] for m in METHODS if m in figures["mean"]), "gain"):
        view.add_column(escape(label), justify="right", no_wrap=True)
    *sites, mean = figures_rows(figures)
    for row in sites:
        view.add_row(*map(escape, row), end_section=row is sites[-1])
    view.add_row(*mean)
    return view


def personal_table(figures: Figures) -> Table | None:
    """Every site's personal model and the global one on the site's own test volumes; None if there is none."""
    if PERSONAL not in figures["mean"]:
        return None
    view = Table(title="personal models, each on its own site", caption="PSNR (dB) / SSIM; the models stay there")
    for label in ("site", "global", "personal", "gain over global"):
        view.add_column(label, justify="left" if label == "site" else "right", no_wrap=True)
    rows = [*figures["sites"].items(), ("mean", figures["mean"])]
    for site, row in rows:
        cells = [f"{row[m]['psnr']:.2f} / {row[m]['ssim']:.4f}" for m in ("model", PERSONAL)]
        gain = f"{row[PERSONAL]['psnr'] - row['model']['psnr']:+.2f}"
        view.add_row(escape(site), *cells, gain, end_section=site == rows[-2][0])
    return view
