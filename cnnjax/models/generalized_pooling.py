"""Generalized pooling (Lee, Gallagher, Tu 2016), section 3: https://arxiv.org/abs/1509.08985

The pools between the mlpconv layers of a Network in Network learn: each has few parameters, which
all its channels and positions share ("one per layer"). `generalized_pooling_tree` is the network of
the paper's best errors, "Tree+Max-Avg": a tree of two levels and then a gated pool.

The released code, https://github.com/chl260/general-pooling, has the pools, their edges and their
initial weights, but of AlexNet only. We put them into the network of Deeply-Supervised Nets, by the
same authors, without its companions; that the paper's network has these sizes is our assumption.
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from cnnjax import convolution, layers
from cnnjax.models.nin import NIN, SIZES, WIDTHS


class MixedPool(nn.Module):
    """Equation 1: a * max + (1 - a) * average. The paper gives no first a; ours is 0.5."""

    pool: Any  # the function of the max-pool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        share = self.param('share', nn.initializers.constant(0.5), ())
        return _mean(x, self.pool, share.astype(self.dtype))


class GatedPool(nn.Module):
    """Equation 2: the share of the maximum is the sigmoid of a filter of the window."""

    pool: Any  # the function of the max-pool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param('kernel', nn.initializers.normal(0.1),
                            (*(3,) * (x.ndim - 2), 1))
        return _mean(x, self.pool, nn.sigmoid(_filtered(x, kernel, self.dtype)[0]))


class TreePool(nn.Module):
    """Equation 3: a binary tree, whose leaves are filters of the window. An inner node adds up what
    is below it, with shares by the sigmoid of a filter of its own."""

    levels: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        leaves = 2 ** (self.levels - 1)  # these filters come first, then those of the inner nodes
        kernel = self.param('kernel', nn.initializers.normal(0.1),
                            (*(3,) * (x.ndim - 2), 2 * leaves - 1))
        values = _filtered(x, kernel, self.dtype)
        nodes, gates = values[:leaves], iter(values[leaves:])
        while len(nodes) > 1:
            shares = [nn.sigmoid(next(gates)) for _ in nodes[::2]]
            nodes = [share * left + (1 - share) * right for share, left, right in zip(
                shares, nodes[::2], nodes[1::2], strict=True)]
        return nodes[0]


def _mean(x, pool, share):
    """The max-pool and the average pool, the first of them with this share."""
    maximum, average = (function(x, 3, 2, ceil=True) for function in (pool, layers.average_pool))
    return share * maximum + (1 - share) * average


def _filtered(x, kernel, dtype):
    """The products of every window with each of the filters [3, 3, count], the same for all
    channels: a list of maps. Where a window sticks out it sees zeros."""
    rank, count, channels = x.ndim - 2, kernel.shape[-1], x.shape[-1]
    x, kernel = promote_dtype(x, kernel, dtype=dtype)
    maps = convolution.conv_general_dilated(  # the filters of a channel are neighbours
        x, jnp.tile(kernel[..., None, :], channels), (2,) * rank,
        [(0, (n - 3) % 2) for n in x.shape[1:-1]], feature_group_count=channels)
    return [maps[..., i::count] for i in range(count)]


class GeneralizedPooling(NIN):
    """Network in Network whose pools may also be 'mixed', 'gated' or a 'tree'."""

    levels: int = 2  # of the trees: 2 have two leaves, 3 have four

    POOLINGS: ClassVar[tuple[str, ...]] = (*NIN.POOLINGS, 'mixed', 'gated', 'tree')

    def pooled(self, x: jax.Array, i: int) -> jax.Array:
        kind, name = self.poolings[i - 1], f'pool{i}'
        if kind == 'tree':
            return TreePool(self.levels, self.dtype, name=name)(x)
        if kind in NIN.POOLINGS:
            return super().pooled(x, i)
        return {'mixed': MixedPool, 'gated': GatedPool}[kind](self.pool, self.dtype, name=name)(x)


#                                             pools             last ReLU
COLUMNS = ('widths', 'sizes', 'poolings', 'last_relu')
TABLE = {
    'generalized_pooling_mixed': (WIDTHS, SIZES, ('mixed', 'mixed'), False),
    'generalized_pooling_gated': (WIDTHS, SIZES, ('gated', 'gated'), False),
    'generalized_pooling_tree':  (WIDTHS, SIZES, ('tree', 'gated'),  False),
}
MODULE = GeneralizedPooling
