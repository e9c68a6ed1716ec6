"""What the papers share: convolution, pooling, normalization. NHWC and HWIO throughout.

What is said here of images [N, H, W, C] holds for sequences [N, T, C] and volumes [N, D, H, W, C],
too: the number of axes of an array decides.

Padding is explicit and symmetric: XLA's 'SAME' pads strided layers on one side only, which is not
what the papers (or Caffe, or torch) compute.
"""

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Generator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype
from jax import lax

from cnnjax import convolution
from cnnjax.errors import UserError

he_normal = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')  # He et al. 2015
caffe_xavier = nn.initializers.variance_scaling(1.0, 'fan_in', 'uniform')  # Caffe's, not Glorot's
torch_linear = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')  # torch's nn.Linear
Taps = dict[str, jax.Array]  # Activations by the names of their layers, in forward order.
_as_maps = jax.make_user_context(False)  # see `fully_convolutional`
_edges = jax.make_user_context(False)  # see `continued_edges`


def check_size(images: jax.Array, smallest: int, network: str, remedy: str = '',
               flat: bool = False) -> None:
    """Raises UserError for images [N, H, W, C] of fewer than `smallest` pixels a side, with `flat`
    also for sequences and volumes; `network` names what needs them, and `remedy` says what helps,
    or why."""
    sides = images.shape[1:-1]
    if flat and len(sides) != 2:
        raise UserError(f'{network} needs images [H, W, C], got {list(images.shape[1:])}')
    if any(n < smallest for n in sides):
        least = ' x '.join([str(smallest)] * len(sides))
        raise UserError(f'{network} needs images of at least {least}, got '
                        f'{sides}{remedy and ": "}{remedy}')


def numpy_for(*sizes: Any) -> Any:
    """numpy, to compute constants from these sizes of arrays; jax.numpy, if one of them is symbolic
    (see jax.export), so that only the running program knows it."""
    return np if all(isinstance(size, int) for size in sizes) else jnp


def nested(name: str, inner: Taps, output: jax.Array) -> Taps:
    """The taps of the block `name`, as a network adds them to its own: those inside the block, by
    paths such as 'block1/conv1', then its output."""
    return {**{f'{name}/{tap}': value for tap, value in inner.items()}, name: output}


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
        return x * _along(weight, x) + _along(shift, x)


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
    y = (wide - _along(mean, x)) * _along(weight, x)
    y = y if bias is None else y + _along(bias, x)
    return (jnp.maximum(y, 0) if rectified else y, {'mean': mean, 'var': var}), (
        x, scale, bias, mean, factor, weight)


def _along(values, x):
    """The values [C], with axes of size 1 before them, so that they go along the last axis of x."""
    return lax.expand_dims(values, range(x.ndim - 1))


def _batch_norm_backward(epsilon, rectified, saved, gradients):
    x, scale, bias, mean, factor, weight = saved
    g, count = gradients[0], x.size // x.shape[-1]  # nothing differentiates the statistics
    wide = x.astype(mean.dtype)
    normalized = (wide - _along(mean, x)) * _along(factor, x)
    if rectified:
        # Written as in the forward pass, the comparison would be the same operation for XLA, which
        # would compute it there once and write and read the answers.
        shift = -mean * weight if bias is None else bias - mean * weight
        g = jnp.where(wide * _along(weight, x) + _along(shift, x) > 0, g, 0)
    dbias, dscale = _sums(g, g * normalized)
    dx = (g - _along(dbias / count, x) - normalized * _along(dscale / count, x)) * _along(weight, x)
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


@jax.custom_jvp
def relu(x: jax.Array) -> jax.Array:
    """max(x, 0). Its gradient, 1 above 0 and 0 elsewhere, looks at the result, while that of
    `flax.linen.relu` looks at x: here x need not be kept. The comparison with the constant 0 is
    safe even where the compiler computes the result twice, with other rounding: only values next to
    0 can change sides. A comparison of two computed values is not, see `_max_pool_forward`."""
    return jnp.maximum(x, 0)


relu.defjvps(lambda tangent, y, x: lax.select(y != 0, tangent, jnp.zeros_like(tangent)))


