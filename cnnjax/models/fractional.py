"""Fractional max-pooling networks (Graham 2014), sections 2 and 4: https://arxiv.org/abs/1412.6071

"(160nC2 - FMP)12 - C2 - C1": the n-th of twelve layers is a 2x2 convolution with 160 n filters and
a fractional max-pool; then a 2x2 and a 1x1 convolution, the second of which gives the classes.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import layers
from cnnjax.errors import UserError


class FractionalNet(nn.Module):
    """Valid 2x2 convolutions and fractional max-pools on images in the middle of a black canvas.

    Every pool draws its regions anew for every mini-batch, from the rng 'drop_path'. So does a test
    to which that rng is given; without it the regions are always the same ones. With `tests` above
    one, the outputs of an evaluation are the logarithms of the probabilities averaged over that
    many fixed draws (section 4: "model averaging"); the taps are those of the first.
    """

    depth: int  # the number of pools
    width: int  # the n-th convolution has n * width filters
    ratio: float  # alpha, by which each pool shrinks its input
    canvas: int  # the side of the canvas in pixels
    dropout: float  # the last layer's rate, to which the layers' rates rise linearly from 0
    image_shape: tuple[int, int, int]
    order: str = 'random'  # how the regions' sizes follow: 'random' or 'pseudorandom'
    overlapping: bool = True  # whether neighbouring regions share their boundary
    tests: int = 1  # how many draws of the regions an evaluation averages
    num_classes: int = 10
    relu: Callable = partial(nn.leaky_relu, negative_slope=1 / 3)
    dtype: Any = jnp.float32

    def setup(self) -> None:
        conv = partial(layers.conv, padding=0, kernel_init=layers.he_normal, dtype=self.dtype)
        last = self.depth + 2
        for n in range(1, last + 1):
            setattr(self, f'conv{n}', conv(n * self.width, 2) if n < last else
                    conv(self.num_classes, 1))
            setattr(self, f'drop{n}', nn.Dropout(self.dropout * (n - 1) / (last - 1)))

    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, layers.Taps]:
        layers.check_size(images, 1, 'fractional max-pooling', flat=True)
        around = [self.canvas - n for n in images.shape[1:3]]
        if min(around) < 0:
            raise UserError(f'fractional max-pooling: images of {images.shape[1:3]} do not fit on '
                            f'the canvas of {self.canvas} x {self.canvas}; enlarge `canvas`')
        x = jnp.pad(images.astype(self.dtype),
                    ((0, 0), *((n // 2, n - n // 2) for n in around), (0, 0)))
        if train or self.has_rng('drop_path'):
            return self.draw(x, self.make_rng('drop_path'), train)
        logits, taps = self.draw(x, jax.random.key(0))
        if self.tests > 1 and not self.is_initializing():
            def add(net, total, key):
                return total + nn.softmax(net.draw(x, key)[0].astype(jnp.float32)), None

            keys = jax.random.split(jax.random.key(0), self.tests - 1)
            total, _ = nn.scan(add, variable_broadcast='params')(
                self, nn.softmax(logits.astype(jnp.float32)), keys)
            logits = jnp.log(total / self.tests)
        return logits, taps

    def draw(self, x: jax.Array, key: jax.Array,
             train: bool = False) -> tuple[jax.Array, layers.Taps]:
        """The logits and taps under the regions that the key draws."""
        taps = {}
        for n in range(1, self.depth + 3):
            x = getattr(self, f'drop{n}')(x, deterministic=not train)
            x = taps[f'conv{n}'] = getattr(self, f'conv{n}')(x)
            if n < self.depth + 2:
                x = taps[f'relu{n}'] = self.relu(x)
            if n <= self.depth:
                x = taps[f'pool{n}'] = layers.fractional_max_pool(
                    x, self.ratio, jax.random.fold_in(key, n), self.order, self.overlapping)
        return x.mean((1, 2)), taps


#               depth  width  ratio     canvas  dropout  images
COLUMNS = ('depth', 'width', 'ratio', 'canvas', 'dropout', 'image_shape')
TABLE = {
    'fmp12_160': (12, 160, 2 ** (1 / 3), 94, 0.5, (32, 32, 3)),
    'fmp12_64':  (12,  64, 2 ** (1 / 3), 94, 0.0, (32, 32, 3)),
    'fmp6_32':   (6,   32, 2 ** (1 / 2), 36, 0.0, (28, 28, 1)),
}
MODULE = FractionalNet
