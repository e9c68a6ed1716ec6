"""Which pixels of the image the result of an operation sees, position by position.

The receptive field of unit i, along one side of the image, is pixels offset + i * stride ...
offset + i * stride + size - 1 (Araujo et al. 2019, "Computing Receptive Fields of Convolutional
Neural Networks", https://distill.pub/2019/computing-receptive-fields). Padding counts as pixels, so
the offset may be negative and the size larger than the image.

`RULES` has a rule for each of JAX's operations that moves pixels; the others work element by
element, or each of their results may see all that their operands see.
"""

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np


class Extent(NamedTuple):
    """What an array sees along one side of the image, position by position."""

    axis: int | None  # the array's axis along this side; None: all elements see the same
    low: np.ndarray  # [positions] first pixel; beyond the image in the padding; inf: sees nothing
    high: np.ndarray  # [positions] last pixel
    step: float  # pixels between neighbouring positions


def _collapse(extent):
    """Every element sees what any position saw."""
    return Extent(None, extent.low.min(keepdims=True), extent.high.max(keepdims=True), extent.step)


def collapsed(values: Iterable[Any]) -> tuple[Extent, ...] | None:
    return join([tuple(map(_collapse, value.seen)) for value in values if value.seen is not None])


def join(seen: Sequence[tuple[Extent, ...]]) -> tuple[Extent, ...] | None:
    """The union, position by position, of what arrays of one shape see; None for none."""
    if not seen:
        return None
    return tuple(_join_side(extents) for extents in zip(*seen, strict=True))


def _join_side(extents):
    if len({extent.axis for extent in extents if extent.axis is not None}) > 1:
        extents = [_collapse(extent) for extent in extents]
    main = next((extent for extent in extents if extent.axis is not None), extents[0])
    low, high = extents[0].low, extents[0].high
    for extent in extents[1:]:
        low, high = np.minimum(low, extent.low), np.maximum(high, extent.high)
    return Extent(main.axis, low, high, main.step)


def _at(extent, index):
    """(low, high) of positions that may lie in the padding, where the field goes on regularly."""
    inside = np.clip(index, 0, len(extent.low) - 1)
    shift = (index - inside) * extent.step
    return extent.low[inside] + shift, extent.high[inside] + shift


