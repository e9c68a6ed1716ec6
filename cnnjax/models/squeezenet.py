"""SqueezeNet (Iandola et al. 2016), Table 1 and figure 2: https://arxiv.org/abs/1602.07360

Where the paper is silent (padding, initialization), as in the authors' release for Caffe,
https://github.com/forresti/SqueezeNet, which `squeezenet1_1` comes from, too: it computes 2.4 times
less. Layers are named as there. Table 1 says 224 pixels, but its sizes need 227, as the release
has them and the recipe in configs/imagenet.py.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import layers


class Fire(nn.Module):
    """Figure 1: a 1x1 convolution to few maps, which 1x1 and 3x3 convolutions, concatenated, see.

    With a bypass (section 6) the module's input is added; where it has another number of maps, none
    is if the bypass is simple, and a 1x1 convolution of it is if the bypass is complex.
    """

    squeeze: int
    expand: int  # maps of the 1x1 convolution, and as many of the 3x3
    bypass: str
    relu: Callable
    conv: Callable

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, layers.Taps]:
        taps, bypass = {}, x

        def unit(x, name, width, size):
            x = taps[name] = self.conv(width, size, name=name)(x)
            x = taps[f'relu_{name}'] = self.relu(x)
            return x

        x = unit(x, 'squeeze1x1', self.squeeze, 1)
        x = jnp.concatenate([unit(x, 'expand1x1', self.expand, 1),
                             unit(x, 'expand3x3', self.expand, 3)], -1)
        if self.bypass == 'complex' and bypass.shape != x.shape:
            bypass = taps['bypass'] = self.conv(2 * self.expand, 1, name='bypass')(bypass)
        if self.bypass != 'none' and bypass.shape == x.shape:
            taps['concat'] = x
            x = x + bypass
        return x, taps


class SqueezeNet(nn.Module):
    """A convolution, fire modules, and a convolution to maps whose means are the scores."""

    stem_width: int
    stem_size: int  # the size of the first kernels
    pools: tuple[int, ...]  # the numbers of the layers that a 3x3 max-pool of stride 2 follows
    fires: tuple[tuple[int, int], ...] = (  # from the second layer on: squeeze, expand
        (16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))
    bypass: str = 'none'  # 'simple' or 'complex'
    num_classes: int = 1000
    dropout: float = 0.5  # before the last convolution
    relu: Callable = layers.relu
    pool: Callable = layers.max_pool
    dtype: Any = jnp.float32

    image_shape = (224, 224, 3)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, layers.Taps]:
        # A pool of stride 2 needs two pixels, and that before it must leave them.
        layers.check_size(images, 2 * (2 ** len(self.pools) - 1) + self.stem_size, 'SqueezeNet')
        conv = partial(layers.conv, kernel_init=layers.caffe_xavier, dtype=self.dtype)
        taps, x, last = {}, images.astype(self.dtype), len(self.fires) + 2
        x = taps['conv1'] = conv(self.stem_width, self.stem_size, 2, 0, name='conv1')(x)
        x = taps['relu1'] = self.relu(x)
        for i in range(1, last):
            if i > 1:
                squeeze, expand = self.fires[i - 2]
                x, inner = Fire(squeeze, expand, self.bypass, self.relu, conv, name=f'fire{i}')(x)
                taps |= layers.nested(f'fire{i}', inner, x)
            if i in self.pools:
                x = taps[f'pool{i}'] = self.pool(x, 3, 2, ceil=True)
        x = nn.Dropout(self.dropout, deterministic=not train, name=f'drop{last - 1}')(x)
        conv = partial(conv, kernel_init=nn.initializers.normal(0.01))
        x = taps[f'conv{last}'] = conv(self.num_classes, 1, name=f'conv{last}')(x)
        x = taps[f'relu{last}'] = self.relu(x)
        logits = taps[f'pool{last}'] = layers.global_average_pool(x)
        return logits, taps


#                      first layer        pools after
COLUMNS = ('stem_width', 'stem_size', 'pools')
TABLE = {
    'squeezenet1_0': (96, 7, (1, 4, 8)),
    'squeezenet1_1': (64, 3, (1, 3, 5)),
}
MODULE = SqueezeNet
