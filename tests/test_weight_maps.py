"""U-Net's weight maps against equation 2 of its paper, pixel by pixel."""

import numpy as np
import pytest

from cnnjax import data, dataset
from cnnjax.data import geometry
from cnnjax.data.weight_maps import weight_map
from cnnjax.errors import UserError
from configs import base

CELLS = np.uint8([[1, 0, 0, 0, 2, 0, 0, 0],
                  [1, 0, 0, 0, 0, 0, 0, 0],
                  [0, 0, 0, 0, 0, 0, 3, 3],
                  [0, 255, 0, 1, 0, 0, 0, 3],
                  [0, 0, 0, 1, 1, 0, 0, 0]])
INSTANCES = [[(0, 0), (1, 0)], [(0, 4)], [(2, 6), (2, 7), (3, 7)], [(3, 3), (4, 3), (4, 4)]]


@pytest.mark.parametrize(('weight', 'sigma'), [(10.0, 5.0), (3.0, 1.5)])
def test_a_weight_map_is_that_of_the_equation(weight, sigma):
    expected = np.zeros(CELLS.shape)
    for y, x in np.ndindex(CELLS.shape):
        first, second, *_ = sorted(min(np.hypot(y - a, x - b) for a, b in pixels)
                                   for pixels in INSTANCES)
        expected[y, x] = weight * np.exp(-(first + second) ** 2 / (2 * sigma ** 2))
    expected[CELLS == geometry.IGNORE] = 0
    found = weight_map(CELLS, weight, sigma)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_golden_weights():
    """In a row all pixels between two cells have the same sum of distances."""
    np.testing.assert_allclose(weight_map(np.uint8([[1, 0, 0, 0, 1, 0]])),
                               [[10 * np.exp(-16 / 50)] * 5 + [10 * np.exp(-36 / 50)]], rtol=1e-6)
    assert weight_map(np.uint8([[1, 0, 0, 0, 1]]))[0, 2] == pytest.approx(7.261490, abs=1e-6)
    assert weight_map(np.uint8([[1, 0, 1]]))[0, 1] == pytest.approx(9.231163, abs=1e-6)


@pytest.mark.parametrize('row', [[0, 0, 0], [0, 1, 1], [255, 255, 2], [1, 2, 0]])
def test_fewer_than_two_objects_have_no_gap(row):
    assert not weight_map(np.uint8([row])).any()


def masks():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, *CELLS.shape, 3)).astype(np.uint8)
    return data.from_arrays(images, ('background', 'a', 'b', 'c'), mask=np.stack([CELLS] * 6))


def test_masks_are_counted_without_their_weight_maps(monkeypatch):
    monkeypatch.setattr('cnnjax.data.weight_maps.weight_map', None)
    examples = data.Stream(data.weighted(masks(), 3.0, 2.0), data.Crops(5, shorter_side=(5, 5)))
    assert examples.pixels.sum() == 6 * CELLS.size


@pytest.mark.parametrize('stream', [False, True])
def test_only_training_examples_have_a_weight_map(stream, tmp_path):
    config = base.get_config()
    config.update(task='segment', dataset='python', weight_map=3.0, weight_map_sigma=2.0)
    if stream:
        config.update(stream=True, image_size=5, shorter_side=(5, 5), loader_threads=0)
    sets = dataset.load_sets(config, tmp_path, None, {'train': masks(), 'test': masks()})
    batch = next(sets.train.train_batches(2, 0))
    found = batch if stream else {name: array[batch['index']] for name, array in
                                  sets.train.data.items()}
    assert found['weight_map'].dtype == np.float32
    assert found['weight_map'].shape == found['mask'].shape
    if not stream:
        np.testing.assert_array_equal(found['weight_map'], [weight_map(CELLS, 3.0, 2.0)] * 2)
    assert set(sets.test.shapes) == {'image', 'mask'}


def test_examples_without_masks_are_refused_as_ever(tmp_path):
    labelled = data.from_arrays(np.zeros((2, 5, 8, 3), np.uint8), ('a', 'b'), label=[0, 1])
    config = base.get_config()
    config.update(task='segment', dataset='python', weight_map=3.0)
    with pytest.raises(UserError, match='learns from a mask for each image'):
        dataset.load_sets(config, tmp_path, None, {'train': labelled, 'test': labelled})
