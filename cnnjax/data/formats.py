"""Image files of every kind: which there are, and what the numbers in them mean.

Whatever reads a picture reads it through this file, so that it looks the same everywhere: upright
(EXIF), gray or RGB, transparency laid on white, the first frame of an animation. Neither gamma nor
colour profiles count.
"""

import contextlib
import functools
import io
import logging
import lzma
import math
import os
import stat
import threading
import warnings
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile
from PIL import Image, ImageOps, ImagePalette, UnidentifiedImageError
from PIL import TiffImagePlugin as Tags

from cnnjax.errors import UserError

# Damage that Pillow gets over (of EXIF data, say) is not told; damage of the pixels is an error.
warnings.filterwarnings('ignore', category=UserWarning, module=r'PIL\.')
logging.getLogger('PIL').setLevel(logging.CRITICAL)
warnings.simplefilter('error', Image.DecompressionBombWarning)  # reading() says which file it is
logging.getLogger('tifffile').setLevel(logging.CRITICAL)  # Pillow then says what is wrong

Image.init()
# Of what Pillow opens: not drawings (Ghostscript would run an EPS file), films, nor the tables of
# the sciences, which have no white.
NO_PICTURES = ('EPS', 'WMF', 'MPEG', 'FITS', 'HDF5', 'GRIB', 'BUFR', 'IPTC')
SUFFIXES = frozenset(suffix for suffix, kind in Image.registered_extensions().items()
                     if kind in (*Image.OPEN, 'MPO') and kind not in NO_PICTURES)  # MPO: as JPEG
# Known for certain by their first bytes; the first that Pillow takes a file for.
CERTAIN = tuple(kind for kind in ('JPEG', 'PNG', 'GIF', 'TIFF', 'WEBP', 'AVIF', 'JPEG2000', 'BMP')
                if kind in Image.OPEN)
# What Pillow may take a file for, whatever its suffix: all that have one.
FORMATS = CERTAIN + tuple(kind for kind in Image.ID
                          if kind in Image.registered_extensions().values()
                          and kind not in (*CERTAIN, *NO_PICTURES))

MAX_SAMPLE_VALUE, SMAX_SAMPLE_VALUE = 281, 341  # tags of TIFF, the second for any kind of number
DARK = 1 / 4  # of white: what has more than 8 bits and is nowhere brighter may have another white
# The codecs that tifffile decodes by itself without an end to what may come out.
BOUNDED = {8: zlib.decompressobj, 32946: zlib.decompressobj,
           34925: functools.partial(lzma.LZMADecompressor, memlimit=2 ** 27)}
with contextlib.suppress(ImportError):  # Python 3.14
    from compression import zstd
    BOUNDED |= dict.fromkeys((50000, 34926), zstd.ZstdDecompressor)


class Deep(NamedTuple):
    """A picture of more than 8 bits."""

    numbers: np.ndarray  # [H, W] or [H, W, 3], integers or floating-point numbers; black is 0
    white: float

    def reduced(self):
        """Pillow's image of 8 bits: the upper ones; of floating-point numbers the nearest level."""
        if self.numbers.dtype.kind == 'u' and self.white > 255:
            levels = self.numbers // ((int(self.white) + 1) // 256)
        else:
            levels = np.rint(self.numbers * (255 / self.white))
        return Image.fromarray(levels.astype(np.uint8))


def is_image(file):
    """Whether the first bytes of a file, which may have any name, are those of an image."""
    try:
        with open(regular(file), 'rb') as opened:
            prefix = opened.read(16)
    except OSError:
        return False
    return any(Image.OPEN[kind][1](prefix) is True for kind in CERTAIN)


