"""How raw k-space lies in HDF5 files: fastMRI's layout, its prostate files, Calgary-Campinas, and ISMRMRD.

Sources: Zbontar et al., arXiv:1811.08839 (fastMRI); Tibrewala et al., arXiv:2304.09254 (prostate); Souza et al.,
NeuroImage 2018 (Calgary-Campinas); Inati et al., Magn. Reson. Med. 2017 (ISMRMRD).
"""

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any, Literal

import h5py
import ismrmrd
import numpy as np
import psutil
from numpy.typing import NDArray

from fedmr.utils.errors import DataError

Layout = Literal["fastmri", "prostate", "calgary", "ismrmrd"]
_FEWEST_COILS, _MOST_COILS = 4, 64  # of a Calgary-Campinas file, which have 12 or 32
_MOST_AVERAGES = 4  # of a prostate file: T2-weighted ones have 3, diffusion ones 50
_CALGARY_VOXEL = 1.0, 1.0, 1.0  # mm; the files state none
_NO_IMAGE = (
    *("ACQ_IS_NOISE_MEASUREMENT", "ACQ_IS_PARALLEL_CALIBRATION", "ACQ_IS_NAVIGATION_DATA", "ACQ_IS_PHASECORR_DATA"),
    *(
        "ACQ_IS_HPFEEDBACK_DATA",
        "ACQ_IS_DUMMYSCAN_DATA",
        "ACQ_IS_RTFEEDBACK_DATA",
        "ACQ_IS_SURFACECOILCORRECTIONSCAN_DATA",
    ),
)
_ONE_IMAGE = ("contrast", "phase", "repetition", "set")  # indices of which an image has one value


def layout_of(handle: h5py.File, path: Path) -> Layout:
    """Return the layout of an open file, whose entries are its own.

    Raises:
        DataError: none that is known, or larger than the memory.
    """
    if isinstance(handle.get("dataset/data"), h5py.Dataset) and isinstance(handle.get("dataset/xml"), h5py.Dataset):
        return "ismrmrd"
    kspace = handle.get("kspace")
    if not isinstance(kspace, h5py.Dataset):
        held = ", ".join(sorted(handle)) or "nothing"
        raise DataError(f"{path} has no dataset kspace, only {held}. Give the raw data, or the images as NIfTI")
    shape: tuple[int, ...] = kspace.shape or ()
    if (kspace.size or 0) * 8 > psutil.virtual_memory().available // 2:
        raise DataError(
            f"{path}: kspace has shape {shape}, {kspace.size * 8 / 2**30:.0f} GiB, too much for this machine's "
            "memory. Split it by slices"
        )
    if kspace.dtype.kind == "f" and len(shape) == 4 and _is_interleaved(shape):
        return "calgary"
    if kspace.dtype.kind != "c":
        raise DataError(f"{path}: kspace is {kspace.dtype}, not complex. Give the raw data as complex64")
    averages = shape[0] if len(shape) == 5 else 0
    if 2 <= averages <= _MOST_AVERAGES and 0 not in shape:
        return "prostate"
    if averages > _MOST_AVERAGES:
        raise DataError(
            f"{path}: kspace has shape {shape}, {averages} acquisitions in one file, as diffusion has. Give each as a "
            "file of its own"
        )
    if len(shape) not in (3, 4) or 0 in shape:
        raise DataError(f"{path}: kspace has shape {shape}; (slices, coils, height, width) is needed, or without coils")
    return "fastmri"


def _is_interleaved(shape: tuple[int, ...]) -> bool:
    """Return whether (S, H, W, 2C) can be real and imaginary parts of C coils in turn."""
    return (
        0 not in shape
        and shape[-1] % 2 == 0
        and 2 * _FEWEST_COILS <= shape[-1] <= 2 * _MOST_COILS
        and min(shape[1:3]) > shape[-1]
    )


def read_kspace(handle: h5py.File, path: Path) -> tuple[NDArray[np.complex64], str, tuple[float, float, float] | None]:
    """Read the k-space of any layout.

    Returns:
        (S, C, H, W) centred along H and W; ISMRMRD's header, "" if there is none; and the voxel size in mm where the
        layout and not the header gives it.

    Raises:
        DataError: naming the file, what is wrong and what to do.
    """
    layout = layout_of(handle, path)
    if layout == "ismrmrd":
        header = text_of(handle["dataset/xml"][0])
        return _ismrmrd(handle["dataset/data"], header, path), header, None
    stored = handle["kspace"][()]
    header = text_of(handle["ismrmrd_header"][()]) if "ismrmrd_header" in handle else ""
    if layout == "calgary":
        parts = stored[..., ::2] + 1j * stored[..., 1::2]
        return _centred(np.moveaxis(parts, -1, 1).astype(np.complex64)), header, _CALGARY_VOXEL
    if layout == "prostate":
        measured = (stored != 0).sum(axis=0)
        stored = stored.sum(axis=0) / np.maximum(measured, 1)
    kspace = stored.astype(np.complex64, copy=False)
    return kspace[:, None] if kspace.ndim == 3 else kspace, header, None


