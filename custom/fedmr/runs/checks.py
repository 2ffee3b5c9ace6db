"""Checks of what stands in the files of a run: they hold what other parties sent, and are hostile until checked.

A record that is wrong is left out and named, and the rest of the run is read: one site's mistake must not keep the
others from their report.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedmr.metrics import METRICS
from fedmr.utils.text import one_line

MAX_BYTES = 64 * 2**20  # of a file that is read whole; FLARE writes at most 1 MiB per round
_MOST_NAMED = 20  # refusals that are worded; more are counted
_SITE = re.compile(r"[A-Za-z0-9_-]{1,255}")  # FLARE's rule for clients (nvflare.apis.utils.format_check), a folder name


class RunError(RuntimeError):
    """A run is incomplete or cannot be read; the message says what is missing and where."""


class RecordError(ValueError):
    """A record that is left out; the message says which value and what is allowed."""


@dataclass
class Refused:
    """The records of a run that were left out, in the order of their reading, each once.

    Attributes:
        sentences: what is wrong, with place, site and value.
        more: number of those that are not worded.
        records: (round or model, site) of those that would have been a site's figures.
    """

    sentences: list[str] = field(default_factory=list)
    more: int = 0
    records: set[tuple[int | str, str]] = field(default_factory=set)

    def add(self, place: str, reason: object, record: tuple[int | str, str] | None = None) -> None:
        """Note a record.

        Args:
            place: file, and where in it.
            reason: what is wrong; may quote what a site sent.
            record: round or model, and site, if these are known.
        """
        self.records |= {record} if record else set()
        sentence = one_line(f"{place}: {reason}")
        if sentence in self.sentences:
            return
        if len(self.sentences) < _MOST_NAMED:
            self.sentences.append(sentence)
        else:
            self.more += 1

    def lines(self) -> list[str]:
        """Return the sentences, and the number of those that were not worded."""
        return [*self.sentences, *([f"{self.more} more like these"] if self.more else [])]


def site_name(value: object) -> str:
    """Return a site's name.

    Raises:
        RecordError: FLARE would not have let a site join under it.
    """
    if not isinstance(value, str) or not _SITE.fullmatch(value):
        raise RecordError(f"{_quoted(value)} is no name of a site: letters, digits, - and _ are allowed")
    return value


def is_site_name(value: object) -> bool:
    """Return whether FLARE lets a site join under this name."""
    return isinstance(value, str) and _SITE.fullmatch(value) is not None


def number(value: object, name: str, low: float, high: float, unit: str = "") -> float:
    """Return a number as it is, integer or float.

    Args:
        value: what was sent.
        name: of the value, for the message.
        low: smallest value.
        high: largest value.
        unit: for the message.

    Raises:
        RecordError: no number, not finite, or out of range.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        allowed = f"a number from {low:g} to {high:g}{' ' if unit else ''}{unit}"
        raise RecordError(f"{name} is {_quoted(value)}; it must be {allowed}")
    return value


def whole(value: object, name: str, low: int, high: int) -> int:
    """Return a whole number; arguments and errors as `number`."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RecordError(f"{name} is {_quoted(value)}; it must be a whole number from {low} to {high}")
    return value


def mapping(value: object, name: str) -> Mapping[str, Any]:
    """Return a mapping.

    Raises:
        RecordError: it is none.
    """
    if not isinstance(value, Mapping):
        raise RecordError(f"{name} is {_quoted(value)}; it must be a table of names and values")
    return value


def listed(value: object, name: str) -> list[Any]:
    """Return a list.

    Raises:
        RecordError: it is none.
    """
    if not isinstance(value, list):
        raise RecordError(f"{name} is {_quoted(value)}; it must be a list")
    return value


def metrics(values: Mapping[str, Any], where: str = "") -> dict[str, float]:
    """Return the metrics of `fedmr.metrics.METRICS`, each within its bounds; others are dropped.

    Args:
        values: by name, what a site sent.
        where: before a metric's name in the message, e.g. "model.".

    Raises:
        RecordError: a metric is no number or out of its bounds.
    """
    known = {name: METRICS[name] for name in values if name in METRICS}
    return {name: number(values[name], where + name, *one.bounds, one.unit) for name, one in known.items()}


def _quoted(value: object) -> str:
    """A value as it was sent, short; an integer of thousands of digits has no text in Python."""
    try:
        return one_line(repr(value), 60)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} that is too long to show"


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        RunError: it is not JSON or too large.
    """
    return _parsed(_text(path), path.name)


def read_json_lines(path: Path, refused: Refused) -> Iterator[tuple[int, Any]]:
    """Yield the number, from 1, and content of each line of a file of JSON records; lines that are none are refused."""
    for line_number, line in enumerate(_text(path).splitlines(), start=1):
        try:
            yield line_number, _parsed(line, "it")
        except RunError as error:
            refused.add(f"{path.name}, line {line_number}", error)


def _parsed(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits too
        raise RunError(f"{name} is not JSON: {one_line(error, 100)}") from None


def _text(path: Path) -> str:
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise RunError(f"{path.name} has {size} bytes; at most {MAX_BYTES} are read. Look into it before you go on")
    return path.read_text(encoding="utf-8", errors="replace")
