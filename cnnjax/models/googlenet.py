"""GoogLeNet (Szegedy et al. 2014), Table 1 and figures 2 and 3: https://arxiv.org/abs/1409.4842

Where the paper is silent (local response normalization, initialization), as in Caffe's replica,
https://github.com/BVLC/caffe/tree/master/models/bvlc_googlenet. `googlenet_bn` is torchvision's:
batch normalization, 3x3 kernels in place of the 5x5, a last max-pool of 2x2; its published weights
come without the auxiliary classifiers. The paper tests the mean of the iterates (section 6), as
the recipe in configs/imagenet.py does.

`inception_v1` is Google's own network of 2014, published as tensorflow_inception_graph.pb (also
"inception5h"), which DeepDream's notebook for TensorFlow, lucid, OpenAI's Microscope and lucent
look at. Two widths differ from Table 1, the padding is TensorFlow's 'SAME', sums of the local
response normalization are over 11 channels, and of 1,008 outputs the first and the last seven are
of no class. The graph's normalization has depth_radius 5, bias 2, alpha 1e-4 and beta 0.5
(https://github.com/greentfrapp/lucent/pull/51); lucent's own code has other numbers there.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import layers

#    1x1  3x3 reduce  3x3  5x5 reduce  5x5  pool proj
INCEPTIONS = (
    ('3a', 64,   96, 128, 16,  32,  32),
    ('3b', 128, 128, 192, 32,  96,  64),
    ('4a', 192,  96, 208, 16,  48,  64),
    ('4b', 160, 112, 224, 24,  64,  64),
    ('4c', 128, 128, 256, 24,  64,  64),
    ('4d', 112, 144, 288, 32,  64,  64),
    ('4e', 256, 160, 320, 32, 128, 128),
    ('5a', 256, 160, 320, 32, 128, 128),
    ('5b', 384, 192, 384, 48, 128, 128),
)
GOOGLES = tuple({'4a': ('4a', 192, 96, 204, 16, 48, 64), '5a': ('5a', 256, 160, 320, 48, 128, 128)}
                .get(row[0], row) for row in INCEPTIONS)
# k, alpha, beta and the number of channels. Caffe divides its alpha, 1e-4, by the five channels.
CAFFES_LRN, GOOGLES_LRN = (1.0, 2e-5, 0.75, 5), (2.0, 1e-4, 0.5, 11)
AUXILIARY = {'4a': 'aux1', '4d': 'aux2'}  # the auxiliary classifiers, by the module that they read


def unit(taps: layers.Taps, conv: Callable, norm: Callable | None, relu: Callable, x: jax.Array,
         name: str, width: int, size: int, *places: Any) -> jax.Array:
    """A convolution with its batch normalization, if any, and its ReLU. `places` are the stride and
    the padding, as of `layers.conv`."""
    own = name.removeprefix('conv') if name.startswith('conv') else f'_{name}'
    x = taps[name] = conv(width, size, *places, name=name)(x)
    if norm is not None:
        x = norm(name=f'bn{own}')(x)
    x = taps[f'relu{own}'] = relu(x)
    return x


class Inception(nn.Module):
    """Figure 2 (b): four branches, concatenated."""

    widths: tuple[int, ...]  # 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool proj
    largest: int  # the size of the "5x5" kernels
    relu: Callable
    pool: Callable
    conv: Callable
    norm: Callable | None

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, layers.Taps]:
        taps = {}
        layer = partial(unit, taps, self.conv, self.norm, self.relu)
        one, reduce3, three, reduce5, five, proj = self.widths
        a = layer(x, '1x1', one, 1)
        b = layer(layer(x, '3x3_reduce', reduce3, 1), '3x3', three, 3)
        c = layer(layer(x, '5x5_reduce', reduce5, 1), '5x5', five, self.largest)
        d = taps['pool'] = self.pool(x, 3, 1, 1)
        d = layer(d, 'pool_proj', proj, 1)
        return jnp.concatenate([a, b, c, d], -1), taps


class Auxiliary(nn.Module):
    """A classifier on the side (section 5): average pool, 1x1 convolution, two full layers."""

    num_classes: int
    relu: Callable
    pool: Callable
    conv: partial
    norm: Callable | None
    dense: Callable
    train: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, layers.Taps]:
        taps = {}
        x = taps['pool'] = self.pool(x)
        x = unit(taps, self.conv, self.norm, self.relu, x, 'conv', 128, 1)
        x = layers.flatten(x)
        x = taps['fc1'] = self.dense(1024, bias_init=self.conv.keywords['bias_init'], name='fc1')(x)
        x = taps['relu1'] = self.relu(x)
        x = nn.Dropout(0.7, deterministic=not self.train, name='drop')(x)
        x = taps['fc2'] = self.dense(self.num_classes, name='fc2')(x)
        return x, taps


class GoogLeNet(nn.Module):
    """Two convolutions, nine inception modules, one full layer.

    In training `taps` also has the logits of the auxiliary classifiers, 'aux1' and 'aux2'; the
    training step adds their losses by the weights in `auxiliary`. Evaluation skips them.
    """

    largest: int = 5  # the size of the "5x5" kernels
    batch_norm: bool = False  # True: after every convolution, in place of the biases and the LRN
    last_pool: int = 3  # the size of the max-pool before 5a
    dropout: float = 0.4
    auxiliary_weight: float = 0.3  # the factor of the auxiliary losses; 0: the network has none
    padding: str = 'symmetric'  # of strided layers; or 'same', TensorFlow's
    lrn: tuple[float, float, float, int] = CAFFES_LRN
    inceptions: tuple[tuple, ...] = INCEPTIONS
    num_classes: int = 1000
    relu: Callable = layers.relu
    pool: Callable = layers.max_pool
    dtype: Any = jnp.float32

    image_shape = (224, 224, 3)

    @property
    def auxiliary(self) -> dict[str, float]:
        """The taps whose cross-entropies training adds to the loss: {name: weight}."""
        weight, modules = self.auxiliary_weight, {row[0] for row in self.inceptions}
        return {head: weight for module, head in AUXILIARY.items() if weight and module in modules}

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, layers.Taps]:
        # The auxiliary classifiers pool 5 x 5 pixels at a sixteenth of the resolution.
        if self.auxiliary and (train or self.is_initializing()):
            layers.check_size(images, 79, 'GoogLeNet', 'auxiliary_weight=0 allows 31 x 31')
        layers.check_size(images, 31, 'GoogLeNet')
        conv = partial(layers.conv, kernel_init=layers.caffe_xavier, dtype=self.dtype,
                       bias_init=nn.initializers.constant(0.2))
        dense = partial(nn.Dense, kernel_init=layers.caffe_xavier, dtype=self.dtype)
        norm, side_pool = None, partial(layers.average_pool, size=5, stride=3)
        if self.batch_norm:
            conv = partial(conv, use_bias=False, kernel_init=nn.initializers.normal(0.01))
            norm = partial(layers.BatchNorm, use_running_average=not train, epsilon=1e-3,
                           dtype=self.dtype)
            side_pool = partial(layers.adaptive_average_pool, size=4)
        taps, x = {}, images.astype(self.dtype)
        layer = partial(unit, taps, conv, norm, self.relu)
        x = layer(x, 'conv1', 64, 7, 2, layers.same(x, 7, 2) if self.padding == 'same' else None)
        x = taps['pool1'] = self.halve(x)
        if norm is None:
            x = taps['norm1'] = layers.local_response_normalization(x, *self.lrn)
        x = layer(x, 'conv2_reduce', 64, 1)
        x = layer(x, 'conv2', 192, 3)
        if norm is None:
            x = taps['norm2'] = layers.local_response_normalization(x, *self.lrn)
        x = taps['pool2'] = self.halve(x)
        for module, *widths in self.inceptions:
            if module == '4a':
                x = taps['pool3'] = self.halve(x)
            if module == '5a':
                x = taps['pool4'] = self.halve(x, self.last_pool)
            name = f'inception_{module}'
            x, inner = Inception(tuple(widths), self.largest, self.relu, self.pool, conv, norm,
                                 name=name)(x)
            taps |= layers.nested(name, inner, x)
            head = AUXILIARY.get(module)
            if head in self.auxiliary and (train or self.is_initializing()):
                side, inner = Auxiliary(self.num_classes, self.relu, side_pool, conv, norm, dense,
                                        train, name=head)(x)
                if train:
                    taps |= layers.nested(head, inner, side)
        x = taps['pool'] = layers.global_average_pool(x)
        x = nn.Dropout(self.dropout, deterministic=not train, name='drop')(x)
        logits = taps['fc'] = dense(self.num_classes, name='fc')(x)
        return logits, taps

    def halve(self, x: jax.Array, size: int = 3) -> jax.Array:
        """A max-pool of stride 2."""
        if self.padding == 'same':
            return self.pool(x, size, 2, layers.same(x, size, 2))
        return self.pool(x, size, 2, ceil=True)


#                "5x5"  norm  last pool  dropout  auxiliary  padding   LRN        modules    classes
COLUMNS = ('largest', 'batch_norm', 'last_pool', 'dropout', 'auxiliary_weight', 'padding', 'lrn',
           'inceptions', 'num_classes')
TABLE = {
    'googlenet':    (5, False, 3, 0.4, 0.3, 'symmetric', CAFFES_LRN,  INCEPTIONS, 1000),
    'googlenet_bn': (3, True,  2, 0.2, 0.0, 'symmetric', CAFFES_LRN,  INCEPTIONS, 1000),
    'inception_v1': (5, False, 3, 0.4, 0.0, 'same',      GOOGLES_LRN, GOOGLES,    1008),
}
MODULE = GoogLeNet
