"""Picture files of every depth, orientation and kind of damage; sizes, animations and colours."""

import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage import color

from cnnjax.errors import UserError
from cnnjax.images import pictures

RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
DEEP = np.random.default_rng(1).integers(0, 65536, (6, 8, 4), np.uint16)
ALPHA = np.random.default_rng(2).random((6, 8, 1), np.float32)


@pytest.mark.parametrize('suffix', ['.png', '.bmp', '.tif', '.webp'])
def test_8_bits(tmp_path, suffix):
    path = tmp_path / f'a{suffix}'
    Image.fromarray(RGB).save(path, lossless=True)
    for given in (path, str(path)):
        picture = pictures.read(given)
        assert picture.dtype == np.float32
        np.testing.assert_array_equal(picture, np.float32(RGB) / 255)


def test_gray_and_transparency(tmp_path):
    Image.fromarray(RGB[..., 0]).save(tmp_path / 'gray.png')
    np.testing.assert_array_equal(pictures.read(tmp_path / 'gray.png'),
                                  np.float32(RGB[..., [0, 0, 0]]) / 255)
    Image.fromarray(np.dstack([RGB, np.uint8(255 * ALPHA)])).save(tmp_path / 'alpha.png')
    np.testing.assert_allclose(pictures.read(tmp_path / 'alpha.png'),
                               1 - ALPHA * (1 - RGB / 255), atol=2 / 255)


@pytest.mark.parametrize('suffix', ['.png', '.pgm', '.tif'])
def test_16_bit_gray_keeps_every_level(tmp_path, suffix):
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(levels).save(tmp_path / f'a{suffix}')
    picture = pictures.read(tmp_path / f'a{suffix}')
    np.testing.assert_array_equal(picture, np.repeat(levels[..., None] / np.float32(65535), 3, -1))


@pytest.mark.parametrize('options', [
    {}, {'compression': 'zlib'}, {'planarconfig': 'separate'},
    {'byteorder': '>'}, {'tile': (16, 16)},
], ids=str)
@pytest.mark.parametrize('dtype', [np.uint16, np.float16, np.float32, np.float64])
def test_deep_tiff(tmp_path, dtype, options):
    levels = DEEP[..., :3] if dtype == np.uint16 else (DEEP[..., :3] / 65535).astype(dtype)
    stored = levels.transpose(2, 0, 1) if 'planarconfig' in options else levels
    tifffile.imwrite(tmp_path / 'a.tif', stored, photometric='rgb', **options)
    np.testing.assert_allclose(pictures.read(tmp_path / 'a.tif'),
                               levels / (65535 if dtype == np.uint16 else 1), rtol=1e-6)


@pytest.mark.parametrize(('kind', 'over_white'), [
    ('unassalpha', lambda color, alpha: alpha * color + 1 - alpha),
    ('assocalpha', lambda color, alpha: np.minimum(color + 1 - alpha, 1)),
    ('unspecified', lambda color, alpha: color),
])
@pytest.mark.parametrize('colors', [1, 3])
def test_transparency_of_deep_tiff(tmp_path, kind, over_white, colors):
    levels = DEEP[..., :colors + 1]
    tifffile.imwrite(tmp_path / 'a.tif', levels, photometric='rgb' if colors == 3 else 'minisblack',
                     extrasamples=[kind], planarconfig='contig')
    expected = over_white(levels[..., :-1] / 65535, levels[..., -1:] / 65535)
    np.testing.assert_allclose(pictures.read(tmp_path / 'a.tif'),
                               np.broadcast_to(expected, (6, 8, 3)), atol=1e-6)


@pytest.mark.parametrize(('orientation', 'upright'), [
    (1, lambda x: x), (2, lambda x: x[:, ::-1]), (3, lambda x: x[::-1, ::-1]),
    (4, lambda x: x[::-1]), (5, lambda x: x.swapaxes(0, 1)), (6, lambda x: np.rot90(x, -1)),
    (7, lambda x: x[::-1, ::-1].swapaxes(0, 1)), (8, np.rot90),
])
def test_orientation(tmp_path, orientation, upright):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(tmp_path / 'a.png', exif=exif)
    np.testing.assert_array_equal(pictures.read(tmp_path / 'a.png'), np.float32(upright(RGB)) / 255)
    deep = DEEP[..., :3]
    tifffile.imwrite(tmp_path / 'a.tif', deep, photometric='rgb',
                     extratags=[(274, 'H', 1, orientation, True)])
    np.testing.assert_array_equal(pictures.read(tmp_path / 'a.tif'),
                                  np.float32(upright(deep)) / np.float32(65535))


