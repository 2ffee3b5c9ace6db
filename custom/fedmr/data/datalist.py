"""From a site's datalist to batches of aligned LR/HR patches.

A site folder holds `datalist.json`:
``{"site": "site-1", "volumes": [{"image": "sub-1/anat/sub-1_T1w.nii.gz", "patient": "sub-1",
"contrast": "T1w", "split": "train"}, ...]}`` with paths relative to it, split train, val or test.
Volumes are degraded once and kept as flat arrays; a batch is one gather.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedmr.data.images import DataError as DataError
from fedmr.data.images import check, read_nifti, slices
from fedmr.data.splits import SPLITS as SPLITS
from fedmr.metrics import FOREGROUND
from fedmr.physics.degradation import degrade, low_size
from fedmr.tasks.config import MIN_FOREGROUND, SuperResolutionTask

DATA_ROOT_VARIABLE = "FEDMR_DATA_ROOT"
DATA_ROOT_FILE = "fedmr_data_root.txt"


@dataclass(frozen=True)
class Volume:
    """One scan, normalised. `hr` (S, H, W) and `lr` (S, h, w) float32, about [0, 1], `intensity` the divisor."""

    name: str
    patient: str
    contrast: str
    split: str
    hr: Tensor
    lr: Tensor
    intensity: float

    @property
    def reference(self) -> Tensor:
        """What the result is compared with, `hr`."""
        return self.hr


def find_site_folder(site: str, local: Path | None = None, near: Sequence[Path] = ()) -> Path:
    """Find `<data root>/<site>`; the root is a fact of the site, never of the job.

    Tried in order: the environment variable FEDMR_DATA_ROOT; the one-line file fedmr_data_root.txt in the FLARE
    site's `local` folder; `data/` in the working directory and in `near`.
    A root that the variable or the file names is final: if it holds no datalist, the others are not tried.

    Args:
        site: FLARE site name.
        local: the site's `local` folder.
        near: further folders that may hold `data/`, e.g. the one in which the simulator was started.

    Raises:
        DataError: no datalist; says what named the data root.
    """
    if os.environ.get(DATA_ROOT_VARIABLE):
        origin, roots = f"that environment variable {DATA_ROOT_VARIABLE} names", [Path(os.environ[DATA_ROOT_VARIABLE])]
    elif local and (local / DATA_ROOT_FILE).is_file():
        origin = f"that file local/{DATA_ROOT_FILE} names"
        roots = [Path((local / DATA_ROOT_FILE).read_text().strip()).expanduser()]
    else:
        origin = "(data/ where the command was typed or beside the FLARE workspace)"
        roots = [folder / "data" for folder in dict.fromkeys(p.resolve() for p in (Path.cwd(), *near))]
    for root in roots:
        if (root / site / "datalist.json").is_file():
            return root / site
    # FLARE can send a site's log to the server, so no path of the site is said
    raise DataError(
        f"no data for site {site!r}: {site}/datalist.json is not in the data root {origin}. Make demo "
        "data with `fedmr demo-data data`, or prepare the site's own with `fedmr prepare`, and set "
        f"{DATA_ROOT_VARIABLE} or write the root into local/{DATA_ROOT_FILE}"
    )


def site_folders(data: Path) -> list[Path]:
    """Site folders of a data root, in the order of the numbers in their names; a site folder itself counts too.

    Raises:
        DataError: no datalist there.
    """
    if (data / "datalist.json").is_file():
        return [data]
    folders = [path.parent for path in data.glob("*/datalist.json")]
    if not folders:
        raise DataError(
            f"{data} holds no site (a folder with datalist.json). Make demo data with `fedmr demo-data {data}`, or "
            "prepare a site's own with `fedmr prepare`"
        )
    return sorted(folders, key=lambda p: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", p.name)])


def read_datalist(folder: Path) -> dict[str, Any]:
    """Read and check `<folder>/datalist.json`.

    Raises:
        DataError: missing or malformed file, missing field or unknown split.
    """
    path = folder / "datalist.json"
    try:
        datalist = json.loads(path.read_text())
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; make it with `fedmr prepare` or `fedmr demo-data`") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not valid JSON ({error}); make it anew with `fedmr prepare`") from None
    volumes = datalist.get("volumes") if isinstance(datalist, dict) else None
    if not isinstance(volumes, list) or not volumes:
        raise DataError(f'{path} holds no volumes; it needs {{"volumes": [{{"image": ...}}, ...]}}')
    for number, entry in enumerate(volumes):
        for key in ("image", "patient", "contrast", "split"):
            if not isinstance(entry, dict) or not isinstance(entry.get(key), str):
                raise DataError(f"{path}: volume {number} has no {key!r}; every volume needs it as a text")
        if entry["split"] not in SPLITS:
            raise DataError(f"{path}: volume {number} has split {entry['split']!r}; known are {', '.join(SPLITS)}")
    return datalist


def read_entries(folder: Path, splits: Sequence[str]) -> list[dict[str, Any]]:
    """The volumes of a site's datalist that are in one of the splits, in its order.

    Raises:
        DataError: as `read_datalist`, or a split without volumes.
    """
    entries = [entry for entry in read_datalist(folder)["volumes"] if entry["split"] in splits]
    for split in splits:
        if not any(entry["split"] == split for entry in entries):
            raise DataError(f"{folder / 'datalist.json'} has no volume of split {split!r}; give it at least one")
    return entries


def read_volume(path: Path, shape: Sequence[int] | None = None) -> Tensor:
    """Read a NIfTI volume as slices of its acquisition plane.

    The volume is turned to the nearest right-anterior-superior orientation. The slice axis is the one with the
    largest voxel size (the last of equals), as in 2-D multi-slice scans.
    Negative values, which only resampling makes, are set to 0.

    Args:
        path: .nii or .nii.gz.
        shape: the (X, Y, Z) that the datalist states, checked if given.

    Returns:
        (S, H, W) float32, values >= 0, in the file's units.

    Raises:
        DataError: missing, unreadable, of another shape, or refused by `images.check`.
    """
    image = read_nifti(path)
    if shape is not None and list(image.voxels.shape) != list(shape):
        raise DataError(
            f"{path} has shape {list(image.voxels.shape)}, the datalist says {list(shape)}. Prepare it again"
        )
    check(image, path)
    return torch.from_numpy(slices(image))


def normalisation(lr: Tensor) -> float:
    """Intensity that becomes 1: the 99.9th percentile of the LR volume, which is known at inference too."""
    return float(np.percentile(lr.numpy(), 99.9)) or float(lr.max())


def load_volumes(folder: Path, task: SuperResolutionTask, splits: tuple[str, ...] = SPLITS) -> list[Volume]:
    """Load, degrade and normalise a site's volumes, in the order of its datalist.

    Args:
        folder: site folder with `datalist.json`.
        task: gives scale, degradation and the patch size that a slice must hold.
        splits: which splits to load; each must be there.

    Raises:
        DataError: naming the offending file or the empty split.
    """
    volumes = []
    for entry in read_entries(folder, splits):
        path = folder / entry["image"]
        hr = read_volume(path, entry.get("shape"))
        if entry["split"] == "train" and min(hr.shape[1:]) < task.smallest_side:
            raise DataError(
                f"{path} has slices of {tuple(hr.shape[1:])} voxels, too small for patch_size {task.patch_size} at "
                f"x{task.scale}: {task.smallest_side} are needed. Take a smaller patch_size or leave out this volume"
            )
        lr = degrade(hr, task.scale, task.degradation)
        intensity = normalisation(lr)
        fields = entry["image"], entry["patient"], entry["contrast"], entry["split"]
        volumes.append(Volume(*fields, hr / intensity, lr / intensity, intensity))
    return volumes


class PatchSampler:
    """Batches of augmented, aligned patch pairs from the training slices of a site.

    All slices lie in two flat arrays, so that slices of any size share one gather. Flips go through the grid:
    on the pixel0 grid the HR partner of a flipped LR patch starts scale-1 pixels earlier, because LR sample p
    stays at HR position scale*p. Slices and patches that are mostly background are left out.

    Args:
        volumes: training volumes.
        task: patch and batch size, patches per slice, seed, grid.
        device: where the arrays live.
    """

    def __init__(self, volumes: list[Volume], task: SuperResolutionTask, device: torch.device | str = "cpu") -> None:
        self.task, self.device = task, torch.device(device)
        lr, hr, corners, rows = [], [], [], []
        lr_offset = hr_offset = corner_offset = 0
        for volume in volumes:
            threshold = FOREGROUND * float(volume.lr.max())
            (height, width), (low_height, low_width) = volume.hr.shape[1:], volume.lr.shape[1:]
            for hr_slice, lr_slice in zip(volume.hr, volume.lr, strict=True):
                valid = self._corners(lr_slice > threshold, height, width)
                if len(valid) == 0:
                    continue
                rows.append((lr_offset, low_width, hr_offset, width, corner_offset, len(valid)))
                lr.append(lr_slice.reshape(-1))
                hr.append(hr_slice.reshape(-1))
                corners.append(valid)
                lr_offset += low_height * low_width
                hr_offset += height * width
                corner_offset += len(valid)
        if not rows:
            raise DataError(
                f"no training patch of {task.patch_size} x {task.patch_size} LR pixels holds {MIN_FOREGROUND:.0%} "
                f"foreground in {len(volumes)} volumes; take a smaller patch_size"
            )
        self.lr, self.hr = torch.cat(lr).to(self.device), torch.cat(hr).to(self.device)
        self.corners = torch.cat(corners).to(self.device)
        self.table = torch.tensor(rows, device=self.device)

    def _corners(self, foreground: Tensor, height: int, width: int) -> Tensor:
        """Flat LR indices (int32) of patch corners whose LR and HR patch, flipped or not, lie in the slice."""
        p, s = self.task.patch_size, self.task.scale
        share = F.avg_pool2d(foreground.float()[None, None], p, stride=1)[0, 0]
        # row 0 and column 0 are left out: a flipped patch needs the s-1 HR pixels before its corner
        good = share[1 : (height // s) - p + 1, 1 : (width // s) - p + 1] >= MIN_FOREGROUND
        y, x = good.nonzero(as_tuple=True)
        return ((y + 1) * low_size(width, s) + x + 1).int()

    @property
    def n_slices(self) -> int:
        """Number of training slices."""
        return len(self.table)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch: `patches_per_slice` patches of every slice."""
        return -(-self.n_slices * self.task.patches_per_slice // self.task.batch_size)

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of epoch `number`, which with the seed determines them, so nothing needs saving for a resume.

        Yields:
            LR (B, 1, p, p) and HR (B, 1, s*p, s*p); all batches but the last have `batch_size` patches.
        """
        generator = torch.Generator().manual_seed(self.task.seed * 1_000_003 + number)
        order = torch.randperm(self.n_slices * self.task.patches_per_slice, generator=generator) % self.n_slices
        for chosen in order.split(self.task.batch_size):
            where = torch.rand(len(chosen), generator=generator, dtype=torch.float64)
            flips = torch.randint(0, 2, (3, len(chosen)), generator=generator).bool()
            yield self.gather(chosen, where, flips)

    def gather(self, chosen: Tensor, where: Tensor, flips: Tensor) -> tuple[Tensor, Tensor]:
        """Cut patches.

        Args:
            chosen: (B,) slice numbers.
            where: (B,) in [0, 1), which of the slice's valid corners.
            flips: (3, B) bool: up-down, left-right, transpose.
        """
        task, p = self.task, self.task.patch_size
        where, flips = where.to(self.device), flips.to(self.device)
        lr_offset, lr_width, hr_offset, hr_width, first, count = self.table[chosen.to(self.device)].T
        corner = self.corners[first + (where * count).long()].long()
        lr_rows = _axis(corner // lr_width, flips[0], p)
        lr_columns = _axis(corner % lr_width, flips[1], p)
        lr = _take(self.lr, lr_offset, lr_width, lr_rows, lr_columns)
        hr_rows = _refine(lr_rows, flips[0], task)
        hr_columns = _refine(lr_columns, flips[1], task)
        hr = _take(self.hr, hr_offset, hr_width, hr_rows, hr_columns)
        transpose = flips[2].view(-1, 1, 1, 1)
        return torch.where(transpose, lr.mT, lr), torch.where(transpose, hr.mT, hr)


def _axis(start: Tensor, flip: Tensor, length: int) -> Tensor:
    """(B,) starts to (B, length) indices, running backwards where `flip`."""
    steps = torch.arange(length, device=start.device)
    return start[:, None] + torch.where(flip[:, None], length - 1 - steps, steps)


def _refine(low: Tensor, flip: Tensor, task: SuperResolutionTask) -> Tensor:
    """LR indices (B, p) to the HR indices (B, s*p) that lie on the same grid after the flip."""
    s = task.scale
    steps = torch.arange(s, device=low.device)
    backwards = (0 if task.grid == "pixel0" else s - 1) - steps
    offset = torch.where(flip[:, None], backwards, steps)
    return (s * low[:, :, None] + offset[:, None, :]).flatten(1)


def _take(flat: Tensor, offset: Tensor, width: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Gather (B, 1, R, C) from a flat array of slices."""
    index = (offset[:, None] + rows * width[:, None])[:, :, None] + columns[:, None, :]
    return flat[index].unsqueeze(1)
