"""Highway networks (Srivastava, Greff & Schmidhuber 2015), section 3.3, tables 2 and 3:
https://arxiv.org/abs/1507.06228, first reported in https://arxiv.org/abs/1505.00387

`highway19` is the network of table 3, layers named as in the authors' Caffe code
(https://github.com/flukeskywalker/highway-networks): Highway B of table 2, but with a 1x1
convolution and a global average pool in place of its full layer. Of `highway32`, Highway C, the
paper says that 3x3 and 1x1 kernels alternate and that it has about 1.25 million parameters; the
widths, the order and the head of highway19 are our choice.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import layers

TRANSFORM_BIAS = -2.0  # Initial biases of the gates: at first the layers mostly carry their inputs.
HEAD = 100  # The maps of the 1x1 convolution before the mean, with 10 classes, too.


class HighwayNet(nn.Module):
    """Groups of highway layers, y = T(x) H(x) + (1 - T(x)) x (equation 3), each after a plain
    convolution that changes the width. Max-pools between the groups halve the resolution."""

    sizes: tuple[tuple[int, ...], ...]  # the kernels' sizes of the highway layers, group by group
    widths: tuple[int, ...]  # one per group
    num_classes: int = 10
    input_dropout: float = 0.2  # the rate at which pixels of the images are dropped
    dropout: float = 0.2  # the rate after every pool, the last one included
    relu: Callable = layers.relu
    pool: Callable = layers.max_pool
    dtype: Any = jnp.float32

    image_shape = (32, 32, 3)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, layers.Taps]:
        groups = len(self.sizes)
        layers.check_size(images, 2 ** (groups - 1), 'HighwayNet')
        # The released files give the first layer's deviation a wrong name, and so it is 1 there.
        conv = partial(layers.conv, kernel_init=layers.caffe_xavier, dtype=self.dtype)
        drop = partial(nn.Dropout, self.dropout, deterministic=not train)
        taps, x, n = {}, images.astype(self.dtype), 0

        def plain(x, width, size):
            x = taps[f'conv{n}'] = conv(width, size, name=f'conv{n}')(x)
            x = taps[f'relu{n}'] = self.relu(x)
            return x

        x = nn.Dropout(self.input_dropout, deterministic=not train, name='drop1')(x)
        for i, (sizes, width) in enumerate(zip(self.sizes, self.widths, strict=True), 1):
            n += 1
            x = plain(x, width, 3)
            for size in sizes:
                n += 1
                carried, x = x, plain(x, width, size)
                gate = taps[f'transform{n}'] = conv(
                    width, size, name=f'transform{n}',
                    bias_init=nn.initializers.constant(TRANSFORM_BIAS))(carried)
                gate = taps[f'gate{n}'] = nn.sigmoid(gate)
                x = taps[f'highway{n}'] = gate * x + (1 - gate) * carried
            if i < groups:
                x = taps[f'pool{i}'] = self.pool(x, 2, 2)
                x = drop(name=f'drop{i + 1}')(x)
        n += 1
        x = plain(x, HEAD, 1)
        x = taps[f'pool{groups}'] = layers.global_average_pool(x)
        x = drop(name=f'drop{groups + 1}')(x)
        logits = taps['ip2'] = nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.05),
                                        dtype=self.dtype, name='ip2')(x)
        return logits, taps


#              the highway layers' kernels in group 1, 2, 3         widths
COLUMNS = ('sizes', 'widths')
TABLE = {
    'highway19': (((3,) * 4, (3,) * 5, (3,) * 5),                   (32, 80, 128)),
    'highway32': (((1, 3) * 4 + (1,), (1, 3) * 4 + (1,), (1, 3) * 4 + (1,)), (32, 64, 96)),
}
MODULE = HighwayNet
