"""MobileNet v1 (Howard et al. 2017), Table 1 and section 3: https://arxiv.org/abs/1704.04861"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import layers
from cnnjax.errors import UserError


class Separable(nn.Module):
    """A depthwise separable convolution (figure 3, right): one 3x3 filter per channel, then 1x1
    filters over all channels, each with batch normalization and ReLU."""

    width: int
    stride: int
    relu: Callable
    conv: Callable
    norm: Callable

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, layers.Taps]:
        taps, channels = {}, x.shape[-1]
        x = taps['depthwise'] = self.conv(channels, 3, self.stride, feature_group_count=channels,
                                          name='depthwise')(x)
        x = taps['relu1'] = layers.activated(x, self.norm(name='bn1'), self.relu)
        x = taps['pointwise'] = self.conv(self.width, 1, name='pointwise')(x)
        x = taps['relu2'] = layers.activated(x, self.norm(name='bn2'), self.relu)
        return x, taps


class MobileNet(nn.Module):
    """A 3x3 convolution, then depthwise separable ones, `blocks`: (stride, width) each.

    The last stride is printed as 2 in Table 1, but the sizes beside it need 1.
    """

    width_multiplier: float = 1.0  # alpha (section 3.3); in the paper 1, 0.75, 0.5 or 0.25
    resolution: int = 224  # the images' side; in the paper 224, 192, 160 or 128; others work, too
    stem_width: int = 32
    blocks: tuple[tuple[int, int], ...] = (
        (1, 64), (2, 128), (1, 128), (2, 256), (1, 256), (2, 512),
        (1, 512), (1, 512), (1, 512), (1, 512), (1, 512), (2, 1024), (1, 1024))
    num_classes: int = 1000
    relu: Callable = layers.relu  # nn.relu6 in timm's networks
    dtype: Any = jnp.float32

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (self.resolution, self.resolution, 3)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, layers.Taps]:
        if self.width_multiplier <= 0:
            raise UserError(f'MobileNet: width_multiplier is positive, such as 0.5, not '
                            f'{self.width_multiplier}')
        # The paper does not state the initialization; this is that of the authors' TF-slim code.
        conv = partial(layers.conv, use_bias=False, dtype=self.dtype,
                       kernel_init=nn.initializers.truncated_normal(0.09))
        norm = partial(layers.BatchNorm, use_running_average=not train, dtype=self.dtype)
        taps, x = {}, images.astype(self.dtype)
        x = taps['conv1'] = conv(self.width(self.stem_width), 3, 2, name='conv1')(x)
        x = taps['relu1'] = layers.activated(x, norm(name='bn1'), self.relu)
        for i, (stride, width) in enumerate(self.blocks, 1):
            name = f'block{i}'
            x, inner = Separable(self.width(width), stride, self.relu, conv, norm, name=name)(x)
            taps |= layers.nested(name, inner, x)
        x = taps['pool'] = layers.global_average_pool(x)
        logits = taps['fc'] = nn.Dense(self.num_classes, kernel_init=layers.torch_linear,
                                       dtype=self.dtype, name='fc')(x)
        return logits, taps

    def width(self, channels: int) -> int:
        """alpha * channels, whole, and 8 at least (as in TF-slim)."""
        return max(8, int(self.width_multiplier * channels))


#                       alpha
COLUMNS = ('width_multiplier',)
TABLE = {
    'mobilenet_v1':     (1.0,),
    'mobilenet_v1_075': (0.75,),
    'mobilenet_v1_050': (0.5,),
    'mobilenet_v1_025': (0.25,),
}
MODULE = MobileNet
