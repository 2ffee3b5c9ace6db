"""Model files on disk: found by path or, those that come with the package, by name; read without running anything.

torch is loaded by the reader alone, so that a wrong path is answered at once.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

META, _ALGORITHM = "meta_props", "PROCESSED_ALGORITHM"  # FLARE's names in a model file
WEIGHTS = Path(__file__).parents[1] / "weights"


def shipped_models() -> dict[str, Path]:
    """Return the model files of the package by name, e.g. "mscan-x2"."""
    return {path.stem: path for path in sorted(WEIGHTS.glob("*.pt"))}


def locate(model: Path) -> Path:
    """Return the place of a model: a file or run of that path, else the model of the package of that name.

    Raises:
        FileNotFoundError: neither is there; the message names the models of the package.
    """
    if model.exists():
        return model
    named = shipped_models()
    if str(model) in named:
        return named[str(model)]
    raise FileNotFoundError(
        f"{model} does not exist; give a model file such as FL_global_model.pt, a run, or the name of a model that "
        f"comes with FedMR ({', '.join(named) or 'none in this installation'}; `fedmr models` describes them)"
    )


def read_content(path: Path) -> dict[str, Any]:
    """Return what a model file holds; its weights are under "model".

    Raises:
        ValueError: no model file, or one that holds more than weights and plain values.
    """
    import torch

    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        # torch's own message advises to load without weights_only, which would run whatever the file says
        raise ValueError(
            f"{path} is not a model file: it holds more than weights and plain values, and was not opened, because "
            "that could run foreign code. Do not open it otherwise unless you trust its origin"
        ) from None
    except Exception as error:  # torch documents no closed set of errors for a file that is not its own
        reason = str(error).partition(". ")[0] or type(error).__name__  # the rest of torch's text is advice
        raise ValueError(f"{path} is not a torch model file or is truncated: {reason}") from None
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise ValueError(f'{path} holds no weights under "model"; give a file of FLARE or of `fedmr train`')
    return content


def encryption_of(content: Mapping[str, Any]) -> str | None:
    """By what the weights in a model file are encrypted: BFV (packed), CKKS (FLARE's own), None if they are not."""
    return (content.get(META) or {}).get(_ALGORITHM)
