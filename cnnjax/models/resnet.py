"""ResNet (He et al. 2015), Table 1 and section 4.2: https://arxiv.org/abs/1512.03385"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from cnnjax import layers
from cnnjax.errors import UserError


class Basic(nn.Module):
    """Two 3x3 convolutions and the shortcut (figure 5, left)."""

    width: int
    stride: int
    shortcut: str
    stride_in: str
    relu: Callable
    conv: Callable
    norm: Callable
    expansion = 1

    @nn.compact
    def __call__(self, x):
        taps = {}
        y = taps['conv1'] = self.conv(self.width, 3, self.stride, name='conv1')(x)
        y = taps['relu1'] = self.relu(self.norm(name='bn1')(y))
        y = taps['conv2'] = self.conv(self.width, 3, name='conv2')(y)
        y = self.norm(name='bn2')(y)
        return self.relu(y + shortcut(self, x, y.shape)), taps


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and the shortcut (figure 5, right)."""

    width: int
    stride: int
    shortcut: str
    stride_in: str
    relu: Callable
    conv: Callable
    norm: Callable
    expansion = 4

    @nn.compact
    def __call__(self, x):
        taps = {}
        first, second = (self.stride, 1) if self.stride_in == '1x1' else (1, self.stride)
        y = taps['conv1'] = self.conv(self.width, 1, first, name='conv1')(x)
        y = taps['relu1'] = self.relu(self.norm(name='bn1')(y))
        y = taps['conv2'] = self.conv(self.width, 3, second, name='conv2')(y)
        y = taps['relu2'] = self.relu(self.norm(name='bn2')(y))
        y = taps['conv3'] = self.conv(self.expansion * self.width, 1, name='conv3')(y)
        y = self.norm(name='bn3')(y)
        return self.relu(y + shortcut(self, x, y.shape)), taps


def shortcut(block, x, shape):
    """The identity path (section 3.3): A subsamples and appends zero channels, B projects where the
    shape changes, C projects always."""
    changes = x.shape != shape
    if block.shortcut == 'C' or (block.shortcut == 'B' and changes):
        x = block.conv(shape[-1], 1, block.stride, name='shortcut_conv')(x)
        return block.norm(name='shortcut_bn')(x)
    if changes:
        x = x[:, ::block.stride, ::block.stride]
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, shape[-1] - x.shape[-1])))
    return x


class ResNet(nn.Module):
    """Stages of residual blocks; each stage but the first halves the resolution."""

    block: type[nn.Module]
    blocks: tuple[int, ...]  # per stage
    widths: tuple[int, ...] = (64, 128, 256, 512)  # of the 3x3 convolutions, per stage
    stem: int = 7  # 7: 7x7 stride 2 and max-pool, as for ImageNet; 3: one 3x3, as for 32 x 32
    shortcut: str = 'B'  # A, B or C
    stride_in: str = '3x3'  # bottlenecks stride in the '3x3' (v1.5) or the '1x1' (v1, the paper)
    num_classes: int = 1000
    relu: Callable = nn.relu
    pool: Callable = layers.max_pool
    dtype: Any = jnp.float32

    @property
    def image_shape(self):
        return (224, 224, 3) if self.stem == 7 else (32, 32, 3)

    @nn.compact
    def __call__(self, images, train=False):
        for field, values in (('shortcut', 'ABC'), ('stride_in', ('1x1', '3x3')), ('stem', (3, 7))):
            if getattr(self, field) not in tuple(values):
                raise UserError(f'ResNet: {field} is one of {", ".join(map(str, values))}, '
                                f'not {getattr(self, field)!r}')
        conv = partial(layers.conv, use_bias=False, kernel_init=layers.he_normal, dtype=self.dtype)
        norm = partial(layers.BatchNorm, use_running_average=not train, dtype=self.dtype)
        taps, x = {}, images.astype(self.dtype)
        x = taps['conv1'] = conv(self.widths[0], self.stem, 2 if self.stem == 7 else 1,
                                 name='conv1')(x)
        x = taps['relu1'] = self.relu(norm(name='bn1')(x))
        if self.stem == 7:
            x = taps['pool1'] = self.pool(x, 3, 2, 1)
        for i, (blocks, width) in enumerate(zip(self.blocks, self.widths, strict=True), 2):
            for j in range(1, blocks + 1):
                name, stride = f'conv{i}_{j}', 2 if i > 2 and j == 1 else 1
                x, inner = self.block(width, stride, self.shortcut, self.stride_in, self.relu,
                                      conv, norm, name=name)(x)
                taps |= {f'{name}/{tap}': value for tap, value in inner.items()}
                taps[name] = x
        x = taps['pool'] = layers.global_average_pool(x)
        logits = taps['fc'] = nn.Dense(self.num_classes, kernel_init=layers.torch_linear,
                                       dtype=self.dtype, name='fc')(x)
        return logits, taps


SMALL = (16, 32, 64)

#             block       blocks          widths               stem  shortcut  classes
COLUMNS = ('block', 'blocks', 'widths', 'stem', 'shortcut', 'num_classes')
TABLE = {
    'resnet18':  (Basic,      (2, 2, 2, 2),   (64, 128, 256, 512), 7, 'B', 1000),
    'resnet34':  (Basic,      (3, 4, 6, 3),   (64, 128, 256, 512), 7, 'B', 1000),
    'resnet50':  (Bottleneck, (3, 4, 6, 3),   (64, 128, 256, 512), 7, 'B', 1000),
    'resnet101': (Bottleneck, (3, 4, 23, 3),  (64, 128, 256, 512), 7, 'B', 1000),
    'resnet152': (Bottleneck, (3, 8, 36, 3),  (64, 128, 256, 512), 7, 'B', 1000),
    'resnet20':  (Basic,      (3, 3, 3),      SMALL,               3, 'A', 10),
    'resnet32':  (Basic,      (5, 5, 5),      SMALL,               3, 'A', 10),
    'resnet44':  (Basic,      (7, 7, 7),      SMALL,               3, 'A', 10),
    'resnet56':  (Basic,      (9, 9, 9),      SMALL,               3, 'A', 10),
    'resnet110': (Basic,      (18, 18, 18),   SMALL,               3, 'A', 10),
}
MODULE = ResNet
