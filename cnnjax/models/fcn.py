"""FCN (Long et al. 2014), sections 3 and 4: https://arxiv.org/abs/1411.4038

The nets of the paper's authors, https://github.com/shelhamer/fcn.berkeleyvision.org: VGG-16 whose
full layers are convolutions, with scores of every class at each place. Zeros of 100 pixels around
the picture leave scores for all of it, and are cropped again at the end.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from cnnjax import layers
from cnnjax.errors import UserError
from cnnjax.models import vgg

PADDING = 100  # pixels of zeros around the input of conv1_1
# The pools with scores of their own, and how many rows and columns of these are cropped at the top
# and the left, so that they lie on the coarser scores that they are added to.
SKIPS = (('pool4', 5), ('pool3', 9))
CROPS = (19, 27, 31)  # how many up-sampled pixels come before the picture's first, by `skips`


class FCN(nn.Module):
    """VGG-16 as convolutions, and scores of each class: images [N, H, W, C] of any size -> logits
    [N, H, W, classes].

    The scores of fc7 are 32 pixels apart. With `skips` they are up-sampled twice as fine and added
    to the scores of pool4, and again to those of pool3; the sum is up-sampled to the pixels. As in
    the released nets, up-sampling is bilinear and not learned, and all scores begin as zero: a net
    that starts from a coarser one begins with its scores (section 4.2).
    """

    skips: int  # how many pools have scores of their own: 0, 1 (pool4) or 2 (pool3 too)
    # The factors of pool4 and pool3 before their scores; (0.01, 0.0001) in the FCN-8s that its
    # authors trained at once.
    skip_scales: tuple[float, ...] = (1.0, 1.0)
    widths: tuple[int, ...] = vgg.VGG.widths
    hidden: tuple[int, ...] = (4096, 4096)  # the widths of fc6 and fc7
    dropout: float = 0.5  # the rate after fc6 and fc7
    num_classes: int = 21
    relu: Callable = layers.relu
    pool: Callable = layers.max_pool
    dtype: Any = jnp.float32

    image_shape = (500, 500, 3)
    groups, lrn = vgg.TABLE['vgg16'][:2]
    adopts = ('vgg16', 'vgg16_bn', 'fcn32s', 'fcn16s')

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, layers.Taps]:
        layers.check_size(images, 1, 'FCN', flat=True)
        if (len(self.hidden), len(self.skip_scales)) != (2, 2):
            raise UserError('FCN has two hidden layers, fc6 and fc7, and two skip_scales, not '
                            f'hidden={self.hidden}, skip_scales={self.skip_scales}')
        conv = partial(layers.conv, kernel_init=nn.initializers.glorot_normal(), dtype=self.dtype)
        score = partial(conv, self.num_classes, 1, kernel_init=nn.initializers.zeros)
        taps = {}
        # Caffe's pools count a window that sticks out.
        x = vgg.trunk(self, images, conv, None, taps, PADDING, ceil=True)
        for i, (width, size) in enumerate(zip(self.hidden, (7, 1), strict=True), 6):
            x = taps[f'fc{i}'] = conv(width, size, padding=0, name=f'fc{i}')(x)
            x = taps[f'relu{i}'] = self.relu(x)
            x = nn.Dropout(self.dropout, deterministic=not train, name=f'drop{i}')(x)
        x = taps['score_fr'] = score(name='score_fr')(x)
        for (pool, first), scale in zip(SKIPS[:self.skips], self.skip_scales, strict=False):
            height, width = (2 * n + 2 for n in x.shape[1:3])
            x = taps[f'upscore_{pool}'] = upsample(x, 2, 0, (height, width))
            own = taps[f'score_{pool}'] = score(name=f'score_{pool}')(scale * taps[pool])
            x = taps[f'fuse_{pool}'] = x + own[:, first:first + height, first:first + width]
        logits = taps['score'] = upsample(x, 32 >> self.skips, CROPS[self.skips],
                                          images.shape[1:3])
        return logits, taps

    def adopt(self, net: nn.Module, variables: Any) -> tuple[nn.Module, Any] | None:
        """VGG-16's full layers are convolutions here (figure 2), but for the last; its batch
        normalization is folded into its convolutions. A coarser FCN only lacks scores."""
        if type(net) is FCN:
            return net.clone(skips=self.skips, skip_scales=self.skip_scales), variables
        if type(net) is not vgg.VGG or (net.groups, net.lrn) != (self.groups, self.lrn):
            return None
        params = dict((vgg.fold_batch_norm(variables) if net.batch_norm else variables)['params'])
        params.pop('fc8')
        for name, size in (('fc6', 7), ('fc7', 1)):
            kernel = params.get(name, {}).get('kernel')
            if kernel is not None and len(kernel) % size ** 2 == 0:
                kernel = kernel.reshape(size, size, -1, kernel.shape[-1])
                params[name] = params[name] | {'kernel': kernel}
        same = {field: getattr(net, field) for field in ('widths', 'relu', 'pool')}
        return self.clone(**same, hidden=net.hidden or self.hidden), {'params': params}


def upsample(x: jax.Array, factor: int, crop: int, shape: Sequence[int]) -> jax.Array:
    """x [N, H, W, C] up-sampled by `factor`, without the first `crop` rows and columns, cut to the
    `shape`. It is Caffe's deconvolution with a bilinear kernel of 2 * factor pixels and that
    stride: outside x are zeros. Computed as products with a matrix for either side."""
    def matrix(n, size):
        numpy = layers.numpy_for(n, size)
        centres = factor * numpy.arange(n) + factor - 0.5
        distance = abs(crop + numpy.arange(size)[:, None] - centres[None])
        return jnp.asarray(numpy.maximum(1 - distance / factor, 0), x.dtype)

    rows, columns = (matrix(n, size) for n, size in zip(x.shape[1:3], shape, strict=True))
    product = partial(jnp.einsum, precision=lax.Precision.HIGHEST)
    return product('pw,nowc->nopc', columns, product('oh,nhwc->nowc', rows, x))


#            skips
COLUMNS = ('skips',)
TABLE = {
    'fcn32s': (0,),
    'fcn16s': (1,),
    'fcn8s':  (2,),
}
MODULE = FCN
