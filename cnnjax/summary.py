"""What is in a network, layer by layer: shapes, receptive fields, parameters, multiply-adds.

    print(summary.table(summary.summarize(models.create('resnet50'))))

Nothing is run and no network describes itself: the forward pass is traced to a jaxpr, and every
operation of the jaxpr says which pixels of the image each of its outputs sees (receptive_fields.py
defines size, stride and offset) and what it costs (forward_pass.py).

Multiply-adds are those of convolutions and full layers, for one image, as the papers count them
(their "FLOPs"): no bias, normalization, activation or pooling.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from cnnjax import forward_pass, tables
from cnnjax.receptive_fields import Extent

COLLECTIONS = ('params', 'batch_stats')


class Row(NamedTuple):
    """A layer with parameters, a tap, or both."""

    name: str
    shape: tuple[int, ...] | None  # the output's, without the batch; None: not evaluated
    size: tuple[float, ...] | None  # the receptive field's, per side of the image; inf: all
    stride: tuple[float, ...] | None
    offset: tuple[float, ...] | None
    params: int
    multiply_adds: int
    inputs: tuple[str, ...]  # the taps that it is computed from
    depends: frozenset[str]  # the layers used to compute it, itself included
    seen: tuple[Extent, ...] | None  # the receptive fields position by position


class Summary(NamedTuple):
    """The rows in the order of the forward pass, and the totals."""

    name: str
    image_shape: tuple[int, ...]
    rows: tuple[Row, ...]
    params: int
    multiply_adds: int


def summarize(net: nn.Module, image_shape: Sequence[int] | None = None) -> Summary:
    """The Summary of a network in evaluation, for images [H, W, C] (default: the paper's)."""
    image_shape = tuple(image_shape or net.image_shape)
    image = jax.ShapeDtypeStruct((1, *image_shape), 'float32')
    variables = jax.eval_shape(functools.partial(net.init, train=False), jax.random.key(0), image)
    variables = {name: variables[name] for name in COLLECTIONS if name in variables}
    walk = forward_pass.walk(net, variables, image)
    params = dict.fromkeys(walk.owners, 0)
    for owner, (path, leaf) in zip(walk.owners, jax.tree.leaves_with_path(variables), strict=True):
        params[owner] += leaf.size if path[0].key == 'params' else 0
    rows = []
    order = {name: layer.order for name, layer in walk.layers.items()}
    order |= {name: when for name, (when, _, _) in walk.taps.items()}
    for name in sorted(order, key=order.__getitem__):
        layer: Any = walk.layers.get(name)
        _, value, shape = walk.taps.get(name) or (0, layer.value, layer.shape)
        rows.append(Row(
            name, tuple(shape[1:]), *_report(value.seen, image_shape), params.get(name, 0),
            layer.multiply_adds if layer else 0, tuple(sorted(value.taps, key=order.__getitem__)),
            walk.owners_of(value.leaves), value.seen))
    rows += [Row(name, None, None, None, None, count, 0, (), frozenset([name]), None)
             for name, count in params.items() if name not in order]
    return Summary(type(net).__name__, image_shape, tuple(rows), sum(params.values()),
                   sum(row.multiply_adds for row in rows))


def _report(seen, image_shape):
    """(sizes, strides, offsets) of what is seen, per side of the image."""
    if seen is None:
        return None, None, None
    sizes, strides, offsets = [], [], []
    for extent, n in zip(seen, image_shape, strict=False):
        low, high = (array[np.isfinite(array)] for array in (extent.low, extent.high))
        if not low.size:
            return None, None, None
        whole = extent.axis is None and low.min() <= 0 and high.max() >= n - 1
        sizes.append(math.inf if whole else float((high - low + 1).max()))
        strides.append(0.0 if extent.axis is None else extent.step)
        offsets.append(0.0 if whole else float(low[0]))
    return tuple(sizes), tuple(strides), tuple(offsets)


def grid(rows: Sequence[Row]) -> int:
    """The least number of pixels by which an image can move so that every layer that sees it moves
    by whole positions."""
    return int(np.lcm.reduce([math.ceil(row.stride[0]) or 1 for row in rows if row.stride]))


def fold(summary: Summary, depth: int) -> Summary:
    """The same with the rows of names longer than `depth` added to those of their module."""
    if not depth:
        return summary
    groups = {}
    for row in summary.rows:
        groups.setdefault('/'.join(row.name.split('/')[:depth]), []).append(row)
    rows = []
    for name, members in groups.items():
        last = next((row for row in members if row.name == name), members[-1])
        inputs = {'/'.join(tap.split('/')[:depth]): None for row in members for tap in row.inputs}
        rows.append(last._replace(
            name=name, params=sum(row.params for row in members),
            multiply_adds=sum(row.multiply_adds for row in members),
            inputs=tuple(tap for tap in inputs if tap != name)))
    return summary._replace(rows=tuple(rows))


def numbers(values: Sequence[float], infinite: str = 'all') -> str:
    """(3, 3) -> '3', (3, 5) -> '3 x 5'; whole numbers without a point."""
    shown = [infinite if math.isinf(v) else f'{v:.4g}' if v % 1 else f'{v:.0f}' for v in values]
    return shown[0] if len(set(shown)) == 1 else ' x '.join(shown)


def table(summary: Summary) -> str:
    """The rows as aligned text, and the totals."""
    lines: list[tuple[str, ...]] = [
        ('layer', 'output', 'sees', 'stride', 'offset', 'parameters', 'multiply-adds')]
    for row in summary.rows:
        field = ('', '', '')
        if row.size and row.stride and row.offset:
            field = (numbers(row.size), numbers(row.stride) if any(row.stride) else '',
                     '' if any(map(math.isinf, row.size)) else numbers(row.offset))
        lines.append((row.name, 'not evaluated' if row.shape is None else
                      ' x '.join(map(str, row.shape)) or '1', *field,
                      f'{row.params:,}' if row.params else '',
                      f'{row.multiply_adds:,}' if row.multiply_adds else ''))
    lines.append(('total', '', '', '', '', f'{summary.params:,}', f'{summary.multiply_adds:,}'))
    text = ['  '.join(line).rstrip() for line in tables.aligned(lines, left=2)]
    rule = '-' * max(map(len, text))
    image = ' x '.join(map(str, summary.image_shape))
    return '\n'.join([f'{summary.name}, images {image}', rule, text[0], rule, *text[1:-1], rule,
                      text[-1]])
