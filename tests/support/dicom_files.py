"""MR series as DICOM files, written by pydicom with the header of a real export, identifiers included.

Where a pixel lies is computed here from the standard's own equation (PS3.3 C.7.6.2.1-1), so that readers are checked
against it and not against themselves.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

from fedmr.data.images import Image, check
from fedmr.data.readers import Found, dicom

PATIENT_NAME = "Doe^Jane"
AXIAL, SAGITTAL, CORONAL = (1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1), (1, 0, 0, 0, 0, -1)
_DATASET_TAGS = {
    "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"],
    "StudyDate": "20240131",
    "StudyTime": "101112",
    "AccessionNumber": "ACC4711",
    "Modality": "MR",
    "Manufacturer": "SIEMENS",
    "InstitutionName": "St. Elsewhere",
    "InstitutionAddress": "1 Main Street",
    "ReferringPhysicianName": "House^Gregory",
    "OperatorsName": "Ratched^Mildred",
    "StationName": "MR1",
    "StudyDescription": "head of Jane Doe",
    "SeriesDescription": "T2 tse tra, Doe",
    "ProtocolName": "t2_tse_tra",
    "PatientName": PATIENT_NAME,
    "PatientID": "4711",
    "PatientBirthDate": "19700101",
    "PatientSex": "F",
    "PatientAge": "054Y",
    "PatientAddress": "2 Main Street",
    "OtherPatientIDs": "0815",
    "PatientComments": "Jane Doe is claustrophobic",
    "StudyID": "1",
    "SeriesNumber": 3,
    "BodyPartExamined": "HEAD",
    "ScanningSequence": "SE",
    "SequenceVariant": "SK",
    "RepetitionTime": 5000,
    "EchoTime": 100,
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
    "BitsAllocated": 16,
    "BitsStored": 16,
    "HighBit": 15,
    "PixelRepresentation": 0,
}


@dataclass
class Series:
    """A stack of slices through `field_at`.

    Attributes:
        orientation: ImageOrientationPatient.
        shape: rows, columns, slices.
        spacing: distance of rows, of columns and of slices, mm.
        origin: centre of the first pixel, left-posterior-superior mm.
        scaling: rescale slope and intercept of each slice, in turn.
        tags: more elements, or None to leave one out.
    """

    orientation: Sequence[float] = AXIAL
    shape: tuple[int, int, int] = (20, 18, 5)
    spacing: tuple[float, float, float] = (1.5, 1.25, 4.0)
    origin: tuple[float, float, float] = (-12.0, -9.0, 30.0)
    scaling: Sequence[tuple[float, float]] = ((1, 0),)
    tags: dict[str, Any] = field(default_factory=dict)
    uid: str = field(default_factory=generate_uid)

    def position(self, number: int) -> np.ndarray:
        """ImagePositionPatient of slice `number`."""
        row, column = np.reshape(self.orientation, (2, 3))
        return np.asarray(self.origin) + number * self.spacing[2] * np.cross(row, column)

    def pixels(self, number: int) -> np.ndarray:
        """(rows, columns) uint16 as stored."""
        row, column = np.reshape(self.orientation, (2, 3))
        i, j = np.meshgrid(np.arange(self.shape[0]), np.arange(self.shape[1]), indexing="ij")
        along_row, along_column = j[..., None] * self.spacing[1] * row, i[..., None] * self.spacing[0] * column
        slope, intercept = self.scaling[number % len(self.scaling)]
        world = self.position(number) + along_row + along_column
        return np.round((field_at(world) - intercept) / slope).astype(np.uint16)


def field_at(world: np.ndarray) -> np.ndarray:
    """Signal at (..., 3) left-posterior-superior mm, 100 to 2100, without any symmetry."""
    x, y, z = np.moveaxis(world, -1, 0)
    return 1100 + 400 * np.sin(x / 7 + 0.3) + 300 * np.cos(y / 9 - 0.5) + 300 * np.sin(z / 11 + x / 23)


def classic(series: Series, number: int) -> Dataset:
    """One slice as an MR image object of its own."""
    dataset = _dataset(series, MRImageStorage)
    slope, intercept = series.scaling[number % len(series.scaling)]
    own = {
        "InstanceNumber": number + 1,
        "ImagePositionPatient": series.position(number).tolist(),
        "ImageOrientationPatient": list(series.orientation),
        "PixelSpacing": list(series.spacing[:2]),
        "SliceThickness": series.spacing[2],
        **({} if (slope, intercept) == (1, 0) else {"RescaleSlope": slope, "RescaleIntercept": intercept}),
    }
    return _filled(dataset, {**own, **series.tags}, series.pixels(number))


def enhanced(series: Series, order: Sequence[int] | None = None) -> Dataset:
    """All slices as one enhanced multi-frame object, frames in the given order of slices."""
    order = range(series.shape[2]) if order is None else order
    dataset = _dataset(series, EnhancedMRImageStorage)
    frames = []
    for number in order:
        slope, intercept = series.scaling[number % len(series.scaling)]
        frames.append(
            _groups(
                PlanePositionSequence={"ImagePositionPatient": series.position(number).tolist()},
                PixelValueTransformationSequence={
                    "RescaleSlope": slope,
                    "RescaleIntercept": intercept,
                    "RescaleType": "US",
                },
                FrameContentSequence={"StackID": "1", "InStackPositionNumber": number + 1},
            )
        )
    shared = _groups(
        PlaneOrientationSequence={"ImageOrientationPatient": list(series.orientation)},
        PixelMeasuresSequence={"PixelSpacing": list(series.spacing[:2]), "SliceThickness": series.spacing[2]},
    )
    own = {
        "ImageType": ["ORIGINAL", "PRIMARY", "T2", "NONE"],
        "ComplexImageComponent": "MAGNITUDE",
        "AcquisitionContrast": "T2",
        "NumberOfFrames": len(frames),
        "PerFrameFunctionalGroupsSequence": frames,
        "SharedFunctionalGroupsSequence": [shared],
    }
    return _filled(dataset, {**own, **series.tags}, np.stack([series.pixels(number) for number in order]))


def _groups(**groups: dict[str, Any]) -> Dataset:
    macros = Dataset()
    for name, values in groups.items():
        item = Dataset()
        for tag, value in values.items():
            setattr(item, tag, value)
        setattr(macros, name, [item])
    return macros


def _dataset(series: Series, kind: str) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = kind, generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = _study(series), series.uid
    for tag, value in _DATASET_TAGS.items():
        setattr(dataset, tag, value)
    return dataset


def _study(series: Series) -> str:
    """A study for each PatientID."""
    return generate_uid(entropy_srcs=["study", str(series.tags.get("PatientID", "4711"))])


def _filled(dataset: Dataset, tags: dict[str, Any], pixels: np.ndarray) -> Dataset:
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.PixelData = pixels.astype("<u2").tobytes()
    for tag, value in tags.items():
        if value is None:
            del dataset[tag]
        else:
            setattr(dataset, tag, value)
    return dataset


def save(dataset: Dataset, path: Path) -> Path:
    """Write a DICOM file with preamble."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_classic(folder: Path, series: Series | None = None) -> list[Path]:
    """Write a series, one file per slice."""
    series = series or Series()
    return [save(classic(series, n), folder / f"IM{n:04d}.dcm") for n in range(series.shape[2])]


