"""Data of your own format: the datalist names the files, this reads them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedmr.data.volumes import VolumeReader
from fedmr.utils.errors import DataError


class Npy(VolumeReader):
    """Volumes that NumPy saved, slices along the first axis, multiplied by `factor`."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def read(self, path: Path, entry: Mapping[str, Any]) -> Tensor:
        """Read (S, H, W) float32, values >= 0."""
        try:
            voxels = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read as .npy ({error}); write it with numpy.save") from None
        return torch.from_numpy(self.factor * voxels.astype(np.float32).clip(0))
