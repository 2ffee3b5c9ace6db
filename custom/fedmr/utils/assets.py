"""The jobs and their sources that come with FedMR, wherever it is installed."""

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
# in a wheel beside the modules, in a clone of the repository at its root
_PLACES = (_PACKAGE / "share", _PACKAGE.parents[1])


def asset(path: Path) -> Path:
    """Return a path as it is if something is there, else what comes with FedMR under it, e.g. jobs/mscan_fedavg.

    A path that leads to nothing in either place is returned as it is, for its reader to say so.
    """
    if path.exists() or path.is_absolute() or ".." in path.parts:
        return path
    return next((place / path for place in _PLACES if (place / path).exists()), path)
