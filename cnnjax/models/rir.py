"""ResNet in ResNet (Targ, Almeida & Lyman 2016), section 2: https://arxiv.org/abs/1603.08029

`rir18_wide` is the "18-layer + wide RiR" of tables 1 and 2. Where its width doubles, both streams
are subsampled and get zero channels before the block, as in the library of one of the authors
(https://github.com/diogo149/treeano, sandbox/nodes/resnet.py); so the network has the paper's 10.3
million parameters. The head is our choice: the mean over all pixels and a full layer.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import layers
from cnnjax.errors import UserError


def residual(x: jax.Array) -> jax.Array:
    """x with zeros in place of its transient stream, the second half of its channels."""
    half = x.shape[-1] // 2
    return layers.append_channels(x[..., :half], half)


class Block(nn.Module):
    """Two generalized residual layers and a shortcut around both (figure 1d): x -> (output, taps).

    The channels of x are those of the residual stream r and then as many of the transient stream t.
    Both streams see both, in one convolution; r alone has shortcuts (equation 1). No ReLU follows
    the addition: neither term is negative.
    """

    width: int
    relu: Callable
    conv: Callable
    norm: Callable

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, layers.Taps]:
        taps, y = {}, x
        for i in (1, 2):
            z = taps[f'conv{i}'] = self.conv(self.width, 3, name=f'conv{i}')(y)
            y = taps[f'relu{i}'] = layers.activated(z + residual(y), self.norm(name=f'bn{i}'),
                                                      self.relu)
        return y + residual(x), taps


class ResNetInResNet(nn.Module):
    """Stages of blocks with two streams; each stage but the first halves the resolution and doubles
    the width, as the blocks of a ResNet do with the shortcut A."""

    blocks: tuple[int, ...]  # how many each stage has
    widths: tuple[int, ...]  # channels of both streams together, one per stage
    num_classes: int = 10
    relu: Callable = layers.relu
    dtype: Any = jnp.float32

    image_shape = (32, 32, 3)

    def check_fields(self, name: str) -> None:
        """Raises UserError for widths that two streams cannot have."""
        if any(width % 2 for width in self.widths) or list(self.widths) != sorted(self.widths):
            raise UserError(f'{name}: widths={self.widths!r}: take even numbers, none smaller than '
                            'the one before it')

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, layers.Taps]:
        conv = partial(layers.conv, use_bias=False, kernel_init=nn.initializers.he_normal(),
                       dtype=self.dtype)
        norm = partial(layers.BatchNorm, use_running_average=not train, dtype=self.dtype)
        taps, x = {}, images.astype(self.dtype)
        x = taps['conv1'] = conv(self.widths[0], 3, name='conv1')(x)
        x = taps['relu1'] = layers.activated(x, norm(name='bn1'), self.relu)
        for i, (count, width) in enumerate(zip(self.blocks, self.widths, strict=True), 2):
            if i > 2:
                more = (width - x.shape[-1]) // 2
                x = jnp.concatenate([layers.append_channels(stream, more) for stream in jnp.split(
                    layers.subsample(x, 2), 2, -1)], -1)
            for j in range(1, count + 1):
                name = f'conv{i}_{j}'
                x, inner = Block(width, self.relu, conv, norm, name=name)(x)
                taps.update(layers.nested(name, inner, x))
        x = taps['pool'] = layers.global_average_pool(x)
        logits = taps['fc'] = nn.Dense(self.num_classes, dtype=self.dtype, name='fc')(x)
        return logits, taps


COLUMNS = ('blocks', 'widths')
TABLE = {
    'rir18_wide': ((2, 3, 3), (96, 192, 384)),
}
MODULE = ResNetInResNet
