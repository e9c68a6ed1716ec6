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

from cnnjax.errors import UserError

LAYOUT = ('NHWC', 'HWIO', 'NHWC')
STRIP = 2 ** 19  # bytes, of one image; see _strips

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
    that forward-mode differentiation (jvp) is not available there. Other backends and fractionally
    strided convolutions use JAX's own gradient.

    There 1x1 convolutions that keep the size are matrix products.

    XLA:CPU is as slow on inputs smaller than the kernel (VGG's last group on 32 x 32 images); there
    the padding is made first.
    """
    dilation = tuple(rhs_dilation or (1,) * (x.ndim - 2))
    canonical = (jax.default_backend() == 'cpu' and x.ndim == 4
                 and set(lhs_dilation or ()) <= {1} and not isinstance(padding, str))
    if canonical:
        padding = tuple(map(tuple, padding))
        if (kernel.shape[:2] == (1, 1) and set(strides) == {1} and feature_group_count == 1
                and set(itertools.chain(*padding)) == {0}):
            # A matrix product, whose gradient for the kernel takes a fifth to a half of the time.
            return lax.dot_general(x, kernel[0, 0], (((3,), (0,)), ((), ())), **options)
        return _canonical(x, kernel, tuple(strides), padding, dilation, feature_group_count,
                          tuple(options.items()))
    return lax.conv_general_dilated(
        x, kernel, strides, padding, lhs_dilation, rhs_dilation, dimension_numbers,
        feature_group_count, **options)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5, 6))
def _canonical(x, kernel, strides, padding, dilation, groups, options):
    return _convolve(x, kernel, strides, padding, (1, 1), dilation, groups, options)


def _convolve(x, kernel, strides, padding, lhs_dilation, rhs_dilation, groups, options):
    """A convolution in the canonical layout; inputs smaller than the kernel are padded first."""
    if any((n - 1) * grow < (k - 1) * d for n, grow, k, d in zip(
            x.shape[1:3], lhs_dilation, kernel.shape[:2], rhs_dilation, strict=True)):
        sides = [(*sides, grow - 1) for sides, grow in zip(padding, lhs_dilation, strict=True)]
        x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *sides, (0, 0, 0)])
        x = lax.optimization_barrier(x)  # or XLA makes one operation of the two again
        padding, lhs_dilation = [(0, 0), (0, 0)], (1, 1)
    return lax.conv_general_dilated(x, kernel, strides, padding, lhs_dilation, rhs_dilation,
                                    LAYOUT, groups, **dict(options))


def _canonical_forward(x, kernel, *static):
    # XLA:CPU repeats cheap operations in each loop that reads them: the transposition of x for the
    # kernel's gradient would compute whole stages of residual blocks again, pixel by pixel (over a
    # quarter of a ResNet-20 step; docs/cpu.md). It stops at a choice between two arrays, which is
    # always x (NaN too); an optimization_barrier it removes before.
    x = jnp.where(x == x, x, jnp.nan)
    return _canonical(x, kernel, *static), (x, kernel)


def _canonical_backward(strides, padding, dilation, groups, options, saved, g):
    x, kernel = saved
    # Per axis: (size, kernel's span, output's span on the input's grid, padding before).
    axes = [(n, (k - 1) * d, (o - 1) * s + 1, low)
            for n, k, d, o, s, (low, _) in zip(x.shape[1:3], kernel.shape[:2], dilation,
                                               g.shape[1:3], strides, padding, strict=True)]
    # dx: the dilated output gradient, fully correlated with the flipped kernel.
    flipped = _swap(kernel[::-1, ::-1], 2, 3, groups)
    dx = _convolve(g, flipped, (1, 1), [(span - low, n - out + low) for n, span, out, low in axes],
                   strides, dilation, groups, options)
    # dkernel: the input correlated with the dilated output gradient, the batch as the channels.
    dkernel = sum(_correlate(x, g, rows, axes, strides, dilation, groups, options)
                  for rows in _strips(g, max(padding[0]) // strides[0] + 1))
    return dx.astype(x.dtype), dkernel.transpose(1, 2, 0, 3).astype(kernel.dtype)


def _strips(g, least):
    """Slices of the rows of g [N, H, W, C], each of at least so many rows.

    The output gradient is the kernel of that convolution, and a large one makes it 2 to 3 times
    slower: VGG's at 224 x 224, not those of 32 x 32 pixels, whatever the batch (docs/cpu.md).
    """
    height = g.shape[1]
    count = max(min(g.size // len(g) * g.dtype.itemsize // STRIP, height // least), 1)
    bounds = [height * i // count for i in range(count + 1)]
    return list(itertools.starmap(slice, itertools.pairwise(bounds)))


def _correlate(x, g, rows, axes, strides, dilation, groups, options):
    """What these rows of g contribute to the kernel's gradient, [kh, C / groups, kw, K] swapped."""
    (n, span, _, low), columns = axes
    low -= rows.start * strides[0]
    high = span + (rows.stop - rows.start - 1) * strides[0] + 1 - n - low
    x, g = x[:, max(-low, 0):n - max(-high, 0)], g[:, rows]
    padding = [(max(low, 0), max(high, 0)),
               (columns[3], columns[1] + columns[2] - columns[0] - columns[3])]
    return _convolve(_swap(x, 0, 3, groups), g.transpose(1, 2, 0, 3), dilation, padding, (1, 1),
                     strides, groups, options)


def _swap(array, axis, last, groups):
    """The two axes swapped within each of the last one's groups, which stay on the last axis."""
    array = array.reshape(*array.shape[:-1], groups, -1)
    array = array.swapaxes(axis, last + 1)
    return array.reshape(*array.shape[:-2], -1)


_canonical.defvjp(_canonical_forward, _canonical_backward)


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
