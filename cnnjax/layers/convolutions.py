"""Modules of convolutions, and the initial weights of the papers."""

import contextlib
from collections.abc import Generator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from cnnjax import convolution
from cnnjax.errors import UserError
from cnnjax.layers.maps import along, repeat_edges

he_normal = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')  # He et al. 2015
caffe_xavier = nn.initializers.variance_scaling(1.0, 'fan_in', 'uniform')  # Caffe's, not Glorot's
torch_linear = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')  # torch's nn.Linear
_edges = jax.make_user_context(False)  # see `continued_edges`


class Conv(nn.Conv):
    """flax's convolution. A kernel whose size is one number has that side along every axis of an
    example: [N, T, C], [N, H, W, C] or [N, D, H, W, C]."""

    def __call__(self, x: jax.Array) -> jax.Array:
        # flax binds a copy of a module for each `apply`: that which a user holds does not change.
        if isinstance(self.kernel_size, int):
            object.__setattr__(self, 'kernel_size', (self.kernel_size,) * (x.ndim - 2))
        sides: Any = self.kernel_size
        if len(sides) != x.ndim - 2:  # flax would take the batch for an axis of an image
            raise UserError(f'{self.name or "a convolution"} has a kernel of '
                            f'{" x ".join(map(str, sides))} and cannot take {list(x.shape[1:])}')
        if _edges.value:
            padding: Any = self.padding
            pairs = [(each, each) if isinstance(each, int) else each for each in
                     ([padding] * len(sides) if isinstance(padding, int) else padding)]
            x = repeat_edges(x, pairs)
            object.__setattr__(self, 'padding', 0)
        return super().__call__(x)


@contextlib.contextmanager
def continued_edges(on: bool = True) -> Generator[None]:
    """A context in which, if `on`, convolutions repeat the outermost pixels of maps where they else
    pad them with zeros. A network then sees no frame around the image, which optimized images would
    answer with a rim of other colours: https://github.com/crowsonkb/style-transfer-pytorch does
    this to the first convolution."""
    with _edges(on):
        yield


def conv(features: int, size: int | Sequence[int], stride: int = 1,
         padding: int | Sequence[tuple[int, int]] | None = None, dilation: int = 1,
         **options: Any) -> Conv:
    """A convolution module [N, H, W, C] -> [N, H', W', features], symmetric zero padding.

    `size` is the kernel's side, or its height and width, `dilation` the distance of the pixels that
    it sees, `padding` the pixels on every side (default `dilation * (size // 2)`, which keeps H and
    W at stride 1 and odd sizes), or those before and after each of H and W, such as `same` gives.
    `options` are those of `flax.linen.Conv`.
    """
    sides: Any = padding
    if padding is None:
        sides = (dilation * (size // 2) if isinstance(size, int)
                 else [dilation * (side // 2) for side in size])
    return Conv(features, size, stride, sides, kernel_dilation=dilation,
                conv_general_dilated=convolution.conv_general_dilated, **options)


class UpConv(nn.Module):
    """A transposed convolution of 2x2 windows, two apart: [N, H, W, C] -> [N, 2H, 2W, features].
    The parameters are those of `flax.linen.ConvTranspose`."""

    features: int
    kernel_init: Any
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param('kernel', self.kernel_init, (2, 2, x.shape[-1], self.features))
        bias = self.param('bias', nn.initializers.zeros, (self.features,))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        return convolution.up_convolution(x, kernel) + along(bias, x)
