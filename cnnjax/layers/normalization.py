"""Batch normalization and local response normalization."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype
from jax import lax

from cnnjax.layers.activations import relu
from cnnjax.layers.maps import along


class BatchNorm(nn.BatchNorm):
    """flax's batch normalization, [N, ..., C] over all axes but the last, with a faster gradient.

    Ioffe & Szegedy 2015, algorithm 1, https://arxiv.org/abs/1502.03167. Running statistics keep 0.9
    of their old value, as in torch (whose "momentum" is the other 0.1); they are not
    differentiated. The running variance is unbiased, of n values n / (n - 1) times that of the
    batch, as in algorithm 2, torch and Caffe; flax keeps the batch's. With other axes, statistics
    of several devices or the slow variance it is flax's entirely.
    """

    momentum: float = 0.9

    def __call__(self, x: jax.Array, use_running_average: bool | None = None,
                 rectified: bool = False) -> jax.Array:
        """With `rectified` a `relu` follows; see `activated`."""
        still = nn.merge_param('use_running_average', self.use_running_average, use_running_average)
        ours = (self.axis, self.axis_name, self.use_fast_variance) == (-1, None, True)
        if still or self.is_initializing() or not ours:
            y = super().__call__(x, use_running_average)
            return relu(y) if rectified else y
        scale, bias = (self.get_variable('params', name) for name in ('scale', 'bias'))
        y, statistics = _batch_norm(x, scale, bias, self.epsilon, rectified)
        count = x.size // x.shape[-1]
        statistics['var'] *= count / max(count - 1, 1)  # the variance of a single value is 0
        for name, value in statistics.items():
            old = self.get_variable('batch_stats', name)
            value = self.momentum * old + (1 - self.momentum) * value
            self.put_variable('batch_stats', name, value.astype(old.dtype))
        return y.astype(self.dtype or y.dtype)


def activated(x: jax.Array, norm: nn.Module, activation: Callable) -> jax.Array:
    """activation(norm(x)). `BatchNorm` and `layers.relu` have one gradient, which computes from x
    what the ReLU let pass. It reads and writes 5 times as many numbers as x has; two gradients,
    with what the first writes for the second, 7 times."""
    if isinstance(norm, BatchNorm) and activation is relu:
        return norm(x, rectified=True)
    return activation(norm(x))


class FrozenBatchNorm(nn.Module):
    """Batch normalization whose scale, bias, mean and variance never change, [N, ..., C]: all four
    are in 'batch_stats' and none is a parameter, as torchvision's FrozenBatchNorm2d has it."""

    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def fixed(name, value):
            return self.variable('batch_stats', name, jnp.full, x.shape[-1:], value,
                                 jnp.float32).value

        scale, bias, mean, var = map(fixed, ('scale', 'bias', 'mean', 'var'), (1, 0, 0, 1))
        weight = scale * lax.rsqrt(var + self.epsilon)
        x, weight, shift = promote_dtype(x, weight, bias - mean * weight, dtype=self.dtype)
        return x * along(weight, x) + along(shift, x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _batch_norm(x, scale, bias, epsilon, rectified):
    """(x normalized, {'mean', 'var'} [C]), in float32 at least; scale and bias may be None.

    JAX would derive a gradient with three sums over the batch, two of which are the same.
    """
    return _batch_norm_forward(x, scale, bias, epsilon, rectified)[0]


def _batch_norm_forward(x, scale, bias, epsilon, rectified):
    wide, count = x.astype(jnp.promote_types(x.dtype, jnp.float32)), x.size // x.shape[-1]
    mean, square = (total / count for total in _sums(wide, wide ** 2))
    var = jnp.maximum(square - mean ** 2, 0)  # rounding could make it negative
    factor = lax.rsqrt(var + epsilon)
    weight = factor if scale is None else factor * scale
    y = (wide - along(mean, x)) * along(weight, x)
    y = y if bias is None else y + along(bias, x)
    return (jnp.maximum(y, 0) if rectified else y, {'mean': mean, 'var': var}), (
        x, scale, bias, mean, factor, weight)


def _batch_norm_backward(epsilon, rectified, saved, gradients):
    x, scale, bias, mean, factor, weight = saved
    g, count = gradients[0], x.size // x.shape[-1]  # nothing differentiates the statistics
    wide = x.astype(mean.dtype)
    normalized = (wide - along(mean, x)) * along(factor, x)
    if rectified:
        # Written as in the forward pass, the comparison would be the same operation for XLA, and
        # ResNet-50's step on a GPU would have 29 kernels more (docs/gpu.md).
        shift = -mean * weight if bias is None else bias - mean * weight
        g = jnp.where(wide * along(weight, x) + along(shift, x) > 0, g, 0)
    dbias, dscale = _sums(g, g * normalized)
    dx = (g - along(dbias / count, x) - normalized * along(dscale / count, x)) * along(weight, x)
    return (dx.astype(x.dtype), None if scale is None else dscale.astype(scale.dtype),
            None if bias is None else dbias.astype(bias.dtype))


def _sums(*arrays):
    """The sums [C] of each array over all axes but the last. On a GPU they are one reduction, since
    the compiler would compute the inputs of several reductions once for each, or start a kernel for
    each; on a CPU several are twice as fast."""
    axes = tuple(range(arrays[0].ndim - 1))
    if jax.default_backend() != 'gpu':
        return [array.sum(axes) for array in arrays]
    return lax.reduce(arrays, tuple(np.zeros((), array.dtype) for array in arrays),
                      lambda left, right: tuple(map(lax.add, left, right)), axes)


_batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)


def local_response_normalization(x: jax.Array, k: float = 2.0, alpha: float = 1e-4,
                                 beta: float = 0.75, n: int = 5) -> jax.Array:
    """b_i = a_i / (k + alpha * sum_j a_j^2)^beta, j over the channels i - n//2 ... i + n//2.

    Krizhevsky et al. 2012, section 3.3. Caffe and torch divide alpha by n: their alpha is n times
    this one. Where the denominator is zero (k = 0 and an all-zero window), the result is zero.
    """
    half = n // 2
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    squares = jnp.pad(wide ** 2, ((0, 0),) * (x.ndim - 1) + ((half, half),))
    window = (1,) * (x.ndim - 1) + (2 * half + 1,)
    sums = lax.reduce_window(squares, 0.0, lax.add, window, (1,) * x.ndim, 'VALID')
    denominator = k + alpha * sums
    zero = denominator == 0
    scale = jnp.where(zero, 0, jnp.where(zero, 1, denominator) ** -beta)
    return (x * scale).astype(x.dtype)
