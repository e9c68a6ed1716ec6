"""LeNet-5, AlexNet, Network in Network, All-CNN and CS231n's network against their sources."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cnnjax import convolution, data, layers, losses, models
from cnnjax.errors import UserError
from cnnjax.models import lenet
from cnnjax.plan import plan
from configs import base

# Parameters with 10 and with 100 classes; only the last layer differs, which is 1x1 or full.
CLASSES = {
    'convnet': (31_066, 31_066 + 90 * 3_073),
    'lenet5': (61_706, 61_706 + 90 * 85),
    'nin': (966_986, 984_356),
    'maxout': (16_247_830, 16_247_830 + 90 * 501),
    'maxout_svhn': (10_461_050, 10_461_050 + 90 * 401),
    'maxout_mnist': (471_994, 471_994 + 90 * 217),
    'dropconnect': (2_250_314, 2_250_314 + 90 * 129),
    'dsn': (3_547_496, 984_356 + 100 * 258_048 + 300),
    'generalized_pooling_mixed': (966_988, 984_356 + 2),
    'generalized_pooling_gated': (967_004, 984_356 + 18),
    'generalized_pooling_tree': (967_022, 984_356 + 36),
    'allcnn_a_base': (839_242, 839_242 + 90 * 193),
    'allcnn_a_strided': (839_242, 839_242 + 90 * 193),
    'allcnn_a_convpool': (1_254_250, 1_254_250 + 90 * 193),
    'allcnn_a': (1_254_250, 1_254_250 + 90 * 193),
    'allcnn_b_base': (885_610, 885_610 + 90 * 193),
    'allcnn_b_strided': (885_610, 885_610 + 90 * 193),
    'allcnn_b_convpool': (1_300_618, 1_300_618 + 90 * 193),
    'allcnn_b': (1_300_618, 1_300_618 + 90 * 193),
    'allcnn_c_base': (954_730, 954_730 + 90 * 193),
    'allcnn_c_strided': (954_730, 954_730 + 90 * 193),
    'allcnn_c_convpool': (1_369_738, 1_387_108),
    'allcnn_c': (1_369_738, 1_387_108),
}


@functools.cache
def shapes(name, side=None, **fields):
    """Of logits, taps (a list of name and shape, in forward order) and variables."""
    net = models.create(name, **fields)
    height, width, channels = net.image_shape
    x = jnp.zeros((1, side or height, side or width, channels))
    taps = []

    def run():
        (logits, seen), variables = net.init_with_output(jax.random.key(0), x)
        taps.extend((tap, value.shape[1:]) for tap, value in seen.items())
        return logits, variables

    logits, variables = jax.eval_shape(run)
    return logits, taps, variables


def size(tree):
    return sum(array.size for array in jax.tree.leaves(tree))


def random(*shape, seed=0):
    return np.float32(np.random.default_rng(seed).normal(size=shape))


def drawn(net, x, seed=0):
    """Variables for images x, every one drawn by numpy and scaled by its fan-in."""
    generator = np.random.default_rng(seed)
    variables = jax.eval_shape(net.init, jax.random.key(0), x)
    return jax.tree.map(lambda array: np.float32(generator.normal(
        0, (2 / max(np.prod(array.shape[:-1]), 4)) ** 0.5, array.shape)), variables)


def apply(net, variables, x, **options):
    return jax.jit(functools.partial(net.apply, **options))(variables, x)


@pytest.mark.parametrize(('name', 'counts'), CLASSES.items())
def test_parameters_of_10_and_100_classes(name, counts):
    assert tuple(size(shapes(name, num_classes=classes)[2]) for classes in (10, 100)) == counts


def sizes(side, maps):
    return side, side, maps


@pytest.mark.parametrize(('name', 'expected'), [
    ('convnet', [('conv', sizes(32, 12)), ('relu', sizes(32, 12)), ('pool', sizes(16, 12)),
                 ('fc', (10,))]),
    ('lenet5', [('c1', sizes(28, 6)), ('relu1', sizes(28, 6)), ('s2', sizes(14, 6)),
                ('c3', sizes(10, 16)), ('relu3', sizes(10, 16)), ('s4', sizes(5, 16)),
                ('c5', sizes(1, 120)), ('relu5', sizes(1, 120)), ('f6', (84,)), ('relu6', (84,)),
                ('output', (10,))]),
    ('lenet5_1998', [('c1', sizes(28, 6)), ('relu1', sizes(28, 6)), ('s2', sizes(14, 6)),
                     ('relu2', sizes(14, 6)), ('c3', sizes(10, 16)), ('relu3', sizes(10, 16)),
                     ('s4', sizes(5, 16)), ('relu4', sizes(5, 16)), ('c5', sizes(1, 120)),
                     ('relu5', sizes(1, 120)), ('f6', (84,)), ('relu6', (84,)),
                     ('output', (10,))]),
    ('alexnet', [('conv1', sizes(55, 96)), ('relu1', sizes(55, 96)), ('norm1', sizes(55, 96)),
                 ('pool1', sizes(27, 96)), ('conv2', sizes(27, 256)), ('relu2', sizes(27, 256)),
                 ('norm2', sizes(27, 256)), ('pool2', sizes(13, 256)), ('conv3', sizes(13, 384)),
                 ('relu3', sizes(13, 384)), ('conv4', sizes(13, 384)), ('relu4', sizes(13, 384)),
                 ('conv5', sizes(13, 256)), ('relu5', sizes(13, 256)), ('pool5', sizes(6, 256)),
                 ('fc6', (4096,)), ('relu6', (4096,)), ('fc7', (4096,)), ('relu7', (4096,)),
                 ('fc8', (1000,))]),
    ('alexnet_tv', [('conv1', sizes(55, 64)), ('relu1', sizes(55, 64)), ('pool1', sizes(27, 64)),
                    ('conv2', sizes(27, 192)), ('relu2', sizes(27, 192)), ('pool2', sizes(13, 192)),
                    ('conv3', sizes(13, 384)), ('relu3', sizes(13, 384)), ('conv4', sizes(13, 256)),
                    ('relu4', sizes(13, 256)), ('conv5', sizes(13, 256)), ('relu5', sizes(13, 256)),
                    ('pool5', sizes(6, 256)), ('average_pool', sizes(6, 256)), ('fc6', (4096,)),
                    ('relu6', (4096,)), ('fc7', (4096,)), ('relu7', (4096,)), ('fc8', (1000,))]),
    ('maxout', [('h0', sizes(33, 192)), ('maxout0', sizes(33, 96)), ('pool0', sizes(16, 96)),
                ('h1', sizes(15, 384)), ('maxout1', sizes(15, 192)), ('pool1', sizes(7, 192)),
                ('h2', sizes(9, 384)), ('maxout2', sizes(9, 192)), ('pool2', sizes(5, 192)),
                ('h3', (2500,)), ('maxout3', (500,)), ('y', (10,))]),
    ('maxout_mnist', [('h0', sizes(21, 96)), ('maxout0', sizes(21, 48)), ('pool0', sizes(10, 48)),
                      ('h1', sizes(9, 96)), ('maxout1', sizes(9, 48)), ('pool1', sizes(4, 48)),
                      ('h2', sizes(6, 96)), ('maxout2', sizes(6, 24)), ('pool2', sizes(3, 24)),
                      ('y', (10,))]),
    ('dropconnect', [('conv1', sizes(24, 64)), ('relu1', sizes(24, 64)), ('pool1', sizes(12, 64)),
                     ('rnorm1', sizes(12, 64)), ('conv2', sizes(12, 64)), ('relu2', sizes(12, 64)),
                     ('rnorm2', sizes(12, 64)), ('pool2', sizes(6, 64)), ('local3', sizes(6, 64)),
                     ('relu3', sizes(6, 64)), ('local4', sizes(6, 32)), ('relu4', sizes(6, 32)),
                     ('fc5', (128,)), ('relu5', (128,)), ('fc6', (10,))]),
    ('nin', [('conv1', sizes(32, 192)), ('relu_conv1', sizes(32, 192)), ('cccp1', sizes(32, 160)),
             ('relu_cccp1', sizes(32, 160)), ('cccp2', sizes(32, 96)),
             ('relu_cccp2', sizes(32, 96)), ('pool1', sizes(16, 96)), ('conv2', sizes(16, 192)),
             ('relu_conv2', sizes(16, 192)), ('cccp3', sizes(16, 192)),
             ('relu_cccp3', sizes(16, 192)), ('cccp4', sizes(16, 192)),
             ('relu_cccp4', sizes(16, 192)), ('pool2', sizes(8, 192)), ('conv3', sizes(8, 192)),
             ('relu_conv3', sizes(8, 192)), ('cccp5', sizes(8, 192)), ('relu_cccp5', sizes(8, 192)),
             ('cccp6', sizes(8, 10)), ('relu_cccp6', sizes(8, 10)), ('pool3', (10,))]),
])
def test_layers_and_their_sizes(name, expected):
    assert shapes(name)[1] == expected


# The paper's Table 2, convolutions and pools: size of the kernel, maps, side of the output.
ALL_CNN = {
    'allcnn_a_base': '5x5 96 32, pool 16, 5x5 192 16, pool 8',
    'allcnn_b_base': '5x5 96 32, 1x1 96 32, pool 16, 5x5 192 16, 1x1 192 16, pool 8',
    'allcnn_c_base': '3x3 96 32, 3x3 96 32, pool 16, 3x3 192 16, 3x3 192 16, pool 8',
    'allcnn_a_strided': '5x5 96 16, 5x5 192 8',
    'allcnn_b_strided': '5x5 96 32, 1x1 96 16, 5x5 192 16, 1x1 192 8',
    'allcnn_c_strided': '3x3 96 32, 3x3 96 16, 3x3 192 16, 3x3 192 8',
    'allcnn_a_convpool': '5x5 96 32, 3x3 96 32, pool 16, 5x5 192 16, 3x3 192 16, pool 8',
    'allcnn_b_convpool': ('5x5 96 32, 1x1 96 32, 3x3 96 32, pool 16, '
                          '5x5 192 16, 1x1 192 16, 3x3 192 16, pool 8'),
    'allcnn_c_convpool': ('3x3 96 32, 3x3 96 32, 3x3 96 32, pool 16, '
                          '3x3 192 16, 3x3 192 16, 3x3 192 16, pool 8'),
    'allcnn_a': '5x5 96 32, 3x3 96 16, 5x5 192 16, 3x3 192 8',
    'allcnn_b': '5x5 96 32, 1x1 96 32, 3x3 96 16, 5x5 192 16, 1x1 192 16, 3x3 192 8',
    'allcnn_c': '3x3 96 32, 3x3 96 32, 3x3 96 16, 3x3 192 16, 3x3 192 16, 3x3 192 8',
}


@pytest.mark.parametrize(('name', 'layout'), ALL_CNN.items())
def test_the_forms_of_all_cnn(name, layout):
    logits, taps, variables = shapes(name)
    seen, convolutions = [], 0
    for tap, shape in taps[:-1]:
        if tap.startswith('pool'):
            seen.append(f'pool {shape[0]}')
        elif tap.startswith('conv'):
            convolutions += 1
            assert tap == f'conv{convolutions}'
            kernel = variables['params'][tap]['kernel'].shape
            seen.append(f'{kernel[0]}x{kernel[1]} {kernel[3]} {shape[0]}')
        else:
            assert tap == f'relu{convolutions}'
    assert ', '.join(seen) == f'{layout}, 3x3 192 6, 1x1 192 6, 1x1 10 6'
    assert taps[-1] == ('pool', (10,))
    assert logits.shape == (1, 10)


@pytest.mark.parametrize('name', ['nin', 'allcnn_c'])
def test_scores_are_means_of_maps_after_a_relu(name):
    fields = {'widths': ((4, 3, 2), (4, 3, 3), (4, 3)) if name == 'nin' else (3, 4)}
    net, x = models.create(name, **fields), random(2, 12, 13, 3)
    logits, taps = apply(net, drawn(net, x), x)
    last = taps['relu_cccp6' if name == 'nin' else 'relu9']
    assert (last >= 0).all()
    np.testing.assert_allclose(logits, last.mean((1, 2)), rtol=1e-5, atol=1e-6)


def window(n, i):
    """Of the pixels of a row, those of the i-th window of three, two apart, that exist."""
    return slice(2 * i, min(2 * i + 3, n))


@pytest.mark.parametrize('n', [4, 5, 6])
def test_pools_with_ceil_by_hand(n):
    x = random(2, n, n, 3)
    count = n // 2 if n % 2 == 0 else (n - 1) // 2
    for pool, reduce in ((layers.max_pool, np.max), (layers.average_pool, np.mean)):
        y = pool(x, 3, 2, ceil=True)
        assert y.shape == (2, count, count, 3)
        for i in range(count):
            for j in range(count):
                values = reduce(x[:, window(n, i), window(n, j)], axis=(1, 2))
                np.testing.assert_allclose(y[:, i, j], values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(('n', 'ceil', 'floor'), [
    (112, 56, 55), (56, 28, 27), (28, 14, 13), (14, 7, 6), (32, 16, 15), (16, 8, 7),
    (55, 27, 27), (27, 13, 13), (13, 6, 6),
])
@pytest.mark.parametrize('pool', [layers.max_pool, layers.average_pool])
def test_sizes_of_pools_with_ceil(pool, n, ceil, floor):
    x = jnp.zeros((1, n, n + 1, 1))
    for option, side in ((True, ceil), (False, floor)):
        y = jax.eval_shape(functools.partial(pool, size=3, stride=2, ceil=option), x)
        assert y.shape[1] == side


def test_what_counts_in_a_mean():
    """Ones in 4 x 4: padding counts, or not; what sticks out under ceil never does."""
    x = jnp.ones((1, 4, 4, 1))
    pool = functools.partial(layers.average_pool, x, 3, 2, 1)
    side = np.float32([2 / 3, 1])
    np.testing.assert_allclose(pool()[0, :, :, 0], np.outer(side, side), rtol=1e-6)
    np.testing.assert_allclose(pool(count_padding=False), 1, rtol=1e-6)
    # The third window is the last pixel and the padding; a pixel beyond sticks out.
    side = np.float32([2 / 3, 1, 1 / 2])
    np.testing.assert_allclose(pool(ceil=True)[0, :, :, 0], np.outer(side, side), rtol=1e-6)
    np.testing.assert_allclose(pool(ceil=True, count_padding=False), 1, rtol=1e-6)


def test_no_window_begins_in_the_padding_at_the_end():
    """Three pixels, windows of two with padding 1, two apart: the third would see padding alone."""
    x = jnp.arange(1.0, 4)[None, None, :, None] * jnp.ones((1, 3, 1, 1))
    y = layers.max_pool(x, 2, 2, 1, ceil=True)
    np.testing.assert_array_equal(y[0, 0, :, 0], [1, 3])
    y = layers.max_pool(x, 2, 3, 1, ceil=True)  # and with three apart, the second begins at 2
    np.testing.assert_array_equal(y[0, 0, :, 0], [1, 3])


def test_adaptive_average_pool():
    x = random(1, 7, 6, 2)
    np.testing.assert_array_equal(layers.adaptive_average_pool(x[:, :6], 6), x[:, :6])
    y = layers.adaptive_average_pool(x, 3)
    for i, rows in enumerate([slice(0, 3), slice(2, 5), slice(4, 7)]):  # torch's, of seven
        np.testing.assert_allclose(y[:, i, 1], x[:, rows, 2:4].mean((1, 2)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', ['nin', 'allcnn_c_base', 'allcnn_a_convpool', 'lenet5', 'convnet'])
def test_another_pool_has_the_same_weights(name):
    fields = {'nin': {'widths': ((4, 3, 2), (4, 3, 3), (4, 3))}, 'lenet5': {}, 'convnet': {}}
    net = models.create(name, **fields.get(name, {'widths': (3, 4)}))
    x = random(1, 32, 32, net.image_shape[-1])
    variables = drawn(net, x)
    first = 's2' if name == 'lenet5' else 'pool' if name == 'convnet' else 'pool1'
    largest, mean = (apply(net.clone(pool=pool), variables, x)[1][first]
                     for pool in (layers.max_pool, layers.average_pool))
    assert largest.shape == mean.shape
    assert (largest >= mean - 1e-5).all()
    assert (largest > mean).any()


def test_the_second_pool_of_nin_is_a_mean():
    net, x = models.create('nin', widths=((4, 3, 2), (4, 3, 3), (4, 3))), random(1, 8, 8, 3)
    _, taps = apply(net, drawn(net, x), x)
    np.testing.assert_array_equal(taps['pool1'],
                                  layers.max_pool(taps['relu_cccp2'], 3, 2, ceil=True))
    before = taps['relu_cccp4']
    assert before.shape[1] == 4
    np.testing.assert_allclose(taps['pool2'][:, 1, 1], before[:, 2:, 2:].mean((1, 2)), rtol=1e-5)


def test_c3_sees_what_table_1_says():
    table = lenet.TABLE_I
    assert [len(maps) for maps in table] == [3] * 6 + [4] * 9 + [6]
    assert len(set(table)) == 16
    assert sum(map(len, table)) == 60
    assert all(sum(s2 in maps for maps in table) == 10 for s2 in range(6))  # ten crosses in a row
    net, x = models.create('lenet5_1998'), random(1, 32, 32, 1)
    variables = drawn(net, x)
    shape = jax.tree.map(jnp.shape, variables['params'])
    assert shape['c3'] == {'kernel': (5, 5, 60), 'bias': (16,)}

    def c3(maps):
        return lenet.SparseConv(table, 5, jnp.float32).apply(
            {'params': variables['params']['c3']}, maps)

    jacobian = jax.jacrev(c3)(random(1, 5, 5, 6))  # [1, 1, 1, 16, 1, 5, 5, 6]
    seen = np.abs(jacobian[0, 0, 0, :, 0]).sum((1, 2)) > 0
    assert [tuple(np.flatnonzero(row)) for row in seen] == list(table)


def test_a_full_table_is_an_ordinary_convolution():
    x, kernel, bias = random(2, 7, 6, 3), random(5, 5, 3, 4, seed=1), random(4, seed=2)
    sparse = lenet.SparseConv(((0, 1, 2),) * 4, 5, jnp.float32)
    pairs = kernel.transpose(0, 1, 3, 2).reshape(5, 5, 12)  # by map after, then map before
    y = sparse.apply({'params': {'kernel': pairs, 'bias': bias}}, x)
    full = layers.conv(4, 5, padding=0).apply({'params': {'kernel': kernel, 'bias': bias}}, x)
    np.testing.assert_allclose(y, full, rtol=1e-4, atol=1e-4)


def test_parameters_and_connections_of_lenet5():
    """Section II.B, layer by layer, and the totals of its last paragraph."""
    params = shapes('lenet5_1998')[2]['params']
    assert {layer: size(arrays) for layer, arrays in params.items()} == {
        'c1': 156, 's2': 12, 'c3': 1_516, 's4': 32, 'c5': 48_120, 'f6': 10_164}
    assert size(params) == 60_000
    connections = lenet.connections(models.create('lenet5_1998'))
    assert connections == {'c1': 122_304, 's2': 5_880, 'c3': 151_600, 's4': 2_000, 'c5': 48_120,
                           'f6': 10_164, 'output': 840}
    assert sum(connections.values()) == 340_908
    # The dense variant's multiply-adds, and one more per unit for its bias; its pools have none.
    dense = lenet.connections(models.create('lenet5'))
    units = 28 ** 2 * 6 + 10 ** 2 * 16 + 120 + 84 + 10
    assert sum(dense.values()) - dense['s2'] - dense['s4'] == 416_520 + units


def test_scaled_tanh():
    x = jnp.array([-1.0, 0, 0.5, 1, 2])
    np.testing.assert_allclose(lenet.scaled_tanh(x), [-0.999997, 0, 0.551684, 0.999997, 1.492939],
                               atol=1e-6)
    np.testing.assert_allclose(lenet.scaled_tanh(jnp.array(100.0)), 1.7159, rtol=1e-6)


def test_sub_sampling_adds_four_pixels():
    x = jnp.arange(32.0).reshape(1, 4, 4, 2)
    params = {'coefficient': jnp.array([2.0, -1.0]), 'bias': jnp.array([0.5, 1.0])}
    y = lenet.SubSampling(jnp.float32).apply({'params': params}, x)
    sums = np.array(x).reshape(1, 2, 2, 2, 2, 2).sum((2, 4))
    np.testing.assert_allclose(y, sums * [2, -1] + [0.5, 1], rtol=1e-6)


def test_the_codes_are_pictures_of_the_digits():
    codes = lenet.digit_codes()
    assert codes.shape == (10, 84)
    assert set(codes.ravel()) == {-1, 1}
    seven = codes[7].reshape(12, 7)
    np.testing.assert_array_equal(seven[0], [1] * 7)
    np.testing.assert_array_equal(seven[1], [-1] * 5 + [1] * 2)
    assert (codes[[0, 1, 2, 3, 5, 6, 7, 8, 9]].reshape(9, 12, 7)[:, -2:] == -1).all()
    differ = (codes[:, None] != codes[None]).sum(-1)
    assert differ[~np.eye(10, dtype=bool)].min() >= 8


def test_the_outputs_of_1998_are_distances():
    net, x = models.create('lenet5_1998'), random(2, 32, 32, 1)
    logits, taps = apply(net, drawn(net, x), x)
    expected = [[-np.sum((f6 - code) ** 2) for code in lenet.digit_codes()]
                for f6 in np.array(taps['relu6'])]
    np.testing.assert_allclose(logits, expected, rtol=1e-5)
    with pytest.raises(UserError, match='num_classes=11.* codes for 10 classes; lenet5'):
        shapes('lenet5_1998', num_classes=11)


def test_an_activation_follows_every_layer_of_1998():
    net, x = models.create('lenet5_1998'), random(1, 32, 32, 1)
    variables = drawn(net, x)
    _, taps = apply(net, variables, x)
    for layer, relu in (('c1', 'relu1'), ('s2', 'relu2'), ('c3', 'relu3'), ('s4', 'relu4'),
                        ('c5', 'relu5'), ('f6', 'relu6')):
        np.testing.assert_allclose(taps[relu], lenet.scaled_tanh(taps[layer]), rtol=1e-5, atol=1e-6)
    before = np.array(taps['relu1'])[0].reshape(14, 2, 14, 2, 6).sum((1, 3))
    s2 = variables['params']['s2']
    np.testing.assert_allclose(taps['s2'][0], before * s2['coefficient'] + s2['bias'], rtol=1e-3,
                               atol=1e-5)


def test_first_weights_of_1998():
    params = jax.jit(models.create('lenet5_1998').init)(
        jax.random.key(0), jnp.zeros((1, 32, 32, 1)))['params']
    for layer, fan_in in (('c1', 25), ('c5', 400), ('f6', 120)):
        largest = jnp.abs(params[layer]['kernel']).max()
        assert 0.9 * 2.4 / fan_in < largest <= 2.4 / fan_in
    of_three, of_six = (jnp.abs(params['c3']['kernel'][..., part]).max()
                        for part in (slice(18), slice(-6, None)))
    assert 0.9 * 2.4 / 75 < of_three <= 2.4 / 75
    assert 0.9 * 2.4 / 150 < of_six <= 2.4 / 150


def narrow_alexnet(name='alexnet', **fields):
    return models.create(name, widths=(4, 6, 4, 8, 6), hidden=(5, 4), num_classes=3, **fields)


def test_groups_are_two_separate_convolutions():
    net, x = narrow_alexnet(), random(2, 67, 71, 3)
    variables = drawn(net, x)
    _, taps = apply(net, variables, x)
    for layer, before in (('conv2', 'pool1'), ('conv4', 'relu3'), ('conv5', 'relu4')):
        kernel, bias = variables['params'][layer]['kernel'], variables['params'][layer]['bias']
        assert kernel.shape[2] == taps[before].shape[-1] // 2
        pad = kernel.shape[0] // 2
        halves = [lax.conv_general_dilated(maps, weights, (1, 1), ((pad, pad), (pad, pad)),
                                           dimension_numbers=convolution.LAYOUT)
                  for maps, weights in zip(jnp.split(taps[before], 2, -1),
                                           jnp.split(kernel, 2, -1), strict=True)]
        np.testing.assert_allclose(taps[layer], np.concatenate(halves, -1) + np.asarray(bias),
                                   rtol=1e-4, atol=1e-5)
    ungrouped = drawn(narrow_alexnet('alexnet_ungrouped'), x)['params']
    assert [ungrouped[f'conv{i}']['kernel'].shape[2] for i in range(1, 6)] == [3, 4, 6, 4, 8]


def test_normalization_is_between_relu_and_pool():
    net, x = narrow_alexnet(), 50 * random(1, 67, 67, 3)
    _, taps = apply(net, drawn(net, x), x)
    for i in (1, 2):
        np.testing.assert_array_equal(taps[f'relu{i}'], np.maximum(taps[f'conv{i}'], 0))
        np.testing.assert_allclose(taps[f'norm{i}'], layers.local_response_normalization(
            taps[f'relu{i}'], 2.0, 1e-4, 0.75, 5), rtol=1e-5)
        np.testing.assert_array_equal(taps[f'pool{i}'], layers.max_pool(taps[f'norm{i}'], 3, 2))
    np.testing.assert_array_equal(taps['pool5'], layers.max_pool(taps['relu5'], 3, 2))


def test_alexnets_neurons_and_layers():
    """The 650,000 neurons of the paper's abstract, and Caffe's parameters layer by layer."""
    _, taps, variables = shapes('alexnet')
    assert sum(np.prod(shape) for tap, shape in taps if tap.startswith(('conv', 'fc'))) == 659_272
    assert [size(arrays) for arrays in variables['params'].values()] == [
        34_944, 307_456, 885_120, 663_936, 442_624, 37_752_832, 16_781_312, 4_097_000]


def test_first_weights_of_alexnet():
    params = jax.jit(narrow_alexnet().init)(jax.random.key(0), jnp.zeros((1, 67, 67, 3)))['params']
    biases = {layer: set(np.array(arrays['bias'])) for layer, arrays in params.items()}
    ones = {'conv2', 'conv4', 'conv5', 'fc6', 'fc7'}
    assert biases == {layer: {1} if layer in ones else {0} for layer in params}
    kernel = params['conv1']['kernel']
    assert float(kernel.std()) == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize('name', ['alexnet', 'alexnet_tv'])
def test_where_alexnets_dropout_is(name):
    """After relu6 and relu7 in the paper, before fc6 and fc7 in torchvision."""
    net, x = narrow_alexnet(name).clone(dropout=1.0), random(1, 67, 67, 3)
    variables = drawn(net, x)
    _, taps = apply(net, variables, x, train=True, rngs={'dropout': jax.random.key(0)})
    params = variables['params']
    silent = ('fc6', 'fc7') if name == 'alexnet_tv' else ('fc7', 'fc8')
    for layer in ('fc6', 'fc7', 'fc8'):
        is_bias = np.allclose(taps[layer][0], params[layer]['bias'])
        assert is_bias == (layer in silent)


@pytest.mark.parametrize('side', [63, 100, 131])
def test_torchvisions_alexnet_takes_any_size(side):
    logits, taps, variables = shapes('alexnet_tv', side)
    assert dict(taps)['average_pool'] == (6, 6, 256)
    assert variables['params']['fc6']['kernel'].shape == (9216, 4096)


@pytest.mark.parametrize(('name', 'layer', 'before', 'kept'), [
    ('allcnn_c', 'drop0', None, 0.8),
    ('allcnn_c', 'drop1', 'relu3', 0.5),
    ('allcnn_c', 'drop2', 'relu6', 0.5),
    ('allcnn_c_base', 'drop1', 'pool1', 0.5),
    ('allcnn_c_strided', 'drop1', 'relu2', 0.5),
    ('nin', 'drop1', 'pool1', 0.5),
    ('nin', 'drop2', 'pool2', 0.5),
])
def test_where_dropout_is_and_its_rates(name, layer, before, kept):
    widths = ((4, 3, 8), (4, 3, 8), (4, 3)) if name == 'nin' else (8, 8)
    net, x = models.create(name, widths=widths), random(4, 32, 32, 3)
    (_, taps), seen = jax.device_get(apply(
        net, drawn(net, x), x, train=True, rngs={'dropout': jax.random.key(0)},
        capture_intermediates=lambda module, _: module.name == layer, mutable=['intermediates']))
    y, = seen['intermediates'][layer]['__call__']
    x = x if before is None else taps[before]
    stays = (y != 0)[x != 0]
    assert float(stays.mean()) == pytest.approx(kept, abs=4 * 0.5 / stays.size ** 0.5)
    np.testing.assert_allclose(y[y != 0], x[y != 0] / kept, rtol=1e-5)


@pytest.mark.parametrize(('name', 'side', 'message'), [
    ('lenet5', 28, r'at least 32 x 32, got \(28, 28\): border=2'),
    ('alexnet', 66, 'at least 67 x 67'),
    ('alexnet_tv', 62, 'at least 63 x 63'),
    ('nin', 3, 'at least 4 x 4'),
    ('allcnn_c', 11, 'at least 12 x 12'),
    ('maxout', 9, 'at least 10 x 10'),
    ('maxout_mnist', 17, 'at least 18 x 18'),
    ('dropconnect', 5, 'at least 6 x 6'),
    ('dsn', 3, 'at least 4 x 4'),
    ('generalized_pooling_tree', 3, 'at least 4 x 4'),
])
def test_images_too_small(name, side, message):
    with pytest.raises(UserError, match=message):
        shapes(name, side)
    smallest = 32 if name.startswith('lenet') else side + 1
    assert min(dict(shapes(name, smallest)[1]).values())  # nothing is empty
    assert all(0 not in shape for _, shape in shapes(name, smallest)[1])


@pytest.mark.parametrize('form', ['base', 'convpool', 'strided', 'all'])
def test_all_cnn_on_its_smallest_images(form):
    assert all(0 not in shape for _, shape in shapes('allcnn_c', 12, form=form)[1])


def test_an_unknown_form():
    with pytest.raises(UserError, match="form is one of base, strided, all, convpool, not 'max'"):
        shapes('allcnn_c', form='max')


@pytest.mark.parametrize(('name', 'fields'), [
    ('convnet', {}),
    ('lenet5', {}),
    ('lenet5_1998', {}),
    ('nin', {'widths': ((8, 6, 4), (8, 6, 6), (8, 6))}),
    ('allcnn_a', {'widths': (4, 6)}),
    ('allcnn_b_convpool', {'widths': (4, 6)}),
    ('allcnn_c_base', {'widths': (4, 6)}),
    ('alexnet', {'widths': (4, 6, 4, 8, 6), 'hidden': (5, 4), 'num_classes': 10}),
    ('alexnet_tv', {'widths': (4, 6, 4, 8, 6), 'hidden': (5, 4), 'num_classes': 10}),
])
def test_a_step_lowers_the_loss(name, fields):
    """From the networks' own first weights, along the gradient: finite, and every layer moves."""
    net = models.create(name, **fields)
    side = 67 if name.startswith('alexnet') else 32
    x, labels = random(4, side, side, net.image_shape[-1]), jnp.array([0, 3, 5, 9])
    params = jax.device_get(jax.jit(net.init)(jax.random.key(1), x[:1])['params'])

    def loss(params):
        logits, _ = net.apply({'params': params}, x, train=True,
                              rngs={'dropout': jax.random.key(0)})
        return losses.cross_entropy(logits, labels).mean()

    before, gradient = jax.device_get(jax.jit(jax.value_and_grad(loss))(params))
    total = np.linalg.norm([np.linalg.norm(array) for array in jax.tree.leaves(gradient)])
    assert 0 < total < np.inf
    after = jax.jit(loss)(jax.tree.map(lambda p, g: p - 1e-3 * g / total, params, gradient))
    assert after < before


