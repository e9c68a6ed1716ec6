"""The gradient of an objective on an image, tile by tile: exact, in the memory of one tile.

An objective that is a function of sums over positions (`Objective.tileable`) needs two passes. The
first adds up its statistics tile by tile; the derivative of the loss by the sums is then the same
for all tiles, and the second pass computes each of them again and sends it back: differentiating a
scan over checkpointed tiles is just that. A tile is seen with a halo of pixels around it, as wide
as the receptive fields need, so that the activations it owns are those of the whole image. Nothing
is blended. Tiles and windows begin at multiples of the layers' strides, and a window at a border of
the image has the network's own padding there.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax import summary
from cnnjax.errors import UserError
from cnnjax.images.objectives import Objective, missing


def taps(network, variables, image):
    """{name: [h, w, C] or [C]} of one image [H, W, C] in [0, 1], with these variables."""
    found = network._replace(variables=variables).taps(image[None])
    return {name: tap[0] for name, tap in found.items()}


class Axis(NamedTuple):
    """How one side of an image is cut, in pixels."""

    window: int  # of every tile with its halo
    starts: np.ndarray  # [tiles] of the windows
    owned: np.ndarray  # [tiles, 2] where what the tile owns begins and ends


def cut(length, tile, stride, before, after):
    """An `Axis`: tiles of `tile` pixels with a halo of so many pixels before and after them, all
    but the window's size in multiples of `stride`."""
    tile, before, after = (stride * math.ceil(n / stride) for n in (tile, before, after))
    window = tile + before + after + length % stride  # it may end where the image ends
    if window >= length:
        return Axis(length, np.array([0]), np.array([[0, 2 * length]]))
    begins = np.arange(0, length, tile)
    ends = [*begins[1:], 2 * length]  # the last tile owns what padding adds at the end
    return Axis(window, np.clip(begins - before, 0, length - window), np.stack([begins, ends], 1))


@functools.cache
def _fields(net, image_shape):
    return {row.name: row for row in summary.summarize(net, image_shape).rows}


def axes(network, layers, shape, tile):
    """({layer: stride}, the two `Axis`) for the tiles of an image [H, W, C].

    Raises:
      UserError: a layer whose units see all of the image.
    """
    rows = _fields(network.net, tuple(network.image_shape))
    fields = [rows.get(layer) for layer in layers]
    for layer, row in zip(layers, fields, strict=True):
        if row is None or row.size is None or not np.isfinite(row.size).all() or len(row.shape) < 3:
            raise UserError(f"tile={tile}: the units of '{layer}' see the whole image, which "
                            'cannot be cut into tiles: take a layer before it, or tile=0')
        if any(step != round(step) for step in row.stride):
            raise UserError(f"tile={tile}: the stride of '{layer}' is no whole number of pixels")
    found = []
    for side, length in enumerate(shape[:2]):
        stride = math.lcm(*(int(row.stride[side]) for row in fields))
        before = max(-row.offset[side] for row in fields)
        after = max(row.offset[side] - row.stride[side] + row.size[side] for row in fields)
        found.append(cut(length, tile, stride, max(int(before), 0), max(int(after), 0)))
    strides = {layer: tuple(map(int, row.stride))
               for layer, row in zip(layers, fields, strict=True)}
    return strides, found


def objective(network, function, tile, variables, image, aux):
    """`function(taps, aux)` of an image [H, W, C], in tiles of `tile` x `tile` pixels.

    Value and gradient are those of the whole image; so is the memory that `aux['maps']` takes.

    Raises:
      UserError: the objective is not one of sums over positions, or a layer sees all of the image.
    """
    if not (isinstance(function, Objective) and function.tileable):
        raise UserError(f'tile={tile}: this objective is no function of sums over positions; '
                        'take tile=0')
    missing(function.layers, _fields(network.net, tuple(network.image_shape)))
    strides, (rows, columns) = axes(network, function.layers, image.shape, tile)
    maps = aux.get('maps', {})

    def window(image, maps, row, column):
        """The statistics of what a tile owns."""
        (top, first, last), (left, begin, end) = row, column
        part = lax.dynamic_slice(image, (top, left, 0),
                                 (rows.window, columns.window, image.shape[-1]))
        seen = taps(network, variables, part)
        seen = {layer: seen[layer] for layer in function.layers}
        masks, parts = {}, {}
        for layer, (down, across) in strides.items():
            height, width = seen[layer].shape[:2]
            ys, xs = top + down * jnp.arange(height), left + across * jnp.arange(width)
            masks[layer] = (((first <= ys) & (ys < last))[:, None]
                            & ((begin <= xs) & (xs < end)))
            parts[layer] = {
                name: lax.dynamic_slice(value, (top // down, left // across, *[0] * (value.ndim - 2)),
                                        (height, width, *value.shape[2:]))
                for name, value in maps.get(layer, {}).items()}
        return function.statistics(seen, {**aux, 'maps': parts}, masks)

    def ranges(axis):
        return np.stack([axis.starts, *axis.owned.T], 1)

    rows_, columns_ = ranges(rows), ranges(columns)
    every = np.stack([np.repeat(rows_, len(columns_), 0), np.tile(columns_, (len(rows_), 1))], 1)
    one = jax.checkpoint(window)
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype),
                        jax.eval_shape(window, image, maps, *every[0]))

    def add(total, tile):
        return jax.tree.map(jnp.add, total, one(image, maps, *tile)), None

    total, _ = lax.scan(add, zero, jnp.asarray(every))
    return function.loss(total, aux)
