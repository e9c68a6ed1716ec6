"""The layers against flax, numpy, hand-made examples and the examples of the lecture notes."""

import functools
import itertools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import layers, models
from cnnjax.layers import pooling
from tests.test_convolution import random

# The lecture notes' example of pooling.
PIXELS = np.float32([[3, 4, 5, 6, 5, 4],
                     [5, 4, 3, 3, 2, 1],
                     [1, 3, 2, 4, 6, 2],
                     [3, 7, 8, 5, 1, 2],
                     [0, 3, 7, 8, 1, 3],
                     [2, 7, 8, 3, 4, 0]])


def image(rows):
    return jnp.asarray(rows, jnp.float32)[None, :, :, None]


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
    net = layers.conv(1, size, stride, padding, dilation=dilation)
    y, _ = jax.eval_shape(net.init_with_output, jax.random.key(0), jnp.zeros((1, n, n, 1)))
    assert y.shape == (1, expected, expected, 1)


@pytest.mark.parametrize(('rows', 'options', 'expected'), [
    ([[1, 1, 1, 0, 0, 0]] * 6, {'padding': 0}, [[0, 3, 3, 0]] * 4),
    ([[1, 1, 1, 0, 0, 0]] * 6, {'padding': 0, 'stride': 2}, [[0, 3]] * 2),
    ([[1, 1, 1, 0, 0, 0]] * 6, {'padding': 0, 'dilation': 2}, [[3, 3]] * 2),
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


@pytest.mark.parametrize('pool', [layers.max_pool, layers.average_pool, layers.blur_pool])
def test_size_of_a_pool(pool):
    x = jnp.zeros((1, 112, 112, 3))
    assert jax.eval_shape(lambda x: pool(x, 3, 2, 1), x).shape == (1, 56, 56, 3)
    assert jax.eval_shape(lambda x: pool(x, 3, 2), x).shape == (1, 55, 55, 3)  # floor, as torch


@pytest.mark.parametrize('size', [2, 3])
def test_a_blur_pool_is_a_binomial_filter_of_the_repeated_image(size):
    """Its windows have the middles of those of the other pools."""
    x = random(2, 9, 12, 3)
    weights = np.float32({2: [1, 3, 3, 1], 3: [1, 4, 6, 4, 1]}[size])
    wide = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), 'edge')
    windows = np.lib.stride_tricks.sliding_window_view(wide, (size + 2,) * 2, (1, 2))[:, ::2, ::2]
    expected = np.einsum('nhwcij,i,j->nhwc', windows, weights, weights) / weights.sum() ** 2
    np.testing.assert_allclose(layers.blur_pool(x, size, 2), expected, rtol=1e-5, atol=1e-6)


def test_continued_edges_are_those_of_the_image():
    """Convolutions of every kind of padding; to a network of them a flat image has no frame."""
    x, kernel = random(1, 7, 8, 2), random(3, 3, 2, 4)
    for padding, pairs in ((None, [(1, 1)] * 2), (2, [(2, 2)] * 2),
                           ([(0, 1), (2, 0)], [(0, 1), (2, 0)])):
        conv = layers.conv(4, 3, 2, padding, use_bias=False)
        with layers.continued_edges():
            y = jax.jit(conv.apply)({'params': {'kernel': kernel}}, x)
        wide = np.pad(x, ((0, 0), *pairs, (0, 0)), 'edge')
        expected = layers.conv(4, 3, 2, 0, use_bias=False).apply({'params': {'kernel': kernel}},
                                                                 wide)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    net = models.create('vgg11', widths=(3,) * 5, hidden=(), pool='blur', num_classes=2)
    flat = jnp.full((1, 64, 64, 3), 0.7)
    variables = jax.jit(net.init)(jax.random.key(0), flat[:, :32, :32])
    forward = jax.jit(lambda x: net.apply(variables, x)[1])
    framed = forward(flat[:, :40, :48])
    with layers.continued_edges():
        taps = forward(flat[:, :40, :48])
    for name in ('conv1_1', 'relu3_2', 'relu4_2'):
        assert np.ptp(taps[name], (1, 2)).max() < 1e-6 < np.ptp(framed[name], (1, 2)).max()


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


