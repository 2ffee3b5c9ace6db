"""Checks of a command's arguments before it loads torch, so that a wrong path is answered at once."""

from pathlib import Path


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
