"""The images of one DICOM series as a stack: decoded, in the order of their positions, evenly spaced.

Classic files hold one image each, enhanced multi-frame files many; both become `Frame`s here, with the same checks.
nibabel.nicom is not used: it takes the slice distance from two frames, sees no gaps, and drops stacks by itself.
"""

import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.config import disable_value_validation
from pydicom.filereader import read_file_meta_info
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_modality_lut
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from fedmr.utils.errors import DataError

_SAME = 0.01  # mm between two positions that is still rounding
_EVEN = 0.05  # share of the slice distance by which a slice may be off its place
_COSINE = 1e-3  # difference of direction cosines that is still rounding
_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM's patient axes point left, posterior, superior

# Element, the functional group that holds it in an enhanced file, number of values.
_GEOMETRY = (
    ("ImagePositionPatient", "PlanePositionSequence", 3),
    ("ImageOrientationPatient", "PlaneOrientationSequence", 6),
    ("PixelSpacing", "PixelMeasuresSequence", 2),
)
# a deflated file: bytes before its meta information, what a scan may unpack to, and how many times its own size
_PREAMBLE, _UNPACKED, _RATIO, _CHUNK = 144, 2**26, 50, 2**20
_LATER = ("PixelPaddingValue", "LossyImageCompression", "SOPInstanceUID", "EchoTime")


@dataclass(frozen=True)
class Frame:
    """One image of a series, not yet decoded.

    Attributes:
        path: its file.
        dataset: all of that file.
        index: number of the image in it.
        scaling: the part of the header with the rescale slope and intercept of this image.
        position: (3,) centre of the first pixel, left-posterior-superior mm.
        axes: (2, 3) unit vectors along a row and along a column.
        spacing: (2,) distance of rows and of columns, mm.
    """

    path: Path
    dataset: Dataset
    index: int
    scaling: Dataset
    position: NDArray[np.float64]
    axes: NDArray[np.float64]
    spacing: NDArray[np.float64]

    def pixels(self) -> NDArray[Any]:
        """(rows, columns) in the units of the header: float32 if it rescales, else the stored whole numbers.

        Raises:
            DataError: truncated or damaged pixel data.
        """
        try:
            stored = self.dataset.pixel_array
            stored = stored[self.index] if stored.ndim == 3 else stored
            values = self._rescaled(stored)
        except DataError:
            raise
        except Exception as error:  # pydicom and each of its decoders raise what they like
            reason = str(error).partition("\n")[0]
            raise DataError(f"{self.path}: its pixel data cannot be decoded ({reason}). Copy it again") from None
        padding = self.dataset.get("PixelPaddingValue")
        return values if padding is None else np.where(stored == padding, values.dtype.type(0), values)

    def _rescaled(self, stored: NDArray[Any]) -> NDArray[Any]:
        slope = float(self.scaling.setdefault("RescaleSlope", 1).value)
        intercept = float(self.scaling.setdefault("RescaleIntercept", 0).value)
        if slope == 0 or not np.isfinite([slope, intercept]).all():
            raise DataError(f"{self.path} has a RescaleSlope of {slope:g}, which leaves no image. Export it again")
        if (slope, intercept) == (1, 0) and "ModalityLUTSequence" not in self.scaling:
            return stored
        return apply_modality_lut(stored, self.scaling).astype(np.float32)


@contextmanager
def quiet() -> Iterator[None]:
    """Without pydicom's warnings on values that break the standard: it reads them all the same, but prints them."""
    with warnings.catch_warnings(), disable_value_validation():
        warnings.simplefilter("ignore")
        yield


def frames_of(path: Path) -> list[Frame]:
    """The images of one file.

    Raises:
        DataError: damaged, without geometry, without pixels, in colour, or compressed so that it cannot be decoded.
    """
    try:
        dataset = dcmread(path, force=True)
        for tag in _LATER:  # pydicom converts an element when it is first asked for, and damage shows only then
            dataset.get(tag)
        return _frames(path, dataset)
    except DataError:
        raise
    except Exception as error:  # pydicom raises whatever a damaged file leads it to
        raise DataError(f"{path} cannot be read ({type(error).__name__}); it is damaged. Copy it again") from None


