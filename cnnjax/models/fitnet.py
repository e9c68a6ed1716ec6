"""FitNets (Romero et al. 2014), Table 7 and section A.1.2: https://arxiv.org/abs/1412.6550

Deep and thin students of a wide maxout network; configs/cifar.py trains them with its hints.

The full layer is the teacher's, 500 units of five linear pieces, in the paper's text and in the
released code (https://github.com/adri-romsor/FitNets). The parameters that the paper counts, 250 K,
862 K and 2.5 M of FitNet 1, 2 and 4, are the weights, without biases, of networks whose full layer
has two pieces (`pieces=(2, 2)`). The table's FitNet 3 would then have 1.5 M weights and 324 million
multiplications, where the paper states 1.6 M and 392 million.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import layers
from cnnjax.models.maxout import uniform


class FitNet(nn.Module):
    """Three groups of 3x3 convolutions with maxout, each with a max-pool behind it, the last over
    all positions, and a full maxout layer."""

    widths: tuple[tuple[int, ...], ...]  # channels of the convolutions, after maxout
    hidden: tuple[int, ...] = (500,)  # units of the hidden full layers, after maxout
    pieces: tuple[int, int] = (2, 5)  # the linear pieces of a convolution, and of a full layer
    num_classes: int = 10
    input_dropout: float = 0.0  # the rate at which pixels of the images are dropped
    dropout: float = 0.0  # the rate after every pool and after the full layer
    pool: Callable = layers.max_pool
    dtype: Any = jnp.float32

    image_shape = (32, 32, 3)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, layers.Taps]:
        layers.check_size(images, 2 ** (len(self.widths) - 1), 'FitNet')
        conv = functools.partial(layers.conv, kernel_init=uniform, dtype=self.dtype)
        dense = functools.partial(nn.Dense, kernel_init=uniform, dtype=self.dtype)
        drop = functools.partial(nn.Dropout, deterministic=not train)
        taps, done, several = {}, 0, self.pieces[0]
        x = drop(self.input_dropout, name='drop0')(images.astype(self.dtype))
        for i, widths in enumerate(self.widths, 1):
            for j, width in enumerate(widths, done + 1):
                x = taps[f'conv{j}'] = conv(several * width, 3, name=f'conv{j}')(x)
                x = taps[f'maxout{j}'] = layers.maxout(x, several)
            done += len(widths)
            size = 2 if i < len(self.widths) else max(x.shape[1:-1])
            x = taps[f'pool{i}'] = self.pool(x, size, size, 0, i == len(self.widths))
            x = drop(self.dropout, name=f'drop{i}')(x)
        x = layers.flatten(x)
        for i, width in enumerate(self.hidden, 1):
            x = taps[f'fc{i}'] = dense(self.pieces[1] * width, name=f'fc{i}')(x)
            x = taps[f'maxout_fc{i}'] = layers.maxout(x, self.pieces[1])
            x = drop(self.dropout, name=f'drop_fc{i}')(x)
        logits = taps['softmax'] = dense(self.num_classes, name='softmax')(x)
        return logits, taps


#             widths of group 1         2             3
COLUMNS = ('widths',)
TABLE = {
    'fitnet1': (((16, 16, 16),          (32,) * 3,    (48, 48, 64)),),
    'fitnet2': (((16, 32, 32),          (48, 64, 80), (96, 96, 128)),),
    'fitnet3': (((32, 48, 64, 64),      (80,) * 4,    (128,) * 3),),
    'fitnet4': (((32, 32, 32, 48, 48),  (80,) * 6,    (128,) * 6),),
}
MODULE = FitNet
