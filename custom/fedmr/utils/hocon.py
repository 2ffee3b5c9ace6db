"""Configs of jobs, which are HOCON."""

import re
from copy import deepcopy
from functools import lru_cache
from pathlib import Path

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


def reaches_out(text: str) -> str:
    """Say how a HOCON text would reach out of its file, "" if it would not.

    The words are refused wherever they stand, also in comments and strings: telling these apart is a parser's work.
    """
    return next((problem for pattern, problem in _REACHES_OUT if pattern.search(text)), "")


@lru_cache(maxsize=64)
def _parse(text: str) -> ConfigTree:
    return ConfigFactory.parse_string(text)
