"""A study's files apart from its results: the YAML file, the plan in its folder, and the lock on it."""

import fcntl
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from fedmr.study import Study
from fedmr.utils.files import write_atomically

PLAN = "study.json"


class StudyError(ValueError):
    """A study cannot be run as it stands; the message says what in it is wrong."""


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML ships no types
    """YAML 1.1 without two of its traps: 1e-3 is a number, and a name that stands twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := [name for name in names if names.count(name) > 1]:
            raise StudyError(f"{twice[0]!r} stands twice{node.start_mark}")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+"), list("-+0123456789")
)


def read_yaml(path: Path) -> dict[str, Any]:
    """Content of a YAML file.

    Raises:
        StudyError: the file is not there, is not YAML, or not a table.
    """
    try:
        content = yaml.load(path.read_text(), Loader=_Loader)  # a subclass of the safe one
    except FileNotFoundError:
        raise StudyError(f"{path} does not exist; studies are in benchmarks/studies") from None
    except yaml.YAMLError as error:
        raise StudyError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    except StudyError as error:
        raise StudyError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise StudyError(f"{path} is no study: it must be a table with axes")
    return content


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Keep a second process out of a study's folder, as long as this one lives.

    Raises:
        StudyError: another process is in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StudyError(f"another `fedmr study` is at work in {folder}; wait for it, or end it") from None
        yield


def write_plan(study: Study, out: Path) -> None:
    """Note in OUT/study.json what the report needs to know of the study apart from its results."""
    plan: dict[str, Any] = {"name": study.name, "about": study.about, "axes": study.axes, "baseline": study.baseline}
    plan |= {"equal": study.equal, "arms": study.arms, "cells": [cell.name for cell in study.cells]}
    write_atomically(out / PLAN, lambda handle: handle.write((json.dumps(plan, indent=1) + "\n").encode()))
