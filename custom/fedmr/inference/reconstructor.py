"""Raw k-space with missing columns to a reconstructed magnitude image, with a reconstruction model."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmr import __version__
from fedmr.checkpoints.model_file import Model
from fedmr.data.images import Image, check
from fedmr.data.readers import Scan, fastmri
from fedmr.inference.nifti_writer import save_volume
from fedmr.inference.resolver import Options, check_memory
from fedmr.physics.coils import KspaceNetwork
from fedmr.tasks.reconstruction import ReconstructionTask
from fedmr.tasks.registry import expect
from fedmr.utils.errors import DataError

_BATCH_PIXELS = 2**18  # of k-space, over all coils, per forward pass
_WHOLE = 0.75  # share of a column that must be measured: partial Fourier and elliptical corners leave some out


class Reconstructor:
    """A model ready to reconstruct acquisitions slice by slice.

    Args:
        model: network and card; the network moves to the device.
        options: how; measured k-space is put back if they or the model's task say so.

    Raises:
        ValueError: another kind of model, an option for images only, or no GPU here, though one is asked for.
    """

    def __init__(self, model: Model, options: Options | None = None) -> None:
        self.options = options or Options()
        refusal = f"this is a {model.task.purpose} model; only a reconstruction model takes k-space"
        task = expect(model.task, ReconstructionTask, refusal)
        given = {"--plane": self.options.plane, "--tile": self.options.tile, "--fast": not self.options.exact}
        given |= {"--isotropic": self.options.isotropic is not None, "--slice-thickness": self.options.slice_thickness}
        given |= {"--slice-profile": self.options.slice_profile}
        if unfit := [name for name, value in given.items() if value]:
            raise ValueError(f"{', '.join(unfit)} is for super-resolution only; leave it out")
        self.device = self.options.chosen_device
        consistent = self.options.data_consistency or task.data_consistency
        self.net = KspaceNetwork(model.net.to(self.device), data_consistency=consistent).eval()

    def __call__(
        self, kspace: Tensor, size: tuple[int, int], *, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> Tensor:
        """Reconstruct an acquisition.

        Args:
            kspace: (S, C, ky, kx) complex64, with zeros where nothing was measured.
            size: (h, w) of the image.
            progress: receives the numbers of slices done and in all.

        Returns:
            (S, h, w) float32, values >= 0, in the units of the root sum of squares of the coils.
        """
        center = _center((kspace != 0).any(dim=(0, 1, 2)))
        batch = max(1, _BATCH_PIXELS // kspace[0].numel())
        pictures = torch.empty(len(kspace), *size)
        for start in range(0, len(kspace), batch):
            part = kspace[start : start + batch].to(self.device)
            measured = (part != 0).any(dim=1, keepdim=True)
            with torch.inference_mode():
                pictures[start : start + batch] = self.net(part, measured, center, size).cpu()
            progress(min(start + batch, len(kspace)), len(kspace))
        return pictures


def _center(columns: Tensor) -> slice:
    """Return the run of measured columns around the middle; empty if that one is missing."""
    missing = (~columns).nonzero().flatten().tolist()
    middle, width = len(columns) // 2, len(columns)
    start = max((n + 1 for n in missing if n <= middle), default=0)
    return slice(start, max(start, min((n for n in missing if n >= middle), default=width)))


def reconstruct_file(
    reconstructor: Reconstructor,
    source: Path,
    target: Path,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """Reconstruct a fastMRI HDF5 file into a NIfTI file, with the geometry that the reader gives.

    Fully sampled k-space gives the image of its root sum of squares, without the network.

    Args:
        reconstructor: the model and how to use it.
        source: .h5 or .hdf5, with or without a `mask`.
        target: .nii or .nii.gz; written under a passing name and renamed.
        progress: receives the numbers of slices done and in all.

    Returns:
        what is remarkable, for people.

    Raises:
        DataError: the file cannot be used.
        OSError: the result cannot be written.
    """
    image = fastmri.read(Scan((source,), "", ""), masked=True)
    notes = check(image, source)
    if image.kspace is None:
        raise DataError(f"{source} holds no k-space")
    width, height, slices = image.voxels.shape
    check_memory((slices, height, width), 8)
    if any(fastmri.under_sampling(coils) for coils in image.kspace):
        notes.append(_describe((image.kspace != 0).any(axis=1)))
        pictures = reconstructor(torch.from_numpy(image.kspace), (height, width), progress=progress)
        voxels = pictures.numpy().transpose(2, 1, 0)
        made = "reconstructed"
    else:
        notes.append("nothing of its k-space is missing; its image is written as it is, without the network")
        voxels, made = image.voxels, "root sum of squares"
    save_volume(Image(voxels, image.affine), target, f"{made}, FedMR {__version__}")
    return notes


def _describe(measured: NDArray[np.bool_]) -> str:
    """Describe in words which part of k-space (S, ky, kx) is measured."""
    columns = measured.any(axis=(0, 1))
    if measured[..., columns].mean() > _WHOLE:
        return f"{int(columns.sum())} of its {measured.shape[-1]} columns are measured, the others reconstructed"
    return (
        f"{measured.mean():.0%} of its k-space is measured; what is missing are not whole columns, as in the model's "
        "training, so look at the result with care"
    )
