"""A study as figures and tables of a paper: its arms in groups beside the baseline, not all in one plot."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedmr.data.datalist import read_datalist, site_folders
from fedmr.reports.paper import PAGE, Look, choose, panels, save_figure, save_table
from fedmr.runs.figures import METHODS
from fedmr.study.files import PLAN, StudyError
from fedmr.study.pictures import curve_of
from fedmr.study.results import FILE, RUN, Row, read_rows
from fedmr.study.tables import NONE, difference, measured_metrics, seen, spread, text_of

_PER_PANEL = 4  # arms beside the baseline
_NETWORKS = ("global", "local")


@dataclass(frozen=True)
class Arms:
    """The arms of a study's table.

    Attributes:
        rows: by the arm's label.
        baseline: label of the arm that the others are compared with.
        plain: rows of the methods without a network, by their label.
    """

    rows: dict[str, list[Row]]
    baseline: str
    plain: dict[str, list[Row]]

    @property
    def groups(self) -> list[list[str]]:
        """Labels in groups for a panel each: the baseline, and up to four others."""
        others = [name for name in self.rows if name != self.baseline]
        parts = [others[start : start + _PER_PANEL] for start in range(0, len(others), _PER_PANEL)]
        own = [self.baseline] if self.baseline in self.rows else []
        return [[*own, *part] for part in parts] or [own]


def study_figures(
    folder: Path, out: Path, look: Look, *, methods: Sequence[str] = (), contrast: str = "", data: Path | None = None
) -> list[Path]:
    """Write differences from the baseline, curves where the runs are there, and the table of arms.

    Args:
        folder: of `fedmr study`, or one with its `results.csv`.
        out: folder to write to; it is made.
        look: format and resolution.
        methods: labels of arms and of interpolations; all by default.
        contrast: of the test volumes that count; all by default.
        data: data root of the study, whose datalists tell the contrasts.

    Returns:
        the files.

    Raises:
        StudyError: no cell is done, or no volume is left.
        ValueError: there is no such method, or contrasts are not known.
    """
    arms = read_arms(folder, _volumes_of(contrast, data))
    names = choose(methods, [*arms.plain, *arms.rows], "method")
    arms = Arms(
        {name: rows for name, rows in arms.rows.items() if name in names},
        arms.baseline,
        {name: rows for name, rows in arms.plain.items() if name in names},
    )
    out.mkdir(parents=True, exist_ok=True)
    files = [*save_table(*_table(arms), out / "table")]
    if arms.rows:
        files.append(save_figure(_psnr(arms), out / "psnr", look))
        if (folder / "cells").is_dir():
            files.append(save_figure(_curves(arms, folder), out / "curves", look))
    return files


def read_arms(folder: Path, volumes: set[tuple[str, str]] | None = None) -> Arms:
    """Read a study's table.

    Args:
        folder: with `results.csv`.
        volumes: sites and volumes that count; all if None.

    Raises:
        StudyError: it has no rows, or none of these volumes.
    """
    rows = read_rows(folder)
    if not rows:
        raise StudyError(f"{folder / FILE} has no rows: no cell is done. Run `fedmr study` first")
    kept = [row for row in rows if volumes is None or (row["site"], row["volume"]) in volumes]
    if not kept:
        raise StudyError(f"no test volume of {folder / FILE} is left; choose another contrast or data root")
    columns = list(rows[0])
    axes = columns[1 : columns.index("seed")]
    found: dict[str, list[Row]] = {}
    for row in kept:
        label = ", ".join(row[axis] for axis in axes)
        name = f"{label} (personal)" if row["method"] == "personal" else label
        if row["method"] in (*_NETWORKS, "personal"):
            found.setdefault(name, []).append(row)
    plain = {METHODS[m]: [row for row in kept if row["method"] == m] for m in METHODS}
    return Arms(found, _baseline(folder, list(found)), {name: own for name, own in plain.items() if own})


def _baseline(folder: Path, labels: Sequence[str]) -> str:
    """Return the first arm that holds the baseline of the plan; without a plan the first."""
    wanted = json.loads((folder / PLAN).read_text())["baseline"] if (folder / PLAN).is_file() else ""
    return next((label for label in labels if wanted in label.split(", ")), labels[0])


def sites_of_contrast(contrast: str, data: Path | None) -> list[str]:
    """Return the sites of a data root whose test volumes are all of a contrast; none, for all, if none is named.

    Raises:
        ValueError: no data root is named, or it has no such site.
    """
    if not contrast:
        return []
    tests = {site: {c for _, c, split in volumes if split == "test"} for site, volumes in _listed(data).items()}
    if sites := [site for site, contrasts in tests.items() if contrasts == {contrast}]:
        return sites
    raise ValueError(f"{data} has no site whose test volumes are all {contrast}, and a run has only means of sites")


def _volumes_of(contrast: str, data: Path | None) -> set[tuple[str, str]] | None:
    if not contrast:
        return None
    listed = _listed(data)
    found = {(site, image) for site, volumes in listed.items() for image, own, _ in volumes if own == contrast}
    if not found:
        known = sorted({own for volumes in listed.values() for _, own, _ in volumes})
        raise ValueError(f"{data} has no volume of contrast {contrast}; it has {', '.join(known) or 'none'}")
    return found


def _listed(data: Path | None) -> dict[str, list[tuple[str, str, str]]]:
    """Image, contrast and split of every volume, by site."""
    if data is None:
        raise ValueError("contrasts are not in the run or study; name its data root by --data")
    return {
        folder.name: [(v["image"], v.get("contrast", ""), v["split"]) for v in read_datalist(folder)["volumes"]]
        for folder in site_folders(data)
    }


def _table(arms: Arms) -> tuple[list[str], list[list[str]]]:
    """Head and rows: every metric as mean ± SD over seeds, and the paired difference in PSNR from the baseline."""
    base = arms.rows.get(arms.baseline, [])
    measured = measured_metrics(row for rows in arms.rows.values() for row in rows)
    body = []
    for name, rows in [*arms.plain.items(), *arms.rows.items()]:
        own = seen(rows) or rows
        cells = [text_of(spread(own, key), metric.digits) for key, metric in measured.items()]
        volumes = {(row["site"], row["volume"]) for row in own}
        far = NONE if name in (arms.baseline, *arms.plain) else text_of(difference(own, seen(base), "psnr"), 2)
        body.append([name, str(len(volumes)), str(len({row["seed"] for row in own})), *cells, far])
    metrics = [metric.title for metric in measured.values()]
    return ["arm", "n", "seeds", *metrics, f"difference from {arms.baseline} (dB)"], body


def _psnr(arms: Arms) -> Any:
    """PSNR of each seed as a dot with the mean as a line, in groups with the baseline first."""
    figure, axes = panels(len(arms.groups), PAGE, 2.2, same_x=False)
    for axis, group in zip(axes, arms.groups, strict=True):
        for place, name in enumerate(group):
            values = _per_seed(seen(arms.rows[name]) or arms.rows[name])
            colour = "0.3" if name == arms.baseline else f"C{place - 1}"
            axis.plot([place] * len(values), values, "o", markersize=3, color=colour, alpha=0.6)
            axis.hlines(np.mean(values), place - 0.3, place + 0.3, color=colour)
        axis.set_xticks(range(len(group)), [name.replace(", ", "\n") for name in group], rotation=30, ha="right")
        axis.set_xlim(-0.6, _PER_PANEL + 0.6)
        axis.grid(axis="y", alpha=0.3)
    axes[0].set_ylabel("PSNR (dB)")
    return figure


def _per_seed(rows: Iterable[Row]) -> list[float]:
    rows = list(rows)
    found = [spread([row for row in rows if row["seed"] == seed], "psnr") for seed in sorted({r["seed"] for r in rows})]
    return [one.mean for one in found if one]


def _curves(arms: Arms, folder: Path) -> Any:
    """Validation PSNR by round, mean over seeds, in the same groups."""
    figure, axes = panels(len(arms.groups), PAGE, 2.2)
    for axis, group in zip(axes, arms.groups, strict=True):
        for place, name in enumerate(group):
            cells = dict.fromkeys(row["cell"] for row in arms.rows[name])
            values = np.array([curve_of(folder / "cells" / cell / RUN) for cell in cells])
            colour = "0.3" if name == arms.baseline else f"C{place - 1}"
            axis.plot(values.mean(axis=0), color=colour, label=name)
            axis.fill_between(range(values.shape[1]), values.min(axis=0), values.max(axis=0), color=colour, alpha=0.2)
        axis.set_xlabel("round")
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    axes[0].set_ylabel("validation PSNR (dB)")
    return figure
