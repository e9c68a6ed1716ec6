"""LeNet-5 (LeCun et al. 1998), section II.B, figure 2:
http://yann.lecun.com/exdb/publis/pdf/lecun-01a.pdf

`lenet5_1998` is the paper's: each map of C3 sees some of the maps before it (Table I), the
sub-sampling layers have a coefficient and a bias per map, a scaled tanh follows every layer
(appendix A), and the outputs are distances from codes. `lenet5` is what is called LeNet-5 today:
every map sees all, max-pools, ReLU, and a full layer of scores.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from cnnjax import convolution, layers
from cnnjax.errors import UserError

# Table I lists the maps of S2 that each of the 16 maps of C3 sees.
TABLE_I = ((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5),
           (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5),
           (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5), (0, 1, 2, 3, 4, 5))

# Figure 3 shows the codes of the digits 0 to 9, pictures of 7 x 12 pixels, here # for +1 and . for
# -1. The paper prints them as a picture only; this is the reading that other ports share
# (https://github.com/mattwang44/LeNet-from-Scratch).
CODES = '''
.#####.  ...##..  .#####.  #######  .#####.  .#####.  ..####.  #######  .#####.  .#####.
.......  ..###..  .......  .....##  .......  .......  .##....  .....##  ##...##  ##..###
..###..  .####..  .#####.  ....##.  .......  #######  ##.....  .....##  ##...##  ##...##
.##.##.  ...##..  ##...##  ...##..  .##..##  ##.....  ##.....  ....##.  ##...##  ##...##
##...##  ...##..  #....##  ..####.  .##..##  ##.....  ######.  ...##..  .#####.  ##..###
##...##  ...##..  ....##.  .....##  ###..##  .####..  ###..##  ...##..  ##...##  .######
##...##  ...##..  ..###..  .....##  ##...##  ..####.  ##...##  ..##...  ##...##  .....##
##...##  ...##..  .##....  .....##  ##...##  .....##  ##...##  ..##...  ##...##  .....##
.##.##.  ...##..  ##.....  ##...##  ##..###  ##...##  ###..##  ..##...  ##...##  ....##.
..###..  .######  #######  .#####.  .######  .#####.  .#####.  ..##...  .#####.  .####..
.......  .......  .......  .......  .....##  .......  .......  .......  .......  .......
.......  .......  .......  .......  .....##  .......  .......  .......  .......  .......
'''


def digit_codes() -> np.ndarray:
    """The digits' codes, float32 [10, 84] of -1 and +1, row by row of the pictures."""
    rows = [line.split() for line in CODES.split('\n') if line]
    digits = [''.join(row[digit] for row in rows) for digit in range(10)]
    return np.array([[1 if pixel == '#' else -1 for pixel in digit] for digit in digits],
                    np.float32)


def scaled_tanh(x: jax.Array) -> jax.Array:
    """1.7159 tanh(2x / 3), equation 6: about +-1 at +-1, where its curvature is largest."""
    return 1.7159 * jnp.tanh(2 / 3 * x)


