"""How what lies on a picture follows it: one geometry is drawn for an example and moves all of it.

An example is a dict of the image, [H, W, C], and its targets. These lie on the picture and move:

    mask    uint8 [H, W], the class of each pixel, or IGNORE
    boxes   float [M, 4], the left, top, right and bottom sides of M objects, in pixels from the
            picture's left and upper border; `labels` [M] are their classes, -1 where there is none

All others, such as `label`, the class of the whole picture, stay as they are.

On the host pictures are bordered and cut, by numpy and Pillow; inside the compiled step images are
translated and mirrored.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax.data import images

IGNORE = 255  # in a mask: the pixel counts neither in the loss nor in an error


def bordered(example: Mapping[str, Any], pixels: int) -> Mapping[str, Any]:
    """The example with so many black pixels on each side of its picture."""
    if not pixels:
        return example
    sides = (pixels, pixels), (pixels, pixels)
    moved = {'image': np.pad(example['image'], (*sides, (0, 0)))}
    if 'mask' in example:
        moved['mask'] = np.pad(example['mask'], sides, constant_values=IGNORE)
    if 'boxes' in example:
        moved['boxes'] = example['boxes'] + np.float32(pixels)
    return {**example, **moved}


def cut(example: Mapping[str, Any], box: images.Box, size: int,
        interpolation: str = 'bilinear') -> dict[str, Any]:
    """The part of the example in a box (top, left, height, width), in pixels, scaled to
    [size, size]; masks by their nearest pixels, whatever the interpolation of the image is."""
    top, left, height, width = box
    moved = {'image': images.cut(example['image'], box, size, interpolation)}
    if 'mask' in example:
        moved['mask'] = images.cut(example['mask'][..., None], box, size, 'nearest')[..., 0]
    if 'boxes' in example:
        shift = np.array([left, top] * 2, np.float32)
        scale = np.array([size / width, size / height] * 2, np.float32)
        moved |= _visible((example['boxes'] - shift) * scale, example['labels'], size, size, np)
    return {**example, **moved}


def translated(example: Mapping[str, jax.Array], corner: jax.Array, padding: int,
               mode: str) -> dict[str, jax.Array]:
    """The example as large as before, cut at `corner`, (top, left), from one with `padding` more
    pixels on each side: a traced move by up to that many pixels.

    What comes in from outside is, by the mode of `jnp.pad`, 0 and ignored ('constant'), or the
    picture's mirror image, of which the mask has the mirrored classes ('reflect').
    """
    height, width = example['image'].shape[:2]
    sides = (padding, padding), (padding, padding)

    def moved(array, sides, **options):
        return lax.dynamic_slice(jnp.pad(array, sides, mode, **options),
                                 (*corner, 0)[:array.ndim], array.shape)

    found = {'image': moved(example['image'], (*sides, (0, 0)))}
    if 'mask' in example:
        outside = {'constant_values': IGNORE} if mode == 'constant' else {}
        found['mask'] = moved(example['mask'], sides, **outside)
    if 'boxes' in example:
        shift = jnp.tile(padding - corner[::-1], 2).astype(jnp.float32)
        found |= _visible(example['boxes'] + shift[None], example['labels'], height, width, jnp)
    return {**example, **found}


def mirrored(example: Mapping[str, jax.Array], flip: jax.Array) -> dict[str, jax.Array]:
    """The example, left and right exchanged where the traced `flip` is true."""
    found = {name: jnp.where(flip, example[name][:, ::-1], example[name])
             for name in ('image', 'mask') if name in example}
    if 'boxes' in example:
        left, top, right, bottom = example['boxes'].T
        width = np.float32(example['image'].shape[1])
        other = jnp.stack([width - right, top, width - left, bottom], -1)
        found['boxes'] = jnp.where(flip, other, example['boxes'])
    return {**example, **found}


def _visible(boxes, labels, height, width, numpy):
    """The parts of the boxes that lie on the picture; an object whose centre has left it is none.
    """
    centers = (boxes[:, :2] + boxes[:, 2:]) / np.float32(2)
    size = np.array([width, height], np.float32)
    inside = ((centers >= 0) & (centers < size[None])).all(-1)
    clipped = numpy.clip(boxes, 0, np.tile(size, 2)[None])
    return {'boxes': numpy.where(inside[:, None], clipped, np.float32(0)),
            'labels': numpy.where(inside, labels, np.int32(-1))}
