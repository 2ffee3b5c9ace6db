"""Which DICOM files make up one stack: one person a study, one echo, time point and b-value a series, copies once."""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from fedmr.data.readers.patients import patient_key

Header = dict[str, str]

# elements by which images at one place differ, the word for it, in the order in which they are tried
DIFFERENCES = (
    ("ImageType", "type"),
    ("0043102F", "type"),  # GE: magnitude, phase, real, imaginary
    ("EchoNumbers", "echo"),
    ("EchoTime", "echo"),
    ("InversionTime", "inversion"),
    ("DiffusionBValue", "b"),
    ("0019100C", "b"),  # Siemens
    ("00431039", "b"),  # GE
    ("20011003", "b"),  # Philips
    ("00651009", "b"),  # UIH
    ("DiffusionGradientOrientation", "direction"),
    ("TemporalPositionIdentifier", "time"),
    ("AcquisitionNumber", "acquisition"),
    ("TriggerTime", "trigger"),
)


@dataclass(frozen=True)
class File:
    """An image of a DICOM file: its path, the elements of its header as text, and its number among several."""

    path: Path
    header: Header
    image: int = 0


def patient_of(header: Header) -> str:
    """Return the PatientID, else PatientName and PatientBirthDate, "" if there is none."""
    name = header["PatientName"].strip("^ ")
    return header["PatientID"] or (f"{name} {header['PatientBirthDate']}".strip() if name else "")


def persons(files: Sequence[File]) -> dict[Path, str]:
    """Return whose image each file is, "" if no file of its study says.

    Files of one StudyInstanceUID are of one person, however the identifier is written in each; so are identifiers
    that differ in case, blanks, signs and leading zeros only. A person is called by the PatientID that most files have.
    """
    parent: dict[Hashable, Hashable] = {}

    def root(node: Hashable) -> Hashable:
        while parent.setdefault(node, node) != node:
            node = parent[node]
        return node

    nodes = {file.path: _nodes(file) for file in files}
    for linked in nodes.values():
        for one, other in pairwise(linked):
            parent[root(one)] = root(other)
    names: dict[Hashable, Counter[tuple[bool, str]]] = defaultdict(Counter)
    for file in files:
        if patient := patient_of(file.header):
            names[root(nodes[file.path][0])][bool(file.header["PatientID"]), patient] += 1
    called = {
        node: max(found, key=lambda item, found=found: (item[0], found[item], item[1]))[1]  # type: ignore[misc]
        for node, found in names.items()
    }
    return {file.path: called.get(root(nodes[file.path][0]), "") for file in files}


def _nodes(file: File) -> list[Hashable]:
    patient, study = patient_of(file.header), file.header["StudyInstanceUID"]
    nodes = [(kind, text) for kind, text in (("study", study), ("patient", patient_key(patient))) if text]
    return [*nodes] or [("file", str(file.path))]


def without_copies(files: Sequence[File]) -> tuple[list[File], int]:
    """Return the files with each bit-identical copy taken once, and the number of copies."""
    kept: dict[str, list[File]] = defaultdict(list)
    for file in files:
        same = kept[file.header["SOPInstanceUID"] or str(file.path)]
        if not any(_same_bytes(file.path, other.path) for other in same):
            same.append(file)
    left = [file for same in kept.values() for file in same]
    return left, len(files) - len(left)


def _same_bytes(one: Path, other: Path) -> bool:
    try:
        return one.stat().st_size == other.stat().st_size and one.read_bytes() == other.read_bytes()
    except OSError:
        return False


def joined(series: dict[tuple[str, ...], list[File]]) -> list[tuple[str, list[File]]]:
    """Return the series by their UIDs; images with a UID each, of one folder and protocol, are one series."""
    whole: list[tuple[str, list[File]]] = []
    single: dict[tuple[str, ...], list[File]] = defaultdict(list)
    for (uid, *_), files in series.items():
        if len(files) > 1 or is_multiframe(files[0]):
            whole.append((uid, files))
        else:
            single[_protocol(files[0])].append(files[0])
    for files in single.values():
        if len({_place(file) for file in files}) == len(files):
            whole.append((files[0].header["SeriesInstanceUID"], files))
        else:
            whole += [(file.header["SeriesInstanceUID"], [file]) for file in files]
    return sorted(whole, key=lambda item: item[1][0].path)


def _protocol(file: File) -> tuple[str, ...]:
    tags = ("StudyInstanceUID", "PatientID", "SeriesDescription", "ProtocolName", "ImageOrientationPatient")
    more = ("Rows", "Columns", "EchoTime", "RepetitionTime", "ImageType", "Modality")
    return str(file.path.parent), *(file.header[tag] for tag in (*tags, *more))


def split(files: list[File]) -> list[tuple[str, list[File]]]:
    """Return the stacks of a series with what each is called, e.g. "echo2", and "" for the only one.

    A series is split by the first of `DIFFERENCES` that tells images at one place apart, and by the next ones as long
    as places repeat; at last by the order of their numbers, where every place has as many images.
    """
    places = Counter(_place(file) for file in files)
    if max(places.values()) == 1 or len(places) == 1:
        return [("", files)]
    for tag, word in DIFFERENCES:
        groups = _grouped(files, lambda file, tag=tag: file.header[tag])  # type: ignore[misc]
        if len(groups) > 1 and all(_covers(group, places) for group in groups):
            return [
                (f"{word}{number}{'-' if more else ''}{more}", part)
                for number, group in enumerate(groups, start=1)
                for more, part in split(group)
            ]
    numbers = {file.header["InstanceNumber"] for file in files}
    if len(set(places.values())) > 1 or len(numbers) < len(files):
        return [("", files)]
    seen: Counter[Hashable] = Counter()
    parts: dict[int, list[File]] = defaultdict(list)
    for file in sorted(files, key=lambda file: _number(file.header["InstanceNumber"])):
        seen[_place(file)] += 1
        parts[seen[_place(file)]].append(file)
    return [(f"part{number}", part) for number, part in parts.items()]


def _grouped(files: Iterable[File], key: Callable[[File], str]) -> list[list[File]]:
    groups: dict[str, list[File]] = defaultdict(list)
    for file in files:
        groups[key(file)].append(file)
    return [groups[value] for value in sorted(groups, key=lambda value: (_number(value), value))]


def _covers(group: list[File], places: Counter[Hashable]) -> bool:
    """Return whether a part is a stack of its own: it reaches most places, and repeats fewer of them."""
    own = Counter(_place(file) for file in group)
    return 2 * len(own) > len(places) and max(own.values()) < max(places.values())


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("inf")


def _place(file: File) -> Hashable:
    try:
        return tuple(round(float(value), 2) for value in file.header["ImagePositionPatient"].split("\\"))
    except ValueError:
        return str(file.path)


def is_multiframe(file: File) -> bool:
    """Return whether a file holds several images."""
    return file.header["NumberOfFrames"] not in ("", "1")
