"""Image files to uint8 arrays, and the crops that are cut from pictures of any size."""

import contextlib
import io
import logging
import math
import os
import stat
import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from cnnjax.errors import UserError

EXTENSIONS = ('.jpg', '.jpeg', '.png', '.bmp', '.gif', '.tif', '.tiff', '.webp', '.ppm', '.pgm')
# JPEGs are decoded at 1/2, 1/4 or 1/8 of their size where a crop then still has this many times the
# pixels, on each side, that it is scaled to. Of photographs of 12 megapixels that takes a fifth of
# the time, and pixels differ from those of the whole photograph by 0.2 levels of 255 (at most 4).
GAP = 2
# How pictures are scaled, all antialiased but 'nearest'; the names are also timm's.
FILTERS = {name.lower(): getattr(Image.Resampling, name)
           for name in ('NEAREST', 'BOX', 'BILINEAR', 'HAMMING', 'BICUBIC', 'LANCZOS')}
# What Pillow may take a file for, whatever its suffix. Not EPS: Ghostscript would run it.
FORMATS = ('JPEG', 'PNG', 'GIF', 'TIFF', 'WEBP', 'BMP', 'PPM', 'JPEG2000')
# Damage that Pillow gets over (of EXIF data, say) is not told; damage of the pixels is an error.
warnings.filterwarnings('ignore', category=UserWarning, module=r'PIL\.')
logging.getLogger('PIL').setLevel(logging.CRITICAL)
warnings.simplefilter('error', Image.DecompressionBombWarning)  # read() says which file it is


def read(path):
    """An image file -> uint8 [H, W, 3], upright.

    EXIF rotation is applied; 16-bit pictures keep their upper 8 bits, gray ones become RGB,
    transparency is laid on white, and of an animation the first frame is taken.

    Raises:
      UserError: the file is not a readable image, with its path and the decoder's reason.
    """
    return np.asarray(_convert(load(path), 'RGB', path))


def load(path):
    """An image file -> Pillow's image (of an animation the first), upright, in the file's mode.

    Raises:
      UserError: the file is not a readable image, with its path and the decoder's reason.
    """
    with _reading(path), _open(_regular(path)) as image:
        image.load()  # truncated files fail here
        return ImageOps.exif_transpose(image)


def rgb(image):
    """Pillow's image of 8 bits -> uint8 [H, W, 3], transparency laid on white."""
    return np.asarray(_flatten(image).convert('RGB'))


class Picture:
    """An encoded image that is decoded, as by read(), only when a crop is cut from it: without a
    detour through arrays, and a JPEG no finer than the crop needs.

    Args:
      file: a path, or the bytes of a file.
      name: what errors call it; None: its path, if it has one.
      mode: 'RGB', or 'L' for gray.

    Raises:
      UserError: here or when it is decoded, as read() does.
    """

    def __init__(self, file, name=None, mode='RGB'):
        self.name = name or ('the image' if isinstance(file, bytes) else file)
        self.mode = mode
        with _reading(self.name):
            self.data = file if isinstance(file, bytes) else _regular(file).read_bytes()
            self.image = _open(io.BytesIO(self.data))
            sideways = False
            if self.image.format in ('JPEG', 'MPO'):
                sideways = self.image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            else:  # whose orientation may follow the pixels
                ImageOps.exif_transpose(self.image, in_place=True)
        self.shape = (*self.image.size[::1 if sideways else -1], len(mode))  # of the upright array

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.decode()[0], dtype).reshape(self.shape)

    def decode(self, scale=1):
        """Pillow's image, how much smaller it is (by 1, or of JPEGs the least of 1/2, 1/4 and 1/8
        that is at least `scale`), and the pixels to the left and above that are not the picture's:
        the decoder completes a last one, which may since have been turned there."""
        image, self.image = self.image, None
        with _reading(self.name):
            image = image or _open(io.BytesIO(self.data))
            width = image.size[0]
            drafted = image.draft(None, [math.ceil(scale * side) for side in image.size])
            scale = drafted[1][2] / width if drafted else 1
            image.load()
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            ImageOps.exif_transpose(image, in_place=True)
        left = image.size[0] - scale * self.shape[1] if orientation in (2, 3, 6, 7) else 0
        top = image.size[1] - scale * self.shape[0] if orientation in (3, 4, 7, 8) else 0
        return _convert(image, self.mode, self.name), scale, (left, top)


