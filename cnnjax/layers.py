"""What the papers share: convolution, pooling, normalization. NHWC and HWIO throughout.

Padding is explicit and symmetric: XLA's 'SAME' pads strided layers on one side only, which is not
what the papers (or Caffe, or torch) compute.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

LAYOUT = ('NHWC', 'HWIO', 'NHWC')

he_normal = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')  # He et al. 2015
caffe_xavier = nn.initializers.variance_scaling(1.0, 'fan_in', 'uniform')  # Caffe's, not Glorot's
torch_linear = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')  # torch's nn.Linear


# Running statistics keep 0.9 of their old value, as in torch (whose "momentum" is the other 0.1).
BatchNorm = functools.partial(nn.BatchNorm, momentum=0.9, epsilon=1e-5)


def conv(features, size, stride=1, padding=None, **options):
    """A 2-D convolution module [N, H, W, C] -> [N, H', W', features], symmetric zero padding.

    `size` is the kernel's side, `padding` the pixels on every side (default `size // 2`, which
    keeps H and W at stride 1 and odd sizes). `options` are those of `flax.linen.Conv`.
    """
    padding = size // 2 if padding is None else padding
    return nn.Conv(features, (size, size), (stride, stride), padding,
                   conv_general_dilated=conv_general_dilated, **options)


def conv_general_dilated(x, kernel, strides, padding, lhs_dilation=None, rhs_dilation=None,
                         dimension_numbers=None, feature_group_count=1, **options):
    """`lax.conv_general_dilated`, with a gradient that XLA's CPU backend runs fast everywhere.

    The gradient convolutions that JAX derives have permuted dimension numbers. XLA:CPU rewrites
    them to its fast layout only in the entry computation: inside cond, switch, scan or while they
    run 50 to 100 times slower (https://github.com/jax-ml/jax/issues/12868). So on the CPU both
    gradients are written as NHWC/HWIO convolutions between explicit transpositions. The price is
    that forward-mode differentiation (jvp) is not available there. Other backends, grouped and
    fractionally strided convolutions use JAX's own gradient.

    XLA:CPU is as slow on inputs smaller than the kernel (VGG's last group on 32 x 32 images); there
    the padding is made first.
    """
    dilation = tuple(rhs_dilation or (1,) * (x.ndim - 2))
    canonical = (jax.default_backend() == 'cpu' and x.ndim == 4 and feature_group_count == 1
                 and set(lhs_dilation or ()) <= {1} and not isinstance(padding, str))
    if canonical:
        padding = tuple(map(tuple, padding))
        return _canonical(x, kernel, tuple(strides), padding, dilation, tuple(options.items()))
    return lax.conv_general_dilated(
        x, kernel, strides, padding, lhs_dilation, rhs_dilation, dimension_numbers,
        feature_group_count, **options)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _canonical(x, kernel, strides, padding, dilation, options):
    return _convolve(x, kernel, strides, padding, (1, 1), dilation, options)


def _convolve(x, kernel, strides, padding, lhs_dilation, rhs_dilation, options):
    """A convolution in the canonical layout; inputs smaller than the kernel are padded first."""
    if any((n - 1) * grow < (k - 1) * d for n, grow, k, d in zip(
            x.shape[1:3], lhs_dilation, kernel.shape[:2], rhs_dilation, strict=True)):
        sides = [(*sides, grow - 1) for sides, grow in zip(padding, lhs_dilation, strict=True)]
        x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *sides, (0, 0, 0)])
        x = lax.optimization_barrier(x)  # or XLA makes one operation of the two again
        padding, lhs_dilation = [(0, 0), (0, 0)], (1, 1)
    return lax.conv_general_dilated(x, kernel, strides, padding, lhs_dilation, rhs_dilation,
                                    LAYOUT, **dict(options))


def _canonical_forward(x, kernel, *static):
    return _canonical(x, kernel, *static), (x, kernel)


def _canonical_backward(strides, padding, dilation, options, saved, g):
    x, kernel = saved
    # Per axis: (size, kernel's span, output's span on the input's grid, padding before).
    axes = [(n, (k - 1) * d, (o - 1) * s + 1, low)
            for n, k, d, o, s, (low, _) in zip(x.shape[1:3], kernel.shape[:2], dilation,
                                               g.shape[1:3], strides, padding, strict=True)]
    # dx: the dilated output gradient, fully correlated with the flipped kernel.
    dx = _convolve(g, kernel[::-1, ::-1].swapaxes(2, 3), (1, 1),
                   [(span - low, n - out + low) for n, span, out, low in axes],
                   strides, dilation, options)
    # dkernel: the input correlated with the dilated output gradient, the batch as the channels.
    dkernel = _convolve(x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3), dilation,
                        [(low, span + out - n - low) for n, span, out, low in axes],
                        (1, 1), strides, options)
    return dx.astype(x.dtype), dkernel.transpose(1, 2, 0, 3).astype(kernel.dtype)


_canonical.defvjp(_canonical_forward, _canonical_backward)


def max_pool(x, size, stride, padding=0):
    """Max over `size` x `size` windows, [N, H, W, C]; the padding never wins."""
    return nn.max_pool(x, (size, size), (stride, stride), ((padding, padding),) * 2)


def average_pool(x, size, stride, padding=0):
    """Mean over `size` x `size` windows, [N, H, W, C]; padding counts as zeros, as in torch."""
    return nn.avg_pool(x, (size, size), (stride, stride), ((padding, padding),) * 2)


def global_average_pool(x):
    """Mean over the pixels: [N, H, W, C] -> [N, C]."""
    return x.mean((1, 2))


def flatten(x):
    """[N, H, W, C] -> [N, H * W * C], the channel running fastest (torch's runs slowest)."""
    return x.reshape(len(x), -1)


def local_response_normalization(x, k=2.0, alpha=1e-4, beta=0.75, n=5):
    """b_i = a_i / (k + alpha * sum_j a_j^2)^beta, j over the channels i - n//2 ... i + n//2.

    Krizhevsky et al. 2012, section 3.3. Caffe and torch divide alpha by n: their alpha is n times
    this one. Where the denominator is zero (k = 0 and an all-zero window), the result is zero.
    """
    half = n // 2
    squares = jnp.pad(x.astype(jnp.float32) ** 2, ((0, 0),) * (x.ndim - 1) + ((half, half),))
    window = (1,) * (x.ndim - 1) + (2 * half + 1,)
    sums = lax.reduce_window(squares, 0.0, lax.add, window, (1,) * x.ndim, 'VALID')
    denominator = k + alpha * sums
    zero = denominator == 0
    scale = jnp.where(zero, 0, jnp.where(zero, 1, denominator) ** -beta)
    return (x * scale).astype(x.dtype)
