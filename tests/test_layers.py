"""The layers against lax, numpy, hand-made examples and the examples of the lecture notes."""

import functools
import itertools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cnnjax import convolution, layers

# The lecture notes' example of pooling.
PIXELS = np.float32([[3, 4, 5, 6, 5, 4],
                     [5, 4, 3, 3, 2, 1],
                     [1, 3, 2, 4, 6, 2],
                     [3, 7, 8, 5, 1, 2],
                     [0, 3, 7, 8, 1, 3],
                     [2, 7, 8, 3, 4, 0]])

# Both take (x, kernel, strides, padding, lhs_dilation, rhs_dilation).
LAX = functools.partial(lax.conv_general_dilated, dimension_numbers=convolution.LAYOUT)
OURS = functools.partial(convolution.conv_general_dilated, dimension_numbers=convolution.LAYOUT)
HALVING = (2, 2), ((1, 1), (1, 1))  # strides and padding of a 3x3 convolution
KEEPING = (1, 1), ((1, 1), (1, 1))


def random(*shape, seed=0, dtype='float32'):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def image(rows):
    return jnp.asarray(rows, jnp.float32)[None, :, :, None]


def with_gradients(convolve, x, kernel, *arguments, **options):
    """The output, and the gradients of its random weighing, which tells every pixel apart."""
    def weighed(x, kernel):
        y = convolve(x, kernel, *arguments, **options)
        return (y * random(*y.shape, seed=2, dtype=y.dtype)).sum(), y

    (dx, dkernel), y = jax.jit(jax.grad(weighed, (0, 1), has_aux=True))(x, kernel)
    return y, dx, dkernel


def assert_same(actual, expected, tolerance):
    """Equal types, and values that differ by a fraction `tolerance` of the largest at most."""
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.dtype == theirs.dtype
        ours, theirs = np.float64(ours), np.float64(theirs)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


@pytest.mark.parametrize(('size', 'dilation'), [(1, 1), (2, 1), (3, 1), (5, 1), (7, 1), (3, 2)])
def test_the_canonical_gradient_is_that_of_lax(size, dilation):
    """In float64, where only the last digit may differ."""
    span = (size - 1) * dilation + 1
    half = span // 2
    # Strides, padding, height and width: images as small as the kernel, larger, and smaller.
    cases = [(strides, padding, shape) for strides in [(1, 1), (2, 2), (3, 2)]
             for padding, shape in [
                 (((0, 0), (0, 0)), (span, span + 4)),
                 (((half, half), (half, half)), (max(1, half), span + 3)),
                 (((2, 1), (0, 3)), (span + 3, max(1, span - 2)))]]
    with jax.enable_x64(True):
        inputs = [random(2, *shape, 3, dtype='float64') for _, _, shape in cases]
        kernel = random(size, size, 3, 4, seed=1, dtype='float64')

        def all_cases(convolve, inputs, kernel):
            return [with_gradients(convolve, x, kernel, strides, padding, (1, 1), (dilation,) * 2)
                    for x, (strides, padding, _) in zip(inputs, cases, strict=True)]

        ours, theirs = (jax.jit(functools.partial(all_cases, convolve))(inputs, kernel)
                        for convolve in (OURS, LAX))
        assert ours[0][0].dtype == 'float64'
        for case in zip(ours, theirs, strict=True):
            assert_same(*case, tolerance=1e-14)


@pytest.mark.parametrize(('dtype', 'tolerance'), [('float32', 5e-7), ('bfloat16', 2 ** -8)])
def test_its_type_is_kept_and_only_rounding_differs(dtype, tolerance):
    x, kernel = random(2, 9, 8, 3, dtype=dtype), random(3, 3, 3, 4, seed=1, dtype=dtype)
    ours, theirs = (with_gradients(convolve, x, kernel, *HALVING) for convolve in (OURS, LAX))
    assert_same(ours, theirs, tolerance)
    assert {array.dtype for array in ours} == {jnp.dtype(dtype)}


def test_it_is_right_inside_cond_and_scan():
    x, kernels = random(2, 6, 6, 3), random(3, 3, 3, 3, 3, seed=1)

    def nested(x, kernels):
        def layer(x, kernel):
            y = lax.cond(kernel[0, 0, 0, 0] < 9, lambda: OURS(x, kernel, *KEEPING), lambda: x)
            return y, None
        return lax.scan(layer, x, kernels)[0]

    def plain(x, kernels):
        for kernel in kernels:
            x = LAX(x, kernel, *KEEPING)
        return x

    ours, theirs = (with_gradients(function, x, kernels) for function in (nested, plain))
    assert_same(ours, theirs, 5e-7)


