"""A super-resolved volume as a DICOM series: derived objects of the same study as their source.

Single-frame files give single-frame files, an enhanced multi-frame file gives an enhanced multi-frame file. Both are
uncompressed (explicit VR little endian), 16 bits, in the scan's own intensities.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from io import BytesIO
from itertools import groupby
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from pydicom.uid import generate_uid
from torch import nn

from fedmr import __version__
from fedmr.data.acquired_grid import grid_note
from fedmr.data.images import Image, check
from fedmr.data.readers import Scan, dicom
from fedmr.data.readers.dicom_frames import frames_of_scan
from fedmr.data.readers.dicom_stack import Frame, in_order, quiet
from fedmr.data.readers.nifti import is_nifti
from fedmr.hospital.conversion import label
from fedmr.inference.deidentify import check_pixels, deidentified
from fedmr.inference.dicom_header import Derivation, Series, Slice, derived_object, is_enhanced
from fedmr.inference.examination import examine, say, write_record
from fedmr.inference.nifti_writer import save_volume, write_uncertainty
from fedmr.inference.resolver import PLANES, Resolver
from fedmr.nets import name_of
from fedmr.utils.errors import DataError
from fedmr.utils.files import replace_folder

_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM's patient axes point left, posterior, superior
_LEVELS = np.iinfo(np.uint16).max
_SHORT_TEXT = 1024  # most characters of an ST element


def super_resolve_series(
    resolver: Resolver,
    scan: Scan,
    target: Path,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """Super-resolve a DICOM series, in the plane of its images if none is named.

    A NIfTI file holds float32, and nothing of the person. In DICOM, with data consistency, values are spread over all
    of 16 bits and rounded to that.

    Args:
        resolver: the model and how to use it.
        scan: a series found by `readers.dicom.find`.
        target: folder of the result, or a NIfTI file; it takes its name when it is complete.
        progress: receives the numbers of slices done and in all.

    Returns:
        what is remarkable, for people.

    Raises:
        DataError: the series cannot be used.
        OSError: the result cannot be written.
    """
    options, name, image = resolver.options, label(scan), dicom.read(scan, single=True)
    across = int(nib.io_orientation(image.affine)[2, 0])
    plane = options.plane or next(plane for plane, axis in PLANES.items() if axis == across)
    notes = check(image, name, axis=2, least_side=resolver.least_side)
    notes += [*grid_note(image), *resolver.remarks(image, plane)]
    with quiet():
        frames, _ = in_order(frames_of_scan(scan), name, single=True)
    derivation = _derivation(resolver, plane)
    if options.deidentify:
        check_pixels(frames)
    if not is_nifti(target):
        _rehearse(frames, derivation)
    result, spread, step = resolver.with_spread(image, plane=plane, progress=progress)
    found = [examine(resolver, image, result, plane=plane, contrast=scan.contrast)]
    if is_nifti(target):
        clipped = save_volume(result, target, f"super-resolved {derivation.label} by FedMR {__version__}")
    else:
        how = {"spread": options.data_consistency, "deidentify": options.deidentify}
        clipped = write_series(target, result, step, frames, derivation=derivation, **how)
    write_record(target, resolver, found)
    if spread is not None:
        notes.append(write_uncertainty(target, [spread]))
    if clipped:
        notes.append(f"{clipped} voxels lie beyond 16 bits and were clipped to their limits")
    return notes + say(found)


def _rehearse(frames: Sequence[Frame], derivation: Derivation) -> None:
    """Write every header once with empty pixels into memory, so that one that cannot be written costs no computing.

    Raises:
        DataError: naming the file.
    """
    series = Series(derivation, (1.0, 1.0, 1.0), False, generate_uid(None), datetime.now())
    empty = np.zeros((1, 1), np.uint16)
    slices = (Slice(number, f, f.position, empty, 1.0, 0.0, 0) for number, f in enumerate(frames))
    with quiet():
        for part in _parts(slices):
            _save(part, series, BytesIO())


def _derivation(resolver: Resolver, plane: str) -> Derivation:
    model, digest = resolver.model, _digest(resolver.model.net)
    text = (
        f"{resolver.describe(plane)} by a neural network ({name_of(model.task.network)}, "
        f"weights {digest}) trained on {resolver.trained_on}, FedMR {__version__}."
        f"{f' Measured {resolver.kept} kept.' if resolver.options.data_consistency else ''} "
        f"{model.card['intended_use']}"
    )
    return Derivation(resolver.label, digest, text[:_SHORT_TEXT])


def _digest(net: nn.Module) -> str:
    """Names the weights; 16 hexadecimal digits."""
    content = hashlib.sha256()
    for name, tensor in net.state_dict().items():
        content.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return content.hexdigest()[:16]


def write_series(
    folder: Path,
    image: Image,
    step: NDArray[np.float64],
    frames: Sequence[Frame],
    *,
    derivation: Derivation,
    spread: bool = False,
    deidentify: bool = False,
) -> int:
    """Write a series into a folder that takes its name only when it is complete.

    Stored numbers mean what they mean in the source, so that they are as precise: each slice has the slope and
    intercept of the image it comes from, and values are rounded.

    Args:
        folder: new, empty, or to be replaced.
        image: (columns, rows, slices) float32, in the units of the source.
        step: (4, 4) from its voxel indices to those of the source.
        frames: images of the source in the order of its slices.
        derivation: what was done.
        spread: use a slope and intercept that spread the values over all of 16 bits.
        deidentify: leave out the person.

    Returns:
        number of voxels that lay beyond 16 bits and were clipped.

    Raises:
        DataError: a header of the source cannot be written.
        OSError: the result cannot be written.
    """
    x, y, z = image.spacing
    series = Series(derivation, (y, x, z), bool(step[2, 2] != 1), generate_uid(None), datetime.now(), deidentify)
    clipped = 0
    with replace_folder(folder) as passing, quiet():
        for number, part in enumerate(_parts(_slices(image, step, frames, spread)), start=1):
            _save(part, series, passing / f"IM{number:04}.dcm")
            clipped += sum(member.clipped for member in part)
    return clipped


def is_series(folder: Path) -> bool:
    """Whether a folder holds nothing but files as `write_series` names them, so that no other is ever replaced."""
    return all(path.is_file() and path.match("IM[0-9]*.dcm") for path in folder.iterdir())


def _save(part: Sequence[Slice], series: Series, place: Path | BytesIO) -> None:
    try:
        result = derived_object(part, series)
        (deidentified(result) if series.deidentify else result).save_as(place, enforce_file_format=True)
    except OSError:
        raise
    except Exception as error:  # pydicom raises whatever a damaged header leads it to
        raise DataError(
            f"{part[0].source.path} has a header that cannot be written again ({error}). Repair it, or give NIfTI"
        ) from error


def _parts(slices: Iterator[Slice]) -> Iterator[list[Slice]]:
    """Return the slices of each object: one, or those that come from one multi-frame file."""
    for _, group in groupby(slices, key=lambda member: member.source.path):
        members = list(group)
        yield from [members] if is_enhanced(members[0].source) else [[member] for member in members]


def _slices(image: Image, step: NDArray[np.float64], frames: Sequence[Frame], spread: bool) -> Iterator[Slice]:
    low, high = float(image.voxels.min()), float(image.voxels.max())
    for number in range(image.voxels.shape[2]):
        corner = np.array([0, 0, number, 1])
        source = frames[int(np.clip(np.rint((step @ corner)[2]), 0, len(frames) - 1))]
        if spread or "ModalityLUTSequence" in source.scaling:
            kind, slope, intercept = "<u2", max(high - low, 1e-6) / _LEVELS, low
        else:
            kind = "<i2" if source.dataset.get("PixelRepresentation") else "<u2"
            slope = float(source.scaling.get("RescaleSlope", 1))
            intercept = float(source.scaling.get("RescaleIntercept", 0))
        stored = np.rint((image.voxels[:, :, number].T.astype(np.float64) - intercept) / slope)
        limits = np.iinfo(kind)
        clipped = int(((stored < limits.min) | (stored > limits.max)).sum())
        pixels = np.clip(stored, limits.min, limits.max).astype(kind)
        position = (_TO_LPS @ image.affine @ corner)[:3]
        yield Slice(number, source, position, pixels, slope, intercept, clipped)
