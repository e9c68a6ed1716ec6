"""What is in a network, layer by layer: shapes, receptive fields, parameters, multiply-adds.

    print(summary.table(summary.summarize(models.create('resnet50'))))

Nothing is run and no network describes itself: the forward pass is traced to a jaxpr, and every
operation of the jaxpr says which pixels of the image each of its outputs sees and what it costs.

The receptive field of unit i, along one side of the image, is pixels offset + i * stride ...
offset + i * stride + size - 1 (Araujo et al. 2019, "Computing Receptive Fields of Convolutional
Neural Networks", https://distill.pub/2019/computing-receptive-fields). Padding counts as pixels, so
the offset may be negative and the size larger than the image.

Multiply-adds are those of convolutions and full layers, for one image, as the papers count them
(their "FLOPs"): no bias, normalization, activation or pooling.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from cnnjax import tables

COLLECTIONS = ('params', 'batch_stats')


class Row(NamedTuple):
    """A layer with parameters, a tap, or both."""

    name: str
    shape: tuple[int, ...] | None  # of the output, without the batch; None: not evaluated
    size: tuple[float, ...] | None  # of the receptive field, per side of the image; inf: all of it
    stride: tuple[float, ...] | None
    offset: tuple[float, ...] | None
    params: int
    multiply_adds: int
    inputs: tuple[str, ...]  # the taps that it is computed from
    depends: frozenset[str]  # the layers that it is computed with, itself included
    seen: tuple['Extent', ...] | None  # the receptive fields position by position


class Summary(NamedTuple):
    """The rows in the order of the forward pass, and the totals."""

    name: str
    image_shape: tuple[int, ...]
    rows: tuple[Row, ...]
    params: int
    multiply_adds: int


class Extent(NamedTuple):
    """What an array sees along one side of the image, position by position."""

    axis: int | None  # of the array, that runs along this side; None: every element sees the same
    low: np.ndarray  # [positions] first pixel; beyond the image in the padding; inf: sees nothing
    high: np.ndarray  # [positions] last pixel
    step: float  # pixels between neighbouring positions


class Value(NamedTuple):
    """What is known of an array."""

    seen: tuple[Extent, ...] | None = None  # per side of the image; None: independent of the image
    leaves: int = 0  # set of the variables that it depends on, as bits
    taps: frozenset[str] = frozenset()  # that it is directly computed from
    constant: Any = None  # () -> the array, where it depends on nothing
    items: tuple['Value', ...] | None = None  # along its first axis, where they differ: a scan's


class Layer(NamedTuple):
    """What has been seen of a layer with variables."""

    order: int
    value: Value
    shape: tuple[int, ...]
    multiply_adds: int


def summarize(net, image_shape=None):
    """The Summary of a network in evaluation, for images [H, W, C] (default: the paper's)."""
    image_shape = tuple(image_shape or net.image_shape)
    image = jax.ShapeDtypeStruct((1, *image_shape), 'float32')
    variables = jax.eval_shape(functools.partial(net.init, train=False), jax.random.key(0), image)
    variables = {name: variables[name] for name in COLLECTIONS if name in variables}
    leaves, structure = jax.tree.flatten(variables)
    paths = [tuple(key.key for key in path)
             for path, _ in jax.tree_util.tree_leaves_with_path(variables)]
    owners = ['/'.join(path[1:-1] or path[1:]) for path in paths]
    names = []

    def forward(leaves, image):
        _, taps = net.apply(jax.tree.unflatten(structure, leaves), image, train=False)
        names.extend(taps)
        return list(taps.values())

    with jax.default_matmul_precision('highest'):  # convolutions as such: cnnjax/convolution.py
        closed = jax.make_jaxpr(forward)(leaves, image)
    outputs = {}  # variable of the jaxpr: names of the taps that it is
    for name, variable in zip(names, closed.jaxpr.outvars, strict=True):
        if not isinstance(variable, Literal):
            outputs.setdefault(variable, []).append(name)
    walk = Walk(owners, outputs)
    sides = tuple(Extent(d, np.arange(n, dtype=float), np.arange(n, dtype=float), 1.0)
                  for d, n in enumerate(image_shape[:-1], 1))
    arguments = [*(Value(leaves=1 << i) for i in range(len(leaves))), Value(sides)]
    walk.run(closed.jaxpr, closed.consts, arguments)

    params = dict.fromkeys(owners, 0)
    for path, owner, leaf in zip(paths, owners, leaves, strict=True):
        params[owner] += leaf.size if path[0] == 'params' else 0
    rows = []
    order = {name: layer.order for name, layer in walk.layers.items()}
    order |= {name: when for name, (when, _, _) in walk.taps.items()}
    for name in sorted(order, key=order.get):
        layer = walk.layers.get(name)
        _, value, shape = walk.taps.get(name) or (0, layer.value, layer.shape)
        rows.append(Row(
            name, tuple(shape[1:]), *_report(value.seen, image_shape), params.get(name, 0),
            layer.multiply_adds if layer else 0, tuple(sorted(value.taps, key=order.get)),
            frozenset(owner for i, owner in enumerate(owners) if value.leaves >> i & 1),
            value.seen))
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


class Walk:
    """Goes through a jaxpr, operation by operation."""

    def __init__(self, owners, outputs):
        self.owners, self.outputs = owners, outputs
        self.layers = {}  # {name: Layer}
        self.taps = {}  # {name: (order, Value, shape)}
        self.time = 0

    def run(self, jaxpr, consts, arguments):
        """The Values of a jaxpr's results, given those of its arguments."""
        known = [Value(constant=lambda c=c: c) for c in consts]
        env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*known, *arguments], strict=True))

        def read(atom):
            if isinstance(atom, Literal):
                return Value(constant=lambda: atom.val)
            return env[atom]

        for eqn in jaxpr.eqns:
            self.time += 1
            results = self.equation(eqn, [read(atom) for atom in eqn.invars])
            for variable, value in zip(eqn.outvars, results, strict=True):
                if variable in self.outputs:
                    value = self.tap(variable, value)
                env[variable] = value
        return [read(atom) for atom in jaxpr.outvars]

    def tap(self, variable, value):
        names = self.outputs[variable]
        for i, name in enumerate(names):
            self.taps[name] = (self.time + i / len(names), value, variable.aval.shape)
            value = value._replace(taps=frozenset([name]))
        return value

    def equation(self, eqn, inputs):
        if all(value.constant for value in inputs):
            return _constants(eqn, inputs)
        name, params = eqn.primitive.name, eqn.params
        if name == 'cond':
            return self.cond(params['branches'], inputs[1:])
        if name == 'scan':
            return self.scan(params, inputs)
        if name == 'while':
            return self.loop(params, inputs)
        inner = next((params[key] for key in ('jaxpr', 'call_jaxpr', 'fun_jaxpr')
                      if key in params), None)
        if inner is not None:
            return self.run(*_open(inner), inputs)

        seen = _operation(eqn, inputs)
        leaves = functools.reduce(int.__or__, (value.leaves for value in inputs), 0)
        taps = frozenset().union(*(value.taps for value in inputs))
        items = _items(eqn, inputs)
        if items is not None and isinstance(items, Value):
            return [items]
        results = [Value(seen, leaves, taps, None, items) for _ in eqn.outvars]
        if seen is not None:
            self.record(eqn, inputs, results[0])
        return results

    def record(self, eqn, inputs, result):
        """Notes the layers whose variables meet the image here: the last meeting is the output."""
        own = functools.reduce(int.__or__, (v.leaves for v in inputs if v.seen is None), 0)
        cost = _multiply_adds(eqn) if own else 0
        for i in _bits(own):
            name = self.owners[i]
            before = self.layers.get(name)
            # The cost of an operation with several layers' variables is the first one's.
            self.layers[name] = Layer(before.order if before else self.time, result,
                                      eqn.outvars[0].aval.shape,
                                      (before.multiply_adds if before else 0) + cost)
            cost = 0

    def cond(self, branches, inputs):
        """The costliest branch counts; the results see what those of any branch see."""
        before, outcomes = self.layers, []
        for branch in branches:
            self.layers = dict(before)
            results = self.run(*_open(branch), inputs)
            outcomes.append((self.layers, results))
        self.layers, _ = max(outcomes, key=lambda outcome: sum(
            layer.multiply_adds for layer in outcome[0].values()))
        return [_union(values) for values in zip(*(r for _, r in outcomes), strict=True)]

    def scan(self, params, inputs):
        """Iteration by iteration: the receptive field grows from each to the next."""
        if 'ft_in' in params:  # jax 0.12: constants, state and slices, each a tree of leaves
            consts, carry = (len(list(tree.vals)) for tree in params['ft_in'].unpack()[:2])
        else:
            consts, carry = params['num_consts'], params['num_carry']
        fixed, state, xs = (inputs[:consts], inputs[consts:consts + carry],
                            inputs[consts + carry:])
        steps, stacked = range(params['length']), []
        for i in reversed(steps) if params['reverse'] else steps:
            slices = [_item(x, i) for x in xs]
            results = self.run(*_open(params['jaxpr']), [*fixed, *state, *slices])
            state = results[:carry]
            stacked.append(results[carry:])
        if params['reverse']:
            stacked.reverse()
        return [*state, *(_stack(values) for values in zip(*stacked, strict=True))]

    def loop(self, params, inputs):
        """A while loop, of unknown length: one iteration counts, all of it sees all of the image
        that it reads."""
        body = inputs[params['cond_nconsts']:]
        results = self.run(*_open(params['body_jaxpr']), body)
        seen = _collapsed(inputs + results)
        return [Value(seen, _union(body + results).leaves, _union(body + results).taps)
                for _ in results]


