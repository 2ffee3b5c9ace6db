"""DICOM: which files of a folder make up a series of MR images, and one series as a volume.

Files are recognised by their content, for many have no extension. Headers are read without pixels, and of them only
what decides about the series.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.multival import MultiValue
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    EnhancedMRColorImageStorage,
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    MRImageStorage,
)

from fedmr.data.images import Image
from fedmr.data.magnitude import REFORMATTED, image_type_kind, named_kind
from fedmr.data.readers import EVERY, Found, Scan, contrast_of
from fedmr.data.readers.dicom_frames import frames_of_scan, images_of
from fedmr.data.readers.dicom_matrix import acquired_shares, slice_thickness
from fedmr.data.readers.dicom_series import (
    DIFFERENCES,
    File,
    Header,
    is_multiframe,
    joined,
    persons,
    split,
    without_copies,
)
from fedmr.data.readers.dicom_stack import check_deflated, in_order, quiet
from fedmr.utils.errors import DataError

_TAGS = [
    *("SOPClassUID", "Modality", "ImageType", "ComplexImageComponent", "PatientID", "PatientName", "PatientBirthDate"),
    *("SeriesInstanceUID", "SeriesDescription", "ProtocolName", "AcquisitionContrast", "ContrastBolusAgent"),
    *("ScanningSequence", "RepetitionTime", "EchoTime", "InversionTime", "StudyInstanceUID", "SOPInstanceUID"),
    *("InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient", "Rows", "Columns", "NumberOfFrames"),
    *(tag for tag, _ in DIFFERENCES if not tag[0].isdigit()),
]
# of these damage is found, and its file named, when the series is read
_LENIENT = ("ImagePositionPatient", "ImageOrientationPatient", "Rows", "Columns")
_PRIVATE = [tag for tag, _ in DIFFERENCES if tag[0].isdigit()]
_WANTED = [*map(Tag, _TAGS), *(Tag(int(tag, 16)) for tag in _PRIVATE)]
_MR = {*(MRImageStorage, EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage, EnhancedMRColorImageStorage)}
_LOCALIZER = re.compile(r"(?<![a-z])loc(?![a-z])|locali[sz]er|scout|survey|(3|three).?plane", re.IGNORECASE)
_NOBODY = (
    "has neither PatientID nor PatientName, so that scans of one patient could get into training and test. "
    "Fill in PatientID; a pseudonym will do. Or give --patient-pattern or --patients"
)
_SHOWS = {
    "BurnedInAnnotation": "its header says that text is burned into its pixels, which may name the patient",
    "RecognizableVisualFeatures": "its header says that a face can be recognised in it",
}
# GE's RawDataType as a number, or as the bytes of a file that does not state its kind of value
_GE_TYPES = {
    **dict.fromkeys(("1", "b'\\x01\\x00'"), "PHASE"),
    **dict.fromkeys(("2", "3", "b'\\x02\\x00'", "b'\\x03\\x00'"), "REAL"),
}
# Files from before 1993, and some exports, begin with group 0008 or 0002 and not with "DICM" after 128 bytes.
_FIRST_GROUPS = (b"\x08\x00", b"\x02\x00", b"\x00\x08", b"\x00\x02")


def find(
    files: Sequence[Path],
    root: Path,
    *,
    reformatted: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Found:
    """Group DICOM files to series of MR images.

    A series is what has one SeriesInstanceUID and one patient, in whatever folders its files lie; one that holds
    several echoes, time points or b-values gives a scan for each. The patient is the PatientID, else PatientName and
    PatientBirthDate, of the file or of another one of its study.

    Args:
        files: any files; those that are no DICOM are counted as left out.
        root: folder that they lie below.
        reformatted: whether an image that software has resampled is a scan, as for inference, or left out.
        progress: receives the numbers of headers read and in all.
    """
    found = Found()
    images: list[File] = []
    with quiet():
        for number, path in enumerate(sorted(files)):
            if number % EVERY == EVERY - 1:
                progress(number, len(files))
            try:
                header = _read_header(path)
            except DataError as error:
                found.problems.append(str(error))
                continue
            kind = "no DICOM" if header is None else _left_out_as(header, reformatted)
            if header is None or kind:
                found.left_out[kind if header is None else f"DICOM {kind}"] += 1
                found.kinds |= {path: kind} if kind else {}
            elif not any(header[tag] for tag in ("SeriesInstanceUID", "PatientID", "PatientName", "Rows")):
                found.problems.append(f"{path} ends within its header; it is truncated. Copy it again")
            else:
                images.append(File(path, header))
    images, copies = without_copies(images)
    if copies:
        found.left_out["identical copies of DICOM files"] = copies
    patients = persons(images)
    series: dict[tuple[str, ...], list[File]] = {}
    for file in sorted(images, key=lambda file: file.path):
        header = file.header
        key = header["SeriesInstanceUID"] or str(file.path.parent), patients[file.path], header["Modality"]
        series.setdefault(key, []).append(file)
    for uid, members in joined(series):
        _add(found, uid, members, patients, reformatted)
    return found


def _add(found: Found, uid: str, members: list[File], patients: dict[Path, str], reformatted: bool) -> None:
    """Add the stacks of a series to what was found, or its problem."""
    header = members[0].header
    if problem := _problem(header):
        found.problems.append(f"{_name([file.path for file in members])} {problem}")
        return
    patient = patients[members[0].path]
    several = any(is_multiframe(file) for file in members)
    parts = split([image for file in members for image in images_of(file)] if several else members)
    for part, stack in parts:
        if several and (kind := _left_out_as(stack[0].header, reformatted)):
            found.left_out[f"DICOM {kind}"] += 1
            found.kinds[stack[0].path] = kind
            continue
        contrast, told = _contrast(stack[0].header)
        key = "-".join(filter(None, (header["SeriesInstanceUID"] and uid, part)))
        paths = tuple(dict.fromkeys(file.path for file in stack))
        images = tuple(tuple(file.image for file in stack if file.path == path) for path in paths)
        found.scans.append(
            Scan(
                *(paths, patient, contrast),
                told=told,
                images=images if several and part else (),
                key=key,
                evidence="PatientID of its study" if patient else "",
                doubt="" if patient else _NOBODY,
            )
        )


def read(scan: Scan, *, single: bool = False) -> Image:
    """Read a series as a volume, its slices ordered by their position in the patient.

    Voxel axes run along the rows of the image (X), along its columns (Y) and across the slices (Z). Whole numbers
    stay whole numbers where the header does not rescale them. Pixels that the header declares as padding become 0.

    Args:
        scan: the series.
        single: whether one image is enough, as for `infer`.

    Raises:
        DataError: naming the series or file, what is wrong with it and what to do.
    """
    name = _name(scan.files)
    with quiet():
        frames, affine = in_order(frames_of_scan(scan), name, single=single)
        pixels = np.stack([frame.pixels() for frame in frames], axis=-1)
        lossy = any(frame.dataset.get("LossyImageCompression") == "01" for frame in frames)
    notes: tuple[str, ...] = (
        ("its images were compressed with loss (JPEG or the like) before they were exported",) if lossy else ()
    )
    notes += tuple(
        text for tag, text in _SHOWS.items() if any(str(f.dataset.get(tag, "")).upper() == "YES" for f in frames)
    )
    columns, rows = acquired_shares(frames[0])
    return Image(
        pixels.swapaxes(0, 1),
        affine,
        notes=notes,
        acquired=(columns, rows, 1.0),
        across=2,
        thickness=slice_thickness(frames[0]),
    )


def _name(paths: Sequence[Path]) -> str:
    """Return what messages call a series."""
    return f"the series of {paths[0]} ({len(paths)} files)" if len(paths) > 1 else str(paths[0])


def _read_header(path: Path) -> Header | None:
    """The elements of `_TAGS` as text, "" where there is none, or None for a file that is no DICOM."""
    named = path.suffix.lower() in (".dcm", ".ima", ".dicom")
    try:
        with path.open("rb") as handle:
            start = handle.read(132)
            if start[128:] != b"DICM" and not start.startswith(_FIRST_GROUPS):
                if named:
                    raise DataError(f"{path} is no DICOM file, though its name says so. Copy it again or remove it")
                return None
            if start[128:] == b"DICM":
                check_deflated(path)
            handle.seek(0)
            header = dcmread(handle, stop_before_pixels=True, specific_tags=_WANTED, force=True)
        texts = {tag: _text(header.get(tag)) for tag in _TAGS if tag not in _LENIENT}
        texts |= {tag: _text_or_nothing(header, tag) for tag in _LENIENT}
        texts |= {tag: _text(header[int(tag, 16)].value) if int(tag, 16) in header else "" for tag in _PRIVATE}
        texts["SOPClassUID"] = texts["SOPClassUID"] or _text(header.file_meta.get("MediaStorageSOPClassUID"))
    except DataError:
        raise
    except Exception as error:  # pydicom raises whatever a damaged header leads it to
        raise DataError(
            f"{path} has a DICOM header that cannot be read ({type(error).__name__}). Copy it again"
        ) from None
    if texts["SOPClassUID"] or texts["Modality"]:
        return texts
    if named or start[128:] == b"DICM":
        raise DataError(f"{path} does not say what it is (no SOPClassUID, no Modality). Export it again")
    return None


def _text_or_nothing(header: Dataset, tag: str) -> str:
    """Return an element's value as text, "" for a damaged one."""
    try:
        return _text(header.get(tag))
    except Exception:  # pydicom raises whatever a damaged element leads it to
        return ""