def check_deflated(path: Path) -> None:
    """Refuse a deflated file that unpacks to far more than scans do, before it is unpacked as a whole.

    Raises:
        DataError: naming the file.
    """
    meta = read_file_meta_info(path)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return
    stream, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    limit = max(_UNPACKED, _RATIO * path.stat().st_size)
    with path.open("rb") as handle:
        handle.seek(_PREAMBLE + int(meta.FileMetaInformationGroupLength))
        part = handle.read(_CHUNK)
        while part and not stream.eof and size <= limit:
            size += len(stream.decompress(part, _CHUNK))
            part = stream.unconsumed_tail or handle.read(_CHUNK)
    if size > limit:
        raise DataError(
            f"{path} is deflated and unpacks to more than {limit / 2**20:.0f} MiB. Export it uncompressed, or leave it "
            "out"
        )


def _frames(path: Path, dataset: Dataset) -> list[Frame]:
    _check_pixels(dataset, path)
    groups = list(dataset.get("PerFrameFunctionalGroupsSequence") or [Dataset()])
    shared = next(iter(dataset.get("SharedFunctionalGroupsSequence") or [Dataset()]))
    count = int(dataset.get("NumberOfFrames") or 1)
    if count != len(groups):
        raise DataError(
            f"{path} holds {count} images, but positions of {len(groups)}. Export it again as enhanced MR or "
            "as single images"
        )
    return [_frame(path, dataset, index, [own, shared]) for index, own in enumerate(groups)]


def _check_pixels(dataset: Dataset, path: Path) -> None:
    missing = [tag for tag in ("Rows", "Columns", "PixelData") if not dataset.get(tag)]
    if missing:
        raise DataError(f"{path} holds no image ({', '.join(missing)} missing); it is truncated. Copy it again")
    size = 8.0 * int(dataset.Rows) * int(dataset.Columns) * int(dataset.get("NumberOfFrames") or 1)
    if size > psutil.virtual_memory().available // 2:
        raise DataError(
            f"{path} says it has {size / 8:.0f} pixels, too many for the memory here. Split it or repair it"
        )
    samples, meaning = dataset.get("SamplesPerPixel", 1), dataset.get("PhotometricInterpretation", "MONOCHROME2")
    if samples != 1 or meaning != "MONOCHROME2":
        raise DataError(
            f"{path} is a colour or an inverted image ({samples} samples per pixel, {meaning}). "
            "Give the grey-value original"
        )
    # a file without preamble does not name its encoding; pydicom has found it out
    implicit, little = dataset.original_encoding
    plain = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    syntax = UID(dataset.file_meta.setdefault("TransferSyntaxUID", plain).value)
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise DataError(f"{path} is stored as {syntax.name}, which no decoder reads. Export it uncompressed") from None
    if not decoder.is_available:
        raise DataError(
            f"{path} is compressed as {syntax.name}. Export it uncompressed or install one of these: "
            f"{'; '.join(decoder.missing_dependencies)}"
        )


def _frame(path: Path, dataset: Dataset, index: int, groups: list[Dataset]) -> Frame:
    values = {tag: _geometry(path, dataset, groups, tag, group, n) for tag, group, n in _GEOMETRY}
    axes, spacing = values["ImageOrientationPatient"].reshape(2, 3), values["PixelSpacing"]
    if (spacing <= 0).any():
        raise DataError(
            f"{path} has a PixelSpacing of {spacing[0]:g} x {spacing[1]:g} mm; both must be above 0. Export it again"
        )
    if np.abs(axes @ axes.T - np.eye(2)).max() > 2 * _COSINE:
        raise DataError(
            f"{path} has an ImageOrientationPatient that is no pair of unit vectors at right angles "
            f"({', '.join(f'{v:g}' for v in axes.flat)}). Export it again"
        )
    scalings = [
        group.PixelValueTransformationSequence[0] for group in groups if "PixelValueTransformationSequence" in group
    ]
    scaling = scalings[0] if scalings else dataset
    return Frame(path, dataset, index, scaling, values["ImagePositionPatient"], axes, spacing)


def _geometry(path: Path, dataset: Dataset, groups: list[Dataset], tag: str, group: str, n: int) -> NDArray[np.float64]:
    """`n` values of an element, of the image itself, of all images of the file, or of the file."""
    holders = [g[group][0] for g in groups if g.get(group)] + [dataset]
    value = next((holder.get(tag) for holder in holders if holder.get(tag) is not None), None)
    if not value:
        raise DataError(f"{path} has no {tag}, so that its place is unknown. Export it again with the full header")
    try:
        numbers = np.array([float(v) for v in value])
    except (TypeError, ValueError):
        numbers = np.array([])
    if numbers.shape != (n,) or not np.isfinite(numbers).all():
        raise DataError(f"{path} has a {tag} that is not {n} numbers. Export it again")
    return numbers


