"""One volume of a datalist as normalised slices."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedmr.data.images import check, read_nifti, slices
from fedmr.utils.errors import DataError


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


class VolumeReader:
    """Reader of a site's files. One of your own reads another format; the datalist names the files as for any other."""

    def read(self, path: Path, entry: Mapping[str, Any]) -> Tensor:
        """Read one volume as slices, (S, H, W) float32, values >= 0, in any unit.

        Args:
            path: the file that the datalist's entry names.
            entry: fields of the datalist for this volume.

        Raises:
            DataError: naming the file.
        """
        return read_volume(path, entry.get("shape"))


def normalisation(lr: Tensor) -> float:
    """Return the intensity that becomes 1: the 99.9th percentile of the LR volume (S, h, w), known at inference too."""
    return float(np.percentile(lr.numpy(), 99.9)) or float(lr.max())
