"""The page of a run, and what a reader sees of it."""

import re
from html import unescape
from pathlib import Path

from fedmr.reports.html import write_html
from fedmr.runs.run import Run


def page(run: Path) -> str:
    write_html(Run(run), run / "report.html")
    return (run / "report.html").read_text()


def words(text: str) -> str:
    """What a reader sees, in one line."""
    visible = re.sub(r"<(script|style)>.*?</\1>", " ", text, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", visible)).split())
