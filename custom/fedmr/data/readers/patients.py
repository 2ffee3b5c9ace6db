"""Who is the patient of a file in a folder that follows no standard: evidence from all folder and file names.

Two persons may be taken for one, which costs data; one person must never be taken for two, because the halves could
get into training and test. What cannot be decided is said, with the remedy.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from fedmr.data.contrasts import is_protocol, words_of

REMEDY = "Give --patient-pattern REGEX, or a CSV with the columns path,patient as --patients"

# folders that stand for a part of a data set, a visit or a group, and never for a person
_PARTS = (
    *("images", "imagestr", "imagests", "imagesval", "labels", "labelstr", "labelsts", "train", "training", "val"),
    *("validation", "test", "testing", "anat", "nifti", "nii", "dicom", "data", "dataset", "raw", "rawdata", "scans"),
    *("mri", "mr", "mrt", "visit", "ses", "session", "baseline", "followup", "follow", "up", "fu", "bl", "timepoint"),
    *("tp", "group", "cohort", "site", "center", "centre"),
    *("export", "archive", "all", "files", "originals", "original", "converted", "output", "input", "series", "run"),
    *("rep", "repeat", "repetition", "scan", "image", "img", "im", "vol", "volume", "v", "month", "year", "study"),
)
_GROUPS = ("controls", "control", "patients", "cases", "healthy", "hc")  # with a number they are persons
_NUMBERED = re.compile(rf"(?:{'|'.join(sorted(_PARTS, key=len, reverse=True))})?[0-9]{{0,4}}[a-z]?")
_DATE = re.compile(r"(19|20)[0-9]{2}(0[1-9]|1[0-2])([0-2][0-9]|3[01])([0-9]{6})?")


@dataclass(frozen=True)
class Person:
    """Whose scan a file is.

    Attributes:
        patient: identifier, "" if unknown.
        evidence: what it was taken from.
        doubt: why it cannot be told, with the remedy, "" if it can.
    """

    patient: str
    evidence: str = ""
    doubt: str = ""


def identify(stems: Mapping[PurePath, str]) -> dict[PurePath, Person]:
    """Return whose scan each file is.

    The first folder that is not named as a contrast, a part of a data set, a visit or a date is the patient; without
    one, the identifier at the beginning of the file name.

    Args:
        stems: name without suffix of each file, by its path below the source.
    """
    homes = {path: _home(path.parts[:-1]) for path in stems}
    names = {path: identifier(stem) for path, stem in stems.items()}
    spread = defaultdict(set)
    for path, home in homes.items():
        if home and names[path] != home and any(letter.isdigit() for letter in names[path]):
            spread[names[path]].add(home)
    recurring = {name: found for name, found in spread.items() if len(found) > 1}
    # few names in many folders are protocols in patients, many names in few folders are patients in protocols
    unclear = len(recurring) >= len(set().union(*recurring.values())) if recurring else False
    return {
        path: _decide(homes[path], names[path], recurring.get(names[path], set()) if unclear else set())
        for path in stems
    }


def _decide(home: str, name: str, homes: set[str]) -> Person:
    if len(homes) > 1:
        where = ", ".join(sorted(homes)[:3])
        return Person("", doubt=f"may be of patient {name!r} or {home!r}: {name!r} recurs in folders {where}. {REMEDY}")
    if home:
        return Person(home, "folder")
    if name:
        return Person(name, "file name")
    return Person("", doubt=f"names no patient, neither in its folders nor in its own name. {REMEDY}")


def _home(folders: Sequence[str]) -> str:
    return next((folder for folder in folders if not is_neutral(folder)), "")


def is_neutral(name: str) -> bool:
    """Return whether a folder's name is that of a contrast, a part of a data set, a visit or a date."""
    words = words_of(name)
    if not words or (words == [name.lower()] and words[0].isdigit() and not _DATE.fullmatch(words[0])):
        return False
    known = [is_protocol(word) or word in (*_PARTS, *_GROUPS) for word in words]
    if any(known):
        return all(ok or _is_count(word) for ok, word in zip(known, words, strict=True))
    return all((_is_count(word) and not word.isdigit()) or _DATE.fullmatch(word) for word in words)


def _is_count(word: str) -> bool:
    """Return whether a word is a number, a date, or a generic word with a number, such as "visit2"."""
    return bool(_NUMBERED.fullmatch(word) or _DATE.fullmatch(word)) and not (len(word) == 1 and word.isalpha())


def identifier(stem: str) -> str:
    """Return the patient that a file name speaks of, "" if it names none.

    This is the name up to the first part with a digit, and without one the first part: "BRATS_001_T1" gives
    "BRATS_001" and "anna_meier_T2" gives "anna". Contrasts, visits and dates are no identifiers.
    """
    kept: list[str] = []
    for part in re.split(r"[_\s-]+", stem):
        words = words_of(part)
        if not words or all(is_protocol(word) for word in words):
            break
        if part.lower() in _PARTS:
            if kept:
                break
            return ""
        if _DATE.fullmatch(part):
            continue
        if not kept and _is_generic(part):
            return ""
        kept.append(part)
        if any(letter.isdigit() for letter in part):
            return "_".join(kept)
    return kept[0] if kept else ""


def _is_generic(part: str) -> bool:
    """Return whether a part is a generic word with a number, such as "IM0001"; a bare number can be an identifier."""
    return bool(_NUMBERED.fullmatch(part.lower())) and not part[0].isdigit()
