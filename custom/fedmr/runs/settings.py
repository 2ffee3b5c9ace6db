"""Reader of a job's config, as plain dictionaries."""

from pathlib import Path
from typing import Any

from pyhocon import ConfigTree
from pyhocon.exceptions import ConfigException
from pyparsing import ParseBaseException

from fedmr.runs.checks import Refused
from fedmr.utils.hocon import components, read_hocon

_MOST_BYTES = 2**20  # pyhocon takes a second for some ten thousand


def read_config(folder: Path, side: str, refused: Refused) -> dict[str, Any]:
    """Return the "server" or "client" config in a folder as plain dictionaries; {} without a usable one.

    Args:
        folder: where FLARE leaves the configs of a job.
        side: "server" or "client".
        refused: takes a config that reaches out of its file, is too large, or is no config.
    """
    for path in sorted(folder.glob(f"config_fed_{side}.*")):
        try:
            if path.stat().st_size > _MOST_BYTES:
                raise ValueError(f"it has {path.stat().st_size} bytes; {_MOST_BYTES} are read")
            tree = read_hocon(path)
            if not isinstance(tree, ConfigTree):
                raise ValueError("it is no table")
            return dict(tree.as_plain_ordered_dict())
        except (ValueError, ConfigException, ParseBaseException, RecursionError) as error:
            refused.add(path.name, str(error).replace(f"{folder}/", ""))
    return {}


def argument(config: dict[str, Any], name: str) -> Any:
    """The argument of that name of the first component that has one; None if none has."""
    arguments = (component.get("args") for component in components(config))
    return next((args[name] for args in arguments if isinstance(args, dict) and name in args), None)


def filters(config: dict[str, Any], name: str) -> list[dict[str, str]]:
    """A config's filters as ``{"tasks", "name", "args"}`` texts; `name` is task_result_filters or task_data_filters."""
    rows = []
    for entry in _tables(config.get(name)):
        names = entry.get("tasks")
        for item in _tables(entry.get("filters")):
            values = item.get("args")
            args = ", ".join(f"{key} = {value}" for key, value in values.items()) if isinstance(values, dict) else ""
            cls = str(item.get("path", item.get("name", "?"))).rpartition(".")[2]
            shown = ", ".join(map(str, names)) if isinstance(names, list) and names else "all"
            rows.append({"tasks": shown, "name": cls, "args": args})
    return rows


def _tables(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