def _centred(kspace: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """Return (S, C, H, W) with its origin in the middle, where it may be in the corner, as numpy's FFT has it."""
    power = np.abs(kspace).sum(axis=(0, 1))
    row, column = (int(place) for place in np.unravel_index(int(np.argmax(power)), power.shape))
    height, width = power.shape
    if abs(row - height // 2) <= height // 4 and abs(column - width // 2) <= width // 4:
        return kspace
    axes = (-2, -1)
    pictures = np.fft.ifft2(kspace, axes=axes)
    moved = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(pictures, axes=axes), axes=axes), axes=axes)
    return moved.astype(np.complex64)


def text_of(value: Any) -> str:
    """Return text of HDF5, which may be bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def ismrmrd_names(handle: h5py.File) -> tuple[str, str]:
    """Return patient and protocol that an ISMRMRD header states, "" where it states none."""
    try:
        root = ElementTree.fromstring(text_of(handle["dataset/xml"][0]))
    except ElementTree.ParseError:
        return "", ""
    return (
        root.findtext("{*}subjectInformation/{*}patientID") or "",
        root.findtext("{*}measurementInformation/{*}protocolName") or "",
    )


def _ismrmrd(data: h5py.Dataset, header: str, path: Path) -> NDArray[np.complex64]:
    """Sort the acquisitions of one Cartesian image into k-space (S, C, readout, phase)."""
    root = _parsed(header, path)
    heads = data["head"]
    none = sum(1 << (getattr(ismrmrd, name) - 1) for name in _NO_IMAGE if hasattr(ismrmrd, name))
    chosen = np.flatnonzero((heads["flags"] & np.uint64(none)) == 0)
    if not chosen.size:
        raise DataError(f"{path} holds no acquisition of an image, only noise and calibration. Leave it out")
    heads = heads[chosen]
    for name in _ONE_IMAGE:
        if (many := len(np.unique(heads["idx"][name]))) > 1:
            raise DataError(f"{path} holds {many} images by {name}. Give each as a file of its own")
    coils, samples = (np.unique(heads[name]) for name in ("active_channels", "number_of_samples"))
    if len(coils) > 1 or len(samples) > 1:
        raise DataError(f"{path} has acquisitions of several sizes (samples {samples}, coils {coils}). Export it again")
    readout, lines, parts, first = _matrix(root, int(samples[0]))
    slices = int(heads["idx"]["slice"].max()) + 1
    shape = slices * parts, int(coils[0]), readout, lines
    if float(np.prod(shape, dtype=np.float64)) * 16 > psutil.virtual_memory().available // 2 or parts * slices > 4096:
        raise DataError(f"{path} says its k-space is {shape}, too much for this machine's memory. Leave it out")
    kspace, counts = np.zeros(shape, np.complex64), np.zeros((shape[0], lines), np.int64)
    for number, head in zip(chosen, heads, strict=True):
        values = np.asarray(data[int(number)]["data"]).view(np.complex64)
        if values.size != shape[1] * samples[0]:
            raise DataError(f"{path}, acquisition {number}, is truncated. Copy the file again")
        values = values.reshape(shape[1], -1)
        reverse = int(head["flags"]) >> (ismrmrd.ACQ_IS_REVERSE - 1) & 1
        index, part = head["idx"], int(head["idx"]["kspace_encode_step_2"])
        place = int(index["slice"]) * parts + part
        line, start = int(index["kspace_encode_step_1"]) + first, readout // 2 - int(head["center_sample"])
        if not (0 <= line < lines and part < parts and 0 <= start <= readout - values.shape[1]):
            raise DataError(f"{path}, acquisition {number}, lies outside the matrix of the header. Export it again")
        kspace[place, :, start : start + values.shape[1], line] += values[:, ::-1] if reverse else values
        counts[place, line] += 1
    kspace /= np.maximum(counts, 1)[:, None, None, :]
    if parts == 1:
        return kspace
    volume = np.fft.ifftshift(kspace.reshape(slices, parts, *shape[1:]), axes=1)
    volume = np.fft.fftshift(np.fft.ifft(volume, axis=1, norm="ortho"), axes=1)
    return volume.reshape(shape).astype(np.complex64)


def _parsed(header: str, path: Path) -> ElementTree.Element:
    try:
        root = ElementTree.fromstring(header)
    except ElementTree.ParseError as error:
        raise DataError(f"{path}: its ISMRMRD header is no XML ({error}). Copy the file again") from None
    trajectory = root.findtext("{*}encoding/{*}trajectory") or "unknown"
    if trajectory != "cartesian":
        raise DataError(f"{path} has a {trajectory} trajectory; only Cartesian k-space is read. Give its images")
    return root


def _matrix(root: ElementTree.Element, samples: int) -> tuple[int, int, int, int]:
    """Return samples, lines and partitions of the encoded matrix, and what is added to the index of a line."""
    size, limit = "{*}encoding/{*}encodedSpace/{*}matrixSize/{*}", "{*}encoding/{*}encodingLimits/{*}"
    x, y, z = (int(root.findtext(size + axis) or 1) for axis in "xyz")
    center = int(root.findtext(f"{limit}kspace_encoding_step_1/{{*}}center") or y // 2)
    return max(x, samples), y, z, y // 2 - center
