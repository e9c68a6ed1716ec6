"""3x3 convolutions with 2.25 times fewer multiplications, and as small a rounding. NHWC and HWIO.

F(2x2, 3x3) of Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks", section
4.1, https://arxiv.org/abs/1509.09308: tiles of 2x2 outputs, each of 16 products instead of 36.
"""

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def is_fast(x: jax.Array, kernel: jax.Array, others: Iterable[int]) -> bool:
    """Whether `convolve` computes this convolution, and faster than XLA does on a CPU. `others` are
    its strides, dilations and groups.

    The limits on the work and on the pixels of an image for each channel are measured
    (docs/cpu.md): below and above them, reading and writing the tiles takes more than is won.
    """
    least = min(kernel.shape[2:])
    return (kernel.shape[:2] == (3, 3) and set(others) == {1}
            and jnp.finfo(x.dtype).bits >= 32 and least >= 32
            and all(isinstance(n, int) for n in x.shape)  # the work of symbolic sizes is not known
            and x.shape[1] * x.shape[2] <= 512 * least
            and math.prod(x.shape[:3]) * math.prod(kernel.shape[2:]) >= 2 ** 23)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(x: jax.Array, kernel: jax.Array, padding: Sequence[tuple[int, int]],
             precision: Any = None) -> jax.Array:
    """The convolution of x [N, H, W, C] with a kernel [3, 3, C, K]; an infinity in x makes its
    tiles NaN. `precision` is that of the products, see `jax.lax.dot_general`.

    Its gradients are written here because XLA would transpose each tile in those that JAX derives,
    and add up the overlaps. For the same reason the tiles are matrices [N * tiles, C].
    """
    return _tiled(x, kernel, padding, 0, precision)


def _forward(x, kernel, padding, precision):
    return convolve(x, kernel, padding, precision), (x, kernel)


def _backward(padding, precision, saved, g):
    x, kernel = saved
    sides = tuple((2 - low, 2 - high) for low, high in padding)
    return (_tiled(g, kernel[::-1, ::-1], sides, 1, precision),
            _kernel_gradient(x, g, padding, precision))


@functools.partial(jax.jit, static_argnums=(2, 3))
def _kernel_gradient(x, g, padding, precision):
    tiles = [-(-n // 2) for n in g.shape[1:3]]
    inputs = _twice(_input, _pixels(x, tiles, [low for low, _ in padding], 4))
    outputs = _twice(_output_transposed, _pixels(g, tiles, (0, 0), 2))
    dkernel = _twice(_kernel_transposed, _products(inputs, outputs, (0, 0), precision))
    return jnp.stack([jnp.stack(row) for row in dkernel])


convolve.defvjp(_forward, _backward)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _tiled(x, kernel, padding, contracted, precision):
    """The convolution; of the kernel's last two axes one is `contracted` with the channels."""
    size = [n + sum(sides) - 2 for n, sides in zip(x.shape[1:3], padding, strict=True)]
    tiles = [-(-n // 2) for n in size]
    inputs = _twice(_input, _pixels(x, tiles, [low for low, _ in padding], 4))
    products = _products(inputs, _twice(_kernel, kernel), (1, contracted), precision)
    outputs = [[array.reshape(x.shape[0], *tiles, -1) for array in row]
               for row in _twice(_output, products)]
    y = jnp.stack([jnp.stack(row, 3) for row in outputs], 2)
    return y.reshape(x.shape[0], 2 * tiles[0], 2 * tiles[1], -1)[:, :size[0], :size[1]]


def _products(block, other, contracted, precision):
    """The products of the matrices of two blocks, one by one, over an axis of each."""
    first, second = contracted
    return [[lax.dot_general(a, b, (((first,), (second,)), ((), ())), precision)
             for a, b in zip(*rows, strict=True)] for rows in zip(block, other, strict=True)]


def _pixels(x, tiles, low, size):
    """The size x size pixels of each tile, as arrays [N * tiles, C]. Tiles begin two pixels apart,
    the first one `low` pixels before x, and zeros surround x."""
    sides = [(before, 2 * count - 2 + size - n - before, 0)
             for n, before, count in zip(x.shape[1:3], low, tiles, strict=True)]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *sides, (0, 0, 0)])
    places = [[slice(i, i + 2 * count - 1, 2) for i in range(size)] for count in tiles]
    return [[x[:, rows, columns].reshape(-1, x.shape[-1]) for columns in places[1]]
            for rows in places[0]]


def _twice(transform, block):
    """A one-dimensional transformation of the rows of a block of arrays, then of its columns."""
    for _ in range(2):
        block = list(zip(*(transform(*row) for row in block), strict=True))
    return block


# outputs = _output(*(_input(4 pixels) * _kernel(3 weights))): 2 outputs of 4 products.

def _input(a, b, c, d):
    return a - c, b + c, c - b, b - d


def _kernel(a, b, c):
    return a, (a + b + c) / 2, (a - b + c) / 2, c


def _output(a, b, c, d):
    return a + b + c, b - c - d


def _output_transposed(a, b):
    return a, a + b, a - b, -b


def _kernel_transposed(a, b, c, d):
    return a + (b + c) / 2, (b - c) / 2, (b + c) / 2 + d
