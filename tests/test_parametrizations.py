"""Parametrizations: round trips, values computed by hand, the statistics of their noise."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax.errors import UserError
from cnnjax.images.parametrizations import (
    COLOR_MATRIX,
    clip,
    color_matrix,
    color_norm,
    decorrelated,
    fourier,
    grayscale,
    laplacian,
    masked,
    pixels,
    sigmoid,
    stack,
)

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
SHAPES = [(8, 8, 3), (7, 10, 3), (10, 7, 1), (1, 6, 1)]
MASK = np.float32([[0, 1, 0.25], [1, 1, 0]])
BASE = np.float32(RNG.random((2, 3, 3)))
FACTORIES = [pixels, fourier, lambda shape: fourier(shape, decay=1.5),
             lambda shape: laplacian(shape, levels=1 if 1 in shape[:2] else 3)]


def lucid(shape):
    return sigmoid(decorrelated(fourier(shape), COLOR_MATRIX))


def test_a_stack_is_many_images_with_keys_of_their_own():
    inner = lucid((8, 8, 3))
    several = stack(inner, 3)
    theta = several.init(KEY)
    images = np.asarray(several.decode(theta))
    keys = jax.random.split(KEY, 3)
    np.testing.assert_allclose(images[1], inner.decode(inner.init(keys[1])), atol=1e-6)
    assert len({image.tobytes() for image in images}) == 3
    np.testing.assert_allclose(several.decode(several.encode(images)), images, atol=1e-2)


def draws(parametrization, number):
    """Initial images of as many keys, compiled, as one batch."""
    keys = jax.random.split(KEY, number)
    return np.asarray(jax.jit(jax.vmap(
        lambda key: parametrization.decode(parametrization.init(key))))(keys))


@pytest.mark.parametrize('shape', SHAPES, ids=str)
@pytest.mark.parametrize('factory', FACTORIES)
def test_there_and_back(factory, shape):
    parametrization = factory(shape)
    theta = jax.jit(parametrization.init)(KEY)
    image = np.float32(RNG.random(shape))
    encoded = jax.jit(parametrization.encode)(image)
    assert jax.tree.map(jnp.shape, theta) == jax.tree.map(jnp.shape, encoded)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((theta, encoded)))
    decoded = jax.jit(parametrization.decode)(encoded)
    assert decoded.shape == shape
    np.testing.assert_allclose(decoded, image, atol=1e-6)


def test_wrappers_there_and_back():
    image = np.float32(RNG.uniform(0.01, 0.99, (7, 10, 3)))
    gray = np.repeat(image[..., :1], 3, -1)
    for parametrization, picture in [
            (lucid(image.shape), image),
            (decorrelated(pixels(image.shape), COLOR_MATRIX), image),
            (sigmoid(grayscale(fourier((7, 10, 1)))), gray),
            (grayscale(sigmoid(pixels((7, 10, 1)))), gray),
            (masked(lucid(image.shape), np.ones((7, 10)), image), image)]:
        decoded = jax.jit(lambda picture, p=parametrization: p.decode(p.encode(picture)))(picture)
        np.testing.assert_allclose(decoded, picture, atol=2e-6)


def test_sigmoid_keeps_every_8_bit_level():
    levels = np.arange(256, dtype=np.float32).reshape(16, 16, 1) / 255
    parametrization = sigmoid(pixels(levels.shape))
    theta = parametrization.encode(levels)
    assert np.isfinite(theta).all()
    np.testing.assert_array_equal(np.round(255 * parametrization.decode(theta)),
                                  np.round(255 * levels))


def test_noise_has_the_deviation_of_its_formula():
    shape = height, width, _ = (48, 37, 3)
    assert abs(pixels(shape).init(KEY).std() / 0.01 - 1) < 0.05
    assert abs(pixels(shape, mean=0.5).init(KEY).mean() - 0.5) < 1e-3
    # Real and imaginary part of a coefficient have a power of 0.01^2 each. The first column holds
    # both coefficients of opposite frequencies, whose mean counts: half the power.
    frequencies = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    power = 2 * 0.01 ** 2 / np.maximum(frequencies, 1 / height) ** 2 / 16
    power[:, 0] /= 2
    images = draws(fourier(shape), 16)
    np.testing.assert_allclose((images ** 2).mean(), power.mean(), rtol=0.05)


def test_lucids_image_starts_gray():
    images = draws(lucid((32, 32, 3)), 8)
    np.testing.assert_allclose(images.mean((0, 1, 2)), 0.5, atol=2e-3)
    assert 1e-3 < images.std() < 1e-2


def test_fourier_by_hand():
    """The zero frequency counts as 1 / max(H, W); sqrt(H W) / (4 H W) is left of the scale."""
    parametrization = fourier((4, 6, 1))
    theta = np.zeros((4, 4, 1, 2), np.float32)
    theta[0, 0, 0, 0] = 1
    np.testing.assert_allclose(parametrization.decode(theta), 6 / np.sqrt(24) / 4, rtol=1e-6)
    theta[0, 0, 0, 0], theta[0, 1, 0, 0] = 0, 1  # one period in six columns, and its conjugate
    wave = 2 * np.cos(2 * np.pi * np.arange(6) / 6) * 6 / np.sqrt(24) / 4
    np.testing.assert_allclose(parametrization.decode(theta)[..., 0], np.tile(wave, (4, 1)),
                               atol=1e-6)
    np.testing.assert_allclose(fourier((4, 6, 1), decay=2).decode(theta)[0, 0], 6 * wave[0])


def test_laplacian_levels():
    theta = jax.eval_shape(laplacian((9, 20, 3)).init, KEY)
    assert [level.shape for level in theta] == [(9, 20, 3), (4, 10, 3), (2, 5, 3), (1, 2, 3)]
    flat = jax.jit(laplacian((9, 20, 3)).encode)(np.full((9, 20, 3), 0.25, np.float32))
    np.testing.assert_allclose(flat[-1], 0.25, rtol=1e-6)
    for level in flat[:-1]:
        np.testing.assert_allclose(level, 0, atol=1e-7)


def test_color_matrix_correlates_noise_as_the_data():
    mixing = np.array([[0.2, 0.1, 0.0], [0.2, 0.0, -0.05], [0.2, -0.1, 0.06]])
    images = RNG.normal(size=(4, 30, 31, 3)) @ mixing.T + 0.5
    matrix = color_matrix(images)
    assert matrix.dtype == np.float32
    covariance = np.cov(images.reshape(-1, 3).T, bias=True)
    ours = matrix @ matrix.T
    np.testing.assert_allclose(ours / np.trace(ours), covariance / np.trace(covariance), atol=1e-6)
    norms = np.linalg.norm(matrix, axis=0)
    assert norms[0] == pytest.approx(1)
    assert (np.diff(norms) < 0).all()
    # Decoded white noise has the data's covariance, and encoded data is white.
    parametrization = decorrelated(pixels((60, 60, 3), deviation=1.0), matrix)
    noise = np.cov(parametrization.decode(parametrization.init(KEY)).reshape(-1, 3).T)
    np.testing.assert_allclose(noise / np.trace(noise), covariance / np.trace(covariance),
                               atol=0.02)
    inner = decorrelated(pixels((30, 31, 3)), matrix)
    white = np.cov(np.concatenate([inner.encode(np.float32(image)) for image in images])
                   .reshape(-1, 3).T)
    np.testing.assert_allclose(white / white[0, 0], np.eye(3), atol=1e-3)


def test_color_matrix_takes_any_images():
    images = [RNG.integers(0, 256, (5, 4, 3), np.uint8), RNG.integers(0, 256, (3, 9, 3), np.uint8)]
    scaled = [image / 255 for image in images]
    np.testing.assert_allclose(color_matrix(images), color_matrix(scaled), atol=1e-6)
    np.testing.assert_array_equal(color_matrix(RNG.random((2, 5, 5, 1))), [[1]])
    gray = sigmoid(decorrelated(fourier((5, 6, 1)), [[1]]))
    assert gray.decode(gray.init(KEY)).shape == (5, 6, 1)


def test_lucids_matrix():
    assert np.linalg.norm(COLOR_MATRIX, axis=0).max() == pytest.approx(1)
    np.testing.assert_allclose(COLOR_MATRIX[:, 0] / COLOR_MATRIX[0, 0], [1, 27 / 26, 27 / 26])


def test_outside_the_mask_is_the_base_exactly():
    inner = pixels((2, 3, 3), deviation=1.0)
    parametrization = masked(inner, MASK, BASE)
    theta = inner.init(KEY)
    image = parametrization.decode(theta)
    np.testing.assert_array_equal(image[MASK == 0], BASE[MASK == 0])
    np.testing.assert_array_equal(image[MASK == 1], theta[MASK == 1])
    np.testing.assert_allclose(image[0, 2], 0.25 * theta[0, 2] + 0.75 * BASE[0, 2], rtol=1e-6)
    gradient = jax.grad(lambda theta: parametrization.decode(theta).sum())(theta)
    np.testing.assert_array_equal(gradient[..., 0], MASK)
    diverged = parametrization.decode(jnp.full((2, 3, 3), jnp.nan))
    np.testing.assert_array_equal(diverged[MASK == 0], BASE[MASK == 0])


def test_projections_by_hand():
    theta = jnp.float32([[[-0.1, 0.5, 1.2]]])
    np.testing.assert_array_equal(clip()(theta), np.float32([[[0, 0.5, 1]]]))
    mean = np.float32([0.1, 0.2, 0.3])
    colors = mean + np.float32([[[0.3, 0.0, 0.4], [0.03, 0.0, 0.04], [0, 0, 0]]])
    bounded = color_norm(0.25, mean)(jnp.asarray(colors))
    np.testing.assert_allclose(bounded[0, 0], mean + np.float32([0.15, 0, 0.2]), rtol=1e-6)
    np.testing.assert_array_equal(bounded[0, 1:], colors[0, 1:])
    np.testing.assert_allclose(color_norm(0.5)(jnp.ones((1, 1, 1))), 0.5)


@pytest.mark.parametrize('make', [lucid, lambda shape: laplacian(shape, levels=2)],
                         ids=['lucid', 'laplacian'])
def test_lbfgs_works_on_theta(make):
    """It takes inner products of gradients, so theta is real."""
    optimizer = optax.lbfgs(memory_size=3)
    target = np.float32(RNG.uniform(0.3, 0.7, (9, 8, 3)))
    parametrization = make(target.shape)

    def loss(theta):
        return ((parametrization.decode(theta) - target) ** 2).sum()

    @jax.jit
    def losses(key):
        def step(carry, _):
            theta, state = carry
            value, gradient = jax.value_and_grad(loss)(theta)
            updates, state = optimizer.update(gradient, state, theta, value=value, grad=gradient,
                                              value_fn=loss)
            return (optax.apply_updates(theta, updates), state), value

        theta = parametrization.init(key)
        return jax.lax.scan(step, (theta, optimizer.init(theta)), None, 5)[1]

    assert (np.diff(losses(KEY)) < 0).all()


def test_batches_by_vmap():
    parametrization = lucid((6, 5, 3))
    single = jax.jit(lambda key: parametrization.decode(parametrization.init(key)))
    for key, image in zip(jax.random.split(KEY, 3), draws(parametrization, 3), strict=True):
        np.testing.assert_allclose(single(key), image, atol=1e-6)


@pytest.mark.parametrize(('make', 'words'), [
    (lambda: pixels((8, 8)), r'\(8, 8\)'),
    (lambda: fourier((8, 0, 3)), r'\(8, 0, 3\)'),
    (lambda: laplacian((4, 9, 3), levels=4), 'levels=4.*1 to 3 levels'),
    (lambda: laplacian((4, 9, 3), levels=0), 'levels=0'),
    (lambda: decorrelated(pixels((4, 4, 1)), COLOR_MATRIX), r'\[3, 3\].*1 channel'),
    (lambda: decorrelated(pixels((4, 4, 2)), np.ones((2, 2))), 'no inverse'),
    (lambda: color_matrix([]), 'none were given'),
    (lambda: color_matrix(np.zeros((4, 5, 5))), r'not \[5, 5\]'),
    (lambda: color_matrix(np.full((1, 2, 2, 3), np.nan)), 'not finite'),
    (lambda: color_matrix(np.repeat(RNG.random((2, 5, 5, 1)), 3, -1)), 'one channel'),
    (lambda: color_matrix(np.ones((2, 5, 5, 1))), 'independent colours'),
    (lambda: grayscale(pixels((4, 4, 3))), '1 channel, not 3'),
    (lambda: masked(pixels((4, 4, 3)), np.ones((4, 5)), np.ones((4, 4, 3))), r'mask \[4, 5\]'),
    (lambda: masked(pixels((4, 4, 3)), np.ones((4, 4)), np.ones((4, 4, 1))), r'base \[4, 4, 1\]'),
    (lambda: masked(pixels((2, 2, 1)), np.full((2, 2), 255), np.ones((2, 2, 1))), '255'),
    (lambda: color_norm(0.0), 'bound=0.0'),
    (lambda: clip()(fourier((4, 4, 3)).init(KEY)), 'clip bounds.*sigmoid'),
    (lambda: color_norm(1.0)(laplacian((8, 8, 3)).init(KEY)), 'color_norm bounds'),
])
def test_bad_values_are_named(make, words):
    with pytest.raises(UserError, match=words):
        make()
