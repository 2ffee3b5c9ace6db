"""Which patient is for training, validation or test."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from fedmr.data.tables import read_table
from fedmr.utils.errors import DataError

SPLITS = ("train", "val", "test")
_COLUMNS = ("patient", "split")


def parse_fractions(text: str) -> tuple[float, ...]:
    """Shares of train, val and test from text such as "0.7/0.1/0.2", scaled to a sum of 1.

    Raises:
        DataError: not three numbers above 0.
    """
    try:
        fractions = tuple(float(part) for part in text.split("/"))
    except ValueError:
        fractions = ()
    if len(fractions) != len(SPLITS) or not all(0 < f < float("inf") for f in fractions):
        raise DataError(f"split {text!r} is not three numbers above 0 for {'/'.join(SPLITS)}; write e.g. 0.7/0.1/0.2")
    return tuple(f / sum(fractions) for f in fractions)


def assign(
    patients: Iterable[str], fractions: tuple[float, ...], *, seed: int, previous: Mapping[str, str]
) -> dict[str, str]:
    """Give every patient a split.

    A hash of seed and patient decides, so that a patient's split does not depend on who else is there; what an earlier
    run decided stays. Where that leaves a split empty, it gets a patient of the largest one, a new one if possible.

    Args:
        patients: identifiers.
        fractions: shares of train, val and test, sum 1.
        seed: another seed, another split.
        previous: splits decided before, by patient.

    Raises:
        DataError: fewer patients than splits.
    """
    chance = {patient: _uniform(f"{seed}:{patient}") for patient in sorted(set(patients))}
    if len(chance) < len(SPLITS):
        raise DataError(
            f"there are usable scans of {len(chance)} patient{'s' * (len(chance) != 1)}; train, val and test need one "
            "each, because scans of a patient must not be divided. Add patients, tell them apart by "
            "--patient-pattern, or state a split with --split-file"
        )
    borders = fractions[0], fractions[0] + fractions[1]
    split = {
        patient: previous.get(patient) or SPLITS[sum(value >= border for border in borders)]
        for patient, value in chance.items()
    }
    for empty in SPLITS:
        if empty not in split.values():
            largest = max(SPLITS, key=list(split.values()).count)
            donors = [patient for patient in split if split[patient] == largest]
            split[min(donors, key=lambda patient: (patient in previous, chance[patient]))] = empty
    return split


def _uniform(text: str) -> float:
    """A number in [0, 1) that the text determines."""
    return int.from_bytes(hashlib.sha256(os.fsencode(text)).digest()[:6], "big") / 2**48


def read_split_file(path: Path, site: str) -> list[dict[str, str]]:
    """Rows of a CSV with the columns patient, split and, as far as needed, site and path.

    Args:
        path: the file. With a column `site` only that site's rows count.
        site: the site.

    Raises:
        DataError: no such file, a missing column, no row of the site, or an unknown split with its line.
    """
    table = read_table(path, _COLUMNS, " and, if need be, path")
    rows = [(line, row) for line, row in table if row.get("site", site) == site]
    if not rows:
        raise DataError(f"{path} has no row of site {site!r}")
    for line, row in rows:
        row["split"] = row.get("split", "").lower()
        if row["split"] not in SPLITS:
            raise DataError(f"{path}, line {line}: split {row['split']!r}; known are {', '.join(SPLITS)}")
    return [row for _, row in rows]
