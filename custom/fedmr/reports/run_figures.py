"""A run as figures and tables of a paper: curves over rounds, methods by site, details of a slice."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedmr.metrics import METRICS
from fedmr.reports.paper import COLUMN, PAGE, Look, choose, panels, save_figure, save_table
from fedmr.reports.pictures import TILES, most_detailed_box
from fedmr.reports.table import labels_of
from fedmr.runs.figures import METHODS, PERSONAL, weighted_mean
from fedmr.runs.records import FINAL_MODEL
from fedmr.runs.run import Run
from fedmr.runs.streams import latest_pictures


def run_figures(
    run: Run, out: Path, look: Look, *, methods: Sequence[str] = (), sites: Sequence[str] = ()
) -> list[Path]:
    """Write curves, bars, details of the slices that sites share, and the table of test figures.

    Args:
        run: a finished run.
        out: folder to write to; it is made.
        look: format and resolution.
        methods: labels as the report shows them, e.g. "zero-filled"; all by default.
        sites: names; all by default.

    Returns:
        the files.

    Raises:
        RunError: the run is incomplete.
        ValueError: there is no such method or site.
    """
    figures = run.figures(complete=False)
    labels = labels_of(run.task) | {PERSONAL: "personal"}
    known = {labels[m]: m for m in (*METHODS, PERSONAL) if m in figures["mean"]}
    chosen = {label: known[label] for label in choose(methods, list(known), "method")}
    names = choose(sites, list(figures["sites"]), "site")
    out.mkdir(parents=True, exist_ok=True)
    rows = {name: figures["sites"][name] for name in names}
    files = [*save_table(*_table(rows, chosen), out / "table"), save_figure(_bars(rows, chosen), out / "methods", look)]
    if run.rounds:
        files.append(save_figure(_curves(run, names), out / "curves", look))
    images = latest_pictures(run.streams, f"test/{FINAL_MODEL}")
    if shared := {name: images[name] for name in names if name in images}:
        files.append(save_figure(_details(shared, rows, chosen), out / "details", look))
    return files


def _table(rows: dict[str, Any], methods: dict[str, str]) -> tuple[list[str], list[list[str]]]:
    """Head and rows: site, test volumes, and per method every metric that all sites have; last their mean ± SD."""
    shown = [row[key] for row in rows.values() for key in methods.values()]
    metrics = {name: metric for name, metric in METRICS.items() if all(name in figures for figures in shown)}
    head = ["site", "n", *(f"{label}: {metric.title}" for label in methods for metric in metrics.values())]
    body = []
    for name, row in rows.items():
        cells = [f"{row[key][m]:.{metric.digits}f}" for key in methods.values() for m, metric in metrics.items()]
        body.append([name, str(row["n_volumes"]), *cells])
    means = []
    for key in methods.values():
        for name, metric in metrics.items():
            values = [row[key][name] for row in rows.values()]
            spread = f" ± {np.std(values, ddof=1):.{metric.digits}f}" if len(values) > 1 else ""
            means.append(f"{np.mean(values):.{metric.digits}f}{spread}")
    total = sum(row["n_volumes"] for row in rows.values())
    return head, [*body, ["mean ± SD of sites", str(total), *means]]


def _bars(rows: dict[str, Any], methods: dict[str, str]) -> Any:
    """PSNR by site, a bar for each method side by side."""
    figure, (axis,) = panels(1, COLUMN if len(rows) <= 6 else PAGE, 2.4)
    width, places = 0.8 / len(methods), np.arange(len(rows))
    for number, (label, key) in enumerate(methods.items()):
        values = [row[key]["psnr"] for row in rows.values()]
        axis.bar(places + (number - (len(methods) - 1) / 2) * width, values, width, label=label, color=f"C{number}")
    every = [row[key]["psnr"] for row in rows.values() for key in methods.values()]
    axis.set_ylim(min(every) - 1, max(every) + 0.5)
    axis.set_xticks(places, [f"{name}\nn = {row['n_volumes']}" for name, row in rows.items()])
    axis.set_ylabel("PSNR on test volumes (dB)")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, 1.2), ncols=3, frameon=False)
    return figure


def _curves(run: Run, names: Sequence[str]) -> Any:
    """Validation PSNR of the received model by round: sites grey, their mean by steps on top."""
    figure, (axis,) = panels(1, COLUMN, 2.4)
    mean: dict[int, float] = {}
    for number, name in enumerate(names):
        points = {r["round"]: r["sites"][name]["psnr"] for r in run.rounds if "psnr" in r["sites"].get(name, {})}
        style = {"color": "0.6", "linewidth": 0.8, "linestyle": ("-", "--", ":", "-.")[number % 4]}
        axis.plot(list(points), list(points.values()), label=name if len(names) <= 4 else None, **style)
    for record in run.rounds:
        value = weighted_mean([record["sites"][n] for n in names if n in record["sites"]], "psnr")
        if value is not None:
            mean[record["round"]] = value
    axis.plot(list(mean), list(mean.values()), color="C0", linewidth=1.8, label="mean, weighted by steps")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_xlabel("round")
    axis.set_ylabel("validation PSNR (dB)")
    axis.legend(frameon=False)
    return figure


def _details(images: dict[str, Any], rows: dict[str, Any], methods: dict[str, str]) -> Any:
    """A row per site: what was measured, the chosen methods that sites send, reference, each enlarged."""
    shown = [(n, label, key) for n, (label, key) in enumerate(TILES.items()) if key is None or key in methods.values()]
    words = {key: label for label, key in methods.items()}
    figure, axes = panels(len(images) * len(shown), PAGE, PAGE / len(shown) + 0.25, columns=len(shown))
    for line, (site, image) in enumerate(images.items()):
        tiles = [np.rot90(tile) for tile in np.split(image, len(TILES), axis=1)]
        top, left, side = most_detailed_box(tiles[-1])
        for column, (number, label, key) in enumerate(shown):
            axis = axes[line * len(shown) + column]
            axis.imshow(tiles[number][top : top + side, left : left + side], cmap="gray", vmin=0, vmax=255)
            axis.set_title(f"{words[key]}, {rows[site][key]['psnr']:.2f} dB" if key else f"{label}, {site}")
            axis.set_axis_off()
    return figure
