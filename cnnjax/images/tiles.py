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
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax import summary
from cnnjax.errors import UserError
from cnnjax.images.objectives import Objective, fitting, missing
from cnnjax.trained import Trained


def taps(network: Trained, variables: Any, image: jax.Array) -> dict[str, Any]:
    """{name: [h, w, C] or [C]} of one image [H, W, C] in [0, 1], with these variables; of a stack
    of images [K, H, W, C], {name: [K, h, w, C] or [K, C]}."""
    network = network._replace(variables=variables)
    if image.ndim == 4:
        return network.taps(image)
    return {name: tap[0] for name, tap in network.taps(image[None]).items()}


def activations(network: Trained, shape: Sequence[int], tile: int = 0) -> int:
    """How many numbers all activations of an image [H, W, C] are, or those of one of its tiles."""
    if tile:
        shape = (*(min(side, max(tile, own)) for side, own in
                   zip(shape[:2], network.image_shape[:2], strict=True)), shape[2])
    return sum(map(math.prod, network.tap_shapes(shape).values()))


class Axis(NamedTuple):
    """How one side of an image is cut, in pixels."""

    window: int  # the side of every tile with its halo
    starts: np.ndarray  # [tiles], where the windows begin
    owned: np.ndarray  # [tiles, 2], where the part that a tile owns begins and ends


def cut(length: int, tile: int, stride: int, before: int, after: int) -> Axis:
    """The `Axis` of tiles of `tile` pixels with halos of `before` and `after` pixels. All but the
    window's size are multiples of `stride`."""
    tile, before, after = (stride * math.ceil(n / stride) for n in (tile, before, after))
    window = tile + before + after + length % stride  # The last window ends where the image ends.
    if window >= length:
        return Axis(length, np.array([0]), np.array([[0, 2 * length]]))
    begins = np.arange(0, length, tile)
    ends = [*begins[1:], 2 * length]  # The last tile owns what padding adds.
    return Axis(window, np.clip(begins - before, 0, length - window), np.stack([begins, ends], 1))


@functools.cache
def _fields(net, image_shape) -> dict[str, Any]:
    return {row.name: row for row in summary.summarize(net, image_shape).rows}


class Tiling:
    """The tiles of an image [H, W, C] of that shape, for activations of these layers.

    Raises:
      UserError: no such layer, or one whose units see all of the image.
    """

    def __init__(self, network: Trained, layers: Sequence[str], shape: Sequence[int], tile: int):
        rows = _fields(network.net, tuple(network.image_shape))
        missing(layers, rows)
        fields = [rows[layer] for layer in layers]
        for row in fields:
            if row.size is None or not np.isfinite(row.size).all() or len(row.shape) < 3:
                raise UserError(f"tile={tile}: the units of '{row.name}' see the whole image, "
                                'which cannot be cut into tiles: take a layer before it, or tile=0')
            if any(stride != round(stride) for stride in row.stride):
                raise UserError(f"tile={tile}: the units of '{row.name}' are no whole number of "
                                'pixels apart: take tile=0')
        self.network = network
        self.strides = {row.name: tuple(map(int, row.stride)) for row in fields}
        sides = []
        for side, length in enumerate(shape[:2]):
            stride = math.lcm(*(strides[side] for strides in self.strides.values()))
            before = max(-row.offset[side] for row in fields)
            after = max(row.offset[side] - row.stride[side] + row.size[side] for row in fields)
            sides.append(cut(length, tile, stride, max(int(before), 0), max(int(after), 0)))
        self.window = sides[0].window, sides[1].window
        # [tiles, side, (start of the window, begin and end of what the tile owns)]
        ranges = [np.stack([side.starts, *side.owned.T], 1) for side in sides]
        self.places = np.stack([np.repeat(ranges[0], len(ranges[1]), 0),
                                np.tile(ranges[1], (len(ranges[0]), 1))], 1)

    def see(self, variables: Any, image: jax.Array, place: jax.Array) -> tuple[dict, dict, dict]:
        """A window's activations {layer: [h, w, C]}, the masks {layer: [h, w]} of those that the
        tile owns, and where they begin in the layer {layer: (row, column)}."""
        (top, first, last), (left, begin, end) = place
        part = lax.dynamic_slice(image, (top, left, 0), (*self.window, image.shape[-1]))
        normalize: Any = self.network.normalize
        if normalize.mean.shape[:-1] == image.shape[:2]:  # a mean image: the window's part of it
            mean = lax.dynamic_slice(normalize.mean, (top, left, 0), part.shape)
            normalize = normalize._replace(mean=mean)
        else:
            normalize = normalize._replace(mean=normalize.color)
        try:
            normalize.check_pointwise('tiles')
            seen = taps(self.network._replace(normalize=normalize), variables, part)
        except UserError as error:
            raise UserError(f'a tile with its halo has {self.window} pixels: {error}; take a '
                            'larger tile') from error
        masks, corners = {}, {}
        for layer, (down, across) in self.strides.items():
            rows = top + down * jnp.arange(seen[layer].shape[0])
            columns = left + across * jnp.arange(seen[layer].shape[1])
            masks[layer] = (((first <= rows) & (rows < last))[:, None]
                            & ((begin <= columns) & (columns < end))[None])
            corners[layer] = top // down, left // across
        return {layer: seen[layer] for layer in self.strides}, masks, corners


