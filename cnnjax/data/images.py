"""Reads image files as uint8 arrays, and cuts crops from pictures of any size."""

import io
import math
import os
from collections.abc import Sequence

import numpy as np
from PIL import ExifTags, Image, ImageOps

from cnnjax.data import formats, levels

# JPEGs are decoded at 1/2, 1/4 or 1/8 of their size if each side of the crop then still has this
# many times the pixels that it is scaled to. For photographs of 12 megapixels that takes a fifth of
# the time, and changes pixels by 0.2 of 255 levels on average (at most 4).
GAP = 2
# Filters that scale pictures, by timm's names; all but 'nearest' are antialiased.
FILTERS = {name.lower(): getattr(Image.Resampling, name)
           for name in ('NEAREST', 'BOX', 'BILINEAR', 'HAMMING', 'BICUBIC', 'LANCZOS')}
JPEG = b'\xff\xd8'  # the first bytes of a JPEG file
Box = tuple[float, float, float, float]  # top, left, height and width, in pixels


def read(path: str | os.PathLike[str]) -> np.ndarray:
    """The picture in a file, upright, as uint8 [H, W, 3].

    formats.py says what the numbers in a file mean. Of more than 8 bits the upper 8 are kept.

    Raises:
      UserError: the file is no readable image; the message has its path and the decoder's reason.
    """
    return np.asarray(formats.in_mode(_load(path, str(path)), 'RGB'))


def orientation(path: str) -> int:
    """The EXIF orientation of an image file; 1, upright, where it has none.

    Raises:
      UserError: it is no image.
    """
    with formats.reading(path), open(formats.regular(path), 'rb') as file:
        return formats.open_(file).getexif().get(ExifTags.Base.Orientation, 1)


def upright_shape(path: str) -> tuple[int, int]:
    """(height, width) of the picture in a file, upright. Of a JPEG only the header is read.

    Raises:
      UserError: as in read().
    """
    with formats.reading(path), open(formats.regular(path), 'rb') as file:
        if file.read(len(JPEG)) == JPEG:
            image = formats.open_(file)
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            width, height = image.size[::-1] if turned else image.size
            return height, width
    height, width, _ = Picture(path).shape
    return height, width


class Picture:
    """An encoded image that is decoded, as by read(), only when a crop is cut from it. This needs
    no array of the whole picture, and decodes a JPEG no finer than the crop needs.

    Args:
      file: a path, or the bytes of a file.
      name: its name in error messages; None: its path, if it has one.
      mode: 'RGB', or 'L' for gray.
      upright: whether a JPEG is turned as its EXIF orientation says.

    Raises:
      UserError: as in read(), either here or when it is decoded.
    """

    def __init__(self, file: str | os.PathLike[str] | bytes, name: str | None = None,
                 mode: str = 'RGB', upright: bool = True):
        self.name = name or ('the image' if isinstance(file, bytes) else str(file))
        self.mode, self.upright = mode, upright
        self.image: Image.Image | None  # until it is decoded
        with formats.reading(self.name):
            self.data = file if isinstance(file, bytes) else formats.regular(file).read_bytes()
            sideways = False
            if self.data.startswith(JPEG):
                self.image = formats.open_(io.BytesIO(self.data))
                sideways = self._orientation(self.image) >= 5
            else:  # The orientation may stand after the pixels in the file.
                self.image = _load(self.data, self.name)
        self.shape = (*self.image.size[::1 if sideways else -1], len(mode))  # after turning it

    def _orientation(self, image):
        return image.getexif().get(ExifTags.Base.Orientation, 1) if self.upright else 1

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.decode()[0], dtype).reshape(self.shape)

    def decode(self, scale: float = 1) -> tuple[Image.Image, float, tuple[float, float]]:
        """Pillow's image, its scale, and the extra pixels at its left and top.

        The scale is 1, or for a JPEG the smallest of 1/2, 1/4 and 1/8 that is at least `scale`.
        The JPEG decoder rounds sizes up with an extra last pixel, which may become the first when
        the image is turned upright.
        """
        image, self.image = self.image, None
        if not self.data.startswith(JPEG):
            return formats.in_mode(image or _load(self.data, self.name), self.mode), 1, (0, 0)
        with formats.reading(self.name):
            image = image or formats.open_(io.BytesIO(self.data))
            width, height = image.size
            drafted = image.draft(None, (math.ceil(scale * width), math.ceil(scale * height)))
            scale = drafted[1][2] / width if drafted else 1
            image.load()
            orientation = self._orientation(image)
            image = ImageOps.exif_transpose(image) if orientation > 1 else image
            image = formats.in_mode(formats.flat(image), self.mode)
        left = image.size[0] - scale * self.shape[1] if orientation in (2, 3, 6, 7) else 0
        top = image.size[1] - scale * self.shape[0] if orientation in (3, 4, 7, 8) else 0
        return image, scale, (left, top)