def uniform(key: jax.Array, shape: Sequence[int], fan_in: ArrayLike,
            dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Uniform in +-2.4 / fan_in (appendix A)."""
    return jax.random.uniform(key, shape, dtype, -2.4, 2.4) / fan_in


def by_fan_in(key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """`uniform` for the kernel of a full or convolutional layer."""
    return uniform(key, shape, math.prod(shape[:-1]), dtype)


class SparseConv(nn.Module):
    """A valid convolution whose maps each see the maps before that `table` names.

    The kernel [size, size, connections] has the pairs (map before, map after) in the table's order.
    """

    table: tuple[tuple[int, ...], ...]
    size: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        before = np.concatenate(self.table)
        after = np.repeat(np.arange(len(self.table)), [len(row) for row in self.table])
        fan_in = self.size ** 2 * np.array([len(self.table[i]) for i in after], np.float32)
        kernel = self.param('kernel', uniform, (self.size, self.size, len(before)),
                            fan_in[None, None])
        bias = self.param('bias', nn.initializers.zeros, (len(self.table),))
        dense = jnp.zeros((self.size, self.size, x.shape[-1], len(self.table)), self.dtype)
        dense = dense.at[:, :, before, after].set(kernel.astype(self.dtype))
        return convolution.conv_general_dilated(
            x, dense, (1, 1), ((0, 0), (0, 0))) + bias.astype(self.dtype)[None, None, None]


class SubSampling(nn.Module):
    """The sum of every 2x2 pixels, times a coefficient and plus a bias, one each per map."""

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        coefficient = self.param('coefficient', uniform, x.shape[-1:], 4)
        bias = self.param('bias', nn.initializers.zeros, x.shape[-1:])
        sums = 4 * layers.average_pool(x, 2, 2)
        coefficient, bias = (values.astype(self.dtype)[None, None, None]
                             for values in (coefficient, bias))
        return sums * coefficient + bias


class LeNet5(nn.Module):
    """C1, S2, C3, S4, C5, F6 and the output; 'relu1' ... 'relu6' are the taps after `relu`.

    With `rbf`, the output units are radial basis functions of fixed centres: the logits are the
    negative squared distances of F6 from the classes' codes. Their cross-entropy is the paper's
    criterion (equation 9) but for its constant for rubbish images.
    """

    table: tuple[tuple[int, ...], ...] | None  # the maps that each map of C3 sees; None: all
    sub_sampling: bool  # True: trainable sub-sampling, then `relu`; False: `pool`
    rbf: bool  # True: distances from codes, which exist for ten classes; False: a full layer
    relu: Callable = layers.relu
    num_classes: int = 10
    pool: Callable = layers.max_pool
    dtype: Any = jnp.float32

    image_shape = (32, 32, 1)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, layers.Taps]:
        layers.check_size(images, 32, 'LeNet-5',
                          'border=2 surrounds images of 28 x 28 by the background',
                          flat=bool(self.table))
        if self.rbf and self.num_classes > 10:
            raise UserError(f'num_classes={self.num_classes}: LeNet-5 of 1998 has codes for 10 '
                            'classes; lenet5 has any number')

        # The paper's initial weights are too small for ReLUs, which would stay at zero; He's are
        # not.
        initial = by_fan_in if self.rbf else nn.initializers.he_normal()

        def conv(features, name):
            return layers.conv(features, 5, padding=0, kernel_init=initial, dtype=self.dtype,
                               name=name)

        taps, x = {}, images.astype(self.dtype)
        x = taps['c1'] = conv(6, 'c1')(x)
        x = taps['relu1'] = self.relu(x)
        x = self.sample(x, 2, taps)
        c3 = SparseConv(self.table, 5, self.dtype, name='c3') if self.table else conv(16, 'c3')
        x = taps['c3'] = c3(x)
        x = taps['relu3'] = self.relu(x)
        x = self.sample(x, 4, taps)
        x = taps['c5'] = conv(120, 'c5')(x)  # a single pixel where images are 32 x 32
        x = taps['relu5'] = self.relu(x)
        x = layers.flatten(x)
        x = taps['f6'] = nn.Dense(84, kernel_init=initial, dtype=self.dtype, name='f6')(x)
        x = taps['relu6'] = self.relu(x)
        if self.rbf:
            codes = digit_codes()[:self.num_classes].astype(self.dtype)
            distances = x[..., None, :] - jnp.expand_dims(codes, range(x.ndim - 1))
            logits = -(distances ** 2).sum(-1)
        else:
            logits = nn.Dense(self.num_classes, kernel_init=initial, dtype=self.dtype,
                              name='output')(x)
        taps['output'] = logits
        return logits, taps

    def sample(self, x: jax.Array, layer: int, taps: layers.Taps) -> jax.Array:
        """S2 or S4: half the resolution."""
        if not self.sub_sampling:
            x = taps[f's{layer}'] = self.pool(x, 2, 2)
            return x
        x = taps[f's{layer}'] = SubSampling(self.dtype, name=f's{layer}')(x)
        x = taps[f'relu{layer}'] = self.relu(x)
        return x


def connections(net: nn.Module) -> dict[str, int]:
    """The connections of each layer on images of 32 x 32, as the paper counts them: the inputs of
    all units, a unit's bias being one of them. {'c1': 122304, ...}; of `lenet5_1998` 340,908."""
    table = net.table or (range(6),) * 16
    counts = {
        'c1': 28 ** 2 * 6 * (25 + 1),
        's2': 14 ** 2 * 6 * (4 + 1),
        'c3': 10 ** 2 * sum(25 * len(maps) + 1 for maps in table),
        's4': 5 ** 2 * 16 * (4 + 1),
        'c5': 120 * (25 * 16 + 1),
        'f6': 84 * (120 + 1),
        'output': net.num_classes * (84 if net.rbf else 84 + 1),
    }
    if not net.sub_sampling:  # pools have no bias
        counts |= {'s2': 14 ** 2 * 6 * 4, 's4': 5 ** 2 * 16 * 4}
    return counts


#                 C3 sees  sub-sampling  codes  activation
COLUMNS = ('table', 'sub_sampling', 'rbf', 'relu')
TABLE = {
    'lenet5':      (None,    False,        False, layers.relu),
    'lenet5_1998': (TABLE_I, True,         True,  scaled_tanh),
}
MODULE = LeNet5
