"""Pictures of a run: one slice per site in four tiles."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fedmr.runs.figures import METHODS, Figures
from fedmr.tasks.base import Task, Volume

# tiles of a comparison image, and the method whose figures belong to each; the first one's label is the kind's
TILES = {
    "low resolution": None,
    METHODS["zero_filled"]: "zero_filled",
    METHODS["model"]: "model",
    "reference": None,
}


def comparison_image(net: nn.Module, volume: Volume, task: Task) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Middle slice as four tiles side by side: what was measured, zero-filled, network, reference.

    Returns:
        (1, H, 4*W) uint8, one window for all tiles: 0 to the reference slice's 99.9th percentile.
    """
    tiles = task.panels(net, volume)
    window = float(np.percentile(tiles[-1].numpy(), 99.9)) or 1.0
    image = torch.cat(tiles, dim=1).clamp(0, window) * (255 / window)
    return image.round().to(torch.uint8).numpy()[None]


def draw_details(
    images: dict[str, np.ndarray[Any, Any]], figures: Figures, path: Path, labels: Mapping[str, str]
) -> None:
    """Write one row per site: the reference with a box, then the box in the four tiles, enlarged.

    Args:
        images: (H, 4*W) tiles of `comparison_image` by site, not empty.
        figures: of the same sites; their PSNR stands over the tiles.
        path: .png to write.
        labels: names of the methods; the network's is that of the run's task.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.patches import Rectangle

    fig, axes = plt.subplots(len(images), 5, figsize=(12.5, 2.62 * len(images)), squeeze=False)
    for row, (site, image) in zip(axes, images.items(), strict=True):
        tiles = [np.rot90(tile) for tile in np.split(image, 4, axis=1)]  # anterior up, as scans are shown
        top, left, side = most_detailed_box(tiles[3])
        row[0].imshow(tiles[3], cmap="gray", vmin=0, vmax=255)
        row[0].add_patch(Rectangle((left, top), side, side, fill=False, edgecolor="gold"))
        row[0].set_title(site, fontsize=9)
        for axis, tile, (label, method) in zip(row[1:], tiles, TILES.items(), strict=True):
            axis.imshow(tile[top : top + side, left : left + side], cmap="gray", vmin=0, vmax=255)
            value = f", {figures['sites'][site][method]['psnr']:.2f} dB" if method else ""
            axis.set_title((labels[method] if method else label) + value, fontsize=9)
    for axis in axes.flat:
        axis.set_axis_off()
    fig.tight_layout(pad=0.8, h_pad=1.2)
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=110)
    plt.close(fig)


def most_detailed_box(image: np.ndarray[Any, Any]) -> tuple[int, int, int]:
    """Return top, left and side of the square of an image (H, W) with the largest sum of gradients, in pixels.

    Its side is a third of the image's, and it lies well inside.
    """
    side = min(image.shape) // 3
    margin = side * 3 // 4  # past skull and scalp, whose edges are the strongest
    gradient = np.abs(np.diff(image.astype(float), axis=0))[:, 1:] + np.abs(np.diff(image.astype(float), axis=1))[1:]
    total = np.pad(gradient, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    sums = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    inner = sums[margin:-margin, margin:-margin]
    top, left = np.unravel_index(inner.argmax(), inner.shape)
    return int(top) + margin, int(left) + margin, side
