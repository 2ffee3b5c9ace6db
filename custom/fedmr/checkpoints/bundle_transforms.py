"""Transforms, cases and metric of an exported MONAI bundle that MONAI itself lacks.

This file is copied into the bundle as `scripts/transforms.py` and so needs nothing but torch, numpy and MONAI.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.metrics import PSNRMetric
from monai.transforms import Randomizable, Transform
from torch import Tensor, nn

FOREGROUND = 0.05  # of the volume's maximum, above which a voxel is foreground
MIN_FOREGROUND = 0.25  # share of a patch that must be foreground


def scans(path: str | Path) -> list[dict[str, str]]:
    """Items of MONAI's dataset: one NIfTI file, or those that lie in a folder.

    Raises:
        FileNotFoundError: there is none.
    """
    source = Path(str(path))
    files = sorted(source.glob("*.nii*")) if source.is_dir() else [source]
    if not files or not all(file.is_file() for file in files):
        raise FileNotFoundError(f"{source} is no NIfTI file and holds none; name a scan or a folder by --input")
    return [{"image": str(file)} for file in files]


def cases(folder: str | Path, split: str) -> list[dict[str, str]]:
    """Items of MONAI's dataset: the high-resolution scans of a split, as the folder's datalist.json states it.

    Args:
        folder: with `datalist.json`, ``{"volumes": [{"image": path in the folder, "split": name}, ..]}``.
        split: "train", "val" or "test".

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the split is empty.
    """
    file = Path(str(folder)) / "datalist.json"
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; `fedmr prepare` makes it, or name a site by --dataset_dir")
    volumes = json.loads(file.read_text())["volumes"]
    chosen = [{"image": str(file.parent / volume["image"])} for volume in volumes if volume["split"] == split]
    if not chosen:
        raise ValueError(f"{file} has no volume with split {split!r}")
    return chosen


def trainable(network: nn.Module) -> nn.Module:
    """Return a network, e.g. a loaded TorchScript, whose weights take gradients."""
    for parameter in network.parameters():  # ScriptModules lack requires_grad_
        parameter.requires_grad_(True)
    return network


class Normalise:
    """Put the slice axis last and divide by the volume's bright end.

    Args:
        percentile: percentile of the volume's intensities that becomes 1.
        slice_axis: axis across the slices, 0 sagittal, 1 coronal, 2 axial; by default the one with the largest voxel
            size, the last of equals.
    """

    def __init__(self, percentile: float, slice_axis: int | None = None) -> None:
        if slice_axis not in (None, 0, 1, 2):
            raise ValueError(f"slice_axis is {slice_axis!r}; give 0 (sagittal), 1 (coronal) or 2 (axial)")
        self.percentile, self.slice_axis = percentile, slice_axis

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """Change "image", (1, X, Y, Z) with values >= 0, to (1, H, W, S), about [0, 1]; add "intensity", the divisor.

        Raises:
            ValueError: no 3-D volume, NaN or infinite voxels, or none above 0.
        """
        turned, affine = self.slices_last(data["image"])
        intensity = self.bright_end(turned)
        return {**data, "image": _placed(turned / intensity, affine, data["image"]), "intensity": intensity}

    def bright_end(self, voxels: Tensor) -> float:
        """Return the percentile of a volume of any shape, in its intensities; its maximum if that is 0."""
        return float(np.percentile(voxels.numpy(), self.percentile)) or float(voxels.max())

    def slices_last(self, image: MetaTensor) -> tuple[Tensor, Tensor]:
        """Return voxels (1, H, W, S), float32, and affine (4, 4) of a checked image (1, X, Y, Z); errors as a call."""
        voxels, affine = image.as_tensor().float(), image.affine.double()
        name = image.meta.get("filename_or_obj", "the image")
        if voxels.ndim != 4 or voxels.shape[0] != 1:
            raise ValueError(f"{name} has shape {tuple(voxels.shape)} with its channel; one 3-D volume is needed")
        if not torch.isfinite(voxels).all() or voxels.max() <= 0:
            raise ValueError(f"{name} holds voxels that are NaN or infinite, or none above 0; repair it")
        spacing = affine[:3, :3].norm(dim=0).tolist()
        thickest = max(range(3), key=lambda axis: (round(spacing[axis], 3), axis))
        across = thickest if self.slice_axis is None else self.slice_axis
        order = [axis for axis in range(3) if axis != across] + [across]
        return voxels.permute(0, *(axis + 1 for axis in order)).contiguous(), affine[:, [*order, 3]]


class Degrade(Normalise):
    """Make the low resolution of a high-resolution scan, for training and tests.

    Args:
        degrade: `scripts.degradation.degrade`.
        scale: super-resolution factor, or two, of rows and columns.
        kind: of degradation, "truncation" or "bicubic".
        percentile, slice_axis: as `Normalise`; the percentile is that of the low resolution.
    """

    def __init__(
        self,
        degrade: Callable[[Tensor, int | Sequence[int], str], Tensor],
        scale: int | Sequence[int],
        kind: str,
        percentile: float,
        slice_axis: int | None = None,
    ) -> None:
        super().__init__(percentile, slice_axis)
        self.degrade, self.scale, self.kind = degrade, scale, kind

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """Return "image" (1, h, w, S) and "label" (1, H, W, S), about [0, 1], of "image" (1, X, Y, Z)."""
        high, _ = self.slices_last(data["image"])
        low = self.degrade(high.permute(0, 3, 1, 2), self.scale, self.kind).permute(0, 2, 3, 1).contiguous()
        intensity = self.bright_end(low)
        return {"image": low / intensity, "label": high / intensity}


class FindPatches:
    """List where patches may be cut: whose low and high resolution, flipped or not, lie in the slice.

    Args:
        scale: super-resolution factor, or two, of rows and columns.
        size: side p of a patch in low-resolution pixels.
    """

    def __init__(self, scale: int | Sequence[int], size: int) -> None:
        self.scale, self.size = _pair(scale), size

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """Add "corners", (K, 3): slice, row and column in the low resolution.

        Raises:
            ValueError: there is none.
        """
        low, (height, width) = data["image"][0], data["label"].shape[1:3]
        inside = (low > FOREGROUND * low.max()).float().permute(2, 0, 1).unsqueeze(1)
        if min(low.shape[:2]) <= self.size:
            raise ValueError(f"slices of {height} x {width} voxels are too small for patch_size {self.size}")
        share = F.avg_pool2d(inside, self.size, stride=1)[:, 0]
        # row 0 and column 0 are left out: a flipped patch needs the voxels before its corner
        last = height // self.scale[0] - self.size + 1, width // self.scale[1] - self.size + 1
        corners = (share[:, 1 : last[0], 1 : last[1]] >= MIN_FOREGROUND).nonzero() + torch.tensor([0, 1, 1])
        if not len(corners):
            raise ValueError(f"no patch of {self.size} x {self.size} low-resolution pixels holds enough foreground")
        return {**data, "corners": corners}


class RandAlignedPatch(Randomizable, Transform):
    """Cut one patch at both resolutions, flipped and transposed at random, so that the grids stay aligned.

    On the pixel0 grid low-resolution voxel p lies at scale*p, so the high resolution of a flipped patch begins scale-1
    voxels earlier.

    Args:
        scale, grid: as `Restore`.
        size: side p of a patch in low-resolution pixels.
    """

    def __init__(self, scale: int | Sequence[int], grid: str, size: int) -> None:
        self.scale, self.grid, self.size = _pair(scale), grid, size

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """Return "image" (1, p, p) and "label" (1, rows*p, columns*p) of what `FindPatches` gives."""
        number, *corner = data["corners"][self.R.randint(len(data["corners"]))].tolist()
        flips = self.R.randint(2, size=3)
        flips[2] &= self.scale[0] == self.scale[1]  # else a transposed patch has other factors
        low, high = data["image"][..., number], data["label"][..., number]
        for axis, start, flip, scale in zip((1, 2), corner, flips[:2], self.scale, strict=True):
            back = (scale - 1) * int(flip) if self.grid == "pixel0" else 0
            low = low.narrow(axis, start, self.size)
            high = high.narrow(axis, scale * start - back, scale * self.size)
            low, high = (low.flip(axis), high.flip(axis)) if flip else (low, high)
        return {"image": low.mT, "label": high.mT} if flips[2] else {"image": low, "label": high}


class CropToLabel:
    """Cut what a network adds where the size is not a multiple of its scale."""

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """Change "pred", (1, H', W', S), to the size of "label", (1, H, W, S)."""
        height, width = data["label"].shape[1:3]
        return {**data, "pred": data["pred"][:, :height, :width]}


class VolumePSNR(PSNRMetric):
    """PSNR of whole volumes in dB, range = maximum of the reference, as FedMR reports it."""

    def __init__(self) -> None:
        super().__init__(max_val=1.0)

    def _compute_metric(self, y_pred: Tensor, y: Tensor) -> Tensor:
        """Return (B, 1) of two images (B, 1, H, W, S) in the same intensities."""
        axes = tuple(range(1, y.ndim))
        error = (y_pred - y).double().square().mean(dim=axes)
        return (10 * torch.log10(y.double().amax(dim=axes) ** 2 / error)).unsqueeze(1)


class Restore:
    """Give the network's output its intensities and its place in the scanner.

    Args:
        scale: super-resolution factor, or two, of rows and columns.
        grid: where low-resolution voxel p lies among the high-resolution ones: "pixel0" at scale*p, "half" at
            scale*p + (scale-1)/2.
    """

    def __init__(self, scale: int | Sequence[int], grid: str) -> None:
        self.scale = torch.tensor(_pair(scale), dtype=torch.float64)
        self.grid = grid

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """Change "pred", (1, rows*H, columns*W, S), about [0, 1], to the units and the space of the scan."""
        step = torch.diag(torch.cat([1 / self.scale, torch.ones(2, dtype=torch.float64)]))
        if self.grid == "half":
            step[:2, 3] = (1 - self.scale) / (2 * self.scale)
        voxels = torch.as_tensor(data["pred"]).cpu().float() * float(data["intensity"])
        return {**data, "pred": _placed(voxels, data["image"].affine.cpu().double() @ step, data["image"])}


def _pair(scale: int | Sequence[int]) -> tuple[int, int]:
    """Return the factors of rows and columns."""
    return (scale, scale) if isinstance(scale, int) else (scale[0], scale[1])


def _placed(voxels: torch.Tensor, affine: torch.Tensor, origin: MetaTensor) -> MetaTensor:
    """Voxels with an affine, and with the file name and the rest that MONAI knows of `origin`."""
    image = MetaTensor(voxels, meta=dict(origin.meta))
    image.affine = affine
    return image
