"""Raw k-space in fastMRI's layout: noisy coil images of a phantom through the package's own FFT, written by h5py."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from fedmr.physics.degradation import fft2c
from phantoms import phantom

# as in fastMRI: readout oversampled twice, phase direction padded, slices encoded thicker than reconstructed
HEADER = """<?xml version="1.0" encoding="utf-8"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
  <studyInformation><studyTime>10:11:12</studyTime></studyInformation>
  <encoding>
    <encodedSpace>
      <matrixSize><x>{height}</x><y>{width}</y><z>1</z></matrixSize>
      <fieldOfView_mm><x>{view_x}</x><y>{view_y}</y><z>7.5</z></fieldOfView_mm>
    </encodedSpace>
    <reconSpace>
      <matrixSize><x>{h}</x><y>{w}</y><z>1</z></matrixSize>
      <fieldOfView_mm><x>{h}</x><y>{w}</y><z>{thickness}</z></fieldOfView_mm>
    </reconSpace>
    <trajectory>cartesian</trajectory>
    <encodingLimits>
      <kspace_encoding_step_1><minimum>0</minimum><maximum>35</maximum><center>18</center></kspace_encoding_step_1>
    </encodingLimits>
  </encoding>
</ismrmrdHeader>"""


def header(
    kspace: tuple[int, int] = (64, 40), recon: tuple[int, int] = (32, 30), thickness: float = 5.0, pixel: float = 1.0
) -> bytes:
    """An ISMRMRD header of square pixels of `pixel` mm."""
    (height, width), (h, w) = kspace, recon
    views = {"view_x": height * pixel, "view_y": width * pixel, "thickness": thickness}
    return HEADER.format(height=height, width=width, h=h, w=w, **views).encode()


def kspace_of(seed: int = 0, slices: int = 3, coils: int = 4, size: tuple[int, int] = (64, 40)) -> np.ndarray:
    """(S, C, H, W) complex64: phantom x coil sensitivities, with phase and noise."""
    rng = np.random.default_rng(seed)
    anatomy = np.zeros((slices, *size))
    inner = phantom(seed, (24, 28, slices))  # (X, Y, Z) in the middle of the picture
    top, left = (size[0] - 28) // 2, (size[1] - 24) // 2
    anatomy[:, top : top + 28, left : left + 24] = inner.transpose(2, 1, 0)
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in size), indexing="ij")
    angles = np.linspace(0, 2 * np.pi, coils, endpoint=False)[:, None, None]
    sensitivity = np.exp(-((x - np.cos(angles)) ** 2) - (y - np.sin(angles)) ** 2 + 1j * (x + angles))
    images = anatomy[:, None] * sensitivity + rng.normal(0, 1, (slices, coils, *size))
    return fft2c(torch.from_numpy(images.astype(np.complex64))).numpy()


def write(path: Path, datasets: dict[str, Any], **attributes: Any) -> Path:
    """Write an HDF5 file; a dataset of None is left out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as handle:
        for name, values in datasets.items():
            if values is not None:
                handle[name] = values
        handle.attrs.update(attributes)
    return path
