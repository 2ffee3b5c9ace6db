"""Packages that not every site needs: the extras of pyproject.toml."""

import importlib
from types import ModuleType

_EXTRAS = {
    "tenseal": ("he", "homomorphic encryption"),
    "opacus": ("dp", "the accountant of differential privacy"),
}


class MissingExtraError(ImportError):
    """A package of an extra is not installed; the message says which extra to install."""


def load(module: str) -> ModuleType:
    """Import a module of an extra's package.

    Args:
        module: e.g. "tenseal" or "opacus.accountants".

    Raises:
        MissingExtraError: its package is not installed, or does not load.
    """
    package = module.partition(".")[0]
    extra, purpose = _EXTRAS[package]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"the package {package} cannot be imported ({error}); {purpose} needs it: pip install 'fedmr[{extra}]', in "
            "the version that requirements.txt names"
        ) from None
