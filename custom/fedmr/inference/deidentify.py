"""A DICOM result without its person: only elements that describe the image stay, everything else goes.

The list is of what may stay, not of what must go, so that an element nobody thought of cannot name anybody. It keeps
less than the Basic Application Level Confidentiality Profile (PS3.15 annex E) allows. Pixels are not changed.
"""

import secrets
from collections.abc import Sequence
from copy import deepcopy

from pydicom import DataElement, Dataset
from pydicom.uid import generate_uid

from fedmr import __version__
from fedmr.data.readers.dicom_stack import Frame
from fedmr.utils.errors import DataError

_SALT = secrets.token_hex(16)  # one for a run, so that its results of one study stay together and lead nowhere
_GROUPS = (0x0018, 0x0020, 0x0028, 0x5200, 0x7FE0)  # acquisition, place, image, functional groups, pixels
_NUMBERS = ("AT", "DS", "FD", "FL", "IS", "OB", "OD", "OF", "OW", "SL", "SS", "SV", "UL", "US", "UV")
# what may stay besides: coded words, and texts that the writer of the result made
_STAYS = {
    *("SOPClassUID", "Modality", "ImageType", "FrameType", "PixelPresentation", "VolumetricProperties", "CodeValue"),
    *("VolumeBasedCalculationTechnique", "ComplexImageComponent", "AcquisitionContrast", "BodyPartExamined"),
    *("ScanningSequence", "SequenceVariant", "ScanOptions", "MRAcquisitionType", "InPlanePhaseEncodingDirection"),
    *("PatientPosition", "PhotometricInterpretation", "RescaleType", "LossyImageCompression", "BurnedInAnnotation"),
    *("RecognizableVisualFeatures", "ContentQualification", "PresentationLUTShape", "Laterality", "FrameLaterality"),
    *("Manufacturer", "ManufacturerModelName", "SoftwareVersions", "DeviceSerialNumber", "DerivationDescription"),
    *("DerivationCodeSequence", "DerivationImageSequence", "CodingSchemeDesignator", "CodeMeaning"),
    *("MRImageFrameTypeSequence", "DimensionIndexSequence", "DimensionOrganizationSequence", "FrameAcquisitionNumber"),
}
_RENEWED = ("StudyInstanceUID", "FrameOfReferenceUID", "DimensionOrganizationUID")
_OWN = ("SOPInstanceUID", "SeriesInstanceUID")  # new and random in every result
_EMPTY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"),
    *("AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator", "Laterality"),
)


def check_pixels(frames: Sequence[Frame]) -> None:
    """Refuse images whose header says that text is burned into the pixels, which no header can undo.

    Raises:
        DataError: naming the file.
    """
    for frame in frames:
        if str(frame.dataset.get("BurnedInAnnotation", "")).upper() == "YES":
            raise DataError(
                f"{frame.path} has text burned into its pixels (BurnedInAnnotation), which may name the patient. "
                "Leave out --deidentify, or give images without it"
            )


def deidentified(dataset: Dataset) -> Dataset:
    """Return a result of `dicom_header.derived_object` without person, dates, places and free text."""
    clean = _kept(dataset)
    clean.file_meta, clean.preamble = dataset.file_meta, dataset.preamble
    for name in _OWN:
        setattr(clean, name, dataset[name].value)
    for name in _EMPTY:
        if name not in clean:
            setattr(clean, name, "")
    clean.SeriesDescription = "super-resolved"
    clean.PatientIdentityRemoved = "YES"
    clean.DeidentificationMethod = f"FedMR {__version__}: image elements only; pixels unchanged"
    return clean


def _kept(dataset: Dataset) -> Dataset:
    clean = Dataset()
    for element in dataset:
        if element.keyword in _RENEWED:
            clean.add_new(element.tag, "UI", generate_uid(entropy_srcs=[_SALT, str(element.value)]))
        elif element.VR == "SQ" and (element.tag.group in _GROUPS or element.keyword in _STAYS):
            items = [item for item in map(_kept, element.value or []) if len(item)]
            if items:
                clean.add_new(element.tag, "SQ", items)
        elif _stays(element):
            clean.add(deepcopy(element))
    return clean


def _stays(element: DataElement) -> bool:
    if element.tag.is_private or element.VR == "SQ":
        return False
    return element.keyword in _STAYS or (element.tag.group in _GROUPS and element.VR in _NUMBERS)
