"""Maxout networks (Goodfellow et al. 2013), section 5: https://arxiv.org/abs/1302.4389

The sizes are of the authors' files, layers named as there:
https://github.com/lisa-lab/pylearn2/tree/master/pylearn2/scripts/papers/maxout
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import layers


def uniform(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """The initial weights, uniform between -0.005 and 0.005."""
    return jax.random.uniform(key, shape, dtype, -0.005, 0.005)


class Biases(nn.Module):
    """Adds a bias of its own to every position of every map."""

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        bias = self.param('bias', nn.initializers.zeros, x.shape[1:])
        return x + bias[None].astype(self.dtype)


class Maxout(nn.Module):
    """Convolutions of maxout units, each with a max-pool, full layers of maxout units and a linear
    classifier.

    As in pylearn2's recipes, dropout of the pixels never rescales them, neither in training nor in
    evaluation; dropout of units does, as usual. The pools, two pixels apart, are cuda-convnet's: a
    last window may stick out.
    """

    widths: tuple[int, ...]  # the units of each convolution
    pieces: tuple[int, ...]  # the linear pieces of each of its units
    sizes: tuple[int, ...]  # its kernel's side
    paddings: tuple[int, ...]
    windows: tuple[int, ...]  # the side of its max-pool's windows
    hidden: tuple[int, ...]  # the units of the full layers; (): none
    tied: bool  # whether a map has one bias; otherwise one at each position
    image_shape: tuple[int, int, int]
    hidden_pieces: int = 5  # the linear pieces of each of their units
    num_classes: int = 10
    input_dropout: float = 0.2  # the rate at which numbers of the images are dropped
    dropout: float = 0.5  # the rate before every later layer
    pool: Callable = layers.max_pool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, layers.Taps]:
        layers.check_size(images, self.smallest(), 'Maxout')
        taps, x = {}, images.astype(self.dtype)

        def dropped(x, rate, i):
            return nn.Dropout(rate, deterministic=not train, name=f'drop{i}')(x)

        def active(x, pieces, i):
            x = taps[f'maxout{i}'] = layers.maxout(x, pieces)
            return x

        x = dropped(x, self.input_dropout, 0) * ((1 - self.input_dropout) if train else 1)
        rows = zip(self.widths, self.pieces, self.sizes, self.paddings, self.windows, strict=True)
        for i, (width, pieces, size, padding, window) in enumerate(rows):
            x = dropped(x, self.dropout, i) if i else x
            x = layers.conv(width * pieces, size, padding=padding, use_bias=self.tied,
                            kernel_init=uniform, dtype=self.dtype, name=f'h{i}')(x)
            x = taps[f'h{i}'] = x if self.tied else Biases(self.dtype, name=f'h{i}_biases')(x)
            x = taps[f'pool{i}'] = self.pool(active(x, pieces, i), window, 2, ceil=True)
        x = layers.flatten(x)
        dense = partial(nn.Dense, kernel_init=uniform, dtype=self.dtype)
        for i, width in enumerate(self.hidden, len(self.widths)):
            x = dense(width * self.hidden_pieces, name=f'h{i}')(dropped(x, self.dropout, i))
            taps[f'h{i}'] = x
            x = active(x, self.hidden_pieces, i)
        x = dropped(x, self.dropout, len(self.widths) + len(self.hidden))
        logits = taps['y'] = dense(self.num_classes, name='y')(x)
        return logits, taps

    def smallest(self) -> int:
        """The least side of an image, of which every pool has a whole window."""
        side = 1
        for size, padding, window in zip(self.sizes[::-1], self.paddings[::-1], self.windows[::-1],
                                         strict=True):
            pooled = window + max(2 * side - 3, 0)  # the last window may stick out by one pixel
            side = max(pooled + size - 1 - 2 * padding, 1)
        return side


#            widths          pieces     sizes      paddings   windows    hidden   tied  images
COLUMNS = ('widths', 'pieces', 'sizes', 'paddings', 'windows', 'hidden', 'tied', 'image_shape')
TABLE = {
    'maxout':       ((96, 192, 192), (2, 2, 2), (8, 8, 5), (4, 3, 3), (4, 4, 2), (500,), True,
                     (32, 32, 3)),
    'maxout_svhn':  ((64, 128, 128), (2, 2, 2), (5, 5, 5), (4, 3, 3), (3, 3, 3), (400,), True,
                     (32, 32, 3)),
    'maxout_mnist': ((48, 48, 24),   (2, 2, 4), (8, 8, 5), (0, 3, 3), (4, 4, 2), (),     False,
                     (28, 28, 1)),
}
MODULE = Maxout
