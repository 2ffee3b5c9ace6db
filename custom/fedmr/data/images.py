"""One scan as voxels with a geometry: read from NIfTI, checked, turned, written. Needs neither torch nor FLARE."""

import gzip
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import psutil
from nibabel.filebasedimages import ImageFileError
from nibabel.openers import ImageOpener
from nibabel.orientations import OrientationError, inv_ornt_aff
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from fedmr.data.foreign import is_foreign, load_foreign
from fedmr.data.magnitude import content_kind
from fedmr.utils.errors import DataError
from fedmr.utils.files import write_atomically

MIN_SIDE = 16
THICKEST = 100.0  # mm: no slice of a head or body scan is thicker
_SHEAR = 1e-3  # largest cosine between two voxel axes that is still rounding
# slices are thinner than 0.7 of the voxels in them only where those were made coarse; scanners go down to 0.85
_THIN = 0.7
_NEGATIVE = 0.01  # share of the signal that may be negative: resampling makes a little
_HALF_INT16 = 2**14


@dataclass(frozen=True)
class Image:
    """One scan.

    Attributes:
        voxels: (X, Y, Z) in the file's units and, where it has no scaling, the file's type.
        affine: (4, 4) float64, from voxel indices to right-anterior-superior millimetres.
        kspace: raw measurement (S, C, ky, kx) complex64, centred, where there is one.
        notes: what a reader found remarkable but usable, for people.
        acquired: share of the voxels along X, Y and Z that the header says were acquired, 1 where it says nothing.
        across: axis across the slices, where the header states it.
        thickness: of the slices in mm as the header says, not their distance; 0 where it says nothing.
    """

    voxels: NDArray[Any]
    affine: NDArray[np.float64]
    kspace: NDArray[np.complex64] | None = None
    notes: tuple[str, ...] = ()
    acquired: tuple[float, float, float] = (1.0, 1.0, 1.0)
    across: int | None = None
    thickness: float = 0.0

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def slice_axis(self) -> int:
        """Axis across the acquisition plane.

        Of a cubic voxel this is the last axis. Else it is the one that the header states, or the one along which two
        equal voxel sizes are far larger than the third, as in a scan of low resolution in its plane, or the one with
        the largest voxel size, the last of equals.
        """
        sizes = [round(size, 3) for size in self.spacing]
        if self.across is not None and len(set(sizes)) > 1:
            return self.across
        for axis in range(3):
            one, other = (size for place, size in enumerate(sizes) if place != axis)
            if one == other and sizes[axis] <= _THIN * one:
                return axis
        return max(range(3), key=lambda axis: (sizes[axis], axis))


def read_nifti(path: Path) -> Image:
    """Read a NIfTI file, or a volume in another format of `foreign`, as it is stored.

    Args:
        path: .nii, .nii.gz, or a suffix of `foreign.FOREIGN`.

    Raises:
        DataError: missing, truncated, no NIfTI, larger than memory, 2-D, a series, or with impossible voxel sizes.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist")
    try:
        stored = load_nifti(path)
        _check_header(path, stored)
        voxels = np.asanyarray(stored.dataobj)
    except DataError:
        raise
    except (
        *(OSError, EOFError, ValueError, TypeError, zlib.error),
        *(ImageFileError, OrientationError, WrapStructError, HeaderDataError, RuntimeError),
    ) as error:
        reason = str(error).strip().rpartition("\n")[2] or type(error).__name__
        raise DataError(
            f"{path} cannot be read ({reason}); it is truncated or no {_kind(path)} file. Copy it again"
        ) from None
    while voxels.ndim > 3 and voxels.shape[-1] == 1:
        voxels = voxels[..., 0]
    affine, placed = _scanner_affine(stored)
    across = _stated_slice_axis(stored)
    if placed:
        return Image(voxels, affine, notes=(f"{path.name}: {placed}",), across=across)
    code = int(stored.header.get("sform_code", 1)) or int(stored.header.get("qform_code", 1))
    notes = () if code else (f"{path.name} states no orientation; its axes are taken as left-anterior-superior",)
    return Image(voxels, np.asarray(stored.affine, dtype=np.float64), notes=notes, across=across)


def _stated_slice_axis(stored: Any) -> int | None:
    """Return the axis that NIfTI's dim_info calls that of the slices, as dcm2niix and `save_nifti` write it."""
    try:
        axis = stored.header.get_dim_info()[2]
    except (AttributeError, HeaderDataError, ValueError):
        return None
    return axis if axis in (0, 1, 2) else None


