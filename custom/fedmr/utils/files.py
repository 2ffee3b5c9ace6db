"""Files and folders that are whole or not there."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file under a passing name and rename it, so that its name never stands for half a file."""
    passing = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with passing.open("wb") as handle:
            write(handle)
        passing.replace(path)
    except BaseException:
        passing.unlink(missing_ok=True)
        raise
