"""The parts of residual blocks that further papers added, on sequences, images and volumes."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models, residual


@pytest.mark.parametrize('shape', [(7,), (6, 5), (4, 3, 5)])
@pytest.mark.parametrize(('stride', 'distance'), [(2, 1), (1, 1), (1, 2)])
def test_means_of_four_pixels(shape, stride, distance):
    """By a loop over the positions; fewer pixels count at the ends."""
    x = np.random.default_rng(0).normal(size=(2, *shape, 3)).astype('float32')
    found = residual.means_of_four(jnp.array(x), stride, distance)
    assert found.shape == (2, *(-(-n // stride) for n in shape), 3)
    for place in np.ndindex(found.shape[1:-1]):
        pixels = itertools.product(*[[n for n in (stride * i, stride * i + distance) if n < size]
                                     for i, size in zip(place, shape, strict=True)])
        mean = np.mean([x[:, *pixel] for pixel in pixels], 0)
        np.testing.assert_allclose(found[:, *place], mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('shape', [(16, 3), (16, 16, 3), (16, 16, 16, 3)])
def test_squeeze_and_excitation_takes_any_rank(shape):
    net = models.create('resnet50d', blocks=(1, 1), widths=(2, 3), reduction=4)
    (logits, taps), variables = jax.eval_shape(
        net.init_with_output, jax.random.key(0), jax.ShapeDtypeStruct((2, *shape), 'float32'))
    assert logits.shape == (2, 1000)
    assert taps['conv3_1/se/sigmoid'].shape == (2, 12)
    assert taps['conv3_1/se'].shape == taps['conv3_1/conv3'].shape
    assert variables['params']['conv3_1']['se']['fc1']['kernel'].shape == (12, 3)