def _text(value: object) -> str:
    """An element's value; several values are separated by a backslash, as in the file."""
    if value is None:
        return ""
    return "\\".join(map(str, value)) if isinstance(value, MultiValue) else str(value).strip()


def _left_out_as(header: Header, reformatted: bool = False) -> str:
    """Return what a DICOM object is that is no image for training, "" for an image; never text from the header."""
    kind = UID(header["SOPClassUID"])
    if kind and kind not in _MR:
        if kind.name == kind:
            return "private object"
        if "Image" not in kind.name or "Secondary Capture" in kind.name:
            return kind.name.removesuffix(" Storage")
    values = [*header["ImageType"].upper().split("\\")[2:], header["ComplexImageComponent"].upper()]
    values += [_GE_TYPES.get(header["0043102F"], "")]
    if (stated := image_type_kind(values)) and not (reformatted and stated == REFORMATTED):
        return stated
    description = header["SeriesDescription"]
    return "localizer" if _LOCALIZER.search(description) else named_kind(description, last=False)


def _problem(header: Header) -> str:
    """Why a series of images cannot be used, to follow its name in a sentence, "" if it can."""
    if header["Modality"] != "MR" and header["SOPClassUID"] not in _MR:
        return f"is of modality {header['Modality'] or 'unknown'}, not MR. Move it out of this folder"
    return ""


