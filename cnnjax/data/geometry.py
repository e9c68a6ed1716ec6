"""Geometric changes of examples: each moves an image and its targets together.

An example is a dict of the image, [H, W, C], and its targets. These targets move with the image:

    mask        uint8 [H, W], the class of each pixel, or IGNORE
    weight_map  float32 [H, W], a weight of each pixel
    boxes       float [M, 4], the left, top, right and bottom sides of M objects, in pixels from the
                image's left and upper border; `labels` [M] are their classes, -1 for no object,
                and where `ignore` [M] is true an object counts neither as found nor as missed
    proposals   float [P, 4], boxes in which there may be an object; all 0 for none
    frame       float [4], the box of the whole picture, which may exceed the image

An object whose centre leaves the image becomes none; an ignored one, or a proposal, when nothing of
it is left. All boxes but the frame are cut at the image's border.

Other targets, such as `label`, the class of the whole image, stay as they are; so does `size`, the
(height, width) of the picture as it was before all changes.

On the host, numpy and Pillow add borders and cut; the compiled step crops, warps and mirrors.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.ndimage import map_coordinates

from cnnjax.data import images

LEAST = 0.005  # The share of the image's width and height that an object shows at least; darknet's.
_HALF = 0.5 + 0.5j  # The place of a pixel is its middle; this added is its lower right corner.
IGNORE = 255  # A pixel with this class in a mask counts neither in the loss nor in the error.
PER_PIXEL = {'mask': IGNORE, 'weight_map': 0}  # the targets of pixels: their values outside
# How pixels outside the image are filled: {name in a config: mode of numpy's pad}.
MODES: dict[str, Literal['constant', 'reflect', 'edge']] = {
    'zero': 'constant', 'reflect': 'reflect', 'edge': 'edge'}


def bordered(example: Mapping[str, Any], sides: Sequence[tuple[int, int]],
             mode: str = 'zero') -> Mapping[str, Any]:
    """The example with pixels added on its `sides`, ((top, bottom), (left, right)): black ones, or
    with the mode 'reflect' mirror images, as many as it takes, or with 'edge' the nearest pixels of
    the image. They count in no target."""
    if not np.any(sides):
        return example
    (top, _), (left, _) = sides
    moved = {'image': np.pad(example['image'], (*sides, (0, 0)), MODES[mode])}
    for name, outside in _per_pixel(example).items():
        moved[name] = np.pad(example[name], sides, constant_values=outside)
    shift = np.array([[left, top] * 2], np.float32)
    return {**example, **moved, **_followed(example, lambda boxes: boxes + shift,
                                            moved['image'].shape[:2], np)}


def framed(example: Mapping[str, Any]) -> dict[str, Any]:
    """The example with the `frame` and the `size` of its picture, as it is before all changes."""
    height, width = example['image'].shape[:2]
    return {**example, 'frame': np.array([0, 0, width, height], np.float32),
            'size': np.array([height, width], np.float32)}


def cut(example: Mapping[str, Any], box: images.Box, size: int | tuple[int, int],
        interpolation: str = 'bilinear') -> dict[str, Any]:
    """The part of the example in a box (top, left, height, width), in pixels, scaled to `size`: a
    square's side, or (height, width). Targets of pixels are always scaled by nearest pixels,
    whatever the interpolation."""
    top, left, height, width = box
    rows, columns = images.sides(size)
    moved = {'image': images.cut(example['image'], box, size, interpolation)}
    for name in _per_pixel(example):
        moved[name] = images.cut(example[name][..., None], box, size, 'nearest')[..., 0]
    shift = np.array([[left, top] * 2], np.float32)
    scale = np.array([[columns / width, rows / height] * 2], np.float32)
    return {**example, **moved, **_followed(example, lambda boxes: (boxes - shift) * scale,
                                            (rows, columns), np)}


def cropped(example: Mapping[str, jax.Array], corner: jax.Array, shape: Sequence[int],
            padding: int, mode: str) -> dict[str, jax.Array]:
    """The example padded by `padding` pixels on each side and cut to `shape`, (height, width), at
    `corner`, (top, left), which may be traced; a sequence or a volume in the same way.

    `mode` is 'zero', which pads the image with 0 and the targets of pixels with PER_PIXEL;
    'reflect', which pads all with their mirror images; or 'edge', with their nearest pixels.
    """
    sides = ((padding, padding),) * len(shape)

    def moved(array, sides, outside):
        fill = {'constant_values': outside} if mode == 'zero' else {}
        return lax.dynamic_slice(jnp.pad(array, sides, MODES[mode], **fill),
                                 (*corner, 0)[:array.ndim], (*shape, *array.shape[len(shape):]))

    found = {'image': moved(example['image'], (*sides, (0, 0)), 0)}
    for name, outside in _per_pixel(example).items():
        found[name] = moved(example[name], sides, outside)
    return {**example, **found, **_followed(example, lambda boxes: boxes + jnp.tile(
        padding - corner[::-1], 2).astype(jnp.float32)[None], shape, jnp)}


def warped(example: Mapping[str, jax.Array], corner: jax.Array, shape: Sequence[int], mode: str, *,
           scale: jax.Array, angle: jax.Array, displacements: jax.Array,
           part: jax.Array | None = None) -> dict[str, jax.Array]:
    """The part of the example of `shape`, (height, width), at `corner`, (top, left), which is
    enlarged and turned about its middle, and deformed. All but `shape` and `mode` may be traced.

    Each pixel of the result is looked up once, at its place in the image: the image is interpolated
    linearly between pixels, without smoothing where it shrinks; targets of pixels have the nearest
    pixel's value. Outside the image, `mode` fills as in `cropped`, which is the same where nothing
    is scaled, turned or deformed. A box becomes the smallest around all that was in it; mirror
    images of objects have none.

    Args:
      corner: in pixels of the image; it may lie outside.
      scale: the factor by which things grow.
      angle: in radians, anticlockwise.
      displacements: float [3, 3, 2], (down, right) in pixels of the result, at its corners, the
        middles of its sides and its own middle; see `displacement_field`. The result shows at p
        what would be at p + displacement.
      part: float [4], a box that is first stretched to the whole image, as in YOLO's jitter; it may
        exceed the image. Objects that then show less than LEAST become none. None: no stretch.
    """
    # Places are complex numbers, row + i column, which a multiplication enlarges and turns.
    rows, columns = np.indices(shape, np.float32)
    middle = complex(shape[0] - 1, shape[1] - 1) / 2
    corner = lax.complex(*jnp.asarray(corner, jnp.float32))
    turn = lax.complex(scale * jnp.cos(angle), scale * jnp.sin(angle))
    field = displacement_field(displacements, shape)
    places = corner + middle + (rows + 1j * columns + field - middle) / turn
    if part is not None:
        low, high = lax.complex(*part[1::-1]), lax.complex(*part[:1:-1])
        height, width = example['image'].shape[:2]
        stretch = (high - low).real / height, (high - low).imag / width
        places = _stretched(places + _HALF, stretch) + low - _HALF

    def seen(points):
        """Where the result shows these places of the image, by fixed-point iteration."""
        if part is not None:
            points = _stretched(points + _HALF - low, [1 / each for each in stretch]) - _HALF
        undeformed = middle + (points - corner - middle) * turn
        return lax.fori_loop(0, 10, lambda _, found: undeformed - lax.complex(
            *(_sampled(each, found, 1, 'nearest') for each in (field.real, field.imag))),
            undeformed)

    beyond = {'zero': 'constant', 'reflect': 'mirror', 'edge': 'nearest'}[mode]
    found = {'image': jax.vmap(lambda channel: _sampled(channel, places, 1, beyond), -1, -1)(
        example['image'])}
    for name, outside in _per_pixel(example).items():
        found[name] = _sampled(example[name], places, 0, beyond, outside)
    return {**example, **found, **_followed(example, functools.partial(_around, seen), shape, jnp,
                                            0.0 if part is None else LEAST)}


def _stretched(places, stretch):
    """Complex places, whose rows and columns are multiplied by the two factors."""
    return lax.complex(places.real * stretch[0], places.imag * stretch[1])


def displacement_field(displacements: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Complex [H, W], the displacement (down + i right) of each pixel: bicubic interpolation, with
    Keys' kernel for a = -1/2, of displacements [3, 3, 2] at the corners, the middles of the sides
    and the middle (Ronneberger et al. 2015, section 3.1; https://arxiv.org/abs/1505.04597)."""
    # The outermost points are the middles of the outermost pixels.
    spacing = np.maximum(np.array(shape, np.float32) - 1, 1) / 2
    down, right = jnp.moveaxis(jax.image.scale_and_translate(
        displacements, (*shape, 2), (0, 1), spacing, (1 - spacing) / 2, 'cubic',
        antialias=False), -1, 0)
    return lax.complex(down, right)


