"""Image files of every format, damaged ones too, and the places of crops."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from cnnjax.data import formats, images
from cnnjax.errors import UserError

RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
ALPHA = np.random.default_rng(1).integers(0, 256, (6, 8), np.uint8)
SMOOTH = np.stack(np.broadcast_arrays(*np.ogrid[0:240:10, 0:240:6], 128), -1).astype(np.uint8)


def read(path):
    """An array, the same from a Picture."""
    image = images.read(path)
    for file in (path, Path(path).read_bytes()):
        picture = images.Picture(file)
        assert picture.shape == image.shape
        np.testing.assert_array_equal(picture, image)
        np.testing.assert_array_equal(picture, image)  # once more
    return image


def assert_refused(path, reason):
    """With the path and why, by both."""
    for readers in (images.read, lambda path: np.asarray(images.Picture(path))):
        with pytest.raises(UserError) as error:
            readers(path)
        assert str(error.value).startswith(f'{path} {reason}')


def on_white(color, alpha):
    alpha = alpha[..., None] / 255
    return np.broadcast_to(255 * (1 - alpha) + alpha * color, (*alpha.shape[:2], 3))


@pytest.mark.parametrize('extension', ['.png', '.PNG', '.bmp', '.tif', '.tiff', '.webp', '.ppm'])
def test_lossless_files_are_read_exactly(tmp_path, extension):
    path = tmp_path / f'a{extension}'
    Image.fromarray(RGB).save(path, lossless=True)
    image = read(path)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, RGB)
    assert path.suffix.lower() in formats.SUFFIXES


@pytest.mark.parametrize('mode', ['RGB', 'CMYK', 'L'])
def test_jpeg(tmp_path, mode):
    path = tmp_path / 'a.jpg'
    picture = Image.fromarray(SMOOTH).convert(mode)
    picture.save(path, quality=100)
    image = read(path)
    assert image.shape == SMOOTH.shape
    np.testing.assert_allclose(image, np.int16(picture.convert('RGB')), atol=6)


def test_gray_becomes_rgb(tmp_path):
    Image.fromarray(ALPHA).save(tmp_path / 'a.png')
    Image.fromarray(ALPHA > 100).save(tmp_path / 'b.png')
    np.testing.assert_array_equal(read(tmp_path / 'a.png'), np.stack([ALPHA] * 3, -1))
    np.testing.assert_array_equal(read(tmp_path / 'b.png'),
                                  np.stack([255 * (ALPHA > 100)] * 3, -1))


@pytest.mark.parametrize(('picture', 'expected'), [
    (Image.fromarray(np.dstack([RGB, ALPHA])), on_white(RGB, ALPHA)),
    (Image.fromarray(np.dstack([RGB[..., 0], ALPHA])), on_white(RGB[..., :1], ALPHA)),
], ids=['RGBA', 'LA'])
def test_transparency_is_laid_on_white(tmp_path, picture, expected):
    picture.save(tmp_path / 'a.png')
    np.testing.assert_allclose(read(tmp_path / 'a.png'), expected, atol=1)


@pytest.mark.parametrize(('transparency', 'alphas'), [
    (None, (255, 255, 255)), (1, (255, 0, 255)), (b'\x00\xff\x80', (0, 255, 128)),
])
def test_palettes(tmp_path, transparency, alphas):
    index = np.arange(48).reshape(6, 8) % 3
    colors = np.uint8([[10, 20, 30], [200, 100, 50], [0, 255, 128]])
    picture = Image.fromarray(index.astype(np.uint8))
    picture.putpalette(colors.tobytes())
    picture.save(tmp_path / 'a.png', **({} if transparency is None else
                                        {'transparency': transparency}))
    with Image.open(tmp_path / 'a.png') as written:
        assert written.mode == 'P'
    np.testing.assert_allclose(read(tmp_path / 'a.png'),
                               on_white(colors[index], np.uint8(alphas)[index]), atol=1)


def test_a_transparent_color(tmp_path):
    Image.fromarray(RGB).save(tmp_path / 'a.png', transparency=tuple(map(int, RGB[2, 3])))
    expected = RGB.copy()
    expected[2, 3] = 255
    np.testing.assert_array_equal(read(tmp_path / 'a.png'), expected)


@pytest.mark.parametrize('levels', [np.arange(65536), np.arange(65536) % 256],
                         ids=['all', 'dark'])
@pytest.mark.parametrize('extension', ['png', 'tif', 'pgm'])
def test_16_bit_pictures_keep_their_upper_8_bits(tmp_path, extension, levels):
    levels = levels.reshape(256, 256).astype(np.uint16)
    Image.fromarray(levels).save(tmp_path / f'a.{extension}')
    np.testing.assert_array_equal(read(tmp_path / f'a.{extension}')[..., 2], levels >> 8)


def test_big_endian_16_bits(tmp_path):
    picture = Image.frombytes('I;16B', (8, 6), np.arange(0, 48000, 1000, '>u2').tobytes())
    picture.save(tmp_path / 'a.tif')
    np.testing.assert_array_equal(read(tmp_path / 'a.tif')[..., 0].ravel(),
                                  np.arange(0, 48000, 1000) >> 8)


@pytest.mark.parametrize('extension', ['png', 'jpg', 'tif', 'webp'])
@pytest.mark.parametrize(('orientation', 'upright'), [
    (1, lambda x: x),
    (2, lambda x: x[:, ::-1]),
    (3, lambda x: x[::-1, ::-1]),
    (4, lambda x: x[::-1]),
    (5, lambda x: x.swapaxes(0, 1)),
    (6, lambda x: np.rot90(x, -1)),
    (7, lambda x: x[::-1, ::-1].swapaxes(0, 1)),
    (8, np.rot90),
])
def test_exif_orientation(tmp_path, extension, orientation, upright):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f'a.{extension}'
    Image.fromarray(SMOOTH).save(path, exif=exif, quality=100)
    image = read(path)
    assert image.shape == upright(SMOOTH).shape
    np.testing.assert_allclose(image, np.int16(upright(SMOOTH)), atol=6)


@pytest.mark.parametrize('extension', ['gif', 'webp', 'tif', 'png'])
def test_the_first_frame_of_an_animation(tmp_path, extension):
    path = tmp_path / f'a.{extension}'
    frames = [Image.fromarray(np.full((6, 8), level, np.uint8)) for level in (50, 150, 250)]
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
    with Image.open(path) as written:
        assert written.n_frames == 3
    np.testing.assert_array_equal(read(path), np.full((6, 8, 3), 50))


@pytest.mark.parametrize('shape', [(1, 1), (1, 300), (300, 1)])
def test_one_pixel_high_or_wide(tmp_path, shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / 'a.png')
    np.testing.assert_array_equal(read(tmp_path / 'a.png'), image)


@pytest.mark.parametrize('name', ['a.jpg', 'a', 'déjà vu, 猫 & %20.png', "it's [1] *.png"])
def test_the_name_does_not_matter(tmp_path, name):
    path = tmp_path / name
    Image.fromarray(RGB).save(path, 'PNG')
    for given in (path, str(path)):
        np.testing.assert_array_equal(read(given), RGB)


def encoded(tmp_path, extension):
    path = tmp_path / f'whole.{extension}'
    Image.fromarray(np.tile(RGB, (10, 10, 1))).save(path)
    return path.read_bytes()


@pytest.mark.parametrize('damage', [
    lambda jpeg, png: jpeg[:len(jpeg) // 2],
    lambda jpeg, png: jpeg[:20],
    lambda jpeg, png: png[:-50],
    lambda jpeg, png: png[:40],
    lambda jpeg, png: png[:100] + bytes(200) + png[300:],
    lambda jpeg, png: b'<html>404 Not Found</html>' * 10,
    lambda jpeg, png: b'',
], ids=['half a jpeg', 'jpeg header', 'end of png', 'png header', 'zeros', 'text', 'empty'])
def test_damaged_files_are_named(tmp_path, damage):
    path = tmp_path / 'my photo é.png'
    path.write_bytes(damage(encoded(tmp_path, 'jpg'), encoded(tmp_path, 'png')))
    assert_refused(path, 'is not a readable image: ')


@pytest.mark.parametrize('name', ['missing.png', '.', 'file.png/a.png'])
def test_what_is_no_file_is_named(tmp_path, name):
    (tmp_path / 'file.png').touch()
    assert_refused(tmp_path / name, 'is not a readable image: ')


def test_decompression_bombs_are_errors_and_warn_of_nothing(tmp_path):
    """Pillow only warns up to twice its limit. In a process of its own, set up like that of a
    program, for pytest's filters make errors of all warnings."""
    path = tmp_path / 'bomb.png'
    Image.fromarray(RGB).save(path)
    script = f'''
from PIL import Image
from cnnjax import quiet
from cnnjax.data import images
from cnnjax.errors import UserError
quiet.pictures()
for reader in (images.read, images.Picture):
    for limit in (20, 40, 48):
        Image.MAX_IMAGE_PIXELS = limit
        try:
            print(reader({str(path)!r}).shape)
        except UserError as error:
            print(error)
'''
    root = Path(__file__).parents[1]
    result = subprocess.run([sys.executable, '-W', 'always', '-c', script], check=True, text=True,
                            capture_output=True, env=os.environ | {'PYTHONPATH': str(root)})
    refused = f'{path} is not a readable image: Image size (48 pixels) exceeds limit of 40 pixels'
    for warned, bomb, whole in np.reshape(result.stdout.splitlines(), (2, 3)):
        assert warned.startswith(refused)
        assert bomb.startswith(refused)
        assert whole == '(6, 8, 3)'
    assert 'DecompressionBombWarning' not in result.stderr


