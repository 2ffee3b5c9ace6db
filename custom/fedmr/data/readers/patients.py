"""Who is the patient of a file in a folder that follows no standard: evidence from all folder and file names.

Two persons may be taken for one, which costs data; one person must never be taken for two, because the halves could
get into training and test. What cannot be decided is said, with the remedy.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import PurePath

from fedmr.data.contrasts import is_protocol, words_of

REMEDY = "Give --patient-pattern REGEX, or a CSV with the columns path,patient as --patients"

# folders that stand for a part of a data set, a visit or a group, and never for a person
_PARTS = (
    *("images", "imagestr", "imagests", "imagesval", "labels", "labelstr", "labelsts", "train", "training", "val"),
    *("validation", "test", "testing", "anat", "nifti", "nii", "dicom", "data", "dataset", "raw", "rawdata", "scans"),
    *("mri", "mr", "mrt", "visit", "ses", "session", "baseline", "followup", "follow", "up", "fu", "bl", "timepoint"),
    *("tp", "group", "cohort", "site", "center", "centre", "week", "wk", "day", "days", "time", "acq"),
    *("preop", "postop", "intraop", "op", "export", "archive", "all", "files", "originals", "original", "converted"),
    *("output", "input", "series", "run", "rep", "repeat", "repetition", "scan", "image", "img", "im", "vol", "volume"),
    *("month", "months", "year", "study", "siemens", "philips", "canon", "toshiba", "hitachi", "uih"),
    *("te", "tr", "ti", "sl", "nex", "echo", "mb", "sense", "grappa", "dyn", "dir", "slice"),
)
_GROUPS = (  # with a number they are persons
    *("controls", "control", "patients", "cases", "healthy", "hc", "ms", "mci", "cn", "nc", "ad", "hgg", "lgg", "gbm"),
    *("normal", "tumor", "tumour", "stroke"),
)
_NUMBERED = re.compile(rf"(?:{'|'.join(sorted(_PARTS, key=len, reverse=True))})?[0-9]{{0,4}}[a-z]?|v[0-9]{{1,2}}")
# "M12" is a visit where another part of the path can be the patient
_VISIT = re.compile(r"[mwy][0-9]{1,2}", re.IGNORECASE)
_DATE = re.compile(r"(19|20)[0-9]{2}(0[1-9]|1[0-2])([0-2][0-9]|3[01])([0-9]{6})?")
_DATE_WITH_SIGNS = re.compile(r"(19|20)[0-9]{2}[-_.](0[1-9]|1[0-2])[-_.]([0-2][0-9]|3[01])")
_TOKENS = re.compile(rf"{_DATE_WITH_SIGNS.pattern}|[0-9]+\.[0-9]+[A-Za-z]+|[^_\s.,;()\[\]-]+")
_YEAR = re.compile(r"(19|20)[0-9]{2}")
_SETTING = re.compile(r"[0-9]+([.,][0-9]+)?(t|mm|ms|deg|dir|iso)|(te|tr|ti|fa|b)[0-9]+|[0-9]+x[0-9]+")
_ACCELERATION = re.compile(r"p[2-4]")  # of Siemens' protocol names, where other words of a protocol stand beside it
_PERSON = re.compile(r"(p|s|sub|subj|subject|pat|patient|case|id|vp)[0-9]+|(?=.*[a-z])(.*[0-9]){2,}.*", re.IGNORECASE)
_GLUED = re.compile(r"([a-z]+[0-9]+)(t[12]\w{0,4}|flair|pdw?|swi|dwi)", re.IGNORECASE)
# identifiers of public collections, which hold parts that look like a visit or a site
_PUBLIC = re.compile(
    r"(?<![A-Za-z0-9])(OAS[12]_[0-9]{4}|OAS3[0-9]{4}|TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}|[0-9]{3}_S_[0-9]{4}"
    r"|(?:UPENN|UCSF)-[A-Z]+-[0-9]+|NDAR_?INV[A-Z0-9]{8})(?![A-Za-z0-9])",
    re.IGNORECASE,
)


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


@dataclass(frozen=True)
class _Names:
    """Identifiers that a path holds: of its first folder that has one, of those below, and of the file name."""

    home: str
    deeper: tuple[str, ...]
    name: str


def patient_key(patient: str) -> str:
    """Return what two spellings of one identifier have in common: no case, signs, blanks or leading zeros."""
    plain = re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", patient).casefold())
    return re.sub(r"(?<![0-9])0+(?=[0-9])", "", plain) or patient


def called_alike(patients: Sequence[str]) -> dict[str, str]:
    """Return for each spelling of an identifier the one that is used most, the first of equals."""
    spellings: dict[str, Counter[str]] = defaultdict(Counter)
    for patient in patients:
        spellings[patient_key(patient)][patient] += 1
    return {patient: spellings[patient_key(patient)].most_common(1)[0][0] for patient in set(patients)}


def identify(stems: Mapping[PurePath, str]) -> dict[PurePath, Person]:
    """Return whose scan each file is.

    The first folder that is not named as a contrast, a part of a data set, a visit or a date is the patient; without
    one, the identifier at the beginning of the file name. Identifiers of public collections are known by their form.

    Args:
        stems: name without suffix of each file, by its path below the source.
    """
    names = {path: _names(path.parts[:-1], stem) for path, stem in stems.items()}
    spread: dict[str, set[str]] = defaultdict(set)
    for found in names.values():
        for key in _recurring_keys(found):
            spread[key].add(patient_key(found.home))
    recurring = {key: homes for key, homes in spread.items() if len(homes) > 1}
    # few names in many folders are protocols in patients, many names in few folders are patients in protocols
    unclear = len(recurring) >= len(set().union(*recurring.values())) if recurring else False
    persons = {path: _decide(found, recurring if unclear else {}) for path, found in names.items()}
    called = called_alike([person.patient for person in persons.values()])
    persons = {path: replace(person, patient=called[person.patient]) for path, person in persons.items()}
    for path in stems:
        if public := _PUBLIC.search(path.as_posix()):
            persons[path] = Person(public[1].upper(), "identifier of a public collection")
    return persons


def _names(folders: Sequence[str], stem: str) -> _Names:
    cores = [core for folder in folders if not is_neutral(folder) and (core := identifier(folder, whole=True))]
    cores = [core for core in cores if not _VISIT.fullmatch(core)] or cores
    name = identifier(stem)
    if cores and _VISIT.fullmatch(cores[0]) and name:
        cores = []
    return _Names(cores[0] if cores else "", tuple(cores[1:]), name)


def _recurring_keys(found: _Names) -> set[str]:
    """Return the identifiers below a first folder that could be the patient in its stead."""
    if not found.home:
        return set()
    numbered = any(letter.isdigit() for letter in found.home)
    below = {text for text in (*found.deeper, found.name) if any(letter.isdigit() for letter in text)}
    # "01" below "P001" is a visit
    keys = {patient_key(text) for text in below if not (numbered and text.isdigit() and len(text) < 3)}
    return keys - {patient_key(found.home)}


def _decide(found: _Names, recurring: Mapping[str, set[str]]) -> Person:
    for text in (*found.deeper, found.name):
        homes = recurring.get(patient_key(text), set()) if found.home else set()
        if len(homes) > 1:
            where = ", ".join(sorted(homes)[:3])
            doubt = f"may be of patient {text!r} or {found.home!r}: {text!r} recurs in folders {where}. {REMEDY}"
            return Person("", doubt=doubt)
    if found.home:
        return Person(found.home, "folder")
    if found.name:
        return Person(found.name, "file name")
    return Person("", doubt=f"names no patient, neither in its folders nor in its own name. {REMEDY}")


def is_neutral(name: str) -> bool:
    """Return whether a folder's name is that of a contrast, a part of a data set, a visit or a date."""
    tokens = _tokens(name)
    if not tokens or (len(tokens) == 1 and tokens[0].isdigit() and not _DATE.fullmatch(tokens[0])):
        return False
    if name.lower() in _GROUPS:
        return True
    protocol = sum(_is_protocol(token) for token in tokens)
    numbers = [token.isdigit() and not _DATE.fullmatch(token) for token in tokens]
    known = [number or _is_neutral_token(token, protocol) for token, number in zip(tokens, numbers, strict=True)]
    return all(known) and not all(numbers)


