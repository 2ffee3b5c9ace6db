"""Through-plane super-resolution as a task: thick slices to thin ones, learnt from in-plane images."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from fedmr.data.splits import SPLITS
from fedmr.physics.slice_profile import Interpolation, Profile, ThickSlices, interpolate_slices
from fedmr.tasks.base import Task
from fedmr.tasks.patches import MIN_FOREGROUND
from fedmr.tasks.super_resolution import super_resolve
from fedmr.tasks.thick_slices import ThickSliceSampler, ThickVolume, load_volumes, usable_slices
from fedmr.utils.validation import Count, Positive, settings

_TIMES = "\N{MULTIPLICATION SIGN}"
_Profile = Annotated[Mapping[str, Any], Field(description="a mapping with kind and thickness")]
_Range = Annotated[Sequence[int | float], Field(description="two numbers, the smaller first")]
_Share = Annotated[int | float, Field(ge=0, le=1, description="a number from 0 to 1")]


@settings("task: slice_profile")
class SliceProfile:
    """The profiles of the slices that are trained on.

    Attributes:
        kind: "gaussian", "box" or "sinc", see `physics.slice_profile`.
        thickness: least and most FWHM in slice distances; below 1 there is a gap between slices, above 1 they overlap.
    """

    kind: Annotated[Profile, Field(description="gaussian, box or sinc")]
    thickness: _Range


@settings("task:")
class ThroughPlaneTask(Task):
    """Super-resolution across slices. The network maps interpolated slices to sharp ones, at one size.

    Attributes:
        slice_profile: profile of the thick slices, arguments of `SliceProfile`.
        factors: least and most distance of the slices in in-plane pixels; every batch has one of its own between them.
        test_factor: the distance with which validation and test images are made.
        patch_size: side of a patch in pixels.
        patches_per_slice: per epoch.
        noise: the most of the noise that averaging takes away, which a real thick slice has, as a share; a batch has
            some between 0 and this.
        rotated: share of the patches that lie at an angle to the pixels.
    """

    purpose: ClassVar[str] = "through-plane super-resolution"
    measured: ClassVar[str] = "thick slices"
    takes_kspace: ClassVar[bool] = False
    across_slices: ClassVar[bool] = True
    shows_errors: ClassVar[bool] = False
    normalisation: ClassVar[Mapping[str, Any]] = {
        "percentile": 99.9,
        "text": "The 99.9th percentile of the whole thick-slice volume becomes 1, before interpolation and network; "
        "the result is multiplied back. Negative values are set to 0.",
    }

    slice_profile: _Profile
    factors: _Range
    test_factor: Positive = 4
    patch_size: Count = 48
    patches_per_slice: Count = 1
    noise: _Share = 0
    rotated: _Share = 0.5

    @model_validator(mode="after")
    def _check_scale_and_ranges(self) -> Self:
        scale = self.network.get("scale", 2)
        if scale not in (1, [1, 1], (1, 1)):
            raise ValueError(f"task: network scale is {scale}; a through-plane task needs 1")
        profile = SliceProfile(**self.slice_profile)
        for name, values, least in (("factors", self.factors, 1), ("thickness", profile.thickness, 0)):
            if len(values) != 2 or not least < values[0] <= values[1]:
                raise ValueError(
                    f"task: {name} is {list(values)}; it must be two numbers above {least}, the smaller first"
                )
        return self

    @property
    def test_slices(self) -> ThickSlices:
        """Return the thick slices of validation and test images, of the greatest thickness."""
        profile = SliceProfile(**self.slice_profile)
        return ThickSlices(self.test_factor * profile.thickness[1], self.test_factor, profile.kind)

    @property
    def facts(self) -> dict[str, Any]:
        """Factors and profile."""
        return {"factors": list(self.factors), "slice_profile": dict(self.slice_profile)}

    @property
    def smallest_side(self) -> int:
        """A patch."""
        return self.patch_size

    @property
    def least_foreground(self) -> float:
        """`MIN_FOREGROUND` of a patch."""
        return MIN_FOREGROUND * self.patch_size**2

    @property
    def bytes_per_voxel(self) -> float:
        """Sharp image and thick slices, float32, and the halved images of fine pixels."""
        return 4 * (1 + 1 / self.test_factor + 1 / 4)

    def load(self, folder: Path, splits: tuple[str, ...] = SPLITS) -> list[ThickVolume]:
        """Load a site's volumes, with rows as thick slices; see `thick_slices.load_volumes`."""
        return load_volumes(folder, self, splits)

    def sampler(self, volumes: Sequence[ThickVolume], device: torch.device | str = "cpu") -> ThickSliceSampler:
        """Make batches of patches, each batch with slices of its own."""
        return ThickSliceSampler([v for v in volumes if v.split == "train"], self, device)

    def usable_slices(self, images: Tensor) -> Tensor:
        """Return which slices (S, H, W) hold a patch to train on, bool (S,)."""
        return usable_slices(images, self.patch_size)

    def restore(self, net: nn.Module, volume: ThickVolume) -> Tensor:
        """Apply the network to the interpolated slices, (S, H, W), values >= 0."""
        size = volume.hr.shape[1], volume.hr.shape[2]
        return super_resolve(net, interpolate_slices(volume.lr, self.test_slices, size[0]), size)

    def baselines(self, volume: ThickVolume) -> dict[str, Tensor]:
        """Return zero-filled (sinc) and cubic B-spline interpolation of a volume, (S, H, W) each, values >= 0."""
        kinds: dict[str, Interpolation] = {"zero_filled": "sinc", "interpolated": "cubic"}
        low, slices, size = volume.lr, self.test_slices, volume.hr.shape[1]
        return {name: interpolate_slices(low, slices, size, kind).clamp_min(0) for name, kind in kinds.items()}

    def panels(self, net: nn.Module, volume: ThickVolume) -> list[Tensor]:
        """Return the middle slice as thick slices, zero-filled, result and reference, (H, W) each."""
        middle = volume.hr.shape[0] // 2
        one = replace(volume, hr=volume.hr[middle : middle + 1], lr=volume.lr[middle : middle + 1])
        thick = interpolate_slices(one.lr, self.test_slices, one.hr.shape[1], "nearest")
        images = [thick, self.baselines(one)["zero_filled"], self.restore(net, one), one.hr]
        return [image[0] for image in images]

    def describe(self) -> dict[str, str]:
        """Return factors and profile in words."""
        profile = SliceProfile(**self.slice_profile)
        (least, most), (thin, thick) = self.factors, profile.thickness
        return {
            "Slices": f"{least:g} to {most:g} in-plane pixels apart",
            "Slice profile": f"{profile.kind}, FWHM {thin:g} to {thick:g} slice distances",
        }

    def describe_input(self) -> tuple[str, str]:
        """Return how the thick slices of the test images were made."""
        slices = self.test_slices
        return "Thick slices", (
            f"rows of in-plane images averaged by a {slices.profile} profile of {slices.thickness:g} pixels (FWHM), "
            f"every {slices.spacing:g} pixels; interpolated by cubic B-splines"
        )

    def describe_batch(self) -> str:
        """Return size and number of the patches."""
        side = self.patch_size
        return f"patches of {side} {_TIMES} {side} pixels, {self.patches_per_slice} patches per slice"
