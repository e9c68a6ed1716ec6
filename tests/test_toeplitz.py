"""Convolutions as matrices against scipy and lax."""

import itertools

import jax
import numpy as np
import pytest
import scipy.linalg
from jax import lax

from cnnjax import convolution, toeplitz


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def correlate(x, kernel, padding=0, stride=1, dilation=1):
    """Those of lax, without batch and channels."""
    with jax.enable_x64(True):
        return np.asarray(lax.conv_general_dilated(
            x[None, None], kernel[None, None], (stride,) * x.ndim, [(padding, padding)] * x.ndim,
            rhs_dilation=(dilation,) * x.ndim))[0, 0]


def test_a_convolution_of_one_dimension_is_toeplitz():
    """As the lecture notes print it: kernel support -1 ... 1 on N samples gives N + 2 rows."""
    kernel = np.array([1, 2, 3])
    matrix = toeplitz.matrix(np.flip(kernel), (5,), padding=2)
    np.testing.assert_array_equal(
        matrix, scipy.linalg.toeplitz([1, 2, 3, 0, 0, 0, 0], [1, 0, 0, 0, 0]))
    np.testing.assert_array_equal(matrix @ np.arange(5), np.convolve(np.arange(5), kernel))


@pytest.mark.parametrize(('shape', 'size'), [
    ((9,), (3,)), ((5, 6), (3, 2)), ((4, 5, 6), (3, 1, 2))])
@pytest.mark.parametrize(('padding', 'stride', 'dilation'), [
    (0, 1, 1), (1, 1, 1), (2, 2, 1), (1, 3, 1), (1, 1, 2), (2, 2, 2)])
def test_the_product_is_that_of_lax(shape, size, padding, stride, dilation):
    x, kernel = random(*shape), random(*size, seed=1)
    expected = correlate(x, kernel, padding, stride, dilation)
    matrix = toeplitz.matrix(kernel, shape, padding, stride, dilation)
    np.testing.assert_allclose(matrix @ x.ravel(), expected.ravel(), atol=1e-12)
    assert expected.shape == tuple(
        convolution.output_size(n, k, padding, stride, dilation)
        for n, k in zip(shape, size, strict=True))


def test_a_stride_of_more_than_the_input():
    np.testing.assert_array_equal(toeplitz.matrix(np.array([2, 5]), (3,), stride=4), [[2, 5, 0]])


@pytest.mark.parametrize('shape', [(7,), (5, 6), (3, 4, 5)])
@pytest.mark.parametrize('size', [2, 3])
def test_periodic_padding_is_circulant_and_waves_are_its_eigenvectors(shape, size):
    kernel = random(*(size,) * len(shape))
    matrix = toeplitz.circulant(kernel, shape)
    x = random(*shape, seed=1)
    sides = (size // 2, size - 1 - size // 2)
    expected = correlate(np.pad(x, [sides] * x.ndim, 'wrap'), kernel)
    np.testing.assert_allclose(matrix @ x.ravel(), expected.ravel(), atol=1e-12)
    waves = np.ones((1, 1))
    for n in shape:
        waves = np.kron(waves, scipy.linalg.dft(n).conj())
    values = toeplitz.eigenvalues(kernel, shape)
    np.testing.assert_allclose(matrix @ waves, waves * values.ravel(), atol=1e-12)


def test_blocks_of_a_matrix_are_constant_along_diagonals():
    matrix = toeplitz.matrix(np.arange(1, 10).reshape(3, 3), (4, 5), padding=1)
    blocks = matrix.reshape(4, 5, 4, 5).swapaxes(1, 2)
    for i, j in itertools.product(range(3), repeat=2):
        np.testing.assert_array_equal(blocks[i, j], blocks[i + 1, j + 1])
        np.testing.assert_array_equal(blocks[i, j][:-1, :-1], blocks[i, j][1:, 1:])


@pytest.mark.parametrize('make', [toeplitz.matrix, toeplitz.circulant])
def test_a_kernel_larger_than_the_input_is_refused(make):
    with pytest.raises(ValueError, match='a kernel of 4 is larger than the input of 3'):
        make(np.ones((2, 4)), (5, 3))