def _window(extent, outputs, size, stride, padding, grow, dilation):
    """A window that slides along the extent, `grow` - 1 zeros between its positions."""
    places = np.arange(outputs)[:, None] * stride - padding + np.arange(size) * dilation
    low, high = _at(extent, places // grow)
    empty = places % grow != 0
    return extent._replace(low=np.where(empty, np.inf, low).min(1),
                           high=np.where(empty, -np.inf, high).max(1),
                           step=extent.step * stride / grow)


def _pick(extent, index):
    return extent._replace(low=extent.low[index], high=extent.high[index])


def operation(eqn: Any, inputs: Sequence[Any]) -> tuple[Extent, ...] | None:
    """What the results of an operation see: a tuple of Extents, None without the image."""
    seeing = [i for i, value in enumerate(inputs) if value.seen is not None]
    if not seeing:
        return None
    rule = RULES.get(eqn.primitive.name)
    shapes = [atom.aval.shape for atom in eqn.invars]
    shape = eqn.outvars[0].aval.shape
    if rule is not None and (seeing == [0] or eqn.primitive.name in SEVERAL):
        return rule(eqn, inputs, shapes, shape)
    # Element by element, sides of 1 repeated; anything else may see all that its operands see.
    alike = all(len(shapes[i]) == len(shape) and all(
        n in (1, m) for n, m in zip(shapes[i], shape, strict=True)) for i in seeing if shapes[i])
    if rule is None and alike and len(eqn.outvars) == 1:
        return tuple(e if e.axis is None else e._replace(
            low=np.broadcast_to(e.low, shape[e.axis]), high=np.broadcast_to(e.high, shape[e.axis]))
            for e in join([inputs[i].seen for i in seeing]) or ())
    return collapsed(inputs)


def _each(change):
    """A rule that treats the operand's sides alike: `change` is called where an axis runs along."""
    def rule(eqn, inputs, shapes, shape):
        return tuple(e if e.axis is None else change(e, eqn.params, shapes[0], shape)
                     for e in inputs[0].seen)
    return rule


def _convolution(eqn, inputs, shapes, shape):
    params, seen = eqn.params, []
    numbers = params['dimension_numbers']
    for extent in inputs[0].seen:
        if extent.axis in numbers.lhs_spec[2:]:
            i = numbers.lhs_spec[2:].index(extent.axis)
            axis = numbers.out_spec[2:][i]
            extent = _window(extent._replace(axis=axis), shape[axis],
                             shapes[1][numbers.rhs_spec[2:][i]], params['window_strides'][i],
                             params['padding'][i][0], params['lhs_dilation'][i],
                             params['rhs_dilation'][i])
        seen.append(_collapse(extent) if extent.axis is None else extent)
    return tuple(seen)


def _reduce_window(extent, params, _, shape):
    axis = extent.axis
    return _window(extent, shape[axis], params['window_dimensions'][axis],
                   params['window_strides'][axis], params['padding'][axis][0],
                   params.get('base_dilation', (1,) * len(shape))[axis],
                   params.get('window_dilation', (1,) * len(shape))[axis])


def _pad(extent, params, _, shape):
    low, _, inner = params['padding_config'][extent.axis]
    return _window(extent, shape[extent.axis], 1, 1, low, inner + 1, 1)


def _slice(extent, params, shape, _):
    axis = extent.axis
    stride = params['strides'][axis] if params['strides'] else 1
    index = np.arange(params['start_indices'][axis], params['limit_indices'][axis], stride)
    return _pick(extent, index)._replace(step=extent.step * stride)


def _dynamic_slice(eqn, inputs, shapes, shape):
    seen = []
    for extent in inputs[0].seen:
        if extent.axis is not None and shape[extent.axis] != shapes[0][extent.axis]:
            start = inputs[1 + extent.axis].constant
            extent = (_collapse(extent) if start is None else
                      _pick(extent, int(start()) + np.arange(shape[extent.axis])))
        seen.append(extent)
    return tuple(seen)


def _gather(eqn, inputs, shapes, shape):
    """x[:, index], with an index that is a constant; with another, any position may be meant."""
    numbers, sizes, seen = eqn.params['dimension_numbers'], eqn.params['slice_sizes'], []
    dropped = set(numbers.collapsed_slice_dims) | set(numbers.operand_batching_dims)
    kept = [axis for axis in range(len(shapes[0])) if axis not in dropped]
    index = inputs[1].constant
    for extent in inputs[0].seen:
        axis = extent.axis
        if axis is None:
            seen.append(extent)
        elif axis in kept and sizes[axis] == shapes[0][axis]:
            seen.append(extent._replace(axis=numbers.offset_dims[kept.index(axis)]))
        elif index is not None and axis in numbers.start_index_map and len(shapes[1]) == 2:
            picked = np.asarray(index())[:, numbers.start_index_map.index(axis)]
            batch = next(i for i in range(len(shape)) if i not in numbers.offset_dims)
            picked = _pick(extent, np.clip(picked, 0, len(extent.low) - 1))
            step = extent.step * len(extent.low) / len(picked.low)  # on average
            seen.append(picked._replace(axis=batch, step=step))
        else:
            seen.append(_collapse(extent))
    return tuple(seen)


def _reduce(extent, params, *_):
    if extent.axis in params['axes']:
        return _collapse(extent)
    return extent._replace(axis=extent.axis - sum(a < extent.axis for a in params['axes']))


def _reshape(extent, params, shape, new):
    """An axis that stays whole, however its neighbours are grouped, still runs along the side."""
    before = math.prod(shape[:extent.axis])
    for axis, n in enumerate(new):
        if n == shape[extent.axis] and math.prod(new[:axis]) == before:
            return extent._replace(axis=axis)
    return _collapse(extent)


def _broadcast(extent, params, shape, new):
    axis = params['broadcast_dimensions'][extent.axis]
    return _pick(extent, np.arange(new[axis]) * (shape[extent.axis] > 1))._replace(axis=axis)


def _transpose(extent, params, *_):
    return extent._replace(axis=params['permutation'].index(extent.axis))


def _squeeze(extent, params, shape, _):
    if extent.axis in params['dimensions']:
        return _collapse(extent)
    return extent._replace(axis=extent.axis - sum(a < extent.axis for a in params['dimensions']))


def _reverse(extent, params, *_):
    if extent.axis not in params['dimensions']:
        return extent
    return _pick(extent, slice(None, None, -1))._replace(step=-extent.step)


def _along(extent, params, *_):
    """Sums and sorts along an axis: each position may see all."""
    axis = params['axis'] if 'axis' in params else params['dimension']
    if extent.axis != axis:
        return extent
    return extent._replace(low=np.full_like(extent.low, extent.low.min()),
                           high=np.full_like(extent.high, extent.high.max()))


def _concatenate(eqn, inputs, shapes, shape):
    dimension = eqn.params['dimension']
    sides = []
    for side in range(len(next(v.seen for v in inputs if v.seen is not None))):
        extents = [v.seen[side] if v.seen is not None else None for v in inputs]
        axes = {e.axis for e in extents if e is not None}
        if dimension not in axes:
            sides.append(_join_side([e for e in extents if e is not None]))
        elif None not in extents and (edges := _repeated_edges(extents)):
            main, index = edges
            low, high = _at(main, index)
            sides.append(Extent(dimension, low, high, main.step))
        elif axes <= {dimension}:  # pictures side by side
            step = next(e.step for e in extents if e is not None)
            nothing = [np.full(s[dimension], np.inf) for s in shapes]
            low = [n if e is None else e.low for e, n in zip(extents, nothing, strict=True)]
            high = [-n if e is None else e.high for e, n in zip(extents, nothing, strict=True)]
            sides.append(Extent(dimension, np.concatenate(low), np.concatenate(high), step))
        else:
            sides.append(_join_side([_collapse(e) for e in extents if e is not None]))
    return tuple(sides)


def _repeated_edges(extents):
    """(an extent, the positions of the whole) if the others are copies of its first position before
    it and of its last behind it, else None. They are padding, where the field goes on regularly."""
    length = max(len(e.low) for e in extents)
    longest = [i for i, e in enumerate(extents) if len(e.low) == length]
    middle = longest[len(longest) // 2]
    main = extents[middle]
    for i, e in enumerate(extents):
        edge = slice(0, 1) if i < middle else slice(-1, None)
        if i != middle and not (np.array_equal(e.low, main.low[edge])
                                and np.array_equal(e.high, main.high[edge])):
            return None
    return main, np.arange(-middle, length + len(extents) - 1 - middle)


def _split(eqn, inputs, *_):
    """Parts of the channels see what all of them see."""
    seen = inputs[0].seen
    along = any(extent.axis == eqn.params['axis'] for extent in seen)
    return collapsed(inputs) if along else seen


def _dot(eqn, inputs, shapes, shape):
    (contracted, batch) = eqn.params['dimension_numbers']
    free = [[a for a in range(len(side)) if a not in contracted[i] and a not in batch[i]]
            for i, side in enumerate(shapes)]
    results = []
    for which, value in enumerate(inputs[:2]):
        if value.seen is None:
            continue
        first = len(batch[0]) + which * len(free[0])
        places = {a: i for i, a in enumerate(batch[which])}
        places |= {a: first + i for i, a in enumerate(free[which])}
        weights, other = inputs[1 - which].constant, 1 - which
        if weights and len(shapes[other]) == 2 and len(free[other]) == 1:  # an interpolation
            weights = np.moveaxis(np.asarray(weights()), free[other][0], 0)
            mixed = functools.partial(_mix, weights, axis=len(batch[0]) + other * len(free[0]))
        else:
            mixed = _collapse
        results.append(tuple(
            e._replace(axis=places[e.axis]) if e.axis in places
            else mixed(e) if e.axis in contracted[which] else _collapse(e) for e in value.seen))
    return join(results)


def _mix(weights, extent, axis):
    """Sums of positions, each with its weights, a row of a constant matrix."""
    low = np.where(weights != 0, extent.low, np.inf).min(1)
    high = np.where(weights != 0, extent.high, -np.inf).max(1)
    share = abs(weights) / np.maximum(abs(weights).sum(1, keepdims=True), 1e-30)
    apart = np.diff(share @ np.arange(len(extent.low)))
    return Extent(axis, low, high, extent.step * float(np.median(apart) if apart.size else 1))


RULES = {
    'conv_general_dilated': _convolution, 'dot_general': _dot, 'concatenate': _concatenate,
    'split': _split,
    'gather': _gather, 'dynamic_slice': _dynamic_slice, 'slice': _each(_slice), 'pad': _each(_pad),
    'reshape': _each(_reshape), 'broadcast_in_dim': _each(_broadcast),
    'transpose': _each(_transpose), 'squeeze': _each(_squeeze), 'rev': _each(_reverse),
}
RULES |= {f'reduce_{kind}': _each(_reduce) for kind in ('sum', 'max', 'min', 'prod', 'and', 'or')}
RULES |= {kind: _each(_reduce) for kind in ('argmax', 'argmin')}
RULES |= {f'reduce_window{kind}': _each(_reduce_window) for kind in ('', '_sum', '_max', '_min')}
RULES |= {kind: _each(_along) for kind in
          ('sort', 'cumsum', 'cumprod', 'cummax', 'cummin', 'cumlogsumexp')}
SEVERAL = ('concatenate', 'dot_general')  # several of their operands may see the image
