"""AlexNet (Krizhevsky et al. 2012), figure 2 and section 3:
https://papers.nips.cc/paper_files/paper/2012/hash/c399862d3b9d6b76c8436e924a68c45b-Abstract.html

The paper's images of 224 x 224 do not fit its first layer (stride 4, no padding); 227 x 227 do, as
in Caffe (https://github.com/BVLC/caffe/tree/master/models/bvlc_alexnet), whose order ReLU,
normalization, pool this is. `alexnet` has the two groups of maps that were two GPUs,
`alexnet_ungrouped` has every map see all. `alexnet_tv` is torchvision's, the single column of
Krizhevsky 2014 (https://arxiv.org/abs/1404.5997).

`zfnet` is Zeiler & Fergus 2013, figure 3, https://arxiv.org/abs/1311.2901: ungrouped, with a finer
first layer. The order (ReLU, pool, normalization) and the maps' sizes (110, 55, 26, 13, 6) are the
figure's. The paper gives no padding: these sizes need a pixel around the images and none before the
second layer, and we take pools whose last window sticks out, as cuda-convnet, the paper's code, has
them. The constants of the normalization, which it does not give either, are AlexNet's here. Its
better network has `widths=(96, 256, 512, 1024, 512)`. The "ZF net" of Faster R-CNN is another: it
pads all layers and normalizes within each map.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import layers
from cnnjax.errors import UserError

FORMS = ('krizhevsky', 'zeiler', 'torchvision')
BIASES = (0, 1, 0, 1, 1)  # section 5: ones give the ReLUs positive inputs at first


class AlexNet(nn.Module):
    """Five convolutions, the first, second and fifth with a max-pool, and three full layers."""

    widths: tuple[int, ...]
    groups: tuple[int, ...]  # how many groups each convolution has
    first: tuple[tuple[int, int, int], ...]  # size, stride and padding of conv1 and conv2
    form: str  # 'krizhevsky'; 'zeiler': pools before normalizations, their last windows stick out;
    #        'torchvision': its dropout, initial weights and 6 x 6 mean, and no normalization
    num_classes: int = 1000
    hidden: tuple[int, ...] = (4096, 4096)  # the widths of the hidden full layers
    dropout: float = 0.5  # the rate after each hidden full layer; in torchvision's, before it
    relu: Callable = layers.relu
    pool: Callable = layers.max_pool
    dtype: Any = jnp.float32

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (227, 227, 3) if self.form == 'krizhevsky' else (224, 224, 3)

    def smallest(self) -> int:
        """The side of the smallest images that leave a pixel after the last pool."""
        window = 2 if self.form == 'zeiler' else 3  # the least of a pool's window that is inside
        n = window
        for size, stride, padding in reversed(self.first):
            n = (n - 1) * 2 + window
            n = (n - 1) * stride + size - 2 * padding
        return n

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, layers.Taps]:
        if self.form not in FORMS:
            raise UserError(f'AlexNet: form is one of {", ".join(FORMS)}, not {self.form!r}')
        for before, width, groups in zip(self.widths[:1] + self.widths, self.widths, self.groups,
                                         strict=False):
            if groups > 1 and (before % groups or width % groups):
                raise UserError(f'AlexNet: widths={self.widths}: {before} and {width} maps are no '
                                f'{groups} equal groups; alexnet_ungrouped has none')
        layers.check_size(images, self.smallest(), 'AlexNet')
        torchvision, taps, x = self.form == 'torchvision', {}, images.astype(self.dtype)
        for i, (width, groups, (size, stride, padding)) in enumerate(
                zip(self.widths, self.groups, (*self.first, *[(3, 1, 1)] * 3), strict=True), 1):
            x = taps[f'conv{i}'] = layers.conv(
                width, size, stride, padding, feature_group_count=groups, name=f'conv{i}',
                **self.start(BIASES[i - 1]))(x)
            x = taps[f'relu{i}'] = self.relu(x)
            if i < 3 and self.form == 'krizhevsky':
                x = taps[f'norm{i}'] = layers.local_response_normalization(x)
            if i in (1, 2, 5):
                x = taps[f'pool{i}'] = self.pool(x, 3, 2, 0, self.form == 'zeiler')
            if i < 3 and self.form == 'zeiler':
                x = taps[f'norm{i}'] = layers.local_response_normalization(x)
        if torchvision:
            x = taps['average_pool'] = layers.adaptive_average_pool(x, 6)
        x = layers.flatten(x)
        drop = partial(nn.Dropout, self.dropout, deterministic=not train)
        for i, width in enumerate(self.hidden, 6):
            if torchvision:
                x = drop(name=f'drop{i}')(x)
            x = taps[f'fc{i}'] = nn.Dense(width, name=f'fc{i}', **self.start(1))(x)
            x = taps[f'relu{i}'] = self.relu(x)
            if not torchvision:
                x = drop(name=f'drop{i}')(x)
        logits = taps['fc8'] = nn.Dense(self.num_classes, name='fc8', **self.start(0))(x)
        return logits, taps

    def start(self, bias: float) -> dict[str, Any]:
        """The type and initial weights of a layer: AlexNet's (section 5), ZFNet's, whose biases are
        zero, or torch's, except for biases: torch draws them, ours are zero."""
        if self.form == 'torchvision':
            return {'dtype': self.dtype, 'kernel_init': layers.torch_linear}
        return {'dtype': self.dtype, 'kernel_init': nn.initializers.normal(0.01),
                'bias_init': nn.initializers.constant(bias * (self.form == 'krizhevsky'))}


WIDTHS, UNGROUPED = (96, 256, 384, 384, 256), (1, 1, 1, 1, 1)

#                       widths  groups            conv1       conv2        form
COLUMNS = ('widths', 'groups', 'first', 'form')
TABLE = {
    'alexnet':           (WIDTHS, (1, 2, 1, 2, 2), ((11, 4, 0), (5, 1, 2)), 'krizhevsky'),
    'alexnet_ungrouped': (WIDTHS, UNGROUPED,       ((11, 4, 0), (5, 1, 2)), 'krizhevsky'),
    'zfnet':             (WIDTHS, UNGROUPED,       ((7, 2, 1), (5, 2, 0)),  'zeiler'),
    'alexnet_tv':        ((64, 192, 384, 256, 256), UNGROUPED, ((11, 4, 2), (5, 1, 2)),
                          'torchvision'),
}
MODULE = AlexNet
