"""Knowledge of preflight about a site: figures of every scan, which is read once and not kept."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from nibabel.affines import obliquity
from numpy.typing import NDArray

from fedmr.data.acquired_grid import find_acquired_grid
from fedmr.data.images import Image, canonical, check, check_anatomy, read_nifti
from fedmr.data.images import slices as slices_of
from fedmr.metrics import FOREGROUND
from fedmr.tasks.base import Task
from fedmr.utils.errors import DataError
from fedmr.utils.progress import Progress

Status = Literal["pass", "warn", "fail"]
_AT_ONCE = 4  # volumes in memory
_PLANES = ("sagittal", "coronal", "axial")


@dataclass(frozen=True)
class Check:
    """One row: what was looked at, how it stands, what was found and, unless it passes, what to do."""

    name: str
    status: Status
    finding: str
    remedy: str = ""


@dataclass(frozen=True)
class ScanFigures:
    """Figures of one scan, as training would read it.

    Attributes:
        image, patient, contrast, split: as in the datalist.
        shape: (S, H, W).
        voxel: mm along S, H, W.
        stated: difference between the voxel size in the datalist and in the file, "" if none.
        plane: of its slices, "axial", "coronal" or "sagittal".
        tilt: degrees between its axes and the body's.
        notes: what the reader remarked on its orientation.
        content: hash of its positive voxels in the order of their values, so that it does not depend on how they are
            stored: turned, flipped, or with another margin of zeros.
        median: of the foreground, in the file's units.
        peak: maximum over 99.9th percentile.
        clipped: share of the foreground that has exactly the maximum, but for one voxel, which must have it.
        negative: share of voxels below 0, which are read as 0.
        usable: number of slices that the task trains on, or would if the scan were in the training split.
        gaps: number of constant slices between others.
        finer: how its grid is finer than the acquired, "" if it is not.
    """

    image: str
    patient: str
    contrast: str
    split: str
    shape: tuple[int, int, int]
    voxel: tuple[float, float, float]
    stated: str
    plane: str
    tilt: float
    notes: tuple[str, ...]
    content: str
    median: float
    peak: float
    clipped: float
    negative: float
    usable: int
    gaps: int
    finer: str


@dataclass(frozen=True)
class SiteFindings:
    """A site's folder, its datalist, the scans that can be read, and why the others cannot."""

    folder: Path
    task: Task
    datalist: dict[str, Any]
    scans: list[ScanFigures]
    bad: list[str]

    @property
    def entries(self) -> list[dict[str, Any]]:
        """Volumes as the datalist has them."""
        entries: list[dict[str, Any]] = self.datalist["volumes"]
        return entries

    def shorten(self, error: Exception) -> str:
        """Return what an error says, with files named from the site's folder on, as the datalist names them."""
        return str(error).replace(f"{self.folder}{os.sep}", "") or type(error).__name__


def judge(name: str, good: str, remedy: str, *, fails: Sequence[str] = (), warns: Sequence[str] = ()) -> Check:
    """A row that passes with `good`, or says all that is wrong, a line each."""
    if not fails and not warns:
        return Check(name, "pass", good)
    return Check(name, "fail" if fails else "warn", "\n".join([*fails, *warns]), remedy)


def some(names: Iterable[str], limit: int = 10) -> str:
    """Names separated by commas; of many, the first ones and how many more."""
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def read_site(folder: Path, task: Task, datalist: dict[str, Any], progress: Progress) -> SiteFindings:
    """Read every volume of a datalist, a few at once; what cannot be used keeps no other from being read."""
    site = SiteFindings(folder, task, datalist, [], [])
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # small work, at which its threads would wait for one another and for these
    try:
        with ThreadPoolExecutor(min(_AT_ONCE, os.cpu_count() or 1)) as pool:
            results = pool.map(partial(_try_scan, site), site.entries)
            for number, (entry, result) in enumerate(zip(site.entries, results, strict=True)):
                progress(entry["image"], number, len(site.entries))
                if isinstance(result, ScanFigures):
                    site.scans.append(result)
                else:
                    site.bad.append(result)
    finally:
        torch.set_num_threads(before)
    return site


