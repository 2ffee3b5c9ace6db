"""Configs of jobs, which are HOCON."""

import re
from collections.abc import Iterator
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

from pyhocon import ConfigFactory, ConfigTree

# HOCON's means of reaching out of a file: another file, a web address, a variable of the environment
_REACHES_OUT = (
    (re.compile(r"\binclude\b", re.IGNORECASE), "includes other files or addresses"),
    (re.compile(r"\$\s*\{"), "asks for variables, which may be the environment's"),
)


class UnsafeConfigError(ValueError):
    """A config would make its reader fetch something or tell its own environment."""


def read_hocon(path: Path) -> ConfigTree:
    """Read a self-contained config, free to change; the same text is parsed once, as that takes 0.1 s.

    Rendered jobs are self-contained. Anything else may come from elsewhere, and merely reading it must not send a
    request or copy an environment variable into what is written next.

    Raises:
        UnsafeConfigError: it includes something or refers to a variable.
    """
    text = path.read_text(encoding="utf-8")
    if problem := reaches_out(text):
        raise UnsafeConfigError(f"{path} {problem}; write out what it refers to, e.g. by `fedmr jobs render`")
    return deepcopy(_parse(text))


def nodes(config: Any) -> Iterator[dict[str, Any]]:
    """Yield every mapping of a config, as plain dictionaries or as the parser's trees, from the outside in."""
    if isinstance(config, dict):
        yield config
        for value in config.values():
            yield from nodes(value)
    elif isinstance(config, list):
        for value in config:
            yield from nodes(value)


def components(config: Any) -> Iterator[dict[str, Any]]:
    """Yield every mapping of a config that names a class by `path`."""
    return (node for node in nodes(config) if isinstance(node.get("path", None), str))


def reaches_out(text: str) -> str:
    """Say how a HOCON text would reach out of its file, "" if it would not.

    The words are refused wherever they stand, also in comments and strings: telling these apart is a parser's work.
    """
    return next((problem for pattern, problem in _REACHES_OUT if pattern.search(text)), "")


@lru_cache(maxsize=64)
def _parse(text: str) -> ConfigTree:
    return ConfigFactory.parse_string(text)
