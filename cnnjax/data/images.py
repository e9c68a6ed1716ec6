"""Image files to uint8 arrays, and the crops that are cut from pictures of any size."""

import math
import warnings

import numpy as np
from PIL import Image, ImageOps

from cnnjax.errors import UserError

EXTENSIONS = ('.jpg', '.jpeg', '.png', '.bmp', '.gif', '.tif', '.tiff', '.webp', '.ppm', '.pgm')
warnings.simplefilter('error', Image.DecompressionBombWarning)  # read() says which file it is


def read(path):
    """An image file -> uint8 [H, W, 3], upright.

    EXIF rotation is applied; 16-bit pictures keep their upper 8 bits, gray ones become RGB,
    transparency is laid on white, and of an animation the first frame is taken.

    Raises:
      UserError: the file is not a readable image, with its path and the decoder's reason.
    """
    image = load(path)
    if image.mode == 'F':
        raise UserError(f'{path} holds floating-point numbers, whose range is unknown: save it as '
                        'PNG or JPEG')
    if image.mode.startswith('I'):  # convert() would clip at 255
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    return rgb(image)


def load(path):
    """An image file -> Pillow's image (of an animation the first), upright, in the file's mode.

    Raises:
      UserError: the file is not a readable image, with its path and the decoder's reason.
    """
    try:
        with Image.open(path) as image:
            image.load()  # truncated files fail here
            return ImageOps.exif_transpose(image)
    # Pillow raises many kinds on damaged files (SyntaxError and struct.error among them).
    except Exception as error:
        raise UserError(f'{path} is not a readable image: {error}') from error


def rgb(image):
    """Pillow's image of 8 bits -> uint8 [H, W, 3], transparency laid on white."""
    if image.has_transparency_data:
        image = image.convert('RGBA')
        image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
    return np.asarray(image.convert('RGB'))


def center_crop(image, shorter_side, size):
    """The middle [size, size] of an image whose shorter side is scaled to `shorter_side` pixels."""
    height, width = image.shape[:2]
    side = size * min(height, width) / shorter_side  # of the crop, in pixels of the original
    return _cut(image, (height - side) / 2, (width - side) / 2, side, side, size)


def shorter_side_crop(image, rng, shorter_sides, size):
    """A random [size, size] crop at a random scale: the shorter side is scaled to a whole number
    of pixels in the closed range `shorter_sides` (Simonyan & Zisserman 2014, section 3.1)."""
    height, width = image.shape[:2]
    side = size * min(height, width) / rng.integers(shorter_sides[0], shorter_sides[1] + 1)
    return _cut(image, rng.uniform(0, height - side), rng.uniform(0, width - side), side, side,
                size)


def random_resized_crop(image, rng, area, aspect, size):
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
            return _cut(image, rng.uniform(0, height - h), rng.uniform(0, width - w), h, w, size)
    return center_crop(image, size, size)


def _cut(image, top, left, height, width, size):
    """Cuts a box, in pixels, and scales it to [size, size] by antialiased bilinear filtering."""
    if image.shape[:2] == (size, size) and (height, width) == (size, size):
        return image
    gray = image.shape[-1] == 1
    scaled = Image.fromarray(image[..., 0] if gray else image).resize(
        (size, size), Image.Resampling.BILINEAR,
        box=(max(left, 0), max(top, 0), min(left + width, image.shape[1]),
             min(top + height, image.shape[0])))
    return np.asarray(scaled)[..., None] if gray else np.asarray(scaled)
