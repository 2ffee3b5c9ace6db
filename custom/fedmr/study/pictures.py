"""Pictures of a study: validation curves over rounds, and one test slice by every arm with its errors."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from textwrap import fill
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmr.reports.pictures import most_detailed_box
from fedmr.runs.figures import METHODS
from fedmr.runs.run import Run
from fedmr.study.results import PANEL, RUN, Row

_COLUMNS = 6  # of panels side by side
_LETTERS = 24  # of a line above a panel


@dataclass(frozen=True)
class _Tile:
    """A slice (H, W) about [0, 1] under its label."""

    label: str
    image: NDArray[np.float32]


def draw_curves(folder: Path, rows: Sequence[Row], axes: Sequence[str], path: Path) -> str:
    """Write the validation PSNR by round, a line per arm, the mean over its seeds with a band from least to most.

    The frame holds the better half of every arm's rounds, and half of that height below.

    Returns:
        a text that describes it.
    """
    plt = _pyplot()
    fig, axis = plt.subplots(figsize=(8, 4.2), layout="constrained")
    seeds: dict[str, list[str]] = {}
    for cell, arm in dict.fromkeys((row["cell"], _label(row, axes)) for row in rows):
        seeds.setdefault(arm, []).append(cell)
    best, medians = -np.inf, []
    for number, (arm, cells) in enumerate(seeds.items()):
        values = np.array([curve_of(folder / "cells" / cell / RUN) for cell in cells])
        style = {"color": f"C{number % 10}", "linestyle": ("-", "--", ":")[number // 10 % 3]}
        best = max(best, values.max())
        medians.append(np.median(values))
        axis.plot(range(values.shape[1]), values.mean(axis=0), label=arm, **style)
        axis.fill_between(
            range(values.shape[1]), values.min(axis=0), values.max(axis=0), alpha=0.2, color=style["color"]
        )
    axis.set_xlabel("round")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_ylabel("validation PSNR of the received model (dB)")
    height = best - min(medians)
    axis.set_ylim(max(axis.get_ylim()[0], best - 1.5 * height), best + 0.05 * height)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    fig.savefig(path, dpi=110)
    plt.close(fig)
    return "validation PSNR by round, mean over sites; band: least and most of the seeds"


def curve_of(run: Path) -> list[float]:
    """Return the validation PSNR by round, dB.

    Every site counts the same, so that a pooled run, whose one site holds as many volumes of each, is comparable.
    """
    return [fmean(site["psnr"] for site in record["sites"].values()) for record in Run(run).rounds]


def draw_panels(folder: Path, rows: Sequence[Row], axes: Sequence[str], path: Path) -> str:
    """Write a detail of the middle slice of one test volume by every arm, first seed, and the absolute error below it.

    Returns:
        a text that describes it.
    """
    cells: dict[str, str] = {}
    for row in rows:
        cells.setdefault(_label(row, axes), row["cell"])
    opened = {arm: np.load(folder / "cells" / cell / PANEL) for arm, cell in cells.items()}
    first = next(iter(opened.values()))
    what = str(first["site"]), str(first["volume"])
    reference = _upright(first["tiles"][3])
    tiles = [_Tile(METHODS["zero_filled"], _upright(first["tiles"][1]))]
    for arm, panel in opened.items():
        if (str(panel["site"]), str(panel["volume"])) == what:
            label = f"{fill(arm, _LETTERS)}\n{_psnr(rows, cells[arm], panel)}"
            tiles.append(_Tile(label, _upright(panel["tiles"][2])))
    _draw(tiles, reference, path)
    return f"middle slice of {what[1]} of {what[0]}, enlarged, and absolute errors; dB are of the whole volume"


def _psnr(rows: Sequence[Row], cell: str, panel: Any) -> str:
    wanted = {"cell": cell, "site": str(panel["site"]), "volume": str(panel["volume"]), "method": str(panel["method"])}
    return next(f"{float(row['psnr']):.2f} dB" for row in rows if wanted.items() <= row.items())


def _draw(tiles: Sequence[_Tile], reference: NDArray[np.float32], path: Path) -> None:
    plt = _pyplot()
    top, left, side = most_detailed_box(reference)
    box = np.s_[top : top + side, left : left + side]
    white = float(np.percentile(reference, 99.9)) or 1.0
    worst = float(np.percentile(np.abs(tiles[0].image - reference)[box], 99.5)) or 1.0
    columns = min(_COLUMNS, len(tiles) + 1)
    shown = [_Tile("reference", reference), *tiles]
    lines = -(-len(shown) // columns)
    fig, grid = plt.subplots(
        2 * lines, columns, figsize=(1.75 * columns, 3.9 * lines), layout="constrained", squeeze=False
    )
    for axis in grid.flat:
        axis.set_axis_off()
    for number, tile in enumerate(shown):
        line, column = divmod(number, columns)
        grid[2 * line, column].imshow(tile.image[box], cmap="gray", vmin=0, vmax=white)
        grid[2 * line, column].set_title(tile.label, fontsize=7)
        error = np.abs(tile.image - reference)[box]
        if number:
            drawn = grid[2 * line + 1, column].imshow(
                100 / white * error, cmap="inferno", vmin=0, vmax=100 / white * worst
            )
    bar = fig.colorbar(drawn, ax=grid, shrink=0.5)
    bar.set_label("absolute error (% of white)", fontsize=7)
    bar.ax.tick_params(labelsize=7)
    fig.savefig(path, dpi=90)
    plt.close(fig)


def _upright(tile: NDArray[Any]) -> NDArray[np.float32]:
    """Anterior up, as scans are shown."""
    return np.rot90(tile.astype(np.float32))


def _label(row: Row, axes: Sequence[str]) -> str:
    return ", ".join(row[axis] for axis in axes)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
