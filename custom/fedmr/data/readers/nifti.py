"""NIfTI files in the layouts in which they are shared: BIDS, IXI, BraTS, or any folder."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from fedmr.data.images import Image, read_nifti
from fedmr.data.readers import Found, Scan, contrast_of
from fedmr.utils.errors import DataError

SUFFIXES = (".nii", ".nii.gz")
_IXI = re.compile(r"(?P<patient>IXI\d+)-(?P<hospital>[A-Za-z]+)-\d+-(?P<contrast>[A-Za-z0-9]+)(-\d+)?\.nii")
# BraTS17-20: BraTS20_Training_001_t1ce.nii.gz; from 2023: BraTS-GLI-00000-001-t1c.nii.gz, where -001 is a visit
_BRATS = re.compile(
    r"(?P<patient>BraTS[\w-]*?\d+)(-\d{3})?[_-](?P<contrast>t1ce|t1c|t1n|t1|t2w|t2f|t2|flair|seg)\.nii", re.I
)
_BRATS_CONTRAST = {"t1n": "t1", "t2f": "flair"}
_SUBJECT = re.compile(r"(?:^|_)(sub-[A-Za-z0-9]+)(?:_|$)")
# BIDS: data types that hold no anatomical volumes, and suffixes that are made from images rather than acquired
_NO_ANATOMY = ("func", "dwi", "fmap", "perf", "eeg", "meg", "ieeg", "pet", "beh", "motion", "nirs", "mrs", "micr")
_DERIVED = re.compile(r"(?:^|[_-])(mask|dseg|probseg|seg|label|labels|defacemask)$")


def is_nifti(path: Path) -> bool:
    """Whether a name is that of a NIfTI file."""
    return path.name.lower().endswith(SUFFIXES)


def find_bids(files: Sequence[Path], root: Path) -> Found:
    """Scans of a BIDS data set: patient from the `sub-` entity, contrast from the suffix, anatomy only."""

    def describe(path: Path) -> Scan | str:
        inner = path.relative_to(root).parts[:-1]
        for folder in ("derivatives", "sourcedata"):
            if folder in inner:
                return folder
        if inner and inner[-1] in _NO_ANATOMY:
            return inner[-1]
        subject = _SUBJECT.search(_stem(path))
        return Scan((path,), subject[1], contrast_of(_stem(path).rpartition("_")[2])) if subject else "no sub- entity"

    return _find(files, describe)


def find_ixi(files: Sequence[Path], root: Path) -> Found:
    """Scans of the IXI collection: hospital (Guys, HH, IOP), patient and contrast from the file name."""

    def describe(path: Path) -> Scan | str:
        name = _IXI.match(path.name)
        if not name:
            return "not named as IXI"
        return Scan((path,), name["patient"], contrast_of(name["contrast"]), name["hospital"])

    return _find(files, describe)


def find_brats(files: Sequence[Path], root: Path) -> Found:
    """Scans of a BraTS collection: patient and contrast from the file name; visits of a patient stay together."""

    def describe(path: Path) -> Scan | str:
        name = _BRATS.match(path.name)
        if not name:
            return "not named as BraTS"
        contrast = name["contrast"].lower()
        if contrast == "seg":
            return "segmentation"
        return Scan((path,), name["patient"], contrast_of(_BRATS_CONTRAST.get(contrast, contrast)))

    return _find(files, describe)


def find_plain(files: Sequence[Path], root: Path) -> Found:
    """Scans of any folder: the patient is the first folder below the source.

    In a flat folder it is the file name up to its first underscore, which may join two patients, never split one.
    """

    def describe(path: Path) -> Scan | str:
        inner = path.relative_to(root).parts
        patient = inner[0] if len(inner) > 1 else _stem(path).partition("_")[0]
        return Scan((path,), patient, contrast_of(_stem(path)))

    return _find(files, describe)


def _find(files: Sequence[Path], describe: Callable[[Path], Scan | str]) -> Found:
    found = Found()
    for path in files:
        if not is_nifti(path):
            continue
        scan = "mask or segmentation" if _DERIVED.search(_stem(path).lower()) else describe(path)
        if isinstance(scan, str):
            found.left_out[scan] += 1
        else:
            found.scans.append(scan)
    return found


def _stem(path: Path) -> str:
    return re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE)


def read(scan: Scan) -> Image:
    """Read one file.

    Raises:
        DataError: as `images.read_nifti`, and for a single slice.
    """
    image = read_nifti(scan.files[0])
    if image.voxels.ndim == 3 and 1 in image.voxels.shape:
        raise DataError(f"{scan.files[0]} has shape {image.voxels.shape}: a 2-D image. A 3-D volume is needed")
    return image
