"""Masks and boxes move together with their image."""

import functools

import jax
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, stats

from cnnjax.data import geometry
from cnnjax.data.augment import augment
from cnnjax.data.normalize import Normalization

RNG = np.random.default_rng(0)
STILL = {'scale': np.float32(1), 'angle': np.float32(0),
         'displacements': np.zeros((3, 3, 2), np.float32)}
IDENTITY = Normalization(np.float32([0]), np.float32([1]))
BOX = 20, 30, 50, 70  # left, top, right, bottom of the one object


def scene(height=90, width=120):
    """A black picture with a white rectangle, whose mask, weights and box are known; a second
    object is padding."""
    image = np.zeros((height, width, 3), np.uint8)
    left, top, right, bottom = BOX
    image[top:bottom, left:right] = 255
    return {'image': image, 'mask': np.uint8(image[..., 0] > 0),
            'weight_map': np.float32(image[..., 0] > 0),
            'boxes': np.float32([BOX, (0, 0, 0, 0)]), 'labels': np.int32([1, -1])}


def rectangle(pixels):
    """(left, top, right, bottom) of what is true; None where nothing is."""
    if not pixels.any():
        return None
    rows, columns = (np.flatnonzero(pixels.any(axis)) for axis in (1, 0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def assert_together(example, tolerance, white=255, turned=False):
    """The object is where the mask and the box say, unless its middle is outside. The box around a
    turned object that is partly outside may be larger than what is seen of it."""
    np.testing.assert_array_equal(example['weight_map'], np.asarray(example['mask']) == 1)
    seen = rectangle(np.asarray(example['image'])[..., 0] > white / 2)
    found = rectangle(np.asarray(example['mask']) == 1)
    if seen is None or found is None:  # or it is a sliver at the border
        for left, top, right, bottom in filter(None, (seen, found)):
            assert min(right - left, bottom - top) <= tolerance
        return
    np.testing.assert_allclose(found, seen, atol=tolerance)
    outside = np.isin(example['boxes'][0], (0, *example['mask'].shape)).any()
    if example['labels'][0] == 1 and not (turned and outside):
        np.testing.assert_allclose(example['boxes'][0], seen, atol=tolerance)


def test_a_border_is_ignored():
    example = geometry.bordered(scene(), ((4, 4), (4, 4)))
    assert example['image'].shape == (98, 128, 3)
    assert (example['mask'][:4] == geometry.IGNORE).all()
    assert (example['mask'][4:-4, 4:-4] != geometry.IGNORE).all()
    assert_together(example, 0)


@pytest.mark.parametrize('border', [5, 31])  # 31 pixels around 8 x 9 take several mirror images
def test_a_mirrored_border_is_ignored(border):
    image = RNG.integers(0, 256, (8, 9, 3), np.uint8)
    own = {'image': image, 'mask': image[..., 0] % 3, 'boxes': np.float32([(1, 2, 3, 5)]),
           'labels': np.int32([1])}
    example = geometry.bordered(own, [(border, border)] * 2, 'reflect')
    rows, columns = (np.arange(-border, n + border) for n in image.shape[:2])
    np.testing.assert_array_equal(example['image'], image[np.ix_(
        *(np.abs((places + n - 1) % (2 * n - 2) - n + 1) for places, n in
          zip((rows, columns), image.shape, strict=False)))])
    inside = slice(border, -border), slice(border, -border)
    np.testing.assert_array_equal(example['mask'][inside], own['mask'])
    assert (example['mask'] == geometry.IGNORE).sum() == example['mask'].size - 72
    np.testing.assert_array_equal(example['boxes'], own['boxes'] + border)


def painted(box, height=120, width=150):
    """A gray picture with a white box of the class 3; the other objects are an ignored one, which
    is the same, and padding. A proposal is the same as the box."""
    left, top, right, bottom = box
    image = np.full((height, width, 3), 100, np.uint8)
    image[top:bottom, left:right] = 255
    return {'image': image, 'boxes': np.float32([box, box, (0, 0, 0, 0)]),
            'labels': np.int32([3, 3, -1]), 'ignore': np.array([False, True, False]),
            'proposals': np.float32([box, (0, 0, 0, 0)])}


def assert_boxes(example, tolerance, white=255):
    """The boxes, the proposals and the frame are where the picture shows them."""
    gray = np.asarray(example['image'])[..., 0]
    seen, height, width = rectangle(gray > white * 0.7), *gray.shape
    if example['labels'][0] == 3:
        np.testing.assert_allclose(example['boxes'][0], seen, atol=tolerance)
    else:
        assert not example['boxes'][0].any()
    if seen and min(seen[2] - seen[0], seen[3] - seen[1]) > 2 * tolerance:
        assert example['labels'].tolist()[1:] == [3, -1]  # The ignored one stays while it is seen.
        assert example['ignore'].tolist() == [False, True, False]
        np.testing.assert_allclose(example['boxes'][1], seen, atol=tolerance)
        np.testing.assert_allclose(example['proposals'][0], seen, atol=tolerance)
    assert not example['boxes'][2].any()
    assert not example['proposals'][1].any()
    if 'frame' in example:
        frame = np.clip(example['frame'], 0, [width, height] * 2)
        np.testing.assert_allclose(frame, rectangle(gray > white * 0.2), atol=tolerance)
        assert example['size'].tolist() == [120, 150]


@pytest.mark.parametrize('options', [
    {'jitter': 0.3}, {'flip': True, 'flip_vertical': True}, {'padding': 40, 'crop_size': 100},
    {'jitter': 0.2, 'scale': (0.8, 1.3), 'rotation': 10.0, 'flip': True}],
    ids=lambda options: '+'.join(options))
def test_augmentation_moves_all_boxes_with_the_image(options):
    """The box around a turned box is larger than what is seen of it where it is cut."""
    rng, count = np.random.default_rng(0), 24
    corners = rng.integers(3, 80, (count, 2))
    own = [geometry.framed(painted((left, top, left + 40, top + 30))) for left, top in corners]
    run = jax.jit(functools.partial(augment, normalize=IDENTITY, **options))
    found = jax.device_get(run(jax.random.key(1), np.arange(count, dtype=np.int32), {
        name: np.stack([example[name] for example in own]) for name in own[0]}))
    seen = 0
    for i in range(count):
        example = {name: array[i] for name, array in found.items()}
        if 'rotation' in options:
            inside = example['boxes'][0]
            if example['labels'][0] == 3 and inside.min() > 0 and inside.max() < 119:
                np.testing.assert_allclose(inside, rectangle(example['image'][..., 0] > 0.5),
                                           atol=2)
                seen += 1
            continue
        assert_boxes(example, 1.6, 1)
        seen += example['labels'][0] == 3
        assert (example['frame'] >= 0).all()
        assert (example['frame'][2:] <= example['image'].shape[1::-1]).all()
    assert seen > 8


def test_jitter_is_a_crop_of_darknets_borders_stretched():
    """Each border moves by U(-j, j) of the side, which a box in the middle tells. The part is what
    Pillow cuts out, and outside the image the nearest pixels."""
    count, image = 300, RNG.integers(0, 256, (40, 60, 3), np.uint8)
    run = jax.jit(functools.partial(augment, normalize=IDENTITY, jitter=0.2, padding_mode='edge'))
    found = jax.device_get(run(jax.random.key(0), np.arange(count, dtype=np.int32), {
        'image': np.stack([image] * count), 'labels': np.zeros((count, 1), np.int32),
        'boxes': np.float32([[[20, 10, 40, 30]]] * count)}))
    boxes = found['boxes'][:, 0]
    across = 20 * 60 / (boxes[:, 2] - boxes[:, 0])  # the width and height of the part shown
    down = 20 * 40 / (boxes[:, 3] - boxes[:, 1])
    moves = np.stack([(20 - boxes[:, 0] * across / 60) / 60, (10 - boxes[:, 1] * down / 40) / 40])
    moves = np.concatenate([moves, moves + [across / 60 - 1, down / 40 - 1]])
    for of in moves:
        assert stats.kstest(of, stats.uniform(-0.2, 0.4).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(moves) - np.eye(4)).max() < 0.2
    padded = Image.fromarray(np.pad(image, ((20, 20), (20, 20), (0, 0)), 'edge'))
    for i in range(20):
        left, top, right, bottom = *moves[:2, i], *(1 + moves[2:, i])
        expected = padded.transform((60, 40), Image.Transform.EXTENT, (
            60 * left + 20, 40 * top + 20, 60 * right + 20, 40 * bottom + 20),
            Image.Resampling.BILINEAR)
        np.testing.assert_allclose(found['image'][i], np.asarray(expected) / 255, atol=0.03)


def test_an_object_of_which_jitter_leaves_almost_nothing_is_none():
    """Less than .005 of the image's width or height; other changes keep small objects."""
    examples = {'image': np.zeros((1, 400, 400, 1), np.uint8), 'labels': np.zeros((1, 2), np.int32),
                'boxes': np.float32([[(200, 200, 201, 260), (200, 200, 206, 260)]])}
    for options, labels in (({'jitter': 0.1}, [-1, 0]), ({'rotation': 1e-6}, [0, 0])):
        found = augment(jax.random.key(0), np.zeros(1, np.int32), examples, normalize=IDENTITY,
                        **options)
        assert found['labels'][0].tolist() == labels


@pytest.mark.parametrize('mode', ['zero', 'reflect'])
def test_translations_and_flips_take_mask_and_boxes_along(mode):
    count, padding = 60, 40
    one = scene()
    examples = {name: np.stack([array] * count) for name, array in one.items()}
    run = jax.jit(functools.partial(augment, normalize=IDENTITY, flip=True, flip_vertical=True,
                                    padding=padding, padding_mode=mode))
    found = jax.device_get(run(jax.random.key(0), np.arange(count, dtype=np.int32), examples))
    assert {name: array.dtype for name, array in found.items()} == {
        'image': np.float32, 'mask': np.uint8, 'weight_map': np.float32, 'boxes': np.float32,
        'labels': np.int32}
    places = set()
    for i in range(count):
        example = {name: array[i] for name, array in found.items()}
        outside = example['mask'] == geometry.IGNORE
        assert mode == 'zero' or not outside.any()
        assert (example['image'][outside] == 0).all()
        if mode == 'zero':
            assert_together(example, 0, 1)
        np.testing.assert_array_equal(example['mask'] == 1, example['image'][..., 0] == 1)
        places.add(tuple(example['boxes'][0]))
    assert len(places) > 50


def noise(height=24, width=30):
    """An image of floats, whose targets of pixels are pictures of noise too."""
    mask = RNG.integers(0, 5, (height, width), np.uint8)
    return {'image': RNG.normal(size=(height, width, 3)).astype(np.float32), 'mask': mask,
            'weight_map': np.float32(mask) / 4, 'boxes': np.float32([(9, 5, 14, 20)]),
            'labels': np.int32([2])}


@pytest.mark.parametrize('mode', ['zero', 'reflect', 'edge'])
@pytest.mark.parametrize(('corner', 'shape'), [((0, 0), (24, 30)), ((-7, 5), (24, 30)),
                                               ((9, -6), (11, 17)), ((-7, -7), (38, 44))])
def test_without_a_turn_a_warp_is_a_crop(mode, corner, shape):
    """With the same bits, those of the image itself where all of it is seen."""
    example, corner = noise(), np.int32(corner)
    found = geometry.warped(example, corner, shape, mode, **STILL)
    expected = geometry.cropped(example, corner + 8, shape, 8, mode)
    assert found.keys() == expected.keys() == example.keys()
    for name in example:
        assert found[name].dtype == example[name].dtype
        np.testing.assert_array_equal(found[name], expected[name])
        if shape == (24, 30) and not corner.any():
            np.testing.assert_array_equal(found[name], example[name])


@pytest.mark.parametrize('quarters', [1, 2, 3, -1])
def test_a_quarter_turn_is_numpys(quarters):
    example = noise(25, 25)
    found = geometry.warped(example, np.int32([0, 0]), (25, 25), 'zero', **{
        **STILL, 'angle': np.float32(quarters * np.pi / 2)})
    np.testing.assert_allclose(found['image'], np.rot90(example['image'], quarters), atol=1e-4)
    for name in ('mask', 'weight_map'):
        np.testing.assert_array_equal(found[name], np.rot90(example[name], quarters))
    expected = {1: (5, 11, 20, 16), 2: (11, 5, 16, 20), 3: (5, 9, 20, 14)}[quarters % 4]
    np.testing.assert_allclose(found['boxes'], [expected], atol=1e-4)


def test_twice_the_size_is_a_resized_middle():
    example = noise()
    found = geometry.warped(example, np.int32([0, 0]), (24, 30), 'reflect',
                            **{**STILL, 'scale': np.float32(2)})
    whole = jax.image.resize(example['image'], (48, 60, 3), 'bilinear')
    np.testing.assert_allclose(found['image'], whole[12:-12, 15:-15], atol=1e-5)
    for name in ('mask', 'weight_map'):
        np.testing.assert_array_equal(found[name], example[name].repeat(2, 0).repeat(2, 1)[
            12:-12, 15:-15])
    np.testing.assert_allclose(found['boxes'], [(3, 0, 13, 24)], atol=1e-4)


@pytest.mark.parametrize(('mode', 'scipys'), [
    ('zero', 'grid-constant'), ('reflect', 'mirror'), ('edge', 'nearest')])
def test_a_warp_is_scipys(mode, scipys):
    """Its matrix, in numbers of 64 bits, and its interpolation."""
    example, corner, shape = noise(), np.int32([2, -5]), (20, 26)
    scale, angle = 0.7, 0.4
    displacements = RNG.normal(size=(3, 3, 2)).astype(np.float32)
    found = geometry.warped(example, corner, shape, mode, scale=np.float32(scale),
                            angle=np.float32(angle), displacements=displacements)
    field = np.asarray(geometry.displacement_field(displacements, shape))
    y, x = np.indices(shape) + np.stack([field.real, field.imag])
    y, x = y - 9.5, x - 12.5
    places = np.stack([(np.cos(angle) * y + np.sin(angle) * x) / scale + 9.5 + corner[0],
                       (np.cos(angle) * x - np.sin(angle) * y) / scale + 12.5 + corner[1]])
    for i in range(3):
        np.testing.assert_allclose(found['image'][..., i], ndimage.map_coordinates(
            example['image'][..., i], places, order=1, mode=scipys), atol=1e-4)
    for name, outside in geometry.PER_PIXEL.items():
        np.testing.assert_array_equal(found[name], ndimage.map_coordinates(
            example[name], places, order=0, mode=scipys, cval=outside))
    assert (np.asarray(found['mask']) == geometry.IGNORE).any() == (mode == 'zero')


@pytest.mark.parametrize('shape', [(33, 47), (20, 20), (572, 5)])
def test_displacements_are_interpolated_as_pillow_does(shape):
    """Its box makes the grid's outermost points the middles of the outermost pixels."""
    draws = RNG.normal(size=(3, 3, 2)).astype(np.float32)
    field = np.asarray(geometry.displacement_field(draws, shape))
    height, width = (2 / (n - 1) for n in shape)
    box = 0.5 - width / 2, 0.5 - height / 2, 2.5 + width / 2, 2.5 + height / 2
    for i, part in enumerate((field.real, field.imag)):
        expected = Image.fromarray(draws[..., i]).resize(shape[::-1], Image.Resampling.BICUBIC, box)
        np.testing.assert_allclose(part, expected, atol=1e-5)
    corners = field[[0, 0, -1, -1], [0, -1, 0, -1]]
    np.testing.assert_allclose(corners, draws[[0, 0, 2, 2], [0, 2, 0, 2]] @ (1, 1j), atol=1e-5)


@pytest.mark.parametrize('mode', ['zero', 'reflect'])
@pytest.mark.parametrize('options', [
    {'scale': (0.6, 1.6)}, {'rotation': 180.0}, {'elastic': 4.0},
    {'scale': (0.8, 1.5), 'rotation': 30.0, 'elastic': 3.0, 'padding': 20, 'crop_size': 80,
     'flip': True, 'flip_vertical': True}], ids=lambda options: '+'.join(options))
def test_warps_take_mask_and_boxes_along(mode, options):
    count, one = 40, scene()
    examples = {name: np.stack([array] * count) for name, array in one.items()}
    run = jax.jit(functools.partial(augment, normalize=IDENTITY, padding_mode=mode, **options))
    found = jax.device_get(run(jax.random.key(0), np.arange(count, dtype=np.int32), examples))
    objects = 0
    for i in range(count):
        example = {name: array[i] for name, array in found.items()}
        image, mask = example['image'][..., 0], example['mask']
        assert set(np.unique(mask)) <= {0, 1, geometry.IGNORE}
        pure = (image < 1e-6) | (image > 1 - 1e-6)  # not interpolated between black and white
        assert pure.mean() > 0.9
        counts = pure & (mask != geometry.IGNORE)
        np.testing.assert_array_equal(image[counts] > 0.5, mask[counts] == 1)
        if mode == 'zero':
            assert_together(example, 2, 1, turned=True)
        else:
            assert geometry.IGNORE not in mask
        objects += example['labels'][0] == 1
    assert 20 < objects <= count
    assert len(np.unique(found['boxes'], axis=0)) >= objects


def test_a_warp_under_strict_promotion_of_types_and_ranks():
    examples = {name: array[None] for name, array in geometry.framed(scene()).items()}
    with jax.enable_x64(True), jax.numpy_dtype_promotion('strict'):
        found = augment(jax.random.key(0), np.zeros(1, np.int32), examples, normalize=IDENTITY,
                        scale=(0.8, 1.2), rotation=20.0, elastic=2.0, flip_vertical=True,
                        jitter=0.1, hue=0.1, saturation=1.5, exposure=1.5)
    for name in ('image', 'boxes', 'weight_map', 'frame'):
        assert found[name].dtype == np.float32


def test_scales_and_angles_are_uniform():
    """Seen by a small box beside the middle, whose size tells the scale, and whose place the angle.
    Scales are uniform on a logarithmic axis: half as large is as likely as twice as large."""
    count = 2000
    box = np.float32([[51, 29.5, 52, 30.5]])  # in an image of 60 x 100, whose middle is (50, 30)
    examples = {'image': np.zeros((count, 60, 100, 1), np.uint8), 'boxes': np.stack([box] * count),
                'labels': np.zeros((count, 1), np.int32)}
    found = {}
    for name, options in {'scale': {'scale': (0.5, 4.0)}, 'angle': {'rotation': 30.0}}.items():
        run = jax.jit(functools.partial(augment, normalize=IDENTITY, **options))
        found[name] = np.asarray(run(jax.random.key(0), np.arange(count, dtype=np.int32), examples)[
            'boxes'][:, 0])
    scales = found['scale'][:, 2] - found['scale'][:, 0]
    assert stats.kstest(np.log2(scales), stats.uniform(-1, 3).cdf).pvalue > 1e-3
    x, y = ((found['angle'][:, i] + found['angle'][:, i + 2]) / 2 - middle
            for i, middle in ((0, 50), (1, 30)))
    np.testing.assert_allclose(np.hypot(x, y), 1.5, rtol=1e-4)
    assert stats.kstest(np.degrees(np.arctan2(-y, x)), stats.uniform(-30, 60).cdf).pvalue > 1e-3


def test_an_object_whose_middle_has_left_is_none():
    example = geometry.cut(scene(), (0, 36, 60, 60), 60)  # its middle is at 35, 50
    assert example['labels'].tolist() == [-1, -1]
    assert not example['boxes'].any()
    example = geometry.cut(scene(), (0, 34, 60, 60), 60)
    assert example['labels'].tolist() == [1, -1]
    np.testing.assert_array_equal(example['boxes'][0], (0, 30, 16, 60))


def test_without_targets_nothing_is_added():
    example = {'image': scene()['image'], 'label': 3}
    moved = geometry.cut(geometry.bordered(example, ((2, 2), (2, 2))), (0, 0, 9, 9), 9)
    assert moved.keys() == example.keys()
