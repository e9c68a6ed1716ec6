"""DropConnect's full layer against its definition, with all masks in memory and by many draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models, summary
from cnnjax.models import dropconnect

RATE = 0.3


def random(*shape, seed=0):
    return np.float32(np.random.default_rng(seed).normal(size=shape))


X, KERNEL, BIAS = random(7, 5), random(5, 4, seed=1), random(4, seed=2)


def explicit(x, kernel, bias, key):
    """As `masked`, with the masks of all examples in one array."""
    keys = jax.vmap(jax.random.split)(jax.random.split(key, x.shape[0]))

    def masks(keys, shape):
        return jax.vmap(lambda key: jax.random.bernoulli(key, 1 - RATE, shape))(keys)

    kernels = masks(keys[:, 0], kernel.shape) * kernel[None]
    return jnp.einsum('ni,nio->no', x, kernels) + masks(keys[:, 1], bias.shape) * bias[None]


@pytest.mark.parametrize('at_once', [1, 60, 2 ** 22])  # one, three or all of the seven examples
def test_masks_drawn_in_parts_and_their_gradient(at_once, monkeypatch):
    monkeypatch.setattr(dropconnect, 'AT_ONCE', at_once)
    key, weights = jax.random.key(3), random(7, 4, seed=4)

    def total(function):
        return jax.value_and_grad(lambda arrays: (weights * function(*arrays)).sum())(
            (X, KERNEL, BIAS))

    found = total(lambda *arrays: dropconnect.masked(*arrays, RATE, key))
    expected = total(lambda *arrays: explicit(*arrays, key))
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_connections_are_dropped_for_each_example_at_the_rate():
    sums = dropconnect.masked(jnp.ones((400, 1)), jnp.ones((1, 50)), jnp.zeros(50), RATE,
                              jax.random.key(0))
    assert set(np.unique(sums)) == {0.0, 1.0}  # what is left is not enlarged
    assert float(sums.mean()) == pytest.approx(1 - RATE, abs=0.02)
    assert len(np.unique(sums, axis=0)) == 400


def layer(inference, samples=1000):
    return dropconnect.DropConnect(4, RATE, inference, samples, jax.nn.relu, jnp.float32)


def test_evaluations_average_the_activations_of_normal_sums():
    """The mean of many masks, and the closed form of the rectified normal distribution."""
    variables = {'params': {'kernel': KERNEL, 'bias': BIAS}}
    mean, found = layer('gaussian', 4000).apply(variables, X, False)
    np.testing.assert_allclose(mean, (1 - RATE) * (X @ KERNEL + BIAS), rtol=1e-5, atol=1e-6)
    deviation = (RATE * (1 - RATE) * (X ** 2 @ KERNEL ** 2 + BIAS ** 2)) ** 0.5
    expected = (mean * jax.scipy.stats.norm.cdf(mean / deviation)
                + deviation * jax.scipy.stats.norm.pdf(mean / deviation))
    np.testing.assert_allclose(found, expected, atol=0.08)
    assert abs(found - jax.nn.relu(mean)).max() > 0.2  # the other inference is not this one
    draws = jax.vmap(lambda key: dropconnect.masked(X, KERNEL, BIAS, RATE, key))(
        jax.random.split(jax.random.key(5), 2000))
    np.testing.assert_allclose(draws.mean(0), mean, atol=0.15)
    np.testing.assert_allclose(draws.std(0), deviation, atol=0.15)


def test_an_example_has_the_same_scores_in_any_batch():
    variables = {'params': {'kernel': KERNEL, 'bias': BIAS}}
    _, together = layer('gaussian').apply(variables, X, False)
    _, alone = layer('gaussian').apply(variables, X[3:4], False)
    np.testing.assert_allclose(alone, together[3:4], rtol=1e-5)


def test_the_mean_is_the_activation_of_the_expected_sum():
    variables = {'params': {'kernel': KERNEL, 'bias': BIAS}}
    mean, found = layer('mean').apply(variables, X, False)
    np.testing.assert_array_equal(found, jax.nn.relu(mean))


def test_an_input_of_zeros_has_a_finite_gradient():
    variables = {'params': {'kernel': KERNEL, 'bias': np.zeros(4, np.float32)}}
    gradient = jax.grad(lambda x: layer('gaussian', 3).apply(variables, x, False)[1].sum())(
        jnp.zeros((1, 5)))
    assert np.isfinite(gradient).all()


def test_multiply_adds():
    net = models.create('dropconnect', inference='mean')
    assert summary.summarize(net).multiply_adds == (
        24 ** 2 * 4_800 + 12 ** 2 * 102_400 + 6 ** 2 * 576 * (64 + 32) + 1152 * 128 + 1280)
