"""Reads the constants of a frozen TensorFlow graph, a .pb file, without TensorFlow.

The format is that of Protocol Buffers (https://protobuf.dev/programming-guides/encoding); the
numbers of the fields are those of graph.proto, node_def.proto, attr_value.proto, tensor.proto and
tensor_shape.proto in TensorFlow's core/framework.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.errors import UserError

SUFFIX = '.pb'
FLOAT = 1  # of the types of tensors


def read(path: Path) -> dict[str, np.ndarray]:
    """The float32 constants of a graph, {name: array}, with their kernels in torch's layout: [O, I,
    H, W] for [H, W, I, O], [O, I] for [I, O].

    Raises:
      UserError: the file is damaged, or no graph.
    """
    try:
        found = dict(_constant(node) for number, node in _fields(path.read_bytes())
                     if number == 1 and dict(_fields(node)).get(2) == b'Const')
    except (OSError, IndexError, KeyError, ValueError, TypeError, AttributeError,
            MemoryError) as error:
        raise UserError(f'{path} is damaged or no frozen graph of TensorFlow, and was not loaded '
                        f'({error!r})') from None
    arrays = {name: array for name, array in found.items() if array is not None}
    if not arrays:
        raise UserError(f'{path} holds no constants of type float32: freeze the graph first, so '
                        'that its variables are constants')
    return {name: np.moveaxis(array, (-1, -2), (0, 1)) if array.ndim in (2, 4) else array
            for name, array in arrays.items()}


def _constant(node):
    """(name, array) of a node; the array is None if it is not of float32."""
    name, tensor = dict(_fields(node))[1].decode(), b''
    for number, entry in _fields(node):
        if number == 5:  # an attribute: its name is field 1, its value field 2
            entry = dict(_fields(entry))
            if entry[1] == b'value':
                tensor = dict(_fields(entry[2]))[8]
    fields = dict(_fields(tensor))
    if fields.get(1) != FLOAT:
        return name, None
    shape = [dict(_fields(size)).get(1, 0) for number, size in _fields(fields.get(2, b''))
             if number == 2]
    # The numbers are one string of bytes, or a list, of which the last counts for all that follow.
    content = fields.get(4) or b''.join(part for number, part in _fields(tensor) if number == 5)
    values = np.frombuffer(content, '<f4')
    if len(values) < math.prod(shape):
        values = np.pad(values, (0, math.prod(shape) - len(values)), 'edge')
    return name, values.reshape(shape)


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of a message's fields: a whole number, or bytes of any other type."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(message, at)
        else:
            length, at = _varint(message, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
            value, at = message[at:at + length], at + length
            if len(value) < length:
                raise ValueError('it ends too early')
        yield key >> 3, value


def _varint(message, at):
    """A whole number, seven bits a byte, and where it ends."""
    value = shift = 0
    while True:
        value |= (message[at] & 127) << shift
        if message[at] < 128:
            return value, at + 1
        shift, at = shift + 7, at + 1
