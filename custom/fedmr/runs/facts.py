"""Facts in a run's files besides its figures: job, configs, the server's log, traffic. An absent file gives an empty
answer, which the page states; nothing is guessed."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from fedmr.runs.run import find_run
from fedmr.utils.hocon import read_hocon

_MEBIBYTE = 2**20  # FLARE's statistics say MB and mean this
_TIME = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) - ")
# FLARE's own lines. "[server] download" is served to a site, "[client] download" is fetched from one.
_EVENT = re.compile(
    r"Round (?P<started>\d+) started\."
    r"|Round (?P<finished>\d+) finished\."
    r"|assigned task to client (?P<asked>.+?): name=train, "
    r"|got result from client (?P<answered>.+?) for task: name=train, "
    r"|\[server\] download tx \S+ done: .*\((?P<down>[\d,]+) bytes\)"
    r"|\[client\] download ref=\S+ done: .*\((?P<up>[\d,]+) bytes\)"
)
_TRAFFIC = {
    "download_service__download": "arrays sent apart from messages: weights, updates, pictures",
    "get_task": "tasks",
    "submit_update": "results",
    "fed.event": "curves",
}


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
    """First and last time of the log; per round, and after the last one, what happened."""

    first: datetime
    last: datetime
    rounds: dict[int, Phase] = field(default_factory=dict)
    test: Phase | None = None

    @property
    def training_seconds(self) -> float | None:
        """From the start of the first round to the end of the last that finished."""
        done = [phase for phase in self.rounds.values() if phase.seconds is not None]
        if not done:
            return None
        return (done[-1].started - done[0].started).total_seconds() + (done[-1].seconds or 0)


def read_meta(run: Path) -> dict[str, Any]:
    """FLARE's description of the job: in the simulator's meta.json, or in that of a downloaded job one level up."""
    folder = find_run(run)
    meta: dict[str, Any] = {}
    for path in (folder / "meta.json", folder.parent / "meta.json"):
        meta |= json.loads(path.read_text()) if path.is_file() else {}
    return meta


def is_simulated(run: Path) -> bool:
    """Whether the run comes from FLARE's simulator, i.e. all sites shared one machine."""
    return find_run(run).name == "simulate_job"


def read_config(run: Path, side: str) -> dict[str, Any]:
    """The job's "server" or "client" config, which FLARE leaves in the server's run folder."""
    for path in sorted((find_run(run) / "app_server" / "config").glob(f"config_fed_{side}.*")):
        return dict(read_hocon(path).as_plain_ordered_dict())
    return {}


def read_log(run: Path) -> ServerLog | None:
    """The server's log, rotated parts included; None if there is none.

    Transfers count for the round in which they ended. A site's turn is from the server handing out the task to the
    server having the result, so it holds validation, training and both transfers.
    """
    folder = find_run(run)
    home = next((f for f in (folder, folder.parent) if (f / "log.txt").is_file()), None)
    if home is None:
        return None
    log: ServerLog | None = None
    phase: Phase | None = None
    asked: dict[str, datetime] = {}
    for part in sorted(home.glob("log.txt*"), key=lambda p: int(p.suffix[1:]) if p.suffix[1:].isdigit() else 0)[::-1]:
        for line in part.read_text(errors="replace").splitlines():
            stamp = _TIME.match(line)
            if stamp is None:
                continue
            time = datetime.strptime(stamp[1], "%Y-%m-%d %H:%M:%S,%f")
            log = log or ServerLog(time, time)
            log.last = time
            event = _EVENT.search(line)
            if event:
                phase = _note(log, phase, asked, event, time)
    return log


def _note(
    log: ServerLog, phase: Phase | None, asked: dict[str, datetime], event: re.Match[str], time: datetime
) -> Phase | None:
    """Enter one event; returns the phase that the next one belongs to."""
    kind, value = str(event.lastgroup), event[str(event.lastgroup)]
    if kind == "started":
        phase = log.rounds[int(value)] = Phase(time)
        log.test = None
    elif kind == "finished" and int(value) in log.rounds:
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


def read_step_times(run: Path, site: str) -> list[float]:
    """Milliseconds per optimisation step by round and epoch, from a simulated site's log; else the site keeps it."""
    path = find_run(run).parent.parent / site / "log.txt"
    if not is_simulated(run) or not path.is_file():
        return []
    return [float(value) for value in re.findall(r"\| ([\d.]+) ms/step \|", path.read_text(errors="replace"))]


def read_traffic(run: Path) -> dict[str, dict[str, int]]:
    """Bytes that the server received ("up") and sent ("down") in the whole run by kind of message, as FLARE counted."""
    folder = find_run(run)
    traffic: dict[str, dict[str, int]] = {}
    for path in (folder / "stats_pool_summary.json", folder.parent / "pool_stats" / "simulator_cell_stats.json"):
        pools = json.loads(path.read_text()) if path.is_file() else {}
        for direction, name in (("up", "received_stream_sizes"), ("down", "sent_stream_sizes")):
            for category, bins in pools.get(name, {}).get("pool", {}).get("cat_data", {}).items():
                kind = _TRAFFIC.get(category.rpartition(":")[2], "housekeeping")
                size = sum(part["total"] for part in bins if part) * _MEBIBYTE
                traffic.setdefault(kind, {"up": 0, "down": 0})[direction] += round(size)
    return dict(sorted(traffic.items(), key=lambda item: -sum(item[1].values())))


def components(config: Any) -> Iterator[dict[str, Any]]:
    """Every node of a config that names a class by `path`."""
    if isinstance(config, dict):
        if isinstance(config.get("path"), str):
            yield config
        for value in config.values():
            yield from components(value)
    elif isinstance(config, list):
        for value in config:
            yield from components(value)


def argument(config: dict[str, Any], name: str) -> Any:
    """The argument of that name of the first component that has one; None if none has."""
    arguments = (component.get("args") or {} for component in components(config))
    return next((args[name] for args in arguments if name in args), None)


def filters(config: dict[str, Any], name: str) -> list[dict[str, str]]:
    """A config's filters as ``{"tasks", "name", "args"}`` texts; `name` is task_result_filters or task_data_filters."""
    rows = []
    for entry in config.get(name) or []:
        for item in entry.get("filters") or []:
            args = ", ".join(f"{key} = {value}" for key, value in (item.get("args") or {}).items())
            cls = str(item.get("path", item.get("name", "?"))).rpartition(".")[2]
            rows.append({"tasks": ", ".join(entry.get("tasks") or ["all"]), "name": cls, "args": args})
    return rows
