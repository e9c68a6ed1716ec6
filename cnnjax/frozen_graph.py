"""Reads the constants of a frozen TensorFlow graph, a .pb file, without TensorFlow."""

import math
from pathlib import Path

import numpy as np

from cnnjax.errors import UserError

SUFFIX = '.pb'


def read(path: Path) -> dict[str, np.ndarray]:
    """The float32 constants of a graph, {name: array}, with their kernels in torch's layout: [O, I,
    H, W] for [H, W, I, O], [O, I] for [I, O].

    Raises:
      UserError: the file is damaged, or no graph.
    """
    from google.protobuf.message import DecodeError
    from tensorboardX.proto import graph_pb2, types_pb2
    try:
        graph = graph_pb2.GraphDef.FromString(path.read_bytes())
        arrays = {node.name: _array(node.attr['value'].tensor) for node in graph.node
                  if node.op == 'Const' and node.attr['value'].tensor.dtype == types_pb2.DT_FLOAT}
    except (OSError, DecodeError, ValueError, MemoryError) as error:
        raise UserError(f'{path} is damaged or no frozen graph of TensorFlow, and was not loaded '
                        f'({error!r})') from None
    if not arrays:
        raise UserError(f'{path} holds no constants of type float32: freeze the graph first, so '
                        'that its variables are constants')
    return {name: np.moveaxis(array, (-1, -2), (0, 1)) if array.ndim in (2, 4) else array
            for name, array in arrays.items()}


def _array(tensor):
    shape = [axis.size for axis in tensor.tensor_shape.dim]
    # The numbers are one string of bytes, or a list, whose last number counts for all that follow.
    values = (np.frombuffer(tensor.tensor_content, '<f4') if tensor.tensor_content
              else np.array(tensor.float_val, np.float32))
    if len(values) < math.prod(shape):
        values = np.pad(values, (0, math.prod(shape) - len(values)), 'edge')
    return values.reshape(shape)
