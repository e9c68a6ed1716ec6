"""Geometric changes of examples: each moves an image and its targets together.

An example is a dict of the image, [H, W, C], and its targets. These targets move with the image:

    mask    uint8 [H, W], the class of each pixel, or IGNORE
    boxes   float [M, 4], the left, top, right and bottom sides of M objects, in pixels from the
            image's left and upper border; `labels` [M] are their classes, -1 for no object

Other targets, such as `label`, the class of the whole image, stay as they are.

On the host, numpy and Pillow add borders and cut; the compiled step translates and mirrors.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax.data import images

IGNORE = 255  # A pixel with this class in a mask counts neither in the loss nor in the error.


def bordered(example: Mapping[str, Any], pixels: int) -> Mapping[str, Any]:
    """The example with `pixels` black pixels added on each side."""
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
    [size, size]. Masks are always scaled by nearest pixels, whatever the interpolation."""
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
    """The example moved by up to `padding` pixels: padded on each side and cut back to its size at
    `corner`, (top, left), which may be traced.

    `mode` is that of `jnp.pad`: 'constant' pads the image with 0 and the mask with IGNORE,
    'reflect' pads both with their mirror images.
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
    """The example, mirrored left to right if `flip`, which may be traced, is true."""
    found = {name: jnp.where(flip, example[name][:, ::-1], example[name])
             for name in ('image', 'mask') if name in example}
    if 'boxes' in example:
        left, top, right, bottom = example['boxes'].T
        width = np.float32(example['image'].shape[1])
        other = jnp.stack([width - right, top, width - left, bottom], -1)
        found['boxes'] = jnp.where(flip, other, example['boxes'])
    return {**example, **found}


def _visible(boxes, labels, height, width, numpy):
    """The parts of the boxes that lie on the image. An object whose centre is outside gets the
    label -1."""
    centers = (boxes[:, :2] + boxes[:, 2:]) / np.float32(2)
    size = np.array([width, height], np.float32)
    inside = ((centers >= 0) & (centers < size[None])).all(-1)
    clipped = numpy.clip(boxes, 0, np.tile(size, 2)[None])
    return {'boxes': numpy.where(inside[:, None], clipped, np.float32(0)),
            'labels': numpy.where(inside, labels, np.int32(-1))}
