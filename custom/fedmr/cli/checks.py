"""Checks of a command's arguments before it loads torch: a wrong path is answered at once, and no file is replaced."""

from pathlib import Path
from typing import Annotated

import typer

Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]


def check_model(model: Path) -> None:
    """Check that a model is there: a file, a run, or the name of one that comes with FedMR.

    Raises:
        FileNotFoundError: it is not; the message names the models of the package.
    """
    from fedmr.checkpoints.stored import locate

    locate(model)


def check_input(source: Path) -> None:
    """Check that a file or folder to read is there.

    Raises:
        FileNotFoundError: it is not.
    """
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist; give a file or folder that is there")


def check_free(*targets: Path | None, force: bool) -> None:
    """Check that what a command is to write replaces nothing; places that are None are not to be written.

    Raises:
        FileExistsError: one is there, without `force`.
    """
    for target in targets:
        if target is not None and target.exists() and not force:
            raise FileExistsError(f"{target} exists; name another place, or replace it by --force")


def check_empty(folder: Path) -> None:
    """Check that a folder to fill is not there, or holds nothing.

    Raises:
        FileExistsError: it holds something, or is a file.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} holds something; name another folder, or replace it by --force")
