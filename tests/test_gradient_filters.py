"""What a gradient on an image goes through, against NumPy and SciPy."""

import jax
import numpy as np
from scipy import ndimage

from cnnjax.images import gradients
from cnnjax.images.parametrizations import COLOR_MATRIX


def updated(tx, gradient):
    return np.asarray(jax.jit(tx.update)(gradient, tx.init(gradient))[0])


def test_smoothing_is_the_mean_of_three_gaussian_filters():
    gradient = np.random.default_rng(0).normal(size=(14, 17, 3)).astype(np.float32)
    tx = gradients.smooth(10, 0.5)
    state = tx.init(gradient)
    for step in range(3):
        found, state = tx.update(gradient, state)
        sigma = (step + 1) / 10 * 2 + 0.5
        expected = 0
        for factor in (0.5, 1, 2):
            x, y = np.mgrid[-4:5, -4:5]
            kernel = np.exp(-(x**2 + y**2) / 2 / (factor * sigma) ** 2)
            expected += ndimage.correlate(gradient, (kernel / kernel.sum())[..., None],
                                          mode='mirror') / 3
        np.testing.assert_allclose(found, expected - expected.mean(), atol=1e-6)


def test_every_band_has_the_same_size_and_the_coarsest_is_left_out():
    gradient = np.random.default_rng(0).normal(size=(24, 36, 3)).astype(np.float32)
    gradient = ndimage.gaussian_filter(gradient, (3, 3, 0)) + 0.1 * gradient + 5
    rest, expected, total = gradient, 0, 0
    for side in (4, 2, 1):  # Bands are what a smaller size leaves over; the mean is in the first.
        band = np.asarray(jax.image.resize(rest, (24 // side, 36 // side, 3), 'linear'))
        large = np.asarray(jax.image.resize(band, gradient.shape, 'linear'))
        rest, total = rest - large, total + large
        if side < 4:
            expected += large / np.sqrt((band ** 2).mean())
    np.testing.assert_allclose(total, gradient, atol=1e-5)  # The bands sum to the gradient.
    found = updated(gradients.bands(2), gradient)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert abs(found.mean()) < 0.05
    np.testing.assert_allclose(updated(gradients.bands(2), 1000 * gradient), found, rtol=1e-3,
                               atol=1e-3)
    assert not updated(gradients.bands(9), 0 * gradient).any()  # fewer bands, and no division by 0


def test_natural_colors_are_a_step_in_decorrelated_coordinates():
    """A step on the coordinates c of colours M c is one on the colours themselves."""
    gradient = np.random.default_rng(0).normal(size=(5, 6, 3)).astype(np.float32)
    coordinates = np.einsum('hwc,cd->hwd', gradient, COLOR_MATRIX)  # d loss / d c
    moved = np.einsum('hwd,cd->hwc', coordinates, COLOR_MATRIX)  # the colours of that step
    found = updated(gradients.natural_colors(), gradient)
    np.testing.assert_allclose(found, moved, rtol=1e-5, atol=1e-6)
    gray, red = np.float32([1, 1, 1]), np.float32([2, -1, -1])
    sizes = [np.linalg.norm(updated(gradients.natural_colors(), color[None, None])
                            ) / np.linalg.norm(color) for color in (gray, red)]
    assert sizes[0] > 5 * sizes[1]  # brightness changes most
    np.testing.assert_array_equal(updated(gradients.natural_colors(), gradient[..., :1]),
                                  gradient[..., :1])