def decode(file, name):
    """A path, or the bytes of a file -> Pillow's image, of mode 'L' or 'RGB', or `Deep` where the
    file holds more than 8 bits that can be read: gray PNG and PGM files and TIFF files. Pillow
    reduces colour PNG files of 16 bits to 8; so it does with colour TIFF files whose compression
    (LZW is one) needs the package imagecodecs, where that is not installed.

    White is 1 in floating-point numbers, else the largest number of as many bits as the file says
    that it uses (TIFF's BitsPerSample and MaxSampleValue, PNG's sBIT).

    Args:
      name: what errors call it.

    Raises:
      UserError: no readable image, with the decoder's reason; numbers that are not finite or not
        from black to white; integers whose white is unknown.
    """
    with reading(name), _opened(file) as opened:
        start = opened.read(4)
        opened.seek(0)
        if not start:
            raise OSError('it is empty')
        image = _deep_tiff(opened, name) if start[:2] in (b'II', b'MM') else None
        if image is None:
            opened.seek(0)
            with open_(opened) as image:
                image.load()  # truncated files fail here
                bits = _bits(image, opened)
                image = ImageOps.exif_transpose(image)
            if image.mode == 'F' or image.mode.startswith('I'):
                deep = _deep(np.asarray(image), bits, name)
                clear = image.info.get('transparency')  # of a gray PNG file, the number that is
                return deep if clear is None else deep._replace(
                    numbers=np.where(deep.numbers == clear, deep.white, deep.numbers))
            image = flat(image)
            if bits.depth > 8:
                _check_dark(max(high for _, high in _extrema(image)) / 255, name)
        return image


def open_(file):
    """Pillow's image of an open file, not yet decoded."""
    image = Image.open(file, formats=FORMATS)
    if image.format == 'TIFF':
        _mend(image)
    return image


@contextlib.contextmanager
def reading(name):
    """Whatever goes wrong is the file's fault.

    Raises:
      UserError: with `name` and the reason.
    """
    try:
        yield
    except UserError:
        raise
    # Pillow raises many kinds on damaged files (SyntaxError and struct.error among them).
    except Exception as error:
        reason = error
        if isinstance(error, UnidentifiedImageError):  # its message names what is no path
            reason = 'its content is of no kind that is known here, or damaged'
        raise UserError(f'{name} is not a readable image: {reason}') from error


def regular(path):
    """The path, if it is a file: to open a pipe would wait for its writer."""
    path = Path(os.path.expanduser(path))
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError('it is no regular file')
    return path


def flat(image):
    """Pillow's image of 8 bits -> one of mode 'L' or 'RGB', transparency laid on white."""
    if image.mode == 'La':  # which Pillow converts to nothing else
        image = image.convert('LA')
    if image.has_transparency_data:
        image = image.convert('RGBA')
        white = Image.new('RGBA', image.size, 'white')
        return Image.alpha_composite(white, image).convert('RGB')
    return in_mode(image, 'L' if image.mode in ('1', 'L') else 'RGB')


def in_mode(image, mode):
    """Pillow's image converted, without a copy where it is of that mode."""
    return image if image.mode == mode else image.convert(mode)


class _Bits(NamedTuple):
    """What a file says of its numbers."""

    depth: int
    kind: str = 'u'  # unsigned, or 'i' or 'f' as in numpy
    inverted: bool = False  # 0 is white
    largest: int | None = None  # a number that is said to be the largest one
    scaled: bool = False  # ... where numbers of so few bits were scaled to all bits: see _white


def _opened(file):
    return io.BytesIO(file) if isinstance(file, bytes) else open(regular(file), 'rb')


def _bits(image, file):
    """Of Pillow's image, decoded, and its file."""
    if image.format == 'TIFF':
        tags = image.tag_v2
        kinds = {1: 'u', 2: 'i', 3: 'f'}
        return _Bits(tags.get(Tags.BITSPERSAMPLE, (1,))[0],
                     kinds.get(tags.get(Tags.SAMPLEFORMAT, (1,))[0], 'u'),
                     tags.get(Tags.PHOTOMETRIC_INTERPRETATION) == 0,
                     _first(tags.get(SMAX_SAMPLE_VALUE)) or _first(tags.get(MAX_SAMPLE_VALUE)))
    if image.format == 'PNG':
        return _png_bits(file)
    if image.mode == 'F':
        return _Bits(32, 'f')
    if image.mode == 'I' and image.format != 'PPM':  # of which Pillow scales the numbers
        return _Bits(32, 'i')
    return _Bits(16 if image.mode.startswith('I') else 8)


def _first(value):
    return value[0] if isinstance(value, tuple) else value