def test_colour_tiff_with_lzw_is_read_at_8_bits(tmp_path):
    """The documented loss, and no error: tifffile lacks the codec, Pillow the depth."""
    path = tmp_path / 'a.tif'
    Image.fromarray(RGB).save(path, compression='tiff_lzw')
    np.testing.assert_array_equal(pictures.read(path), np.float32(RGB) / 255)
    Image.fromarray(DEEP[..., 0]).save(path, compression='tiff_lzw')
    np.testing.assert_array_equal(pictures.read(path)[..., 1],
                                  np.float32(DEEP[..., 0]) / np.float32(65535))


def test_a_missing_codec_of_float_tiff_is_named(tmp_path, monkeypatch):
    path = tmp_path / 'a.tif'
    tifffile.imwrite(path, np.float32(DEEP[..., :3] / 65535), photometric='rgb')

    def missing(page):
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TiffPage, 'asarray', missing)
    with pytest.raises(UserError, match="a.tif: .*LZW: 5> requires .* save it with deflate"):
        pictures.read(path)


def encoded(tmp_path, suffix):
    path = tmp_path / f'whole{suffix}'
    if suffix == '.tif':
        tifffile.imwrite(path, np.tile(DEEP[..., :3], (20, 20, 1)), photometric='rgb')
    else:
        Image.fromarray(np.tile(RGB, (20, 20, 1))).save(path)
    return path.read_bytes()


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.tif'])
@pytest.mark.parametrize('damage', [
    lambda data: data[:len(data) // 2], lambda data: data[:20], lambda data: b'',
    lambda data: b'<html>404 Not Found</html>' * 10,
], ids=['half', 'header', 'empty', 'text'])
def test_damaged_files_are_named(tmp_path, suffix, damage):
    path = tmp_path / f'my photo é{suffix}'
    path.write_bytes(damage(encoded(tmp_path, suffix)))
    with pytest.raises(UserError) as error:
        pictures.read(path)
    assert str(error.value).startswith(f'{path} is not a readable image: ')


@pytest.mark.parametrize('name', ['missing.png', '.', 'astronaut'])
def test_what_is_no_file_is_named(tmp_path, name):
    with pytest.raises(UserError) as error:
        pictures.read(tmp_path / name)
    assert str(error.value).startswith(f'{tmp_path / name} is not a readable image: ')


@pytest.mark.parametrize('suffix', ['.png', '.tif'])
def test_decompression_bombs_are_named(tmp_path, monkeypatch, suffix):
    path = tmp_path / f'bomb{suffix}'
    path.write_bytes(encoded(tmp_path, suffix))
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1000)
    with pytest.raises(UserError) as error:
        pictures.read(path)
    assert str(error.value).startswith(f'{path} is not a readable image: Image size')


def test_the_pictures_of_scikit_image():
    for name in pictures.SHIPPED:
        picture = pictures.read(f'skimage:{name}')
        assert picture.ndim == 3
        assert picture.shape[-1] == 3
        assert picture.min() >= 0
        assert 0.5 < picture.max() <= 1
    np.testing.assert_array_equal(pictures.read('skimage:logo')[0, 0], [1, 1, 1])  # transparent
    with pytest.raises(UserError, match="'skimage:astro': .* astronaut, brick"):
        pictures.read('skimage:astro')


@pytest.mark.parametrize(('size', 'expected'), [
    (4, (3, 4)), (16, (12, 16)), ((5, 7), (5, 7)), ([1, 1], (1, 1)), (np.int64(8), (6, 8)),
])
def test_sizes(tmp_path, size, expected):
    Image.fromarray(RGB).save(tmp_path / 'a.png')
    picture = pictures.read(tmp_path / 'a.png', size)
    assert picture.shape == (*expected, 3)
    assert picture.dtype == np.float32
    assert picture.min() >= 0
    assert picture.max() <= 1


def test_lines_of_one_pixel(tmp_path):
    Image.fromarray(RGB[:1]).save(tmp_path / 'a.png')
    assert pictures.read(tmp_path / 'a.png').shape == (1, 8, 3)
    assert pictures.read(tmp_path / 'a.png', 2).shape == (1, 2, 3)
    assert pictures.resize(np.ones((400, 1, 3), np.float32), 100).shape == (100, 1, 3)


def test_a_picture_of_that_size_stays_as_it_is():
    picture = np.float32(RGB) / 255
    assert pictures.resize(picture, 8) is picture
    assert pictures.resize(picture, (6, 8)) is picture


