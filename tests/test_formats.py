"""The meaning of the numbers in image files, for training and for image experiments."""

import contextlib
import lzma
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage import color

from cnnjax.data import formats, images
from cnnjax.data import levels as levels_
from cnnjax.errors import UserError
from cnnjax.images import pictures

GRAY = np.random.default_rng(0).integers(0, 256, (6, 8), np.uint8)
RGB = np.random.default_rng(1).integers(0, 256, (6, 8, 3), np.uint8)
DEEP = np.random.default_rng(2).integers(0, 65536, (6, 8), np.uint16)
MAX_SAMPLE = 281  # the tag MaxSampleValue


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch):
    monkeypatch.setattr(levels_, '_dark', [])


def read(path):
    """The file as float32 [H, W, 3]; as a training reads it, it is the same but for rounding."""
    picture = pictures.read(path)
    for image in (images.read(path), np.asarray(images.Picture(path)),
                  np.asarray(images.Picture(Path(path).read_bytes()))):
        assert image.dtype == np.uint8
        np.testing.assert_allclose(image / 255, picture, atol=1 / 255 + 1e-6)
    return picture


def assert_refused(path, *reasons):
    for reader in (pictures.read, images.read, lambda path: np.asarray(images.Picture(path))):
        with pytest.raises(UserError) as error:
            reader(path)
        assert str(error.value).startswith(f'{path} ')
        for reason in reasons:
            assert reason in str(error.value)


def gray(levels):
    return np.repeat(np.asarray(levels, np.float32)[..., None], 3, -1)


def overwrite(path, **tags):
    """Other numbers in the tags of a TIFF file."""
    with tifffile.TiffFile(path, mode='r+b') as file:
        for name, value in tags.items():
            file.pages[0].tags[name].overwrite(value)


# What is white.


@pytest.mark.parametrize('compression', [None, 'zlib'])
@pytest.mark.parametrize('levels', [
    GRAY, DEEP, (DEEP / 65535).astype(np.float32), (DEEP / 65535).astype(np.float64),
], ids=lambda levels: str(levels.dtype))
def test_where_0_is_white(tmp_path, levels, compression):
    path = tmp_path / 'a.tif'
    tifffile.imwrite(path, levels, photometric='miniswhite', compression=compression)
    white = 1 if levels.dtype.kind == 'f' else np.iinfo(levels.dtype).max
    np.testing.assert_allclose(read(path), gray(1 - levels / white), atol=1e-6)


@pytest.mark.parametrize('mode', ['1', 'L', 'I;16', 'F'])
def test_where_0_is_white_in_what_only_pillow_decodes(tmp_path, mode):
    path = tmp_path / 'a.tif'
    picture = {'1': Image.fromarray(GRAY > 99), 'L': Image.fromarray(GRAY),
               'I;16': Image.fromarray(DEEP),
               'F': Image.fromarray((DEEP / 65535).astype(np.float32))}[mode]
    picture.save(path, compression='tiff_lzw')
    shown = read(path)
    overwrite(path, PhotometricInterpretation=0)
    np.testing.assert_allclose(read(path), 1 - shown, atol=1e-6)


@pytest.mark.parametrize('bits', [1, 2, 4])
@pytest.mark.parametrize('photometric', [0, 1])
def test_few_bits(tmp_path, bits, photometric):
    """Packed into bytes, with black and white at the ends of their range."""
    levels = np.arange(48).reshape(6, 8) % 2 ** bits
    packed = np.packbits((levels[..., None] >> np.arange(bits)[::-1] & 1).astype(np.uint8).ravel())
    path = tmp_path / 'a.tif'
    tifffile.imwrite(path, packed.reshape(6, bits),
                     photometric='minisblack' if photometric else 'miniswhite')
    overwrite(path, ImageWidth=8, BitsPerSample=bits)
    shown = levels / (2 ** bits - 1)
    np.testing.assert_allclose(read(path), gray(shown if photometric else 1 - shown), atol=1e-6)


