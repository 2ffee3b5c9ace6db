"""FedMR: federated MR image super-resolution and reconstruction on NVIDIA FLARE.

In Python: `load_model`, `infer`, `train`, `evaluate`, `simulate`, `Run`; see `fedmr.cli.api` and docs/python.md.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fedmr.cli.api import Model as Model
    from fedmr.cli.api import Run as Run
    from fedmr.cli.api import evaluate as evaluate
    from fedmr.cli.api import infer as infer
    from fedmr.cli.api import load_model as load_model
    from fedmr.cli.api import simulate as simulate
    from fedmr.cli.api import train as train

__all__ = ("Model", "Run", "__version__", "evaluate", "infer", "load_model", "simulate", "train")


def __getattr__(name: str) -> Any:
    """Load a name of `__all__` on its first use: torch takes a second that `fedmr --help` has not."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("fedmr.cli.api"), name)


def __dir__() -> list[str]:
    """Return the names for completion in a notebook."""
    return sorted(__all__)
