"""Configs of jobs, which are HOCON."""

from copy import deepcopy
from functools import lru_cache
from pathlib import Path

from pyhocon import ConfigFactory, ConfigTree


def read_hocon(path: Path) -> ConfigTree:
    """A config file that includes no other, free to change; the same text is parsed once, as that takes 0.1 s."""
    return deepcopy(_parse(path.read_text(encoding="utf-8")))


@lru_cache(maxsize=64)
def _parse(text: str) -> ConfigTree:
    return ConfigFactory.parse_string(text)
