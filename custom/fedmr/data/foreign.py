"""Volumes in other files, as NIfTI images in memory: Analyze and NIfTI pairs, FreeSurfer, NRRD, MetaImage."""

import glob
import re
import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import psutil

from fedmr.utils.errors import DataError

_NIBABEL = (".hdr", ".mgz", ".mgh")
_ITK = (".nrrd", ".nhdr", ".mha", ".mhd")
FOREIGN = (*_NIBABEL, *_ITK)
_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK's axes point left, posterior, superior
_DATA_FILE = re.compile(rb"^\s*(?:ElementDataFile\s*=|data ?file\s*:)\s*(.*?)\s*$", re.I | re.M)
_LONGEST_HEADER = 2**16  # bytes


def is_foreign(path: Path) -> bool:
    """Return whether a name is that of a volume in another format than NIfTI."""
    return path.suffix.lower() in FOREIGN


def load_foreign(path: Path) -> Any:
    """Return a volume as nibabel's NIfTI image.

    Raises:
        DataError: larger than memory, in colour, or with voxels in a file elsewhere.
        Exception: whatever nibabel and SimpleITK raise for a damaged file.
    """
    if path.suffix.lower() in _ITK:
        return _by_itk(path)
    voxels = next((p for p in path.parent.glob(f"{glob.escape(path.stem)}.*") if p.suffix.lower() == ".img"), None)
    if path.suffix.lower() != ".hdr" or voxels is None or (path.suffix, voxels.suffix) == (".hdr", ".img"):
        return _by_nibabel(path)
    # nibabel looks for the voxels under a name in the same case
    with tempfile.TemporaryDirectory() as folder:
        for held, suffix in ((path, ".hdr"), (voxels, ".img")):
            (Path(folder) / f"pair{suffix}").symlink_to(held.resolve())
        return _by_nibabel(Path(folder) / "pair.hdr")


def _by_nibabel(path: Path) -> Any:
    stored = nib.load(path)
    _check_size(path, stored.shape, stored.get_data_dtype())
    if isinstance(stored, nib.Nifti1Pair):
        voxels, header = np.asanyarray(stored.dataobj), stored.header.copy()
        header.set_data_dtype(voxels.dtype)  # values are scaled by now
        return nib.Nifti1Image(voxels, stored.affine, header)
    image = nib.Nifti1Image(np.asanyarray(stored.dataobj), stored.affine)
    image.header.set_xyzt_units("mm")
    if isinstance(stored, nib.AnalyzeImage):
        image.set_sform(stored.affine, 0)  # the format states no orientation
        image.set_qform(stored.affine, 0)
    return image


def _by_itk(path: Path) -> Any:
    import SimpleITK  # takes a third of a second, which most runs need not spend

    _check_own(path)
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    if path.suffix != path.suffix.lower():  # by which SimpleITK knows the kind
        reader.SetImageIO("MetaImageIO" if path.suffix.lower() in (".mha", ".mhd") else "NrrdImageIO")
    reader.ReadImageInformation()
    if reader.GetNumberOfComponents() > 1:
        raise DataError(f"{path} has {reader.GetNumberOfComponents()} values per voxel; give a grey-value image")
    _check_size(path, reader.GetSize(), np.dtype(np.float64))
    read = reader.Execute()
    voxels = SimpleITK.GetArrayFromImage(read).T
    affine, size = np.eye(4), min(read.GetDimension(), 3)
    full = np.array(read.GetDirection()).reshape(read.GetDimension(), -1)[:size, :size]
    affine[:size, :size] = full * np.array(read.GetSpacing()[:size])
    affine[:size, 3] = read.GetOrigin()[:size]
    if voxels.dtype.kind in "iu" and voxels.dtype.itemsize == 8:
        voxels = voxels.astype(np.float64)
    image = nib.Nifti1Image(voxels, _TO_RAS @ affine)
    image.set_qform(_TO_RAS @ affine, 1)
    image.set_sform(_TO_RAS @ affine, 1)
    image.header.set_xyzt_units("mm")
    return image


def _check_size(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if np.prod(shape, dtype=np.float64) * dtype.itemsize > psutil.virtual_memory().available // 2:
        raise DataError(f"{path} says it has {tuple(shape)} voxels, too many for the memory here. Split or repair it")


def _check_own(path: Path) -> None:
    """Refuse a header whose voxels lie outside its folder, or in many files."""
    with path.open("rb") as handle:
        header = handle.read(_LONGEST_HEADER)
    for name in _DATA_FILE.findall(header):
        text = name.decode(errors="replace")
        if text.upper() == "LOCAL":
            continue
        if Path(text).name != text or re.search(r"[%\s]|^LIST$", text):
            raise DataError(f"{path} takes its voxels from {text!r}, which is not followed; give a file of its own")
        if (path.parent / text).is_symlink():
            raise DataError(f"{path} takes its voxels from a symbolic link, which is not followed; copy the data")
