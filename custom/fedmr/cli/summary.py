"""Summaries that `fedmr prepare` and `fedmr infer` show to the person at the site.

It names files, so it goes to the terminal and nowhere else.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedmr.data.splits import SPLITS

if TYPE_CHECKING:  # each takes a second and more, which `fedmr --help` does not need
    from fedmr.hospital.plan import Plan
    from fedmr.hospital.prepare import Outcome
    from fedmr.inference import infer

_SHOWN = 20


def show(outcome: "Outcome", console: Console) -> None:
    """Print counts by contrast and split, what was remarkable, what was left out, and every problem."""
    console.print(_table(outcome))
    _remarks(outcome, console)
    kept = f" ({outcome.kept} of them kept from an earlier run)" if outcome.kept else ""
    console.print(
        f"{len(outcome.volumes)} scans prepared{kept}, {len(outcome.problems)} not usable; "
        f"wrote {printable(str(outcome.datalist))}",
        soft_wrap=True,
    )


def show_plan(plan: "Plan", site: str, console: Console) -> None:
    """Print a row for every scan that would be prepared, what would be left out, and every problem."""
    view = Table(title=f"{site} (nothing was written)", title_justify="left")
    for column in ("file", "patient", "patient from", "contrast", "contrast from", "kind", "split"):
        view.add_column(column, overflow="fold")
    for row in (*plan.rows, *plan.others):
        view.add_row(*(escape(printable(cell)) for cell in astuple(row)))
    console.print(view)
    _remarks(plan, console)
    patients = len({row.patient for row in plan.rows})
    console.print(f"{len(plan.rows)} scans of {patients} patients, {len(plan.problems)} problems")


def printable(text: str) -> str:
    """Return text that every terminal takes: bytes of a file name that are not UTF-8 appear as "\\xfc"."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def show_results(outcome: "infer.Outcome", console: Console) -> None:
    """Print what was remarkable, what was left out, every problem, and what was written."""
    _remarks(outcome, console)
    for path in outcome.written[:_SHOWN]:
        console.print(f"wrote {printable(str(path))}", soft_wrap=True, markup=False)
    if outcome.skipped:
        console.print(f"{outcome.skipped} results of an earlier run were kept; --force makes them again")
    if len(outcome.written) > 1 or outcome.problems:
        console.print(f"{len(outcome.written)} scans done, {len(outcome.problems)} not usable")


def _remarks(outcome: "Outcome | Plan | infer.Outcome", console: Console) -> None:
    from fedmr.hospital.plan import Plan

    if not isinstance(outcome, Plan):
        _list(console, outcome.notes, "note", "yellow", _SHOWN)
    if outcome.left_out:
        reasons = ", ".join(f"{number} {reason}" for reason, number in sorted(outcome.left_out.items()))
        console.print(f"left out as no scans: {escape(reasons)}")
    _list(console, outcome.problems, "not used", "red", len(outcome.problems))


def _table(outcome: "Outcome") -> Table:
    view = Table(title=outcome.datalist.parent.name, caption="volumes (patients)")
    for column in ("contrast", *SPLITS):
        view.add_column(column, justify="left" if column == "contrast" else "right")
    contrasts = sorted({entry["contrast"] for entry in outcome.volumes})
    for contrast in [*contrasts, *(["all"] if len(contrasts) > 1 else [])]:
        chosen = [entry for entry in outcome.volumes if contrast in ("all", entry["contrast"])]
        numbers = Counter(entry["split"] for entry in chosen)
        patients = {split: len({e["patient"] for e in chosen if e["split"] == split}) for split in SPLITS}
        view.add_row(contrast, *(f"{numbers[split]} ({patients[split]})" for split in SPLITS))
    return view


def _list(console: Console, lines: Sequence[str], word: str, colour: str, most: int) -> None:
    for line in lines[:most]:
        console.print(f"[{colour}]{word}:[/] {escape(printable(line))}", highlight=False, soft_wrap=True)
    if len(lines) > most:
        console.print(f"[{colour}]{word}:[/] {len(lines) - most} more like these")
