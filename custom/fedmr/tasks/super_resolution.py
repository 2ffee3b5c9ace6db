"""Super-resolution: a network on a volume's slices, and what it is compared with."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from fedmr.physics.degradation import interpolate, zero_filled, zero_filled_acquisition
from fedmr.tasks.config import SuperResolutionTask
from fedmr.tasks.patches import Volume

# LR pixels per forward pass. Bounds the memory of evaluation; four times more costs 1.6x the CPU time, because
# buffers of that size are returned to the system and faulted in again for every layer.
_EVALUATION_PIXELS = 2**16


@torch.no_grad()
def super_resolve(net: nn.Module, low: Tensor, size: tuple[int, int]) -> Tensor:
    """Apply the network slice by slice.

    Args:
        net: the network.
        low: (S, h, w) LR slices, about [0, 1], on any device.
        size: HR size (H, W), at most scale * (h, w).

    Returns:
        (S, H, W) float32 on the device of `low`, values >= 0 (a magnitude image has no negative ones).
    """
    net.eval()
    device = next(net.parameters()).device
    batch = max(1, _EVALUATION_PIXELS // low[0].numel())
    outputs = []
    for part in low.split(batch):
        part = part.unsqueeze(1).to(device).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            output = net(part)
        outputs.append(output[:, 0, : size[0], : size[1]].float().clamp_min(0).to(low.device))
    return torch.cat(outputs)


def restore(net: nn.Module, volume: Volume, task: SuperResolutionTask) -> Tensor:
    """SR of a volume's LR slices, (S, H, W), values >= 0."""
    return super_resolve(net, volume.lr, (volume.hr.shape[1], volume.hr.shape[2]))


def baselines(volume: Volume, task: SuperResolutionTask) -> dict[str, Tensor]:
    """Zero-filled and grid-aligned bicubic SR of a volume, (S, H, W) each, values >= 0.

    Under k-space truncation zero-filling starts from the complex k-space, the stronger baseline.
    """
    size = volume.hr.shape[1], volume.hr.shape[2]
    bicubic = interpolate(volume.lr.unsqueeze(1), task.scale, task.grid)[:, 0, : size[0], : size[1]]
    if task.degradation == "truncation":
        sinc = zero_filled_acquisition(volume.hr, task.scale)
    else:
        sinc = zero_filled(volume.lr, task.scale, size, task.grid)
    return {"zero_filled": sinc.clamp_min(0), "interpolated": bicubic.clamp_min(0)}


def tiles(net: nn.Module, volume: Volume, task: SuperResolutionTask) -> list[Tensor]:
    """The middle slice as LR (nearest), zero-filled, SR and reference, (H, W) each."""
    middle = volume.hr.shape[0] // 2
    one = replace(volume, hr=volume.hr[middle : middle + 1], lr=volume.lr[middle : middle + 1])
    height, width = one.hr.shape[1:]
    nearest = one.lr.repeat_interleave(task.scale, 1).repeat_interleave(task.scale, 2)[:, :height, :width]
    images = [nearest, baselines(one, task)["zero_filled"], restore(net, one, task), one.hr]
    return [image[0] for image in images]
