"""Pre-activation ResNet (He et al. 2016), figure 1b and Table 2: https://arxiv.org/abs/1603.05027

Batch normalization and ReLU come before the convolutions, nothing after the addition. As in the
authors' code (https://github.com/KaimingHe/resnet-1k-layers): the stem is a bare convolution; the
first unit and those that change the shape activate their input once, for the branch and for the
shortcut; a projection has no batch normalization; bottlenecks stride in their first 1x1.

That code has bottlenecks on CIFAR only. The shortcuts of the 110-layer network are those of the
network that it is compared with (A, without parameters). In ResNet-200 the stem's max-pool comes
between the bare convolution and the first activation, and bottlenecks stride in their first 1x1:
64,666,152 parameters. fb.resnet.torch's preresnet.lua, as published with it, has BN-ReLU before
that pool and strides in the 3x3; the paper (appendix) puts the first activation after the bare
convolution.

Also wide residual networks (Zagoruyko & Komodakis 2016), Table 1, https://arxiv.org/abs/1605.07146:
`wide_resnetN_k` has N layers, and k times as many maps in each but the first. As in the authors'
code (https://github.com/szagoruyko/wide-residual-networks), the units that change the number of
maps project, and share the activation; the `dropout` comes before a unit's last convolution.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax

from cnnjax import layers, residual
from cnnjax.models import resnet


class Unit(residual.Block):
    """A block that activates first (figure 4e); see `residual.Block` for stochastic depth. Where
    the shortcut shares the activation, that always runs."""

    drop: Callable = partial(nn.Dropout, 0.0)

    @nn.compact
    def __call__(self, x: jax.Array,
                 keep: jax.Array | None = None) -> tuple[jax.Array, layers.Taps]:
        shared = {}
        if self.shares(x):
            x = shared['relu1'] = self.activate(x)
        identity = self.identity(x)
        y, taps = self.gated(x, keep, identity)
        return identity + y, shared | taps

    def shares(self, x: jax.Array) -> bool:
        """Whether the shortcut starts from the activated input."""
        return self.first or self.changes(x)

    def project(self, x: jax.Array) -> jax.Array:
        return x

    def activate(self, x: jax.Array) -> jax.Array:
        return layers.activated(x, self.norm(name='bn1'), self.relu)

    def activated(self, x: jax.Array, taps: layers.Taps) -> jax.Array:
        """The branch's first activation, unless the shortcut shares it and x is activated."""
        if not self.shares(x):
            x = taps['relu1'] = self.activate(x)
        return x


class Basic(Unit):
    """BN-ReLU-conv3x3, twice."""

    def branch(self, x: jax.Array) -> tuple[jax.Array, layers.Taps]:
        taps = {}
        y = self.activated(x, taps)
        first, second = self.dilations
        y = taps['conv1'] = self.conv(self.width, 3, self.stride, dilation=first, name='conv1')(y)
        y = taps['relu2'] = layers.activated(y, self.norm(name='bn2'), self.relu)
        y = self.drop(name='drop')(y)
        y = taps['conv2'] = self.conv(self.width, 3, dilation=second, name='conv2')(y)
        return y, taps


class Bottleneck(Unit):
    """BN-ReLU-conv, with convolutions 1x1, 3x3 and 1x1."""

    expansion = 4

    def branch(self, x: jax.Array) -> tuple[jax.Array, layers.Taps]:
        taps = {}
        first, second = self.strides()
        y = self.activated(x, taps)
        y = taps['conv1'] = self.conv(self.inner(), 1, first, name='conv1')(y)
        y = taps['relu2'] = layers.activated(y, self.norm(name='bn2'), self.relu)
        y = taps['conv2'] = self.conv(self.inner(), 3, second, dilation=self.dilation(),
                                      feature_group_count=self.cardinality, name='conv2')(y)
        y = taps['relu3'] = layers.activated(y, self.norm(name='bn3'), self.relu)
        y = self.drop(name='drop')(y)
        y = taps['conv3'] = self.conv(self.expansion * self.width, 1, name='conv3')(y)
        return y, taps


class PreActResNet(resnet.ResNet):
    """A ResNet of pre-activation units, the last followed by BN-ReLU; fields as there."""

    stride_in: str = '1x1'
    dropout: float = 0.0  # the rate before the last convolution of each unit

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, layers.Taps]:
        resnet.check(self)
        conv, norm = resnet.parts(self, train)
        drop, taps = partial(nn.Dropout, self.dropout, deterministic=not train), {}
        x = resnet.stem(self, conv, norm, images, taps)
        if self.stem != 3:
            x = taps['pool1'] = self.pool(x, 3, 2, 1)
        x = resnet.stages(self, conv, norm, x, train, taps, drop=drop)
        x = taps['relu'] = layers.activated(x, norm(name='bn'), self.relu)
        return resnet.head(self, x, taps), taps


#                 block       blocks           widths           stem  its width  shortcut  classes
COLUMNS = ('block', 'blocks', 'widths', 'stem', 'stem_width', 'shortcut', 'num_classes')
TABLE = {
    'preact_resnet110':  (Basic,      (18, 18, 18),    resnet.SMALL,         3, 0,  'A', 10),
    'preact_resnet164':  (Bottleneck, (18, 18, 18),    resnet.SMALL,         3, 0,  'B', 10),
    'preact_resnet1001': (Bottleneck, (111, 111, 111), resnet.SMALL,         3, 0,  'B', 10),
    'preact_resnet200':  (Bottleneck, (3, 24, 36, 3),  resnet.LARGE,         7, 0,  'B', 1000),
    'wide_resnet16_8':   (Basic,      (2, 2, 2),       (128, 256, 512),      3, 16, 'B', 10),
    'wide_resnet28_10':  (Basic,      (4, 4, 4),       (160, 320, 640),      3, 16, 'B', 10),
    'wide_resnet40_4':   (Basic,      (6, 6, 6),       resnet.MIDDLE,        3, 16, 'B', 10),
}
MODULE = PreActResNet