def test_global_max_pool_keeps_nan_and_gives_ties_to_the_first():
    x = jnp.array([[[[1.0, 5]], [[3, -2]], [[3, jnp.nan]]]])  # [1, 3, 1, 2]
    y, pull = jax.vjp(layers.global_max_pool, x)
    np.testing.assert_array_equal(y, [[3, jnp.nan]])
    np.testing.assert_array_equal(pull(jnp.array([[2.0, 7]]))[0][0, :, 0],
                                  [[0, 0], [2, 0], [0, 7]])
    random = jax.random.normal(jax.random.key(0), (2, 5, 4, 3))
    np.testing.assert_array_equal(layers.global_max_pool(random), random.max((1, 2)))


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


@pytest.mark.parametrize('backend', ['cpu', 'gpu'])  # They sum differently.
@pytest.mark.parametrize('affine', [True, False])
@pytest.mark.parametrize('activation', [lambda x: x, layers.relu, nn.elu])
def test_the_gradient_of_batch_norm_is_that_of_flax(monkeypatch, backend, affine, activation):
    x = random(6, 5, 4, 3)
    options = {'use_running_average': False, 'use_scale': affine, 'use_bias': affine}
    ours = layers.BatchNorm(**options)
    flax = nn.BatchNorm(momentum=0.9, **options)
    variables = ours.init(jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, flax.init(
        jax.random.key(0), x))
    with jax.enable_x64(True):
        x, variables = jax.tree.map(lambda leaf: leaf.astype('float64') + 0.5, (x, variables))

        def normalize(norm, activated):
            def apply(norm, x):
                return activated(x, norm, activation)

            def weighed(x, params):
                y, changed = nn.apply(apply, norm, mutable=['batch_stats'])(
                    {**variables, 'params': params}, x)
                return (y * random(*y.shape, seed=2, dtype='float64')).sum(), (y, changed)

            return jax.jit(jax.grad(weighed, (0, 1), has_aux=True))(x, variables.get('params', {}))

        expected = normalize(flax, lambda x, norm, activation: activation(norm(x)))
        running = expected[1][1]['batch_stats']  # flax keeps the biased variance
        old = variables['batch_stats']['var']
        running['var'] = 0.9 * old + (running['var'] - 0.9 * old) * 120 / 119
        monkeypatch.setattr(jax, 'default_backend', lambda: backend)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12),
                     normalize(ours, layers.activated), expected)


@pytest.mark.parametrize(('activation', 'kept'), [(layers.relu, 1), (lambda x: jnp.exp(x), 2)])
def test_of_batch_norm_and_relu_the_input_alone_is_kept_for_the_gradient(activation, kept):
    x = random(6, 5, 4, 3)
    norm = layers.BatchNorm(use_running_average=False)
    variables = norm.init(jax.random.key(0), x)
    apply = nn.apply(lambda norm, x: layers.activated(x, norm, activation), norm,
                     mutable=['batch_stats'])
    _, gradient, _ = jax.vjp(lambda x: apply(variables, x), x, has_aux=True)
    assert [leaf.shape for leaf in jax.tree.leaves(gradient)].count(x.shape) == kept


def test_the_statistics_of_batch_norm_are_one_reduction_on_a_gpu(monkeypatch):
    """Two would be two kernels for each layer."""
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    norm = layers.BatchNorm(use_running_average=False)
    x = random(6, 5, 4, 3)
    variables = norm.init(jax.random.key(0), x)
    text = str(jax.make_jaxpr(lambda x: norm.apply(variables, x, mutable=['batch_stats']))(x))
    assert len(re.findall(r'= reduce\w*\[', text)) == 1


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
    nan = jnp.array([jnp.nan])  # NaN is not hidden.
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
    sides = pooling._sides(x, size, stride, padding, ceil)

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


def test_frozen_batch_normalization_has_no_parameters():
    """It is batch normalization in evaluation, with all it needs in the statistics."""
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 5))
    values = {name: jax.random.uniform(jax.random.key(i), (5,), minval=0.5)
              for i, name in enumerate(('scale', 'bias', 'mean', 'var'))}
    frozen = layers.FrozenBatchNorm(epsilon=0.1)
    start = frozen.init(jax.random.key(0), x)
    assert start.keys() == {'batch_stats'}
    np.testing.assert_allclose(frozen.apply(start, x), x / 1.1 ** 0.5, rtol=1e-6)
    expected = layers.BatchNorm(epsilon=0.1, use_running_average=True).apply(
        {'params': {name: values[name] for name in ('scale', 'bias')},
         'batch_stats': {name: values[name] for name in ('mean', 'var')}}, x)
    np.testing.assert_allclose(frozen.apply({'batch_stats': values}, x), expected, rtol=1e-5,
                               atol=1e-6)
