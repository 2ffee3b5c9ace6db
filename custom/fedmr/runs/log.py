"""The server's log, step times of simulated sites, and FLARE's statistics of messages.

Sites' own texts stand in the log as well, so an event counts only in a line of the logger that makes it.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

_MEBIBYTE = 2**20  # FLARE's statistics say MB and mean this
_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) - (\w+) - \w+ - (?:\[[^\]]*\] - )?(.*)")
_NUMBER = r"(\d{1,7})"
_SITE = r"([A-Za-z0-9_-]+)"
_BYTES = r"\(([\d,]{1,25}) bytes\)"
# FLARE's own lines, by logger. "[server] download" is served to a site, "[client] download" is fetched from one.
_EVENTS = {
    "started": (r"\w*ScatterAndGather\w*", rf"Round {_NUMBER} started\."),
    "finished": (r"\w*ScatterAndGather\w*", rf"Round {_NUMBER} finished\."),
    "asked": ("ServerRunner", rf"assigned task to client {_SITE}: name=train, .*"),
    "answered": ("ServerRunner", rf"got result from client {_SITE} for task: name=train, .*"),
    "down": ("_Transaction", rf"\[server\] download tx \S+ done: .*{_BYTES}"),
    "up": (r"\w+", rf"\[client\] download ref=\S+ done: .*{_BYTES}"),
}
_COMPILED = {kind: (re.compile(logger), re.compile(text)) for kind, (logger, text) in _EVENTS.items()}
_STEP_TIME = re.compile(r"\| ([\d.]{1,12}) ms/step \|")
_TRAFFIC = {
    "download_service__download": "arrays sent apart from messages: weights, updates, pictures",
    "get_task": "tasks",
    "submit_update": "results",
    "fed.event": "curves",
}
_OTHER = "FLARE's own: sign-on, heartbeats, requests for work"


@dataclass
class Phase:
    """A round, or what comes after the last one, as the server's log tells it; times in s, sizes in bytes."""

    started: datetime
    seconds: float | None = None
    down: int = 0
    up: int = 0
    turns: dict[str, float] = field(default_factory=dict)


@dataclass
class ServerLog:
    """First and last time of the log; per round, and after the last one, what happened.

    Attributes:
        first: time of the first line.
        last: time of the last line.
        rounds: by number, those whose start is in the log.
        test: what came after the last round.
        done: rounds whose model the server has saved, by FLARE's own line, which follows the saving.
    """

    first: datetime
    last: datetime
    rounds: dict[int, Phase] = field(default_factory=dict)
    test: Phase | None = None
    done: int = 0

    @property
    def training_seconds(self) -> float | None:
        """From the start of the first round to the end of the last that finished."""
        done = [phase for phase in self.rounds.values() if phase.seconds is not None]
        if not done:
            return None
        return (done[-1].started - done[0].started).total_seconds() + (done[-1].seconds or 0)


def read_log(folder: Path) -> ServerLog | None:
    """The server's log in a folder, rotated parts included; None if it has no line.

    Transfers count for the round in which they ended. A site's turn is from the server handing out the task to the
    server having the result, so it holds validation, training and both transfers.
    """
    log: ServerLog | None = None
    phase: Phase | None = None
    asked: dict[str, datetime] = {}
    for line in _lines(folder):
        found = _LINE.fullmatch(line)
        time = _time(found[1]) if found else None
        if found is None or time is None:
            continue
        log = log or ServerLog(time, time)
        log.last = time
        for kind, (logger, text) in _COMPILED.items():
            if logger.fullmatch(found[2]) and (event := text.fullmatch(found[3])):
                phase = _note(log, phase, asked, kind, event[1], time)
    return log


def _lines(folder: Path) -> Iterator[str]:
    """Lines of the log, from the oldest part on, without the end of the line."""
    parts = sorted(folder.glob("log.txt*"), key=lambda p: int(p.suffix[1:]) if p.suffix[1:].isdigit() else 0)
    for part in reversed(parts):
        with part.open(encoding="utf-8", errors="replace") as handle:
            yield from (line.rstrip("\n") for line in handle)


def _time(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, "%Y-%m-%d %H:%M:%S,%f")
    except ValueError:  # the 99th of some month: not FLARE's line
        return None


def _note(
    log: ServerLog, phase: Phase | None, asked: dict[str, datetime], kind: str, value: str, time: datetime
) -> Phase | None:
    """Enter one event; returns the phase that the next one belongs to."""
    if kind == "started":
        phase = log.rounds[int(value)] = Phase(time)
        log.test = None
    elif kind == "finished":
        log.done = int(value) + 1
        if int(value) in log.rounds:
            log.rounds[int(value)].seconds = (time - log.rounds[int(value)].started).total_seconds()
            phase = log.test = Phase(time)  # unless another round follows
    elif kind == "asked":
        asked[value] = time
    elif kind == "answered" and phase and value in asked:
        phase.turns[value] = (time - asked[value]).total_seconds()
    elif kind == "down" and phase:
        phase.down += int(value.replace(",", ""))
    elif kind == "up" and phase:
        phase.up += int(value.replace(",", ""))
    return phase


def read_step_times(log: Path) -> list[float]:
    """Milliseconds per optimisation step by round and epoch, from the log of a simulated site; [] without one."""
    if not log.is_file():
        return []
    with log.open(encoding="utf-8", errors="replace") as handle:
        texts = [text for line in handle for text in _STEP_TIME.findall(line)]
    return [float(text) for text in texts if text.count(".") <= 1 and text != "."]


def traffic_of(pools: Iterable[Any]) -> dict[str, dict[str, int]]:
    """Bytes that the server received ("up") and sent ("down") in the whole run by kind of message, as FLARE counted.

    Args:
        pools: contents of FLARE's files of statistics.
    """
    traffic: dict[str, dict[str, int]] = {}
    for content in pools:
        for direction, name in (("up", "received_stream_sizes"), ("down", "sent_stream_sizes")):
            for category, bins in _within(content, name, "pool", "cat_data").items():
                kind = _TRAFFIC.get(str(category).rpartition(":")[2], _OTHER)
                traffic.setdefault(kind, {"up": 0, "down": 0})[direction] += round(_total(bins) * _MEBIBYTE)
    return dict(sorted(traffic.items(), key=lambda item: -sum(item[1].values())))


def _within(value: Any, *names: str) -> dict[str, Any]:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def _total(bins: Any) -> float:
    totals = [part.get("total") for part in bins if isinstance(part, dict)] if isinstance(bins, list) else []
    return sum(total for total in totals if isinstance(total, int | float) and 0 <= total < float("inf"))
