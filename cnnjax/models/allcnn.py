"""All-CNN (Springenberg et al. 2014), Tables 1 and 2: https://arxiv.org/abs/1412.6806

Of each of the base models A, B and C there are four forms: with max-pools (`allcnn_a_base`);
without, the convolutions before them having the stride (`allcnn_a_strided`); with convolutions
in the place of the pools, the All-CNN (`allcnn_a`); and, to compare with that, with these
convolutions and the pools (`allcnn_a_convpool`). The pools of 3x3 pixels are Caffe's: their last
window sticks out, so that 32 pixels become 16, as the 6 x 6 maps at the end require.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import layers
from cnnjax.errors import UserError

FORMS = ('base', 'strided', 'all', 'convpool')


class AllCNN(nn.Module):
    """Two groups of convolutions that halve the resolution, a 3x3 and two 1x1 ones, and the mean of
    each last map, which is a class's score. A ReLU follows every convolution, the last as well."""

    sizes: tuple[tuple[int, ...], ...]  # the kernels' sizes, group by group
    form: str  # how a group halves the resolution: one of FORMS
    widths: tuple[int, ...] = (96, 192)  # one per group; later layers are as wide as the last
    num_classes: int = 10
    input_dropout: float = 0.2  # the rate at which pixels of the images are dropped
    dropout: float = 0.5  # the rate after every halving
    relu: Callable = layers.relu
    pool: Callable = layers.max_pool
    dtype: Any = jnp.float32

    image_shape = (32, 32, 3)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, layers.Taps]:
        if self.form not in FORMS:
            raise UserError(f'AllCNN: form is one of {", ".join(FORMS)}, not {self.form!r}')
        layers.check_size(images, 3 * 2 ** len(self.sizes), 'AllCNN')
        # The paper does not state its initial weights; these are He's.
        make = partial(layers.conv, kernel_init=nn.initializers.he_normal(), dtype=self.dtype)
        taps, count = {}, 0

        def conv(x, width, size, stride=1, padding=None):
            nonlocal count
            count += 1
            x = taps[f'conv{count}'] = make(width, size, stride, padding, name=f'conv{count}')(x)
            x = taps[f'relu{count}'] = self.relu(x)
            return x

        x = nn.Dropout(self.input_dropout, deterministic=not train, name='drop0')(
            images.astype(self.dtype))
        for i, (sizes, width) in enumerate(zip(self.sizes, self.widths, strict=True), 1):
            for size in sizes[:-1]:
                x = conv(x, width, size)
            x = conv(x, width, sizes[-1], 2 if self.form == 'strided' else 1)
            if self.form in ('all', 'convpool'):
                x = conv(x, width, 3, 2 if self.form == 'all' else 1)
            if self.form in ('base', 'convpool'):
                x = taps[f'pool{i}'] = self.pool(x, 3, 2, ceil=True)
            x = nn.Dropout(self.dropout, deterministic=not train, name=f'drop{i}')(x)
        x = conv(x, width, 3, padding=0)
        x = conv(x, width, 1)
        x = conv(x, self.num_classes, 1)
        logits = taps['pool'] = layers.global_average_pool(x)
        return logits, taps


#                        sizes in group 1, 2  form
COLUMNS = ('sizes', 'form')
TABLE = {
    'allcnn_a_base':     (((5,), (5,)),      'base'),
    'allcnn_a_strided':  (((5,), (5,)),      'strided'),
    'allcnn_a_convpool': (((5,), (5,)),      'convpool'),
    'allcnn_a':          (((5,), (5,)),      'all'),
    'allcnn_b_base':     (((5, 1), (5, 1)),  'base'),
    'allcnn_b_strided':  (((5, 1), (5, 1)),  'strided'),
    'allcnn_b_convpool': (((5, 1), (5, 1)),  'convpool'),
    'allcnn_b':          (((5, 1), (5, 1)),  'all'),
    'allcnn_c_base':     (((3, 3), (3, 3)),  'base'),
    'allcnn_c_strided':  (((3, 3), (3, 3)),  'strided'),
    'allcnn_c_convpool': (((3, 3), (3, 3)),  'convpool'),
    'allcnn_c':          (((3, 3), (3, 3)),  'all'),
}
MODULE = AllCNN
