"""Networks of exponential linear units (Clevert, Unterthiner & Hochreiter 2015), sections 4.2 and
4.3: https://arxiv.org/abs/1511.07289

`elu_net` is the network of 18 convolutions of table 1, `elu_net11` that of 11 with which the paper
compares activations (`relu='relu'` makes it one of ReLUs). The paper states neither the padding
nor the initial weights. Here every convolution keeps the resolution, those of even size by zeros
at the bottom and right; so the first five pools turn 32 x 32 pixels into one, and later ones do
nothing. Weights are He's.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import layers
from cnnjax.errors import UserError


class ELUNet(nn.Module):
    """Stacks of convolutions with an ELU after each. A 2x2 max-pool ends every stack but the last,
    which is a 1x1 convolution for the classes."""

    widths: tuple[tuple[int, ...], ...]  # of the layers of each stack but the last
    sizes: tuple[tuple[int, ...], ...]  # their kernels' sizes
    dropout: tuple[float, ...]  # the rate of each of these stacks
    dropout_layers: str = 'last'  # which layers of a stack drop: the 'last', or 'all'
    num_classes: int = 10
    relu: Callable = nn.elu
    pool: Callable = layers.max_pool
    dtype: Any = jnp.float32

    image_shape = (32, 32, 3)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, layers.Taps]:
        if len(self.dropout) != len(self.widths):
            raise UserError(f'ELUNet: {len(self.dropout)} dropout rates for {len(self.widths)} '
                            'stacks')
        conv = partial(layers.conv, kernel_init=nn.initializers.he_normal(),
                       dtype=self.dtype)
        taps, x = {}, images.astype(self.dtype)
        for i, (widths, sizes, rate) in enumerate(
                zip(self.widths, self.sizes, self.dropout, strict=True), 1):
            for j, (width, size) in enumerate(zip(widths, sizes, strict=True), 1):
                x = taps[f'conv{i}_{j}'] = conv(width, size, padding=layers.same(x, size, 1),
                                                name=f'conv{i}_{j}')(x)
                x = taps[f'elu{i}_{j}'] = self.relu(x)
                if j == len(widths):
                    x = taps[f'pool{i}'] = self.pool(x, 2, 2, ceil=True)
                if self.dropout_layers == 'all' or j == len(widths):
                    x = nn.Dropout(rate, deterministic=not train, name=f'drop{i}_{j}')(x)
        i = len(self.widths) + 1
        x = taps[f'conv{i}_1'] = conv(self.num_classes, 1, name=f'conv{i}_1')(x)
        logits = taps['pool'] = layers.global_average_pool(x)  # of one pixel, of 32 x 32 images
        return logits, taps


COLUMNS = ('widths', 'sizes', 'dropout')
TABLE = {
    'elu_net': (
        ((384,), (384, 384, 640, 640), (640, 768, 768, 768), (768, 896, 896),
         (896, 1024, 1024), (1024, 1152), (1152,)),
        ((3,), (1, 2, 2, 2), (1, 2, 2, 2), (1, 2, 2), (3, 2, 2), (1, 2), (1,)),
        (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.0)),
    'elu_net11': (
        ((192,), (192, 240), (240, 260), (260, 280), (280, 300), (300,)),
        ((5,), (1, 3), (1, 2), (1, 2), (1, 2), (1,)),
        (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)),
}
MODULE = ELUNet
