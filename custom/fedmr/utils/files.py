"""Files and folders that are whole or not there."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Fill a folder under a passing name and rename it, in place of a folder that may be there.

    Whatever fails, the folder is the old one or the new one, whole. An old folder that can be put back neither is
    left next to it, and the error says where.

    Args:
        folder: the folder to make or replace.

    Yields:
        a new, empty folder next to it, to be filled.

    Raises:
        OSError: the folder cannot be renamed.
    """
    passing, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{state}") for state in ("new", "old"))
    try:
        passing.mkdir(parents=True)
        yield passing
        if folder.exists():
            folder.replace(old)
        try:
            passing.replace(folder)
        except OSError as error:
            _put_back(old, folder, error)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(passing, ignore_errors=True)


def _put_back(old: Path, folder: Path, cause: OSError) -> None:
    if not old.exists():
        return
    try:
        old.replace(folder)
    except OSError as error:
        raise OSError(f"{folder} could not be replaced ({cause}) nor put back ({error}); it is now {old}") from cause
