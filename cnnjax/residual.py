"""The blocks of residual networks, and what further papers changed in them.

He et al. 2015, https://arxiv.org/abs/1512.03385, with the groups of ResNeXt (Xie et al. 2016,
https://arxiv.org/abs/1611.05431), stochastic depth (Huang et al. 2016,
https://arxiv.org/abs/1603.09382), squeeze-and-excitation (Hu et al. 2017,
https://arxiv.org/abs/1709.01507) and the shortcut of ResNet-D (He T. et al. 2018,
https://arxiv.org/abs/1812.01187).
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax import layers


class Block(nn.Module):
    """A residual branch and a shortcut, added: (x, keep) -> (output, taps).

    Without stochastic depth `keep` is None. With it, `keep` is a bool [] in training, whether the
    branch is open, and a float [] in evaluation, the probability that it was. A closed branch is
    not computed, forward or backward: its gradients are zero and its batch statistics stay. Its
    taps are absent in training, open or not. The shortcut always runs.
    """

    width: int
    stride: int
    dilations: tuple[int, int]  # before and after the place of the stride, see ResNet.dilated
    shortcut: str
    stride_in: str
    cardinality: int
    base_width: int
    reduction: int  # that of squeeze-and-excitation; 0: none
    relu: Callable
    conv: Callable
    norm: Callable
    first: bool = False  # whether it is the network's first, which pre-activation treats apart
    expansion = 1

    @nn.compact
    def __call__(self, x: jax.Array,
                 keep: jax.Array | None = None) -> tuple[jax.Array, layers.Taps]:
        identity = self.identity(x)
        y, taps = self.gated(x, keep, identity)
        return self.relu(identity + y), taps

    def changes(self, x: jax.Array) -> bool:
        """Whether the block's output has another shape than its input."""
        return self.stride != 1 or x.shape[-1] != self.expansion * self.width

    def identity(self, x: jax.Array) -> jax.Array:
        """The shortcut: A subsamples and appends zero channels, B projects where the shape changes,
        C projects always (He et al. 2015, section 3.3). D projects like B, but the means of 2 x 2
        pixels where B takes one of them (He T. et al. 2018, figure 2c)."""
        width, stride = self.expansion * self.width, self.stride
        if self.shortcut == 'C' or (self.shortcut in ('B', 'D') and self.changes(x)):
            before, after = self.dilations
            if self.shortcut == 'D' and (stride, after) != (1, before):
                x, stride = means_of_four(x, stride, before), 1
            return self.project(self.conv(width, 1, stride, name='shortcut_conv')(x))
        return layers.append_channels(layers.subsample(x, stride), width - x.shape[-1])

    def project(self, x: jax.Array) -> jax.Array:
        return self.norm(name='shortcut_bn')(x)

    def inner(self) -> int:
        """The channels of a bottleneck's 3x3: groups of width * base_width / 64."""
        return self.cardinality * (self.width * self.base_width // 64)

    def strides(self) -> tuple[int, int]:
        """The strides of a bottleneck's first 1x1 and of its 3x3."""
        return (self.stride, 1) if self.stride_in == '1x1' else (1, self.stride)

    def dilation(self) -> int:
        """The dilation of a bottleneck's 3x3."""
        return self.dilations[self.stride_in == '1x1']

    def gated(self, x: jax.Array, keep: jax.Array | None,
              like: jax.Array) -> tuple[jax.Array, layers.Taps]:
        """The residual: (output, taps), under stochastic depth if `keep` is not None."""
        if keep is None or self.is_initializing():
            return self.residual(x)
        if keep.dtype != bool:
            y, taps = self.residual(x)
            return keep.astype(y.dtype) * y, taps
        return nn.cond(keep, lambda block, x: block.residual(x)[0],
                       lambda block, x: jnp.zeros_like(like), self, x), {}

    def residual(self, x: jax.Array) -> tuple[jax.Array, layers.Taps]:
        """The branch, its maps weighed by squeeze-and-excitation if there is a `reduction`."""
        y, taps = self.branch(x)
        if self.reduction:
            y, inner = SqueezeExcitation(self.reduction, self.relu, name='se')(y)
            taps |= layers.nested('se', inner, y)
        return y, taps


class Basic(Block):
    """Two 3x3 convolutions (He et al. 2015, figure 5, left)."""

    def branch(self, x: jax.Array) -> tuple[jax.Array, layers.Taps]:
        taps = {}
        first, second = self.dilations
        y = taps['conv1'] = self.conv(self.width, 3, self.stride, dilation=first, name='conv1')(x)
        y = taps['relu1'] = layers.activated(y, self.norm(name='bn1'), self.relu)
        y = taps['conv2'] = self.conv(self.width, 3, dilation=second, name='conv2')(y)
        return self.norm(name='bn2')(y), taps


class Bottleneck(Block):
    """1x1, 3x3, 1x1 convolutions (He et al. 2015, figure 5, right); ResNeXt's have groups (Xie et
    al. 2016, figure 3c)."""

    expansion = 4

    def branch(self, x: jax.Array) -> tuple[jax.Array, layers.Taps]:
        taps = {}
        inner, (first, second) = self.inner(), self.strides()
        y = taps['conv1'] = self.conv(inner, 1, first, name='conv1')(x)
        y = taps['relu1'] = layers.activated(y, self.norm(name='bn1'), self.relu)
        y = taps['conv2'] = self.conv(inner, 3, second, dilation=self.dilation(),
                                      feature_group_count=self.cardinality, name='conv2')(y)
        y = taps['relu2'] = layers.activated(y, self.norm(name='bn2'), self.relu)
        y = taps['conv3'] = self.conv(self.expansion * self.width, 1, name='conv3')(y)
        return self.norm(name='bn3')(y), taps


class SqueezeExcitation(nn.Module):
    """Multiplies each map with a number between 0 and 1, which two full layers compute from the
    means of all maps (Hu et al. 2017, section 3): [N, H, W, C] -> (as much, taps)."""

    reduction: int  # r: how many times fewer units the hidden layer has than there are maps
    relu: Callable

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, layers.Taps]:
        taps, channels = {}, x.shape[-1]
        full = partial(nn.Dense, kernel_init=layers.he_normal, dtype=x.dtype)
        y = taps['pool'] = layers.global_average_pool(x)
        y = taps['fc1'] = full(max(1, channels // self.reduction), name='fc1')(y)
        y = taps['relu'] = self.relu(y)
        y = taps['fc2'] = full(channels, name='fc2')(y)
        y = taps['sigmoid'] = nn.sigmoid(y)
        return x * lax.expand_dims(y, range(1, x.ndim - 1)), taps


def means_of_four(x: jax.Array, stride: int, distance: int) -> jax.Array:
    """Means over 2 x 2 pixels that are `distance` apart, one for each pixel that `stride` leaves,
    [N, H, W, C]; over 2 or 2 x 2 x 2 of a sequence or a volume. What sticks out at the ends does
    not count."""
    rank = x.ndim - 2

    def sums(x):
        return lax.reduce_window(
            x, np.zeros((), x.dtype), lax.add, (1, *(2,) * rank, 1), (1, *(stride,) * rank, 1),
            ((0, 0), *((0, distance),) * rank, (0, 0)),
            window_dilation=(1, *(distance,) * rank, 1))

    return sums(x) / sums(jnp.ones((1, *x.shape[1:-1], 1), x.dtype))
