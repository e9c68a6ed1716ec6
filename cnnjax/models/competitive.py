"""Competitive multi-scale convolution (Liao & Carneiro 2015), section 3, figures 1a and 2:
https://arxiv.org/abs/1511.05635

Network in Network's blocks, of competitive modules. The sizes are those of IBM's implementation
(autodp's CMCArch), and give the paper's 4.48 million parameters. Pools are Network in Network's, of
3x3 pixels, two apart (IBM's are one apart). Initial weights are He's, our choice. Batch
normalization makes biases of the convolutions useless: they have none.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import layers
from cnnjax.models.nin import WIDTHS


class Competitive(nn.Module):
    """Convolutions of several sizes, each normalized; the largest wins: x -> (output, taps)."""

    width: int
    sizes: tuple[int, ...]
    conv: Callable
    norm: Callable

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, layers.Taps]:
        taps = {}
        for size in self.sizes:
            taps[f'conv{size}x{size}'] = self.conv(self.width, size, name=f'conv{size}x{size}')(x)
        rivals = [self.norm(name=f'bn{size}x{size}')(taps[f'conv{size}x{size}'])
                  for size in self.sizes]
        return functools.reduce(layers.larger, rivals), taps


class CompetitiveNet(nn.Module):
    """Three blocks of three competitive modules, the first two followed by a max-pool and dropout;
    the mean of every last map is a class's score."""

    widths: tuple[tuple[int, ...], ...]  # per block; the classes follow the last ones
    sizes: tuple[tuple[tuple[int, ...], ...], ...]  # the kernels' sizes in each module of a block
    num_classes: int = 10
    dropout: float = 0.5  # the rate after each of the first two pools
    pool: Callable = layers.max_pool
    dtype: Any = jnp.float32

    image_shape = (32, 32, 3)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, layers.Taps]:
        layers.check_size(images, 4, 'CompetitiveNet')
        conv = functools.partial(layers.conv, use_bias=False, dtype=self.dtype,
                                 kernel_init=nn.initializers.he_normal())
        norm = functools.partial(layers.BatchNorm, use_running_average=not train, dtype=self.dtype)
        taps, x = {}, images.astype(self.dtype)
        for i, (widths, modules) in enumerate(zip(self.widths, self.sizes, strict=True), 1):
            last = i == len(self.widths)
            if last:
                widths = (*widths, self.num_classes)
            for j, (width, sizes) in enumerate(zip(widths, modules, strict=True), 1):
                name = f'block{i}_{j}'
                x, inner = Competitive(width, sizes, conv, norm, name=name)(x)
                taps.update(layers.nested(name, inner, x))
            if not last:
                x = taps[f'pool{i}'] = self.pool(x, 3, 2, ceil=True)
                x = nn.Dropout(self.dropout, deterministic=not train, name=f'drop{i}')(x)
        logits = taps[f'pool{len(self.widths)}'] = layers.global_average_pool(x)
        return logits, taps


COLUMNS = ('widths', 'sizes')
TABLE = {
    'competitive_multiscale': (
        WIDTHS,
        (((1, 3, 5, 7), (1, 3), (1, 3)), ((1, 3, 5, 7), (1, 3), (1, 3)),
         ((1, 3, 5), (1, 3), (1, 3)))),
}
MODULE = CompetitiveNet
