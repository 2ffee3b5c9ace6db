"""Headers of super-resolved DICOM objects: what stays of the source's, what no longer holds, what was done.

Patient, study, frame of reference and the parameters of the acquisition stay. Private elements, overlays and icons go:
they describe the pixels as they were. UIDs are new and random in every run, because the standard demands another UID
for other bits, and two computers do not make the same ones.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from pydicom.valuerep import format_number_as_ds

from fedmr import __version__
from fedmr.data.readers.dicom_stack import Frame

_SERIES_OFFSET = 1000  # added to the series number, so that the result is listed behind the scans
_LONG_STRING = 64  # most characters of an LO element
_STALE = (
    *("PixelData", "FloatPixelData", "DoubleFloatPixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
    *("IconImageSequence", "SmallestImagePixelValue", "LargestImagePixelValue", "SmallestPixelValueInSeries"),
    *("LargestPixelValueInSeries", "PixelPaddingValue", "PixelPaddingRangeLimit", "ModalityLUTSequence"),
    *("RescaleSlope", "RescaleIntercept", "DigitalSignaturesSequence", "MACParametersSequence"),
    *("DataSetTrailingPadding", "InstanceCreatorUID"),
)
_SCANNER = ("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions", "StationName")
# Of the MR Pulse Sequence module. A derived enhanced image may have them (PS3.3 C.8.13.4), but the common checker
# dciodvfy calls it an error. They stand in the source; echo and repetition time are in other modules.
_PULSE_SEQUENCE = (
    *("PulseSequenceName", "MRAcquisitionType", "EchoPulseSequence", "MultipleSpinEcho", "MultiPlanarExcitation"),
    *("PhaseContrast", "VelocityEncodingAcquisitionSequence", "TimeOfFlightContrast", "ArterialSpinLabelingContrast"),
    *("SteadyStatePulseSequence", "EchoPlanarPulseSequence", "SaturationRecovery", "SpectrallySelectedSuppression"),
    *("OversamplingPhase", "GeometryOfKSpaceTraversal", "RectilinearPhaseEncodeReordering", "CoverageOfKSpace"),
    *("SegmentedKSpaceTraversal", "NumberOfKSpaceTrajectories"),
)
_ALONG_SLICES = ("ImagePositionPatient", "InStackPositionNumber")


@dataclass(frozen=True)
class Derivation:
    """Record how the result was made.

    Attributes:
        label: what became finer, in a word or two.
        model: digest of the weights, so that a result can be traced to its model.
        text: one sentence.
    """

    label: str
    model: str
    text: str


@dataclass(frozen=True)
class Slice:
    """One slice of the result.

    Attributes:
        number: from 0.
        source: the image that it lies nearest to.
        position: centre of its first pixel, left-posterior-superior mm.
        pixels: (rows, columns), 16 bits, as stored: value = slope * stored + intercept.
        slope, intercept: of these.
        clipped: number of pixels that lay beyond 16 bits.
    """

    number: int
    source: Frame
    position: NDArray[np.float64]
    pixels: NDArray[Any]
    slope: float
    intercept: float
    clipped: int


@dataclass(frozen=True)
class Series:
    """Facts that all objects of the result share.

    Attributes:
        derivation: what was done.
        spacing: distance of rows, of columns and of slices, mm.
        finer_slices: whether it has more slices than the source.
        uid: SeriesInstanceUID.
        time: when it was made.
        deidentify: whether the person is left out.
    """

    derivation: Derivation
    spacing: tuple[float, float, float]
    finer_slices: bool
    uid: str
    time: datetime
    deidentify: bool = False


def derived_object(part: Sequence[Slice], series: Series) -> Dataset:
    """The DICOM object of one slice or, where their source is an enhanced multi-frame object, of several of it."""
    dataset = deepcopy(part[0].source.dataset)
    dataset.remove_private_tags()
    _remove(dataset, *_STALE)
    for tag in [e.tag for e in dataset if e.tag.group & 0xFF00 in (0x5000, 0x6000)]:  # curves and overlays
        del dataset[tag]
    _set(dataset, _identity(dataset, part[0], series))
    _name_equipment(dataset, series.derivation)
    if is_enhanced(part[0].source):
        _fill_enhanced(dataset, part, series)
    else:
        _fill_classic(dataset, part[0], series)
    dataset.add_new("PixelData", "OW", b"".join(member.pixels.tobytes() for member in part))
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.preamble = bytes(128)  # the source's may be that of another format
    return dataset


def is_enhanced(source: Frame) -> bool:
    """Return whether an image comes from a multi-frame object."""
    return "PerFrameFunctionalGroupsSequence" in source.dataset


def _identity(dataset: Dataset, first: Slice, series: Series) -> dict[str, Any]:
    suffix = f" SR {series.derivation.label}"
    date, time = series.time.strftime("%Y%m%d"), series.time.strftime("%H%M%S")
    return {
        "SOPClassUID": dataset.get("SOPClassUID") or MRImageStorage,
        "SOPInstanceUID": generate_uid(None),
        "SeriesInstanceUID": series.uid,
        "SeriesNumber": int(dataset.get("SeriesNumber") or 0) + _SERIES_OFFSET,
        "SeriesDescription": str(dataset.get("SeriesDescription") or "")[: _LONG_STRING - len(suffix)] + suffix,
        "InstanceNumber": first.number + 1,
        **{f"{event}Date": date for event in ("InstanceCreation", "Series", "Content")},
        **{f"{event}Time": time for event in ("InstanceCreation", "Series", "Content")},
        "Rows": first.pixels.shape[0],
        "Columns": first.pixels.shape[1],
        **{"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15},
        "PixelRepresentation": int(first.pixels.dtype.kind == "i"),
    }


def _name_equipment(dataset: Dataset, derivation: Derivation) -> None:
    """FedMR made the pixels, and the scanner contributed to them (PS3.3 C.7.5.1 and C.12.1)."""
    scanner = _item(Manufacturer="unknown", PurposeOfReferenceCodeSequence=[_code(codes.DCM.AcquisitionEquipment)])
    _set(scanner, {name: dataset[name].value for name in _SCANNER if dataset.get(name)})
    _remove(dataset, *_SCANNER)
    dataset.ContributingEquipmentSequence = [*dataset.get("ContributingEquipmentSequence", []), scanner]
    dataset.Manufacturer = dataset.ManufacturerModelName = "FedMR"
    dataset.SoftwareVersions, dataset.DeviceSerialNumber = __version__, derivation.model


def _fill_classic(dataset: Dataset, member: Slice, series: Series) -> None:
    dataset.ImageType = ["DERIVED", "SECONDARY", *(list(dataset.get("ImageType") or [])[2:] or ["OTHER"])]
    _set(dataset, _derivation(member, series.derivation))
    _set(dataset, _distances(dataset, series))
    dataset.ImagePositionPatient = _numbers(member.position)
    dataset.ImageOrientationPatient = _numbers(member.source.axes.ravel())
    if series.finer_slices:
        _remove(dataset, "SliceLocation")
    if "RescaleSlope" in member.source.dataset or (member.slope, member.intercept) != (1, 0):
        _set(dataset, {"RescaleType": "US"} | _rescaling(dataset, member))


def _fill_enhanced(dataset: Dataset, part: Sequence[Slice], series: Series) -> None:
    shared = next(iter(dataset.get("SharedFunctionalGroupsSequence") or []), Dataset())
    sources, frames = list(dataset.PerFrameFunctionalGroupsSequence), []
    for member in part:
        frame = deepcopy(sources[member.source.index])
        measures, scaling = (_group(name, frame, shared) for name in ("PixelMeasures", "PixelValueTransformation"))
        _set(measures, _distances(measures, series))
        _set(scaling, {"RescaleType": "US"} | _rescaling(scaling, member))
        frame.PixelMeasuresSequence, frame.PixelValueTransformationSequence = [measures], [scaling]
        frame.PlanePositionSequence = [_item(ImagePositionPatient=_numbers(member.position))]
        frame.PlaneOrientationSequence = [_item(ImageOrientationPatient=_numbers(member.source.axes.ravel()))]
        frame.DerivationImageSequence = [_item(**_derivation(member, series.derivation))]
        _number_in_stack(dataset, frame, member.number + 1)
        frames.append(frame)
    own = ("PixelMeasures", "PixelValueTransformation", "PlanePosition", "PlaneOrientation", "DerivationImage")
    _remove(shared, *(f"{name}Sequence" for name in own))
    _remove(dataset, "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", *_PULSE_SEQUENCE)
    kind = ["DERIVED", "PRIMARY", *list(dataset.get("ImageType") or [])[2:3], "RESAMPLED"]
    dataset.ImageType = kind
    for holder in (shared, *frames):
        for group in holder.get("MRImageFrameTypeSequence") or []:
            group.FrameType = kind
    dataset.PerFrameFunctionalGroupsSequence, dataset.NumberOfFrames = frames, len(frames)
    dataset.SourceImageEvidenceSequence = [_evidence(part[0].source.dataset)]
    dataset.ContentQualification = "RESEARCH"


def _group(name: str, frame: Dataset, shared: Dataset) -> Dataset:
    """Return a copy of a functional group of one frame or, failing that, of all; empty if there is none."""
    holders = [holder[f"{name}Sequence"][0] for holder in (frame, shared) if holder.get(f"{name}Sequence")]
    return deepcopy(holders[0]) if holders else Dataset()


def _number_in_stack(dataset: Dataset, frame: Dataset, number: int) -> None:
    """Give a frame its place along the slices, which may be more than in the source and are in another order."""
    for content in frame.get("FrameContentSequence") or []:
        if "InStackPositionNumber" in content:
            content.InStackPositionNumber = number
        pointers = [item.get("DimensionIndexPointer") for item in dataset.get("DimensionIndexSequence") or []]
        along = [pointer is not None and keyword_for_tag(pointer) in _ALONG_SLICES for pointer in pointers]
        if "DimensionIndexValues" in content and len(np.atleast_1d(content.DimensionIndexValues)) != len(along):
            del content.DimensionIndexValues  # nothing says what they are
        if "DimensionIndexValues" in content:
            old = np.atleast_1d(content.DimensionIndexValues).tolist()
            content.DimensionIndexValues = [number if yes else o for yes, o in zip(along, old, strict=True)]


def _distances(old: Dataset, series: Series) -> dict[str, Any]:
    rows, columns, slices = series.spacing
    distances: dict[str, Any] = {"PixelSpacing": _numbers((rows, columns))}
    if series.finer_slices:
        names = ("SliceThickness", "SpacingBetweenSlices")
        distances |= {name: _numbers((slices,))[0] for name in names if old.get(name) is not None}
    return distances


def _rescaling(old: Dataset, member: Slice) -> dict[str, Any]:
    slope, intercept = _numbers((member.slope, member.intercept))
    return {"RescaleSlope": slope, "RescaleIntercept": intercept} | (
        {"RescaleType": old.RescaleType} if old.get("RescaleType") else {}
    )


def _derivation(member: Slice, derivation: Derivation) -> dict[str, Any]:
    source, values = member.source.dataset, {}
    if source.get("SOPInstanceUID"):
        reference = _item(
            ReferencedSOPClassUID=source.get("SOPClassUID") or MRImageStorage,
            ReferencedSOPInstanceUID=source.SOPInstanceUID,
            PurposeOfReferenceCodeSequence=[_code(codes.DCM.SourceImageForImageProcessingOperation)],
            SpatialLocationsPreserved="NO",
        )
        if is_enhanced(member.source):
            reference.ReferencedFrameNumber = member.source.index + 1
        values["SourceImageSequence"] = [reference]
    return values | {
        "DerivationDescription": derivation.text,
        "DerivationCodeSequence": [_code(codes.DCM.SpatialResampling)],
    }


def _evidence(source: Dataset) -> Dataset:
    instance = _item(ReferencedSOPClassUID=source.SOPClassUID, ReferencedSOPInstanceUID=source.SOPInstanceUID)
    series = _item(SeriesInstanceUID=source.SeriesInstanceUID, ReferencedSOPSequence=[instance])
    return _item(StudyInstanceUID=source.StudyInstanceUID, ReferencedSeriesSequence=[series])


def _numbers(values: Sequence[float] | NDArray[np.float64]) -> list[str]:
    """As decimal strings of at most 16 characters."""
    return [format_number_as_ds(float(value)) for value in values]


def _code(code: Code) -> Dataset:
    return _item(CodeValue=code.value, CodingSchemeDesignator=code.scheme_designator, CodeMeaning=code.meaning)


def _item(**values: Any) -> Dataset:
    dataset = Dataset()
    _set(dataset, values)
    return dataset


def _set(dataset: Dataset, values: dict[str, Any]) -> None:
    for name, value in values.items():
        setattr(dataset, name, value)


def _remove(dataset: Dataset, *names: str) -> None:
    for name in names:
        if name in dataset:
            del dataset[name]