def no_image(kind: str, modality: str) -> Dataset:
    """A DICOM object without pixels, such as a report."""
    dataset = _dataset(Series(), kind)
    dataset.Modality = modality
    for tag in ("PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit", "ImageType"):
        del dataset[tag]
    return dataset


def ct(series: Series, number: int) -> Dataset:
    """One CT slice."""
    dataset = classic(series, number)
    dataset.SOPClassUID, dataset.Modality = CTImageStorage, "CT"
    return dataset


def find(folder: Path) -> Found:
    """What the reader finds below a folder."""
    return dicom.find([path for path in folder.rglob("*") if path.is_file()], folder)


def read(folder: Path) -> Image:
    """The only series of a folder."""
    (scan,) = find(folder).scans
    return dicom.read(scan)


def world(image: Image) -> np.ndarray:
    """(X, Y, Z, 3) left-posterior-superior mm of every voxel."""
    indices = np.stack(np.meshgrid(*map(np.arange, image.voxels.shape), indexing="ij"), axis=-1)
    return (indices @ image.affine[:3, :3].T + image.affine[:3, 3]) * [-1, -1, 1]


def assert_shows_the_field(image: Image, tolerance: float = 0.51) -> None:
    """Every voxel is `field_at` its place, to rounding, and the image has no fault."""
    assert np.abs(image.voxels - field_at(world(image))).max() < tolerance
    assert check(image, "image") == []