def _sampled(array, places, order, mode, outside=0):
    """The array [H, W] at these places; the other arguments are those of map_coordinates."""
    return map_coordinates(array.astype(np.float32), (places.real, places.imag), order, mode,
                           outside).astype(array.dtype)


def _around(seen, boxes):
    """The smallest boxes around the 9 x 9 points of each box, moved by seen(places)."""
    share = np.linspace(0, 1, 9, dtype=np.float32)
    across, down = (boxes[:, i, None] + (boxes[:, i + 2] - boxes[:, i])[:, None] * share[None] - 0.5
                    for i in (0, 1))  # A pixel's place is its middle.
    points = seen(lax.complex(*jnp.broadcast_arrays(down[:, :, None], across[:, None])))
    points = points.reshape(len(boxes), -1)
    return jnp.stack([points.imag.min(-1), points.real.min(-1), points.imag.max(-1),
                      points.real.max(-1)], -1) + 0.5


def mirrored(example: Mapping[str, jax.Array], flip: jax.Array,
             axis: int = 1) -> dict[str, jax.Array]:
    """The example, mirrored if `flip`, which may be traced, is true: left to right, or with the
    axis 0 upside down."""
    found = {name: jnp.where(flip, jnp.flip(example[name], axis), example[name])
             for name in ('image', *_per_pixel(example))}
    shape, first = example['image'].shape[:2], 1 - axis  # the left or the top side

    def moved(boxes):
        return jnp.where(flip, boxes.at[:, (first, first + 2)].set(
            np.float32(shape[axis]) - boxes[:, (first + 2, first)]), boxes)

    return {**example, **found, **_followed(example, moved, shape, jnp)}