def test_resizing_is_antialiased_and_keeps_ramps_and_flats():
    stripes = np.float32(np.indices((60, 60)).sum(0) % 2)[..., None].repeat(3, -1)
    np.testing.assert_allclose(pictures.resize(stripes, 12)[2:-2, 2:-2], 0.5, atol=0.02)
    ramp = np.broadcast_to(np.linspace(0, 1, 64, dtype=np.float32)[:, None, None], (64, 8, 3))
    centers = (np.arange(32) + 0.5) * 2 - 0.5
    np.testing.assert_allclose(pictures.resize(ramp, (32, 8))[4:-4, 0, 0], centers[4:-4] / 63,
                               atol=1e-3)
    flat = np.full((7, 9, 3), 0.3, np.float32)
    np.testing.assert_allclose(pictures.resize(flat, (20, 5)), 0.3, atol=1e-6)
    edge = np.float32(np.arange(8) > 3)[:, None, None].repeat(3, -1)  # overshoots without clipping
    assert (pictures.resize(edge, (40, 3)) <= 1).all()


@pytest.mark.parametrize('size', [0, -3, (4, 0), (4, 5, 6), (), 4.5, 'large', (4, None)])
def test_what_is_no_size_is_refused(size):
    with pytest.raises(UserError, match='size=.* longer side'):
        pictures.resize(np.zeros((6, 8, 3), np.float32), size)


@pytest.mark.parametrize('shape', [(6, 8), (3, 4), (60, 90)])
def test_masks(tmp_path, shape):
    half = np.zeros((6, 8), np.uint8)
    half[:, 4:] = 255
    Image.fromarray(half).save(tmp_path / 'mask.png')
    mask = pictures.read_mask(tmp_path / 'mask.png', shape)
    assert mask.shape == shape
    assert mask.dtype == np.float32
    third = shape[1] // 3
    np.testing.assert_allclose(mask[:, :third], 0, atol=1e-6)
    np.testing.assert_allclose(mask[:, -third:], 1, atol=1e-6)
    assert 0 <= mask.min() < mask.max() <= 1
    assert pictures.read_mask('skimage:horse', (32, 40)).shape == (32, 40)


@pytest.mark.parametrize('channels', [(), (1,), (3,)])
@pytest.mark.parametrize('suffix', ['.png', '.PNG', '.tif', '.tiff', '.bmp', '.webp'])
def test_writing_8_bits_is_exact(tmp_path, suffix, channels):
    levels = np.arange(256).reshape(16, 16)
    if channels:
        levels = levels[..., None].repeat(*channels, -1)
    path = tmp_path / 'new' / f'a{suffix}'
    pictures.write(path, (levels / 255).astype(np.float32))
    read = pictures.read(path)
    np.testing.assert_array_equal(np.rint(255 * read),
                                  np.broadcast_to(levels.reshape(16, 16, -1), (16, 16, 3)))
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_rounding_and_clipping(tmp_path):
    """To the nearest level, not down; what is beyond black and white becomes these."""
    values = np.float32([-1, -0.1, 0.49 / 255, 0.51 / 255, 100.49 / 255, 100.51 / 255, 1.2, 9])
    pictures.write(tmp_path / 'a.png', values[None])
    np.testing.assert_array_equal(255 * pictures.read(tmp_path / 'a.png')[0, :, 0],
                                  [0, 0, 0, 1, 100, 101, 255, 255])


def test_jpeg(tmp_path):
    smooth = np.stack(np.broadcast_arrays(*np.ogrid[0:1:64j, 0:1:48j], 0.5), -1)
    pictures.write(tmp_path / 'a.jpg', smooth)
    np.testing.assert_allclose(pictures.read(tmp_path / 'a.jpg'), smooth, atol=0.02)


@pytest.mark.parametrize('channels', [(), (1,), (3,)])
def test_writing_16_bits_is_exact(tmp_path, channels):
    levels = np.arange(65536).reshape(256, 256)
    if channels:
        levels = levels[..., None].repeat(*channels, -1)
    pictures.write(tmp_path / 'a.tif', (levels / 65535).astype(np.float32), bits=16)
    np.testing.assert_array_equal(
        np.rint(np.float64(pictures.read(tmp_path / 'a.tif')) * 65535),
        np.broadcast_to(levels.reshape(256, 256, -1), (256, 256, 3)))
    with Image.open(tmp_path / 'a.tif') as other:
        assert other.size == (256, 256)