@pytest.mark.parametrize('name', ['lenet5', 'lenet5_1998', 'nin', 'allcnn_c', 'convnet',
                                  'maxout_mnist', 'dropconnect', 'dsn', 'generalized_pooling_tree',
                                  'generalized_pooling_mixed'])
def test_bfloat16(name):
    net = models.create(name, dtype='bfloat16')
    x = jnp.zeros((1, *net.image_shape))
    (logits, taps), variables = jax.eval_shape(net.init_with_output, jax.random.key(0), x)
    assert {array.dtype for array in (logits, *taps.values())} == {jnp.dtype('bfloat16')}
    assert {array.dtype for array in jax.tree.leaves(variables)} == {jnp.dtype('float32')}


@pytest.mark.parametrize('name', ['lenet5', 'lenet5_1998'])
def test_recipe_on_mnist(name):
    config = importlib.import_module('configs.mnist').get_config(name).lock()
    assert set(config) == set(base.get_config())
    lengths = plan(config, 60_000)
    assert lengths.steps == 20 * 1875
    assert float(lengths.rate(lengths.steps - 1)) == pytest.approx(0.01 * config.learning_rate)
    assert models.create(**config.model, num_classes=10, dtype=config.dtype).rbf == (
        name == 'lenet5_1998')
    normalize = data.normalization(np.zeros((1, 32, 32, 1), np.uint8), config.mean, config.std)
    np.testing.assert_allclose(normalize(np.uint8([0, 255]).reshape(2, 1, 1, 1)).ravel(),
                               [-0.1, 1.175], atol=1e-5)
    crops = data.Crops(border=config.border)
    image = np.full((28, 28, 1), 7, np.uint8)
    surrounded = crops.center({'image': image})['image']
    assert surrounded.shape == (32, 32, 1)
    np.testing.assert_array_equal(surrounded[2:-2, 2:-2], image)
    assert surrounded.sum() == image.sum()


def test_an_unknown_argument_on_mnist():
    with pytest.raises(ValueError, match='lenet99'):
        importlib.import_module('configs.mnist').get_config('lenet99')


def test_a_negative_border_is_refused():
    with pytest.raises(UserError, match='border=-1'):
        data.Crops(border=-1).check(stream=False)
