"""The convolution as a product with a matrix, of any number of dimensions.

In one dimension with zero padding this is a Toeplitz matrix: each diagonal is constant. In two it
is doubly block Toeplitz, a Toeplitz matrix of blocks that are Toeplitz matrices. With periodic
padding it is (doubly block) circulant: each row is the one before it, rotated. The eigenvectors of
circulant matrices are the waves of the discrete Fourier transform (Gray 2006, "Toeplitz and
Circulant Matrices: A Review", section 3.1, https://doi.org/10.1561/0100000006).

As in networks the kernel is not flipped. `np.flip(kernel)` gives the matrix of the convolution that
mathematics defines.
"""

from collections.abc import Sequence

import numpy as np
from scipy import linalg

from cnnjax import convolution


def matrix(kernel: np.ndarray, shape: Sequence[int], padding: int = 0, stride: int = 1,
           dilation: int = 1) -> np.ndarray:
    """The matrix [outputs, inputs] that does what a convolution does, in row-major order:
    `matrix(kernel, x.shape) @ x.ravel()` are the outputs. The transpose does what the transposed
    convolution does.

    Args:
      kernel: [size, ...], with as many axes as the input has.
      shape: that of the input.
      padding: zeros on every side of each axis.

    Raises:
      ValueError: the kernel is larger than the padded input.
    """
    if not kernel.ndim:
        return np.reshape(kernel, (1, 1))
    _check_size(dilation * (len(kernel) - 1) + 1, shape[0] + 2 * padding)
    outputs = convolution.output_size(shape[0], len(kernel), padding, stride, dilation)
    steps = np.arange(stride * outputs) - padding, np.arange(shape[0]) + padding
    # Output o sees input i through this element of the kernel along the first axis.
    element = np.asarray(linalg.toeplitz(-steps[0], steps[1]))[::stride]
    return _of_blocks(kernel, np.where(element % dilation, -1, element // dilation), [
        matrix(part, shape[1:], padding, stride, dilation) for part in kernel])


def circulant(kernel: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The matrix [inputs, inputs] of a convolution whose input goes on periodically, so that the
    size stays; the kernel's middle element stands above the output.

    Raises:
      ValueError: the kernel is larger than the input.
    """
    if not kernel.ndim:
        return np.reshape(kernel, (1, 1))
    _check_size(len(kernel), shape[0])
    element = linalg.circulant((len(kernel) // 2 - np.arange(shape[0])) % shape[0])
    return _of_blocks(kernel, element, [circulant(part, shape[1:]) for part in kernel])


def eigenvalues(kernel: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The eigenvalues of `circulant(kernel, shape)`: the discrete Fourier transform of the matrix's
    first column, which is the flipped kernel on the periodic grid. Complex, of the shape of the
    input; the one at frequency f belongs to the wave exp(2 pi i (f_0 x_0 / n_0 + ...))."""
    return np.fft.fftn(circulant(kernel, shape)[:, 0].reshape(shape))


def _check_size(kernel, size):
    if kernel > size:
        raise ValueError(f'a kernel of {kernel} is larger than the input of {size}')


def _of_blocks(kernel, element, blocks):
    """The matrix whose block [o, i] is that of the kernel's element [o, i], or zeros."""
    blocks = np.stack([*blocks, np.zeros_like(blocks[0])])
    element = np.where((element >= 0) & (element < len(kernel)), element, len(kernel))
    rows, columns = np.multiply(element.shape, blocks.shape[1:])
    return blocks[element].swapaxes(1, 2).reshape(rows, columns)
