"""Super-resolve a NIfTI file: volumes one by one, the header kept as far as it holds for the finer voxels."""

import gzip
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import nibabel as nib
import numpy as np
from nibabel.volumeutils import native_code
from numpy.typing import NDArray

from fedmr import __version__
from fedmr.data.acquired_grid import grid_note
from fedmr.data.contrasts import contrast_of
from fedmr.data.images import Image, check, load_nifti, read_nifti
from fedmr.data.readers.nifti import slice_thickness
from fedmr.inference.examination import Examination, beside, examine, say, write_record
from fedmr.inference.resolver import Resolver, check_memory
from fedmr.utils.errors import DataError
from fedmr.utils.files import write_atomically

_ALIGNED = 2  # NIfTI: coordinates of another image, here of the input, whose own are not stated


@dataclass
class Storage:
    """How a file stores intensities: value = stored * slope + inter.

    Attributes:
        dtype: type of the stored numbers.
        clipped: number of voxels so far that lay beyond what the type holds.
    """

    dtype: np.dtype[Any]
    slope: float = 1.0
    inter: float = 0.0
    clipped: int = field(default=0, init=False)

    def store(self, values: NDArray[np.float32]) -> NDArray[Any]:
        """Return values (X, Y, Z) as stored, of the same shape; whole numbers are rounded and clipped to the type."""
        if self.dtype.kind == "f":
            return ((values - self.inter) / self.slope).astype(self.dtype)
        limits = np.iinfo(self.dtype)
        stored = np.rint((values.astype(np.float64) - self.inter) / self.slope)
        self.clipped += int(((stored < limits.min) | (stored > limits.max)).sum())
        return np.clip(stored, limits.min, limits.max).astype(self.dtype)


