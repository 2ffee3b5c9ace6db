"""Formats in which hospitals keep scans. A reader finds the scans of a folder and reads one of them.

A reader is a module with ``find(files, root) -> Found``, cheap, and ``read(scan) -> Image``, run in a worker process.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Scan:
    """One scan that was found and not yet read. What it says of the patient never leaves the site.

    Attributes:
        files: its files, in the order in which they are read.
        patient: the hospital's own identifier.
        contrast: the hospital's own name of the weighting, e.g. "T1w".
        hospital: which of several hospitals in one folder, "" if the folder is one.
        split: "train", "val" or "test" where that is given, "" where it is to be decided.
        key: which scan of a file that holds several, e.g. a DICOM SeriesInstanceUID.
    """

    files: tuple[Path, ...]
    patient: str
    contrast: str
    hospital: str = ""
    split: str = ""
    key: str = ""


@dataclass
class Found:
    """What a folder holds.

    Attributes:
        scans: scans to read, in a fixed order.
        problems: what cannot be used, with the reason and the remedy; each counts as a bad file.
        left_out: number of files that are no scans for training, by what they are, e.g. {"func": 4}.
    """

    scans: list[Scan] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


# In this order: a name that says FLAIR or contrast agent often says T1 or T2 as well.
_CONTRASTS = {
    "FLAIR": r"flair|dark.?fluid|fluid.?att",
    "T2starw": r"t2.?star|t2\*|swi\b|gre.?t2",
    "T1ce": r"t1.?(ce|gd|c\b|km)|t1.*(post|contrast|gad)",
    "T1w": r"t1|mp.?rage|spgr|bravo",
    "T2w": r"t2",
    "PDw": r"(?<![a-z])(ax|cor|sag)?pd(w|fs)?(?![a-z])|proton",
    "angio": r"(?<![a-z])(mra|tof)(?![a-z])|angio",
    "DTI": r"(?<![a-z])(dti|dwi|b0)(?![0-9])|diffusion",
}


def contrast_of(text: str) -> str:
    """The contrast that a file name or protocol name speaks of, as one of a few words, "unknown" if none.

    Free text never becomes a contrast, because it can hold a patient's name, and the contrast is written down.
    """
    for contrast, pattern in _CONTRASTS.items():
        if re.search(pattern, text, re.IGNORECASE):
            return contrast
    return "unknown"
