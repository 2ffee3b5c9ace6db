"""NIfTI files in the layouts in which they are shared: BIDS, IXI, BraTS, nnU-Net, or any folder."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from fedmr.data.foreign import is_foreign
from fedmr.data.images import Image, plausible_thickness, read_nifti
from fedmr.data.magnitude import MASK, named_kind
from fedmr.data.readers import Found, Scan, contrast_of
from fedmr.data.readers.patients import Person, identify
from fedmr.utils.errors import DataError

SUFFIXES = (".nii", ".nii.gz")
_IXI = re.compile(r"(?P<patient>IXI\d+)-(?P<hospital>[A-Za-z]+)-\d+-(?P<contrast>[A-Za-z0-9]+)(-\d+)?\.nii")
# BraTS17-20: BraTS20_Training_001_t1ce.nii.gz; from 2023: BraTS-GLI-00000-001-t1c.nii.gz, where -001 is a visit
_BRATS = re.compile(
    r"(?P<patient>BraTS[\w-]*?\d+)(-\d{3})?[_-](?P<contrast>t1ce|t1c|t1n|t1|t2w|t2f|t2|flair|seg)\.nii", re.I
)
_BRATS_CONTRAST = {"t1n": "t1", "t2f": "flair"}
_SUBJECT = re.compile(r"(?:^|_)(sub-[A-Za-z0-9]+)(?:_|$)")
# BIDS: data types that hold no anatomical volumes
_NO_ANATOMY = ("func", "dwi", "fmap", "perf", "eeg", "meg", "ieeg", "pet", "beh", "motion", "nirs", "mrs", "micr")
_CHANNEL = re.compile(r"_[0-9]{4}$")  # nnU-Net: number of the channel
_SET_FOLDERS = ("imagestr", "imagests", "imagesval")
_LABEL_FOLDERS = ("labelstr", "labelsts", "labelsval")


def is_volume(path: Path) -> bool:
    """Return whether a name is that of a NIfTI file or of a volume in another format that is read as one."""
    return is_nifti(path) or is_foreign(path)


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
        if not subject:
            return "no sub- entity"
        agent = "_ce-" in _stem(path)
        contrast = contrast_of(_stem(path).rpartition("_")[2], agent=agent)
        return Scan((path,), subject[1], contrast, evidence="sub- entity", told="suffix")

    return _find(files, describe)


def find_ixi(files: Sequence[Path], root: Path) -> Found:
    """Scans of the IXI collection: hospital (Guys, HH, IOP), patient and contrast from the file name."""

    def describe(path: Path) -> Scan | str:
        name = _IXI.match(path.name)
        if not name:
            return "not named as IXI"
        contrast = contrast_of(name["contrast"])
        return Scan((path,), name["patient"], contrast, name["hospital"], evidence="file name", told="file name")

    return _find(files, describe)


def find_brats(files: Sequence[Path], root: Path) -> Found:
    """Scans of a BraTS collection: patient and contrast from the file name; visits of a patient stay together."""

    def describe(path: Path) -> Scan | str:
        name = _BRATS.match(path.name)
        if not name:
            return "not named as BraTS"
        contrast = name["contrast"].lower()
        if contrast == "seg":
            return MASK
        contrast = contrast_of(_BRATS_CONTRAST.get(contrast, contrast))
        return Scan((path,), name["patient"], contrast, evidence="file name", told="file name")

    return _find(files, describe)


def find_nnunet(files: Sequence[Path], root: Path) -> Found:
    """Scans of nnU-Net's or the Medical Segmentation Decathlon's layout: one patient a case, labels left out."""
    channels = _channels(root)

    def describe(path: Path) -> Scan | str:
        folder = path.parent.name.lower()
        if folder in _LABEL_FOLDERS:
            return MASK
        if folder not in _SET_FOLDERS:
            return "not in imagesTr or imagesTs"
        stem = _stem(path)
        channel = _CHANNEL.search(stem)
        case = _CHANNEL.sub("", stem)
        named = contrast_of(stem)
        number = int(channel[0][1:]) if channel else 0
        contrast = named if named != "unknown" else contrast_of(channels.get(str(number), ""))
        told = "file name" if named != "unknown" else "dataset.json"
        return Scan((path,), case, contrast, evidence="case", told=told)

    return _find(files, describe)


def _channels(root: Path) -> dict[str, str]:
    """Return what dataset.json says of the channels, by number; nothing where it cannot be read."""
    try:
        held = json.loads((root / "dataset.json").read_text(encoding="utf-8"))
        channels = held.get("channel_names") or held.get("modality") or {}
        return {str(number): str(name) for number, name in channels.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def find_plain(files: Sequence[Path], root: Path) -> Found:
    """Scans of any folder: the patient by all folder and file names, see `patients.identify`.

    A scan whose patient cannot be told has a doubt.
    """
    inner = {path: path.relative_to(root) for path in files if is_volume(path)}
    images = {place for path, place in inner.items() if not _is_label(place) and not named_kind(_stem(path))}
    persons = identify({place: _stem(place) for place in images})

    def describe(path: Path) -> Scan | str:
        place = inner[path]
        if place not in images:
            return MASK
        person: Person = persons[place]
        contrast, told = contrast_of(_stem(path)), "file name"
        if contrast == "unknown":
            # a folder may be called T1; the one nearest to the file says most
            named = (contrast_of(folder) for folder in reversed(place.parts[:-1]))
            contrast, told = next((name for name in named if name != "unknown"), "unknown"), "folder"
        return Scan((path,), person.patient, contrast, evidence=person.evidence, doubt=person.doubt, told=told)

    return _find(files, describe)


def _is_label(place: Path) -> bool:
    folders = {folder.lower() for folder in place.parts[:-1]}
    return bool(folders & {*_LABEL_FOLDERS, "labels", "masks", "segmentations"})


def _find(files: Sequence[Path], describe: Callable[[Path], Scan | str]) -> Found:
    found = Found()
    for path in files:
        if not is_volume(path):
            continue
        scan = named_kind(_stem(path)) or describe(path)
        if isinstance(scan, str):
            found.left_out[scan] += 1
            found.kinds[path] = scan
        else:
            found.scans.append(scan)
    return found


def _stem(path: Path) -> str:
    return path.stem if is_foreign(path) else re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE)


def read(scan: Scan) -> Image:
    """Read one file.

    Raises:
        DataError: as `images.read_nifti`, and for a single slice.
    """
    image = read_nifti(scan.files[0])
    image = replace(image, acquired=_acquired(scan.files[0]))
    if image.voxels.ndim == 3 and 1 in image.voxels.shape:
        raise DataError(f"{scan.files[0]} has shape {image.voxels.shape}: a 2-D image. A 3-D volume is needed")
    return image


def slice_thickness(path: Path) -> float:
    """Return the slice thickness, mm, of the JSON file that BIDS puts beside a scan; 0.0 where it says nothing of use.

    NIfTI itself states only the distance of slices.
    """
    try:
        held = json.loads((path.parent / f"{_stem(path)}.json").read_text(encoding="utf-8"))
        return plausible_thickness(float(held["SliceThickness"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return 0.0


def _acquired(path: Path) -> tuple[float, float, float]:
    """Return the share of the voxels along each axis that were acquired, by the JSON file that BIDS puts by a scan.

    dcm2niix and BIDS state the phase-encoding axis and its lines before and after interpolation.
    """
    shares = [1.0, 1.0, 1.0]
    try:
        held = json.loads((path.parent / f"{_stem(path)}.json").read_text(encoding="utf-8"))
        axis = "ijk".index(str(held.get("PhaseEncodingDirection") or held["PhaseEncodingAxis"])[0])
        share = float(held["AcquisitionMatrixPE"]) / float(held["ReconMatrixPE"])
        shares[axis] = min(share, 1.0) if share > 0 else 1.0
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, ZeroDivisionError):
        pass  # none, or one that does not say
    return shares[0], shares[1], shares[2]