def _scanner_affine(stored: Any) -> tuple[NDArray[np.float64], str]:
    """Return the affine of the scanner, with a note where it is not the one that nibabel takes.

    FSL, SPM and FreeSurfer write the affine to a standard space as sform (codes 3 to 5) and leave the scanner's as
    qform (codes 1 and 2); voxel sizes and right angles are those of the latter. So are they beside a sheared sform.
    """
    header = stored.header
    standard = int(header.get("sform_code", 0)) in (3, 4, 5)
    if (standard or _shear(stored.affine) > _SHEAR) and int(header.get("qform_code", 0)) in (1, 2):
        try:
            affine = header.get_qform()
        except (ValueError, HeaderDataError):
            return stored.affine, ""
        if not np.allclose(affine, stored.affine, atol=1e-3):
            what = "that of a standard space" if standard else "sheared"
            return np.asarray(affine, dtype=np.float64), f"its sform is {what}; the qform is used"
    return stored.affine, ""


def _shear(affine: NDArray[np.float64]) -> float:
    """Return the largest cosine between two axes of an affine (4, 4), 0 of one that maps an axis to nothing."""
    axes = affine[:3, :3]
    sizes = np.linalg.norm(axes, axis=0)
    return float(np.abs((axes / sizes).T @ (axes / sizes) - np.eye(3)).max()) if (sizes > 0).all() else 0.0


def _kind(path: Path) -> str:
    return path.suffix if is_foreign(path) else "NIfTI"