def _load(file, name):
    """Pillow's image of 8 bits, upright; see formats.decode."""
    image = formats.decode(file, name)
    return image.reduced() if isinstance(image, levels.Deep) else image


def placed_box(shape: Sequence[int], shorter_side: float, size: int | tuple[int, int],
               place: tuple[float, float] = (0.5, 0.5), square: bool = False) -> Box:
    """The box (top, left, height, width), in pixels of a picture [H, W, ...], that becomes `size`,
    a square's side or (height, width), where the shorter side is scaled to `shorter_side` pixels.

    Args:
      place: where it is, from (0, 0), the upper left corner, to (1, 1), the lower right one.
      square: whether these are corners of the largest square in the middle, not of the picture.
    """
    shorter = min(shape[:2])
    height, width = (n * shorter / shorter_side for n in sides(size))
    top, left = (((n - shorter) / 2 if square else 0) + share * ((shorter if square else n) - side)
                 for n, share, side in zip(shape[:2], place, (height, width), strict=True))
    return top, left, height, width


def shorter_side_box(shape: Sequence[int], rng: np.random.Generator,
                     shorter_sides: tuple[int, int], size: int) -> Box:
    """The box of a random [size, size] crop of a picture whose shorter side is scaled to a random
    whole number of pixels in the closed range `shorter_sides` (Simonyan & Zisserman 2014, section
    3.1)."""
    height, width = shape[:2]
    side = size * min(height, width) / rng.integers(shorter_sides[0], shorter_sides[1] + 1)
    return rng.uniform(0, height - side), rng.uniform(0, width - side), side, side


def random_resized_box(shape: Sequence[int], rng: np.random.Generator,
                       area: tuple[float, float], aspect: tuple[float, float]) -> Box:
    """The box of a random part of a picture. Its share of the area is uniform in `area`, its
    width / height log-uniform in `aspect`. If ten draws do not fit, it is the middle square.

    Szegedy et al. 2014, section 6, as in torchvision (https://arxiv.org/abs/1409.4842).
    """
    height, width = shape[:2]
    for _ in range(10):
        pixels = height * width * rng.uniform(*area)
        ratio = math.exp(rng.uniform(*np.log(aspect)))
        h, w = math.sqrt(pixels / ratio), math.sqrt(pixels * ratio)
        if h <= height and w <= width:
            return rng.uniform(0, height - h), rng.uniform(0, width - w), h, w
    return placed_box(shape, 1, 1)


def letterbox_shape(shape: Sequence[int], shorter_side: float,
                    longer_side: float) -> tuple[int, int]:
    """(height, width) of a picture [H, W, ...] that is scaled so that its shorter side has
    `shorter_side` pixels, or fewer where its longer side would exceed `longer_side`.

    Rounded as in torchvision's detectors
    (https://github.com/pytorch/vision/blob/main/torchvision/models/detection/transform.py).
    """
    scale = min(shorter_side / min(shape[:2]), longer_side / max(shape[:2]))
    height, width = (max(math.floor(side * scale), 1) for side in shape[:2])
    return height, width


def sides(size: int | tuple[int, int]) -> tuple[int, int]:
    """The (height, width) of a square of that side, or of what is given as both."""
    return (size, size) if isinstance(size, int) else size


def cut(image: np.ndarray | Picture, box: Box, size: int | tuple[int, int],
        interpolation: str = 'bilinear') -> np.ndarray:
    """The part of an image [H, W, C], an array or a Picture, in a box (top, left, height, width),
    in pixels, scaled to `size`, a square's side or (height, width), by the filter of that name in
    FILTERS."""
    top, left, height, width = box
    rows, columns = sides(size)
    if image.shape[:2] == (rows, columns) == (height, width):
        return np.asarray(image)
    gray, scale, corner = image.shape[-1] == 1, 1, (0, 0)
    if isinstance(image, Picture):
        whole, scale, corner = image.decode(GAP * max(rows / height, columns / width))
    else:
        whole = Image.fromarray(image[..., 0] if gray else image)
    edges = (max(left, 0), max(top, 0), min(left + width, image.shape[1]),
             min(top + height, image.shape[0]))
    left, top, right, bottom = (first + scale * side
                                for first, side in zip(2 * corner, edges, strict=True))
    scaled = np.asarray(whole.resize((columns, rows), FILTERS[interpolation],
                                     (left, top, right, bottom)))
    return scaled[..., None] if gray else scaled
