"""A walk through a network's forward pass: what each array sees, depends on and costs.

The pass is a jaxpr, JAX's list of its operations. Only constants are computed, if they are needed
as an index.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from cnnjax import convolution, receptive_fields
from cnnjax.receptive_fields import Extent


class Value(NamedTuple):
    """What is known about an array."""

    seen: tuple[Extent, ...] | None = None  # per side of the image; None: independent of the image
    leaves: int = 0  # the set of variables on which it depends, a bit for each
    taps: frozenset[str] = frozenset()  # the taps from which it is directly computed
    constant: Any = None  # () -> the array, where it depends on nothing
    items: tuple['Value', ...] | None = None  # one for each item of a scan's result


class Layer(NamedTuple):
    """What has been seen of a layer with variables."""

    order: int
    value: Value
    shape: tuple[int, ...]
    multiply_adds: int


def walk(net: nn.Module, variables: Any, image: jax.Array | jax.ShapeDtypeStruct) -> 'Walk':
    """The finished Walk through the evaluation of one image; shapes and types of all are enough."""
    leaves, structure = jax.tree.flatten(variables)
    names = []

    def forward(leaves, image):
        _, taps = net.apply(jax.tree.unflatten(structure, leaves), image, train=False)
        names.extend(taps)
        return list(taps.values())

    with convolution.direct(True):
        closed = jax.make_jaxpr(forward)(leaves, image)
    outputs = {}  # {variable of the jaxpr: the names of the taps that it is}
    for name, variable in zip(names, closed.jaxpr.outvars, strict=True):
        if not isinstance(variable, Literal):
            outputs.setdefault(variable, []).append(name)
    sides = tuple(Extent(d, np.arange(n, dtype=float), np.arange(n, dtype=float), 1.0)
                  for d, n in enumerate(image.shape[1:-1], 1))
    arguments = [*(Value(leaves=1 << i) for i in range(len(leaves))), Value(sides)]
    paths = ([key.key for key in path] for path, _ in jax.tree.leaves_with_path(variables))
    finished = Walk(['/'.join(path[1:-1] or path[1:]) for path in paths], outputs)
    finished.run(closed.jaxpr, closed.consts, arguments)
    return finished


class Walk:
    """Goes through a jaxpr, operation by operation.

    Args:
      owners: the layer of each of the network's variables.
      outputs: the names of the taps that a variable of the jaxpr is.
    """

    def __init__(self, owners: Sequence[str], outputs: Mapping[Any, Sequence[str]]):
        self.owners, self.outputs = owners, outputs
        self.layers = {}  # {name: Layer}
        self.taps = {}  # {name: (order, Value, shape)}
        self.time = 0

    def owners_of(self, leaves: int) -> frozenset[str]:
        """The layers of a set of variables, see `Value.leaves`."""
        return frozenset(self.owners[i] for i in _bits(leaves))

    def run(self, jaxpr: Jaxpr, consts: Sequence[Any], arguments: Sequence[Value]) -> list[Value]:
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

    def tap(self, variable: Any, value: Value) -> Value:
        names = self.outputs[variable]
        for i, name in enumerate(names):
            self.taps[name] = (self.time + i / len(names), value, variable.aval.shape)
            value = value._replace(taps=frozenset([name]))
        return value

    def equation(self, eqn: Any, inputs: list[Value]) -> list[Value]:
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

        seen = receptive_fields.operation(eqn, inputs)
        leaves = functools.reduce(int.__or__, (value.leaves for value in inputs), 0)
        taps = frozenset().union(*(value.taps for value in inputs))
        items = _items(eqn, inputs)
        if items is not None and isinstance(items, Value):
            return [items]
        results = [Value(seen, leaves, taps, None, items) for _ in eqn.outvars]
        if seen is not None:
            self.record(eqn, inputs, results[0])
        return results

    def record(self, eqn: Any, inputs: Sequence[Value], result: Value) -> None:
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

    def cond(self, branches: Sequence[ClosedJaxpr], inputs: Sequence[Value]) -> list[Value]:
        """The costliest branch counts; the results see what those of all branches see together."""
        before, outcomes = self.layers, []
        for branch in branches:
            self.layers = dict(before)
            results = self.run(*_open(branch), inputs)
            outcomes.append((self.layers, results))
        self.layers, _ = max(outcomes, key=lambda outcome: sum(
            layer.multiply_adds for layer in outcome[0].values()))
        return [_union(values) for values in zip(*(r for _, r in outcomes), strict=True)]

    def scan(self, params: Mapping[str, Any], inputs: list[Value]) -> list[Value]:
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

    def loop(self, params: Mapping[str, Any], inputs: list[Value]) -> list[Value]:
        """A while loop, of unknown length: one iteration counts, all of it sees all of the image
        that it reads."""
        body = inputs[params['cond_nconsts']:]
        results = self.run(*_open(params['body_jaxpr']), body)
        seen = receptive_fields.collapsed(inputs + results)
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
    """The results of an operation on constants, computed only if an index is asked for, such as a
    pooling region's."""
    @functools.cache
    def compute():
        params = eqn.primitive.get_bind_params(eqn.params)
        results = eqn.primitive.bind(*(value.constant() for value in inputs), **params)
        return results if eqn.primitive.multiple_results else [results]

    return [Value(constant=lambda i=i: compute()[i]) for i in range(len(eqn.outvars))]


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
    return Value(receptive_fields.join([value.seen for value in values if value.seen is not None]),
                 functools.reduce(int.__or__, (value.leaves for value in values), 0),
                 frozenset().union(*(value.taps for value in values)))


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
