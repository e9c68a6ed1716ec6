"""Convolutions in tiles against lax."""

import jax
import numpy as np
import pytest

from cnnjax import convolution, winograd
from tests.test_convolution import KEEPING, LAX, OURS, assert_same, random, with_gradients


@pytest.mark.parametrize(('height', 'width', 'padding'), [
    (6, 8, ((1, 1), (1, 1))), (7, 5, ((1, 1), (1, 1))), (7, 6, ((0, 0), (0, 0))),
    (2, 1, ((1, 1), (1, 1))), (4, 5, ((2, 1), (0, 3))), (3, 6, ((4, 0), (-1, 2)))])
def test_tiles_of_winograd_make_the_convolution_and_its_gradients(monkeypatch, height, width,
                                                                  padding):
    monkeypatch.setattr(winograd, 'is_fast', lambda *_: True)
    with jax.enable_x64(True):
        x, kernel = random(2, height, width, 3, dtype='float64'), random(
            3, 3, 3, 5, seed=1, dtype='float64')
        assert_same(with_gradients(OURS, x, kernel, (1, 1), padding),
                    with_gradients(LAX, x, kernel, (1, 1), padding), 1e-14)


def test_winograd_rounds_as_little_as_a_convolution():
    """Against float64; a mean over many outputs, as the largest is a matter of chance."""
    x, kernel = random(8, 16, 16, 64), random(3, 3, 64, 64, seed=1)
    with jax.enable_x64(True):
        exact = with_gradients(LAX, x.astype('float64'), kernel.astype('float64'), *KEEPING)
    exact = [np.asarray(array) for array in exact]
    errors = [[np.abs(np.asarray(a) - b).mean() for a, b in zip(
        with_gradients(convolve, x, kernel, *KEEPING), exact, strict=True)]
        for convolve in (OURS, LAX)]
    assert errors[0] != errors[1]
    assert np.all(np.array(errors[0]) < 2 * np.array(errors[1])), errors


@pytest.mark.parametrize(('shape', 'features', 'options', 'tiles'), [
    ((8, 16, 16, 64), 64, {}, True),
    ((128, 16, 16, 32), 32, {}, True),  # ResNet-20's second stage
    ((1, 14, 14, 512), 512, {}, True),
    ((128, 32, 32, 16), 16, {}, False),  # and its first: too few channels
    ((1, 16, 16, 64), 64, {}, False),  # too little work
    ((4, 224, 224, 64), 64, {}, False),  # large images
    ((8, 16, 16, 64), 64, {'window_strides': (2, 2)}, False),
    ((8, 16, 16, 64), 64, {'rhs_dilation': (2, 2)}, False),
    ((8, 16, 16, 64), 128, {'feature_group_count': 2}, False),
    ((8, 16, 16, 64), 64, {'precision': 'highest'}, True),  # it is that of the products
    ((8, 16, 16, 64), 64, {'preferred_element_type': 'float32'}, False),
    ((8, 16, 16, 64), 64, {'dtype': 'bfloat16'}, False)])
def test_winograd_is_for_much_work_on_many_channels(shape, features, options, tiles):
    options = dict(options)
    dtype, strides = options.pop('dtype', 'float32'), options.pop('window_strides', (1, 1))
    kernel = (3, 3, shape[-1] // options.get('feature_group_count', 1), features)
    arguments = jax.ShapeDtypeStruct(shape, dtype), jax.ShapeDtypeStruct(kernel, dtype)

    def convolve(x, kernel):
        return OURS(x, kernel, strides, KEEPING[1], **options)

    assert ('dot_general' in str(jax.make_jaxpr(convolve)(*arguments))) == tiles
    with jax.default_matmul_precision('highest'):
        assert ('dot_general' in str(jax.make_jaxpr(convolve)(*arguments))) == tiles
    with convolution.direct(True):
        assert 'dot_general' not in str(jax.make_jaxpr(convolve)(*arguments))


def test_layers_of_one_shape_are_traced_once(monkeypatch):
    """Tracing every layer's tiles took 10 of the 40 s to FractalNet-20's first step."""
    traced = []
    monkeypatch.setattr(winograd, '_input', lambda *pixels, transform=winograd._input: (
        traced.append(pixels[0].shape), transform(*pixels))[1])

    def loss(x, kernel, depth):
        for _ in range(depth):
            x = winograd.convolve(x, kernel, ((1, 1), (1, 1)))
        return x.sum()

    counts = []
    for depth in (1, 3):  # on images of a size that no other test has
        traced.clear()
        jax.grad(loss, (0, 1))(random(2, 10, 12, 34), random(3, 3, 34, 34), depth)
        counts.append(len(traced))
    assert counts[0]
    assert counts[1] == 0
