"""MobileNet v2 (Sandler et al. 2018), Tables 1 and 2: https://arxiv.org/abs/1801.04381

Where the paper is silent (rounding of widths, dropout, initialization), as in the authors' TF-slim
code (tensorflow/models, research/slim/nets/mobilenet). The last convolution never becomes narrower
(section 6.1). The epsilon of batch normalization is torchvision's 1e-5, not TF-slim's 1e-3.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import layers
from cnnjax.errors import UserError


class InvertedResidual(nn.Module):
    """Table 1: 1x1 filters to `expansion` times as many channels, one 3x3 filter per channel, and
    1x1 filters to few channels with no activation (a linear bottleneck). The input is added where
    it has the same shape."""

    expansion: int  # 1: the first 1x1 filters are absent
    width: int
    stride: int
    relu: Callable
    conv: Callable
    norm: Callable

    @nn.compact
    def __call__(self, inputs: jax.Array) -> tuple[jax.Array, layers.Taps]:
        taps, x, wide = {}, inputs, self.expansion * inputs.shape[-1]
        if self.expansion != 1:
            x = taps['expand'] = self.conv(wide, 1, name='expand')(x)
            x = taps['relu1'] = layers.activated(x, self.norm(name='bn1'), self.relu)
        x = taps['depthwise'] = self.conv(wide, 3, self.stride, feature_group_count=wide,
                                          name='depthwise')(x)
        x = taps['relu2'] = layers.activated(x, self.norm(name='bn2'), self.relu)
        x = taps['project'] = self.conv(self.width, 1, name='project')(x)
        x = self.norm(name='bn3')(x)
        return (x + inputs if x.shape == inputs.shape else x), taps


class MobileNetV2(nn.Module):
    """A convolution, inverted residuals, and a 1x1 convolution. A row of `blocks` is one of Table
    2: expansion t, channels c, repetitions n and stride s, that of the first of them."""

    width_multiplier: float = 1.0  # alpha (section 5); in the paper from 0.35 to 1.4
    resolution: int = 224  # the images' side; in the paper from 96 to 224; others work, too
    stem_width: int = 32
    last_width: int = 1280
    blocks: tuple[tuple[int, int, int, int], ...] = (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
        (6, 320, 1, 1))
    dropout: float = 0.2  # before the full layer
    num_classes: int = 1000
    relu: Callable = nn.relu6
    dtype: Any = jnp.float32

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (self.resolution, self.resolution, 3)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, layers.Taps]:
        if self.width_multiplier <= 0:
            raise UserError(f'MobileNetV2: width_multiplier is positive, such as 0.5, not '
                            f'{self.width_multiplier}')
        conv = partial(layers.conv, use_bias=False, dtype=self.dtype,
                       kernel_init=nn.initializers.truncated_normal(0.09))
        norm = partial(layers.BatchNorm, use_running_average=not train, dtype=self.dtype)
        taps, x = {}, images.astype(self.dtype)
        x = taps['conv1'] = conv(self.width(self.stem_width), 3, 2, name='conv1')(x)
        x = taps['relu1'] = layers.activated(x, norm(name='bn1'), self.relu)
        strides = [(t, c, s if i == 0 else 1) for t, c, n, s in self.blocks for i in range(n)]
        for i, (expansion, width, stride) in enumerate(strides, 1):
            name = f'block{i}'
            x, inner = InvertedResidual(expansion, self.width(width), stride, self.relu, conv, norm,
                                        name=name)(x)
            taps |= layers.nested(name, inner, x)
        last = max(self.last_width, self.width(self.last_width))
        x = taps['conv2'] = conv(last, 1, name='conv2')(x)
        x = taps['relu2'] = layers.activated(x, norm(name='bn2'), self.relu)
        x = taps['pool'] = layers.global_average_pool(x)
        x = nn.Dropout(self.dropout, deterministic=not train, name='drop')(x)
        logits = taps['fc'] = nn.Dense(self.num_classes, kernel_init=layers.torch_linear,
                                       dtype=self.dtype, name='fc')(x)
        return logits, taps

    def width(self, channels: int) -> int:
        """alpha * channels, rounded to a multiple of 8, but to no less than 9/10 of it."""
        exact = self.width_multiplier * channels
        rounded = max(8, int(exact + 4) // 8 * 8)
        return rounded if rounded >= 0.9 * exact else rounded + 8


#                       alpha
COLUMNS = ('width_multiplier',)
TABLE = {
    'mobilenet_v2':     (1.0,),
    'mobilenet_v2_140': (1.4,),
    'mobilenet_v2_050': (0.5,),
}
MODULE = MobileNetV2