def value(network: Trained, objective: Objective, tile: int, variables: Any, image: jax.Array,
          aux: Mapping[str, Any]) -> dict[str, jax.Array]:
    """objective(taps, aux) of an image [H, W, C], computed in tiles of `tile` x `tile` pixels.

    Value and gradient are those of the whole image; the memory is that of one tile beside the
    image and aux['maps']. With `tile` = 0 the image is not cut.

    Raises:
      UserError: the objective is not one of sums over positions, or see `Tiling`.
    """
    if not tile:
        return objective(taps(network, variables, image), aux)
    if not (isinstance(objective, Objective) and objective.tileable):
        raise UserError(f'tile={tile}: this objective is no function of sums over positions; '
                        'take tile=0')
    tiling = Tiling(network, objective.layers, image.shape, tile)

    def statistics(image, maps, place):
        seen, masks, corners = tiling.see(variables, image, place)
        parts = {layer: {name: lax.dynamic_slice(
            whole, (*corners[layer], *[0] * (whole.ndim - 2)),
            (*seen[layer].shape[:2], *whole.shape[2:])) for name, whole in maps[layer].items()}
            for layer in seen if layer in maps}
        return objective.statistics(seen, {**aux, 'maps': parts}, masks)

    def add(total, place):
        part = jax.checkpoint(statistics)(image, maps, place)
        return jax.tree.map(jnp.add, total, part), None

    maps = aux.get('maps', {})
    fitting(objective.layers, jax.eval_shape(lambda: taps(network, variables, image)), aux)
    zero = jax.tree.map(lambda like: jnp.zeros(like.shape, like.dtype),
                        jax.eval_shape(statistics, image, maps, tiling.places[0]))
    return objective.loss(lax.scan(add, zero, tiling.places)[0], aux)


def maps(network: Trained, layers: Sequence[str], tile: int, variables: Any,
         image: jax.Array) -> dict[str, jax.Array]:
    """{layer: [h, w, C]} of an image [H, W, C], computed in tiles; what `taps` gives of these."""
    if not tile:
        found = taps(network, variables, image)
        missing(layers, found)
        return {layer: found[layer] for layer in layers}
    tiling = Tiling(network, layers, image.shape, tile)

    def add(whole, place):
        seen, masks, corners = tiling.see(variables, image, place)
        for layer, part in seen.items():
            corner = *corners[layer], 0
            part = jnp.where(masks[layer][..., None], part, 0)
            part += lax.dynamic_slice(whole[layer], corner, part.shape)
            whole = whole | {layer: lax.dynamic_update_slice(whole[layer], part, corner)}
        return whole, None

    shapes = jax.eval_shape(lambda: taps(network, variables, image))
    zero = {layer: jnp.zeros(shapes[layer].shape, shapes[layer].dtype) for layer in layers}
    return lax.scan(add, zero, tiling.places)[0]