def _open(jaxpr):
    return (jaxpr.jaxpr, jaxpr.consts) if isinstance(jaxpr, ClosedJaxpr) else (jaxpr, ())


def _bits(number):
    while number:
        lowest = number & -number
        yield lowest.bit_length() - 1
        number ^= lowest


def _constants(eqn, inputs):
    """Computed only if an index, a pooling region's for example, is asked for."""
    @functools.cache
    def compute():
        params = eqn.primitive.get_bind_params(eqn.params)
        results = eqn.primitive.bind(*(value.constant() for value in inputs), **params)
        return results if eqn.primitive.multiple_results else [results]

    return [Value(constant=lambda i=i: compute()[i]) for i in range(len(eqn.outvars))]


# ---- Values of a scan, along its axis


def _item(value, i):
    """x[i]"""
    if value.items is not None:
        return value.items[i]
    if value.constant:
        return Value(constant=lambda: value.constant()[i])
    return value._replace(seen=value.seen and tuple(
        extent if extent.axis is None
        else extent._replace(axis=extent.axis - 1) if extent.axis
        else Extent(None, extent.low[i:i + 1], extent.high[i:i + 1], extent.step)
        for extent in value.seen))


def _stack(values):
    """stack(values)"""
    if all(value.constant for value in values):
        return Value(constant=lambda: np.stack([value.constant() for value in values]))
    return _shift(_union(values))._replace(items=tuple(values))


