"""Activation grids and atlases: their cells, averages and pictures against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import data, models
from cnnjax.errors import UserError
from cnnjax.images import atlas, directions, objectives, units
from cnnjax.trained import Trained

RANDOM = np.random.default_rng(0)
FEW = units.Settings(steps=2)


@pytest.fixture(scope='module')
def network():
    """A VGG of two layers for images of digits."""
    net = models.create('vgg11', groups=((3,), (3,)), widths=(4, 6), hidden=(), num_classes=10)
    variables = jax.jit(net.init)(jax.random.key(1), jnp.zeros((1, 8, 8, 1)))
    normalize = data.Normalization(np.full(1, 0.5, np.float32), np.full(1, 0.25, np.float32))
    return Trained(net, variables, normalize, tuple('0123456789'), (8, 8, 1), None)


def test_the_grid_of_an_image_has_its_activations(network):
    image = np.float32(RANDOM.random((16, 24, 1)))
    maps = np.asarray(network.taps(image[None])['relu2_1'][0])  # 8 x 12
    found = atlas.of_image(network, 'relu2_1', image, 12)
    assert found.shape == (8, 12)
    np.testing.assert_allclose(found.vectors, maps.reshape(-1, 6), atol=1e-5)
    np.testing.assert_allclose(found.lengths, np.linalg.norm(maps, axis=-1).ravel(), atol=1e-5)
    assert found.places[13].tolist() == [1, 1]
    fewer = atlas.of_image(network, 'relu2_1', image, 6)
    assert fewer.shape == (4, 6)
    means = maps.reshape(4, 2, 6, 2, 6).mean((1, 3)).reshape(-1, 6)
    np.testing.assert_allclose(fewer.vectors, means, atol=1e-5)
    with pytest.raises(UserError, match="'relu9' is not in the network"):
        atlas.of_image(network, 'relu9', image, 6)


def test_the_cells_of_points():
    points = np.float64([[0, 0], [10, 10], [0, 9.9], [5.1, 5.1], [10, 0]])
    assert atlas.cells(points, 4).tolist() == [[3, 0], [0, 3], [0, 0], [1, 2], [3, 3]]


def test_the_averages_of_cells():
    codes = np.float32(RANDOM.normal(size=(5, 3)))
    places = np.array([[2, 1], [0, 0], [2, 1], [0, 0], [1, 1]])
    probabilities = np.eye(4)[[0, 2, 0, 3, 1]] + [0, 0, 0, 0.1]
    found = atlas.averaged(codes, places, probabilities)
    assert found.places.tolist() == [[0, 0], [1, 1], [2, 1]]
    assert found.counts.tolist() == [2, 1, 2]
    assert found.classes.tolist() == [3, 1, 0]
    np.testing.assert_allclose(
        found.vectors, [codes[[1, 3]].mean(0), codes[4], codes[[0, 2]].mean(0)], rtol=1e-6)


def test_whitened_directions_answer_to_their_own_vectors():
    """Two groups share a large mean: raw means are nearly parallel, whitened ones opposite; and
    codes have the covariance 1 along whitened axes, but for the ridge."""
    codes = RANDOM.normal(size=(4000, 3)) @ np.diag([5.0, 1.0, 0.2]) + [100, 0, 0]
    low, high = (codes[codes[:, 2] * sign > 0].mean(0) for sign in (-1, 1))
    raw = low @ high / np.linalg.norm(low) / np.linalg.norm(high)
    found = atlas.whitened(np.stack([low, high]), codes)
    assert raw > 0.99
    assert found[0] @ found[1] < 0
    assert np.abs(found[1]).argmax() == 2
    covariance = np.cov(codes.T, bias=True)
    ridge = atlas.RIDGE * np.trace(covariance) / 3
    np.testing.assert_allclose((covariance + ridge * np.eye(3)) @ found[1],
                               high - codes.mean(0), rtol=1e-3, atol=1e-3)


def test_the_area_of_a_cell_is_its_weight():
    black = np.zeros((3, 8, 8, 1), np.float32)
    canvas = atlas.sheet(black, [[0, 0], [0, 2], [1, 1]], [4, 1, 0], (2, 3))
    assert canvas.shape == (32, 48, 1)
    sides = np.sqrt((canvas == 0).reshape(2, 16, 3, 16).sum((1, 3)))
    np.testing.assert_allclose(sides, [[16, 0, 8], [0, 8, 0]])  # the smallest is LEAST, in eighths


def test_directions(network):
    """Axes of units are their channels; similar directions begin from the same noise."""
    found, health = directions.maximize(network, 'relu2_1', 3 * np.eye(6)[[1, 4, 1]], FEW)
    assert found.shape == (3, 8, 8, 1)
    assert len(health) == 3
    np.testing.assert_array_equal(found[0], found[2])
    assert np.abs(found[0] - found[1]).max() > 0
    path = directions.path(6, (4, 1), [2.0, 4.0], 3)
    np.testing.assert_allclose(path, [[0, 0, 0, 0, 0.5, 0], [0, 0.125, 0, 0, 0.25, 0],
                                      [0, 0.25, 0, 0, 0, 0]])
    with pytest.raises(UserError, match=r"directions of 'relu2_1' are \[N, 6\], not \[2, 5\]"):
        directions.maximize(network, 'relu2_1', np.ones((2, 5)), FEW)


def test_facets_differ(network):
    """With diversity they are less alike than without, by the very measure, and excite the unit."""
    settings = FEW._replace(steps=40)
    gray = np.full((1, 8, 8, 1), 0.5, np.float32)
    alike, scores = [], []
    for weight in (0.0, 0.9):
        [found] = directions.facets(network, 'relu2_1', [2], settings, count=3, weight=weight)
        assert found.images.shape == (1, 3, 8, 8, 1)
        taps = {'relu2_1': network.taps(found.images[0])['relu2_1']}
        alike.append(float(objectives.diversity('relu2_1')(taps)['diversity']))
        np.testing.assert_allclose(found.scores[0],
                                   np.asarray(taps['relu2_1'])[..., 2].max((1, 2)), rtol=1e-5)
        scores.append(found.scores.min())
    assert alike[1] < 0.9 * alike[0]
    assert min(scores) > np.asarray(network.taps(gray)['relu2_1'])[..., 2].max()
    with pytest.raises(UserError, match='count=1: a unit has 2 facets or more'):
        next(directions.facets(network, 'relu2_1', [2], settings, count=1))
