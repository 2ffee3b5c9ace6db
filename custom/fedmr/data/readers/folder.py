"""Contents of a hospital's folder, and the reader that it needs."""

import importlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fedmr.data.images import Image
from fedmr.data.readers import EVERY, Found, Scan, nifti
from fedmr.utils.errors import DataError

DATALIST = "datalist.json"
PRIVATE = "private"
VOLUMES = "volumes"

# layout of a folder to the module that reads its scans
FORMATS = {
    "bids": "nifti",
    "nifti": "nifti",
    "ixi": "nifti",
    "brats": "nifti",
    "nnunet": "nifti",
    "fastmri": "fastmri",
    "dicom": "dicom",
}
_NIFTI_LAYOUTS: dict[str, Callable[[Sequence[Path], Path], Found]] = {
    "ixi": nifti.find_ixi,
    "brats": nifti.find_brats,
    "bids": nifti.find_bids,
    "nnunet": nifti.find_nnunet,
    "nifti": nifti.find_plain,
}
_NAMING_DOES_NOT_FIT = ("not named as IXI", "not named as BraTS", "no sub- entity", "not in imagesTr or imagesTs")
# files that hold the voxels of a header in another file, by suffix, with the suffixes of the header
_VOXELS = {".img": (".hdr", ".HDR"), **dict.fromkeys((".raw", ".zraw"), (".mhd", ".nhdr"))}
_VOXELS_OF = "voxels of a header beside them"
_HDF5 = (".h5", ".hdf5")
# formats of images that are known but not read, by suffix, with the remedy
_NOT_READ = {
    ".img": "the voxels of an Analyze or NIfTI pair, whose .hdr file is missing; copy that as well",
    **dict.fromkeys((".par", ".rec"), "a Philips PAR/REC file; convert it with `dcm2niix`"),
    **dict.fromkeys((".head", ".brik"), "an AFNI file; convert it with `3dAFNItoNIFTI`"),
    ".mnc": "a MINC file; convert it with `mnc2nii`",
    **dict.fromkeys((".gz", ".bz2", ".xz", ".zst"), "packed; unpack it"),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".7z", ".rar"), "an archive; unpack it"),
}


def find_scans(
    source: Path,
    layout: str = "auto",
    *,
    masked: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Found, str]:
    """Find the scans below a folder.

    Args:
        source: the hospital's folder, or one file.
        layout: a name in FORMATS, or "auto".
        masked: whether raw k-space with a mask, and a DICOM image that was reformatted, are scans, as for inference.
        progress: receives the numbers of files looked at and in all, as long as that takes.

    Returns:
        what was found, and the layout.

    Raises:
        DataError: no such folder or layout, no scan in it, or several kinds of files.
    """
    if layout != "auto" and layout not in FORMATS:
        raise DataError(f"format {layout!r} is unknown; known are auto, {', '.join(FORMATS)}")
    if not source.exists():
        raise DataError(f"{source} does not exist; give the folder that holds the scans")
    listing = Found()
    files = _files(source, listing)
    root = source if source.is_dir() else source.parent
    kinds = {}
    for number, path in enumerate(files):
        if number % EVERY == EVERY - 1:
            progress(number, len(files))
        kinds[path] = _kind(path)
    if layout == "auto":
        layout = _detect(kinds, root, source)
    wanted = [path for path in files if kinds[path] in (FORMATS[layout], "" if layout == "dicom" else None)]
    find = _finder(layout)
    options: dict[str, Any] = {"dicom": {"progress": progress, "reformatted": masked}, "fastmri": {"masked": masked}}
    found = find(wanted, root, **options.get(FORMATS[layout], {}))
    foreign = [
        path for path in files if not kinds[path] and path.suffix.lower() in _NOT_READ and path not in set(wanted)
    ]
    taken = {*wanted, *foreign}
    left_out = Counter(kinds[path] or "no image" for path in files if path not in taken)
    found.problems[:0] = listing.problems
    found.problems += [f"{path} is {_NOT_READ[path.suffix.lower()]}" for path in foreign]
    found.left_out += listing.left_out + left_out
    if not found.scans and not found.problems:
        raise DataError(_nothing_found(source, len(files), layout, found.left_out))
    return found, layout