def super_resolve_nifti(
    resolver: Resolver,
    source: Path,
    target: Path,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """Super-resolve a NIfTI file of three or more dimensions; every volume of a series has its own normalisation.

    Type, scaling, units, time step, codes of both coordinate systems and description are those of the input, so that
    values are stored as precisely as there. With data consistency they become float32, since rounding would contradict
    the scan. Header extensions are left out: they may hold the old geometry.

    Args:
        resolver: the model and how to use it.
        source: .nii or .nii.gz.
        target: .nii or .nii.gz; written under a passing name and renamed.
        progress: receives the numbers of slices done and in all.

    Returns:
        what is remarkable, for people.

    Raises:
        DataError: the file cannot be used.
        OSError: the result cannot be written.
    """
    image = replace(read_nifti(source), thickness=slice_thickness(source))
    stored = load_nifti(source)
    storage = _storage(stored, resolver.options.data_consistency)
    if image.voxels.size == 0:
        raise DataError(f"{source} has shape {image.voxels.shape}: it holds no voxel. Convert it again")
    output, step, notes, found, spreads = _volumes(resolver, image, source, storage, progress)
    if storage.clipped:
        notes.append(f"{storage.clipped} voxels lie beyond what {storage.dtype} holds and were clipped to its limits")
    finished = _with_header(output, stored, step, resolver.label)
    finished.header.set_slope_inter(storage.slope, storage.inter)
    if resolver.options.deidentify:
        _clear_texts(finished.header)
    write_atomically(target, lambda handle: write_nifti(finished, handle, packed=target.suffix.lower() == ".gz"))
    write_record(target, resolver, found)
    if spreads:
        notes.append(write_uncertainty(target, spreads))
    return list(dict.fromkeys(notes + say(found)))


def write_uncertainty(target: Path, spreads: Sequence[Image]) -> str:
    """Write maps of uncertainty, one or a series of one shape, beside a result, as NAME.uncertainty.nii.gz.

    Returns:
        a note for people.
    """
    voxels = spreads[0].voxels if len(spreads) == 1 else np.stack([spread.voxels for spread in spreads], -1)
    file = nib.Nifti1Image(voxels.astype(np.float32), spreads[0].affine)
    path = beside(target, ".uncertainty.nii.gz")
    write_atomically(path, lambda handle: write_nifti(file, handle, packed=True))
    return f"the uncertainty of every voxel, in the units of the scan, is in {path.name}"


def _volumes(
    resolver: Resolver, image: Image, source: Path, storage: Storage, progress: Callable[[int, int], None]
) -> tuple[NDArray[Any], NDArray[np.float64], list[str], list[Examination], list[Image]]:
    """Super-resolve the volumes of an image one by one; of a series, one that is all 0 stays so.

    Returns:
        voxels as stored, of as many dimensions; the map from their indices to those of the input; notes for people;
        what was found of every volume that was super-resolved; and the uncertainty of each, if it is asked for.
    """
    series = image.voxels.shape[3:]
    total, notes = int(np.prod(series)), list[str]()
    empty = {index for index in np.ndindex(series) if series and not np.any(image.voxels[(..., *index)])}
    chosen = [(number, index) for number, index in enumerate(np.ndindex(series)) if index not in empty]
    output: NDArray[Any] = np.empty(0)
    found, spreads = [], list[Image]()
    for done, (number, index) in enumerate(chosen or [(0, next(np.ndindex(series)))]):
        volume, filled = _without_nan(replace(image, voxels=image.voxels[(..., *index)]))
        name = f"volume {number + 1} of {source}" if series else source
        once = [*grid_note(volume), *resolver.remarks(volume)] if done == 0 else []
        notes += [*filled, *check(volume, name, least_side=resolver.least_side), *once]
        result, spread, step = resolver.with_spread(volume, progress=partial(_advance, progress, number, total))
        spreads += [] if spread is None else [spread]
        found.append(examine(resolver, volume, result, contrast=contrast_of(source.name)))
        if not output.size:
            check_memory((*result.voxels.shape, *series), storage.dtype.itemsize)
            output = np.full((*result.voxels.shape, *series), storage.store(np.zeros(1, np.float32))[0])
        output[(..., *index)] = storage.store(result.voxels)
    if empty:
        notes.append(f"{len(empty)} of its {total} volumes hold nothing but 0 and stay so")
    return output, step, notes, found, spreads


def _advance(progress: Callable[[int, int], None], number: int, total: int, done: int, slices: int) -> None:
    """Report slices of one volume as slices of the whole series."""
    progress(number * slices + done, total * slices)


def _without_nan(image: Image) -> tuple[Image, list[str]]:
    """Return a volume whose NaN background is 0, with a note; one that holds nothing else stays as it is."""
    if image.voxels.dtype.kind != "f" or not (holes := np.isnan(image.voxels)).any() or holes.all():
        return image, []
    filled = replace(image, voxels=np.where(holes, image.voxels.dtype.type(0), image.voxels))
    return filled, [f"{int(holes.sum())} voxels that are NaN were read as 0"]


def _storage(stored: Any, exact: bool) -> Storage:
    dtype = stored.get_data_dtype().newbyteorder("=")
    if exact:
        return Storage(dtype if dtype.kind == "f" else np.dtype(np.float32))
    return Storage(dtype, float(getattr(stored.dataobj, "slope", 1)), float(getattr(stored.dataobj, "inter", 0)))


def _with_header(voxels: NDArray[Any], stored: Any, step: NDArray[np.float64], label: str) -> Any:
    """Return the result as a file of the class of `stored`; `step` maps its voxel indices to those of the input."""
    old = stored.header
    header = old.as_byteswapped(native_code)
    header.extensions.clear()
    header["vox_offset"] = 0
    header.set_data_shape(voxels.shape)
    header.set_data_dtype(voxels.dtype)
    zooms = np.linalg.norm(stored.affine[:3, :3] @ step[:3, :3], axis=0)
    header.set_zooms((*zooms, *old.get_zooms()[3 : voxels.ndim]))
    try:
        (qform, qcode), (sform, scode) = (form(coded=True) for form in (old.get_qform, old.get_sform))
    except ValueError as error:
        name = stored.get_filename() or "the scan"
        raise DataError(
            f"{name} has a qform that is no rotation ({error}). Convert it again from the original"
        ) from None
    if qform is not None:
        header.set_qform(qform @ step, int(qcode))
    if sform is not None:
        header.set_sform(sform @ step, int(scode))
    if qform is None and sform is None:
        header.set_sform(stored.affine @ step, _ALIGNED)
    if header["dim"][3] != old["dim"][3]:
        # the times at which slices were taken are told by their number
        for name in ("slice_code", "slice_start", "slice_end", "slice_duration"):
            header[name] = 0
    made = f"super-resolved {label} by FedMR {__version__}; ".encode()
    header["descrip"] = (made + bytes(old["descrip"]))[: header["descrip"].itemsize - 1]
    return type(stored)(voxels, None, header)


def _clear_texts(header: Any) -> None:
    """Empty what a header holds in words, but for what this program wrote."""
    header["descrip"] = bytes(header["descrip"]).partition(b"; ")[0]
    for name in ("aux_file", "intent_name", "db_name"):
        if name in list(header):
            header[name] = b""


def save_volume(image: Image, target: Path, description: str) -> int:
    """Write a volume (X, Y, Z) as a NIfTI file of its own, float32, with a description of at most 79 characters.

    Returns:
        number of voxels that were clipped: none.
    """
    output = nib.Nifti1Image(np.ascontiguousarray(image.voxels, dtype=np.float32), image.affine)
    output.header.set_xyzt_units("mm")
    output.header["descrip"] = description.encode()
    write_atomically(target, lambda handle: write_nifti(output, handle, packed=target.suffix.lower() == ".gz"))
    return 0


def write_nifti(image: Any, handle: IO[bytes], *, packed: bool) -> None:
    """Write a nibabel image to an open file, gzipped if `packed`."""
    if not packed:
        image.to_stream(handle)
        return
    # neither name nor time, so that the same voxels give the same file
    with gzip.GzipFile("", "wb", compresslevel=1, fileobj=handle, mtime=0) as stream:
        image.to_stream(stream)
