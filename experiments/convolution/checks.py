"""The numbers of the experiment, each beside what it must equal."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax

from cnnjax import tables


class Row(NamedTuple):
    """A result."""

    what: str
    value: Any  # a number, a dict of numbers or an array
    against: str  # what else computed it
    difference: float  # the largest between the two


def equal(what: str, value: Any, expected: Any, against: str, tolerance: float = 1e-10,
          shown: Any = None) -> Row:
    """The row of a value that equals what was expected.

    Args:
      tolerance: the largest difference, as a part of the largest number expected.
      shown: what the row tells instead of the value.

    Raises:
      ArithmeticError: it does not.
    """
    value, expected = np.asarray(value), np.asarray(expected)
    if value.shape != expected.shape:
        raise ArithmeticError(f'{what}: shape {value.shape}, but {expected.shape} by {against}')
    difference = float(np.abs(value - expected).max(initial=0))
    if not difference <= tolerance * np.abs(expected).max(initial=1):  # NaN too
        raise ArithmeticError(f'{what}: differs from {against} by {difference:.3g}')
    return Row(what, value if shown is None else shown, against, difference)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))  # one small program each, not several
def correlate(x: np.ndarray, kernel: np.ndarray, padding: int = 0, stride: int = 1,
              dilation: int = 1) -> np.ndarray:
    """lax's convolution of one image and one kernel, both of any number of axes, without batch and
    channels."""
    return lax.conv_general_dilated(
        x[None, None], kernel[None, None], (stride,) * x.ndim, [(padding, padding)] * x.ndim,
        rhs_dilation=(dilation,) * x.ndim)[0, 0]


def gradients(function: Callable, inputs: Sequence[np.ndarray], g: np.ndarray) -> Any:
    """JAX's gradients of sum(g * function(*inputs)) with respect to each of the inputs."""
    return jax.jit(lambda inputs, g: jax.vjp(function, *inputs)[1](g))(inputs, g)


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    return tables.markdown(['what', 'result', 'checked against', 'largest difference'], [
        (row.what, _text(row.value), row.against, f'{row.difference:.2g}') for row in rows])


def numbers(rows: list[Row]) -> list[dict[str, Any]]:
    """The rows as json takes them."""
    return [row._asdict() | {'value': row.value.tolist() if isinstance(row.value, np.ndarray)
                             else row.value} for row in rows]


def _text(value):
    if isinstance(value, dict):
        return ', '.join(f'{name} {_text(number)}' for name, number in value.items())
    if isinstance(value, np.ndarray) and value.size > 16:
        return 'array of ' + ' x '.join(map(str, value.shape))
    if isinstance(value, np.ndarray) and value.ndim:
        return f'[{", ".join(map(_text, value))}]'
    return value if isinstance(value, str) else f'{float(value):.4g}'
