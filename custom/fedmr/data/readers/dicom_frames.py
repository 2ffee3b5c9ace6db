"""The images of an enhanced multi-frame DICOM file, each with the header that a file of its own would have."""

from typing import Any

from pydicom import Dataset, dcmread

from fedmr.data.readers import Scan
from fedmr.data.readers.dicom_series import File
from fedmr.data.readers.dicom_stack import Frame, frames_of, quiet
from fedmr.utils.errors import DataError

# element of `dicom_series.DIFFERENCES`, and the functional groups, outermost first, that hold it in an enhanced file
_PLACES = (
    ("ImagePositionPatient", ("PlanePositionSequence", "ImagePositionPatient")),
    ("ImageOrientationPatient", ("PlaneOrientationSequence", "ImageOrientationPatient")),
    ("EchoTime", ("MREchoSequence", "EffectiveEchoTime")),
    ("InversionTime", ("MRModifierSequence", "InversionTimes")),
    ("DiffusionBValue", ("MRDiffusionSequence", "DiffusionBValue")),
    (
        "DiffusionGradientOrientation",
        ("MRDiffusionSequence", "DiffusionGradientDirectionSequence", "DiffusionGradientOrientation"),
    ),
    ("TemporalPositionIdentifier", ("FrameContentSequence", "TemporalPositionIndex")),
    ("AcquisitionNumber", ("FrameContentSequence", "FrameAcquisitionNumber")),
    ("TriggerTime", ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime")),
    ("ImageType", ("MRImageFrameTypeSequence", "FrameType")),
    ("ComplexImageComponent", ("MRImageFrameTypeSequence", "ComplexImageComponent")),
)


def images_of(file: File) -> list[File]:
    """Return a file as its images; a damaged one as itself, since reading it names the damage."""
    if file.header["NumberOfFrames"] in ("", "1"):
        return [file]
    try:
        with quiet():
            header = dcmread(file.path, stop_before_pixels=True, force=True)
            own = list(header.get("PerFrameFunctionalGroupsSequence") or [])
            shared = list(header.get("SharedFunctionalGroupsSequence") or [])[:1]
            return [_image(file, number, [frame, *shared]) for number, frame in enumerate(own)] or [file]
    except Exception:  # pydicom raises whatever a damaged header leads it to
        return [file]


def _image(file: File, number: int, groups: list[Dataset]) -> File:
    found = {name: text for name, path in _PLACES if (text := _value(groups, path))}
    return File(file.path, {**file.header, **found, "InstanceNumber": str(number + 1)}, number)


def _value(groups: list[Dataset], path: tuple[str, ...]) -> str:
    """Return an element of the first group that has it, as text, several values separated by a backslash."""
    for group in groups:
        held: Any = group
        for name in path[:-1]:
            held = next(iter(held.get(name) or []), Dataset())
        value = held.get(path[-1])
        if value is not None and value != "":
            return str(value) if isinstance(value, str | int | float) else "\\".join(map(str, value))
    return ""


def frames_of_scan(scan: Scan) -> list[Frame]:
    """Return the images of a scan, of a multi-frame file only those that belong to it.

    Raises:
        DataError: as `dicom_stack.frames_of`, or the file has changed since it was found.
    """
    frames = []
    for number, path in enumerate(scan.files):
        held = frames_of(path)
        chosen = scan.images[number] if scan.images else range(len(held))
        if scan.images and max(chosen) >= len(held):
            raise DataError(f"{path} holds fewer images than when it was found. Copy it again")
        frames += [held[index] for index in chosen]
    return frames
