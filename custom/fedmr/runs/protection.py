"""Record of what the privacy filters and DP-SGD did in a run."""

from collections.abc import Mapping
from math import isfinite

from fedmr.privacy.ledger import EPSILON, LOCAL_RECORD
from fedmr.runs.checks import read_json_lines
from fedmr.runs.run import Run
from fedmr.runs.streams import Stream

Curves = dict[str, dict[int, float]]  # by site: value by number


def epsilons(streams: Mapping[str, Stream]) -> dict[str, Curves]:
    """Epsilon so far by unit of protection, by site and number of the site's release."""
    found: dict[str, Curves] = {}
    for site, stream in sorted(streams.items()):
        for tag, curve in stream.scalars.items():
            if tag.startswith(EPSILON):
                unit = tag.removeprefix(EPSILON).removeprefix("_") or "site"
                found.setdefault(unit, {})[site] = curve
    return found


def distances(run: Run) -> dict[str, Curves]:
    """Cosine and norm ratio between true and sent update, by site and number of its update from 0.

    Only a simulated run holds them: elsewhere they stay at their site.
    """
    found: dict[str, Curves] = {}
    for site in sorted(run.sites | set(run.streams)):
        folder = run.site_folder(site)
        if folder is None or not (folder / LOCAL_RECORD).is_file():
            continue
        rows = [row for _, row in read_json_lines(folder / LOCAL_RECORD, run.refused)]
        for name in ("cosine", "norm_ratio"):
            values = {number: row[name] for number, row in enumerate(rows) if isinstance(row, dict) and name in row}
            curve = {n: v for n, v in values.items() if isinstance(v, int | float) and isfinite(v)}
            found.setdefault(name, {})[site] = curve
    return found
