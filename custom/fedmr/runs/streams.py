"""Reader of what sites streamed to the server's TensorBoard files: curves and pictures."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmr.runs.checks import RecordError, Refused
from fedmr.utils.text import one_line

Picture = NDArray[np.uint8]
_LARGEST = 1e30  # of a streamed value; what is beyond cannot be drawn
_MOST_VALUES = 100_000  # of one curve, beyond which TensorBoard takes a sample
_MOST_BYTES = 32 * 2**20  # of a picture's file
_SIDES = (16, 16384)  # pixels; a comparison of four slices of 4096 x 4096


@dataclass
class Stream:
    """Curves and pictures that one site streamed.

    Attributes:
        scalars: by tag, value by step.
        pictures: by tag, the last one, (H, W) uint8.
        n_pictures: of all tags and steps.
        picture_bytes: that these took.
    """

    scalars: dict[str, dict[int, float]] = field(default_factory=dict)
    pictures: dict[str, Picture] = field(default_factory=dict)
    n_pictures: int = 0
    picture_bytes: int = 0

    @property
    def n_values(self) -> int:
        """Number of values of all curves."""
        return sum(map(len, self.scalars.values()))


def read_stream(folder: Path, refused: Refused) -> Stream:
    """Read what a site streamed into its folder of TensorBoard files.

    Args:
        folder: named as the site.
        refused: takes what is left out: values that are not finite, pictures that are no PNG of a usable size.
    """
    from tensorboard.backend.event_processing.event_accumulator import IMAGES, SCALARS, EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={IMAGES: 0, SCALARS: _MOST_VALUES})
    stream = Stream()
    try:
        events.Reload()
    except Exception as error:  # TensorBoard documents no closed set of errors for a damaged file
        refused.add(f"curves of {folder.name}", f"they cannot be read: {type(error).__name__}")
        return stream
    tags = events.Tags()
    for tag in tags["scalars"]:
        values = {value.step: value.value for value in events.Scalars(tag)}
        good = {step: value for step, value in values.items() if math.isfinite(value) and abs(value) <= _LARGEST}
        if len(good) < len(values):
            refused.add(f"curves of {folder.name}", f"{tag} has {len(values) - len(good)} values that are not finite")
        stream.scalars[one_line(tag, 100)] = good
    for tag in tags["images"]:
        images = [image.encoded_image_string for image in events.Images(tag)]
        stream.n_pictures += len(images)
        stream.picture_bytes += sum(map(len, images))
        try:
            stream.pictures[one_line(tag, 100)] = _decoded(images[-1])
        except RecordError as error:
            refused.add(f"pictures of {folder.name}", f"{tag}: {error}")
    return stream


def _decoded(content: bytes) -> Picture:
    """A picture (H, W) as grey values.

    Raises:
        RecordError: no PNG, or none of a usable size.
    """
    from PIL import Image

    if len(content) > _MOST_BYTES:
        raise RecordError(f"it has {len(content)} bytes; {_MOST_BYTES} are allowed")
    try:
        image = Image.open(BytesIO(content), formats=("PNG",))  # its header alone
        if not all(_SIDES[0] <= side <= _SIDES[1] for side in image.size):
            raise RecordError(f"it has {image.size} pixels; {_SIDES[0]} to {_SIDES[1]} are allowed on a side")
        return np.asarray(image.convert("L"))
    except RecordError:
        raise
    except Exception as error:  # Pillow documents no closed set of errors for a file that is not PNG
        raise RecordError(f"it is no PNG that can be read ({type(error).__name__})") from None


def latest_pictures(streams: Mapping[str, Stream], tag: str) -> dict[str, Picture]:
    """The last picture of a tag by site, (H, 4*W) uint8: four tiles side by side, of sites that streamed one."""
    found: dict[str, Any] = {site: stream.pictures.get(tag) for site, stream in streams.items()}
    return {site: image for site, image in found.items() if image is not None and _has_four_tiles(image)}


def _has_four_tiles(image: Picture) -> bool:
    return image.shape[1] % 4 == 0 and image.shape[1] // 4 >= _SIDES[0]
