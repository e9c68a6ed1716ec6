"""The simplest convolutional network, INPUT - CONV - RELU - POOL - FC: the first example of the
course CS231n, https://cs231n.github.io/convolutional-networks/ (section "Architecture Overview").

On images of 32 x 32 its volumes are 32x32x12, 16x16x12 and, at the end, one score per class.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import layers


class ConvNet(nn.Module):
    """A convolution, ReLU, a max-pool and a full layer. The size of the kernel, which the example
    leaves open, is 3x3; its initial weights are He's."""

    width: int = 12
    num_classes: int = 10
    relu: Callable = layers.relu
    pool: Callable = layers.max_pool
    dtype: Any = jnp.float32

    image_shape = (32, 32, 3)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, layers.Taps]:
        layers.check_size(images, 2, 'ConvNet')
        taps, x = {}, images.astype(self.dtype)
        x = taps['conv'] = layers.conv(self.width, 3, kernel_init=nn.initializers.he_normal(),
                                       dtype=self.dtype, name='conv')(x)
        x = taps['relu'] = self.relu(x)
        x = taps['pool'] = self.pool(x, 2, 2)
        logits = taps['fc'] = nn.Dense(self.num_classes, dtype=self.dtype, name='fc')(
            layers.flatten(x))
        return logits, taps


#             width
COLUMNS = ('width',)
TABLE = {
    'convnet': (12,),
}
MODULE = ConvNet
