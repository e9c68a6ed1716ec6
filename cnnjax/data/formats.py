"""The formats of image files: which are read, and what the numbers in them mean.

All pictures are read through this file and look the same everywhere: upright (EXIF), gray or RGB,
on white where they are transparent. Of an animation the first frame counts. Gamma and colour
profiles are ignored.
"""

import contextlib
import io
import math
import os
import stat
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from cnnjax.data import levels, tiff
from cnnjax.errors import UserError

Image.init()
# Formats of Pillow that are not read: drawings (Ghostscript would execute an EPS file), films, and
# scientific data, in which no number means white.
NO_PICTURES = ('EPS', 'WMF', 'MPEG', 'FITS', 'HDF5', 'GRIB', 'BUFR', 'IPTC')
SUFFIXES = frozenset(suffix for suffix, kind in Image.registered_extensions().items()
                     if kind in (*Image.OPEN, 'MPO') and kind not in NO_PICTURES)  # MPO is JPEG
# Formats that the first bytes of a file identify for certain; Pillow tries these first.
CERTAIN = tuple(kind for kind in ('JPEG', 'PNG', 'GIF', 'TIFF', 'WEBP', 'AVIF', 'JPEG2000', 'BMP')
                if kind in Image.OPEN)
# All formats in which Pillow may open a file, whatever its suffix.
FORMATS = CERTAIN + tuple(kind for kind in Image.ID
                          if kind in Image.registered_extensions().values()
                          and kind not in (*CERTAIN, *NO_PICTURES))


def is_image(file: str | os.PathLike[str]) -> bool:
    """Whether the first bytes of a file are those of an image, whatever its name."""
    try:
        with open(regular(file), 'rb') as opened:
            prefix = opened.read(16)
    except OSError:
        return False
    accepts = (Image.OPEN[kind][1] for kind in CERTAIN)
    return any(accept is not None and accept(prefix) is True for accept in accepts)


def decode(file: str | os.PathLike[str] | bytes, name: str) -> Image.Image | levels.Deep:
    """Decodes a path, or the bytes of a file, to Pillow's image of mode 'L' or 'RGB', or to a
    `levels.Deep` if the file has more than 8 bits (gray PNG, PGM and TIFF files).

    Colour PNG files of 16 bits are reduced to 8 by Pillow. So are colour TIFF files whose
    compression (LZW, for example) needs the package imagecodecs, if that is not installed.

    White is 1 in floating-point numbers. In integers it is the largest number of as many bits as
    the file says that it uses (TIFF's BitsPerSample and MaxSampleValue, PNG's sBIT).

    Args:
      name: the file's name in error messages.

    Raises:
      UserError: the image cannot be read, for the decoder's reason; its numbers are not finite or
        not between black and white; or its integers have no known white.
    """
    with reading(name), opened(file) as stream:
        start = stream.read(4)
        stream.seek(0)
        if not start:
            raise OSError('it is empty')
        image = tiff.deep(stream, name) if start[:2] in (b'II', b'MM') else None
        if image is None:
            stream.seek(0)
            with open_(stream) as image:
                image.load()  # A truncated file fails here.
                _check_size(image)  # The file of an icon holds several sizes.
                bits = _bits(image, stream)
                image = ImageOps.exif_transpose(image)
            if image.mode == 'F' or image.mode.startswith('I'):
                deep = levels.deep(np.asarray(image), bits, name)
                clear = image.info.get('transparency')  # a gray PNG file's transparent level
                return deep if clear is None else deep._replace(
                    numbers=np.where(deep.numbers == clear, deep.white, deep.numbers))
            image = flat(image)
            if bits.depth > 8:
                levels.check_dark(max(high for _, high in _extrema(image)) / 255, name)
        return image


def open_(file: BinaryIO) -> ImageFile.ImageFile:
    """Pillow's image of an open file, not yet decoded."""
    image = Image.open(file, formats=FORMATS)
    _check_size(image)
    if isinstance(image, TiffImageFile):
        tiff.mend(image)
    return image


def _check_size(image):
    """Raises OSError beyond Pillow's limit, where Pillow only warns up to twice the limit."""
    pixels, limit = math.prod(image.size), Image.MAX_IMAGE_PIXELS
    if limit is not None and pixels > limit:
        raise OSError(f'Image size ({pixels} pixels) exceeds limit of {limit} pixels, could be '
                      'decompression bomb DOS attack.')


class Unreadable(UserError):
    """A file that is not a readable image."""


@contextlib.contextmanager
def reading(name: str) -> Generator[None]:
    """A context that blames every error on the file.

    Raises:
      Unreadable: anything went wrong; the message has `name` and the reason.
    """
    try:
        yield
    except UserError:
        raise
    # Damaged files make Pillow raise many kinds of errors, even SyntaxError and struct.error.
    except Exception as error:
        reason = error
        if isinstance(error, UnidentifiedImageError):  # Its message names a Python object.
            reason = 'its content is of no kind that is known here, or damaged'
        raise Unreadable(f'{name} is not a readable image: {reason}') from error


def regular(path: str | os.PathLike[str]) -> Path:
    """The path, if it is a file; opening a pipe would wait for its writer."""
    path = Path(os.path.expanduser(path))
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError('it is no regular file')
    return path


def flat(image: Image.Image) -> Image.Image:
    """Converts Pillow's image of 8 bits to mode 'L' or 'RGB', with white behind transparency."""
    if image.mode == 'La':  # Pillow can convert this mode only to LA.
        image = image.convert('LA')
    if image.has_transparency_data:
        image = image.convert('RGBA')
        white = Image.new('RGBA', image.size, 'white')
        return Image.alpha_composite(white, image).convert('RGB')
    return in_mode(image, 'L' if image.mode in ('1', 'L') else 'RGB')


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """Pillow's image in this mode; no copy if it already has the mode."""
    return image if image.mode == mode else image.convert(mode)


def opened(file: str | os.PathLike[str] | bytes) -> BinaryIO:
    """A path, or the bytes of a file, opened for reading."""
    return io.BytesIO(file) if isinstance(file, bytes) else open(regular(file), 'rb')


def _bits(image, file):
    """The `levels.Bits` of Pillow's decoded image and its file."""
    if image.format == 'TIFF':
        return tiff.bits(image)
    if image.format == 'PNG':
        return _png_bits(file)
    if image.mode == 'F':
        return levels.Bits(32, 'f')
    if image.mode == 'I' and image.format != 'PPM':  # Pillow scales PPM to 16 bits.
        return levels.Bits(32, 'i')
    return levels.Bits(16 if image.mode.startswith('I') else 8)


def _png_bits(file):
    """The bits in the chunk sBIT: how many the numbers had before they were scaled to the depth of
    the file (https://www.w3.org/TR/png-3/#11sBIT). The chunk stands before the pixels."""
    file.seek(24)
    depth, largest = file.read(1)[0], None
    if depth > 8:
        file.seek(33)  # skips the header
        while len(head := file.read(8)) == 8 and head[4:] != b'IDAT':
            length = int.from_bytes(head[:4], 'big')
            if head[4:] == b'sBIT' and 1 <= length <= 4:
                largest, length = 2 ** max(file.read(length)) - 1, 0
            file.seek(length + 4, os.SEEK_CUR)
    return levels.Bits(depth, largest=largest, scaled=True)


def _extrema(image):
    extrema = image.getextrema()
    return extrema if isinstance(extrema[0], tuple) else (extrema,)
