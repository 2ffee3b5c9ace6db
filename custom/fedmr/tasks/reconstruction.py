"""Reconstruction from under-sampled k-space as a task: a network on a volume's slices, and its baseline."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from fedmr.data.splits import SPLITS
from fedmr.physics.coils import KspaceNetwork, crop_or_pad, reconstruct_zero_filled
from fedmr.physics.masks import make_mask
from fedmr.tasks.base import Task
from fedmr.tasks.slices import MIN_SIGNAL, KspaceVolume, SliceSampler, load_volumes, usable_slices
from fedmr.utils.validation import Count, Flag, settings

_EVALUATION_PIXELS = 2**16  # per forward pass
_DYNAMIC_RANGE = 1e4  # of k-space in a picture
_TIMES = "\N{MULTIPLICATION SIGN}"
_Mask = Annotated[Mapping[str, Any], Field(description="a mapping with the arguments of the mask")]


@settings("task:")
class ReconstructionTask(Task):
    """Reconstruction of slices from k-space of which columns are missing; its network maps image to image.

    Attributes:
        mask: which columns are measured, arguments of `masks.Mask`. A site whose datalist has a `mask` of its own
            takes that, so that scanners that under-sample differently train together.
        size: side to which slices are centrally cropped or padded with zeros for a batch; evaluation is at full size.
        data_consistency: whether measured columns are put back into what the network makes, in evaluation and use.
    """

    purpose: ClassVar[str] = "reconstruction"
    measured: ClassVar[str] = "measured k-space"
    takes_kspace: ClassVar[bool] = True
    shows_errors: ClassVar[bool] = True
    normalisation: ClassVar[Mapping[str, Any]] = {
        "mean": 0.0,
        "standard_deviation": 1.0,
        "text": "Every zero-filled magnitude slice (root sum of squares over the coils) has its mean subtracted and is "
        "divided by its standard deviation, before the network; the result is mapped back by both. Negative values are "
        "set to 0.",
    }

    mask: _Mask
    size: Count = 256
    data_consistency: Flag = False

    @model_validator(mode="after")
    def _check_scale_and_mask(self) -> Self:
        if self.network.get("scale", 1) != 1:
            raise ValueError(f"task: network scale is {self.network['scale']}; reconstruction needs 1")
        make_mask(self.mask)
        return self

    @property
    def facts(self) -> dict[str, Any]:
        """Mask, in full, and data consistency."""
        return {"mask": asdict(make_mask(self.mask)), "data_consistency": self.data_consistency}

    @property
    def smallest_side(self) -> int:
        """Side of which four poolings leave two pixels."""
        return 32

    @property
    def least_foreground(self) -> float:
        """`MIN_SIGNAL` of a training slice."""
        return MIN_SIGNAL * self.size**2

    @property
    def bytes_per_voxel(self) -> float:
        """The reference, float32; raw k-space stays on disk."""
        return 4

    def load(self, folder: Path, splits: tuple[str, ...] = SPLITS) -> list[KspaceVolume]:
        """Load a site's volumes; see `slices.load_volumes`."""
        return load_volumes(folder, self, splits)

    def sampler(self, volumes: Sequence[KspaceVolume], device: torch.device | str = "cpu") -> SliceSampler:
        """Make batches of slices, each under a fresh mask."""
        return SliceSampler([v for v in volumes if v.split == "train"], self, device)

    def usable_slices(self, images: Tensor) -> Tensor:
        """Return which slices (S, H, W) show enough to train on, bool (S,); see `slices.usable_slices`."""
        return usable_slices(images, self)

    def restore(self, net: nn.Module, volume: KspaceVolume) -> Tensor:
        """Reconstruct a volume under its own mask, at full size: (S, H, W) float32 on the CPU, values >= 0."""
        batch = max(1, _EVALUATION_PIXELS // volume.reference[0].numel())
        starts = range(0, len(volume.reference), batch)
        return torch.cat([self._restore(net, volume, start, start + batch) for start in starts])

    @torch.no_grad()
    def _restore(self, net: nn.Module, volume: KspaceVolume, start: int, stop: int) -> Tensor:
        device = next(net.parameters()).device
        kspace, columns, center = volume.measured(start, stop)
        whole = KspaceNetwork(net, data_consistency=self.data_consistency).eval()
        result: Tensor = whole(kspace.to(device), columns.to(device), center, volume.size)
        return result.cpu()

    def baselines(self, volume: KspaceVolume) -> dict[str, Tensor]:
        """Return the zero-filled reconstruction of a volume under its mask, (S, H, W), values >= 0."""
        measured = (volume.measured(number, number + 1)[0] for number in range(len(volume.reference)))
        return {"zero_filled": torch.cat([reconstruct_zero_filled(kspace, volume.size) for kspace in measured])}

    def panels(self, net: nn.Module, volume: KspaceVolume) -> list[Tensor]:
        """Return the middle slice as logarithm of its k-space, zero-filled, result and reference, (H, W) each."""
        middle = len(volume.reference) // 2
        kspace, reference = volume.measured(middle, middle + 1)[0], volume.reference[middle]
        strength = crop_or_pad(torch.linalg.vector_norm(kspace[0], dim=0), volume.size)
        shown = torch.log1p(_DYNAMIC_RANGE * strength / strength.max()) / math.log1p(_DYNAMIC_RANGE)
        image, result = (
            reconstruct_zero_filled(kspace, volume.size)[0],
            self._restore(net, volume, middle, middle + 1)[0],
        )
        return [shown * reference.max(), image, result, reference]

    def describe(self) -> dict[str, str]:
        """Return mask and data consistency in words."""
        mask = make_mask(self.mask)
        columns = f"{mask.kind} columns, {mask.acceleration:g}x, {mask.center_fraction:.0%} in the middle kept"
        return {"Under-sampling": columns, "Measured k-space": "put back" if self.data_consistency else "not put back"}

    def describe_input(self) -> tuple[str, str]:
        """Return which columns of k-space were measured."""
        mask = make_mask(self.mask)
        text = (
            f"{mask.kind} columns, {mask.acceleration:g}{_TIMES} fewer, {mask.center_fraction:.0%} in the middle kept"
        )
        return "Measured k-space", text + ("; put back into the result" if self.data_consistency else "")

    def describe_batch(self) -> str:
        """Return size and mask of the slices."""
        return f"slices, cut or padded to {self.size} {_TIMES} {self.size}, every slice with a fresh mask"