def _per_pixel(example):
    """{name of each target of pixels that the example has: its value outside the image}"""
    return {name: outside for name, outside in PER_PIXEL.items() if name in example}


def _followed(example, move, shape, numpy, least=0.0):
    """{name of each target of boxes: its boxes after `move`, [M, 4] -> [M, 4], to an image of that
    (height, width)}. Objects with a side of at most `least` of the image's become none."""
    found, size = {}, np.array([shape[::-1]], np.float32)

    def clipped(boxes):
        """The parts on the image, and whether there is one with sides above `least`."""
        parts = numpy.clip(boxes, 0, np.tile(size, 2))
        return parts, (parts[:, 2:] - parts[:, :2] > np.float32(least) * size).all(-1)

    if 'boxes' in example:
        boxes, labels = move(example['boxes']), example['labels']
        parts, seen = clipped(boxes)
        centers = (boxes[:, :2] + boxes[:, 2:]) / np.float32(2)
        inside = ((centers >= 0) & (centers < size)).all(-1) | example.get('ignore', False)
        seen = seen & inside & (labels >= 0)
        found = {'boxes': numpy.where(seen[:, None], parts, np.float32(0)),
                 'labels': numpy.where(seen, labels, np.int32(-1))}
        if 'ignore' in example:
            found['ignore'] = example['ignore'] & seen
    if 'proposals' in example:
        parts, seen = clipped(move(example['proposals']))
        found['proposals'] = numpy.where(seen[:, None], parts, np.float32(0))
    if 'frame' in example:
        found['frame'] = move(example['frame'][None])[0]
    return found