def _open(file):
    return Image.open(file, formats=FORMATS)


def _regular(path):
    """The path, if it is a file: to open a pipe would wait for its writer."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError('it is no regular file')
    return Path(path)


@contextlib.contextmanager
def _reading(name):
    """Whatever goes wrong is the file's fault."""
    try:
        yield
    # Pillow raises many kinds on damaged files (SyntaxError and struct.error among them).
    except Exception as error:
        raise UserError(f'{name} is not a readable image: {error}') from error


def _convert(image, mode, name):
    """Pillow's image of any mode -> one of `mode`, 'RGB' or 'L'."""
    if image.mode == 'F':
        raise UserError(f'{name} holds floating-point numbers, whose range is unknown: save it as '
                        'PNG or JPEG')
    if image.mode.startswith('I'):  # convert() would clip at 255
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    image = _flatten(image)
    return image if image.mode == mode else image.convert(mode)


def _flatten(image):
    """Pillow's image with its transparency, if any, laid on white."""
    if not image.has_transparency_data:
        return image
    image = image.convert('RGBA')
    return Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)


def center_crop(image, shorter_side, size, interpolation='bilinear'):
    """The middle [size, size] of an image whose shorter side is scaled to `shorter_side` pixels."""
    height, width = image.shape[:2]
    side = size * min(height, width) / shorter_side  # of the crop, in pixels of the original
    return _cut(image, ((height - side) / 2, (width - side) / 2, side, side), size, interpolation)


def shorter_side_crop(image, rng, shorter_sides, size, interpolation='bilinear'):
    """A random [size, size] crop at a random scale: the shorter side is scaled to a whole number
    of pixels in the closed range `shorter_sides` (Simonyan & Zisserman 2014, section 3.1)."""
    height, width = image.shape[:2]
    side = size * min(height, width) / rng.integers(shorter_sides[0], shorter_sides[1] + 1)
    box = rng.uniform(0, height - side), rng.uniform(0, width - side), side, side
    return _cut(image, box, size, interpolation)


def random_resized_crop(image, rng, area, aspect, size, interpolation='bilinear'):
    """A random part of the image, scaled to [size, size]: its share of the area is uniform in
    `area`, its width / height log-uniform in `aspect`; after ten misfits, the middle square.

    Szegedy et al. 2014, section 6, as in torchvision (https://arxiv.org/abs/1409.4842).
    """
    height, width = image.shape[:2]
    for _ in range(10):
        pixels = height * width * rng.uniform(*area)
        ratio = math.exp(rng.uniform(*np.log(aspect)))
        h, w = math.sqrt(pixels / ratio), math.sqrt(pixels * ratio)
        if h <= height and w <= width:
            box = rng.uniform(0, height - h), rng.uniform(0, width - w), h, w
            return _cut(image, box, size, interpolation)
    return center_crop(image, size, size, interpolation)


def _cut(image, box, size, interpolation):
    """Cuts a box (top, left, height, width), in pixels, and scales it to [size, size]."""
    top, left, height, width = box
    if image.shape[:2] == (size, size) and (height, width) == (size, size):
        return np.asarray(image)
    gray, scale, corner = image.shape[-1] == 1, 1, (0, 0)
    if isinstance(image, Picture):
        whole, scale, corner = image.decode(GAP * size / min(height, width))
    else:
        whole = Image.fromarray(image[..., 0] if gray else image)
    box = (max(left, 0), max(top, 0), min(left + width, image.shape[1]),
           min(top + height, image.shape[0]))
    box = [first + scale * side for first, side in zip(2 * corner, box, strict=True)]
    scaled = np.asarray(whole.resize((size, size), FILTERS[interpolation], box=box))
    return scaled[..., None] if gray else scaled
