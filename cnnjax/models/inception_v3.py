"""Inception v3 (Szegedy et al. 2015), Table 1 and figures 5 to 8: https://arxiv.org/abs/1512.00567

Widths, names and the numbers of the modules are those of the authors' TF-slim code (tensorflow/
models, research/slim/nets/inception_v3.py), names of the layers within them torchvision's, as is
the initialization.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import layers

# The branches of the modules. A layer is its name, its width and the size of its kernels. A pair of
# layers in place of one both see what is before them, and are concatenated.
Layer = tuple[str, int, int | tuple[int, int]]
ROW, COLUMN = (1, 7), (7, 1)


def figure5(pool: int) -> tuple:
    """Two 3x3 in place of 5x5 kernels, on maps of 35 x 35; `pool` is the width after the pool."""
    return ((('branch1x1', 64, 1),),
            (('branch5x5_1', 48, 1), ('branch5x5_2', 64, 5)),
            (('branch3x3dbl_1', 64, 1), ('branch3x3dbl_2', 96, 3), ('branch3x3dbl_3', 96, 3)),
            (('branch_pool', pool, 1),))


def figure6(width: int) -> tuple:
    """Kernels of 7 x 7 as a row and a column, on maps of 17 x 17."""
    return ((('branch1x1', 192, 1),),
            (('branch7x7_1', width, 1), ('branch7x7_2', width, ROW), ('branch7x7_3', 192, COLUMN)),
            (('branch7x7dbl_1', width, 1), ('branch7x7dbl_2', width, COLUMN),
             ('branch7x7dbl_3', width, ROW), ('branch7x7dbl_4', width, COLUMN),
             ('branch7x7dbl_5', 192, ROW)),
            (('branch_pool', 192, 1),))


FIGURE_7 = ((('branch1x1', 320, 1),),
            (('branch3x3_1', 384, 1),
             (('branch3x3_2a', 384, (1, 3)), ('branch3x3_2b', 384, (3, 1)))),
            (('branch3x3dbl_1', 448, 1), ('branch3x3dbl_2', 384, 3),
             (('branch3x3dbl_3a', 384, (1, 3)), ('branch3x3dbl_3b', 384, (3, 1)))),
            (('branch_pool', 192, 1),))
# Figure 10: these are strided. The last layer of each branch and a max-pool beside have stride 2.
TO_17 = ((('branch3x3', 384, 3),),
         (('branch3x3dbl_1', 64, 1), ('branch3x3dbl_2', 96, 3), ('branch3x3dbl_3', 96, 3)))
TO_8 = ((('branch3x3_1', 192, 1), ('branch3x3_2', 320, 3)),
        (('branch7x7x3_1', 192, 1), ('branch7x7x3_2', 192, ROW), ('branch7x7x3_3', 192, COLUMN),
         ('branch7x7x3_4', 192, 3)))
MIXED = {'5b': figure5(32), '5c': figure5(64), '5d': figure5(64), '6a': TO_17,
         '6b': figure6(128), '6c': figure6(160), '6d': figure6(160), '6e': figure6(192),
         '7a': TO_8, '7b': FIGURE_7, '7c': FIGURE_7}


class Unit(nn.Module):
    """A convolution, batch normalization and ReLU."""

    width: int
    size: int | tuple[int, int]
    stride: int
    padding: int | None
    multiplier: float
    relu: Callable
    conv: Callable
    norm: Callable

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, layers.Taps]:
        taps, width = {}, max(1, int(self.multiplier * self.width))
        x = taps['conv'] = self.conv(width, self.size, self.stride, self.padding, name='conv')(x)
        return layers.activated(x, self.norm(name='bn'), self.relu), taps


def apply(taps: layers.Taps, unit: Callable, x: jax.Array, layer: Layer, stride: int = 1,
          padding: int | None = None) -> jax.Array:
    """The unit of a layer, with its taps under its name."""
    name, width, size = layer
    x, inner = unit(width, size, stride, padding, name=name)(x)
    taps |= layers.nested(name, inner, x)
    return x


class Mixed(nn.Module):
    """Branches, concatenated."""

    branches: tuple
    strided: bool
    pool: Callable
    unit: Callable

    @nn.compact
    def __call__(self, inputs: jax.Array) -> tuple[jax.Array, layers.Taps]:
        taps, outputs = {}, []
        for branch in self.branches:
            x = inputs
            if branch[-1][0] == 'branch_pool':
                x = taps['pool'] = layers.average_pool(x, 3, 1, 1)
            for layer in branch:
                if isinstance(layer[0], str):
                    last = self.strided and layer is branch[-1]
                    x = apply(taps, self.unit, x, layer, *((2, 0) if last else ()))
                else:
                    x = jnp.concatenate([apply(taps, self.unit, x, each) for each in layer], -1)
            outputs.append(x)
        if self.strided:
            taps['pool'] = self.pool(inputs, 3, 2)
            outputs.append(taps['pool'])
        return jnp.concatenate(outputs, -1), taps


class Auxiliary(nn.Module):
    """The classifier on the side (figure 8), with batch normalization (section 4)."""

    num_classes: int
    unit: partial
    dense: Callable

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, layers.Taps]:
        taps = {}
        x = taps['pool'] = layers.average_pool(x, 5, 3)
        x = apply(taps, self.unit, x, ('conv0', 128, 1))
        normal = nn.initializers.truncated_normal
        conv = partial(self.unit.keywords['conv'], kernel_init=normal(0.01))
        x = apply(taps, partial(self.unit, conv=conv), x, ('conv1', 768, 5), 1, 0)
        x = taps['mean'] = layers.global_average_pool(x)
        x = taps['fc'] = self.dense(self.num_classes, kernel_init=normal(0.001), name='fc')(x)
        return x, taps


class InceptionV3(nn.Module):
    """Five convolutions, eleven modules, one full layer.

    In training `taps` also has the logits of the auxiliary classifier, 'AuxLogits'; the training
    step adds its loss by the weight in `auxiliary`. Evaluation skips it.
    """

    auxiliary_weight: float  # the factor of the auxiliary loss; 0: the network has none
    width_multiplier: float = 1.0  # TF-slim's depth_multiplier of all widths, but without
    # its least width of 16
    mixed: tuple[str, ...] = tuple(MIXED)  # the modules
    dropout: float = 0.2  # before the full layer: TF-slim's; torchvision has 0.5
    num_classes: int = 1000
    relu: Callable = layers.relu
    pool: Callable = layers.max_pool
    dtype: Any = jnp.float32

    image_shape = (299, 299, 3)

    @property
    def auxiliary(self) -> dict[str, float]:
        """The tap whose cross-entropy training adds to the loss: {name: weight}."""
        weight = self.auxiliary_weight
        return {'AuxLogits': weight} if weight and '6e' in self.mixed else {}

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, layers.Taps]:
        sides = self.auxiliary and (train or self.is_initializing())
        if sides:  # A 5x5 convolution follows its pool.
            layers.check_size(images, 299, 'InceptionV3', 'auxiliary_weight=0 allows 75 x 75')
        layers.check_size(images, 75, 'InceptionV3')
        normal = nn.initializers.truncated_normal(0.1)
        conv = partial(layers.conv, use_bias=False, kernel_init=normal, dtype=self.dtype)
        norm = partial(layers.BatchNorm, use_running_average=not train, epsilon=1e-3,
                       dtype=self.dtype)
        unit = partial(Unit, multiplier=self.width_multiplier, relu=self.relu, conv=conv, norm=norm)
        dense = partial(nn.Dense, kernel_init=normal, dtype=self.dtype)
        taps = {}
        x = stem(taps, unit, self.pool, images.astype(self.dtype))
        for module in self.mixed:
            name, branches = f'Mixed_{module}', MIXED[module]
            x, inner = Mixed(branches, branches in (TO_17, TO_8), self.pool, unit, name=name)(x)
            taps |= layers.nested(name, inner, x)
            if module == '6e' and sides:
                side, inner = Auxiliary(self.num_classes, unit, dense, name='AuxLogits')(x)
                if train:
                    taps |= layers.nested('AuxLogits', inner, side)
        x = taps['pool'] = layers.global_average_pool(x)
        x = nn.Dropout(self.dropout, deterministic=not train, name='drop')(x)
        logits = taps['fc'] = dense(self.num_classes, name='fc')(x)
        return logits, taps


def stem(taps: layers.Taps, unit: Callable, pool: Callable, x: jax.Array) -> jax.Array:
    """The layers before the modules, from 299 to 35 pixels."""
    x = apply(taps, unit, x, ('Conv2d_1a_3x3', 32, 3), 2, 0)
    x = apply(taps, unit, x, ('Conv2d_2a_3x3', 32, 3), 1, 0)
    x = apply(taps, unit, x, ('Conv2d_2b_3x3', 64, 3))
    x = taps['maxpool1'] = pool(x, 3, 2)
    x = apply(taps, unit, x, ('Conv2d_3b_1x1', 80, 1))
    x = apply(taps, unit, x, ('Conv2d_4a_3x3', 192, 3), 1, 0)
    x = taps['maxpool2'] = pool(x, 3, 2)
    return x


#                 auxiliary weight
COLUMNS = ('auxiliary_weight',)
TABLE = {
    'inception_v3': (0.4,),
}
MODULE = InceptionV3
