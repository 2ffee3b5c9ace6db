"""The one table of a study: a row per cell, model and test volume, in a CSV file that is always whole."""

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fedmr.metrics import METRICS
from fedmr.study import Cell
from fedmr.study.files import StudyError
from fedmr.utils.files import write_atomically

Row = dict[str, str]

# method: zero_filled, interpolated, or whose network it is: global, personal (next to a global one), local (alone),
# elsewhere (local, on the volume of another site that trained alone);
# model_of: sites it was trained on; seen: whether the volume's site is one of them
_WHAT = ("method", "model_of", "site", "seen", "volume", *METRICS)
_COST = ("parameters", "rounds", "steps", "bytes_up", "bytes_down", "seconds", "seconds_training", "seconds_per_step")
_FACTS = ("job", "commit", "hardware", "software", "settings")
FILE = "results.csv"
# in cells/NAME: the simulator's workspace, pictures of one test volume, and latents by split and site
RUN, PANEL, LATENTS = "run", "panel.npz", "latents.npz"


def columns(axes: Iterable[str]) -> list[str]:
    """Columns of a study's table: the cell, its variant of every axis, its seed, the result, its cost, and how it came
    about. All but those that begin with "seconds" are the same again when a cell is run again."""
    return ["cell", *axes, "seed", *_WHAT, *_COST, *_FACTS]


class Results:
    """The table in a study's folder; a cell is done if it has rows.

    Args:
        folder: of the study.
        cells: all of the study, in their order, which is that of the rows.
        axes: names of the axes.

    Raises:
        StudyError: the table has rows of other settings or other columns, i.e. the study was changed since.
    """

    def __init__(self, folder: Path, cells: list[Cell], axes: Iterable[str]) -> None:
        self._path, self._columns = folder / FILE, columns(axes)
        self._cells = {cell.name: cell for cell in cells}
        self._rows: dict[str, list[Row]] = {}
        for row in read_rows(folder):
            if list(row) != self._columns:
                raise StudyError(f"{self._path} has other columns than this study; name another --out")
            name = row["cell"]
            if name not in self._cells:
                raise StudyError(f"{self._path} holds cell {name}, which this study has not; name another --out")
            if row["settings"] != self._cells[name].settings:
                raise StudyError(
                    f"{self._path} holds cell {name} with other settings than the study has now; delete its lines to "
                    "run it again, or name another --out"
                )
            self._rows.setdefault(name, []).append(row)

    @property
    def done(self) -> set[str]:
        """Names of the cells that have rows."""
        return set(self._rows)

    def add(self, cell: Cell, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write the rows of a finished cell; they stand in the file all or not at all."""
        self._rows[cell.name] = [{key: _text(value) for key, value in row.items()} for row in rows]

        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, self._columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row for name in self._cells for row in self._rows.get(name, []))
        write_atomically(self._path, lambda handle: handle.write(table.getvalue().encode()))


def read_rows(folder: Path) -> list[Row]:
    """Rows of the table in a study's folder; none if no cell is done."""
    path = folder / FILE
    if not path.is_file():
        return []
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