def _try_scan(site: SiteFindings, entry: dict[str, Any]) -> ScanFigures | str:
    """Return the figures of a volume, or why it cannot be used."""
    try:
        return _read_scan(site.folder, entry, site.task)
    except (DataError, OSError) as error:
        return site.shorten(error)
    except MemoryError:
        return f"{entry['image']} needs more memory than this machine has"


def _read_scan(folder: Path, entry: dict[str, Any], task: Task) -> ScanFigures:
    path = folder / entry["image"]
    image = read_nifti(path)
    if entry.get("shape") not in (None, list(image.voxels.shape)):
        raise DataError(f"{path} has shape {list(image.voxels.shape)}, the datalist says {entry['shape']}")
    check(image, path)
    check_anatomy(image, path)
    if isinstance(entry.get("kspace"), str):
        _check_kspace(folder / entry["kspace"])
    turned = canonical(image)
    across, plane = turned.slice_axis, [axis for axis in range(3) if axis != turned.slice_axis]
    stack = slices_of(image)
    return ScanFigures(
        *(entry["image"], entry["patient"], entry["contrast"], entry["split"]),
        shape=(stack.shape[0], stack.shape[1], stack.shape[2]),
        voxel=(turned.spacing[across], turned.spacing[plane[0]], turned.spacing[plane[1]]),
        stated=_difference(entry.get("spacing"), image.spacing),
        plane=_PLANES[across],
        tilt=float(np.degrees(obliquity(image.affine).max())),
        notes=image.notes,
        negative=float((image.voxels < 0).mean()),
        finer=_finer(image, entry),
        **_intensities(stack, task),
    )


def _intensities(stack: NDArray[np.float32], task: Task) -> dict[str, Any]:
    """The fields of `ScanFigures` that depend on values (S, H, W) >= 0, all from one sort."""
    values = np.sort(stack, axis=None)
    top, high = float(values[-1]), float(values[int(0.999 * (values.size - 1))])
    high = high or top
    threshold = np.float32(FOREGROUND * high)  # of the type of the values, which are copied to a wider one else
    foreground = values[np.searchsorted(values, threshold, side="right") :]
    flat = stack.reshape(len(stack), -1)
    filled = np.flatnonzero(flat.max(axis=1) > flat.min(axis=1))
    return {
        "content": hashlib.sha256(values[np.searchsorted(values, np.float32(0), side="right") :].data).hexdigest(),
        "median": float(foreground[len(foreground) // 2]),
        "peak": top / high,
        "clipped": (values.size - 1 - int(np.searchsorted(values, values[-1]))) / len(foreground),
        "usable": int(task.usable_slices(torch.from_numpy(stack)).sum()),
        "gaps": int(np.ptp(filled)) + 1 - len(filled) if len(filled) else 0,
    }


def _finer(image: Image, entry: dict[str, Any]) -> str:
    """Return how the grid is finer than the acquired, "" if it is not or only the image of raw k-space."""
    stated = entry.get("grid")
    if isinstance(stated, dict) and stated.get("kept") is True:
        return f"its grid was kept by --keep-grid, though the acquired one is {stated.get('acquired')}"
    grid = None if isinstance(entry.get("kspace"), str) else find_acquired_grid(image)
    return grid.describe(image.voxels.shape) if grid else ""


def _difference(stated: Any, spacing: tuple[float, float, float]) -> str:
    numbers = isinstance(stated, list) and len(stated) == 3 and all(isinstance(size, int | float) for size in stated)
    if stated is None or (numbers and np.allclose(stated, spacing, rtol=0.01)):
        return ""
    return f"voxel size {stated} in the datalist, {' x '.join(f'{size:g}' for size in spacing)} mm in the file"


def _check_kspace(path: Path) -> None:
    """Refuse all but a raw measurement (S, C, ky, kx); reads slice by slice."""
    try:
        kspace = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read ({error})") from None
    if kspace.ndim != 4 or not np.iscomplexobj(kspace):
        raise DataError(f"{path} holds {kspace.dtype} of shape {kspace.shape}; k-space is complex, (S, C, ky, kx)")
    if not all(np.isfinite(part).all() for part in kspace):
        raise DataError(f"{path} holds values that are NaN or infinite")
