"""Raw k-space in the HDF5 layout of fastMRI (Zbontar et al., arXiv:1811.08839, 2018).

A file is one acquisition: `kspace` (slices, coils, height, width), or without coils if single-coil; as a rule the
scanner's header `ismrmrd_header` and a reconstruction; the attributes `acquisition` and `patient_id`.
"""

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from fedmr.data.images import Image
from fedmr.data.readers import Found, Scan, contrast_of
from fedmr.data.readers.hdf5_content import check_companions, check_own
from fedmr.data.readers.kspace_layouts import ismrmrd_names, layout_of, read_kspace, text_of
from fedmr.utils.errors import DataError

SUFFIXES = (".h5", ".hdf5")
_SLICE_THICKNESS = 5.0  # mm where the file states none: more than 1 mm in the plane, so that slices stay slices
_HOLES = 0.01  # share of unmeasured points that is still chance: raw data in whole numbers hold zeros
_PADDED = 0.5  # share of an axis that must be measured: partial Fourier reads more than half
_DIFFERENCE = 1e-3  # relative difference to the stored reconstruction that is worth a word
_SINGLE = "reconstruction_esc"  # of single-coil files
_FULLY = "Give fully sampled data, as in fastMRI's train and val folders"


def find(files: Sequence[Path], root: Path, *, masked: bool = False) -> Found:
    """One scan per HDF5 file, patient and contrast from its attributes; without a patient, the file is one.

    Args:
        files: any files; those that are no HDF5 by name are passed over.
        root: folder that they lie below.
        masked: whether a file with a mask, as test files have, is a scan or a problem.
    """
    found = Found()
    for path in sorted(path for path in files if path.suffix.lower() in SUFFIXES):
        try:
            with _opened(path, masked=masked) as handle:
                patient, acquisition = _person(handle)
            found.scans.append(Scan((path,), patient or path.stem, contrast_of(acquisition), told="acquisition"))
        except DataError as error:
            found.problems.append(str(error))
    return found


def read(scan: Scan, *, masked: bool = False) -> Image:
    """Read and reconstruct one acquisition, zero-filled where k-space has gaps.

    The voxels are the root sum of squares over the coils of the centred orthonormal inverse FFT, cropped to the
    stored reconstruction, or else to the header's matrix, as fastMRI does. X runs along the width and Y along the
    height of k-space, slices come last: `voxels[:, :, s].T` is the picture of `kspace[s]`. The height, which is
    the readout, runs upwards in the patient (fastMRI's pictures are upside down when their first row is drawn on
    top), so that the usual display, first row at the bottom, is upright. Left and right are not known, nor is the
    position.

    Args:
        scan: the file.
        masked: whether it is there to be reconstructed: a file with a mask, as test files have, is taken, and what the
            mask leaves out is zero. Otherwise it is refused, and k-space with gaps but no mask gets a note.

    Raises:
        DataError: not finite, damaged, not this layout, or with a mask though not `masked`; with the remedy.
    """
    path = scan.files[0]
    with _opened(path, masked=masked) as handle:
        kspace, header, voxel = read_kspace(handle, path)
        if (mask := _mask(handle, path)) is not None:
            kspace = np.where(mask, kspace, 0)
        name = "reconstruction_rss" if handle.get("kspace") is None or handle["kspace"].ndim > 3 else _SINGLE
        stored = handle[name][()] if name in handle else None
        named = bool(_person(handle)[0])
    notes = [] if masked or named else ["it names no patient_id; the file counts as a patient of its own"]
    notes += _check_values(kspace, path, masked=masked)
    matrix, spacing = _geometry(header, kspace.shape[-2:], path)
    spacing = spacing or voxel
    if spacing is None:
        spacing = 1.0, 1.0, _SLICE_THICKNESS
        notes.append("its voxel size is not known, for it has no usable ismrmrd_header; 1 x 1 mm is assumed")
    crop = stored.shape[1:] if stored is not None and stored.ndim == 3 else matrix or kspace.shape[-2:]
    pictures = np.stack([_root_sum_of_squares(coils, crop) for coils in kspace])
    if stored is not None and not masked:
        notes += _compare(pictures, stored, name)
    return Image(pictures.transpose(2, 1, 0), np.diag([*spacing, 1.0]), kspace, tuple(notes))


def _person(handle: h5py.File) -> tuple[str, str]:
    """Return patient and acquisition that a file names, "" where it names none."""
    if "dataset" in handle:
        return ismrmrd_names(handle)
    return text_of(handle.attrs.get("patient_id", "")), text_of(handle.attrs.get("acquisition", ""))


def _check_values(kspace: NDArray[np.complex64], path: Path, *, masked: bool) -> list[str]:
    """Refuse k-space (S, C, H, W) that is not finite; return a note where it has gaps that no mask explains."""
    for number, coils in enumerate(kspace):
        if not np.isfinite(coils).all():
            raise DataError(
                f"{path}, slice {number}, holds values that are NaN or infinite; repair or leave out this file"
            )
    gaps = {number: gap for number, coils in enumerate(kspace) if not masked and (gap := under_sampling(coils))}
    if not gaps:
        return []
    first, gap = next(iter(gaps.items()))
    return [
        f"the k-space of {len(gaps)} of its {len(kspace)} slices is under-sampled (slice {first}: {gap}); its "
        f"image is zero-filled, no reference for reconstruction. {_FULLY}"
    ]