def activated(x: jax.Array, norm: nn.Module, activation: Callable) -> jax.Array:
    """activation(norm(x)). The `BatchNorm` and the `relu` of this file have one gradient, which
    computes from x what the ReLU let pass. It reads and writes 5 times as many numbers as x has;
    two gradients, with what the first writes for the second, 7 times."""
    if isinstance(norm, BatchNorm) and activation is relu:
        return norm(x, rectified=True)
    return activation(norm(x))


class Conv(nn.Conv):
    """flax's convolution. A kernel whose size is one number has that side along every axis of an
    example: [N, T, C], [N, H, W, C] or [N, D, H, W, C]."""

    def __call__(self, x: jax.Array) -> jax.Array:
        # flax binds a copy of a module for each `apply`: that which a user holds does not change.
        if isinstance(self.kernel_size, int):
            object.__setattr__(self, 'kernel_size', (self.kernel_size,) * (x.ndim - 2))
        sides: Any = self.kernel_size
        if len(sides) != x.ndim - 2:  # flax would take the batch for an axis of an image
            raise UserError(f'{self.name or "a convolution"} has a kernel of '
                            f'{" x ".join(map(str, sides))} and cannot take {list(x.shape[1:])}')
        if _edges.value:
            padding: Any = self.padding
            pairs = [(each, each) if isinstance(each, int) else each for each in
                     ([padding] * len(sides) if isinstance(padding, int) else padding)]
            x = repeat_edges(x, pairs)
            object.__setattr__(self, 'padding', 0)
        return super().__call__(x)


@contextlib.contextmanager
def continued_edges(on: bool = True) -> Generator[None]:
    """A context in which, if `on`, convolutions repeat the outermost pixels of maps where they else
    pad them with zeros. A network then sees no frame around the image, which optimized images would
    answer with a rim of other colours: https://github.com/crowsonkb/style-transfer-pytorch does
    this to the first convolution."""
    with _edges(on):
        yield