@pytest.mark.parametrize(('name', 'options', 'picture', 'message'), [
    ('a.png', {'bits': 16}, np.zeros((2, 2, 3)), 'with 16 bits .* to .tif, .tiff'),
    ('a.heic', {}, np.zeros((2, 2, 3)), 'with 8 bits .* .png, .jpg'),
    ('a', {}, np.zeros((2, 2, 3)), 'with 8 bits .* .png, .jpg'),
    ('a.tif', {'bits': 12}, np.zeros((2, 2, 3)), 'bits=12'),
    ('a.png', {}, np.full((2, 2, 3), np.nan), 'not finite'),
    ('a.png', {}, np.full((2, 2, 3), np.inf), 'not finite'),
    ('a.tif', {'bits': 16}, np.full((2, 2), np.nan), 'not finite'),
    ('a.png', {}, np.zeros((2, 2, 4)), r'not \[2, 2, 4\]'),
    ('a.png', {}, np.zeros((1, 2, 2, 3)), r'not \[1, 2, 2, 3\]'),
    ('a.png', {}, np.zeros((0, 2, 3)), r'not \[0, 2, 3\]'),
    ('a.png', {}, RGB, r'in \[0, 1\], not uint8'),
])
def test_what_cannot_be_written_is_refused(tmp_path, name, options, picture, message):
    with pytest.raises(UserError, match=message):
        pictures.write(tmp_path / name, picture, **options)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / 'a.png'
    pictures.write(path, jnp.zeros((2, 2, 3)))

    def fail(self, file, *args, **options):
        Path(file).write_bytes(b'half')
        raise OSError('no space left')

    monkeypatch.setattr(Image.Image, 'save', fail)
    with pytest.raises(OSError, match='no space left'):
        pictures.write(path, np.ones((2, 2, 3)))
    assert list(tmp_path.iterdir()) == [path]
    assert not pictures.read(path).any()


@pytest.mark.parametrize('suffix', ['.gif', '.webp', '.png', '.apng'])
def test_animations(tmp_path, suffix):
    path = tmp_path / f'a{suffix}'
    frames = [np.full((6, 8, 3), level, np.float32) for level in (0.2, 0.6, 1)]
    pictures.animate(path, (frame for frame in frames), 0.25)
    with Image.open(path) as animation:
        assert animation.n_frames == 3
        assert animation.info.get('loop') == 0
        for i, frame in enumerate(frames):
            animation.seek(i)
            animation.load()
            assert animation.info['duration'] == 250
            np.testing.assert_allclose(np.asarray(animation.convert('RGB')) / 255, frame, atol=0.02)


@pytest.mark.parametrize(('name', 'frames', 'seconds', 'message'), [
    ('a.mp4', [np.zeros((2, 2, 3))], 1, 'written to .gif, .webp, .png, .apng'),
    ('a.gif', [], 1, r'frames of one shape, these have \[\]'),
    ('a.gif', [np.zeros((2, 2, 3)), np.zeros((3, 2, 3))], 1, r'\(2, 2, 3\), \(3, 2, 3\)'),
    ('a.gif', [np.full((2, 2, 3), np.nan)], 1, 'not finite'),
    ('a.gif', [np.zeros((2, 2, 3))], 0, '0 seconds'),
    ('a.gif', [np.zeros((2, 2, 3))], np.nan, 'nan seconds'),
])
def test_what_is_no_animation_is_refused(tmp_path, name, frames, seconds, message):
    with pytest.raises(UserError, match=message):
        pictures.animate(tmp_path / name, frames, seconds)
    assert not list(tmp_path.iterdir())


def random_picture(seed, low=0.3, high=0.7):
    return np.random.default_rng(seed).uniform(low, high, (20, 30, 3)).astype(np.float32)


def test_keep_luminance_in_yiq_and_ycbcr():
    result, content = random_picture(0), random_picture(1)
    kept = pictures.keep_luminance(result, content)
    assert kept.dtype == np.float32
    yiq = color.rgb2yiq(content)
    yiq[..., 0] = color.rgb2yiq(result)[..., 0]
    np.testing.assert_allclose(kept, np.clip(color.yiq2rgb(yiq), 0, 1), atol=1e-5)
    ycbcr = color.rgb2ycbcr(content)
    ycbcr[..., 0] = color.rgb2ycbcr(result)[..., 0]
    np.testing.assert_allclose(kept, np.clip(color.ycbcr2rgb(ycbcr), 0, 1), atol=1e-3)


