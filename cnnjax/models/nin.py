"""Network in Network (Lin et al. 2013), section 3 and figure 2: https://arxiv.org/abs/1312.4400

The paper does not state sizes; these are of the authors' released model, layers named as there
(https://gist.github.com/mavenlin/e56253735ef32c3c296d), with Caffe's pools.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import layers
from cnnjax.errors import UserError


class NIN(nn.Module):
    """Three mlpconv layers: a convolution and two 1x1 ones ("cccp", cascaded cross-channel
    parametric pooling) in each; the mean of every last map is a class's score.

    With an `auxiliary_weight`, Deeply-Supervised Nets (dsn.py), a linear classifier sees the output
    of every mlpconv layer's first convolution: in training its scores are taps, 'svm1', 'svm2' and
    'svm3', and the training step adds their losses. Evaluation skips them.
    """

    widths: tuple[tuple[int, ...], ...]  # per mlpconv layer; the classes follow the last ones
    sizes: tuple[int, ...]  # the kernels' sizes of their first convolutions
    num_classes: int = 10
    dropout: float = 0.5  # the rate after each of the first two pools
    poolings: tuple[str, ...] = ('max', 'average')  # the kinds of these pools, of POOLINGS
    last_relu: bool = True  # whether a ReLU follows the last convolution
    auxiliary_weight: float = 0.0  # the factor of the auxiliary losses; 0: the network has none
    relu: Callable = layers.relu
    pool: Callable = layers.max_pool
    dtype: Any = jnp.float32

    image_shape = (32, 32, 3)
    POOLINGS: ClassVar[tuple[str, ...]] = ('max', 'average')

    @property
    def auxiliary(self) -> dict[str, float]:
        """The taps whose losses training adds to the loss: {name: weight}."""
        weight = self.auxiliary_weight
        return {f'svm{i}': weight for i in range(1, len(self.widths) + 1)} if weight else {}

    def check_fields(self, name: str) -> None:
        """Raises UserError unless there is a known kind of pool between any two mlpconv layers."""
        given, between = self.poolings, len(self.widths) - 1
        if len(given) != between or not set(given) <= set(self.POOLINGS):
            raise UserError(f'{name}: poolings={given!r}: give {between} of '
                            f'{", ".join(self.POOLINGS)}')

    def pooled(self, x: jax.Array, i: int) -> jax.Array:
        """The i-th pool, of 3x3 windows two apart; Caffe's, whose last window may stick out."""
        pool = self.pool if self.poolings[i - 1] == 'max' else layers.average_pool
        return pool(x, 3, 2, ceil=True)

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
                if not j and self.auxiliary and (train or self.is_initializing()):
                    scores = nn.Dense(self.num_classes, kernel_init=layers.caffe_xavier,
                                      dtype=self.dtype, name=f'svm{i}')(layers.flatten(x))
                    if train:
                        taps[f'svm{i}'] = scores
                if self.last_relu or (i, j + 1) != (len(self.widths), len(widths)):
                    x = taps[f'relu_{name}'] = self.relu(x)
            if i == len(self.widths):
                break
            x = taps[f'pool{i}'] = self.pooled(x, i)
            x = nn.Dropout(self.dropout, deterministic=not train, name=f'drop{i}')(x)
        logits = taps[f'pool{i}'] = layers.global_average_pool(x)
        return logits, taps


# The mlpconv layers, which other networks on CIFAR have, too.
WIDTHS, SIZES = ((192, 160, 96), (192, 192, 192), (192, 192)), (5, 5, 3)
COLUMNS = ('widths', 'sizes')
TABLE = {
    'nin': (WIDTHS, SIZES),
}
MODULE = NIN