def conv(features: int, size: int | Sequence[int], stride: int = 1,
         padding: int | Sequence[tuple[int, int]] | None = None, dilation: int = 1,
         **options: Any) -> Conv:
    """A convolution module [N, H, W, C] -> [N, H', W', features], symmetric zero padding.

    `size` is the kernel's side, or its height and width, `dilation` the distance of the pixels that
    it sees, `padding` the pixels on every side (default `dilation * (size // 2)`, which keeps H and
    W at stride 1 and odd sizes), or those before and after each of H and W, such as `same` gives.
    `options` are those of `flax.linen.Conv`.
    """
    sides: Any = padding
    if padding is None:
        sides = (dilation * (size // 2) if isinstance(size, int)
                 else [dilation * (side // 2) for side in size])
    return Conv(features, size, stride, sides, kernel_dilation=dilation,
                conv_general_dilated=convolution.conv_general_dilated, **options)


class UpConv(nn.Module):
    """A transposed convolution of 2x2 windows, two apart: [N, H, W, C] -> [N, 2H, 2W, features].
    The parameters are those of `flax.linen.ConvTranspose`."""

    features: int
    kernel_init: Any
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param('kernel', self.kernel_init, (2, 2, x.shape[-1], self.features))
        bias = self.param('bias', nn.initializers.zeros, (self.features,))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        return convolution.up_convolution(x, kernel) + _along(bias, x)


def same(x: jax.Array, size: int, stride: int) -> list[tuple[int, int]]:
    """TensorFlow's padding 'SAME' of x [N, H, W, C]: the zeros before and after each of H and W, of
    which there is one more after than before if their number is odd."""
    rank = x.ndim - 2
    return lax.padtype_to_pads(x.shape[1:-1], (size,) * rank, (stride,) * rank, 'SAME')


def repeat_edges(x: jax.Array, padding: Sequence[tuple[int, int]]) -> jax.Array:
    """x [N, H, W, C] with its outermost pixels repeated so many times before and after it, along
    each of H and W: `jnp.pad` with 'edge', in operations whose receptive fields are known."""
    for axis, (low, high) in enumerate(padding, 1):
        first, last = (lax.slice_in_dim(x, i, i + 1, axis=axis) for i in (0, x.shape[axis] - 1))
        x = jnp.concatenate([first] * low + [x] + [last] * high, axis)
    return x


def subsample(x: jax.Array, stride: int) -> jax.Array:
    """Every `stride`-th pixel along each axis of [N, H, W, C]."""
    return x[(slice(None), *(slice(None, None, stride),) * (x.ndim - 2))]


def append_channels(x: jax.Array, count: int) -> jax.Array:
    """x [N, ..., C] with so many channels of zeros behind its own."""
    return jnp.pad(x, ((0, 0),) * (x.ndim - 1) + ((0, count),))


def max_pool(x: jax.Array, size: int, stride: int, padding: int | Sequence[tuple[int, int]] = 0,
             ceil: bool = False) -> jax.Array:
    """Max over `size` x `size` windows, [N, H, W, C]; the padding, on every side or as `same` gives
    it, never wins.

    With `ceil` a last window that sticks out at the bottom or right counts, as in Caffe and in
    torch's ceil_mode (3x3 windows, two apart, on 32 pixels: 16 of them, not 15), unless it would
    begin in the padding there. The gradient goes to the first of the largest, row by row.
    """
    sides = tuple(_sides(x, size, stride, padding, ceil))
    if jax.default_backend() != 'tpu':
        return _max_pool(x, size, stride, sides)
    return nn.max_pool(x, (size,) * len(sides), (stride,) * len(sides), sides)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_pool(x, size, stride, sides):
    """The max-pool, with the same gradient as JAX derives, but faster: JAX's is XLA's
    select-and-scatter, which is sequential on CPUs and adds atomically on GPUs. It has no forward
    mode (jvp)."""
    return nn.max_pool(x, (size,) * len(sides), (stride,) * len(sides), sides)


def _max_pool_forward(x, size, stride, sides):
    """Remembers the winner of each window while it finds the maximum. To look afterwards for the
    pixel that equals the maximum could find none: within a program the compiler may compute x
    twice, with other rounding."""
    padded = jnp.pad(x, ((0, 0), *sides, (0, 0)), constant_values=-jnp.inf)
    begins = [np.arange(0, n - size + 1, stride) for n in padded.shape[1:-1]]
    # The first pixel that is not padding wins at first, in case all are -infinity.
    firsts = [np.maximum(low - begin, 0) for (low, _), begin in zip(sides, begins, strict=True)]
    shape = x.shape[0], *map(len, firsts), x.shape[-1]
    index = np.min_scalar_type(size ** len(sides) - 1)
    winner = jnp.broadcast_to(index.type(_place(np.ix_(*firsts), size))[..., None], shape)
    best = jnp.full(shape, -jnp.inf, x.dtype)
    for place in itertools.product(range(size), repeat=len(sides)):
        window = (slice(start, start + begin[-1] + 1, stride)
                  for start, begin in zip(place, begins, strict=True))
        value = padded[:, *window]
        better = beats(value, best)
        best = jnp.where(better, value, best)
        winner = jnp.where(better, index.type(_place(place, size)), winner)
    return best, (lax.optimization_barrier(winner), x.shape[1:-1])


def _place(offsets, size):
    """The number of a pixel in a window, row by row, from its offsets along each axis."""
    return functools.reduce(lambda number, offset: size * number + offset, offsets)


def beats(value: jax.Array, best: jax.Array) -> jax.Array:
    """Whether a value takes the place of the best before it: the larger one does, or the first NaN.
    No rounding of either makes both lose."""
    return ~(value <= best) & (best <= jnp.inf)


def _max_pool_backward(size, stride, sides, saved, g):
    winner, shape = saved
    batch, channels, rank = g.shape[0], g.shape[-1], len(sides)
    back = (size - 1) // stride  # how many windows that begin earlier reach a pixel
    counts = [-(-(n + sum(side)) // stride) for n, side in zip(shape, sides, strict=True)]
    edges = [(back, count - n, 0) for count, n in zip(counts, g.shape[1:-1], strict=True)]
    g, winner = (lax.pad(array, jnp.zeros((), array.dtype), ((0, 0, 0), *edges, (0, 0, 0)))
                 for array in (g, winner))

    def pixels(*offsets):
        """The gradient of the pixels that are so far from a window's begin along the first axes; an
        axis of `stride` follows each of the others, for all distances there."""
        if (axis := len(offsets)) < rank:
            return jnp.stack([pixels(*offsets, i) for i in range(stride)], axis + 2)
        total = 0
        for place in itertools.product(*(range(start, size, stride) for start in offsets)):
            windows = [slice(back - at // stride, back - at // stride + count)
                       for at, count in zip(place, counts, strict=True)]
            won = winner[:, *windows] == _place(place, size)
            total += jnp.where(won, g[:, *windows], 0)
        return jnp.broadcast_to(total, (batch, *counts, channels)).astype(g.dtype)

    dx = pixels().reshape(batch, *(count * stride for count in counts), channels)
    return (dx[:, *(slice(low, low + n) for (low, _), n in zip(sides, shape, strict=True))],)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def average_pool(x: jax.Array, size: int, stride: int,
                 padding: int | Sequence[tuple[int, int]] = 0, ceil: bool = False,
                 count_padding: bool = True) -> jax.Array:
    """Mean over `size` x `size` windows, [N, H, W, C]; padding counts as zeros, as in torch and
    Caffe, unless `count_padding` is False. What sticks out under `ceil` (see `max_pool`) never
    counts."""
    sides = _sides(x, size, stride, padding, ceil)
    rank = len(sides)
    if ceil and count_padding and isinstance(padding, int):
        x = jnp.pad(x, ((0, 0), *((padding, padding),) * rank, (0, 0)))
        sides = [(0, high - padding) for _, high in sides]

    def sums(x):
        return nn.pool(x, 0.0, lax.add, (size,) * rank, (stride,) * rank, sides)

    counted = count_padding and not ceil
    return sums(x) / (size ** rank if counted
                      else sums(jnp.ones((1, *x.shape[1:-1], 1), x.dtype)))


def blur_pool(x: jax.Array, size: int, stride: int,
              padding: int | Sequence[tuple[int, int]] = 0, ceil: bool = False) -> jax.Array:
    """A mean over windows that fades towards their borders: binomial weights over `size` + 2
    pixels a side, [N, H, W, C]. Windows lie where those of `max_pool` would; x is continued by its
    outermost pixels.

    Neighbouring windows overlap, which keeps fine patterns from becoming coarse ones, in the maps
    and in their gradients: Zhang 2019, https://arxiv.org/abs/1904.11486.
    """
    weights = np.poly1d((0.5, 0.5)) ** (size + 1)  # (1, 3, 3, 1) / 8 for windows of two
    sides = _sides(x, size, stride, padding, ceil)
    x = repeat_edges(x, [(low + 1, high + 1) for low, high in sides])
    for axis in range(1, x.ndim - 1):
        reach = (x.shape[axis] - size - 2) // stride * stride + 1
        x = functools.reduce(jnp.add, [
            float(weight) * lax.slice_in_dim(x, i, i + reach, stride, axis)
            for i, weight in enumerate(weights.coeffs)])
    return x


def _sides(x, size, stride, padding, ceil):
    """The padding before and after each of H and W. With `ceil`, that after includes what sticks
    out."""
    if not isinstance(padding, int):
        if ceil:
            raise ValueError('ceil needs the same padding on every side')
        return list(padding)
    sides = []
    for n in x.shape[1:-1]:
        out = -(n + 2 * padding - size) % stride if ceil else 0  # how far the next one sticks out
        sides.append((padding, padding + (out if out < size - padding else 0)))
    return sides


def adaptive_average_pool(x: jax.Array, size: int) -> jax.Array:
    """Means over size x size windows that cover [N, H, W, C] as evenly as whole pixels can, as
    torch's: window i of H pixels is those from floor(i H / size) to before ceil((i + 1) H / size).

    Before full layers that are convolutions (see `fully_convolutional`) it does nothing: it makes
    maps of size x size for full layers, and convolutions take larger ones.
    """
    if _as_maps.value:
        return x
    for axis in range(1, x.ndim - 1):
        n = x.shape[axis]
        x = jnp.stack([lax.slice_in_dim(x, i * n // size, -(-(i + 1) * n // size), axis=axis)
                       .mean(axis) for i in range(size)], axis)
    return x


def fractional_max_pool(x: jax.Array, ratio: float, key: jax.Array, order: str = 'random',
                        overlapping: bool = True) -> jax.Array:
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
    for axis, axis_key in enumerate(jax.random.split(key, x.ndim - 2), 1):
        span, count = x.shape[axis] - shared, round(x.shape[axis] / ratio)
        if not 0 < count <= span <= 2 * count:
            raise UserError(f'fractional max-pooling: {x.shape[axis]} pixels are too few for ratio '
                            f'{ratio:.4g}; larger images or fewer layers help')
        boundaries = pooling_boundaries(axis_key, span, count, order)
        first, last = boundaries[:-1], boundaries[1:] - 1 + shared
        picks = (first, first + 1, last) if overlapping else (first, last)
        x = functools.reduce(larger, [jnp.take(x, pick, axis) for pick in picks])
    return x


@jax.custom_jvp
def larger(best: jax.Array, value: jax.Array) -> jax.Array:
    """jnp.maximum, but its gradient does not ask which of the two equals the result."""
    return jnp.maximum(best, value)


@larger.defjvp
def _larger_jvp(primals, tangents):
    return larger(*primals), lax.select(beats(*primals[::-1]), *tangents[::-1])


def maxout(x: jax.Array, pieces: int) -> jax.Array:
    """The largest of every `pieces` neighbouring channels, [..., pieces * C] -> [..., C]: maxout
    units, whose channels before are their linear pieces. The gradient goes to the first of the
    largest.

    Goodfellow et al. 2013, section 3, https://arxiv.org/abs/1302.4389.
    """
    return functools.reduce(larger, [x[..., piece::pieces] for piece in range(pieces)])


def pooling_boundaries(key: jax.Array, span: int, count: int, order: str) -> jax.Array:
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


def global_average_pool(x: jax.Array) -> jax.Array:
    """Mean over the pixels: [N, H, W, C] -> [N, C]."""
    return x.mean(range(1, x.ndim - 1))


def global_max_pool(x: jax.Array) -> jax.Array:
    """Max over the pixels: [N, H, W, C] -> [N, C]. The gradient goes to the pixel that is picked,
    the first of the largest: jnp.max would look for pixels that equal the result."""
    x = x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1])
    return jnp.take_along_axis(x, jnp.argmax(x, 1, keepdims=True), 1)[:, 0]


def flatten(x: jax.Array) -> jax.Array:
    """[N, H, W, C] -> [N, H * W * C], the channel running fastest (torch's runs slowest). Before
    full layers that are convolutions (see `fully_convolutional`) x stays as it is."""
    return x if _as_maps.value else x.reshape(x.shape[0], math.prod(x.shape[1:]))


@contextlib.contextmanager
def fully_convolutional() -> Generator[None]:
    """A context in which the full layers of a network are convolutions: the first becomes one with
    as large a kernel as the map that it was trained on, the others become 1x1. Larger images then
    have maps of logits [N, H', W', classes], and dropout is off in evaluation.

    Simonyan & Zisserman 2014, section 3.2, after Sermanet et al. 2013, section 3.5
    (https://arxiv.org/abs/1312.6229). A network of global average pools needs no such context: the
    mean of its scores over all positions is the score of the mean.

    Raises:
      UserError: the images are too small, or a full layer was not trained on a square map that
        `flatten` made a vector.
    """
    def intercept(call, args, kwargs, context):
        layer: Any = context.module
        x: Any = [*args, *kwargs.values()][0] if isinstance(layer, nn.Dense) else None
        if x is None or context.method_name != '__call__' or x.ndim != 4:
            return call(*args, **kwargs)
        kernel = layer.get_variable('params', 'kernel')
        bias = layer.get_variable('params', 'bias') if layer.use_bias else None
        inputs, channels = kernel.shape[0], x.shape[-1]
        side = math.isqrt(inputs // channels)
        if side ** 2 * channels != inputs:
            raise UserError(f'{"/".join(layer.path)} has {inputs} inputs, which are no square map '
                            f'of {channels} channels: it cannot become a convolution')
        if min(x.shape[1:3]) < side:
            raise UserError(f'{"/".join(layer.path)} sees {side} x {side} positions, and the map '
                            f'has only {x.shape[1]} x {x.shape[2]}: take larger images')
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=layer.dtype)
        y = convolution.conv_general_dilated(
            x, kernel.reshape(side, side, channels, -1), (1, 1), ((0, 0), (0, 0)),
            precision=layer.precision)
        return y if bias is None else y + _along(bias, y)

    with _as_maps(True), nn.intercept_methods(intercept):
        yield


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
