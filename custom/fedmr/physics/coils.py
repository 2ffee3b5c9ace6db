"""Images from Cartesian k-space with missing columns, single-coil or multi-coil, and what was measured put back.

K-space is (..., C, ky, kx), centred, orthonormal as `physics.fft2c` makes it; C coils, 1 for single-coil. The image may
be a central part of the field of view, as where the readout is oversampled.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedmr.physics.degradation import fft2c, ifft2c

COIL = -3


def crop_or_pad(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut out the middle of (..., H, W), or pad with zeros, to (..., *size); the origin (H//2, W//2) stays one."""
    (height, width), (new_height, new_width) = image.shape[-2:], size
    top, left = new_height // 2 - height // 2, new_width // 2 - width // 2
    return F.pad(image, (left, new_width - width - left, top, new_height - height - top))


def root_sum_of_squares(coils: Tensor) -> Tensor:
    """Magnitude (..., H, W) of complex coil images (..., C, H, W)."""
    from monai.apps.reconstruction.mri_utils import root_sum_of_squares_t  # here, so that a server holds no MONAI

    root: Tensor = root_sum_of_squares_t(coils.abs(), spatial_dim=COIL)
    return root


def reconstruct_zero_filled(kspace: Tensor, size: tuple[int, int]) -> Tensor:
    """Magnitude image (..., h, w) of k-space (..., C, ky, kx) that has zeros where nothing was measured."""
    return crop_or_pad(root_sum_of_squares(ifft2c(kspace)), size)


def consistent_coils(image: Tensor, kspace: Tensor, measured: Tensor, center: slice) -> Tensor:
    """Coil images that agree with the measurement and are otherwise near an image.

    The image is turned into coil images by maps from the fully measured centre of k-space, c_i / |c| with c_i the
    low-resolution image of coil i, which hold its phase as well. For a single coil the map is the phase alone. Outside
    the image's part of the field of view the zero-filled image stands in.

    Args:
        image: (..., h, w), real.
        kspace: (..., C, ky, kx) with zeros where nothing was measured.
        measured: bool, broadcastable to k-space.
        center: columns of k-space around its middle that are measured.

    Returns:
        complex (..., C, ky, kx) whose k-space is `kspace` where `measured`.
    """
    low = torch.zeros_like(kspace)
    low[..., center] = kspace[..., center]
    low = ifft2c(low)
    maps = low / root_sum_of_squares(low).unsqueeze(COIL).clamp_min(torch.finfo(torch.float32).tiny)
    shape = kspace.shape[-2], kspace.shape[-1]
    inside = crop_or_pad(torch.ones_like(image), shape)
    whole = torch.where(inside > 0, crop_or_pad(image, shape), reconstruct_zero_filled(kspace, shape))
    return ifft2c(torch.where(measured, kspace, fft2c(whole.unsqueeze(COIL) * maps)))


class KspaceNetwork(nn.Module):
    """A network from image to image, made one from k-space to image.

    The zero-filled magnitude is standardised slice by slice, by its own mean and standard deviation, goes through the
    network, and is mapped back; nothing is below 0. With data consistency the measured part of k-space is then put
    back, see `consistent_coils`, and the magnitude taken of that.

    Args:
        net: (N, 1, h, w) to (N, 1, h, w).
        data_consistency: whether to put back what was measured.
    """

    def __init__(self, net: nn.Module, *, data_consistency: bool = False) -> None:
        super().__init__()
        self.net, self.data_consistency = net, data_consistency

    def forward(self, kspace: Tensor, measured: Tensor, center: slice, size: tuple[int, int]) -> Tensor:
        """Reconstruct slices.

        Args:
            kspace: (N, C, ky, kx) with zeros where nothing was measured.
            measured: bool, broadcastable to k-space.
            center: columns around the middle that are measured.
            size: (h, w) of the image.

        Returns:
            (N, h, w) float32, values >= 0, in the units of the input.
        """
        image = reconstruct_zero_filled(kspace, size)
        mean, std = statistics(image)
        given = ((image - mean) / std).unsqueeze(1).contiguous(memory_format=torch.channels_last)
        image = (self.net(given)[:, 0] * std + mean).clamp_min(0)
        if self.data_consistency:
            coils = consistent_coils(image, kspace, measured, center)
            image = crop_or_pad(root_sum_of_squares(coils), size)
        return image


def statistics(image: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (..., 1, 1) of every slice (..., H, W); the latter is never 0."""
    std, mean = torch.std_mean(image, dim=(-2, -1), keepdim=True)
    return mean, std.clamp_min(torch.finfo(torch.float32).tiny)
