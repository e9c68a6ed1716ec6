"""Features of regions of an image: RoI align, on one map or a pyramid of maps, and RoI max-pooling.

A region is a box in pixels of the image, see boxes.py; a feature is a place of a map. Results and
gradients are the same, bit for bit, each time that a program runs, on every device. Boxes get no
gradient.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax import boxes as boxes_
from cnnjax.layers import beats

CHUNK = 64  # Products make an array of so many regions, rows of bins and columns of the map.


class _Grid(NamedTuple):
    """Where a region is sampled: `size` x `size` bins, `samples` x `samples` places in each."""

    size: int
    strides: tuple[float, ...]  # the stride of each map
    samples: int
    aligned: bool


def roi_align(features: jax.Array, boxes: jax.Array, size: int, stride: float, *,
              samples: int = 2, aligned: bool = False, form: str = 'auto') -> jax.Array:
    """RoI align: [R, size, size, C], the means of bilinear samples in size x size bins of a box.

    He et al. 2017, section 3, https://arxiv.org/abs/1703.06870. It is that of torchvision (and of
    Caffe2 and Detectron): samples further than one feature outside the map are 0.

    Args:
      features: [H, W, C].
      boxes: [R, 4], in pixels.
      stride: the pixels from one feature to the next.
      samples: the samples of a bin in each direction.
      aligned: whether the centre of the first feature is half a stride from the border, as in
        Detectron2. Otherwise it is at the border, and boxes have at least the size of a feature.
      form: 'gather' looks up the four features around each sample. 'products' multiplies the whole
        map with two small matrices: more work, but only products of matrices. 'auto' is 'products'
        on a TPU, 'gather' elsewhere. The gradient of 'gather' is that of 'products' unless on a
        CPU, since to add up in what was looked up is not reproducible there.
    """
    return _align(_Grid(size, (stride,), samples, aligned), (features,), boxes,
                  jnp.zeros(boxes.shape[0], jnp.int32), form)


def pyramid_roi_align(maps: Sequence[jax.Array], boxes: jax.Array, size: int,
                      strides: Sequence[float], *, samples: int = 2, aligned: bool = False,
                      form: str = 'auto') -> jax.Array:
    """RoI align of each box on the map of its `pyramid_level`: [R, size, size, C].

    Args:
      maps: [H, W, C] of each level, the finest first.
      strides: of each level. For other arguments see `roi_align`.
    """
    level = pyramid_level(boxes, strides)
    return _align(_Grid(size, tuple(strides), samples, aligned), tuple(maps), boxes, level, form)


def pyramid_level(boxes: jax.Array, strides: Sequence[float]) -> jax.Array:
    """The level of a pyramid whose features have about the scale of each box: int32 [R], an index
    of the strides, each of which is twice that before it.

    Boxes of 224 x 224 pixels are on the level of stride 16. Lin et al. 2017, equation 1,
    https://arxiv.org/abs/1612.03144.
    """
    # torchvision adds 1e-6 so that rounding leaves a box of exactly 224 pixels on its level.
    level = jnp.floor(4 + jnp.log2(jnp.sqrt(boxes_.area(boxes)) / 224) + 1e-6)
    return jnp.clip(level - math.log2(strides[0]), 0, len(strides) - 1).astype(jnp.int32)


def _align(grid, maps, boxes, level, form):
    if form == 'auto':
        form = 'products' if jax.default_backend() == 'tpu' else 'gather'
    dtype = maps[0].dtype
    wide = jnp.promote_types(jnp.promote_types(dtype, boxes.dtype), jnp.float32)
    maps, boxes = jax.tree.map(lambda array: array.astype(wide), (maps, boxes))
    align = {'gather': _gather, 'products': _products}[form]
    return align(grid, maps, lax.stop_gradient(boxes), level).astype(dtype)


def _places(grid, boxes, level):
    """The rows and the columns of the samples, in features: two of [R, size, samples]."""
    stride = jnp.array(grid.strides, boxes.dtype)[level][:, None]
    low, high = (sides / stride - 0.5 * grid.aligned for sides in (boxes[:, :2], boxes[:, 2:]))
    extent = high - low if grid.aligned else jnp.maximum(high - low, 1)
    low, step = (array[:, ::-1, None, None] for array in (low, extent / grid.size))
    bins, samples = (jnp.arange(count, dtype=boxes.dtype)
                     for count in (grid.size, grid.samples))
    places = (low + bins[None, None, :, None] * step
              + (samples[None, None, None] + 0.5) * (step / grid.samples))
    return places[:, 0], places[:, 1]


def _corners(places, limit, samples):
    """The two features of a row or column that are next to each sample, and their shares in its
    bin: two of [R, size, 2 * samples]. `limit` [R] is the number of features."""
    limit = limit[:, None, None]
    inside = (places >= -1) & (places <= limit)
    places = jnp.clip(places, 0, limit - 1)
    before = jnp.floor(places)
    share = places - before
    shares = jnp.where(inside, jnp.stack([1 - share, share]), 0) / samples
    indices = jnp.stack([before, jnp.minimum(before + 1, limit - 1)]).astype(jnp.int32)
    return (jnp.concatenate([*array], -1) for array in (indices, shares))


def _neighbours(grid, maps, boxes, level):
    """Indices of features, in all maps as one [features, C], and their shares in each bin; for rows
    and columns, whose indices and shares are to be added and multiplied: four of
    [R, size, 2 * samples]."""
    heights, widths = (jnp.array(sizes, boxes.dtype)[level]
                       for sizes in zip(*(array.shape[:2] for array in maps), strict=True))
    sizes = [array[..., 0].size for array in maps]
    first = jnp.array([0, *itertools.accumulate(sizes[:-1])], jnp.int32)[level]
    y, x = _places(grid, boxes, level)
    rows, row_shares = _corners(y, heights, grid.samples)
    columns, column_shares = _corners(x, widths, grid.samples)
    rows = first[:, None, None] + rows * widths.astype(jnp.int32)[:, None, None]
    return rows, columns, row_shares, column_shares


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gather(grid, maps, boxes, level):
    features = jnp.concatenate([array.reshape(-1, array.shape[-1]) for array in maps])
    rows, columns, row_shares, column_shares = _neighbours(grid, maps, boxes, level)
    total = 0
    # One sum of single terms, which becomes one loop, is many times faster than a product.
    for i, j in itertools.product(range(rows.shape[-1]), repeat=2):
        index = rows[:, :, None, i] + columns[:, None, :, j]
        share = row_shares[:, :, None, i] * column_shares[:, None, :, j]
        total += share[..., None] * jnp.take(features, index, axis=0, mode='clip')
    return total


def _gather_forward(grid, maps, boxes, level):
    return _gather(grid, maps, boxes, level), (maps, boxes, level)


def _gather_backward(grid, saved, g):
    maps, boxes, level = saved
    if jax.default_backend() != 'cpu':
        transposed = jax.linear_transpose(lambda maps: _products(grid, maps, boxes, level), maps)
        return *transposed(g), None, None
    rows, columns, row_shares, column_shares = _neighbours(grid, maps, boxes, level)
    indices = (rows[:, :, None, :, None] + columns[:, None, :, None]).ravel()
    shares = (row_shares[:, :, None, :, None] * column_shares[:, None, :, None]).ravel()
    channels, sizes = g.shape[-1], [array[..., 0].size for array in maps]
    g, terms = g.reshape(-1, channels), rows.shape[-1] ** 2

    def add(k, total):
        return total.at[indices[k]].add(shares[k] * g[k // terms])

    # XLA's own loop for such a sum, a scatter, is slower.
    total = lax.fori_loop(0, len(indices), add, jnp.zeros((sum(sizes), channels), g.dtype))
    parts = jnp.split(total, list(itertools.accumulate(sizes))[:-1])
    return tuple(part.reshape(array.shape) for part, array in zip(parts, maps, strict=True)
                 ), None, None


_gather.defvjp(_gather_forward, _gather_backward)


def _products(grid, maps, boxes, level):
    def align(region):
        box, level = region
        places = _places(grid, box[None], level[None])
        total = 0
        for i, features in enumerate(maps):
            down, across = (_shares(place[0], count, level == i)
                            for place, count in zip(places, features.shape[:2], strict=True))
            rows = jnp.einsum('ph,hwc->pwc', down, features)
            total += jnp.einsum('qw,pwc->pqc', across, rows)
        return total

    return lax.map(align, (boxes, level), batch_size=CHUNK)


def _shares(places, count, here):
    """The share of each of `count` features in a row or column of bins, [size, count], from the
    places of their samples; 0 if the region is not `here`."""
    inside = (places >= -1) & (places <= count) & here
    distances = jnp.abs(jnp.clip(places, 0, count - 1)[..., None]
                        - jnp.arange(count, dtype=places.dtype)[None, None])
    return jnp.where(inside[..., None], jnp.maximum(1 - distances, 0), 0).mean(1)


def roi_pool(features: jax.Array, boxes: jax.Array, size: int, stride: float) -> jax.Array:
    """RoI max-pooling: [R, size, size, C], the largest features in size x size bins of a box.

    Girshick 2015, section 2.1, https://arxiv.org/abs/1504.08083, as in Caffe: the sides of a box
    are rounded to whole features, the last of which belongs to it, and bins share the features at
    their borders. An empty bin, outside the map, is 0. Where float32 made Caffe's last bin one
    feature too large (57 features into 7 bins), it is not so here. The gradient goes to the first
    of the largest.

    Args:
      features: [H, W, C].
      boxes: [R, 4] in pixels, within the image.
      stride: the pixels from one feature to the next.
    """
    shape = features.shape
    # Boxes of an image may end one feature after the map, where it was rounded down.
    ends = jnp.array([shape[1], shape[0]] * 2, boxes.dtype)[None] + 1
    sides = jnp.clip(jnp.floor(lax.stop_gradient(boxes) / stride + 0.5), 0, ends)
    left, top, right, bottom = jnp.unstack(sides.astype(jnp.int32), axis=-1)
    bins = (_bins(top, bottom, size, shape[0]), _bins(left, right, size, shape[1]))
    return _pool(size, features, bins)


def _bins(low, high, size, limit):
    """The first feature of each bin and the one after its last: int32 [R, size, 2]."""
    extent, bins = jnp.maximum(high - low + 1, 1)[:, None], jnp.arange(size, dtype=jnp.int32)[None]
    edges = jnp.stack([bins * extent // size, -(-(bins + 1) * extent // size)], -1)
    return jnp.clip(low[:, None, None] + edges, 0, limit)


def _walk(size, features, bins):
    """The number of features of the largest bin, and a function of k that returns the index of the
    k-th feature of each bin, int32 [R, size, size], row by row. After their last one, smaller bins
    have some of them again."""
    # Extents are at most two more than the map's; a bin may share a feature at both its borders.
    down, across = (min(count, -(-(count + 2) // size) + 1) for count in features.shape[:2])
    firsts, lasts = zip(*((edges[..., 0], edges[..., 1] - 1) for edges in bins), strict=True)

    def place(k):
        row, column = (jnp.minimum(first + step, last) for first, step, last in zip(
            firsts, (k // across, k % across), lasts, strict=True))
        return row[:, :, None] * features.shape[1] + column[:, None]

    return down * across, place


def _empty(bins):
    down, across = (edges[..., 0] >= edges[..., 1] for edges in bins)
    return (down[:, :, None] | across[:, None])[..., None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _pool(size, features, bins):
    count, place = _walk(size, features, bins)
    flat = features.reshape(-1, features.shape[-1])

    def compare(k, best):
        return jnp.maximum(best, jnp.take(flat, place(k), axis=0, mode='clip'))

    best = jnp.full((*place(0).shape, flat.shape[1]), -jnp.inf, features.dtype)
    unroll = min(count, 8) if isinstance(count, int) else 1  # not a symbolic number
    best = lax.fori_loop(0, count, compare, best, unroll=unroll)
    return jnp.where(_empty(bins), 0, best)


def _pool_forward(size, features, bins):
    """Also remembers the winners, which takes longer."""
    count, place = _walk(size, features, bins)
    flat = features.reshape(-1, features.shape[-1])

    def compare(k, state):
        best, winner = state
        value = jnp.take(flat, place(k), axis=0, mode='clip')
        better = beats(value, best)
        return jnp.where(better, value, best), jnp.where(better, place(k)[..., None], winner)

    state = (jnp.take(flat, place(0), axis=0, mode='clip'),
             jnp.broadcast_to(place(0)[..., None], (*place(0).shape, flat.shape[1])))
    best, winner = lax.fori_loop(1, count, compare, state)
    empty = _empty(bins)
    return jnp.where(empty, 0, best), (features, jnp.where(empty, -1, winner))


def _pool_backward(size, saved, g):
    features, winner = saved
    places, channels = features[..., 0].size, features.shape[-1]
    g, winner = (array.reshape(-1, size ** 2, channels) for array in (g, winner))

    def add(total, region):
        g, winner = region
        here = winner[None] == jnp.arange(places, dtype=jnp.int32)[:, None, None]
        return total + jnp.where(here, g[None], 0).sum(1), None

    total = jnp.zeros((places, channels), g.dtype)
    if jax.default_backend() == 'cpu':
        row = jnp.where(winner < 0, places, winner)  # One after the last is dropped.
        total = total.at[row, jnp.arange(channels)[None, None]].add(g, mode='drop')
    else:  # An addition at the places of the winners would not be reproducible.
        total, _ = lax.scan(add, total, (g, winner))
    return total.reshape(features.shape), None


_pool.defvjp(_pool_forward, _pool_backward)
