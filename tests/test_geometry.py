"""Masks and boxes move together with their image."""

import functools

import jax
import numpy as np
import pytest

from cnnjax.data import Crops, geometry
from cnnjax.data.augment import Normalization, augment

IDENTITY = Normalization(np.float32([0]), np.float32([1]))
BOX = 20, 30, 50, 70  # left, top, right, bottom of the one object


def scene(height=90, width=120):
    """A black picture with a white rectangle, whose mask and box are known; a second object is
    padding."""
    image = np.zeros((height, width, 3), np.uint8)
    left, top, right, bottom = BOX
    image[top:bottom, left:right] = 255
    return {'image': image, 'mask': np.uint8(image[..., 0] > 0),
            'boxes': np.float32([BOX, (0, 0, 0, 0)]), 'labels': np.int32([1, -1])}


def rectangle(pixels):
    """(left, top, right, bottom) of what is true; None where nothing is."""
    if not pixels.any():
        return None
    rows, columns = (np.flatnonzero(pixels.any(axis)) for axis in (1, 0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def assert_together(example, tolerance, white=255):
    """The object is where the mask and the box say, unless its middle is outside."""
    seen = rectangle(np.asarray(example['image'])[..., 0] > white / 2)
    found = rectangle(np.asarray(example['mask']) == 1)
    if seen is None or found is None:  # or it is a sliver at the border
        for left, top, right, bottom in filter(None, (seen, found)):
            assert min(right - left, bottom - top) <= tolerance
        return
    np.testing.assert_allclose(found, seen, atol=tolerance)
    if example['labels'][0] == 1:
        np.testing.assert_allclose(example['boxes'][0], seen, atol=tolerance)


@pytest.mark.parametrize('kind', ['shorter_side', 'random_resized'])
@pytest.mark.parametrize('border', [0, 7])
def test_cuts_take_mask_and_boxes_along(kind, border):
    crops = Crops(48, kind, (50, 80), (0.3, 1.0), border=border)
    objects = 0
    for seed in range(40):
        example = crops.random(scene(), np.random.default_rng(seed))
        assert example['mask'].shape == (48, 48)
        assert set(np.unique(example['mask'])) <= {0, 1, geometry.IGNORE}
        assert_together(example, 1.5)
        objects += example['labels'][0] == 1
        assert example['labels'][1] == -1
    assert 10 < objects < 40
    assert_together(crops.center(scene()), 1.5)


def test_a_border_is_ignored():
    example = geometry.bordered(scene(), 4)
    assert example['image'].shape == (98, 128, 3)
    assert (example['mask'][:4] == geometry.IGNORE).all()
    assert (example['mask'][4:-4, 4:-4] != geometry.IGNORE).all()
    assert_together(example, 0)


@pytest.mark.parametrize('mode', ['zero', 'reflect'])
def test_translations_and_flips_take_mask_and_boxes_along(mode):
    count, padding = 60, 40
    one = scene()
    examples = {name: np.stack([array] * count) for name, array in one.items()}
    run = jax.jit(functools.partial(augment, normalize=IDENTITY, flip=True, padding=padding,
                                    padding_mode=mode))
    found = jax.device_get(run(jax.random.key(0), np.arange(count, dtype=np.int32), examples))
    assert {name: array.dtype for name, array in found.items()} == {
        'image': np.float32, 'mask': np.uint8, 'boxes': np.float32, 'labels': np.int32}
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


def test_an_object_whose_middle_has_left_is_none():
    example = geometry.cut(scene(), (0, 36, 60, 60), 60)  # its middle is at 35, 50
    assert example['labels'].tolist() == [-1, -1]
    assert not example['boxes'].any()
    example = geometry.cut(scene(), (0, 34, 60, 60), 60)
    assert example['labels'].tolist() == [1, -1]
    np.testing.assert_array_equal(example['boxes'][0], (0, 30, 16, 60))


def test_without_targets_nothing_is_added():
    example = {'image': scene()['image'], 'label': 3}
    assert geometry.cut(geometry.bordered(example, 2), (0, 0, 9, 9), 9).keys() == example.keys()
