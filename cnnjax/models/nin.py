"""Network in Network (Lin et al. 2013), section 3 and figure 2: https://arxiv.org/abs/1312.4400

The paper does not state sizes; these are of the authors' released model, layers named as there
(https://gist.github.com/mavenlin/e56253735ef32c3c296d), with Caffe's pools.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import layers


class NIN(nn.Module):
    """Three mlpconv layers: a convolution and two 1x1 ones ("cccp", cascaded cross-channel
    parametric pooling) in each; the mean of every last map is a class's score."""

    widths: tuple[tuple[int, ...], ...]  # per mlpconv layer; the classes follow the last ones
    sizes: tuple[int, ...]  # the kernels' sizes of their first convolutions
    num_classes: int = 10
    dropout: float = 0.5  # the rate after each of the first two pools
    relu: Callable = layers.relu
    pool: Callable = layers.max_pool  # the first pool; the second is always a mean
    dtype: Any = jnp.float32

    image_shape = (32, 32, 3)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, layers.Taps]:
        layers.check_size(images, 4, 'NIN')
        conv = partial(layers.conv, kernel_init=nn.initializers.normal(0.05), dtype=self.dtype)
        taps, x, cccp = {}, images.astype(self.dtype), 0
        for i, (widths, size) in enumerate(zip(self.widths, self.sizes, strict=True), 1):
            if i == len(self.widths):
                widths = (*widths, self.num_classes)
            for j, width in enumerate(widths):
                cccp += j > 0
                name = f'cccp{cccp}' if j else f'conv{i}'
                x = taps[name] = conv(width, 1 if j else size, name=name)(x)
                x = taps[f'relu_{name}'] = self.relu(x)
            if i == len(self.widths):
                break
            pool = self.pool if i == 1 else layers.average_pool
            x = taps[f'pool{i}'] = pool(x, 3, 2, ceil=True)
            x = nn.Dropout(self.dropout, deterministic=not train, name=f'drop{i}')(x)
        logits = taps[f'pool{i}'] = layers.global_average_pool(x)
        return logits, taps


#         widths of each mlpconv layer                     their sizes
COLUMNS = ('widths', 'sizes')
TABLE = {
    'nin': (((192, 160, 96), (192, 192, 192), (192, 192)), (5, 5, 3)),
}
MODULE = NIN
