"""What is found in a picture, and its thumbnail."""

from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from cnnjax import atomic
from cnnjax.data import images
from cnnjax.errors import UserError

THUMBNAIL = 320  # The longer side of a thumbnail, in pixels.
PICTURED = 1000  # The most pictures on the page; a browser takes minutes to open 100,000.


class Found(NamedTuple):
    """What is found in a picture, or why there is nothing."""

    name: str  # the name of the files that are written
    path: str
    record: dict[str, Any] = {}  # its entry in predictions.json
    values: Any = None  # the findings from which the other files are made
    rows: list[tuple[str, float]] = []  # its table on the page: names and page.Shares
    error: UserError | None = None


def each(names, paths, function):
    """function(name, path) of each picture, or a Found with its error, which is printed."""
    found = []
    bar = tqdm(list(zip(names, paths, strict=True)), unit='picture', disable=None)
    for name, path in bar:
        try:
            found.append(function(name, path))
        except UserError as error:
            bar.write(f'skipped: {error}')
            found.append(Found(name, path, error=error))
    return found


def thumbnail(directory, name, image):
    """Writes a small picture of an array, uint8 [H, W, 1 or 3], or of an images.Picture, and
    returns its place in the directory."""
    height, width, channels = image.shape
    size = images.letterbox_shape(image.shape, min(height, width), THUMBNAIL)
    small = images.cut(image, (0, 0, height, width), size)
    place = f'thumbnails/{name}.jpg'
    with atomic.replacing(directory / place) as unfinished:
        Image.fromarray(np.broadcast_to(small, (*size, 3)) if channels == 1 else small).save(
            unfinished, 'JPEG', quality=88)
    return place
