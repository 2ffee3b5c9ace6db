"""The figures of a page as files within it, for a spreadsheet or a program."""

import csv
import json
from base64 import b64encode
from io import StringIO

from fedmr.runs.figures import Figures


def downloads(figures: Figures | None) -> list[tuple[str, str]]:
    """Return (name, data URI) of the test figures as CSV, a row per site, method and metric, and as JSON."""
    if not figures:
        return []
    table = StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["site", "test_volumes", "method", "metric", "value"])
    for site, row in figures["sites"].items():
        for method, values in row.items():
            if isinstance(values, dict):
                writer.writerows([site, row["n_volumes"], method, name, value] for name, value in values.items())
    texts = {"figures.csv": ("text/csv", table.getvalue()), "figures.json": ("application/json", json.dumps(figures))}
    return [(name, f"data:{kind};base64,{b64encode(text.encode()).decode()}") for name, (kind, text) in texts.items()]
