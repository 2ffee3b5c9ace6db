"""Error maps of a run's page."""

from io import BytesIO
from urllib.request import urlopen

import numpy as np
from PIL import Image

from fedmr.reports.html.panels import make_panels
from runs import comparison


def decode(uri: str) -> np.ndarray:
    with urlopen(uri) as answer:  # a data URI, no request
        return np.asarray(Image.open(BytesIO(answer.read())))


def test_error_maps_are_the_absolute_difference_to_the_reference_on_one_scale():
    images = {"a": comparison(1)[0], "b": comparison(2)[0]}
    panels, scale = make_panels(images, "NET")
    assert [tile.label for tile in panels[0].tiles] == ["low resolution", "zero-filled", "NET", "reference"]
    for panel, image in zip(panels, images.values(), strict=True):
        tiles = [np.rot90(tile).astype(float) for tile in np.split(image, 4, axis=1)]
        assert (decode(panel.tiles[3].uri) == tiles[3]).all()
        for drawn, tile in zip(panel.errors, tiles[1:3], strict=True):
            expected = (np.abs(tile - tiles[3]) * (100 / 255)).clip(0, scale.end)
            assert np.abs(decode(drawn.uri) * (scale.end / 255) - expected).max() <= scale.end / 255
        left, top, side = panel.box
        assert left >= 0 <= top
        assert left + side <= panel.width
        assert top + side <= panel.height
    assert scale.stops[0] == (0, "#000004")
