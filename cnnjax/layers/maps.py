"""Maps [N, ..., C] and their shapes: what every kind of layer needs."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax.errors import UserError

Taps = dict[str, jax.Array]  # Activations by the names of their layers, in forward order.


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


def along(values: jax.Array, x: jax.Array) -> jax.Array:
    """The values [C], with axes of size 1 before them, so that they go along the last axis of x."""
    return lax.expand_dims(values, range(x.ndim - 1))


def subsample(x: jax.Array, stride: int) -> jax.Array:
    """Every `stride`-th pixel along each axis of [N, H, W, C]."""
    return x[(slice(None), *(slice(None, None, stride),) * (x.ndim - 2))]


def append_channels(x: jax.Array, count: int) -> jax.Array:
    """x [N, ..., C] with so many channels of zeros behind its own."""
    return jnp.pad(x, ((0, 0),) * (x.ndim - 1) + ((0, count),))


def repeat_edges(x: jax.Array, padding: Sequence[tuple[int, int]]) -> jax.Array:
    """x [N, H, W, C] with its outermost pixels repeated so many times before and after it, along
    each of H and W: `jnp.pad` with 'edge', in operations whose receptive fields are known."""
    for axis, (low, high) in enumerate(padding, 1):
        first, last = (lax.slice_in_dim(x, i, i + 1, axis=axis) for i in (0, x.shape[axis] - 1))
        x = jnp.concatenate([first] * low + [x] + [last] * high, axis)
    return x


def same(x: jax.Array, size: int, stride: int) -> list[tuple[int, int]]:
    """TensorFlow's padding 'SAME' of x [N, H, W, C]: the zeros before and after each of H and W, of
    which there is one more after than before if their number is odd."""
    rank = x.ndim - 2
    return lax.padtype_to_pads(x.shape[1:-1], (size,) * rank, (stride,) * rank, 'SAME')
