"""Settings from a command line: `--set task.learning_rate=1e-3`, one parser for all commands that take them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pyhocon import ConfigFactory
from pyhocon.exceptions import ConfigException
from pyparsing import ParseBaseException

from fedmr.utils.hocon import reaches_out


def parse_overrides(texts: Sequence[str]) -> dict[str, Any]:
    """Parse settings such as "task.loss.l1=0.5" into nested mappings.

    A value is JSON or HOCON, else text: 1e-3 is a number, true a truth value, [1, 2] a list, rmsprop a text.

    Args:
        texts: NAME=VALUE, with dots between the levels of NAME.

    Returns:
        ``{"task": {"loss": {"l1": 0.5}}}``.

    Raises:
        ValueError: no NAME=VALUE, a name given twice or once as a value and once as a level, or an unreadable value.
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        levels = name.strip().split(".")
        if not sign or not all(levels):
            raise ValueError(f"{text!r} is no setting; write NAME=VALUE, e.g. task.learning_rate=1e-3")
        node = found
        for level in levels[:-1]:
            node = node.setdefault(level, {})
            if not isinstance(node, dict):
                raise ValueError(f"{text!r} goes into {level!r}, which another setting gives a value; keep one of them")
        if levels[-1] in node:
            raise ValueError(f"{name.strip()} is set twice; keep one of them")
        node[levels[-1]] = _value(value.strip(), text)
    return found


def _value(value: str, text: str) -> Any:
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        pass
    if not value.startswith(("{", "[")):
        return value
    if problem := reaches_out(value):
        raise ValueError(f"{text!r} {problem}; write out what it refers to")
    try:
        tree = ConfigFactory.parse_string(f"value = {value}").as_plain_ordered_dict()
    except (ConfigException, ParseBaseException) as error:
        raise ValueError(f"{text!r} has a value that cannot be read ({error}); write it as JSON") from None
    return json.loads(json.dumps(tree["value"]))  # plain mappings, whatever the parser made


def merge(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` with `changes`; a mapping that names a part of a mapping changes that part alone."""
    merged = dict(values)
    for name, given in changes.items():
        change: Any = given
        old = merged.get(name)
        if isinstance(old, Mapping) and isinstance(change, Mapping) and _changes_parts(old, change):
            change = merge(old, change)
        merged[name] = change
    return merged


def _changes_parts(old: Any, change: Any) -> bool:
    """Whether a mapping is changed in parts: one that names another network or algorithm is a whole one."""
    return all(change[key] == old.get(key) for key in ("name", "_target_") if key in change)
