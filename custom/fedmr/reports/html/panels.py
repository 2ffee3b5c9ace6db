"""Pictures of a run: the tiles that a site shared, and absolute errors made from them, as PNG data URIs."""

from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmr.reports.pictures import TILES, most_detailed_box
from fedmr.runs.figures import METHODS

_WHITE = 255  # of the tiles: the 99.9th percentile of the reference slice
COMPARED = ("zero_filled", "model")


@dataclass(frozen=True)
class Tile:
    """A picture: its label, data URI, and the method whose figures belong to it."""

    label: str
    uri: str
    method: str | None


@dataclass(frozen=True)
class Panel:
    """A site's pictures of (height, width) pixels, and the box (left, top, side) that is shown enlarged at first."""

    site: str
    height: int
    width: int
    box: tuple[int, int, int]
    tiles: list[Tile]
    errors: list[Tile]


@dataclass(frozen=True)
class Scale:
    """The one scale of all error maps: its end in % of white, and its colours as (offset in %, "#rrggbb")."""

    end: int
    stops: list[tuple[int, str]]


def make_panels(
    images: Mapping[str, NDArray[np.uint8]],
    network: str,
    measured: str = "",
    interpolated: Callable[[Tensor], Tensor | None] | None = None,
) -> tuple[list[Panel], Scale]:
    """Cut and colour comparison images.

    Args:
        images: (H, 4*W) tiles of `report.comparison_image` by site, not empty.
        network: label of the network's tile.
        measured: label of the first tile, where it is another than that of `report.TILES`.
        interpolated: makes the picture (H, W) by interpolation of the first tile, where there is one; no site sends it.

    Returns:
        a panel per site, and the scale that their error maps share: 0 to the 99.5th percentile of the zero-filled
        and network errors of all sites, rounded up to a whole per cent of white.
    """
    from matplotlib import colormaps

    tiles = {site: [np.rot90(t) for t in np.split(image, 4, axis=1)] for site, image in images.items()}
    methods = {method: number for number, method in enumerate(TILES.values()) if method}
    errors = {
        site: {m: np.abs(parts[methods[m]].astype(float) - parts[3]) * (100 / _WHITE) for m in COMPARED}
        for site, parts in tiles.items()
    }
    values = np.concatenate([error.ravel() for site in errors.values() for error in site.values()])
    end = max(1, int(np.ceil(np.percentile(values, 99.5))))
    colours = (colormaps["inferno"](np.arange(256))[:, :3] * 255).round().astype(np.uint8)
    panels = []
    for site, parts in tiles.items():
        left_top_side = most_detailed_box(parts[3])
        labels = [network if method == "model" else label for label, method in TILES.items()]
        labels[0] = measured or labels[0]
        shown = [Tile(n, _uri(p), m) for n, p, m in zip(labels, parts, TILES.values(), strict=True)]
        maps = [Tile(labels[methods[m]], _uri(_index(e, end), colours), m) for m, e in errors[site].items()]
        between = _interpolated(images[site], interpolated)
        if between is not None:
            error = np.abs(between.astype(float) - parts[3]) * (100 / _WHITE)
            shown.insert(2, Tile(METHODS["interpolated"], _uri(between), "interpolated"))
            maps.insert(1, Tile(METHODS["interpolated"], _uri(_index(error, end), colours), "interpolated"))
        height, width = parts[3].shape
        box = (left_top_side[1], left_top_side[0], left_top_side[2])
        panels.append(Panel(site=site, height=height, width=width, box=box, tiles=shown, errors=maps))
    stops = [(round(100 * i / 255), "#{:02x}{:02x}{:02x}".format(*colours[i])) for i in range(0, 256, 17)]
    return panels, Scale(end, stops)


def _interpolated(image: NDArray[np.uint8], make: Callable[[Tensor], Tensor | None] | None) -> NDArray[np.uint8] | None:
    """Return the upright tile by interpolation of the first tile of (H, 4*W); None where there is none."""
    first = np.ascontiguousarray(np.split(image, 4, axis=1)[0])
    made = make(torch.from_numpy(first).float()) if make else None
    return None if made is None else np.rot90(made.round().clamp(0, _WHITE).to(torch.uint8).numpy())


def _index(error: NDArray[Any], end: float) -> NDArray[np.uint8]:
    return (error.clip(0, end) * (255 / end)).round().astype(np.uint8)


def _uri(pixels: NDArray[np.uint8], colours: NDArray[np.uint8] | None = None) -> str:
    """Data URI of a PNG: (H, W) grey values, or indices into (256, 3) colours."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(pixels))
    if colours is not None:
        image.putpalette(colours.tobytes())
    buffer = BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + b64encode(buffer.getvalue()).decode()