@contextmanager
def _opened(path: Path, *, masked: bool) -> Iterator[h5py.File]:
    """An open file of the right layout; errors of HDF5, also while it is read, become a DataError."""
    try:
        with h5py.File(path, "r") as handle:
            _check_layout(handle, path)
            if not masked and _mask(handle, path) is not None:
                raise DataError(f"{path} is under-sampled: it has a mask, as fastMRI's test files do. {_FULLY}")
            yield handle
    except DataError:
        raise
    except MemoryError:
        raise DataError(f"{path} needs more memory than there is; split it by slices, or leave it out") from None
    except Exception as error:  # h5py raises whatever a damaged or hostile file leads it to
        reason = "is no HDF5 file" if path.is_file() and not h5py.is_hdf5(path) else f"cannot be read ({error})"
        raise DataError(f"{path} {reason}; it is truncated or of another kind. Copy it again") from None


def _check_layout(handle: h5py.File, path: Path) -> None:
    check_own(handle, path)
    if layout_of(handle, path) != "ismrmrd":
        check_companions(handle, path)


def _mask(handle: h5py.File, path: Path) -> NDArray[np.bool_] | None:
    """The measured columns (W,), None if the file does not say that some are missing."""
    if "mask" not in handle or np.all(handle["mask"][()]):
        return None
    mask = np.asarray(handle["mask"][()] != 0).ravel()
    if mask.size != handle["kspace"].shape[-1]:
        raise DataError(
            f"{path}: its mask has shape {handle['mask'].shape}, but k-space has {handle['kspace'].shape[-1]} columns. "
            "Copy the file again"
        )
    return mask


def under_sampling(coils: NDArray[np.complex64]) -> str:
    """In which way the k-space (C, H, W) of a slice is under-sampled, "" if it is fully sampled.

    Zeros at the edges are fastMRI's zero padding, partial Fourier or the corners of an ellipse. A zero in all coils
    with measured points on both sides, in its row or its column, is a hole: a fully sampled scan has noise there.
    """
    measured = (coils != 0).any(axis=0)
    holes = (_between(measured, 0) | _between(measured, 1)) & ~measured
    share = holes.sum() / max((measured | holes).sum(), 1)
    if share > _HOLES:
        return f"{share:.0%} of the points between measured ones are zero"
    for axis, side in enumerate(("rows", "columns")):
        lines = np.flatnonzero(measured.any(axis=1 - axis))
        if lines.size and lines[-1] + 1 - lines[0] < _PADDED * measured.shape[axis]:
            return f"of {measured.shape[axis]} {side} only {lines.size} in the middle are measured"
    return ""


def _between(measured: NDArray[np.bool_], axis: int) -> NDArray[np.bool_]:
    """Points with a measured point, or being one, on both sides along an axis."""
    before = np.logical_or.accumulate(measured, axis)
    after = np.flip(np.logical_or.accumulate(np.flip(measured, axis), axis), axis)
    return before & after


def _root_sum_of_squares(coils: NDArray[np.complex64], crop: Sequence[int]) -> NDArray[np.float32]:
    """(C, H, W) k-space to the magnitude image, its centre cropped to (h, w), or less where k-space is smaller.

    The transform is that of `physics.ifft2c`, in numpy, for reading needs no torch.
    """
    axes = (-2, -1)
    image = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(coils, axes=axes), axes=axes, norm="ortho"), axes=axes)
    (height, width), (h, w) = coils.shape[-2:], np.minimum(crop, coils.shape[-2:])
    top, left = (height - h) // 2, (width - w) // 2
    with np.errstate(over="ignore"):  # what overflows is infinite, and found out later
        return np.linalg.norm(image[:, top : top + h, left : left + w], axis=0).astype(np.float32, copy=False)


def _geometry(
    header: str, size: Sequence[int], path: Path
) -> tuple[tuple[int, int] | None, tuple[float, float, float] | None]:
    """Return what an ISMRMRD header says of the image.

    Args:
        header: XML, "" if there is none.
        size: (H, W) of k-space.
        path: of the file, for messages.

    Returns:
        matrix (h, w) of the reconstruction, and voxel size (x, y, z) in mm; each None where the header does not
        state it. The voxel size in the plane is the encoded field of view over the size of k-space, whatever
        matrix the scanner interpolates to; its x is the readout, the height here.
    """
    if not header:
        return None, None
    try:
        root = ElementTree.fromstring(header)
    except ElementTree.ParseError as error:
        raise DataError(f"{path}: its ismrmrd_header is no XML ({error}). Copy the file again") from None
    matrix, view = _space(root, "reconSpace/{*}matrixSize"), _space(root, "reconSpace/{*}fieldOfView_mm")
    encoded = _space(root, "encodedSpace/{*}fieldOfView_mm")
    if matrix is None or view is None or encoded is None:
        return None, None
    x, y, z = encoded[1] / size[1], encoded[0] / size[0], view[2] / matrix[2]
    return (int(matrix[0]), int(matrix[1])), (x, y, z) if z >= max(x, y) else None


def _space(root: ElementTree.Element, name: str) -> tuple[float, float, float] | None:
    """The x, y and z of an element of the encoding, in any namespace, or None if they are not all above 0."""
    try:
        x, y, z = (float(root.findtext(f"{{*}}encoding/{{*}}{name}/{{*}}{axis}") or "") for axis in "xyz")
    except ValueError:
        return None
    return (x, y, z) if min(x, y, z) > 0 and max(x, y, z) < float("inf") else None


def _compare(pictures: NDArray[np.float32], stored: NDArray[Any], name: str) -> list[str]:
    if pictures.shape != stored.shape:
        return [f"its {name} has shape {stored.shape}, but k-space gives {pictures.shape}"]
    difference = float(np.linalg.norm(pictures - stored) / max(np.linalg.norm(stored), np.finfo(np.float32).tiny))
    if not difference <= _DIFFERENCE:  # also if it is NaN
        return [f"its {name} differs by {difference:.1%} from the image of its k-space, which is used"]
    return []