def _tokens(name: str) -> list[str]:
    return [match[0] for match in _TOKENS.finditer(unicodedata.normalize("NFC", name))]


@lru_cache(maxsize=2**14)
def _is_protocol(token: str) -> bool:
    # "S1" and "PD001" are persons, though "s" and "pd" are words of protocols
    words = [token.lower()] if re.fullmatch(r"[A-Za-z][0-9]+|[A-Za-z]+[0-9]{2,}", token) else words_of(token)
    return bool(words) and all(is_protocol(word) for word in words)


def _is_neutral_token(token: str, protocol: int) -> bool:
    """Return whether a part of a name tells of no person, with the number of protocol words in the whole name."""
    text = token.lower()
    if _DATE_WITH_SIGNS.fullmatch(text) or _DATE.fullmatch(text) or _SETTING.fullmatch(text) or _is_protocol(token):
        return True
    if _ACCELERATION.fullmatch(text):
        return protocol >= 2
    if len(text) == 1 and text.isalpha():
        return protocol >= 2
    return bool(_NUMBERED.fullmatch(text)) and (not text[0].isdigit() or protocol > 0)


def identifier(part: str, *, whole: bool = False) -> str:
    """Return the patient that a name speaks of, "" if it names none.

    This is the name up to the first part with a digit, and without one the first part: "BRATS_001_T1" gives
    "BRATS_001" and "anna_meier_T2" gives "anna". Contrasts, visits and dates are no identifiers; behind a contrast
    only letters with digits are one.

    Args:
        part: name of a folder, or of a file without suffix.
        whole: take all parts of a name without digits.
    """
    text = unicodedata.normalize("NFC", part)
    tokens = list(_TOKENS.finditer(text))
    protocol = sum(_is_protocol(token[0]) for token in tokens)
    start, end, led = -1, -1, False
    for place, token in enumerate(tokens):
        word = token[0]
        dated = _DATE.fullmatch(word) or _DATE_WITH_SIGNS.fullmatch(word)
        # a number in front of a protocol, or behind a name, can be the patient's
        number = word.isdigit() and not dated and (place == 0 or start >= 0)
        visit = (
            start < 0 and _VISIT.fullmatch(word) and any(_PERSON.fullmatch(later[0]) for later in tokens[place + 1 :])
        )
        if visit or (_is_neutral_token(word, protocol) and not number):
            if start >= 0:
                break
            led = led or not (dated or visit)
            continue
        if led and not _PERSON.fullmatch(word):
            return ""
        start, end = (token.start() if start < 0 else start), token.end()
        if glued := _GLUED.fullmatch(word):
            return text[start : token.start() + len(glued[1])]
        if any(letter.isdigit() for letter in word) and not (start == token.start() and _YEAR.fullmatch(word)):
            return text[start:end]
    if start < 0:
        return ""
    return text[start:end] if whole or _YEAR.match(text[start:end]) else _TOKENS.match(text, start)[0]  # type: ignore[index]
