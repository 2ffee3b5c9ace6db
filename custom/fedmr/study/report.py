"""A study as Markdown with pictures: STUDY/report, a folder to be put under benchmarks/studies as it is."""

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmr.runs.figures import METHODS
from fedmr.study import Arm
from fedmr.study.alignment import alignment_table, draw_alignment, read_alignments
from fedmr.study.files import PLAN, StudyError
from fedmr.study.pictures import draw_curves, draw_panels
from fedmr.study.results import FILE, Row, read_rows
from fedmr.study.tables import NONE, cost, difference, markdown, measured_metrics, rows_of, seen, spread, text_of
from fedmr.study.targets import find_targets, target_tables

_NOTES = """\
Figures are per volume, range = volume maximum, then mean over volumes and over sites; ± is the standard deviation
over seeds. A site in parentheses was left out of training. Sharpness is the mean gradient magnitude at the reference's
edges over that of the reference: 1 is as sharp. Differences are paired by test volume, after the mean over seeds; ± is
half of the 95 % interval by Student's t over volumes, and in parentheses stands in how many volumes the arm is better.

Steps are of all sites together. If nothing else is said above, every cell ran in FLARE's simulator, so that all sites
shared one machine; bytes are arrays in the rounds as FLARE's server logs them: weights, updates, and a picture per
round from sites that share pictures; minutes are of the whole run, start of FLARE and evaluation included; and ms per
step is the median at the sites.
"""


@dataclass(frozen=True)
class Line:
    """A row of the tables: its label, its rows of results, and those that it is compared with."""

    label: str
    rows: list[Row]
    others: list[Row]


def is_study(folder: Path) -> bool:
    """Return whether a folder is one of `fedmr study`."""
    return (folder / PLAN).is_file()


def write_report(folder: Path) -> Path:
    """Write FOLDER/report: README.md, results.csv, curves.png, panels.png, and latents.png if the cells have any.

    Returns:
        the README.

    Raises:
        StudyError: no cell is done.
    """
    plan, rows = json.loads((folder / PLAN).read_text()), read_rows(folder)
    if not rows:
        raise StudyError(f"{folder / FILE} has no rows: no cell is done. Run `fedmr study` first")
    target = folder / "report"
    target.mkdir(exist_ok=True)
    shutil.copy(folder / FILE, target / FILE)
    lines = _lines(rows, [tuple(arm) for arm in plan["arms"]], list(plan["axes"]), plan)
    pictures = {
        "curves.png": draw_curves(folder, rows, list(plan["axes"]), target / "curves.png"),
        "panels.png": draw_panels(folder, rows, list(plan["axes"]), target / "panels.png"),
    }
    parts = [f"# {plan['name']}", plan["about"].strip(), _facts(plan, rows)]
    if targets := find_targets(rows, plan):
        alignments = read_alignments(targets, folder)
        pictures["latents.png"] = draw_alignment(alignments, target / "latents.png")
        parts += [target_tables(targets), alignment_table(alignments, targets.names), "## All arms"]
    parts += [_main_table(lines, rows), _metric_table(lines, rows), _difference_table(lines, plan["baseline"])]
    parts.append(_NOTES.strip())
    parts += [f"![{text}]({name})" for name, text in pictures.items() if text]
    readme = target / "README.md"
    readme.write_text("\n\n".join(part for part in parts if part) + "\n")
    return readme


def _lines(rows: list[Row], arms: Sequence[Arm], axes: Sequence[str], plan: dict[str, Any]) -> list[Line]:
    """Return the arms that have rows, in order, with personal models after the global one they belong to."""
    lines = []
    axis = next(number for number, names in enumerate(plan["axes"].values()) if plan["baseline"] in names)
    for arm in arms:
        other = (*arm[:axis], plan["baseline"], *arm[axis + 1 :])
        others = rows_of(rows, other, axes)
        for personal, label in ((False, ", ".join(arm)), (True, f"{', '.join(arm)} (personal)")):
            own = rows_of(rows, arm, axes, personal=personal)
            if own:
                lines.append(Line(label, own, [] if own == others else others))
    return lines


