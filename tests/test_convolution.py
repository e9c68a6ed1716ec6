"""The convolution and its gradients against lax."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cnnjax import convolution, layers

# Both take (x, kernel, strides, padding, lhs_dilation, rhs_dilation).
LAX = functools.partial(lax.conv_general_dilated, dimension_numbers=convolution.LAYOUT)
OURS = functools.partial(convolution.conv_general_dilated, dimension_numbers=convolution.LAYOUT)
HALVING = (2, 2), ((1, 1), (1, 1))  # strides and padding of a 3x3 convolution
KEEPING = (1, 1), ((1, 1), (1, 1))


def random(*shape, seed=0, dtype='float32'):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


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


def test_a_row_of_padding_for_speed_changes_nothing(monkeypatch):
    cases = [((1, 1), (3, 3), 1), ((2, 3), (3, 3), 1), ((1, 1), (5, 3), 2), ((3, 2), (2, 2), 1)]
    with jax.enable_x64(True):
        x = random(2, 24, 19, 3, dtype='float64')
        for strides, size, dilation in cases:
            kernel = random(*size, 3, 4, seed=1, dtype='float64')
            arguments = x, kernel, strides, ((0, 0), (0, 0)), (1, 1), (dilation,) * 2
            expected = with_gradients(LAX, *arguments)
            for least, padded in ((1, True), (10 ** 9, False)):
                monkeypatch.setattr(convolution, 'UNPADDED', least)
                assert_same(with_gradients(OURS, *arguments), expected, 1e-13)
                text = str(jax.make_jaxpr(lambda x, k, rest=arguments[2:]: OURS(x, k, *rest))(
                    x, kernel))
                assert ('padding=((0, 1), (0, 0))' in text) == padded


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


@pytest.mark.parametrize(('batch', 'features', 'parts'), [(31, 4, 1), (37, 4, 2), (37, 65, 1)])
def test_parts_of_the_images_add_up_to_the_gradient(batch, features, parts):
    """In float64. Only many images and few channels are parted; 37 are no multiple of 16."""
    with jax.enable_x64(True):
        x, kernel = random(batch, 4, 3, 2, dtype='float64'), random(
            3, 3, 2, features, seed=1, dtype='float64')
        assert_same(with_gradients(OURS, x, kernel, *KEEPING),
                    with_gradients(LAX, x, kernel, *KEEPING), 1e-14)
        text = str(jax.make_jaxpr(lambda *arrays: with_gradients(OURS, *arrays, *KEEPING))(
            x, kernel))
    assert text.count('= conv_general_dilated') == 2 + parts  # the output and dx are not parted


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
    ((10, 11, 1), 3, (4, 4), (0, 0), (1, 1)),  # No window sees the last rows.
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


@pytest.mark.parametrize(('backend', 'dtype', 'shape', 'features', 'options', 'outputs'), [
    ('gpu', 'bfloat16', (4, 8, 8, 16), 16, {}, (1, 2)),
    ('gpu', 'bfloat16', (4, 8, 8, 16), 32, {}, None),  # many channels
    ('gpu', 'bfloat16', (4, 8, 7, 16), 16, {}, None),  # an odd width
    ('gpu', 'bfloat16', (4, 8, 8, 16), 16, {'feature_group_count': 16}, None),
    ('gpu', 'bfloat16', (4, 8, 8, 16), 16, {'dilation': 2}, None),
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


@pytest.mark.parametrize('inside', [False, True])
def test_an_up_convolution_is_that_of_lax(inside):
    """Its gradients too; within `direct` it is the same operation."""
    with jax.enable_x64(True), convolution.direct(inside):
        x, kernel = random(2, 3, 5, 4, dtype='float64'), random(2, 2, 4, 3, seed=1, dtype='float64')
        found = with_gradients(convolution.up_convolution, x, kernel)
        assert_same(found, with_gradients(lambda x, kernel: jax.lax.conv_transpose(
            x, kernel, (2, 2), 'VALID'), x, kernel), 1e-14)
        jaxpr = jax.make_jaxpr(lambda: convolution.up_convolution(x, kernel))()
    assert ('conv_general_dilated' in str(jaxpr)) == inside


def test_fractionally_strided_convolution_falls_back_to_the_gradient_of_lax():
    x, kernel = random(2, 4, 5, 3), random(3, 3, 3, 2, seed=1)
    ours, theirs = (with_gradients(convolve, x, kernel, *KEEPING, (2, 2))
                    for convolve in (OURS, LAX))
    assert ours[0].shape == (2, 7, 9, 2)
    assert_same(ours, theirs, 5e-7)