@pytest.mark.parametrize('dtype', [np.int8, np.int16, np.int32, np.uint32])
def test_integers_without_a_white_are_refused(tmp_path, dtype):
    levels = (GRAY // 2).astype(dtype)
    path = tmp_path / 'a.tif'
    tifffile.imwrite(path, levels, photometric='minisblack')
    assert_refused(path, f'from {levels.min()} to {levels.max()}: which is white?',
                   'MaxSampleValue')
    if dtype == np.int32:
        Image.fromarray(levels).save(path, compression='tiff_lzw')  # only Pillow reads it
        assert_refused(path, 'which is white?')


@pytest.mark.parametrize(('dtype', 'white'), [
    (np.uint16, 1023), (np.uint16, 4095), (np.uint16, 255), (np.int32, 255), (np.uint32, 65535),
    (np.int16, 255), (np.int16, 32767),
])
@pytest.mark.parametrize('decoder', ['tifffile', 'pillow'])
def test_the_largest_number_that_a_tiff_names_is_white(tmp_path, monkeypatch, dtype, white,
                                                       decoder):
    levels = np.rint(GRAY * (white / 255)).astype(dtype)
    tifffile.imwrite(tmp_path / 'a.tif', levels, photometric='minisblack',
                     extratags=[(MAX_SAMPLE, 'H', 1, white, True)])
    if decoder == 'pillow':  # as with codecs that tifffile lacks
        monkeypatch.setattr(tifffile.TiffPage, 'asarray', None)
    np.testing.assert_allclose(read(tmp_path / 'a.tif'), gray(levels / white), atol=1e-6)


def test_the_largest_number_in_a_dark_tiff_is_no_white(tmp_path):
    """The tag counts what the picture holds; only all bits set say how many bits there are."""
    levels = DEEP // 32
    levels[0, 0] = 2000
    tifffile.imwrite(tmp_path / 'a.tif', levels.clip(0, 2000), photometric='minisblack',
                     extratags=[(MAX_SAMPLE, 'H', 1, 2000, True)])
    np.testing.assert_allclose(read(tmp_path / 'a.tif'), gray(levels.clip(0, 2000) / 65535),
                               atol=1e-6)


def png(levels, *chunks):
    """A gray PNG file of 16 bits, with chunks before its pixels."""
    rows = b''.join(b'\x00' + row.astype('>u2').tobytes() for row in levels)
    header = struct.pack('>IIBBBBB', *levels.shape[::-1], 16, 0, 0, 0, 0)
    chunks = (b'IHDR', header), *chunks, (b'IDAT', zlib.compress(rows)), (b'IEND', b'')
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(content)) + name + content
        + struct.pack('>I', zlib.crc32(name + content)) for name, content in chunks)


@pytest.mark.parametrize('bits', [8, 10, 12, 14])
@pytest.mark.parametrize('dark', [False, True])
def test_significant_bits_of_png(tmp_path, bits, dark):
    """Scaled to 16 bits as PNG has it, by shifting, repeating or rounding; or not scaled."""
    few, path = (DEEP >> (16 - bits)), tmp_path / 'a.png'
    if dark:
        few = few >> bits // 2
    few[0, :2] = 1, 2
    sbit = (b'sBIT', bytes([bits]))
    for scaled in (few << (16 - bits), (few << (16 - bits)) | (few >> (2 * bits - 16)),
                   np.rint(few * (65535 / (2 ** bits - 1))).astype(np.uint16)):
        path.write_bytes(png(scaled, sbit))
        np.testing.assert_allclose(read(path), gray(scaled / 65535), atol=1e-6)
    path.write_bytes(png(few, sbit))
    np.testing.assert_allclose(read(path), gray(few / (2 ** bits - 1)), atol=1e-6)


def test_12_bits_packed(tmp_path):
    """Which Pillow reads as numbers up to 4095."""
    few = DEEP >> 4
    pairs = few.reshape(-1, 2)
    packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8,
                       pairs[:, 1] & 255], -1).astype(np.uint8)
    path = tmp_path / 'a.tif'
    tifffile.imwrite(path, np.resize(packed.ravel(), (6, 12)), photometric='minisblack')
    overwrite(path, ImageWidth=8, BitsPerSample=12)
    np.testing.assert_allclose(read(path), gray(few / 4095), atol=1e-6)


