"""Whether a scan is of the kind that a model was trained on, and how far the result departs from it."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from fedmr import __version__
from fedmr.checkpoints.card import gain_of
from fedmr.data.contrasts import UNKNOWN
from fedmr.data.images import Image, canonical
from fedmr.data.scan_facts import outside, scan_facts
from fedmr.data.volumes import normalisation
from fedmr.inference.resolver import Resolver
from fedmr.utils.files import write_atomically

SUFFIX = ".fedmr.json"


@dataclass(frozen=True)
class Examination:
    """Result of looking at a scan beside its super-resolved image.

    Attributes:
        warnings: why the model may do less for this scan than its card says; empty if nothing speaks against it.
        expected_gain: mean gain in PSNR over zero-filling on the card's test scans, of this contrast where the card
            tells, dB; None if the card has no figures.
        departure: norm of the change that data consistency would make over the norm of the result, in [0, 1].
    """

    warnings: tuple[str, ...]
    expected_gain: float | None
    departure: float


def examine(resolver: Resolver, image: Image, result: Image, *, plane: str = "", contrast: str = "") -> Examination:
    """Compare a scan with the card's training scans, and its result with what was measured.

    Args:
        resolver: gives the card, and what data consistency means.
        image: the scan, (X, Y, Z).
        result: what `resolver` made of it.
        plane: of the slices, as given to `resolver`.
        contrast: of the scan, if known.
    """
    turned = canonical(image)
    axis = resolver.axis(turned, plane)
    low = np.ascontiguousarray(np.moveaxis(turned.voxels, axis, 0), dtype=np.float32)
    spacing = (turned.spacing[axis], *(turned.spacing[a] for a in range(3) if a != axis))
    facts = scan_facts(low, spacing, normalisation(torch.from_numpy(low).clamp_min(0)))
    card = resolver.model.card
    known = card["data"].get("contrasts", {})
    warnings = outside(facts, card["data"].get("ranges", {}))
    if contrast and contrast != UNKNOWN and known and contrast not in known:
        warnings.insert(0, f"its contrast is {contrast}; the model was trained on {', '.join(sorted(known))}")
    gain = gain_of(card, contrast)
    departure = resolver.departure(image, result, plane)
    return Examination(tuple(warnings), None if gain is None else round(gain, 2), departure)


def say(examinations: Sequence[Examination]) -> list[str]:
    """Return one line that says what is outside the model's training, or none."""
    warnings = list(dict.fromkeys(warning for found in examinations for warning in found.warnings))
    return [f"outside the model's training, look at the result with care: {'; '.join(warnings)}"] if warnings else []


def write_record(target: Path, resolver: Resolver, examinations: Sequence[Examination]) -> Path:
    """Write what was found beside a result, file or folder, as NAME.fedmr.json; it names no patient and no path.

    Raises:
        OSError: it cannot be written.
    """
    record = {
        "fedmr": __version__,
        **resolver.facts,
        "network": dict(resolver.model.task.network),
        "training": resolver.model.card["training"],
        "data_consistency": resolver.options.data_consistency,
        "mean_over_flips": resolver.options.uncertainty,
        "volumes": [asdict(found) for found in examinations],
    }
    path = beside(target, SUFFIX)
    write_atomically(path, lambda handle: handle.write((json.dumps(record, indent=1) + "\n").encode()))
    return path


def beside(target: Path, suffix: str) -> Path:
    """Return the path of a file about a result, file or folder: its name without .nii or .nii.gz, and the suffix."""
    name = target.name
    for ending in (".gz", ".nii"):
        name = name[: -len(ending)] if name.lower().endswith(ending) else name
    return target.with_name(name + suffix)
