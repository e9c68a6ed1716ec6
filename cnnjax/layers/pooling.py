"""Pooling of maps [N, ..., C]."""

import functools
import itertools
import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax.errors import UserError
from cnnjax.layers import full_layers
from cnnjax.layers.activations import beats, larger
from cnnjax.layers.maps import repeat_edges


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
    if full_layers.as_maps.value:
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