@pytest.mark.parametrize('bits', [8, 10, 12, 14])
@pytest.mark.parametrize('kind', ['a.tif', 'a.png', 'rgb.tif', 'rgb.png', 'lzw.tif'])
def test_nearly_black_pictures_are_told_once(tmp_path, capsys, kind, bits):
    few, path = DEEP >> (16 - bits), tmp_path / kind
    if kind == 'rgb.png':  # Pillow cannot write these.
        rows = b''.join(b'\x00' + row.astype('>u2').tobytes() for row in np.repeat(few, 3, 1))
        content = bytearray(png(few))
        content[25] = 2
        content[29:33] = struct.pack('>I', zlib.crc32(bytes(content[12:29])))
        data = zlib.compress(rows)
        content[33:] = b''.join(
            struct.pack('>I', len(part)) + name + part + struct.pack('>I', zlib.crc32(name + part))
            for name, part in ((b'IDAT', data), (b'IEND', b'')))
        path.write_bytes(content)
    elif kind == 'rgb.tif':
        tifffile.imwrite(path, np.stack([few] * 3, -1), photometric='rgb')
    elif kind == 'lzw.tif':
        Image.fromarray(few).save(path, compression='tiff_lzw')
    else:
        Image.fromarray(few).save(path)
    read(path)
    said = capsys.readouterr().out
    if kind == 'rgb.png' and bits == 8:
        assert not said  # Pillow leaves only zeros
        return
    assert said.count('\n') == 1
    assert said.startswith(f'note: {path} has more than 8 bits, and its largest number is ')
    read(path)
    assert not capsys.readouterr().out


