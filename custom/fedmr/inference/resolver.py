"""All ways to make a finer volume of a scan have this in common: options, memory, and the place of the result."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import nibabel as nib
import numpy as np
import psutil
import torch
from nibabel.orientations import inv_ornt_aff
from numpy.typing import NDArray

from fedmr.checkpoints.model_file import Model
from fedmr.data.images import MIN_SIDE, Image
from fedmr.physics.degradation import Grid
from fedmr.physics.slice_profile import Profile
from fedmr.utils.errors import DataError

# name of a plane to the axis across it, in right-anterior-superior order
PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}
_CANONICAL = np.array([[0, 1], [1, 1], [2, 1]])


@dataclass(frozen=True)
class Options:
    """How to super-resolve.

    Attributes:
        plane: plane of the slices, a name in `PLANES`; "" for the acquisition plane.
        data_consistency: put what was measured back into the result: k-space, or thick slices.
        tile: side of tiles in LR pixels, 0 for whole slices where memory allows.
        exact: 32-bit arithmetic throughout; else faster, see `tiles.SliceNetwork`.
        device: "cpu", "cuda", or "" for the GPU where there is one.
        deidentify: leave the person, dates, places and free text out of the result's header.
        uncertainty: average over the flips of a slice, and map how far they differ; see `inference.flips`.
        isotropic: side of the result's voxels in mm, 0 for the pixels of the slices; None where the model does not
            work across slices.
        slice_thickness: mm, instead of what the scan's header says; 0 to take that.
        slice_profile: "gaussian", "box" or "sinc"; "" for the one that the model was trained on.
    """

    plane: str = ""
    data_consistency: bool = False
    tile: int = 0
    exact: bool = True
    device: str = ""
    deidentify: bool = False
    uncertainty: bool = False
    isotropic: float | None = None
    slice_thickness: float = 0
    slice_profile: str = ""

    def __post_init__(self) -> None:
        for name, known in (("plane", [*PLANES]), ("device", ["cpu", "cuda"]), ("slice_profile", get_args(Profile))):
            value = getattr(self, name)
            if value and value not in known:
                raise ValueError(f"{name} is {value!r}; known are {', '.join(known)}")
        for name in ("isotropic", "slice_thickness"):
            value = getattr(self, name) or 0
            if not (np.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value}; it must be a length in mm, or 0 to take the scan's own")

    @property
    def chosen_device(self) -> str:
        """The device, or the GPU where none is named and there is one.

        Raises:
            ValueError: no GPU here, though one is asked for.
        """
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("there is no GPU here that torch can use; leave out --device, or give cpu")
        return self.device or ("cuda" if torch.cuda.is_available() else "cpu")


class Resolver(ABC):
    """A model ready to make finer volumes of scans.

    Attributes:
        model: network and card.
        options: how.
    """

    model: Model
    options: Options

    def __call__(
        self, image: Image, *, plane: str = "", progress: Callable[[int, int], None] = lambda done, total: None
    ) -> tuple[Image, NDArray[np.float64]]:
        """Make a finer volume.

        Args:
            image: voxels (X, Y, Z), checked by `images.check`.
            plane: of the slices, a name in `PLANES`; "" for that of the options.
            progress: receives the numbers of slices done and in all.

        Returns:
            the image: voxels float32 in the units of the input; at least 0, but for data consistency, which may ring
            below. And the (4, 4) map from its voxel indices to those of the input; its affine is that of the input
            times this map.

        Raises:
            DataError: the scan does not go with the model, or the result is too large for the memory.
            TileError: see `tiles.SliceNetwork`.
        """
        result, _, step = self.with_spread(image, plane=plane, progress=progress)
        return result, step

    @abstractmethod
    def with_spread(
        self, image: Image, *, plane: str = "", progress: Callable[[int, int], None] = lambda done, total: None
    ) -> tuple[Image, Image | None, NDArray[np.float64]]:
        """Make a finer volume as `__call__` does, and map its uncertainty if the options ask for it.

        Returns:
            the image and the map of voxel indices, as `__call__`; between them the standard deviation over the flips
            of a slice, of the same shape and in the units of the input, or None.
        """

    @property
    @abstractmethod
    def label(self) -> str:
        """Return in a word or two, for names of series, how fine it becomes, e.g. "x2"."""

    @property
    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Return the facts that a record of the result states beside the network."""

    @abstractmethod
    def describe(self, plane: str) -> str:
        """Return what is done to slices of a plane, in words."""

    @property
    @abstractmethod
    def trained_on(self) -> str:
        """Return in words on which images the network was trained."""

    @property
    @abstractmethod
    def kept(self) -> str:
        """Return in a word or two which part of the measurement data consistency keeps."""

    @abstractmethod
    def departure(self, image: Image, result: Image, plane: str = "") -> float:
        """Return the norm of the change that data consistency would make over the norm of the result, in [0, 1]."""

    def remarks(self, image: Image, plane: str = "") -> list[str]:
        """Return what is taken for granted of a scan, for people."""
        return []

    def axis(self, turned: Image, plane: str = "") -> int:
        """Return the axis across the slices of a canonical image: of the plane, else of the options', else its own."""
        chosen = plane or self.options.plane
        return PLANES[chosen] if chosen else turned.slice_axis

    @property
    def least_side(self) -> int:
        """Return the least side of a slice, for `images.check`: a plane that a person names is taken as it is."""
        return 1 if self.options.plane else MIN_SIDE


def check_memory(shape: Sequence[int], bytes_per_voxel: int) -> None:
    """Refuse a result that the memory does not hold.

    Raises:
        DataError: what it needs and what there is.
    """
    size = float(np.prod(shape, dtype=np.float64)) * bytes_per_voxel
    free = psutil.virtual_memory().available
    if size > free:
        raise DataError(
            f"the result of {' x '.join(map(str, shape))} voxels needs {size / 2**30:.1f} GB of memory, "
            f"{free / 2**30:.1f} GB are free. Split the volume or series"
        )


def turn_back(
    voxels: NDArray[np.float32], image: Image, scales: Sequence[float], grid: Grid
) -> tuple[Image, NDArray[np.float64]]:
    """Turn a result from canonical axes to those of the scan, with its geometry.

    Args:
        voxels: (X, Y, Z) along right-anterior-superior axes.
        image: the scan.
        scales: how many times as fine each of these axes is.
        grid: where the scan's voxels lie in the finer grid; "half" goes with factors that are no whole numbers, too.

    Returns:
        the result, and the (4, 4) map from its voxel indices to those of the scan.
    """
    turn = nib.io_orientation(image.affine)
    back = nib.orientations.ornt_transform(_CANONICAL, turn)
    finer = np.diag([1 / s for s in scales] + [1.0])
    if grid == "half":
        finer[:3, 3] = [(1 - s) / (2 * s) for s in scales]
    step = inv_ornt_aff(turn, image.voxels.shape) @ finer @ inv_ornt_aff(back, voxels.shape)
    turned = nib.apply_orientation(voxels, back)
    return replace(image, voxels=turned, affine=image.affine @ step, thickness=0.0), step