def _png_bits(file):
    """sBIT stands before the pixels and says how many bits the numbers had before they were scaled
    to the depth of the file (https://www.w3.org/TR/png-3/#11sBIT)."""
    file.seek(24)
    depth, largest = file.read(1)[0], None
    if depth > 8:
        file.seek(33)  # after the header
        while len(head := file.read(8)) == 8 and head[4:] != b'IDAT':
            length = int.from_bytes(head[:4], 'big')
            if head[4:] == b'sBIT' and 1 <= length <= 4:
                largest, length = 2 ** max(file.read(length)) - 1, 0
            file.seek(length + 4, os.SEEK_CUR)
    return _Bits(depth, largest=largest, scaled=True)


def _deep(numbers, bits, name):
    """Numbers as they are in the file, gray or of the channels of a TIFF file -> Deep."""
    if not np.isfinite(numbers).all():
        raise UserError(f'{name} holds numbers that are not finite (NaN or infinity)')
    low, high = numbers.min(), numbers.max()
    white = _white(numbers, high, bits)
    if white is None:
        kind = {'u': 'integers', 'i': 'signed integers'}[bits.kind]
        raise UserError(f'{name} holds {kind} of {bits.depth} bits, from {low} to {high}: which '
                        'is white? Save the picture with 8 or 16 bits, or name the largest number '
                        '(255, say) in the TIFF tag MaxSampleValue')
    if low < 0 or high > white:
        raise UserError(f'{name} holds numbers from {low:g} to {high:g}, not from 0 to {white}: '
                        'which are black and white? Scale them to [0, 1], or save the picture with '
                        '8 or 16 bits')
    if bits.kind != 'f':
        numbers = numbers.astype(np.uint32 if bits.depth > 16 else np.uint16)
        if white == 2 ** bits.depth - 1:
            _check_dark(high / white, name)
    if bits.inverted:
        numbers = white - numbers
    return Deep(numbers, white)


