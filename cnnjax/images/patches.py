"""What units see of an image, and what in it excites them (Zeiler & Fergus 2013, section 4 and
figure 2, https://arxiv.org/abs/1311.2901).

    units = strongest.search(network, ['relu4_1'], stream)['relu4_1']
    images = strongest.look_up(stream, units.images[17])  # the nine of unit 17
    found = project(network, 'relu4_1', images, 17, units.positions[17], 'deconvnet')
    row = next(row for row in summary.summarize(network.net, network.image_shape).rows
               if row.name == 'relu4_1')
    patches = [cut(image, row, position)
               for image, position in zip(images, units.positions[17])]
    causes = [cut(image, row, position)
              for image, position in zip(contrast(found), units.positions[17])]

A unit is a channel of a layer.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike

from cnnjax import parallel
from cnnjax.errors import UserError
from cnnjax.images import pictures
from cnnjax.images.objectives import missing
from cnnjax.images.rules import with_rule
from cnnjax.trained import Trained


def field(row: Any, position: Sequence[int] | np.ndarray) -> tuple[tuple[int, int], ...]:
    """The receptive field of the units at a position (row, column) of a layer: ((top, bottom),
    (left, right)), pixels `top` to before `bottom`; beyond the image where they see its padding.

    `row` is the layer's in summary.summarize(net, the images' shape).
    """
    spans = []
    for seen in row.seen:
        if seen.axis in (1, 2):
            i = position[seen.axis - 1]
            low, high = seen.low[i], seen.high[i]
        else:  # All positions see the same.
            low, high = seen.low.min(), seen.high.max()
        spans.append((int(low), int(high) + 1) if low <= high else (0, 0))  # (0, 0) is nothing.
    return tuple(spans)


def cut(image: ArrayLike, row: Any, position: Sequence[int] | np.ndarray,
        fill: float = 0.5) -> np.ndarray:
    """What the units at a position of a layer see of an image [H, W, C]: exactly their receptive
    field, as a float32 picture of the same size for all positions of the layer.

    The unit is in the middle: of a field that reaches beyond the image, the rest is `fill`, gray.
    Fields that are larger than the image would be little else; there, along that side, the picture
    is the image, with `fill` where the unit does not see it.

    Args:
      image: uint8, or float in [0, 1]; or its projection.
      row, position: see `field`.
    """
    image = np.asarray(image)
    image = np.asarray(image / 255 if image.dtype == np.uint8 else image, np.float32)
    size = tuple(int(min(side, n)) for side, n in zip(row.size, image.shape, strict=False))
    picture = np.full((*size, image.shape[-1]), fill, np.float32)
    source, target = [], []
    for (low, high), side, n in zip(field(row, position), row.size, image.shape, strict=False):
        start = low if side <= n else 0  # where the picture begins in the image
        low, high = max(low, 0), max(min(high, n), 0)
        source.append(slice(low, high))
        target.append(slice(low - start, high - start))
    picture[tuple(target)] = image[tuple(source)]
    return picture


@functools.partial(jax.jit, static_argnames=('net', 'layer'))
def _project(net, layer, variables, normalize, images, units, positions):
    network = Trained(net, variables, normalize, (), images.shape[1:], None)

    def activations(images):
        tap = network.taps(images)[layer]
        tap = tap.reshape(len(tap), *(tap.shape[1:-1] or (1, 1)), tap.shape[-1])
        return tap[jnp.arange(len(tap)), *positions.T, units].sum()

    # An activation depends on no other image: the gradient of the sum has that of each.
    return jax.grad(activations)(images)


def project(network: Trained, layer: str, images: ArrayLike, units: ArrayLike, positions: ArrayLike,
            rule: str = 'deconvnet', *, chunk: int = 32, mesh: Mesh | None = None) -> np.ndarray:
    """What of each image causes the activation of its unit: float32 [N, H, W, C].

    The activation's gradient by the image in [0, 1], with the backward rule `rule` in all ReLUs
    (see rules.py). It begins with 1, where Zeiler & Fergus begin with the activation, which is a
    factor. The program is compiled once for a layer, rule and size of chunk.

    Args:
      network: a Trained network.
      images: [N, H, W, C], uint8 or floats in [0, 1].
      units: [N], or one for all images.
      positions: [N, 2], row and column in the layer; (0, 0) in a layer without positions.
      chunk: images at a time; made a multiple of the number of devices.
      mesh: devices that share every chunk; None: one device.

    Raises:
      UserError: no such layer or rule, or a unit or position that the layer does not have.
    """
    images = np.asarray(images)
    if images.dtype == np.uint8:  # Whole numbers have no gradient.
        images = images / np.float32(255)
    units = np.broadcast_to(np.asarray(units, np.int32), len(images))
    positions = np.asarray(positions, np.int32).reshape(len(images), 2)
    shapes = network.tap_shapes(images.shape[1:])
    missing([layer], shapes)
    *sides, channels = shapes[layer]
    for name, given, size in (('unit', units, channels),
                              ('position', positions, sides or (1, 1))):
        if ((given < 0) | (given >= np.asarray(size))).any():
            raise UserError(f"a {name} is not in '{layer}', which is "
                            f'{" x ".join(map(str, (*sides, channels)))}')
    net = with_rule(network.net, rule)
    mesh = mesh or parallel.data_mesh(1)
    split = NamedSharding(mesh, P(parallel.AXIS))
    variables, normalize = parallel.replicate((network.variables, network.normalize), mesh)
    chunk = mesh.size * math.ceil(min(max(chunk, 1), len(images)) / mesh.size)
    found = np.empty(images.shape, np.float32)
    for start in range(0, len(images), chunk):
        part = np.arange(start, start + chunk) % len(images)  # The last chunk begins anew.
        arrays = jax.device_put((images[part], units[part], positions[part]), split)
        result = np.asarray(_project(net, layer, variables, normalize, *arrays))
        found[start:start + chunk] = result[:len(images) - start]
    return found


def contrast(projection: ArrayLike) -> np.ndarray:
    """Projections [..., H, W, C] as pictures in [0, 1] around gray: each is scaled by its largest
    absolute value, so that what lowers the activation is as visible as what raises it (the Deep
    Visualization Toolbox's, https://github.com/yosinski/deep-visualization-toolbox)."""
    projection = np.asarray(projection, np.float32)
    largest = np.abs(projection).max((-3, -2, -1), keepdims=True)
    return 0.5 + projection / np.where(largest > 0, 2 * largest, 1)


def positive(projection: ArrayLike) -> np.ndarray:
    """Projections [..., H, W, C] as pictures in [0, 1] on black: what raises the activation, scaled
    by its largest value."""
    projection = np.maximum(np.asarray(projection, np.float32), 0)
    largest = projection.max((-3, -2, -1), keepdims=True)
    return projection / np.where(largest > 0, largest, 1)


def sheet(found: Sequence[np.ndarray], size: Sequence[int]) -> np.ndarray:
    """One picture of nine [H, W, C], three by three, each scaled to `size` (height, width)."""
    stacked = np.concatenate(found, -1)  # Side by side, scaling would mix their borders.
    height, width, channels = (*size, found[0].shape[-1])
    return pictures.resize(stacked, tuple(size)).reshape(
        height, width, 3, 3, channels).transpose(2, 0, 3, 1, 4).reshape(
            3 * height, 3 * width, channels)
