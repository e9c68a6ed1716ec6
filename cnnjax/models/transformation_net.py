"""The image transformation network (Johnson et al. 2016), table 1 of the supplement:
https://cs.stanford.edu/people/jcjohns/papers/fast-style/fast-style-supp.pdf
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import layers


def mirrored_conv(width: int, size: int, stride: int = 1, **options: Any) -> Callable:
    """A convolution of [N, H, W, C] that sees the mirror image of its input beyond the border."""
    sides = (size // 2,) * 2
    convolve = layers.conv(width, size, stride, 0, **options)
    return lambda x: convolve(jnp.pad(x, ((0, 0), sides, sides, (0, 0)), 'reflect'))


def half_identity(key: jax.Array, shape: Sequence[int], dtype: Any) -> jax.Array:
    """The kernel [1, 1, C, C] that halves each channel: (1 + tanh(x / 2)) / 2 of a normalized image
    x looks much like the image."""
    del key
    return jnp.eye(shape[-1], dtype=dtype).reshape(shape) / 2


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut around both, without a ReLU after the addition (figure 1
    of the supplement): x -> (output, taps)."""

    relu: Callable
    conv: Callable
    norm: Callable

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, layers.Taps]:
        taps, width = {}, x.shape[-1]
        y = taps['conv1'] = self.conv(width, 3, name='conv1')(x)
        y = taps['relu1'] = self.relu(self.norm(name='norm1')(y))
        y = taps['conv2'] = self.conv(width, 3, name='conv2')(y)
        return x + self.norm(name='norm2')(y), taps


class TransformationNet(nn.Module):
    """Images [N, H, W, C] of any size -> images of that size in [0, 1]: a large convolution, two of
    stride 2, residual blocks, two convolutions that each follow an enlargement, and a large one.

    Three things are not the paper's. Instance normalization (Ulyanov et al. 2016,
    https://arxiv.org/abs/1607.08022) takes the place of batch normalization. A bilinear enlargement
    and a convolution take that of a transposed convolution, whose windows overlap unevenly (Odena
    et al. 2016, https://distill.pub/2016/deconv-checkerboard). And every convolution mirrors its
    input at the border, while the paper adds 40 mirrored pixels to the image, which its blocks cut
    off.

    With `residual` the layers only change the image (global residual learning: Kim et al. 2016,
    section 3.2, https://arxiv.org/abs/1511.04587). So faces and colours are there from the start,
    which a short training needs.
    """

    widths: tuple[int, ...]  # at the image's size, a half and a quarter of it
    depth: int  # how many residual blocks
    norm: str = 'instance'  # or 'batch' (the paper)
    residual: bool = False  # adds a 1x1 convolution of the image to the last layer
    num_classes: int = 1  # the number of classes of the photographs, which has no effect
    relu: Callable = layers.relu
    dtype: Any = jnp.float32

    image_shape = (256, 256, 3)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, layers.Taps]:
        layers.check_size(images, 8, 'TransformationNet', flat=True)
        conv = partial(mirrored_conv, dtype=self.dtype)
        # The fast variance is the larger of two values, whose gradient asks whether they are equal.
        norm = (partial(nn.InstanceNorm, epsilon=1e-5, use_fast_variance=False, dtype=self.dtype)
                if self.norm == 'instance' else
                partial(layers.BatchNorm, use_running_average=not train, dtype=self.dtype))
        taps, x = {}, images.astype(self.dtype)
        first, second, third = self.widths

        def convolve(x, i, width, size, stride=1):
            x = taps[f'conv{i}'] = conv(width, size, stride, name=f'conv{i}')(x)
            x = taps[f'relu{i}'] = self.relu(norm(name=f'norm{i}')(x))
            return x

        x = convolve(x, 1, first, 9)
        x = convolve(x, 2, second, 3, stride=2)
        x = convolve(x, 3, third, 3, stride=2)
        for i in range(1, self.depth + 1):
            x, inner = Block(self.relu, conv, norm, name=f'block{i}')(x)
            taps |= layers.nested(f'block{i}', inner, x)
        for i, width in ((4, second), (5, first)):
            # (1, 2, 1) / 4 of doubled pixels is a bilinear enlargement.
            x = layers.blur_pool(x.repeat(2, 1).repeat(2, 2), 1, 1)
            x = convolve(x, i, width, 3)
        x = x[:, :images.shape[1], :images.shape[2]]  # The strides round sizes up.
        x = taps['conv6'] = conv(images.shape[-1], 9, name='conv6')(x)
        if self.residual:
            x = x + conv(images.shape[-1], 1, name='shortcut', kernel_init=half_identity)(
                images.astype(self.dtype))
        wide = x.astype(jnp.promote_types(self.dtype, jnp.float32))
        image = taps['image'] = (1 + jnp.tanh(wide)) / 2
        return image, taps


#                        widths         depth
COLUMNS = ('widths', 'depth')
TABLE = {
    'transformation_net': ((32, 64, 128), 5),
}
MODULE = TransformationNet