def _contrast(header: Header) -> tuple[str, str]:
    """The weighting and what told it: names that people gave, else the standard's own word, else the timing."""
    agent = bool(header["ContrastBolusAgent"])
    for tag in ("SeriesDescription", "ProtocolName", "AcquisitionContrast"):
        contrast = contrast_of(header[tag], agent=agent)
        if contrast != "unknown":
            return contrast, f"{tag} and ContrastBolusAgent" if contrast == "T1ce" and agent else tag
    contrast = _contrast_of_timing(header)
    return contrast, "" if contrast == "unknown" else "TR, TE and TI"


def _contrast_of_timing(header: Header) -> str:
    """The weighting of a spin echo or inversion recovery sequence, "unknown" between the cut-offs.

    Cut-offs of Westbrook, Handbook of MRI Technique, table 2.1, the wider one of 1.5 T and 3 T: short TE up to 30 ms,
    long from 70 ms; short TR up to 900 ms, long from 2000 ms; T1-weighted inversion recovery with a TI of 200-600 ms
    and STIR up to 210 ms. Fluid with a T1 of 4 s is nulled at TI 1500 ms and more for any TR from 4 s on. Up to
    1200 ms a magnetisation-prepared gradient echo is T1-weighted (Mugler and Brookeman, MRM 1990). A gradient
    echo without inversion stays unknown: its weighting turns on spoiling and flip angle as much.
    """
    sequence = header["ScanningSequence"].upper().split("\\")
    try:
        tr, te = float(header["RepetitionTime"]), float(header["EchoTime"])
        ti = float(header["InversionTime"] or 0)
    except ValueError:
        return "unknown"
    if "EP" in sequence:
        return "unknown"
    t1 = "T1ce" if header["ContrastBolusAgent"] else "T1w"
    if "IR" in sequence:
        if ti >= 1500 and te >= 70:
            return "FLAIR"
        return t1 if 210 < ti <= 1200 and te <= 30 else "unknown"
    if "SE" not in sequence:
        return "unknown"
    if te <= 30:
        return t1 if tr <= 900 else "PDw" if tr >= 2000 else "unknown"
    return "T2w" if te >= 70 and tr >= 2000 else "unknown"
