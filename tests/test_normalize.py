"""Normalization against numpy."""

import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.data.normalize import normalization
from cnnjax.errors import UserError

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (7, 5, 4, 1), np.uint8)
RGB = np.uint8(RNG.integers(0, 256, (7, 5, 4, 3)) * (0.2, 0.5, 1.0))


@pytest.mark.parametrize(('std', 'divide'), [
    ('channel', lambda x: x.std((0, 1, 2))),
    ('scalar', lambda x: x.std()),
    ('none', lambda x: 1 / 255),
    ('0.25', lambda x: 0.25),
])
@pytest.mark.parametrize(('mean', 'subtract'), [
    ('channel', lambda x: x.mean((0, 1, 2))),
    ('pixel', lambda x: x.mean(0)),
    ('0.4', lambda x: 0.4),
])
@pytest.mark.parametrize('images', [GRAY, RGB], ids=['gray', 'rgb'])
def test_normalization_is_numpys(images, mean, subtract, std, divide):
    normalize = normalization(images, mean, std)
    exact = images / 255
    np.testing.assert_allclose(normalize.mean, np.broadcast_to(subtract(exact), (
        images.shape[1:] if mean == 'pixel' else normalize.mean.shape)), rtol=1e-6)
    np.testing.assert_allclose(normalize.std, np.broadcast_to(divide(exact), normalize.std.shape),
                               rtol=1e-6)
    assert normalize.mean.dtype == normalize.std.dtype == np.float32
    expected = (exact - subtract(exact)) / divide(exact)
    tolerance = 1e-6 * np.abs(expected).max()
    for given in (images, jnp.asarray(images), np.float32(exact)):  # bytes, or floats in [0, 1]
        normalized = normalize(given)
        assert normalized.dtype == np.float32
        np.testing.assert_allclose(normalized, expected, atol=tolerance)


@pytest.mark.parametrize('images', [RGB, None], ids=['resident', 'stream'])
def test_numbers_per_channel(images):
    normalize = normalization(images, '0.485, 0.456, 0.406', '0.229,0.224,0.225')
    np.testing.assert_array_equal(normalize.mean, np.float32([0.485, 0.456, 0.406]))
    np.testing.assert_array_equal(normalize.std, np.float32([0.229, 0.224, 0.225]))


def test_a_constant_channel_becomes_zero():
    images = RGB.copy()
    images[..., 1] = 77
    normalized = normalization(images, 'channel', 'channel')(images)
    np.testing.assert_allclose(normalized[..., 1], 0, atol=1e-7)
    np.testing.assert_allclose(normalized.std((0, 1, 2)), [1, 0, 1], atol=1e-5)


def test_a_set_of_one_image_has_a_mean_image():
    np.testing.assert_array_equal(normalization(RGB[:1], 'pixel', 'none')(RGB[:1]), 0)
    floats = np.float32(RGB) - 300  # such as volumes have them, which have no range of 255
    np.testing.assert_array_equal(normalization(floats, '0', 'none')(floats), floats)


@pytest.mark.parametrize(('images', 'mean', 'std', 'message'), [
    (RGB, '0.4,0.5', '1', r'mean has 2 numbers, the images have 3 channel\(s\)'),
    (GRAY, 'channel', '0.229,0.224,0.225', r'std has 3 numbers, the images have 1 channel\(s\)'),
    (None, 'channel', '0.229,0.224,0.225', 'a streamed data set needs its mean and std in numbers'),
    (None, '0.485,0.456,0.406', 'scalar', 'a streamed data set needs its mean and std in numbers'),
    (RGB, 'chanel', 'channel', "mean is 'channel', 'pixel' or numbers .* not 'chanel'"),
    (RGB, 'none', 'channel', "mean is 'channel', 'pixel' or numbers .* not 'none'"),
    (RGB, 'channel', 'pixel', "std is 'channel', 'scalar', 'none' or numbers .* not 'pixel'"),
    (RGB, '0.4;0.5', 'none', "not '0.4;0.5'"),
    (RGB, '', 'none', "not ''"),
    (RGB, 'channel', '0.2,0,0.2', "std='0.2,0,0.2' .* positive"),
    (RGB, 'channel', '-1', "std='-1' .* positive"),
])
def test_wrong_numbers(images, mean, std, message):
    with pytest.raises(UserError, match=message):
        normalization(images, mean, std)
