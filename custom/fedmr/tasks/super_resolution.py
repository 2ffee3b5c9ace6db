"""Super-resolution as a task: a network on a volume's slices, and what it is compared with."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from fedmr.data.splits import SPLITS
from fedmr.nets import name_of
from fedmr.physics.degradation import (
    GRID_OF,
    Degradation,
    Grid,
    interpolate,
    pair,
    scale_text,
    zero_filled,
    zero_filled_acquisition,
)
from fedmr.tasks.augmentation import Augmented
from fedmr.tasks.base import Sampler, Task
from fedmr.tasks.dp_settings import DpSgd
from fedmr.tasks.patches import MIN_FOREGROUND, PatchSampler, Volume, load_volumes, usable_slices
from fedmr.tasks.poisson_sampling import UnitSampler
from fedmr.utils.validation import Count, settings

_TIMES = "\N{MULTIPLICATION SIGN}"
_DEGRADATIONS = {
    "truncation": "k-space truncation to the central 1/{0} of the matrix along {1}",
    "bicubic": "anti-aliased bicubic resampling by {0} along {1}",
}
_Degradation = Annotated[Degradation, Field(description=f"one of {', '.join(GRID_OF)}")]
_Reader = Annotated[Mapping[str, Any], Field(description="a mapping with '_target_' and arguments")]
_Augmentation = Annotated[
    Sequence[Mapping[str, Any]], Field(description="a list of mappings, each with '_target_' and arguments")
]
_DpSgd = Annotated[Mapping[str, Any], Field(description="a mapping with the numbers of DP-SGD")]

# LR pixels per forward pass. Bounds the memory of evaluation; four times more costs 1.6x the CPU time, because
# buffers of that size are returned to the system and faulted in again for every layer.
_EVALUATION_PIXELS = 2**16


@torch.no_grad()
def super_resolve(net: nn.Module, low: Tensor, size: tuple[int, int]) -> Tensor:
    """Apply the network slice by slice.

    Args:
        net: the network.
        low: (S, h, w) LR slices, about [0, 1], on any device.
        size: HR size (H, W), at most (rows*h, columns*w).

    Returns:
        (S, H, W) float32 on the device of `low`, values >= 0 (a magnitude image has no negative ones).
    """
    from monai.inferers import SliceInferer  # here, so that only a process that trains or tests holds MONAI

    net.eval()
    device = next(net.parameters()).device
    height, width = low.shape[1:]

    def forward(part: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            output: Tensor = net(part.contiguous(memory_format=torch.channels_last))
        return output.float()

    batch = max(1, _EVALUATION_PIXELS // (height * width))
    inferer = SliceInferer(
        spatial_dim=0, roi_size=(height, width), sw_batch_size=batch, sw_device=device, device=low.device
    )
    output: Tensor = inferer(low[None, None], forward)
    return output[0, 0, :, : size[0], : size[1]].clamp_min(0)


@settings("task:")
class SuperResolutionTask(Task):
    """Super-resolution of images; its network states scale and, unless it is that of the degradation, grid.

    Attributes:
        degradation: how LR is made from HR, "truncation" or "bicubic".
        patch_size: side of an LR patch in LR pixels; the HR patch is larger by the scale of each axis.
        patches_per_slice: patches drawn per training slice and epoch.
        augmentation: dictionary transforms by class path, applied to every pair of patches; see `tasks.augmentation`.
        reader: class path of a `data.volumes.VolumeReader` of the sites' files; none for NIfTI.
        dp_sgd: the numbers of `tasks.dp_settings.DpSgd`, if training is to be differentially private. They then stand
            in for `batch_size`, `patches_per_slice` and `clip_norm`.
    """

    purpose: ClassVar[str] = "super-resolution"
    measured: ClassVar[str] = "low resolution"
    takes_kspace: ClassVar[bool] = False
    shows_errors: ClassVar[bool] = False
    normalisation: ClassVar[Mapping[str, Any]] = {
        "percentile": 99.9,
        "becomes": 1.0,
        "text": "Every volume is divided by the 99.9th percentile of its low-resolution intensities, before the "
        "network and not slice by slice; the result is multiplied by it again. Negative values are set to 0.",
    }

    degradation: _Degradation = "truncation"
    patch_size: Count = 32
    patches_per_slice: Count = 4
    augmentation: _Augmentation = field(default_factory=list)
    reader: _Reader = field(default_factory=dict)
    dp_sgd: _DpSgd = field(default_factory=dict)

    @model_validator(mode="after")
    def _check_scale_and_grid(self) -> Self:
        if "scale" not in self.network:
            raise ValueError(f"task: network {dict(self.network)} has no 'scale'; add it")
        grid = self.network.get("grid", self.grid)
        if grid != self.grid:
            raise ValueError(
                f"task: network grid {grid!r} does not belong to degradation {self.degradation!r}; "
                f"use {self.grid!r}, else the image shifts by (scale-1)/2 pixels"
            )
        try:
            factors = pair(self.network["scale"])
        except ValueError as error:
            raise ValueError(f"task: network {error}") from None
        if max(factors) < 2:
            raise ValueError(f"task: network scale is {scale_text(factors)}; super-resolution needs 2 or more")
        return self

    @model_validator(mode="after")
    def _check_privacy(self) -> Self:
        if self.dp_sgd:
            DpSgd.from_dict(self.dp_sgd)
            if self.augmentation:
                raise ValueError("task: dp_sgd takes its patches as they are; leave out augmentation")
            if (chosen := name_of(self.algorithm)) != "fedavg":
                raise ValueError(f"task: dp_sgd goes with algorithm fedavg only, not {chosen}")
        return self

    @property
    def scale(self) -> tuple[int, int]:
        """Super-resolution factors of rows and columns; a config gives one number for both, or a list of two.

        Slices lie in right-anterior-superior order: the rows of an axial slice run from left to right.
        """
        return pair(self.network["scale"])

    @property
    def grid(self) -> Grid:
        """Sampling grid of the degradation."""
        return GRID_OF[self.degradation]

    @property
    def facts(self) -> dict[str, Any]:
        """Scale, degradation and grid."""
        rows, columns = self.scale
        return {
            "scale": rows if rows == columns else [rows, columns],
            "degradation": self.degradation,
            "grid": self.grid,
        }

    @property
    def smallest_side(self) -> int:
        """A patch, and one pixel more, which a flipped one needs, at the larger scale."""
        return (self.patch_size + 1) * max(self.scale)

    @property
    def least_foreground(self) -> float:
        """`MIN_FOREGROUND` of an HR patch."""
        return MIN_FOREGROUND * self.patch_size**2 * math.prod(self.scale)

    @property
    def bytes_per_voxel(self) -> float:
        """HR and LR, float32."""
        return 4 * (1 + 1 / math.prod(self.scale))

    def load(self, folder: Path, splits: tuple[str, ...] = SPLITS) -> list[Volume]:
        """Load, degrade and normalise a site's volumes; see `patches.load_volumes`."""
        return load_volumes(folder, self, splits)

    def sampler(self, volumes: Sequence[Volume], device: torch.device | str = "cpu") -> Sampler:
        """Make batches of patches, or steps of whole units if the task has `dp_sgd`."""
        training = [v for v in volumes if v.split == "train"]
        if self.dp_sgd:
            return UnitSampler(training, self, device)
        patches = PatchSampler(training, self, device)
        return Augmented(patches, self.augmentation, seed=self.seed) if self.augmentation else patches

    def usable_slices(self, images: Tensor) -> Tensor:
        """Return which slices (S, H, W) hold a patch to train on, bool (S,); see `patches.usable_slices`."""
        return usable_slices(images, self)

    def restore(self, net: nn.Module, volume: Volume) -> Tensor:
        """Super-resolve a volume's LR slices, (S, H, W), values >= 0."""
        return super_resolve(net, volume.lr, (volume.hr.shape[1], volume.hr.shape[2]))

    def baselines(self, volume: Volume) -> dict[str, Tensor]:
        """Return zero-filled and grid-aligned bicubic SR of a volume, (S, H, W) each, values >= 0.

        Under k-space truncation zero-filling starts from the complex k-space, the stronger baseline.
        """
        size = volume.hr.shape[1], volume.hr.shape[2]
        bicubic = interpolate(volume.lr.unsqueeze(1), self.scale, self.grid)[:, 0, : size[0], : size[1]]
        if self.degradation == "truncation":
            sinc = zero_filled_acquisition(volume.hr, self.scale)
        else:
            sinc = zero_filled(volume.lr, self.scale, size, self.grid)
        return {"zero_filled": sinc.clamp_min(0), "interpolated": bicubic.clamp_min(0)}

    def panels(self, net: nn.Module, volume: Volume) -> list[Tensor]:
        """Return the middle slice as LR (nearest), zero-filled, SR and reference, (H, W) each."""
        middle = volume.hr.shape[0] // 2
        one = replace(volume, hr=volume.hr[middle : middle + 1], lr=volume.lr[middle : middle + 1])
        height, width = one.hr.shape[1:]
        nearest = one.lr.repeat_interleave(self.scale[0], 1).repeat_interleave(self.scale[1], 2)[:, :height, :width]
        images = [nearest, self.baselines(one)["zero_filled"], self.restore(net, one), one.hr]
        return [image[0] for image in images]

    def interpolated_panel(self, measured: Tensor) -> Tensor:
        """Return (H, W) by bicubic interpolation of the low-resolution pixels that `panels` repeats."""
        low = measured[:: self.scale[0], :: self.scale[1]]
        height, width = measured.shape
        return interpolate(low[None, None].float(), self.scale, self.grid)[0, 0, :height, :width]

    def describe(self) -> dict[str, str]:
        """Return scale, degradation and grid in words."""
        return {
            "Scale": f"x{scale_text(self.scale)} in the slice plane",
            "Degradation": f"{self.degradation}, sampling grid {self.grid}",
        }

    def describe_input(self) -> tuple[str, str]:
        """Return how the low resolution was made."""
        return "Low resolution", _DEGRADATIONS[self.degradation].format(scale_text(self.scale), "both axes")

    def describe_batch(self) -> str:
        """Return size and number of the patches."""
        return (
            f"patches of {self.patch_size} {_TIMES} {self.patch_size} low-resolution pixels, "
            f"{self.patches_per_slice} patches per slice"
        )