def _facts(plan: dict[str, Any], rows: list[Row]) -> str:
    """Circumstances, each with all values that occur."""
    done, planned = len({row["cell"] for row in rows}), len(plan["cells"])
    seconds = {row["cell"]: float(row["seconds"]) for row in rows}
    facts = {name: ", ".join(Counter(row[name] for row in rows)) for name in ("commit", "hardware", "software")}
    facts["seeds"] = ", ".join(sorted({row["seed"] for row in rows}, key=int))
    facts["cells"] = str(done) if done == planned else f"{done} of {planned}; this study is not finished"
    facts["time"] = f"{sum(seconds.values()) / 3600:.1f} h"
    if plan["equal"] == "seconds":
        facts["rounds"] = f"so many that every arm trains about as long as {plan['baseline']}; see the steps"
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())


def _main_table(lines: list[Line], rows: list[Row]) -> str:
    """PSNR by site, of unseen sites, and the cost."""
    sites = sorted({row["site"] for row in rows})
    unseen = any(row["seen"] == "False" for row in rows)
    head = ["PSNR (dB)", *sites, "mean of seen", *(["unseen"] if unseen else [])]
    head += ["parameters", "rounds", "steps", "minutes", "ms per step", "MB up", "MB down"]
    body = [_baseline_row(method, rows, sites, unseen) for method in _baselines(rows)]
    for line in lines:
        cells = [_of_site([row for row in line.rows if row["site"] == site]) for site in sites]
        cells.append(text_of(spread(seen(line.rows), "psnr"), 2))
        cells += [text_of(spread(seen(line.rows, False), "psnr"), 2)] if unseen else []
        cells += [f"{cost(line.rows, column):,.0f}" for column in ("parameters", "rounds", "steps")]
        cells += [f"{cost(line.rows, 'seconds') / 60:.1f}", f"{1000 * cost(line.rows, 'seconds_per_step'):.0f}"]
        cells += [f"{cost(line.rows, column) / 1e6:.1f}" for column in ("bytes_up", "bytes_down")]
        body.append([line.label, *cells])
    return markdown(head, body)


def _baseline_row(method: str, rows: list[Row], sites: list[str], unseen: bool) -> list[str]:
    """Of a method without a network, the same in every cell; "mean" is over sites that any cell was trained on."""
    own = [row for row in rows if row["method"] == method]
    cells = [_once([row for row in own if row["site"] == site]) for site in sites]
    cells.append(_once(seen(own)))
    cells += [_once(seen(own, False))] if unseen else []
    return [METHODS[method], *cells, *[NONE] * 7]


def _baselines(rows: list[Row]) -> list[str]:
    """Methods without a network."""
    return [method for method in METHODS if any(row["method"] == method for row in rows)]


def _once(rows: list[Row], metric: str = "psnr", decimals: int = 2) -> str:
    """Return a figure that is the same for every seed."""
    found = spread(rows, metric)
    return f"{found.mean:.{decimals}f}" if found else NONE


def _of_site(rows: list[Row]) -> str:
    text = text_of(spread(rows, "psnr"), 2)
    return f"({text})" if rows and not seen(rows) else text


def _metric_table(lines: list[Line], rows: list[Row]) -> str:
    """Return all metrics that were measured, mean over the sites that were trained on."""
    body, metrics = [], measured_metrics(rows)
    for method in _baselines(rows):
        own = seen(row for row in rows if row["method"] == method)
        body.append([METHODS[method], *(_once(own, name, metric.digits) for name, metric in metrics.items())])
    for line in lines:
        found = {metric: spread(seen(line.rows), metric) for metric in metrics}
        body.append([line.label, *(text_of(found[name], metric.digits) for name, metric in metrics.items())])
    return markdown(["mean of seen sites", *(metric.title for metric in metrics.values())], body)


def _difference_table(lines: list[Line], baseline: str) -> str:
    """Differences from the baseline, of seen and of unseen sites."""
    body, unseen = [], any(seen(line.rows, False) and line.others for line in lines)
    for line in lines:
        if not line.others:
            continue
        cells = [line.label]
        for where in (True, False) if unseen else (True,):
            pair = seen(line.rows, where), seen(line.others, where)
            cells += [text_of(difference(*pair, metric), decimals) for metric, decimals in (("psnr", 2), ("ssim", 4))]
        body.append(cells)
    head = [f"difference from {baseline}", "PSNR (dB)", "SSIM"] + (
        ["unseen: PSNR (dB)", "unseen: SSIM"] if unseen else []
    )
    return markdown(head, body) if body else ""
