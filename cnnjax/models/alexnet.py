"""AlexNet (Krizhevsky et al. 2012), figure 2 and section 3:
https://papers.nips.cc/paper_files/paper/2012/hash/c399862d3b9d6b76c8436e924a68c45b-Abstract.html

The paper's images of 224 x 224 do not fit its first layer (stride 4, no padding); 227 x 227 do, as
in Caffe (https://github.com/BVLC/caffe/tree/master/models/bvlc_alexnet), whose order ReLU,
normalization, pool this is. `alexnet` has the two groups of maps that were two GPUs,
`alexnet_ungrouped` has every map see all. `alexnet_tv` is torchvision's, the single column of
Krizhevsky 2014 (https://arxiv.org/abs/1404.5997).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import layers
from cnnjax.errors import UserError

SIZES = (11, 5, 3, 3, 3)
BIASES = (0, 1, 0, 1, 1)  # section 5: ones give the ReLUs positive inputs at first


class AlexNet(nn.Module):
    """Five convolutions, the first, second and fifth with a max-pool, and three full layers."""

    widths: tuple[int, ...]
    groups: tuple[int, ...]  # how many groups each convolution has
    padding: int  # pixels of zeros around the input of the first convolution
    torchvision: bool  # True: torchvision's dropout, initial weights and 6 x 6 mean, and no LRN
    num_classes: int = 1000
    hidden: tuple[int, ...] = (4096, 4096)  # the widths of the hidden full layers
    dropout: float = 0.5  # the rate after each hidden full layer; in torchvision's, before it
    relu: Callable = layers.relu
    pool: Callable = layers.max_pool
    dtype: Any = jnp.float32

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (224, 224, 3) if self.torchvision else (227, 227, 3)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, layers.Taps]:
        for before, width, groups in zip(self.widths[:1] + self.widths, self.widths, self.groups,
                                         strict=False):
            if groups > 1 and (before % groups or width % groups):
                raise UserError(f'AlexNet: widths={self.widths}: {before} and {width} maps are no '
                                f'{groups} equal groups; alexnet_ungrouped has none')
        layers.check_size(images, 67 - 2 * self.padding, 'AlexNet')
        taps, x = {}, images.astype(self.dtype)
        for i, (width, size, groups) in enumerate(
                zip(self.widths, SIZES, self.groups, strict=True), 1):
            x = taps[f'conv{i}'] = layers.conv(
                width, size, 4 if i == 1 else 1, self.padding if i == 1 else None,
                feature_group_count=groups, name=f'conv{i}', **self.start(BIASES[i - 1]))(x)
            x = taps[f'relu{i}'] = self.relu(x)
            if i < 3 and not self.torchvision:
                x = taps[f'norm{i}'] = layers.local_response_normalization(x)
            if i in (1, 2, 5):
                x = taps[f'pool{i}'] = self.pool(x, 3, 2)
        if self.torchvision:
            x = taps['average_pool'] = layers.adaptive_average_pool(x, 6)
        x = layers.flatten(x)
        drop = partial(nn.Dropout, self.dropout, deterministic=not train)
        for i, width in enumerate(self.hidden, 6):
            if self.torchvision:
                x = drop(name=f'drop{i}')(x)
            x = taps[f'fc{i}'] = nn.Dense(width, name=f'fc{i}', **self.start(1))(x)
            x = taps[f'relu{i}'] = self.relu(x)
            if not self.torchvision:
                x = drop(name=f'drop{i}')(x)
        logits = taps['fc8'] = nn.Dense(self.num_classes, name='fc8', **self.start(0))(x)
        return logits, taps

    def start(self, bias: float) -> dict[str, Any]:
        """The type and initial weights of a layer: the paper's (section 5), or torch's, except
        for biases: torch draws them, ours are zero."""
        if self.torchvision:
            return {'dtype': self.dtype, 'kernel_init': layers.torch_linear}
        return {'dtype': self.dtype, 'kernel_init': nn.initializers.normal(0.01),
                'bias_init': nn.initializers.constant(bias)}


#                      widths                     groups      padding  torchvision
COLUMNS = ('widths', 'groups', 'padding', 'torchvision')
TABLE = {
    'alexnet':           ((96, 256, 384, 384, 256), (1, 2, 1, 2, 2), 0, False),
    'alexnet_ungrouped': ((96, 256, 384, 384, 256), (1, 1, 1, 1, 1), 0, False),
    'alexnet_tv':        ((64, 192, 384, 256, 256), (1, 1, 1, 1, 1), 2, True),
}
MODULE = AlexNet
