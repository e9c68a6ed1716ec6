"""The classifier that YOLO v1 is pretrained as (Redmon et al. 2015), section 2.2:
https://arxiv.org/abs/1506.02640

The first 20 convolutions of the detector, the mean over all pixels and a full layer.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import layers
from cnnjax.errors import UserError

leaky_relu = partial(nn.leaky_relu, negative_slope=0.1)  # equation 2
# As in darknet, the authors' code: uniform between -s and s, s = sqrt(2 / fan-in).
uniform = nn.initializers.variance_scaling(2 / 3, 'fan_in', 'uniform')


def trunk(net: Any, images: jax.Array, train: bool, taps: layers.Taps) -> jax.Array:
    """The convolutions of a network with the fields of YOLOClassifier; adds them to `taps`."""
    if [*map(len, net.groups)] != [*map(len, net.widths)]:
        raise UserError(f'YOLO: groups={net.groups} and widths={net.widths} must have a kernel '
                        'and a width for each convolution')
    if net.norm == 'frozen':
        raise UserError("YOLO: norm is 'none' or 'batch', not 'frozen'")
    stride = 2 ** (net.pools + len(net.strided))
    layers.check_size(images, stride, 'YOLO', f'it has an output for each {stride} pixels')
    conv = partial(layers.conv, kernel_init=uniform, use_bias=net.norm == 'none', dtype=net.dtype)
    norm = partial(layers.BatchNorm, use_running_average=not train, momentum=0.99,
                   dtype=net.dtype)
    x = images.astype(net.dtype)
    for i, group in enumerate(zip(net.groups, net.widths, strict=True), 1):
        for j, (size, width) in enumerate(zip(*group, strict=True), 1):
            name = f'conv{i}_{j}'
            x = taps[name] = conv(width, size, 2 if name in net.strided else 1, name=name)(x)
            if net.norm == 'batch':
                x = norm(name=f'bn{i}_{j}')(x)
            x = taps[f'relu{i}_{j}'] = net.relu(x)
        if i <= net.pools:
            x = taps[f'pool{i}'] = net.pool(x, 2, 2)
    return x


class YOLOClassifier(nn.Module):
    """Groups of convolutions, a max-pool after all but the last: images [N, H, W, C] -> logits
    [N, classes]."""

    groups: tuple[tuple[int, ...], ...]  # the kernels' sizes, group by group
    widths: tuple[tuple[int, ...], ...]  # the convolutions' widths, group by group
    pools: int  # how many of the first groups end with a max-pool
    strided: tuple[str, ...] = ()  # the convolutions with a stride of 2
    norm: str = 'none'  # 'none' (the paper), or 'batch' before each activation, as darknet later
    num_classes: int = 1000
    relu: Callable = leaky_relu
    pool: Callable = layers.max_pool
    dtype: Any = jnp.float32

    image_shape = (224, 224, 3)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, layers.Taps]:
        taps = {}
        x = trunk(self, images, train, taps)
        x = taps['pool'] = layers.global_average_pool(x)
        logits = taps['fc'] = nn.Dense(self.num_classes, kernel_init=uniform, dtype=self.dtype,
                                       name='fc')(x)
        return logits, taps


# Figure 3; the last group there has six convolutions, and another two follow.
GROUPS = ((7,), (3,), (1, 3) * 2, (1, 3) * 5, (1, 3) * 2)
WIDTHS = ((64,), (192,), (128, 256, 256, 512), (256, 512) * 4 + (512, 1024), (512, 1024) * 2)
#                         groups  widths  pools  strided
COLUMNS = ('groups', 'widths', 'pools', 'strided')
TABLE = {
    'yolo_v1_classifier': (GROUPS, WIDTHS, 4, ('conv1_1',)),
}
MODULE = YOLOClassifier
