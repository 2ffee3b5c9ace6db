"""Formats in which hospitals keep scans. A reader finds the scans of a folder and reads one of them.

A reader is a module with ``find(files, root) -> Found``, cheap, and ``read(scan) -> Image``, run in a worker process.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from fedmr.data.contrasts import contrast_of

__all__ = ["EVERY", "Found", "Scan", "contrast_of"]

EVERY = 50  # files, after which a search tells how far it is


@dataclass(frozen=True)
class Scan:
    """One scan that was found and not yet read. What it says of the patient never leaves the site.

    Attributes:
        files: its files, in the order in which they are read.
        patient: the hospital's own identifier, "" if unknown.
        evidence: where the patient was taken from, e.g. "first folder".
        doubt: why the patient cannot be told, with the remedy, "" if it can; training needs a patient, `infer` none.
        contrast: the hospital's own name of the weighting, e.g. "T1w".
        hospital: which of several hospitals in one folder, "" if the folder is one.
        split: "train", "val" or "test" where that is given, "" where it is to be decided.
        key: which scan of a file that holds several, e.g. a DICOM SeriesInstanceUID.
        told: where the contrast was taken from, e.g. "file name".
        images: numbers of the images of each file that belong to the scan; all of every file if empty.
    """

    files: tuple[Path, ...]
    patient: str
    contrast: str
    hospital: str = ""
    split: str = ""
    key: str = ""
    evidence: str = ""
    doubt: str = ""
    told: str = ""
    images: tuple[tuple[int, ...], ...] = ()


@dataclass
class Found:
    """Contents of a folder.

    Attributes:
        scans: scans to read, in a fixed order.
        problems: what cannot be used, with the reason and the remedy; each counts as a bad file.
        left_out: number of files that are no scans for training, by what they are, e.g. {"func": 4}.
        kinds: what each image is that is left out by its name or header, e.g. "parameter map".
    """

    scans: list[Scan] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    kinds: dict[Path, str] = field(default_factory=dict)