def in_order(frames: Sequence[Frame], name: str, *, single: bool = False) -> tuple[list[Frame], NDArray[np.float64]]:
    """Order images by their position along the slice normal.

    Args:
        frames: of one series.
        name: what messages call the series.
        single: whether one image is enough; its slice distance is its thickness.

    Returns:
        the images, and the (4, 4) affine from (column, row, slice) indices to right-anterior-superior mm.

    Raises:
        DataError: a single image; several matrices, spacings or orientations; missing, repeated or uneven slices.
    """
    if len(frames) == 1 and not single:
        raise DataError(f"{name} is a single image; a volume of 2 slices or more is needed. Leave it out")
    _check_alike(frames, name)
    row, column = frames[0].axes
    normal = np.cross(row, column)
    frames = sorted(frames, key=lambda frame: float(frame.position @ normal))
    _check_places(np.array([frame.position @ normal for frame in frames]), frames, name)
    corners = np.array([frame.position for frame in frames])
    step = (corners[-1] - corners[0]) / (len(frames) - 1) if len(frames) > 1 else normal * _thickness(frames[0])
    off = np.linalg.norm(corners - corners[0] - step * np.arange(len(frames))[:, None], axis=1).max()
    if off > _EVEN * np.linalg.norm(step):
        raise DataError(
            f"{name} is no straight stack: slices are up to {off:.2f} mm off their place. Resample it to an even grid"
        )
    affine = np.eye(4)
    affine[:3] = np.stack([row * frames[0].spacing[1], column * frames[0].spacing[0], step, corners[0]], axis=1)
    return frames, _TO_RAS @ affine


def _thickness(frame: Frame) -> float:
    """Return the slice thickness in mm that a header states, 1 where it states none."""
    holders = [frame.dataset, *(frame.dataset.get("SharedFunctionalGroupsSequence") or [])]
    for holder in holders:
        for item in (holder, *(holder.get("PixelMeasuresSequence") or [])):
            if (value := float(item.get("SliceThickness") or 0)) > 0 and np.isfinite(value):
                return value
    return 1.0


def _check_alike(frames: Sequence[Frame], name: str) -> None:
    for what, values in (
        ("matrix sizes", [(f.dataset.Rows, f.dataset.Columns) for f in frames]),
        ("orientations, as a localizer has", [f.axes.ravel() for f in frames]),
        ("pixel spacings", [f.spacing for f in frames]),
    ):
        table = np.array(values, dtype=np.float64)
        if np.ptp(table, axis=0).max() > _COSINE:
            kinds = len(np.unique(np.round(table, 2), axis=0))
            raise DataError(f"{name} mixes images of {max(kinds, 2)} {what}. Split it, or leave it out")


def _check_places(places: NDArray[np.float64], frames: Sequence[Frame], name: str) -> None:
    """Each place along the normal (mm, ascending) must be taken once, and none left out."""
    if len(frames) == 1:
        return
    gaps = np.diff(places)
    counts = np.bincount(np.concatenate([[0], np.cumsum(gaps > _SAME)]))
    if counts.max() > 1:
        each = str(counts.max()) if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
        raise DataError(f"{name} has {each} images at each of {len(counts)} positions: {_why_repeated(frames)}")
    distance = float(gaps.min())
    steps = np.rint(gaps / distance)
    wide = steps > 1
    if (np.abs(gaps - steps * distance) > _EVEN * distance * steps).any() or wide.mean() > 0.5:
        raise DataError(
            f"{name} is unevenly spaced: its slices are {distance:.2f} to {gaps.max():.2f} mm apart. "
            "Export the series in full, or resample it to an even grid"
        )
    if wide.any():
        holes = [f"{a:.1f} and {b:.1f} mm" for a, b in zip(places[:-1][wide], places[1:][wide], strict=True)]
        more = f" and at {len(holes) - 3} more places" if len(holes) > 3 else ""
        missing = int(steps.sum()) - len(gaps)
        raise DataError(
            f"{name} lacks {missing} slice{'s' if missing > 1 else ''}: between {', '.join(holes[:3])}{more} along the "
            "slice axis. Export the series in full"
        )


def _why_repeated(frames: Sequence[Frame]) -> str:
    if len({(str(f.dataset.get("SOPInstanceUID", f.path)), f.index) for f in frames}) < len(frames):
        return "files are there more than once. Delete the copies"
    echoes = sorted({str(f.dataset.get("EchoTime", "")) for f in frames}, key=lambda echo: (len(echo), echo))
    if len(echoes) > 1:
        return f"echoes at {', '.join(echoes[:8])} ms. Split the series, one for each echo"
    return "stacks, echoes or time points in one series. Split it, one series for each"
