"""Figures and tables as a paper needs them: column widths, fonts that stay text, LaTeX and CSV."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMATS = ("pdf", "svg", "png")
COLUMN, PAGE = 3.5, 7.16  # inches: one column of a journal, and both
_STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "legend.fontsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,  # text stays text, which journals ask for
    "svg.fonttype": "none",
    "svg.hashsalt": "fedmr",  # the same figures give the same file
}
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "\N{EN DASH}": "--",
}
_LATEX |= {sign: f"\\{sign}" for sign in "&%$#_{}"}


@dataclass(frozen=True)
class Look:
    """How figures are written.

    Attributes:
        format: one of `FORMATS`.
        dpi: dots per inch, of a bitmap and of pictures within a vector graphic; 50 to 1200.
    """

    format: str = "pdf"
    dpi: int = 300

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"format is {self.format!r}; known are {', '.join(FORMATS)}")
        if not 50 <= self.dpi <= 1200:
            raise ValueError(f"dpi is {self.dpi}; give 50 to 1200")


def panels(number: int, width: float, height: float, *, columns: int = 3, same_x: bool = True) -> tuple[Any, list[Any]]:
    """Return a figure in the style of a paper, WIDTH inches by HEIGHT a row, and its axes, of one scale."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update(_STYLE)
    from matplotlib import pyplot as plt

    across = min(columns, number)
    down = -(-number // across)
    figure, grid = plt.subplots(
        down, across, figsize=(width, height * down), sharex=same_x, sharey=True, squeeze=False, layout="constrained"
    )
    for axis in list(grid.flat)[number:]:
        axis.set_axis_off()
    return figure, list(grid.flat)[:number]


def save_figure(figure: Any, stem: Path, look: Look) -> Path:
    """Write a figure to STEM.FORMAT and close it; return the file."""
    from matplotlib import pyplot as plt

    path = stem.with_name(f"{stem.name}.{look.format}")
    dated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(look.format)
    figure.savefig(path, dpi=look.dpi, metadata=dated)
    plt.close(figure)
    return path


def save_table(head: Sequence[str], body: Sequence[Sequence[str]], stem: Path) -> list[Path]:
    """Write a table to STEM.csv, and to STEM.tex for LaTeX's booktabs, figures to the right; return the files."""
    paths = [stem.with_name(f"{stem.name}.{ending}") for ending in ("csv", "tex")]
    with paths[0].open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle, lineterminator="\n").writerows([head, *body])
    rows = [" & ".join(map(latex, row)) + r" \\" for row in (head, *body)]
    lines = [rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}", r"\toprule", rows[0], r"\midrule", *rows[1:]]
    paths[1].write_text("\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""]), encoding="utf-8")
    return paths


def latex(text: str) -> str:
    """Return text as LaTeX prints it, whatever signs it holds."""
    return re.sub("|".join(map(re.escape, _LATEX)), lambda found: _LATEX[found[0]], text)


def choose(wanted: Sequence[str], known: Sequence[str], what: str) -> list[str]:
    """Return the names that are wanted, all if none is.

    Raises:
        ValueError: one is not known; the message names those that are.
    """
    if absent := [name for name in wanted if name not in known]:
        raise ValueError(f"there is no {what} {', '.join(absent)}; there are {', '.join(known)}")
    return list(wanted) or list(known)
