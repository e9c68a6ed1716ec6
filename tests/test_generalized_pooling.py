"""Generalized pools against loops over their windows; edges as in the released code."""

import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import layers
from cnnjax.models import generalized_pooling as pools

X = np.float32(np.random.default_rng(0).normal(size=(2, 6, 7, 3)))  # 6 pixels: a window sticks out
KERNEL = np.float32(np.random.default_rng(1).normal(size=(3, 3, 7)))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def windows(function):
    """The function of every 3x3 window, two apart, that begins in X: [N, h, w, C] -> [N, C]."""
    return np.stack([np.stack([function(X[:, i:i + 3, j:j + 3]) for j in (0, 2, 4)], 1)
                     for i in (0, 2, 4)][:3], 1)


def product(window, i):
    rows, columns = window.shape[1:3]
    return (window * KERNEL[:rows, :columns, None, i]).sum((1, 2))


def mean(window, share):
    return share * window.max((1, 2)) + (1 - share) * window.mean((1, 2))


def tree(window):
    a, b, c, d, left, right, top = (product(window, i) for i in range(7))
    left, right, top = map(sigmoid, (left, right, top))
    return top * (left * a + (1 - left) * b) + (1 - top) * (right * c + (1 - right) * d)


@pytest.mark.parametrize(('pool', 'params', 'expected'), [
    (pools.MixedPool(layers.max_pool, jnp.float32), {'share': np.float32(0.3)},
     lambda window: mean(window, 0.3)),
    (pools.GatedPool(layers.max_pool, jnp.float32), {'kernel': KERNEL[..., :1]},
     lambda window: mean(window, sigmoid(product(window, 0)))),
    (pools.TreePool(3, jnp.float32), {'kernel': KERNEL}, tree),
    (pools.TreePool(1, jnp.float32), {'kernel': KERNEL[..., :1]},
     lambda window: product(window, 0)),
], ids=['mixed', 'gated', 'tree', 'filter'])
def test_pools_equal_slow_loops(pool, params, expected):
    np.testing.assert_allclose(pool.apply({'params': params}, X), windows(expected), rtol=1e-4,
                               atol=1e-5)