# Crops. The pixels of this picture tell where they were: (row, column, 0).
PLACES = np.stack(np.broadcast_arrays(*np.ogrid[0:120, 0:200], 0), -1).astype(np.uint8)
TALL = PLACES.swapaxes(0, 1)[..., [1, 0, 2]]


def box(crop):
    """The top, left, height and width, in pixels of PLACES, that a crop was cut from."""
    size = len(crop)
    place = np.arange(size)[2:-2] + 0.5  # without the borders, where the filter is one-sided
    (height, top), (width, left) = (np.polyfit(place / size, line[2:-2] + 0.5, 1) for line in (
        crop[..., 0].mean(1), crop[..., 1].mean(0)))
    return np.array([top, left, height, width])


def center_crop(image, shorter_side, size):
    return images.cut(image, images.placed_box(image.shape, shorter_side, size), size)


def shorter_side_crop(image, rng, shorter_sides, size):
    return images.cut(image, images.shorter_side_box(image.shape, rng, shorter_sides, size), size)


def random_resized_crop(image, rng, area, aspect, size):
    return images.cut(image, images.random_resized_box(image.shape, rng, area, aspect), size)


def kinds(size):
    """All crops of that size, as functions of an image and a generator."""
    return {'center': lambda image, rng: center_crop(image, size, size),
            'shorter_side': lambda image, rng: shorter_side_crop(
                image, rng, (size, 2 * size), size),
            'random_resized': lambda image, rng: random_resized_crop(
                image, rng, (0.08, 1), (3 / 4, 4 / 3), size)}