def test_bright_and_black_pictures_are_not_told(tmp_path, capsys):
    for levels in (DEEP, np.zeros_like(DEEP)):
        Image.fromarray(levels).save(tmp_path / 'a.png')
        tifffile.imwrite(tmp_path / 'a.tif', levels, photometric='minisblack')
        for name in ('a.png', 'a.tif'):
            read(tmp_path / name)
    Image.fromarray(GRAY // 9).save(tmp_path / 'b.png')
    read(tmp_path / 'b.png')
    assert not capsys.readouterr().out


@pytest.mark.parametrize('shape', [(6, 8), (6, 8, 3)], ids=['gray', 'rgb'])
@pytest.mark.parametrize(('value', 'reason'), [
    (None, None), (np.nan, 'not finite'), (np.inf, 'not finite'),
    (-0.25, 'from -0.25 to 0.5, not from 0 to 1'), (255, 'from 0.5 to 255, not from 0 to 1'),
])
def test_floating_point_numbers(tmp_path, shape, value, reason):
    numbers = np.full(shape, 0.5, np.float32)
    path = tmp_path / 'my photo é.tif'
    if value is not None:
        numbers[2, 3] = value
    tifffile.imwrite(path, numbers, photometric='rgb' if len(shape) == 3 else 'minisblack')
    if value is None:
        np.testing.assert_array_equal(read(path), np.full((6, 8, 3), 0.5))
    else:
        assert_refused(path, reason)


# Colours.


@pytest.mark.parametrize('suffix', ['.tif', '.jpg'])
@pytest.mark.parametrize('mode', ['CMYK', 'YCbCr'])
def test_other_colours(tmp_path, suffix, mode):
    smooth = np.stack(np.broadcast_arrays(*np.ogrid[0:240:10, 0:240:6], 128), -1).astype(np.uint8)
    path = tmp_path / f'a{suffix}'
    Image.fromarray(smooth).convert(mode).save(path, quality=100)
    np.testing.assert_allclose(read(path), smooth / 255, atol=0.03)


def test_lab(tmp_path):
    """Grays exactly, colours up to the choice of white: D50, or D65 as scikit-image has it."""
    colors = np.uint8([[[255, 255, 255], [119, 119, 119], [0, 0, 0]],
                       [[200, 80, 60], [60, 140, 80], [70, 90, 180]]])
    lab = np.rint([2.55, 1, 1] * color.rgb2lab(colors)).astype(np.int16).astype(np.uint8)
    tifffile.imwrite(tmp_path / 'a.tif', lab, photometric='cielab')
    shown = read(tmp_path / 'a.tif')
    np.testing.assert_allclose(shown[0], colors[0] / 255, atol=1.5 / 255)
    np.testing.assert_allclose(shown[1], colors[1] / 255, atol=0.08)


@pytest.mark.parametrize('bits', [8, 16])
def test_palettes(tmp_path, bits):
    """Of 16 bits, or, as some programs write them, of 8."""
    colors = np.random.default_rng(3).integers(0, 256, (256, 3)).astype(np.uint16)
    tifffile.imwrite(tmp_path / 'a.tif', GRAY, photometric='palette',
                     colormap=colors.T * (257 if bits == 16 else 1))
    np.testing.assert_allclose(read(tmp_path / 'a.tif'), colors[GRAY] / np.float32(255), atol=1e-6)


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
@pytest.mark.parametrize(('kind', 'over_white'), [
    ('unassalpha', lambda color, alpha: alpha * color + 1 - alpha),
    ('assocalpha', lambda color, alpha: color + 1 - alpha),
    ('unspecified', lambda color, alpha: color),
])
@pytest.mark.parametrize('channels', [1, 3])
def test_transparency_of_tiff(tmp_path, dtype, kind, over_white, channels):
    white = np.iinfo(dtype).max
    alpha = np.random.default_rng(4).integers(white // 2, white, (6, 8, 1), endpoint=True)
    colors = (np.random.default_rng(5).random((6, 8, channels)) * alpha).astype(dtype)
    levels = np.concatenate([colors, alpha.astype(dtype)], -1)
    tifffile.imwrite(tmp_path / 'a.tif', levels, extrasamples=[kind], planarconfig='contig',
                     photometric='rgb' if channels == 3 else 'minisblack')
    expected = over_white(colors / white, alpha / white)
    np.testing.assert_allclose(read(tmp_path / 'a.tif'), np.broadcast_to(expected, (6, 8, 3)),
                               atol=0.01 if dtype == np.uint8 else 1e-6)


def test_a_transparent_number_of_gray_png(tmp_path):
    (tmp_path / 'a.png').write_bytes(png(DEEP, (b'tRNS', struct.pack('>H', DEEP[2, 3]))))
    expected = gray(DEEP / 65535)
    expected[2, 3] = 1
    np.testing.assert_allclose(read(tmp_path / 'a.png'), expected, atol=1e-6)


TURNED = [lambda x: x, lambda x: x[:, ::-1], lambda x: x[::-1, ::-1], lambda x: x[::-1],
          lambda x: x.swapaxes(0, 1), lambda x: np.rot90(x, -1),
          lambda x: x[::-1, ::-1].swapaxes(0, 1), np.rot90]


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('kind', ['rgb.png', 'deep.png', 'rgb.tif', 'deep.tif', 'lzw.tif', 'a.webp',
                                  'a.jpg', 'a.mpo'])
def test_orientation(tmp_path, kind, orientation):
    y, x = np.ogrid[0:200:40j, 0:240:56j]
    smooth = np.rint(np.broadcast_to(y + x / 6, (40, 56))).astype(np.uint8)
    exif, path = Image.Exif(), tmp_path / kind
    exif[0x0112] = orientation
    deep = kind in ('deep.png', 'deep.tif', 'lzw.tif')
    image = Image.fromarray(np.uint16(257) * smooth if deep else np.stack([smooth] * 3, -1))
    options = {'compression': 'tiff_lzw'} if kind == 'lzw.tif' else (
        {} if path.suffix in ('.png', '.tif') else {'quality': 100})
    image.save(path, exif=exif, **options)
    np.testing.assert_allclose(read(path), TURNED[orientation - 1](gray(smooth / 255)), atol=0.02)


def test_colours_of_fewer_pixels_are_refused_where_no_decoder_knows_them(tmp_path):
    Image.fromarray(RGB).convert('YCbCr').save(tmp_path / 'a.tif')
    with tifffile.TiffFile(tmp_path / 'a.tif', mode='r+b') as file:
        file.pages[0].tags['YCbCrSubSampling'].overwrite((2, 2))
    assert_refused(tmp_path / 'a.tif', 'colours have fewer pixels')


# Kinds of files.

WRITTEN = sorted(suffix for suffix, kind in Image.registered_extensions().items()
                 if suffix in formats.SUFFIXES and kind in Image.SAVE)


@pytest.mark.filterwarnings('ignore:IM image format is deprecated')
@pytest.mark.parametrize('suffix', WRITTEN)
def test_every_kind_that_pillow_writes(tmp_path, suffix):
    path = tmp_path / f'a{suffix}'
    image = Image.fromarray(np.full((32, 32, 3), (200, 80, 40), np.uint8))
    for mode in ('RGB', 'RGBA', 'L', 'P', '1'):
        try:
            image.convert(mode).save(path)
            break
        except (OSError, ValueError, KeyError):
            path.unlink(missing_ok=True)
    with Image.open(path) as written:
        expected = np.asarray(written.convert('RGB'), np.float32) / 255
    shown = read(path)
    assert shown.shape == expected.shape
    np.testing.assert_allclose(shown, expected, atol=1e-6)


def test_the_usual_suffixes_are_known():
    usual = {'.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.apng', '.gif', '.tif', '.tiff', '.webp',
             '.bmp', '.ppm', '.pgm', '.pbm', '.pnm', '.jp2', '.tga', '.ico', '.psd', '.mpo'}
    assert not usual - formats.SUFFIXES
    assert not formats.SUFFIXES & {'.eps', '.ps', '.wmf', '.emf', '.mpg', '.h5', '.fits', '.txt'}


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.tif', '.webp', '.gif', '.jp2'])
def test_images_are_known_by_their_first_bytes(tmp_path, suffix):
    Image.fromarray(RGB).save(tmp_path / f'a{suffix}')
    path = (tmp_path / f'a{suffix}').rename(tmp_path / 'a')
    assert formats.is_image(path)


@pytest.mark.parametrize('content', [b'', b'P5 is a processor', b'#define X', b'hello', bytes(99)])
def test_other_files_are_no_images(tmp_path, content):
    (tmp_path / 'a').write_bytes(content)
    assert not formats.is_image(tmp_path / 'a')
    assert not formats.is_image(tmp_path)
    assert not formats.is_image(tmp_path / 'missing')


@pytest.mark.parametrize('content', [b'', b'<html>404 Not Found</html>'])
def test_what_no_decoder_knows_is_named(tmp_path, content):
    (tmp_path / 'a.jpg').write_bytes(content)
    assert_refused(tmp_path / 'a.jpg', 'is not a readable image: ')
    for file, name in ((tmp_path / 'a.jpg', None), (content, 'record 7')):
        with pytest.raises(UserError) as error:
            np.asarray(images.Picture(file, name))
        assert 'BytesIO' not in str(error.value)
        assert str(name or file) in str(error.value)


def test_pictures_below_home(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    Image.fromarray(RGB).save(tmp_path / 'a.png')
    np.testing.assert_array_equal(pictures.read('~/a.png'),
                                  np.float32(RGB) / 255)
    np.testing.assert_array_equal(images.read('~/a.png'), RGB)


# What is decoded.


@pytest.mark.parametrize(('compression', 'compress'), [
    (8, lambda data: zlib.compress(data, 9)), (32946, lambda data: zlib.compress(data, 9)),
    (34925, lambda data: lzma.compress(data)),
    (34925, lambda data: lzma.compress(bytes(100)) + lzma.compress(data)),
], ids=['deflate', 'old deflate', 'lzma', 'lzma, two streams'])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.float32])
def test_no_more_is_decoded_than_a_picture_has_room_for(tmp_path, compression, compress, dtype):
    """A TIFF of 100 x 100 pixels, whose strip inflates to 64 MiB."""
    path = tmp_path / 'bomb.tif'
    tifffile.imwrite(path, np.zeros((100, 100), dtype), photometric='minisblack',
                     compression='zlib')
    strip = compress(bytes(64 * 2 ** 20))
    end = path.stat().st_size
    with path.open('ab') as file:
        file.write(strip)
    overwrite(path, StripOffsets=end, StripByteCounts=len(strip), Compression=compression)
    del strip
    for reader in (pictures.read, images.read, lambda path: np.asarray(images.Picture(path))):
        tracemalloc.start()
        if dtype == np.uint8:  # libtiff stops where the picture ends, or knows no LZMA
            with contextlib.suppress(UserError):
                reader(path)
        else:
            with pytest.raises(UserError, match='bomb.tif is not a readable image: .* inflates'):
                reader(path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < (16 if compression == 34925 else 2) * 2 ** 20  # LZMA's dictionary has 8


@pytest.mark.parametrize('options', [
    {}, {'tile': (16, 16)}, {'rowsperstrip': 4}, {'planarconfig': 'separate'},
    {'predictor': True},
], ids=str)
@pytest.mark.parametrize('compression', ['zlib', 'lzma'])
def test_whole_pictures_are_not_taken_for_such(tmp_path, options, compression):
    levels = np.random.default_rng(6).integers(0, 65536, (30, 21, 3), np.uint16)
    stored = levels.transpose(2, 0, 1) if 'planarconfig' in options else levels
    tifffile.imwrite(tmp_path / 'a.tif', stored, photometric='rgb', compression=compression,
                     **options)
    np.testing.assert_allclose(read(tmp_path / 'a.tif'), levels / 65535, atol=1e-6)
