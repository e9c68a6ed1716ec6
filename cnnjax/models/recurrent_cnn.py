"""Recurrent CNN (Liang & Hu 2015), section 3 and figure 2, "RCNN-K" with K maps in every layer:
https://www.cv-foundation.org/openaccess/content_cvpr_2015/papers/Liang_Recurrent_Convolutional_Neural_2015_CVPR_paper.pdf

The paper states neither the activation of the first layer, here a ReLU, nor the initial weights.
Here those of recurrent layers have the variance 1 / fan-in, half of He's, since two convolutions
are added: with He's the states would grow fourfold in every layer. The last layer's deviation is
0.01, as the largest values of maps are large. Pools are cuda-convnet2's, with which the authors
trained: the last window sticks out, so that 32 pixels become 16.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import layers


class RecurrentLayer(nn.Module):
    """x(t) = g(f(forward(u) + recurrent(x(t - 1)) + bias)), for t = 0, 1, ... `iterations`, from
    nothing at t = -1 (equations 1 to 4): u -> (x, taps). f is the ReLU, g normalizes it by the
    squares of the maps around it."""

    width: int
    iterations: int
    relu: Callable
    conv: Callable

    @nn.compact
    def __call__(self, u: jax.Array) -> tuple[jax.Array, layers.Taps]:
        taps = {}
        forward = taps['forward'] = self.conv(self.width, 3, name='forward')(u)
        recurrent = self.conv(self.width, 3, use_bias=False, name='recurrent')
        x = taps['state0'] = self.state(forward)
        for t in range(1, self.iterations + 1):
            again = recurrent(x)
            if t == self.iterations:
                taps['recurrent'] = again
            x = taps[f'state{t}'] = self.state(forward + again)
        return x, taps

    def state(self, z: jax.Array) -> jax.Array:
        n = self.width // 8 + 1
        return layers.local_response_normalization(self.relu(z), 1.0, 0.001 / n, 0.75, n)


class RecurrentCNN(nn.Module):
    """A 5x5 convolution and four recurrent layers, with max-pools after the first and the third of
    these five; then the largest value of each map, and a full layer."""

    width: int  # the paper's K
    iterations: int = 3  # the paper's T
    num_classes: int = 10
    dropout: float = 0.5  # the rate after each recurrent layer but the last, behind its pool
    relu: Callable = layers.relu
    pool: Callable = layers.max_pool
    dtype: Any = jnp.float32

    image_shape = (32, 32, 3)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, layers.Taps]:
        layers.check_size(images, 4, 'RecurrentCNN')
        conv = partial(layers.conv, dtype=self.dtype)
        taps, x = {}, images.astype(self.dtype)
        x = taps['conv1'] = conv(self.width, 5, kernel_init=nn.initializers.he_normal(),
                                 name='conv1')(x)
        x = taps['relu1'] = self.relu(x)
        x = taps['pool1'] = self.pool(x, 3, 2, ceil=True)
        for i in range(2, 6):
            x, inner = RecurrentLayer(self.width, self.iterations, self.relu, conv,
                                      name=f'rcl{i}')(x)
            taps.update(layers.nested(f'rcl{i}', inner, x))
            if i == 3:
                x = taps['pool3'] = self.pool(x, 3, 2, ceil=True)
            if i < 5:
                x = nn.Dropout(self.dropout, deterministic=not train, name=f'drop{i}')(x)
        x = taps['pool5'] = layers.global_max_pool(x)
        logits = taps['fc'] = nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01),
                                       dtype=self.dtype, name='fc')(x)
        return logits, taps


COLUMNS = ('width',)
TABLE = {
    'recurrent_cnn96':  (96,),
    'recurrent_cnn128': (128,),
    'recurrent_cnn160': (160,),
    'recurrent_cnn192': (192,),  # on SVHN only
}
MODULE = RecurrentCNN
