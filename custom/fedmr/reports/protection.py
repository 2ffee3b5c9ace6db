"""Tables of what the guard left out and what the privacy filters and DP-SGD did in a run."""

from collections.abc import Callable, Iterable
from statistics import median

from rich.table import Table
from rich.text import Text

from fedmr.runs.protection import Curves, distances, epsilons
from fedmr.runs.run import Run


def rejections_table(run: Run) -> Table | None:
    """Site, round and reason of every update that the guard left out; None if there is none."""
    if not run.rejections:
        return None
    view = Table(title="left out by the server's guard")
    view.add_column("round", justify="right")
    view.add_column("site", no_wrap=True)
    view.add_column("reason")
    for row in run.rejections:
        # as text: the reason quotes what a site sent
        view.add_row(str(row["round"]), Text(row["site"]), Text(row["reason"]))
    return view


def privacy_table(run: Run) -> Table | None:
    """Every site's epsilon at the end, and the medians of its cosine and norm ratio; None if there is none."""
    spent, far = epsilons(run.streams), distances(run)
    columns: dict[str, tuple[Curves, Callable[[Iterable[float]], float]]]
    columns = {f"epsilon per {unit}": (curves, max) for unit, curves in spent.items()}
    columns |= {name.replace("_", " "): (curves, median) for name, curves in far.items()}
    if not columns:
        return None
    view = Table(title="privacy", caption="sent against true update, medians" if far else None)
    view.add_column("site", no_wrap=True)
    for label in columns:
        view.add_column(Text(label), justify="right")
    for site in sorted({site for curves, _ in columns.values() for site in curves}):
        cells = [f"{of(curves[site].values()):.4g}" if curves.get(site) else "-" for curves, of in columns.values()]
        view.add_row(Text(site), *cells)
    return view


def protection_tables(run: Run) -> list[Table]:
    """Both tables, as far as there is something to show."""
    return [view for view in (rejections_table(run), privacy_table(run)) if view]
