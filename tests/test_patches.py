"""A unit's patch of an image, and projections against gradients."""

import jax
import numpy as np
import pytest

from cnnjax import data, layers, parallel, summary
from cnnjax.errors import UserError
from cnnjax.images import patches, rules
from tests.test_strongest import SHAPE, network_of_whole_numbers


@pytest.fixture(scope='module')
def network():
    return network_of_whole_numbers()


def linear(network):
    """The same without maxima: everything that a unit sees counts."""
    return network._replace(net=network.net.clone(relu=lambda x: x, pool=layers.average_pool))


@pytest.mark.parametrize(('layer', 'position'), [
    ('conv1_1', (0, 7)), ('conv1_1', (5, 3)), ('conv2_1', (3, 2)), ('conv2_1', (5, 0)),
    ('conv2_2', (2, 3)), ('pool2', (0, 1)), ('fc8', (0, 0)),
])
def test_a_patch_is_what_the_unit_sees(network, layer, position):
    network, rng = linear(network), np.random.default_rng(0)
    row = {row.name: row for row in summary.summarize(network.net, SHAPE).rows}[layer]
    image, other = rng.uniform(0.1, 0.4, (2, *SHAPE)).astype(np.float32)
    (top, bottom), (left, right) = patches.field(row, position)
    inside = np.zeros(SHAPE[:2], bool)
    inside[max(top, 0):bottom, max(left, 0):right] = True

    def activations(image):
        tap = network.taps(image[None])[layer][0]
        return tap[position] if tap.ndim == 3 else tap

    changed = [np.where(inside[..., None], image, other)]
    border = [(max(top, 0), slice(None)), (min(bottom, 12) - 1, slice(None)),
              (slice(None), max(left, 0)), (slice(None), min(right, 8) - 1)]
    for line in border:
        lit = np.zeros(SHAPE[:2], bool)
        lit[line] = True
        changed.append(np.where((lit & inside)[..., None], other, image))
    before, outside, *lines = map(jax.jit(activations), [image, *changed])
    np.testing.assert_array_equal(outside, before)
    for after in lines:
        assert abs(after - before).max() > 0.01

    patch = patches.cut(image, row, position, fill=0.75)
    assert patch.shape == tuple(min(s, n) for s, n in zip(row.size, SHAPE[:2], strict=True)) + (3,)
    seen = (patch != 0.75).all(-1)
    np.testing.assert_array_equal(patch[seen], image[inside])
    assert (patch[~seen] == 0.75).all()


def test_the_unit_is_in_the_middle_of_its_patch(network):
    """A field of 3 x 3 at a corner, of which five pixels are outside; and one larger than the
    image, where the image stays in its place."""
    rows = {row.name: row for row in summary.summarize(network.net, SHAPE).rows}
    image = np.arange(12 * 8 * 3, dtype=np.uint8).reshape(SHAPE)
    patch = patches.cut(image, rows['conv1_1'], (0, 7))
    expected = np.full((3, 3, 3), 0.5, np.float32)
    expected[1:, :2] = image[:2, 6:] / np.float32(255)
    np.testing.assert_array_equal(patch, expected)

    assert rows['pool2'].size == (14, 14)
    patch = patches.cut(image, rows['pool2'], (0, 1))
    (top, bottom), (left, right) = patches.field(rows['pool2'], (0, 1))
    assert (top, bottom, left, right) == (-5, 9, -1, 13)
    np.testing.assert_array_equal(patch[:9], image[:9] / np.float32(255))
    assert (patch[9:] == 0.5).all()
    whole = patches.cut(image, rows['fc8'], (0, 0))
    np.testing.assert_array_equal(whole, image / np.float32(255))


@pytest.mark.parametrize('rule', ['gradient', 'deconvnet', 'guided'])
@pytest.mark.parametrize('layer', ['relu2_1', 'fc8'])
def test_projections_are_gradients(network, layer, rule):
    network = network._replace(normalize=data.Normalization(
        np.float32([0.4, 0.5, 0.6]), np.float32([0.2, 0.5, 1])))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, *SHAPE), dtype=np.uint8)
    units = np.array([3, 0, 1, 3, 2])
    positions = rng.integers(0, 4, (5, 2)) * (layer != 'fc8')
    found = patches.project(network, layer, images, units, positions, rule, chunk=2)
    assert found.dtype == np.float32

    net = rules.with_rule(network.net, rule)

    @jax.jit
    @jax.grad
    def gradient(image, unit, row, column):
        tap = network._replace(net=net).taps(image[None])[layer][0]
        return tap[row, column, unit] if tap.ndim == 3 else tap[unit]

    for image, unit, position, projection in zip(images, units, positions, found, strict=True):
        expected = gradient(image / np.float32(255), unit, *position)
        np.testing.assert_allclose(projection, expected, rtol=1e-5, atol=1e-4)
    assert np.any(found)
    several = patches.project(network, layer, images, units, positions, rule, chunk=3,
                              mesh=parallel.data_mesh(4))
    np.testing.assert_allclose(several, found, rtol=1e-5, atol=1e-4)


def test_one_program_for_all_units(network):
    images = np.float32(np.random.default_rng(0).random((6, *SHAPE)))
    patches.project(network, 'conv2_2', images, 0, np.zeros((6, 2)), chunk=4)
    before = patches._project._cache_size()
    patches.project(network, 'conv2_2', images, 5, np.ones((6, 2)), chunk=4)
    assert patches._project._cache_size() == before


def test_projections_as_pictures():
    projections = np.float32([[[-4, 2, 0]], [[0, 0, 0]], [[1, 2, -1]]])[..., None]
    np.testing.assert_array_equal(patches.contrast(projections)[..., 0],
                                  [[[0, 0.75, 0.5]], [[0.5] * 3], [[0.75, 1, 0.25]]])
    np.testing.assert_array_equal(patches.positive(projections)[..., 0],
                                  [[[0, 1, 0]], [[0, 0, 0]], [[0.5, 1, 0]]])


def test_errors(network):
    image = np.zeros((1, *SHAPE))
    with pytest.raises(UserError, match="'relu9' is not in the network"):
        patches.project(network, 'relu9', image, 0, (0, 0))
    with pytest.raises(UserError, match="a unit is not in 'relu2_1', which is 6 x 4 x 6"):
        patches.project(network, 'relu2_1', image, 6, (0, 0))
    with pytest.raises(UserError, match="a position is not in 'relu2_1', which is 6 x 4 x 6"):
        patches.project(network, 'relu2_1', image, 0, (0, 4))
    with pytest.raises(UserError, match="no backward rule is named 'deconv'"):
        patches.project(network, 'relu2_1', image, 0, (0, 0), 'deconv')


def test_a_sheet_is_three_by_three():
    found = [np.full((4, 6, 3), i / 9, np.float32) for i in range(9)]
    found[5][1, 2] = (0, 0.5, 1)
    whole = patches.sheet(found, (4, 6))
    assert whole.shape == (12, 18, 3)
    for i in range(9):
        row, column = divmod(i, 3)
        np.testing.assert_array_equal(
            whole[4 * row:4 * row + 4, 6 * column:6 * column + 6], found[i])
    small = patches.sheet(found[:5] + found[4:5] + found[6:], (2, 3))
    np.testing.assert_allclose(small[0:2, 3:6], 1 / 9, atol=1e-5)  # no neighbour is mixed in
