"""Record of what the guard left out and what the privacy filters and DP-SGD did in a run, for the report."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table
from rich.text import Text

from fedmr.aggregation.guard import read_rejections
from fedmr.privacy.ledger import EPSILON, LOCAL_RECORD
from fedmr.runs.run import find_run, read_events

Curves = dict[str, dict[int, float]]  # by site: value by number


def epsilons(events: Mapping[str, Any]) -> dict[str, Curves]:
    """Epsilon so far by unit of protection, by site and number of the site's release.

    Args:
        events: of `report.read_events`.
    """
    found: dict[str, Curves] = {}
    for site, streamed in sorted(events.items()):
        for tag in streamed.Tags()["scalars"]:
            if tag.startswith(EPSILON):
                unit = tag.removeprefix(EPSILON).removeprefix("_") or "site"
                found.setdefault(unit, {})[site] = {value.step: value.value for value in streamed.Scalars(tag)}
    return found


def distances(run: Path) -> dict[str, Curves]:
    """Cosine and norm ratio between true and sent update, by site and number of its update from 0.

    Only a simulated run holds them: elsewhere they stay at their site.
    """
    found: dict[str, Curves] = {}
    for path in sorted(find_run(run).parent.parent.glob(f"*/simulate_job/{LOCAL_RECORD}")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for name in ("cosine", "norm_ratio"):
            curve = {number: row[name] for number, row in enumerate(rows) if name in row}
            found.setdefault(name, {})[path.parent.parent.name] = curve
    return found


def rejections_table(run: Path) -> Table | None:
    """Site, round and reason of every update that the guard left out; None if there is none."""
    rejections = read_rejections(find_run(run))
    if not rejections:
        return None
    view = Table(title="left out by the server's guard")
    view.add_column("round", justify="right")
    view.add_column("site", no_wrap=True)
    view.add_column("reason")
    for row in rejections:
        # as text: the reason quotes what a site sent
        view.add_row(str(row["round"]), Text(row["site"]), Text(row["reason"]))
    return view


def privacy_table(run: Path, events: Mapping[str, Any]) -> Table | None:
    """Every site's epsilon at the end, and the medians of its cosine and norm ratio; None if there is none."""
    spent, far = epsilons(events), distances(run)
    columns: dict[str, tuple[Curves, Callable[[Iterable[float]], float]]]
    columns = {f"epsilon per {unit}": (curves, max) for unit, curves in spent.items()}
    columns |= {name.replace("_", " "): (curves, median) for name, curves in far.items()}
    if not columns:
        return None
    view = Table(title="privacy", caption="sent against true update, medians" if far else None)
    view.add_column("site", no_wrap=True)
    for label in columns:
        view.add_column(label, justify="right")
    for site in sorted({site for curves, _ in columns.values() for site in curves}):
        cells = [f"{of(curves[site].values()):.4g}" if curves.get(site) else "-" for curves, of in columns.values()]
        view.add_row(Text(site), *cells)
    return view


def protection_tables(run: Path) -> list[Table]:
    """Both tables, as far as there is something to show."""
    return [view for view in (rejections_table(run), privacy_table(run, read_events(run))) if view]
