"""Models that come with the package, found by their names."""

from pathlib import Path

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