def read_scan(scan: Scan, layout: str) -> Image:
    """Read a scan of `find_scans`.

    Raises:
        DataError: it cannot be read, whatever the reason, so that no file ends a run over many.
        MemoryError: it is too large.
    """
    try:
        image: Image = importlib.import_module(f"fedmr.data.readers.{FORMATS[layout]}").read(scan)
    except (DataError, MemoryError):
        raise
    except Exception as error:
        raise DataError(
            f"{scan.files[0]} cannot be read ({type(error).__name__}: {error}); it is damaged or of an unknown kind. "
            "Copy it again, or leave it out"
        ) from error
    return image


def _finder(layout: str) -> Callable[..., Found]:
    if layout in _NIFTI_LAYOUTS:
        return _NIFTI_LAYOUTS[layout]
    find: Callable[..., Found] = importlib.import_module(f"fedmr.data.readers.{FORMATS[layout]}").find
    return find


def _files(source: Path, listing: Found) -> list[Path]:
    """Files below `source` in a fixed order; links out of it are problems, hidden and prepared files are left out."""
    if source.is_file():
        return [source]
    inside, files = source.resolve(), []
    for folder, folders, names in os.walk(source, onerror=lambda error: listing.problems.append(_unreadable(error))):
        here = Path(folder)
        prepared = {VOLUMES, PRIVATE} if (here / PRIVATE).is_dir() and (here / DATALIST).is_file() else set()
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in prepared)
        for name in (*(f for f in folders if (here / f).is_symlink()), *sorted(names)):
            path = here / name
            if name.startswith("."):
                listing.left_out["hidden"] += 1
            elif path.is_symlink() and not path.resolve().is_relative_to(inside):
                listing.problems.append(f"{path} is a symbolic link out of {source}; copy the data, or give its folder")
            elif path.is_file():
                files.append(path)
            elif not path.is_dir():
                listing.problems.append(f"{path} is a symbolic link to nothing; copy its data again")
    return files


def _unreadable(error: OSError) -> str:
    return f"{error.filename} cannot be listed ({error.strerror}); give this user the right to read it"


def _kind(path: Path) -> str:
    """The reader that a file is for, "" if none; DICOM files need no suffix and are known by their preamble."""
    suffix = path.suffix.lower()
    if nifti.is_volume(path):
        return "nifti"
    if suffix in _VOXELS and any(path.with_suffix(header).is_file() for header in _VOXELS[suffix]):
        return _VOXELS_OF
    if path.suffix.lower() in _HDF5:
        return "fastmri"
    if path.suffix.lower() in (".dcm", ".ima"):
        return "dicom"
    try:
        with path.open("rb") as handle:
            return "dicom" if handle.read(132)[128:] == b"DICM" else ""
    except OSError:
        return ""


def _detect(kinds: dict[Path, str], root: Path, source: Path) -> str:
    counts = Counter(kind for kind in kinds.values() if kind and kind != _VOXELS_OF)
    if len(counts) > 1:
        held = " and ".join(f"{number} {kind} files" for kind, number in sorted(counts.items()))
        raise DataError(f"{source} holds {held}; choose one kind with --format")
    if not counts:
        named = [f"{path} is {_NOT_READ[path.suffix.lower()]}" for path in kinds if path.suffix.lower() in _NOT_READ]
        if named:
            raise DataError("\n".join([f"{source} holds no scan of a format that is read", *named]))
        raise DataError(_nothing_found(source, len(kinds), "auto", Counter()))
    kind = next(iter(counts))
    if kind != "nifti":
        return kind
    files = [path for path, kind in kinds.items() if kind]
    for layout, find in _NIFTI_LAYOUTS.items():
        found = find(files, root)
        if found.scans and not any(found.left_out[reason] for reason in _NAMING_DOES_NOT_FIT):
            return layout
    return "nifti"


def _nothing_found(source: Path, number: int, layout: str, left_out: Counter[str]) -> str:
    wanted = "NIfTI (.nii, .nii.gz), DICOM or fastMRI (.h5)" if layout == "auto" else f"format {layout}"
    reasons = ", ".join(f"{n} {reason}" for reason, n in left_out.items())
    return f"{source} holds no scan of {wanted}; {number} files were looked at{f' ({reasons})' if reasons else ''}"