def load_nifti(path: Path) -> Any:
    """Return a NIfTI file as nibabel's image, the suffix in upper or lower case, or a volume of another format.

    nibabel unpacks ".gz" and takes ".GZ" for the packed bytes; such a file is unpacked into memory.
    """
    if is_foreign(path):
        return load_foreign(path)
    if path.suffix == path.suffix.lower() or path.suffix.lower() != ".gz":
        return nib.load(path)
    with gzip.open(path) as handle:
        content = handle.read()
    # NIfTI-2 begins with the size of its own header, 540
    kind = nib.Nifti2Image if content[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c") else nib.Nifti1Image
    return kind.from_bytes(content)


def _check_header(path: Path, stored: Any) -> None:
    """Check what must hold before voxels are touched: a header may claim more than the machine has."""
    shape, dtype = stored.shape, stored.get_data_dtype()
    size = int(np.prod(shape, dtype=np.float64)) * dtype.itemsize
    if path.suffix.lower() != ".gz" and not is_foreign(path) and size > path.stat().st_size:
        raise DataError(f"{path} is truncated: its header says {size} bytes, the file is smaller. Copy it again")
    if size > psutil.virtual_memory().available // 2:
        raise DataError(f"{path} says it has {shape} voxels, too many for the memory here. Split it, or repair it")
    if dtype.fields:
        raise DataError(f"{path} is a colour image (RGB); give the grey-value original")
    if is_foreign(path):
        return
    opener = gzip.open if path.suffix.lower() == ".gz" else ImageOpener
    with opener(path) as handle:
        # nibabel mends impossible voxel sizes while loading; what the file says must be seen
        sizes = type(stored.header).from_fileobj(handle, check=False)["pixdim"][1:4]
    if int(stored.header.get("sform_code", 0)) > 0:
        # writers that leave a size open put -1 there; the sform then says it
        sizes = np.where(sizes == -1, np.linalg.norm(stored.affine[:3, :3], axis=0), sizes)
    if not (np.isfinite(sizes).all() and (sizes[: min(len(shape), 3)] > 0).all()):
        raise DataError(
            f"{path} states voxel sizes of {', '.join(f'{s:g}' for s in sizes)} mm; all must be above 0. "
            "Convert it again from the original"
        )


def check_anatomy(image: Image, name: object) -> None:
    """Refuse masks, label maps, phase images and the like for training; `infer` has no need of this.

    Raises:
        DataError: what it is and what to do.
    """
    if kind := content_kind(image.voxels):
        raise DataError(f"{name} is no magnitude image of anatomy ({kind}). Move it out of the folder")


def check(image: Image, name: object, *, axis: int | None = None, least_side: int = MIN_SIDE) -> list[str]:
    """Decide whether a scan can be used.

    Args:
        image: the scan.
        name: what messages call it, a path as a rule.
        axis: voxel axis across the slices that will be used; `Image.slice_axis` by default.
        least_side: voxels that each side of such a slice must have.

    Returns:
        what is remarkable but usable, for people.

    Raises:
        DataError: what is wrong with it and what to do.
    """
    voxels = image.voxels
    _check_shape(voxels, name)
    if np.iscomplexobj(voxels):
        raise DataError(f"{name} is complex; give its magnitude")
    if not np.isfinite(voxels).all():
        bad = int((~np.isfinite(voxels)).sum())
        raise DataError(f"{name} holds {bad} voxels that are NaN or infinite; repair or leave out this volume")
    low, high = float(voxels.min()), float(voxels.max())
    if max(high, -low) > float(np.finfo(np.float32).max):
        raise DataError(f"{name} holds values up to {max(high, -low):g}, more than 32-bit numbers hold; repair it")
    if high <= max(low, 0.0):
        raise DataError(f"{name} is constant or has no positive voxel; leave out this volume")
    _check_geometry(image, name)
    _check_plane(image, name, image.slice_axis if axis is None else axis, least_side)
    return [*image.notes, *_check_values(voxels, low, high, name)]


def _check_shape(voxels: NDArray[Any], name: object) -> None:
    shape = voxels.shape
    if voxels.ndim < 3:
        raise DataError(f"{name} has shape {shape}: a 2-D image. A 3-D volume is needed")
    if voxels.ndim > 3:
        raise DataError(f"{name} has shape {shape}; a 3-D volume is needed. Split it into 3-D files")


def _check_geometry(image: Image, name: object) -> None:
    if not np.isfinite(image.affine).all() or min(image.spacing) <= 0:
        raise DataError(f"{name} has an affine that maps its axes to nothing; convert it again from the original")
    if (shear := _shear(image.affine)) > _SHEAR:
        raise DataError(
            f"{name} has a sheared affine: its axes are not at right angles (cosine {shear:.3f}). "
            "Resample it to a rectangular grid"
        )


def _check_plane(image: Image, name: object, across: int, least: int) -> None:
    plane = tuple(side for axis, side in enumerate(image.voxels.shape) if axis != across)
    if min(plane) < least:
        raise DataError(
            f"{name} has slices of {plane} voxels; at least {least} x {least} are needed. Leave out this volume"
        )


def _check_values(voxels: NDArray[Any], low: float, high: float, name: object) -> list[str]:
    notes = []
    if low < 0:
        if voxels.dtype == np.int16 and low < -_HALF_INT16 and high > _HALF_INT16:
            raise DataError(
                f"{name} runs from {low:g} to {high:g} in 16 bits: bright voxels have wrapped round to negative ones. "
                "Convert it again from the original with an unsigned or a wider type"
            )
        magnitude = np.abs(voxels, dtype=np.float64)
        share = float(magnitude[voxels < 0].sum() / magnitude.sum())
        if share > _NEGATIVE:
            raise DataError(
                f"{name} is no magnitude image: {share:.0%} of its signal is negative (lowest {low:g}). "
                "Give the original, not a normalised, phase or CT image"
            )
        notes.append(f"{int((voxels < 0).sum())} voxels below 0 (lowest {low:g}), as resampling makes, are read as 0")
    full = np.iinfo(voxels.dtype).max if voxels.dtype.kind in "iu" else None
    if full is not None and high == full and (voxels == full).mean() > 1e-4:
        notes.append(f"{(voxels == full).mean():.2%} of its voxels are at {full}, the most the type holds: saturated")
    return notes


def plausible_thickness(stated: float) -> float:
    """Return a stated slice thickness in mm, 0.0 if it is no number above 0 and at most `THICKEST`."""
    return stated if 0 < stated <= THICKEST else 0.0


def canonical(image: Image) -> Image:
    """The same scan with axes turned and flipped to the nearest right-anterior-superior order; nothing is resampled."""
    turn = nib.io_orientation(image.affine)
    voxels = nib.apply_orientation(image.voxels, turn)
    x, y, z = (share for _, share in sorted(zip(turn[:, 0], image.acquired, strict=True)))
    affine = image.affine @ inv_ornt_aff(turn, image.voxels.shape)
    across = None if image.across is None else int(turn[image.across, 0])
    return replace(image, voxels=voxels, affine=affine, acquired=(x, y, z), across=across)


def slices(image: Image) -> NDArray[np.float32]:
    """(S, H, W) float32 in the acquisition plane of the canonical orientation, values >= 0, C-contiguous."""
    turned = canonical(image)
    moved = np.moveaxis(turned.voxels, turned.slice_axis, 0)
    return np.maximum(np.ascontiguousarray(moved, dtype=np.float32), 0)


def save_nifti(image: Image, path: Path) -> None:
    """Write voxels, geometry and a stated slice axis, and nothing else, to NIfTI, which loads fast uncompressed.

    Whole numbers that fit into 16 bits are kept as such, all others become float32. Negative values become 0.
    """
    voxels = np.maximum(image.voxels, 0)
    fits = voxels.dtype.kind in "iu" and voxels.max() <= np.iinfo(np.int16).max
    clean = nib.Nifti1Image(voxels.astype(np.int16 if fits else np.float32, copy=False), image.affine)
    clean.header.set_xyzt_units("mm")
    clean.header.set_dim_info(slice=image.across)
    write_atomically(path, clean.to_stream)
