"""Maxout units and networks, against loops and the authors' rules."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import layers, models


def random(*shape, seed=0):
    return np.float32(np.random.default_rng(seed).normal(size=shape))


def test_a_unit_is_the_largest_of_its_neighbouring_pieces():
    x = random(2, 3, 3, 12)
    expected = np.stack([x[..., 4 * unit:4 * unit + 4].max(-1) for unit in range(3)], -1)
    np.testing.assert_array_equal(layers.maxout(x, 4), expected)


def test_the_gradient_goes_to_the_first_of_the_largest():
    x = jnp.array([[1.0, 3.0, 3.0, 2.0, 2.0, 2.0]])
    gradient = jax.grad(lambda x: (layers.maxout(x, 3) * jnp.array([[5.0, 7.0]])).sum())(x)
    np.testing.assert_array_equal(gradient, [[0, 5, 0, 7, 0, 0]])


def test_the_pixels_that_dropout_leaves_are_not_enlarged():
    """Maps of units are: half of them stay, twice as large."""
    net = models.create('maxout', widths=(2, 3, 8), hidden=(3,))
    x = 1 + random(2, 10, 10, 3) ** 2
    seen = {}

    def keep(call, arguments, options, context):
        output = call(*arguments, **options)
        if context.module.name in ('drop0', 'h0', 'drop3'):
            seen[context.module.name] = arguments[0], output
        return output

    variables = net.init(jax.random.key(0), x)
    with nn.intercept_methods(keep):
        net.apply(variables, x, train=True, rngs={'dropout': jax.random.key(1)})
    given = np.asarray(seen['h0'][0])
    assert float((given != 0).mean()) == pytest.approx(0.8, abs=0.1)
    np.testing.assert_allclose(given[given != 0], x[given != 0], rtol=1e-6)
    before, after = map(np.asarray, seen['drop3'])
    np.testing.assert_allclose(after[after != 0], 2 * before[after != 0], rtol=1e-6)
