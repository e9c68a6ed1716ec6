"""TIFF files of more than 8 bits: Pillow reads only some of them, and misreads others."""

import contextlib
import functools
import lzma
import math
import sys
import zlib
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImagePalette
from PIL import TiffImagePlugin as Tags
from PIL.TiffImagePlugin import TiffImageFile

from cnnjax.data import levels
from cnnjax.errors import UserError

MAX_SAMPLE_VALUE, SMAX_SAMPLE_VALUE = 281, 341  # TIFF tags, the second for any type of number
# The codecs that tifffile decodes without a limit on the size of the result.
BOUNDED = {8: zlib.decompressobj, 32946: zlib.decompressobj,
           34925: functools.partial(lzma.LZMADecompressor, memlimit=2 ** 27)}
if sys.version_info >= (3, 14):
    with contextlib.suppress(ImportError):  # Python may be built without it.
        from compression import zstd
        BOUNDED |= dict.fromkeys((50000, 34926), zstd.ZstdDecompressor)


def bits(image: TiffImageFile) -> levels.Bits:
    """What the tags of Pillow's image say about its numbers."""
    tags = image.tag_v2
    kinds = {1: 'u', 2: 'i', 3: 'f'}
    return levels.Bits(tags.get(Tags.BITSPERSAMPLE, (1,))[0],
                       kinds.get(tags.get(Tags.SAMPLEFORMAT, (1,))[0], 'u'),
                       tags.get(Tags.PHOTOMETRIC_INTERPRETATION) == 0,
                       _first(tags.get(SMAX_SAMPLE_VALUE)) or _first(tags.get(MAX_SAMPLE_VALUE)))


def mend(image: TiffImageFile) -> None:
    """Corrects tags of Pillow's image that Pillow would misread."""
    tags = image.tag_v2
    if image.mode in ('P', 'PA') and max(tags[Tags.COLORMAP]) < 256:  # 8 bits, as libtiff reads it
        image.palette = ImagePalette.raw('RGB;L', bytes(tags[Tags.COLORMAP]))
    if (tags.get(Tags.PHOTOMETRIC_INTERPRETATION) == 6 and tags.get(Tags.COMPRESSION, 1) == 1
            and tuple(tags.get(Tags.YCBCRSUBSAMPLING, (1, 1))) != (1, 1)):
        raise OSError('its colours have fewer pixels than its brightness, without compression: '
                      'save it as PNG')


def deep(file: BinaryIO, name: str) -> levels.Deep | None:
    """The first page of a TIFF file of more than 8 bits or of signed numbers.

    None for all other files, and for those that are left to Pillow to read or refuse: other codecs,
    damaged files, and sizes beyond Pillow's limit.
    """
    import tifffile  # here, because the import takes time

    page: Any = None
    try:
        with tifffile.TiffFile(file) as tiff:
            page = tiff.pages.first
            known = page.photometric in (tifffile.PHOTOMETRIC.MINISWHITE,
                                         tifffile.PHOTOMETRIC.MINISBLACK,
                                         tifffile.PHOTOMETRIC.RGB)
            if not known or page.dtype is None or page.dtype.kind not in 'fiu' or (
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
            said = levels.Bits(page.bitspersample, page.dtype.kind,
                               page.photometric == tifffile.PHOTOMETRIC.MINISWHITE,
                               of_any_kind or largest)
    except _Inflated:
        raise
    except Exception as error:  # tifffile raises many kinds; Pillow will say what is wrong
        if (page and 'imagecodecs' in str(error) and page.dtype.kind == 'f'
                and page.samplesperpixel > 1):
            # Here Pillow would say less.
            raise UserError(f'{name}: {error}: install it, or save it with deflate (zip) '
                            'compression or none') from error
        return None
    colors = 3 if array.shape[-1] >= 3 else 1
    found = levels.deep(array[..., :colors], said, name)
    if alpha and alpha[0] in (tifffile.EXTRASAMPLE.UNASSALPHA, tifffile.EXTRASAMPLE.ASSOCALPHA):
        share = array[..., -1:] / np.float32(found.white)
        if not ((share >= 0) & (share <= 1)).all():
            raise OSError('its transparency is not from 0 to 1')
        shown = found.numbers / np.float32(found.white)
        if alpha[0] == tifffile.EXTRASAMPLE.UNASSALPHA:
            shown = shown * share
        found = levels.Deep(np.minimum(shown + (1 - share), 1), 1)
    return found if colors == 3 else found._replace(numbers=found.numbers[..., 0])


def _turned(array, orientation):
    """The array [H, W, ...] turned upright; EXIF and TIFF number the orientations alike."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return array[::rows, ::columns]


class _Inflated(OSError):
    """A file that inflates to more than its declared size."""


def _fits(page):
    """Whether the sizes that a page declares are within Pillow's limit."""
    limit = Image.MAX_IMAGE_PIXELS or np.inf
    tile = page.tilewidth * page.tilelength * page.tiledepth
    return (page.imagelength * page.imagewidth <= limit and math.prod(page.shape) <= 4 * limit
            and tile <= limit)


def _check_inflated(page):
    """Decodes each strip or tile up to the size that the picture has room for.

    Raises:
      _Inflated: a strip or tile is larger.
    """
    if page.compression not in BOUNDED:
        return
    rows = page.tilelength if page.is_tiled else min(page.rowsperstrip, page.imagelength)
    columns = page.tilewidth if page.is_tiled else page.imagewidth
    samples = page.samplesperpixel if page.planarconfig == 1 else 1
    room = rows * columns * samples * max(page.tiledepth, 1) * page.dtype.itemsize
    count = math.prod(page.chunked)  # A file may have more, which are not decoded.
    for data, _ in page.parent.filehandle.read_segments(page.dataoffsets[:count],
                                                        page.databytecounts[:count]):
        if data and _inflated(data, BOUNDED[page.compression], room + 1) > room:
            raise _Inflated(f'a part of it inflates to more than the {room:,} bytes that its size '
                            'has room for')


def _inflated(data, codec, limit):
    """How many bytes `data` decodes to, at most `limit`. LZMA and zstd decode several streams one
    after the other."""
    decoder = codec()
    size = len(decoder.decompress(data, limit))
    while size < limit and decoder.unused_data:
        data, decoder = decoder.unused_data, codec()
        try:
            size += len(decoder.decompress(data, limit - size))
        except Exception:  # The rest is no stream; each codec raises its own kind.
            break
    return size


def _first(value):
    return value[0] if isinstance(value, tuple) else value