def _shift(value):
    return value._replace(seen=value.seen and tuple(
        e if e.axis is None else e._replace(axis=e.axis + 1) for e in value.seen))


def _items(eqn, inputs):
    """The items of a result, or the result that is one item; None for everything but x[i:j], x[i].
    """
    items, params = inputs[0].items if inputs else None, eqn.params
    if items is None:
        return None
    if eqn.primitive.name == 'slice':
        stride = params['strides'][0] if params['strides'] else 1
        return items[params['start_indices'][0]:params['limit_indices'][0]:stride]
    if eqn.primitive.name == 'squeeze' and params['dimensions'] == (0,):
        return items[0]
    return None


def _union(values):
    """What any of the values sees and depends on."""
    return Value(_join([value.seen for value in values if value.seen is not None]),
                 functools.reduce(int.__or__, (value.leaves for value in values), 0),
                 frozenset().union(*(value.taps for value in values)))


# ---- What an operation's result sees


def _collapse(extent):
    """Every element sees what any position saw."""
    return Extent(None, extent.low.min(keepdims=True), extent.high.max(keepdims=True), extent.step)


def _collapsed(values):
    return _join([tuple(map(_collapse, value.seen)) for value in values if value.seen is not None])


def _join(seen):
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


def _operation(eqn, inputs):
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
            for e in _join([inputs[i].seen for i in seeing]))
    return _collapsed(inputs)


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
        elif axes <= {dimension}:  # pictures side by side
            step = next(e.step for e in extents if e is not None)
            nothing = [np.full(s[dimension], np.inf) for s in shapes]
            low = [n if e is None else e.low for e, n in zip(extents, nothing, strict=True)]
            high = [-n if e is None else e.high for e, n in zip(extents, nothing, strict=True)]
            sides.append(Extent(dimension, np.concatenate(low), np.concatenate(high), step))
        else:
            sides.append(_join_side([_collapse(e) for e in extents if e is not None]))
    return tuple(sides)