def test_it_maps_over_examples():
    """A gradient per example, as where several images are optimized at a time."""
    x, kernel = random(3, 1, 6, 5, 2), random(3, 3, 2, 4, seed=1)

    def gradients(x):
        return with_gradients(OURS, x, kernel, *HALVING)

    mapped = jax.vmap(gradients)(x)
    for i, one in enumerate(x):
        assert_same([array[i] for array in mapped], gradients(one), 5e-7)


@pytest.mark.parametrize(('size', 'stride', 'padding', 'dilation', 'groups'), [
    (3, 1, (1, 1), 1, 1), (3, 2, (1, 1), 1, 1), (5, 1, (0, 2), 1, 1), (3, 1, (2, 2), 2, 1),
    (7, 2, (3, 3), 1, 1), (3, 3, (0, 0), 1, 2), (2, 1, (4, 3), 1, 1), (1, 2, (0, 0), 1, 4)])
def test_strips_of_rows_add_up_to_the_gradient(monkeypatch, size, stride, padding, dilation,
                                               groups):
    """As many strips as there can be, of images that strides leave rows of."""
    monkeypatch.setattr(convolution, 'STRIP', 1)
    strips, split = [], convolution._strips
    monkeypatch.setattr(convolution, '_strips', lambda *a: strips.append(split(*a)) or strips[-1])
    with jax.enable_x64(True):
        x, kernel = random(2, 14, 11, 4, dtype='float64'), random(
            size, size, 4 // groups, 8, seed=1, dtype='float64')
        arguments = (stride, stride), (padding, padding), None, (dilation, dilation)
        options = {'feature_group_count': groups}
        assert_same(with_gradients(OURS, x, kernel, *arguments, **options),
                    with_gradients(LAX, x, kernel, *arguments, **options), 1e-13)
    assert len(strips[0]) > 1


@pytest.mark.parametrize(('height', 'width', 'padding'), [
    (6, 8, ((1, 1), (1, 1))), (7, 5, ((1, 1), (1, 1))), (7, 6, ((0, 0), (0, 0))),
    (2, 1, ((1, 1), (1, 1))), (4, 5, ((2, 1), (0, 3))), (3, 6, ((4, 0), (-1, 2)))])
def test_tiles_of_winograd_make_the_convolution_and_its_gradients(monkeypatch, height, width,
                                                                  padding):
    monkeypatch.setattr(convolution, '_fast_in_tiles', lambda *_: True)
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
    ((8, 16, 16, 64), 64, {'precision': 'highest'}, False),
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
        assert 'dot_general' not in str(jax.make_jaxpr(convolve)(*arguments))


def test_a_transposition_for_the_gradient_computes_nothing_again():
    """Of x for the kernel's gradient: XLA would make the block before it a part of the loop."""
    def residual(x, kernels):
        for kernel in kernels:
            x = jax.nn.relu(x + OURS(x, kernel, *KEEPING))
        return OURS(x, kernels[0], *KEEPING)

    def loss(kernels, x):
        return (residual(x, kernels) ** 2).sum()

    program = jax.jit(jax.grad(loss)).lower(
        random(2, 3, 3, 8, 8), random(2, 6, 6, 8)).compile().as_text()
    loops = [loop for loop in program.split('\n\n') if re.search(r'= \S+ transpose\(', loop)]
    assert loops
    assert not any(' maximum(' in loop for loop in loops)


@pytest.mark.parametrize(('shape', 'size', 'strides', 'padding', 'outputs'), [
    ((8, 8, 16), 3, (1, 1), (1, 1), (1, 2)),  # a ResNet's on CIFAR
    ((16, 16, 3), 7, (2, 2), (3, 3), (1, 1)),  # a ResNet's first
    ((15, 17, 3), 7, (2, 2), (3, 3), (1, 1)),
    ((27, 27, 3), 11, (4, 4), (0, 0), (1, 1)),  # AlexNet's first
    ((10, 11, 1), 3, (4, 4), (0, 0), (1, 1)),  # whose last rows no window sees
    ((9, 12, 3), 3, (2, 2), (0, 2), (1, 2)),
    ((8, 8, 5), 5, (1, 1), (2, 2), (2, 2)),
    ((7, 6, 4), 1, (1, 1), (0, 0), (1, 2)),
])
def test_blocks_of_pixels_make_the_convolution(shape, size, strides, padding, outputs):
    """And its gradients, in float64."""
    with jax.enable_x64(True):
        x = random(2, *shape, dtype='float64')
        kernel = random(size, size, shape[-1], 6, seed=1, dtype='float64')
        arguments = x, kernel, strides, (padding, padding)
        assert_same(
            with_gradients(lambda x, kernel: convolution._in_blocks(
                x, kernel, *arguments[2:], outputs, {}), x, kernel),
            with_gradients(LAX, *arguments), 1e-13)


@pytest.mark.parametrize(('shape', 'features', 'size', 'strides', 'padding'), [
    ((8, 8, 4), 4, (3, 3), (1, 1), ((1, 1), (1, 1))),
    ((9, 7, 4), 6, (3, 3), (2, 2), ((1, 1), (1, 1))),
    ((9, 7, 4), 6, (5, 5), (1, 1), ((2, 1), (0, 2))),
    ((9, 8, 4), 6, (3, 2), (1, 2), ((0, 0), (1, 0))),
    ((9, 8, 4), 6, (2, 3), (2, 1), ((0, 0), (1, 3))),
    ((6, 6, 4), 6, (3, 3), (1, 1), ((3, 4), (4, 3))),
    ((10, 11, 3), 3, (3, 3), (4, 3), ((0, 0), (0, 0))),
])
@pytest.mark.parametrize('images', [2, 3])
def test_shifts_make_the_gradient_of_a_kernel(monkeypatch, images, shape, features, size, strides,
                                              padding):
    """In float64; with an even and an odd number of images."""
    monkeypatch.setattr(convolution, '_fast_in_shifts', lambda *_: True)
    monkeypatch.setattr(convolution, '_fast_in_tiles', lambda *_: False)
    with jax.enable_x64(True):
        arguments = (random(images, *shape, dtype='float64'),
                     random(*size, shape[-1], features, seed=1, dtype='float64'), strides, padding)
        assert_same(with_gradients(OURS, *arguments), with_gradients(LAX, *arguments), 1e-13)


@pytest.mark.parametrize(('shape', 'features', 'size', 'stride', 'dtype', 'shifts'), [
    ((128, 32, 32, 16), 16, 3, 1, 'float32', 1),
    ((128, 32, 32, 16), 32, 3, 2, 'float32', 1),
    ((128, 16, 16, 32), 32, 3, 1, 'float32', 1),  # forward in tiles
    ((32, 32, 32, 16), 16, 3, 1, 'float32', 0),  # little to do
    ((128, 32, 32, 48), 12, 3, 1, 'float32', 0),
    ((64, 16, 16, 128), 128, 3, 1, 'float32', 0),
    ((8, 224, 224, 64), 64, 3, 1, 'float32', 0),
    ((128, 32, 32, 16), 16, 1, 1, 'float32', 0),
    ((128, 32, 32, 16), 16, 3, 1, 'bfloat16', 0),
])
def test_shifts_are_for_few_channels_of_many_pixels(monkeypatch, shape, features, size, stride,
                                                     dtype, shifts):
    found, shifted = [], convolution._in_shifts
    monkeypatch.setattr(convolution, '_in_shifts',
                        lambda *arguments: found.append(0) or shifted(*arguments))
    layer = layers.conv(features, size, stride, dtype=dtype, use_bias=False)
    x = jax.ShapeDtypeStruct(shape, dtype)
    variables = jax.eval_shape(layer.init, jax.random.key(0), x)
    jax.eval_shape(jax.grad(lambda variables, x: layer.apply(variables, x).sum()), variables, x)
    assert len(found) == shifts


@pytest.mark.parametrize(('backend', 'dtype', 'shape', 'features', 'options', 'outputs'), [
    ('gpu', 'bfloat16', (4, 8, 8, 16), 16, {}, (1, 2)),
    ('gpu', 'bfloat16', (4, 8, 8, 16), 32, {}, None),  # many channels
    ('gpu', 'bfloat16', (4, 8, 7, 16), 16, {}, None),  # an odd width
    ('gpu', 'bfloat16', (4, 8, 8, 16), 16, {'feature_group_count': 16}, None),
    ('gpu', 'bfloat16', (4, 8, 8, 16), 16, {'kernel_dilation': 2}, None),
    ('gpu', 'bfloat16', (4, 32, 32, 3), 64, {'stride': 2}, (1, 1)),
    ('gpu', 'bfloat16', (4, 32, 32, 16), 64, {'stride': 2}, None),
    ('gpu', 'float32', (4, 8, 8, 16), 16, {}, None),
    ('tpu', 'bfloat16', (4, 8, 8, 16), 16, {}, None),
])
def test_blocks_are_for_few_channels_on_tensor_cores(monkeypatch, backend, dtype, shape, features,
                                                      options, outputs):
    found = []
    monkeypatch.setattr(jax, 'default_backend', lambda: backend)
    monkeypatch.setattr(convolution, '_in_blocks', lambda *arguments: found.append(
        arguments[4]) or LAX(*arguments[:4]))
    layer, x = layers.conv(features, 3, dtype=dtype, **options), jnp.zeros(shape, dtype)
    y = jax.eval_shape(lambda: layer.init_with_output(jax.random.key(0), x)[0])
    assert y.dtype == dtype
    assert set(found) == ({outputs} if outputs else set())


def test_not_a_number_and_infinity_stay_what_they_are():
    x = jnp.array([1, jnp.nan, jnp.inf, -jnp.inf, -0.0]).reshape(1, 1, 5, 1)
    y, _ = jax.vjp(lambda x: OURS(x, jnp.ones((1, 1, 1, 1)), (1, 1), ((0, 0), (0, 0))), x)
    np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize(('groups', 'multiplier'), [(2, 3), (4, 1), (4, 2)])  # 4: depthwise
def test_the_gradient_of_groups_is_that_of_each_on_its_own(groups, multiplier):
    x, kernel = random(2, 5, 6, 4), random(3, 3, 4 // groups, groups * multiplier, seed=1)

    def by_hand(x, kernel):
        parts = zip(jnp.split(x, groups, -1), jnp.split(kernel, groups, -1), strict=True)
        return jnp.concatenate([LAX(*part, *HALVING) for part in parts], -1)

    ours = with_gradients(OURS, x, kernel, *HALVING, feature_group_count=groups)
    assert_same(ours, with_gradients(by_hand, x, kernel), 5e-7)


def test_fractionally_strided_convolution_falls_back_to_the_gradient_of_lax():
    x, kernel = random(2, 4, 5, 3), random(3, 3, 3, 2, seed=1)
    ours, theirs = (with_gradients(convolve, x, kernel, *KEEPING, (2, 2))
                    for convolve in (OURS, LAX))
    assert ours[0].shape == (2, 7, 9, 2)
    assert_same(ours, theirs, 5e-7)


@pytest.mark.parametrize('size', [1, 3, 5, 7])
def test_conv_keeps_height_and_width(size):
    y, variables = jax.eval_shape(layers.conv(4, size).init_with_output, jax.random.key(0),
                                  jnp.zeros((1, 6, 7, 2)))
    assert y.shape == (1, 6, 7, 4)
    assert variables['params']['kernel'].shape == (size, size, 2, 4)


@pytest.mark.parametrize(('n', 'size', 'stride', 'padding', 'dilation', 'expected'), [
    (5, 3, 2, 1, 1, 3),  # the notes' example
    (227, 11, 4, 0, 1, 55),  # AlexNet's first convolution
    (224, 7, 2, 3, 1, 112),  # ResNet's
    (32, 3, 2, 1, 1, 16),
    (6, 3, 2, 0, 1, 2),
    (6, 3, 1, 0, 2, 2),
    (8, 2, 3, 0, 1, 3),
])
def test_size_of_a_convolution(n, size, stride, padding, dilation, expected):
    net = layers.conv(1, size, stride, padding, kernel_dilation=dilation)
    y, _ = jax.eval_shape(net.init_with_output, jax.random.key(0), jnp.zeros((1, n, n, 1)))
    assert y.shape == (1, expected, expected, 1)


@pytest.mark.parametrize(('rows', 'options', 'expected'), [
    ([[1, 1, 1, 0, 0, 0]] * 6, {'padding': 0}, [[0, 3, 3, 0]] * 4),
    ([[1, 1, 1, 0, 0, 0]] * 6, {'padding': 0, 'stride': 2}, [[0, 3]] * 2),
    ([[1, 1, 1, 0, 0, 0]] * 6, {'padding': 0, 'kernel_dilation': 2}, [[3, 3]] * 2),
    ([[1, 1, -1, -1]] * 4, {}, [[-2, 4, 4, -2], [-3, 6, 6, -3], [-3, 6, 6, -3], [-2, 4, 4, -2]]),
])
def test_examples_of_convolution(rows, options, expected):
    """The notes' edge detector."""
    kernel = image([[1, 0, -1]] * 3)[0, :, :, :, None]
    y = layers.conv(1, 3, use_bias=False, **options).apply({'params': {'kernel': kernel}},
                                                           image(rows))
    np.testing.assert_array_equal(y, image(expected))


@pytest.mark.parametrize(('pool', 'expected'), [
    (layers.max_pool, [[5, 6, 5], [7, 8, 6], [7, 8, 4]]),
    (layers.average_pool, [[4, 4.25, 3], [3.5, 4.75, 2.75], [3, 6.5, 2]]),
])
def test_examples_of_pooling(pool, expected):
    np.testing.assert_array_equal(pool(image(PIXELS), 2, 2), image(expected))


@pytest.mark.parametrize('pool', [layers.max_pool, layers.average_pool])
def test_size_of_a_pool(pool):
    x = jnp.zeros((1, 112, 112, 3))
    assert jax.eval_shape(lambda x: pool(x, 3, 2, 1), x).shape == (1, 56, 56, 3)
    assert jax.eval_shape(lambda x: pool(x, 3, 2), x).shape == (1, 55, 55, 3)  # floor, as torch


def test_padding_never_wins_a_maximum_and_counts_as_zeros_in_a_mean():
    x = -image([[1, 2], [3, 4]])
    np.testing.assert_array_equal(layers.max_pool(x, 3, 2, 1), image([[-1]]))
    np.testing.assert_allclose(layers.average_pool(x, 3, 2, 1), image([[-10 / 9]]), rtol=1e-6)


def test_the_gradient_of_a_maximum_goes_to_one_pixel():
    """The largest of its window, or one of the largest: the window below the centre has two 8s."""
    def loss(x):
        return (layers.max_pool(x, 2, 2)[0, :, :, 0] * jnp.arange(1.0, 10).reshape(3, 3)).sum()

    gradient = np.array(jax.grad(loss)(image(PIXELS)))[0, :, :, 0]
    windows = itertools.product(range(0, 6, 2), repeat=2)
    for upstream, (i, j) in enumerate(windows, 1):
        window, inside = gradient[i:i + 2, j:j + 2], PIXELS[i:i + 2, j:j + 2]
        assert sorted(window.ravel()) == [0, 0, 0, upstream]
        assert inside[window > 0] == inside.max()


def test_the_gradient_of_a_mean_goes_to_the_whole_window():
    """The notes' example: 3x3 windows, two apart, that overlap in the middle row and column."""
    gradient = jax.grad(lambda x: layers.average_pool(x, 3, 2).sum())(jnp.zeros((1, 5, 5, 1)))
    count = np.outer([1, 1, 2, 1, 1], [1, 1, 2, 1, 1])
    np.testing.assert_allclose(gradient, image(count / 9), rtol=1e-6)


def test_global_average_pool():
    np.testing.assert_array_equal(layers.global_average_pool(jnp.arange(8.0).reshape(1, 2, 2, 2)),
                                  [[3, 4]])


def test_flatten_runs_through_the_channels_fastest():
    x = jnp.arange(24).reshape(2, 2, 3, 2)
    flat = layers.flatten(x)
    assert flat.shape == (2, 12)
    np.testing.assert_array_equal(flat[1, :4], [*x[1, 0, 0], *x[1, 0, 1]])


@pytest.mark.parametrize(('constants', 'expected'), [
    ((0, 1, 1, 2), [0.2, 0.14285714, 0.10344828, 0.08, 0.06493506, 0.09836066]),  # the notes'
    ((2, 1e-4, 0.75, 5),  # AlexNet's, the default
     [0.59429158, 1.18787101, 1.78014039, 2.37041856, 2.96346574, 3.55735442]),
])
def test_examples_of_local_response_normalization(constants, expected):
    x = jnp.arange(1.0, 7)[None, None, None]
    normalized = layers.local_response_normalization(x, *constants)
    np.testing.assert_allclose(normalized[0, 0, 0], expected, rtol=5e-7)


def test_local_response_normalization_is_alexnets_by_default_and_keeps_the_type():
    x = random(2, 3, 3, 8)
    np.testing.assert_array_equal(layers.local_response_normalization(x),
                                  layers.local_response_normalization(x, 2.0, 1e-4, 0.75, 5))
    assert layers.local_response_normalization(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_local_response_normalization_of_zeros_is_zero():
    """With the notes' constants it would be 0 / 0; the gradient is finite as well."""
    x = jnp.array([0.0, 0, 0, 2])[None, None, None]
    normalize = functools.partial(layers.local_response_normalization, k=0, alpha=1, beta=1, n=2)
    np.testing.assert_array_equal(normalize(x)[0, 0, 0], [0, 0, 0, 0.5])
    assert jnp.isfinite(jax.grad(lambda x: normalize(x).sum())(x)).all()


def test_batch_norm_keeps_nine_tenths_of_its_statistics():
    """torch's momentum of 0.1 and its unbiased variance, 340 / 15; what normalizes is 340 / 16."""
    x = jnp.arange(16.0).reshape(16, 1)
    y, variables = layers.BatchNorm(use_running_average=False).init_with_output(
        jax.random.key(0), x)
    np.testing.assert_allclose(y, (x - 7.5) / np.sqrt(21.25 + 1e-5), rtol=1e-5)
    _, changed = layers.BatchNorm(use_running_average=False).apply(
        variables, x, mutable=['batch_stats'])
    assert changed['batch_stats']['mean'] == pytest.approx(0.1 * 7.5, rel=1e-6)
    assert changed['batch_stats']['var'] == pytest.approx(0.9 + 0.1 * 340 / 15, rel=1e-6)


@pytest.mark.parametrize('backend', ['cpu', 'gpu'])  # which sum in other ways
@pytest.mark.parametrize('affine', [True, False])
def test_the_gradient_of_batch_norm_is_that_of_flax(monkeypatch, backend, affine):
    x = random(6, 5, 4, 3)
    options = {'use_running_average': False, 'use_scale': affine, 'use_bias': affine}
    ours = layers.BatchNorm(**options)
    flax = nn.BatchNorm(momentum=0.9, **options)
    variables = ours.init(jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, flax.init(
        jax.random.key(0), x))
    with jax.enable_x64(True):
        x, variables = jax.tree.map(lambda leaf: leaf.astype('float64') + 0.5, (x, variables))

        def normalize(norm):
            def weighed(x, params):
                y, changed = norm.apply({**variables, 'params': params}, x, mutable=['batch_stats'])
                return (y * random(*y.shape, seed=2, dtype='float64')).sum(), (y, changed)

            return jax.grad(weighed, (0, 1), has_aux=True)(x, variables.get('params', {}))

        expected = normalize(flax)
        running = expected[1][1]['batch_stats']  # flax keeps the biased variance
        old = variables['batch_stats']['var']
        running['var'] = 0.9 * old + (running['var'] - 0.9 * old) * 120 / 119
        monkeypatch.setattr(jax, 'default_backend', lambda: backend)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12),
                     normalize(ours), expected)


def test_batch_norm_of_bfloat16_has_float32_statistics():
    """The mean is 1 + 1/256, which bfloat16 cannot express."""
    x = jnp.tile(jnp.array([1, 1 + 2 ** -7], jnp.bfloat16), 5000)[:, None]
    norm = layers.BatchNorm(use_running_average=False, dtype=jnp.bfloat16)
    y, changed = norm.apply(norm.init(jax.random.key(0), x), x, mutable=['batch_stats'])
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(changed['batch_stats']['mean'], 0.1 * (1 + 2 ** -8), rtol=1e-5)


@pytest.mark.parametrize('options', [{'axis': 1}, {'axis_name': 'data'},
                                     {'use_fast_variance': False}])
def test_what_batch_norm_does_not_know_it_leaves_to_flax(options):
    x = 3 + random(2, 6, 4, 5)

    def normalize(norm):
        norm = norm(use_running_average=False, momentum=0.9, **options)
        variables = norm.init(jax.random.key(0), x[0])
        return jax.vmap(lambda x: norm.apply(variables, x, mutable=['batch_stats']),
                        axis_name='data')(x)

    jax.tree.map(np.testing.assert_array_equal, normalize(layers.BatchNorm),
                 normalize(nn.BatchNorm))


def test_the_running_statistics_are_no_part_of_the_gradient():
    def loss(x):
        _, changed = layers.BatchNorm(use_running_average=False).apply(
            variables, x, mutable=['batch_stats'])
        return changed['batch_stats']['var'].sum()

    x = random(8, 3)
    variables = layers.BatchNorm(use_running_average=False).init(jax.random.key(0), x)
    np.testing.assert_array_equal(jax.grad(loss)(x), 0)


def test_relu_and_its_gradient_are_those_of_flax():
    x = jnp.array([-jnp.inf, -2, -0.0, 0, 1e-30, 3, jnp.inf])
    np.testing.assert_array_equal(layers.relu(x), nn.relu(x))
    gradient = jax.grad(lambda x, relu: (relu(x) * jnp.arange(1.0, 8)).sum())
    np.testing.assert_array_equal(gradient(x, layers.relu), gradient(x, nn.relu))
    nan = jnp.array([jnp.nan])  # a number that is none is not hidden
    assert jnp.isnan(layers.relu(nan)).all()
    np.testing.assert_array_equal(gradient(nan, lambda x: layers.relu(x)[0]), 28)


@pytest.mark.parametrize(('initializer', 'deviation', 'bound'), [
    (layers.he_normal, (2 / (9 * 64)) ** 0.5, None),  # of 3 x 3 x 64 outputs, as in torch
    (layers.caffe_xavier, (1 / (9 * 32)) ** 0.5, (3 / (9 * 32)) ** 0.5),  # of 3 x 3 x 32 inputs
    (layers.torch_linear, (1 / 3 / (9 * 32)) ** 0.5, (9 * 32) ** -0.5),
])
def test_initial_kernels(initializer, deviation, bound):
    kernel = initializer(jax.random.key(0), (3, 3, 32, 64))
    # The standard error of a normal sample's deviation; a uniform one's is smaller.
    error = deviation / (2 * kernel.size) ** 0.5
    assert kernel.std() == pytest.approx(deviation, abs=4 * error)
    if bound is None:
        assert jnp.abs(kernel).max() > 3 * deviation  # normal, not truncated
    else:
        assert 0.99 * bound < jnp.abs(kernel).max() <= bound


@pytest.mark.parametrize(('size', 'stride', 'padding', 'ceil'), [
    (2, 2, 0, False), (3, 2, 1, False), (3, 2, 0, True), (3, 1, 1, False), (2, 3, 0, False)])
def test_the_gradient_of_max_pooling_is_that_of_jax(size, stride, padding, ceil):
    """Also where windows overlap, stick out or leave pixels out, and at the many ties of a ReLU."""
    x = jax.nn.relu(jax.random.normal(jax.random.key(0), (2, 9, 10, 3)).round(1))
    sides = layers._sides(x, size, stride, padding, ceil)

    def gradient(pool):
        y, pull = jax.vjp(pool, x)
        return pull(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))[0]

    ours = gradient(lambda x: layers.max_pool(x, size, stride, padding, ceil))
    expected = gradient(lambda x: nn.max_pool(x, (size, size), (stride, stride), sides))
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-6)


