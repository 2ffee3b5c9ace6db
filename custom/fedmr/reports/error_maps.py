"""The picture of a reconstruction: whole slices next to maps of their errors, for aliasing is not in one place."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedmr.runs.figures import Figures


def draw_errors(
    images: Mapping[str, np.ndarray[Any, Any]], figures: Figures, path: Path, labels: Mapping[str, str]
) -> None:
    """Write one row per site: measured k-space, zero-filled and network with their absolute errors, reference.

    Args:
        images: (H, 4*W) tiles of `report.comparison_image` by site, not empty; 255 is the white of the slice.
        figures: of the same sites; their PSNR stands over the tiles.
        path: .png to write.
        labels: names of the methods.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    tiles = {s: [np.rot90(t) for t in np.split(image.astype(float), 4, axis=1)] for s, image in images.items()}
    errors = {s: [np.abs(tile - t[3]) * (100 / 255) for tile in t[1:3]] for s, t in tiles.items()}
    end = max(1, int(np.ceil(np.percentile(np.concatenate([e.ravel() for row in errors.values() for e in row]), 99.5))))
    fig, axes = plt.subplots(len(images), 6, figsize=(14, 2.7 * len(images)), squeeze=False, layout="constrained")
    for row, (site, (kspace, zero_filled, model, reference)) in zip(axes, tiles.items(), strict=True):
        columns = [kspace, zero_filled, errors[site][0], model, errors[site][1], reference]
        values = {m: f"{labels[m]}, {figures['sites'][site][m]['psnr']:.2f} dB" for m in ("zero_filled", "model")}
        titles = [f"{site}: k-space", values["zero_filled"], "its error", values["model"], "its error", "reference"]
        for number, (axis, column, title) in enumerate(zip(row, columns, titles, strict=True)):
            error = number in (2, 4)
            shown = axis.imshow(column, cmap="inferno" if error else "gray", vmin=0, vmax=end if error else 255)
            axis.set_title(title, fontsize=9)
            axis.set_axis_off()
            if number == 4:
                fig.colorbar(shown, ax=axis, format="%g %%", shrink=0.8)
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=110)
    plt.close(fig)
