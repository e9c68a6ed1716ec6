"""U-Net (Ronneberger et al. 2015), figure 1: https://arxiv.org/abs/1505.04597"""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import layers
from cnnjax.errors import UserError


class UNet(nn.Module):
    """A contracting path of convolutions and max-pools, and an expansive path back, each level of
    which also sees the contracting path's features of that level: images [N, H, W, C] -> logits
    [N, H', W', classes], those of the middle H' x W' pixels.

    Without padding (the paper) a level's two convolutions cost 4 pixels; 572 x 572 becomes
    388 x 388. With padding H' = H and W' = W.

    norm='batch' is not the paper's: batch normalization (Ioffe & Szegedy 2015) between each 3x3
    convolution and its ReLU, in place of the convolution's bias.
    """

    padding: int = 0  # pixels of zeros around the input of a 3x3 convolution: 0 or 1
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024)  # one per level
    dropout: float = 0.5  # the rate on the last two levels of the contracting path
    norm: str = 'none'  # 'none' (the paper) or 'batch'
    num_classes: int = 2
    relu: Callable = layers.relu
    pool: Callable = layers.max_pool
    dtype: Any = jnp.float32

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (512, 512, 1) if self.padding else (572, 572, 1)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, layers.Taps]:
        layers.check_size(images, 1, 'U-Net', flat=True)
        self.check(images.shape[1:3])
        # Section 3 asks for a standard deviation of sqrt(2 / N), where N is a neuron's fan-in.
        conv = partial(layers.conv, dtype=self.dtype,
                       kernel_init=nn.initializers.variance_scaling(2.0, 'fan_in', 'normal'))
        norm = partial(layers.BatchNorm, use_running_average=not train, dtype=self.dtype)
        # As in the authors' released network, N is the fan-out here. A ReLU follows there, but not
        # in the paper's figure.
        up = partial(layers.UpConv, kernel_init=layers.he_normal, dtype=self.dtype)
        taps, x, skips = {}, images.astype(self.dtype), []

        def convolve(x, level, width, first):
            for i in (first, first + 1):
                x = taps[f'conv{level}_{i}'] = conv(width, 3, padding=self.padding,
                                                    use_bias=self.norm == 'none',
                                                    name=f'conv{level}_{i}')(x)
                if self.norm == 'batch':
                    x = layers.activated(x, norm(name=f'bn{level}_{i}'), self.relu)
                else:
                    x = self.relu(x)
                taps[f'relu{level}_{i}'] = x
            return x

        bottom = len(self.widths)
        for level, width in enumerate(self.widths, 1):
            x = convolve(x, level, width, 1)
            if level >= bottom - 1:
                x = nn.Dropout(self.dropout, deterministic=not train, name=f'drop{level}')(x)
            if level < bottom:
                skips.append(x)
                x = taps[f'pool{level}'] = self.pool(x, 2, 2)
        for level in range(bottom - 1, 0, -1):
            width = self.widths[level - 1]
            x = taps[f'up{level}'] = up(width, name=f'up{level}')(x)
            skip = taps[f'crop{level}'] = centre_crop(skips.pop(), x.shape)
            x = convolve(jnp.concatenate([x, skip], -1), level, width, 3)
        logits = taps['conv'] = conv(self.num_classes, 1, name='conv')(x)
        return logits, taps

    def check(self, shape: Sequence[int]) -> None:
        """Raises UserError unless every max-pool finds an even size and some pixels are left."""
        if all(map(self.fits, shape)):
            return
        advice = []
        for side, n in zip(('heights', 'widths'), shape, strict=True):
            below = max(filter(self.fits, range(n + 1)), default=None)
            above = next(filter(self.fits, itertools.count(n)))
            advice.append(f'{side} {" and ".join(str(m) for m in (below, above) if m)}')
        raise UserError(f'U-Net cannot take images of {shape[0]} x {shape[1]} pixels; the nearest '
                        f'that work: {", ".join(advice)}')

    def fits(self, n: int) -> bool:
        """Whether images of n pixels work."""
        cost, depth = 4 * (1 - self.padding), len(self.widths) - 1
        for _ in range(depth):
            n -= cost
            if n % 2 or n <= 0:
                return False
            n //= 2
        n -= cost
        for _ in range(depth):
            n = 2 * n - cost
        return n > 0


def centre_crop(x: jax.Array, shape: Sequence[int]) -> jax.Array:
    """The middle of x as high and wide as `shape`, [N, H, W, C]."""
    top, left = ((n - m) // 2 for n, m in zip(x.shape[1:3], shape[1:3], strict=True))
    return x[:, top:top + shape[1], left:left + shape[2]]


#                  padding
COLUMNS = ('padding',)
TABLE = {
    'unet':        (0,),
    'unet_padded': (1,),
}
MODULE = UNet