def test_keep_luminance_of_two_sizes_is_refused():
    with pytest.raises(UserError, match=r'\[20, 30, 3\] and the chroma of \[10, 30, 3\]'):
        pictures.keep_luminance(random_picture(0), random_picture(1)[:10])


def moments(picture):
    return picture.mean((0, 1)), np.cov(np.float64(picture).reshape(-1, 3).T)


def test_match_colors_gives_the_mean_and_covariance():
    mix = np.float32([[0.5, 0.2, 0.1], [0, 0.4, 0.1], [0.1, 0, 0.3]])
    style = random_picture(0)
    content = 0.2 + random_picture(1).reshape(-1, 3)[:500].reshape(25, 20, 3) @ mix  # another size
    matched = pictures.match_colors(style, content)
    assert matched.shape == style.shape
    assert matched.dtype == np.float32
    for ours, theirs in zip(moments(matched), moments(content), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-2, atol=1e-4)
    np.testing.assert_allclose(pictures.match_colors(style, style), style, atol=1e-6)


def test_match_colors_of_gray_and_flat_pictures():
    content = random_picture(1)
    gray = random_picture(0)[..., :1].repeat(3, -1)
    matched = pictures.match_colors(gray, content)
    np.testing.assert_allclose(matched.mean((0, 1)), content.mean((0, 1)), atol=1e-5)
    assert np.linalg.matrix_rank(matched.reshape(-1, 3) - matched.mean((0, 1)), tol=1e-3) == 1
    flat = pictures.match_colors(np.full_like(gray, 0.4), content)
    np.testing.assert_allclose(flat, np.broadcast_to(content.mean((0, 1)), flat.shape), atol=1e-5)
    flat = pictures.match_colors(gray, np.full_like(gray, 0.4))
    np.testing.assert_allclose(flat, 0.4, atol=1e-5)


def test_reading_does_not_reach_for_the_network(tmp_path):
    """Nor warn, in a process without pytest's filters."""
    script = '''
import socket
def refuse(*args): raise AssertionError('network')
socket.socket.connect = refuse
from cnnjax.images import pictures
print(pictures.read('skimage:astronaut', 64).shape)
'''
    root = Path(__file__).parents[1]
    result = subprocess.run([sys.executable, '-W', 'error', '-c', script], check=True, text=True,
                            capture_output=True, env=os.environ | {'PYTHONPATH': str(root)})
    assert result.stdout == '(64, 64, 3)\n'


def test_names_are_made_distinct():
    assert pictures.distinct(['cat', 'Loss', 'cat', 'cat-2', 'a/b'], ('loss',)) == [
        'cat', 'Loss-2', 'cat-2', 'cat-2-2', 'a_b']


def test_a_network_of_two_channels_takes_no_pictures():
    image = np.full((2, 3, 3), 0.5, np.float32)
    assert pictures.with_channels(image, 1).shape == (2, 3, 1)
    assert pictures.with_channels(image, 3) is image
    pictures.check_channels(1)
    with pytest.raises(UserError, match='images of 2 channels, a picture has 1 or 3'):
        pictures.check_channels(2)


def test_a_mosaic_holds_all_of_its_pictures():
    images = [np.full((64, 32, 3), i / 10, np.float32) for i in range(5)]
    found = pictures.mosaic(images)
    assert found.shape == (2 * (128 + 4) - 4, 3 * (64 + 4) - 4, 3)
    np.testing.assert_allclose(found[0, 0], 0)
    np.testing.assert_allclose(found[140, 80], 0.4, rtol=1e-6)
    np.testing.assert_allclose(found[-1, -1], 1)
    gray = pictures.mosaic([image[..., :1] for image in images])
    np.testing.assert_allclose(gray[-1, -1], pictures.BLUE)


def test_the_middle_of_a_picture_at_a_size_and_with_so_many_channels():
    picture = np.zeros((20, 40, 3), np.float32)
    picture[:, 10:30] = (0.2, 0.4, 0.6)  # the middle square
    found = pictures.fitted(picture, (10, 10), 3)
    assert found.shape == (10, 10, 3)
    np.testing.assert_allclose(found[:, 2:-2], np.broadcast_to([0.2, 0.4, 0.6], (10, 6, 3)),
                               atol=1e-6)
    gray = pictures.fitted(picture, (10, 20), 1)
    assert gray.shape == (10, 20, 1)
    np.testing.assert_array_equal(pictures.with_channels(gray, 3), np.repeat(gray, 3, -1))
    with pytest.raises(UserError, match='the network takes images of 4 channels, not 3'):
        pictures.fitted(picture, (10, 10), 4)