def _dot(eqn, inputs, shapes, shape):
    (contracted, batch) = eqn.params['dimension_numbers']
    results = []
    for which, value in enumerate(inputs[:2]):
        if value.seen is None:
            continue
        free = [a for a in range(len(shapes[which]))
                if a not in contracted[which] and a not in batch[which]]
        first = len(batch[0]) + (which and len(shapes[0]) - len(batch[0]) - len(contracted[0]))
        places = {a: i for i, a in enumerate(batch[which])}
        places |= {a: first + i for i, a in enumerate(free)}
        results.append(tuple(
            e._replace(axis=places[e.axis]) if e.axis in places else _collapse(e)
            for e in value.seen))
    return _join(results)


RULES = {
    'conv_general_dilated': _convolution, 'dot_general': _dot, 'concatenate': _concatenate,
    'gather': _gather, 'dynamic_slice': _dynamic_slice, 'slice': _each(_slice), 'pad': _each(_pad),
    'reshape': _each(_reshape), 'broadcast_in_dim': _each(_broadcast),
    'transpose': _each(_transpose), 'squeeze': _each(_squeeze), 'rev': _each(_reverse),
}
RULES |= {f'reduce_{kind}': _each(_reduce) for kind in ('sum', 'max', 'min', 'prod', 'and', 'or')}
RULES |= {kind: _each(_reduce) for kind in ('argmax', 'argmin')}
RULES |= {f'reduce_window{kind}': _each(_reduce_window) for kind in ('', '_sum', '_max', '_min')}
RULES |= {kind: _each(_along) for kind in
          ('sort', 'cumsum', 'cumprod', 'cummax', 'cummin', 'cumlogsumexp')}
SEVERAL = ('concatenate', 'dot_general')  # whose operands may all see the image


# ---- What an operation costs


def _multiply_adds(eqn):
    """Of a convolution or a matrix product; 0 for anything else.

    The zeros between the pixels of a fractionally strided convolution are not multiplied; those of
    the padding count, as in the papers.
    """
    params = eqn.params
    shape = eqn.outvars[0].aval.shape
    if eqn.primitive.name == 'dot_general':
        (contracted, _), _ = params['dimension_numbers']
        return math.prod(shape) * math.prod(eqn.invars[0].aval.shape[a] for a in contracted)
    if eqn.primitive.name != 'conv_general_dilated':
        return 0
    numbers, kernel = params['dimension_numbers'], eqn.invars[1].aval.shape
    total = shape[numbers.out_spec[0]] * shape[numbers.out_spec[1]] * kernel[numbers.rhs_spec[1]]
    for i, (out, side) in enumerate(zip(numbers.out_spec[2:], numbers.rhs_spec[2:], strict=True)):
        places = (np.arange(shape[out])[:, None] * params['window_strides'][i]
                  - params['padding'][i][0] + np.arange(kernel[side]) * params['rhs_dilation'][i])
        total *= int((places % params['lhs_dilation'][i] == 0).sum())
    return total


# ---- As text


def fold(summary, depth):
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


def numbers(values, infinite='all'):
    """(3, 3) -> '3', (3, 5) -> '3 x 5'; whole numbers without a point."""
    shown = [infinite if math.isinf(v) else f'{v:.4g}' if v % 1 else f'{v:.0f}' for v in values]
    return shown[0] if len(set(shown)) == 1 else ' x '.join(shown)


def table(summary):
    """The rows as aligned text, and the totals."""
    lines = [('layer', 'output', 'sees', 'stride', 'offset', 'parameters', 'multiply-adds')]
    for row in summary.rows:
        field = ('', '', '')
        if row.size is not None:
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
