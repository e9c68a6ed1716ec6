"""VGG (Simonyan & Zisserman 2014), Table 1: https://arxiv.org/abs/1409.1556"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import layers
from cnnjax.errors import UserError


class VGG(nn.Module):
    """3x3 convolutions in five groups, each ended by a max-pool, then three full layers."""

    groups: tuple[tuple[int, ...], ...]  # the kernels' sizes, group by group
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)  # one per group: "conv3-64" ... "conv3-512"
    lrn: bool = False  # True: local response normalization after the first convolution (A-LRN)
    batch_norm: bool = False  # True: torchvision's _bn variants, not the paper's; the biases stay
    num_classes: int = 1000
    hidden: tuple[int, ...] = (4096, 4096)  # the widths of the hidden full layers; () has none
    dropout: float = 0.5  # the rate after each hidden full layer
    relu: Callable = layers.relu
    pool: Callable = layers.max_pool
    dtype: Any = jnp.float32

    image_shape = (224, 224, 3)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, layers.Taps]:
        if len(self.widths) != len(self.groups):
            raise UserError(f'VGG: {len(self.widths)} widths for {len(self.groups)} groups')
        if len(self.hidden) > 2:
            raise UserError(f'VGG has at most two hidden full layers, fc6 and fc7: {self.hidden}')
        layers.check_size(images, 2 ** len(self.groups), 'VGG',
                          f'it halves them {len(self.groups)} times')
        # The paper starts the deep nets from net A's weights; its later footnote replaces that by
        # the initialization of Glorot & Bengio 2010, used here.
        conv = partial(layers.conv, kernel_init=nn.initializers.glorot_normal(), dtype=self.dtype)
        norm = partial(layers.BatchNorm, use_running_average=not train,
                       dtype=self.dtype) if self.batch_norm else None
        taps = {}
        x = layers.flatten(trunk(self, images, conv, norm, taps))
        dense = partial(nn.Dense, kernel_init=nn.initializers.glorot_normal(), dtype=self.dtype)
        for i, width in enumerate(self.hidden, 6):
            x = taps[f'fc{i}'] = dense(width, name=f'fc{i}')(x)
            x = taps[f'relu{i}'] = self.relu(x)
            x = nn.Dropout(self.dropout, deterministic=not train, name=f'drop{i}')(x)
        logits = taps['fc8'] = dense(self.num_classes, name='fc8')(x)
        return logits, taps


def trunk(net: Any, images: jax.Array, conv: Callable, norm: Callable | None, taps: layers.Taps,
          padding: int = 1, ceil: bool = False) -> jax.Array:
    """The five groups of a network with VGG's fields; adds their layers to `taps`.

    `padding` is that of conv1_1, and `ceil` that of the max-pools (see `layers.max_pool`).
    """
    x = images.astype(net.dtype)
    for i, (kernels, width) in enumerate(zip(net.groups, net.widths, strict=True), 1):
        for j, size in enumerate(kernels, 1):
            first = (i, j) == (1, 1)
            x = taps[f'conv{i}_{j}'] = conv(width, size, padding=padding if first else None,
                                            name=f'conv{i}_{j}')(x)
            if norm is None:
                x = net.relu(x)
            else:
                x = layers.activated(x, norm(name=f'bn{i}_{j}'), net.relu)
            taps[f'relu{i}_{j}'] = x
            if net.lrn and first:
                # The paper takes AlexNet's constants.
                x = taps['norm1'] = layers.local_response_normalization(x)
        x = taps[f'pool{i}'] = net.pool(x, 2, 2, 0, ceil)
    return x


def fold_batch_norm(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of 'vgg16' that compute what those of 'vgg16_bn' compute in evaluation, and so
    on: batch normalization with fixed statistics is a factor and a shift of the convolution before
    it (Ioffe & Szegedy 2015, section 3.1, https://arxiv.org/abs/1502.03167).
    """
    params = dict(variables['params'])
    for name, statistics in variables['batch_stats'].items():
        norm, conv = params.pop(name), name.replace('bn', 'conv')
        epsilon = layers.BatchNorm.epsilon
        factor = norm['scale'] / jnp.sqrt(statistics['var'] + epsilon)
        kernel = params[conv]['kernel']
        params[conv] = {
            'kernel': kernel * jnp.expand_dims(factor, range(kernel.ndim - 1)),
            'bias': (params[conv]['bias'] - statistics['mean']) * factor + norm['bias']}
    return {'params': params}


def unbiased(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of a network like 'vgg16_bn' whose convolutions have no biases: they are taken
    from the running means instead, and the outputs in evaluation are the same."""
    params, stats = dict(variables['params']), dict(variables['batch_stats'])
    for name, own in stats.items():
        conv = name.replace('bn', 'conv')
        stats[name] = {**own, 'mean': own['mean'] - params[conv]['bias']}
        params[conv] = {'kernel': params[conv]['kernel']}
    return {'params': params, 'batch_stats': stats}


#             kernels of group 1, 2, 3, 4, 5                         LRN    batch norm
COLUMNS = ('groups',                                                'lrn', 'batch_norm')
TABLE = {
    'vgg11':     (((3,), (3,), (3, 3), (3, 3), (3, 3)),             False, False),  # A
    'vgg11_lrn': (((3,), (3,), (3, 3), (3, 3), (3, 3)),             True,  False),  # A-LRN
    'vgg13':     (((3, 3), (3, 3), (3, 3), (3, 3), (3, 3)),         False, False),  # B
    'vgg16c':    (((3, 3), (3, 3), (3, 3, 1), (3, 3, 1), (3, 3, 1)), False, False),  # C
    'vgg16':     (((3, 3), (3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)), False, False),  # D
    'vgg19':     (((3, 3), (3, 3), (3,) * 4, (3,) * 4, (3,) * 4),   False, False),  # E
}
TABLE |= {f'{name}_bn': (groups, lrn, True) for name, (groups, lrn, _) in TABLE.items() if not lrn}
MODULE = VGG