def test_max_pooling_of_what_is_not_finite():
    """The padding wins against nothing, NaN against everything: as in torch the first has the
    gradient."""
    x = image([[-np.inf, -np.inf, 1, 2], [-np.inf, -np.inf, np.nan, 3]])
    y, pull = jax.vjp(lambda x: layers.max_pool(x, 2, 2), x)
    np.testing.assert_array_equal(y, image([[-np.inf, np.nan]]))
    np.testing.assert_array_equal(pull(jnp.ones_like(y))[0], image([[1, 0, 0, 0], [0, 0, 1, 0]]))
    y, pull = jax.vjp(lambda x: layers.max_pool(x, 3, 2, 1), x[:, :, :2])
    np.testing.assert_array_equal(pull(jnp.ones_like(y))[0], image([[1, 0], [0, 0]]))


def test_fractional_max_pooling_keeps_nan_and_gives_ties_to_the_first():
    x = jnp.ones((1, 6, 6, 1)).at[0, 2, 3].set(jnp.nan)
    y, pull = jax.vjp(lambda x: layers.fractional_max_pool(x, 1.5, jax.random.key(0)), x)
    assert 0 < jnp.isnan(y).sum() < y.size
    assert {*pull(jnp.ones_like(y))[0].ravel().tolist()} <= {0, 1, 2, 4}
    assert pull(jnp.ones_like(y))[0].sum() == y.size