def _white(numbers, high, bits):
    """The number that is white, or None."""
    if bits.kind == 'f':
        return 1
    largest = bits.largest
    # A number like 1000 was counted in the picture (as TIFF means it), one like 1023 says how many
    # bits there are.
    if largest and 3 <= largest < 2 ** bits.depth - 1 and not largest & (largest + 1):
        if not bits.scaled:
            return largest
        # Scaled ones end with zeros or, rounded or repeated, with hardly more, where they are so
        # small. Files that hold other numbers say sBIT and do not scale.
        if high <= largest and (numbers % (2 ** bits.depth // (largest + 1)) > 1).any():
            return largest
    return 2 ** bits.depth - 1 if bits.kind == 'u' and bits.depth <= 16 else None


_dark = []  # the picture that was told to be dark: one in a process
_telling = threading.Lock()


def _check_dark(brightest, name):
    """Tells of the first picture of more than 8 bits that is nearly black."""
    if not 0 < brightest <= DARK:
        return
    with _telling:
        if _dark:
            return
        _dark.append(name)
        print(f'note: {name} has more than 8 bits, and its largest number is {brightest:.1%} of '
              'its white: it is read as a dark picture. If it holds 8, 10, 12 or 14 bits of each '
              'number, scale them to all bits or name the largest (4095, say) in the TIFF tag '
              'MaxSampleValue (other such pictures are not named)', flush=True)


def _extrema(image):
    extrema = image.getextrema()
    return extrema if isinstance(extrema[0], tuple) else (extrema,)


def _mend(image):
    """What Pillow would read otherwise than TIFF means it."""
    tags = image.tag_v2
    if image.mode in ('P', 'PA') and max(tags[Tags.COLORMAP]) < 256:  # 8 bits, as to libtiff
        image.palette = ImagePalette.raw('RGB;L', bytes(tags[Tags.COLORMAP]))
    if (tags.get(Tags.PHOTOMETRIC_INTERPRETATION) == 6 and tags.get(Tags.COMPRESSION, 1) == 1
            and tuple(tags.get(Tags.YCBCRSUBSAMPLING, (1, 1))) != (1, 1)):
        raise OSError('its colours have fewer pixels than its brightness, without compression: '
                      'save it as PNG')


def _deep_tiff(file, name):
    """The first page of a TIFF file of more than 8 bits, or of signed numbers; None for all else,
    and for what Pillow must try, or refuse: other codecs, damaged files, and sizes beyond its
    limit."""
    try:
        with tifffile.TiffFile(file) as tiff:
            page = tiff.pages.first
            known = page.photometric in (tifffile.PHOTOMETRIC.MINISWHITE,
                                         tifffile.PHOTOMETRIC.MINISBLACK,
                                         tifffile.PHOTOMETRIC.RGB)
            if not known or page.dtype.kind not in 'fiu' or (
                    page.bitspersample <= 8 and page.dtype.kind == 'u') or not _fits(page):
                return None
            _check_inflated(page)
            array = page.asarray()
            array = np.moveaxis(array, 0, -1) if page.axes[0] == 'S' else array
            array = array.reshape(page.imagelength, page.imagewidth, -1)
            array = _turned(array, page.tags.valueof('Orientation', 1))
            alpha = page.extrasamples[:1] if array.shape[-1] in (2, 4) else ()
            largest, of_any_kind = (_first(page.tags.valueof(tag))
                                    for tag in (MAX_SAMPLE_VALUE, SMAX_SAMPLE_VALUE))
            bits = _Bits(page.bitspersample, page.dtype.kind,
                         page.photometric == tifffile.PHOTOMETRIC.MINISWHITE,
                         of_any_kind or largest)
    except _Inflated:
        raise
    except Exception as error:  # of many kinds, as Pillow's; and then Pillow says what is wrong
        if 'imagecodecs' in str(error) and page.dtype.kind == 'f' and page.samplesperpixel > 1:
            # Pillow could not even say that much.
            raise UserError(f'{name}: {error}: install it, or save it with deflate (zip) '
                            'compression or none') from error
        return None
    colors = 3 if array.shape[-1] >= 3 else 1
    deep = _deep(array[..., :colors], bits, name)
    if alpha and alpha[0] in (tifffile.EXTRASAMPLE.UNASSALPHA, tifffile.EXTRASAMPLE.ASSOCALPHA):
        share = array[..., -1:] / np.float32(deep.white)
        if not ((share >= 0) & (share <= 1)).all():
            raise OSError('its transparency is not from 0 to 1')
        shown = deep.numbers / np.float32(deep.white)
        if alpha[0] == tifffile.EXTRASAMPLE.UNASSALPHA:
            shown = shown * share
        deep = Deep(np.minimum(shown + (1 - share), 1), 1)
    return deep if colors == 3 else deep._replace(numbers=deep.numbers[..., 0])


def _turned(array, orientation):
    """[H, W, ...] upright, by the number that EXIF and TIFF give."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return array[::rows, ::columns]


class _Inflated(OSError):
    """A file that holds more than it says."""


def _fits(page):
    """Whether the sizes that a page declares are within Pillow's limit."""
    limit = Image.MAX_IMAGE_PIXELS or np.inf
    tile = page.tilewidth * page.tilelength * page.tiledepth
    return (page.imagelength * page.imagewidth <= limit and math.prod(page.shape) <= 4 * limit
            and tile <= limit)


def _check_inflated(page):
    """Decodes every strip or tile no further than the picture has room for it.

    Raises:
      _Inflated: one holds more.
    """
    if page.compression not in BOUNDED:
        return
    rows = page.tilelength if page.is_tiled else min(page.rowsperstrip, page.imagelength)
    columns = page.tilewidth if page.is_tiled else page.imagewidth
    samples = page.samplesperpixel if page.planarconfig == 1 else 1
    room = rows * columns * samples * max(page.tiledepth, 1) * page.dtype.itemsize
    count = math.prod(page.chunked)  # there may be more, which are not decoded
    for data, _ in page.parent.filehandle.read_segments(page.dataoffsets[:count],
                                                        page.databytecounts[:count]):
        if data and len(BOUNDED[page.compression]().decompress(data, room + 1)) > room:
            raise _Inflated(f'a part of it inflates to more than the {room:,} bytes that its size '
                            'has room for')
