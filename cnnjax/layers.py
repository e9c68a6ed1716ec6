"""What the papers share: convolution, pooling, normalization. NHWC and HWIO throughout.

Padding is explicit and symmetric: XLA's 'SAME' pads strided layers on one side only, which is not
what the papers (or Caffe, or torch) compute.
"""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from cnnjax import convolution
from cnnjax.errors import UserError

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
                   conv_general_dilated=convolution.conv_general_dilated, **options)


def max_pool(x, size, stride, padding=0, ceil=False):
    """Max over `size` x `size` windows, [N, H, W, C]; the padding never wins.

    With `ceil` a last window that sticks out at the bottom or right counts, as in Caffe and in
    torch's ceil_mode (3x3 windows, two apart, on 32 pixels: 16 of them, not 15), unless it would
    begin in the padding there. The gradient goes to the first of the largest, row by row.
    """
    sides = tuple(_sides(x, size, stride, padding, ceil))
    if jax.default_backend() == 'cpu':
        return _max_pool(x, size, stride, sides)
    return nn.max_pool(x, (size, size), (stride, stride), sides)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_pool(x, size, stride, sides):
    """With the gradient that JAX derives, but 3 to 40 times faster on XLA:CPU, whose
    select-and-scatter is sequential; not in forward mode (jvp)."""
    return nn.max_pool(x, (size, size), (stride, stride), sides)


def _max_pool_forward(x, size, stride, sides):
    y = _max_pool(x, size, stride, sides)
    return y, (x, y)


def _max_pool_backward(size, stride, sides, saved, g):
    x, y = saved
    x = jnp.pad(x, ((0, 0), *sides, (0, 0)), constant_values=-jnp.inf)
    spans = [(n - 1) * stride + 1 for n in y.shape[1:3]]
    taken, dx = jnp.zeros(y.shape, bool), 0
    for corner in itertools.product(range(size), repeat=2):  # the windows' elements, one by one
        rows, columns = (slice(start, start + span, stride)
                         for start, span in zip(corner, spans, strict=True))
        first = (x[:, rows, columns] == y) & ~taken
        taken |= first
        edges = [(start, n - start - span, stride - 1)
                 for start, n, span in zip(corner, x.shape[1:3], spans, strict=True)]
        dx += lax.pad(jnp.where(first, g, 0), jnp.zeros((), g.dtype),
                      ((0, 0, 0), *edges, (0, 0, 0)))
    (top, bottom), (left, right) = sides
    return (dx[:, top:dx.shape[1] - bottom, left:dx.shape[2] - right],)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def average_pool(x, size, stride, padding=0, ceil=False, count_padding=True):
    """Mean over `size` x `size` windows, [N, H, W, C]; padding counts as zeros, as in torch and
    Caffe, unless `count_padding` is False. What sticks out under `ceil` (see `max_pool`) never
    counts."""
    sides = _sides(x, size, stride, padding, ceil)
    if ceil and count_padding:
        x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
        sides = [(0, high - padding) for _, high in sides]
    return nn.avg_pool(x, (size, size), (stride, stride), sides,
                       count_include_pad=count_padding and not ceil).astype(x.dtype)


def _sides(x, size, stride, padding, ceil):
    """The padding before and after H and W, [N, H, W, C], and after also what sticks out."""
    sides = []
    for n in x.shape[1:3]:
        windows, out = (n + 2 * padding - size) // stride + 1, 0
        if ceil and windows * stride < min(n + padding, n + 2 * padding - size + stride):
            out = windows * stride + size - n - 2 * padding  # of the window after these
        sides.append((padding, padding + out))
    return sides


def adaptive_average_pool(x, size):
    """Means over size x size windows that cover [N, H, W, C] as evenly as whole pixels can, as
    torch's: window i of H pixels is those from floor(i H / size) to before ceil((i + 1) H / size).
    """
    for axis in (1, 2):
        n = x.shape[axis]
        x = jnp.stack([lax.slice_in_dim(x, i * n // size, -(-(i + 1) * n // size), axis=axis)
                       .mean(axis) for i in range(size)], axis)
    return x


def fractional_max_pool(x, ratio, key, order='random', overlapping=True):
    """Max over regions of one or two pixels a side (overlapping: two or three), [N, H, W, C] ->
    [N, round(H / ratio), round(W / ratio), C]: one draw of the regions for the whole batch.

    Graham 2014, section 2, https://arxiv.org/abs/1412.6071. Rows and columns are cut
    independently, by `pooling_boundaries`; overlapping regions share the boundary's pixels. The
    paper prints boundaries from 1 to H for both kinds, which loses the last row and column of
    disjoint regions; ours go on to H + 1 there.

    Raises:
      UserError: ratio not between 1 and 2, or x too small for it.
    """
    if not 1 < ratio < 2:
        raise UserError(f'fractional max-pooling: ratio is between 1 and 2, not {ratio}')
    shared = int(overlapping)
    for axis, axis_key in zip((1, 2), jax.random.split(key), strict=True):
        span, count = x.shape[axis] - shared, round(x.shape[axis] / ratio)
        if not 0 < count <= span <= 2 * count:
            raise UserError(f'fractional max-pooling: {x.shape[axis]} pixels are too few for ratio '
                            f'{ratio:.4g}; larger images or fewer layers help')
        boundaries = pooling_boundaries(axis_key, span, count, order)
        first, last = boundaries[:-1], boundaries[1:] - 1 + shared
        picks = (first, first + 1, last) if overlapping else (first, last)
        x = functools.reduce(jnp.maximum, [jnp.take(x, pick, axis) for pick in picks])
    return x


def pooling_boundaries(key, span, count, order):
    """Where the regions of fractional max-pooling begin: int [count + 1], from 0 to span, in steps
    of one and two. Their order is 'random', or 'pseudorandom': a_i = ceil(alpha * (i + u)) with
    alpha = span / count and u uniform in (0, 1), less a_0."""
    if order == 'random':
        steps = jnp.where(jnp.arange(count) < span - count, 2, 1)
        ends = jnp.cumsum(jax.random.permutation(key, steps))
        return jnp.concatenate([jnp.zeros(1, ends.dtype), ends])
    if order == 'pseudorandom':
        whole, rest = jnp.divmod(span * jnp.arange(count + 1), count)
        shift = jax.random.uniform(key) * span / count
        ends = whole + jnp.ceil(rest / count + shift).astype(whole.dtype)
        return ends - ends[0]
    raise UserError(f"fractional max-pooling: order is 'random' or 'pseudorandom', not {order!r}")


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
