"""Every model on every site's test volumes: the matrix of a cross-site evaluation, as table and heat map."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedmr.runs.checks import RunError
from fedmr.runs.records import BEST_MODEL, FINAL_MODEL
from fedmr.runs.run import Run

_NAMES = {FINAL_MODEL: "global, final", BEST_MODEL: "global, best round"}


@dataclass(frozen=True)
class Matrix:
    """`psnr` (models, sites) in dB: row by model, column by the site whose test volumes were used."""

    models: list[str]
    sites: list[str]
    psnr: np.ndarray[Any, np.dtype[np.float64]]


def matrix_of(run: Run) -> Matrix:
    """The matrix of a run, sites' models first; of sites as far as they have volumes and sent usable figures.

    Raises:
        RunError: a site submitted no model, or did not test one.
    """
    results, everyone = run.results, sorted(run.expected(), key=_natural)
    refused = {site for model, site in run.refused.records if isinstance(model, str)}
    trained = [site for site in everyone if site not in run.evaluating]
    sites = [site for site in everyone if site not in run.without_test | refused]
    tested = {model for site in sites for model in results.get(site, {})}
    if absent := [site for site in trained if site not in tested]:
        raise RunError(f"no model of {', '.join(absent)} was tested. Look into that site's log.txt")
    models = [*trained, *(model for model in _NAMES if model in tested and not run.trained_alone)]
    for model in models:
        if absent := [site for site in sites if "model" not in results.get(site, {}).get(model, {})]:
            raise RunError(f"no test figures of {model} from {', '.join(absent)}. Look into that site's log.txt")
    psnr = np.array([[results[site][model]["model"]["psnr"] for site in sites] for model in models])
    return Matrix([_NAMES.get(model, model) for model in models], sites, psnr)


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part or 0), text) for text, part in re.findall(r"(\D*)(\d*)", name)]


def matrix_table(matrix: Matrix) -> Table:
    """Models by sites with the mean over sites, the best of every column in bold."""
    view = Table(title="PSNR (dB) of every model on every site's test volumes", caption="bold: best of the column")
    view.add_column("model", no_wrap=True)
    for site in (*matrix.sites, "mean"):
        view.add_column(escape(site), justify="right", no_wrap=True)
    values = np.column_stack([matrix.psnr, matrix.psnr.mean(axis=1)])
    best = values.argmax(axis=0)
    for number, (model, row) in enumerate(zip(matrix.models, values, strict=True)):
        cells = [f"[bold]{v:.2f}[/]" if number == b else f"{v:.2f}" for v, b in zip(row, best, strict=True)]
        view.add_row(escape(model), *cells, end_section=number == len(set(matrix.models) - set(_NAMES.values())) - 1)
    return view


def draw_matrix(matrix: Matrix, path: Path) -> None:
    """Write the heat map as a picture: colour is the distance to the best of the column, since test sets differ."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    loss = matrix.psnr.max(axis=0) - matrix.psnr
    size = 2.6 + 1.05 * len(matrix.sites), 1.3 + 0.45 * len(matrix.models)
    fig, axis = plt.subplots(figsize=size, layout="constrained")
    picture = axis.imshow(loss, cmap="viridis_r", vmin=0, vmax=max(float(loss.max()), 0.1), aspect="auto")
    for (row, column), value in np.ndenumerate(matrix.psnr):
        colour = "white" if loss[row, column] > 0.45 * picture.norm.vmax else "black"
        weight = "bold" if loss[row, column] == 0 else "normal"
        axis.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, weight=weight)
    axis.set_xticks(range(len(matrix.sites)), matrix.sites)
    axis.set_yticks(range(len(matrix.models)), matrix.models)
    axis.set_xlabel("test volumes of")
    axis.set_ylabel("model of")
    fig.colorbar(picture, label="dB below the best of the column")
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=110)
    plt.close(fig)


def show_matrix(run: Run, console: Console, picture: Path) -> None:
    """Print the table and write the heat map; errors as `matrix_of`."""
    matrix = matrix_of(run)
    console.print(matrix_table(matrix))
    draw_matrix(matrix, picture)
    console.print(f"wrote {escape(str(picture))}", soft_wrap=True)
