"""The coins: their number, and windows that show each pixel of the two parts."""

import numpy as np
import pytest
import skimage

from cnnjax import data
from cnnjax.data import coins, geometry
from cnnjax.errors import UserError


def test_there_are_24_coins():
    labels = coins.regions(skimage.data.coins())
    assert labels.shape == (303, 384)
    sizes = np.bincount(labels.ravel())[1:]
    assert len(sizes) == 24
    assert sizes.min() > 200


@pytest.mark.parametrize(('split', 'count'), [('train', 154), ('test', 8)])
def test_windows_of_gray_pixels(split, count):
    source = data.load('coins', split, target='mask')
    assert source.classes == ('background', 'coin')
    assert len(source.examples) == count
    for example in source.examples:
        assert (example['image'].shape, example['image'].dtype) == ((96, 96, 1), np.uint8)
        assert (example['mask'].shape, example['mask'].dtype) == ((96, 96), np.uint8)
    assert source.about == (f'coins, {split}: {count} images of 2 classes, with masks that are '
                            'computed (watershed), not drawn by hand')


def test_windows_show_the_picture_with_its_mask():
    """The first window of the training begins at the left border of the right two thirds."""
    picture = skimage.data.coins()
    mask = coins.regions(picture) > 0
    first, last = (coins.load('train').examples[i] for i in (0, -1))
    for example, part in ((first, np.s_[:96, 128:224]), (last, np.s_[-96:, -96:])):
        np.testing.assert_array_equal(example['image'][..., 0], picture[part])
        np.testing.assert_array_equal(example['mask'], mask[part])


def test_each_pixel_of_the_test_counts_once():
    picture = skimage.data.coins()
    mask = coins.regions(picture) > 0
    examples = list(coins.load('test').examples)
    counted = np.concatenate([example['mask'][example['mask'] != geometry.IGNORE]
                              for example in examples])
    assert counted.size == 303 * 128
    assert counted.sum() == mask[:, :128].sum()
    numbers = np.concatenate([example['image'][example['mask'] != geometry.IGNORE]
                              for example in examples]).ravel()
    np.testing.assert_array_equal(np.bincount(numbers, minlength=256),
                                  np.bincount(picture[:, :128].ravel(), minlength=256))


def test_the_middle_of_the_nearest_window_owns_a_place():
    """Two windows of 96 along 128 pixels overlap in 64, of which each counts half."""
    (left, of_left), (right, of_right) = coins.windows(128, 2)
    assert left.tolist() == list(range(96))
    assert right.tolist() == list(range(32, 128))
    assert left[of_left].tolist() == list(range(64))
    assert right[of_right].tolist() == list(range(64, 128))


def test_an_unknown_split():
    with pytest.raises(UserError, match="the splits 'train' and 'test', not 'val'"):
        data.load('coins', 'val', target='mask')
