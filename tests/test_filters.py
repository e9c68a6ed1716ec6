"""Kernels against SciPy, and pooling against the lecture notes' numbers."""

import numpy as np
import pytest
from scipy import ndimage

from cnnjax.images import filters


def noise(*shape):
    return np.random.default_rng(0).uniform(size=shape).astype(np.float32)


@pytest.mark.parametrize('name', [*filters.KERNELS, 'gaussian', 'even'])
def test_kernels_are_those_of_scipy(name):
    kernel = filters.KERNELS.get(name)
    if kernel is None:
        kernel = filters.gaussian(1.5) if name == 'gaussian' else noise(3, 5)
    picture = noise(20, 17, 3)
    expected = ndimage.correlate(np.float64(picture), kernel[..., None], mode='nearest')
    found = filters.correlate(picture, kernel)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    if name in ('vertical edges', 'Sobel x', 'Sobel y', 'even'):  # not the flipped kernel's
        assert np.abs(found - ndimage.convolve(np.float64(picture), kernel[..., None],
                                               mode='nearest')).max() > 0.1


def test_gains_and_the_gaussian():
    picture = noise(32, 32, 3)
    _, numbers = filters.kernels(picture)
    assert numbers['box']['gain_constant'] == pytest.approx(1)
    assert numbers['high-pass, 4 neighbours']['gain_constant'] == 0
    stripes = np.tile(np.float32([0.0, 1.0]), (16, 8))[..., None]
    for name, kernel in filters.KERNELS.items():
        inner = filters.correlate(stripes, kernel)[4:-4, 4:-4]
        assert np.ptp(inner) == pytest.approx(numbers[name]['gain_columns'], abs=1e-5), name
        inner = filters.correlate(stripes.swapaxes(0, 1), kernel)[4:-4, 4:-4]
        assert np.ptp(inner) == pytest.approx(numbers[name]['gain_rows'], abs=1e-5), name
    blurred = numbers['Gaussian, sigma 2']['variance_left']
    assert blurred == pytest.approx(1 / (4 * np.pi * 2 ** 2), rel=0.7)  # for white noise
    impulse = np.zeros((41, 41))
    impulse[20, 20] = 1
    np.testing.assert_allclose(
        ndimage.correlate(impulse, filters.gaussian(2.0)),
        ndimage.gaussian_filter(impulse, 2.0, truncate=3.0), atol=1e-12)


def test_the_pools_of_the_lecture():
    """All inputs change, and of the four maxima one (the shift by one of the second note)."""
    values = np.float32([[7, 1, 3, 2], [0, 2, 1, 0], [9, 4, 3, 1], [2, 5, 0, 2]])
    moved = np.float32([[6, 7, 2, 3], [1, 0, 0, 1], [4, 9, 1, 4], [5, 2, 2, 0]])
    assert (values != moved).all()
    pools = filters.pools(2)
    np.testing.assert_array_equal(pools['max'](values), [[7, 3], [9, 3]])
    np.testing.assert_array_equal(pools['max'](moved), [[7, 3], [9, 4]])
    np.testing.assert_array_equal(pools['average'](values), [[2.5, 1.5], [5, 1.5]])
    np.testing.assert_array_equal(pools['subsampled'](values), [[2, 0], [5, 2]])


def test_what_pooling_keeps_of_a_moving_edge():
    edge = np.zeros((24, 24), np.float32)
    edge[:, 10] = 1  # a vertical line in the third column of windows, which are 4 wide
    shown, numbers = filters.pooling(edge, 16, 4)
    # Moved left by one and two pixels it stays in its window, then it leaves.
    assert numbers['max']['change'][:2] == [0, 0]
    assert numbers['max']['change'][2] == pytest.approx(2 ** 0.5)
    assert numbers['max']['unchanged'] == 1
    assert numbers['edges']['unchanged'] == pytest.approx(14 / 16)
    assert (numbers['max']['peaks'], numbers['average']['peaks'],
            numbers['subsampled']['peaks']) == (1, 0.25, 1)
    assert numbers['subsampled']['change'][0] == pytest.approx(1)  # it was sampled, and is not
    np.testing.assert_array_equal(shown['max'][0], np.tile([0, 0, 1, 0], (4, 1)))
    assert numbers['shifts'] == list(range(1, 9))