@pytest.mark.parametrize('kind', kinds(1))
@pytest.mark.parametrize('size', [1, 24, 33])
@pytest.mark.parametrize('shape', [(120, 200), (24, 24), (200, 7), (1, 500), (500, 1), (1, 1)])
@pytest.mark.parametrize('channels', [1, 3])
def test_crops_have_their_size_and_keep_the_channels(kind, size, shape, channels):
    image = np.random.default_rng(0).integers(0, 256, (*shape, channels), np.uint8)
    crop = kinds(size)[kind](image, np.random.default_rng(1))
    assert crop.shape == (size, size, channels)
    assert crop.dtype == np.uint8


@pytest.mark.parametrize('kind', ['shorter_side', 'random_resized'])
def test_random_crops_are_functions_of_the_generator(kind):
    crop = kinds(32)[kind]
    crops = [crop(PLACES, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(crops[0], crops[1])
    assert (crops[0] != crops[2]).any()


@pytest.mark.parametrize('channels', [1, 3])
def test_a_picture_of_that_size_stays_as_it_is(channels):
    image = np.random.default_rng(0).integers(0, 256, (32, 32, channels), np.uint8)
    rng = np.random.default_rng(1)
    for crop in (center_crop(image, 32, 32),
                 shorter_side_crop(image, rng, (32, 32), 32),
                 random_resized_crop(image, rng, (1, 1), (1, 1), 32)):
        np.testing.assert_array_equal(crop, image)
    assert (center_crop(image, 40, 32) != image).any()


def test_a_crop_at_the_pictures_own_scale_copies_pixels():
    np.testing.assert_array_equal(center_crop(PLACES, 120, 100), PLACES[10:110, 50:150])
    np.testing.assert_array_equal(center_crop(TALL, 120, 90), TALL[55:145, 15:105])


@pytest.mark.parametrize(('shorter_side', 'size', 'side'), [
    (60, 60, 120), (60, 48, 96), (40, 30, 90), (240, 200, 100), (256, 224, 105),
])
@pytest.mark.parametrize('image', [PLACES, TALL], ids=['wide', 'tall'])
def test_center_crops_are_the_middle(image, shorter_side, size, side):
    height, width = image.shape[:2]
    crop = center_crop(image, shorter_side, size)
    expected = [(height - side) / 2, (width - side) / 2, side, side]
    np.testing.assert_allclose(box(crop), expected, atol=0.5)


def test_crops_are_antialiased():
    """Stripes that are finer than the new pixels become gray."""
    stripes = np.uint8(255 * (np.indices((120, 120)).sum(0) % 2))[..., None]
    crop = center_crop(stripes, 24, 24)
    np.testing.assert_allclose(crop, np.full_like(crop, 127), atol=5)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_crops_of_large_jpegs_are_decoded_no_finer_than_needed(tmp_path, orientation):
    """At a quarter of the size, and turned, and yet the same crop but for its finest details."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    y, x = np.ogrid[0:4:961j, 0:7:1283j]
    waves = np.stack(np.broadcast_arrays(np.sin(x * y), np.cos(3 * x), np.sin(5 * y)), -1)
    Image.fromarray(np.uint8(127.5 + 127.5 * waves)).save(tmp_path / 'a.jpg', exif=exif)
    picture = images.Picture(tmp_path / 'a.jpg')
    pixels, scale, _ = picture.decode(0.24)
    assert scale == 1 / 4
    assert sorted(pixels.size) == [241, 321]
    for cut in (lambda image: center_crop(image, 110, 100),
                lambda image: random_resized_crop(
                    image, np.random.default_rng(0), (0.8, 1), (0.7, 1.4), 100)):
        whole = cut(images.read(tmp_path / 'a.jpg'))
        difference = np.abs(np.int16(cut(images.Picture(tmp_path / 'a.jpg'))) - whole)
        assert 0 < difference.mean() < 0.5
        assert difference.max() < 5


def assert_inside(boxes, image):
    top, left, height, width = boxes.T
    for first, length, limit in ((top, height, len(image)), (left, width, image.shape[1])):
        assert first.min() > -0.5
        assert (first + length).max() < limit + 0.5
        free = limit - length  # the place is uniform in what the box leaves free
        assert stats.kstest(np.clip(first / free, 0, 1), 'uniform').pvalue > 1e-3


@pytest.mark.parametrize('image', [PLACES, TALL], ids=['wide', 'tall'])
def test_shorter_side_crops_take_every_scale_and_place(image):
    rng = np.random.default_rng(0)
    boxes = np.array([box(shorter_side_crop(image, rng, (60, 64), 56)) for _ in range(200)])
    np.testing.assert_allclose(boxes[:, 2], boxes[:, 3], atol=0.6)
    scales = 56 * 120 / boxes[:, 2:].mean(1)
    np.testing.assert_allclose(scales, np.rint(scales), atol=0.35)
    counts = np.bincount(np.rint(scales).astype(int))[60:]
    assert counts.shape == (5,)  # both ends of the range are in it
    assert stats.chisquare(counts).pvalue > 1e-3
    assert_inside(boxes, image)


@pytest.mark.parametrize('image', [PLACES, TALL], ids=['wide', 'tall'])
def test_random_resized_crops_take_every_area_shape_and_place(image):
    rng = np.random.default_rng(0)
    boxes = np.array([box(random_resized_crop(image, rng, (0.02, 0.1), (0.5, 3), 56))
                      for _ in range(300)])
    area = boxes[:, 2] * boxes[:, 3] / (120 * 200)
    aspect = boxes[:, 3] / boxes[:, 2]
    assert stats.kstest(area, 'uniform', (0.02, 0.08)).pvalue > 1e-3
    assert stats.kstest(np.log(aspect), 'uniform', (np.log(0.5), np.log(6))).pvalue > 1e-3
    for values, low, high in ((area, 0.02, 0.1), (aspect, 0.5, 3)):
        np.testing.assert_allclose((values.min(), values.max()), (low, high), rtol=0.05)
    assert_inside(boxes, image)


@pytest.mark.parametrize('shape', [(1, 500), (500, 1)])
def test_where_no_random_resized_crop_fits_it_is_the_middle(shape):
    image = np.zeros((500, 3), np.uint8)
    image[249:251] = (10, 20, 30)
    crop = random_resized_crop(image.reshape(*shape, 3), np.random.default_rng(0),
                                      (0.08, 1), (3 / 4, 4 / 3), 24)
    np.testing.assert_array_equal(crop, np.full((24, 24, 3), (10, 20, 30)))


@pytest.mark.parametrize(('shape', 'scaled'), [
    ((375, 500), (800, 1066)), ((300, 1000), (399, 1333)), ((427, 640), (800, 1199)),
    ((780, 929), (799, 952)), ((1457, 1107), (1052, 800)), ((2, 3000), (1, 1333))])
def test_a_letterbox_has_the_sides_of_torchvisions_detectors(shape, scaled):
    """fasterrcnn_resnet50_fpn's, with a shorter side of 800 and a longer of at most 1333."""
    assert images.letterbox_shape(shape, 800, 1333) == scaled
