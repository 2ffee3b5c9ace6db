"""Transforms of an exported MONAI bundle that MONAI itself lacks.

This file is copied into the bundle as `scripts/transforms.py` and so needs nothing but torch, numpy and MONAI.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor


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
        image = data["image"]
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
        turned = voxels.permute(0, *(axis + 1 for axis in order))
        intensity = float(np.percentile(voxels.numpy(), self.percentile)) or float(voxels.max())
        turned = turned.contiguous() / intensity
        return {**data, "image": _placed(turned, affine[:, [*order, 3]], image), "intensity": intensity}


class Restore:
    """Give the network's output its intensities and its place in the scanner.

    Args:
        scale: super-resolution factor, or two, of rows and columns.
        grid: where low-resolution voxel p lies among the high-resolution ones: "pixel0" at scale*p, "half" at
            scale*p + (scale-1)/2.
    """

    def __init__(self, scale: int | Sequence[int], grid: str) -> None:
        self.scale = torch.tensor([scale, scale] if isinstance(scale, int) else [*scale], dtype=torch.float64)
        self.grid = grid

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """Change "pred", (1, rows*H, columns*W, S), about [0, 1], to the units and the space of the scan."""
        step = torch.diag(torch.cat([1 / self.scale, torch.ones(2, dtype=torch.float64)]))
        if self.grid == "half":
            step[:2, 3] = (1 - self.scale) / (2 * self.scale)
        voxels = torch.as_tensor(data["pred"]).cpu().float() * float(data["intensity"])
        return {**data, "pred": _placed(voxels, data["image"].affine.cpu().double() @ step, data["image"])}


def _placed(voxels: torch.Tensor, affine: torch.Tensor, origin: MetaTensor) -> MetaTensor:
    """Voxels with an affine, and with the file name and the rest that MONAI knows of `origin`."""
    image = MetaTensor(voxels, meta=dict(origin.meta))
    image.affine = affine
    return image
