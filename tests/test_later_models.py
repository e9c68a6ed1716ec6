"""GoogLeNet, MobileNet, fractional max-pooling, deep FractalNets; the lecture notes' layers.

The counts of parameters and multiply-adds are in test_models.py.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax import layers, losses, models, step, tasks
from cnnjax.errors import UserError


def random(*shape, seed=0):
    return np.float32(np.random.default_rng(seed).normal(size=shape))


@functools.cache
def shapes(name, side=None, **fields):
    """The logits' shape, the taps' and the number of parameters, for the paper's images."""
    net = models.create(name, **fields)
    image = net.image_shape if side is None else (side, side, net.image_shape[-1])
    (logits, taps), variables = jax.eval_shape(net.init_with_output, jax.random.key(0),
                                               jax.ShapeDtypeStruct((1, *image), 'float32'))
    taps = {tap: value.shape[1:] for tap, value in taps.items()}
    return logits.shape[1:], taps, sum(x.size for x in jax.tree.leaves(variables['params']))


# GoogLeNet. Only narrow networks run.
NARROW = tuple((name, *(2,) * 6) for name in ('3a', '4a', '4d', '5a'))


def narrow_googlenet(**fields):
    return models.create('googlenet', inceptions=NARROW, num_classes=10, **fields)


@pytest.mark.parametrize('name', ['googlenet', 'googlenet_bn'])
def test_sizes_of_googlenet(name):
    _, taps, _ = shapes(name)
    assert [taps[tap] for tap in ('conv1', 'pool1', 'conv2', 'pool2', 'inception_3a', 'pool3',
                                  'inception_4d', 'pool4', 'inception_5b', 'pool')] == [
        (112, 112, 64), (56, 56, 64), (56, 56, 192), (28, 28, 192), (28, 28, 256), (14, 14, 480),
        (14, 14, 528), (7, 7, 832), (7, 7, 1024), (1024,)]
    assert not any(tap.startswith('aux') for tap in taps)


@pytest.mark.parametrize(('module', 'count'), [
    ('3a', 163_696), ('3b', 388_736), ('4a', 376_176), ('4b', 449_160), ('4c', 510_104),
    ('4d', 605_376), ('4e', 868_352), ('5a', 1_043_456), ('5b', 1_444_080)])
def test_counts_of_inception_modules(module, count):
    net = models.create('googlenet')
    params = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))['params']
    assert sum(x.size for x in jax.tree.leaves(params[f'inception_{module}'])) == count
    for head, own in (('aux1', 3_188_840), ('aux2', 3_190_888)):
        assert sum(x.size for x in jax.tree.leaves(params[head])) == own


def test_the_training_step_reaches_the_auxiliary_classifiers():
    net, tx = narrow_googlenet(dropout=0.0), optax.sgd(1.0)
    images = random(2, 79, 79, 1)
    batch = {'image': images, 'label': np.array([3, 5]), 'position': np.arange(2)}
    state = step.create(net, tx, jax.random.key(0), (79, 79, 1))

    after, metrics = jax.jit(functools.partial(
        step.train_step, axis=None, task=tasks.create('classify', net), net=net, tx=tx,
        augment=lambda key, positions, examples: examples))(state, {}, batch, jax.random.key(1))
    gradient = jax.tree.map(lambda a, b: np.abs(a - b).max(), state.params, after.params)
    assert all(gradient[head][layer]['kernel'] > 0
               for head in ('aux1', 'aux2') for layer in ('conv', 'fc1', 'fc2'))
    # The bias of a head's last layer: 0.3 times the mean of softmax - target, 0 before.
    for head in ('aux1', 'aux2'):
        assert after.params[head]['fc2']['bias'].sum() == pytest.approx(0, abs=1e-6)
        assert 0 < gradient[head]['fc2']['bias'] < 0.3 * 0.5

    # Evaluation neither needs nor computes them; the reported loss is that of its logits.
    params = {name: value for name, value in state.params.items() if not name.startswith('aux')}
    logits, taps = jax.jit(functools.partial(net.apply, train=False))({'params': params}, images)
    assert not any(tap.startswith('aux') for tap in taps)
    loss = losses.cross_entropy(logits, batch['label']).mean()
    assert metrics['loss'] == pytest.approx(float(loss), rel=1e-4)


def test_auxiliary_logits_are_taps_in_training_only():
    net = narrow_googlenet()
    variables = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    _, taps = jax.eval_shape(
        lambda variables, x: net.apply(variables, x, train=True,
                                       rngs={'dropout': jax.random.key(0)}),
        variables, jnp.zeros((1, 224, 224, 3)))
    assert net.auxiliary == {'aux1': 0.3, 'aux2': 0.3}
    assert models.create('googlenet_bn').auxiliary == {}
    for head in net.auxiliary:
        assert taps[f'{head}/pool'].shape[1:3] == (4, 4)
        assert taps[f'{head}/fc1'].shape == (1, 1024)
        assert taps[head].shape == (1, 10)


@pytest.mark.parametrize(('name', 'side', 'expected'), [
    # Table 1 of SqueezeNet, at the 227 pixels that its sizes need, and of Inception v3 (35, 17 and
    # 8 pixels), Table 2 of MobileNet v2; lucid's names of layers have these sizes.
    ('squeezenet1_0', 227, {'conv1': (111, 111, 96), 'pool1': (55, 55, 96), 'fire4': (55, 55, 256),
                            'fire8': (27, 27, 512), 'pool8': (13, 13, 512), 'pool10': (1000,)}),
    ('inception_v3', 299, {'maxpool2': (35, 35, 192), 'Mixed_5d': (35, 35, 288),
                           'Mixed_6e': (17, 17, 768), 'Mixed_7c': (8, 8, 2048)}),
    ('mobilenet_v2', 224, {'block1': (112, 112, 16), 'block3': (56, 56, 24), 'block6': (28, 28, 32),
                           'block17': (7, 7, 320), 'conv2': (7, 7, 1280)}),
    ('inception_v1', 224, {'norm1': (56, 56, 64), 'norm2': (56, 56, 192),
                           'inception_3b': (28, 28, 480), 'inception_4a': (14, 14, 508),
                           'inception_5b': (7, 7, 1024), 'fc': (1008,)}),
    ('inception_v1', 225, {'conv1': (113, 113, 64), 'pool1': (57, 57, 64)}),
])
def test_sizes_of_small_networks_and_inceptions(name, side, expected):
    _, taps, _ = shapes(name, side)
    assert {tap: taps[tap] for tap in expected} == expected


def test_bypasses_of_squeezenet():
    """The simple one adds a module's input where it has as many maps, and nothing elsewhere."""
    fields = {'stem_width': 4, 'fires': ((2, 2), (2, 3)), 'pools': (1,)}
    nets = [models.create('squeezenet1_1', bypass=bypass, **fields)
            for bypass in ('none', 'simple', 'complex')]
    x = random(1, 12, 12, 3)
    variables = nets[2].init(jax.random.key(0), x)
    plain, simple, whole = (net.apply(variables, x)[1] for net in nets)
    np.testing.assert_array_equal(simple['fire2'], plain['fire2'] + plain['pool1'])
    np.testing.assert_array_equal(whole['fire2'], simple['fire2'])
    np.testing.assert_array_equal(whole['fire3'], whole['fire3/concat'] + whole['fire3/bypass'])
    np.testing.assert_array_equal(simple['fire3'][..., :3], simple['fire3/relu_expand1x1'])


@pytest.mark.parametrize(('multiplier', 'channels', 'expected'), [
    (1.0, 24, 24), (0.35, 32, 16), (0.35, 24, 8), (0.75, 24, 24), (1.4, 16, 24), (1.4, 96, 136)])
def test_widths_of_mobilenet_v2(multiplier, channels, expected):
    """Of 0.35 x 32 = 11.2 the nearest multiple of 8 is 8, less than 9/10 of it."""
    assert models.create('mobilenet_v2', width_multiplier=multiplier).width(channels) == expected


@pytest.mark.parametrize(('name', 'side', 'fields'), [
    ('squeezenet1_0', 21, {}), ('squeezenet1_1', 17, {}), ('inception_v3', 299, {}),
    ('inception_v3', 75, {'auxiliary_weight': 0.0})])
def test_the_smallest_images(name, side, fields):
    assert shapes(name, side, **fields)
    with pytest.raises(UserError, match=f'at least {side} x {side}'):
        shapes(name, side - 1, **fields)


def test_googlenet_refuses_images_too_small_for_its_classifiers():
    for weight, side in ((0.3, 79), (0.0, 31)):
        assert shapes('googlenet', side, inceptions=NARROW, auxiliary_weight=weight)
        with pytest.raises(UserError, match=f'at least {side} x {side}'):
            shapes('googlenet', side - 1, inceptions=NARROW, auxiliary_weight=weight)


# MobileNet.

def test_sizes_of_mobilenet():
    _, taps, _ = shapes('mobilenet_v1')
    assert [taps[f'block{i}'] for i in (1, 2, 4, 6, 11, 12, 13)] == [
        (112, 112, 64), (56, 56, 128), (28, 28, 256), (14, 14, 512), (14, 14, 512), (7, 7, 1024),
        (7, 7, 1024)]
    assert models.create('mobilenet_v1', resolution=160).image_shape == (160, 160, 3)
    _, taps, _ = shapes('mobilenet_v1_025')
    assert [taps[tap][-1] for tap in ('conv1', 'block1', 'block13')] == [8, 16, 256]
    with pytest.raises(UserError, match='width_multiplier is positive'):
        shapes('mobilenet_v1', width_multiplier=0.0)


@pytest.mark.parametrize('stride', [1, 2])
def test_a_depthwise_convolution_filters_every_channel_on_its_own(stride):
    x, kernel = random(2, 7, 8, 3), random(3, 3, 1, 3, seed=1)
    conv = layers.conv(3, 3, stride, feature_group_count=3, use_bias=False)
    ours = conv.apply({'params': {'kernel': kernel}}, x)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    theirs = np.zeros((2, -(-7 // stride), 8 // stride, 3))
    for c in range(3):
        for i in range(theirs.shape[1]):
            for j in range(theirs.shape[2]):
                window = padded[:, i * stride:i * stride + 3, j * stride:j * stride + 3, c]
                theirs[:, i, j, c] = (window * kernel[:, :, 0, c]).sum((1, 2))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


# Fractional max-pooling.

def test_sizes_of_fractional_networks():
    def sizes(name):
        _, taps, _ = shapes(name)
        return [taps[f'pool{i}'][0] for i in range(1, models.create(name).depth + 1)]

    assert sizes('fmp6_32') == [25, 17, 11, 7, 4, 2]
    assert sizes('fmp12_160') == [74, 58, 45, 35, 27, 21, 16, 12, 9, 6, 4, 2]
    net = models.create('fmp12_160')
    params = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))['params']
    assert sum(layer['kernel'].size for layer in params.values()) == 74_569_920


@pytest.mark.parametrize('order', ['random', 'pseudorandom'])
@pytest.mark.parametrize(('span', 'count'), [(35, 25), (92, 74), (3, 2), (7, 7), (8, 4), (99, 50)])
def test_boundaries_step_by_one_and_two(order, span, count):
    draw = functools.partial(layers.pooling_boundaries, span=span, count=count, order=order)
    boundaries = np.asarray(jax.vmap(draw)(jax.random.split(jax.random.key(0), 200)))
    steps = np.diff(boundaries)
    assert (boundaries[:, 0] == 0).all()
    assert (boundaries[:, -1] == span).all()
    assert set(np.unique(steps)) <= {1, 2}
    if count < span < 2 * count:
        assert len(np.unique(steps, axis=0)) > 1
    if order == 'pseudorandom':  # evenly spread: never a whole step from a straight line
        straight = np.arange(count + 1) * span / count
        assert np.abs(boundaries - straight).max() < 1
    else:
        np.testing.assert_allclose(steps.mean(0), span / count, atol=0.2)


@pytest.mark.parametrize('order', ['random', 'pseudorandom'])
@pytest.mark.parametrize('overlapping', [False, True])
def test_fractional_pooling_equals_a_slow_loop(order, overlapping):
    x, key = random(2, 13, 17, 3), jax.random.key(4)
    pool = jax.jit(functools.partial(layers.fractional_max_pool, ratio=2 ** 0.5, order=order,
                                     overlapping=overlapping))
    ours = np.asarray(pool(x, key=key))
    assert ours.shape == (2, 9, 12, 3)
    rows, columns = (np.asarray(layers.pooling_boundaries(own, n - overlapping, m, order))
                     for own, n, m in zip(jax.random.split(key), (13, 17), (9, 12), strict=True))
    seen = np.zeros((13, 17), bool)
    for i in range(9):
        for j in range(12):
            region = np.s_[rows[i]:rows[i + 1] + overlapping,
                           columns[j]:columns[j + 1] + overlapping]
            np.testing.assert_array_equal(ours[:, i, j], x[:, *region].max((1, 2)))
            seen[region] = True
    assert seen.all()
    assert not np.array_equal(ours, pool(x, key=jax.random.key(5)))


@pytest.mark.parametrize('overlapping', [False, True])
def test_the_gradient_of_fractional_pooling_goes_to_the_largest(overlapping):
    x, key = random(1, 6, 7, 1), jax.random.key(0)
    pool = functools.partial(layers.fractional_max_pool, ratio=1.5, key=key,
                             overlapping=overlapping)
    weights = random(1, 4, 5, 1, seed=1)
    gradient = jax.grad(lambda x: (pool(x) * weights).sum())(x)
    pooled = np.asarray(pool(x))
    expected = np.zeros_like(x)
    for value, weight in zip(pooled.flat, weights.flat, strict=True):
        expected[x == value] += weight
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


@pytest.mark.parametrize(('ratio', 'size', 'message'), [
    (1.0, 8, 'ratio is between 1 and 2, not 1.0'), (2.0, 8, 'ratio is between 1 and 2, not 2.0'),
    (1.26, 2, '2 pixels are too few for ratio 1.26')])
def test_fractional_pooling_refuses(ratio, size, message):
    with pytest.raises(UserError, match=message):
        layers.fractional_max_pool(jnp.zeros((1, size, size, 1)), ratio, jax.random.key(0))


def test_an_unknown_order_of_regions_is_refused():
    with pytest.raises(UserError, match="'random' or 'pseudorandom', not 'even'"):
        layers.fractional_max_pool(jnp.zeros((1, 8, 8, 1)), 1.5, jax.random.key(0), order='even')


def test_regions_change_with_the_key_and_tests_are_averaged():
    net = models.create('fmp6_32', width=2, depth=2, canvas=12)
    x = random(2, 8, 8, 1)
    variables = jax.jit(net.init)(jax.random.key(0), x)

    def outputs(net, **options):
        return jax.jit(functools.partial(net.apply, **options))(variables, x)[0]

    fixed = outputs(net)
    np.testing.assert_array_equal(fixed, outputs(net))
    draw = jax.jit(lambda key: net.apply(variables, x, rngs={'drop_path': key})[0])
    draws = [draw(jax.random.key(i)) for i in range(2)]
    assert not np.array_equal(draws[0], draws[1])
    trained = outputs(net, train=True, rngs={'drop_path': jax.random.key(0)})
    np.testing.assert_allclose(trained, draws[0], atol=1e-5)  # this one has no dropout
    averaged = outputs(net.clone(tests=50))
    np.testing.assert_allclose(np.exp(averaged).sum(-1), 1, rtol=1e-5)
    assert not np.allclose(averaged, nn.log_softmax(fixed))
    np.testing.assert_allclose(averaged, outputs(net.clone(tests=40)), atol=0.1)


def test_images_larger_than_the_canvas_are_refused():
    with pytest.raises(UserError, match='enlarge `canvas`'):
        shapes('fmp6_32', 37)


# FractalNet on large images.

def test_fractalnet34():
    _, taps, count = shapes('fractalnet34')
    assert [taps[tap] for tap in ('conv1', 'pool', 'pool1', 'pool2', 'pool3', 'pool4')] == [
        (112, 112, 64), (56, 56, 64), (28, 28, 128), (14, 14, 256), (7, 7, 512), (1024,)]
    widths = (64, 128, 256, 512, 1024)
    convolutions = sum(9 * (4 * a * b + 11 * b * b) + 15 * b
                       for a, b in zip(widths, widths[1:], strict=False))
    assert count == convolutions + 7 * 7 * 3 * 64 + 2 * 64 + 1025 * 1000
    names = [tap for tap in taps if 'column4_unit' in tap]
    assert len(names) + 2 == 34


@pytest.mark.parametrize('column', [1, 2])
def test_a_stem_before_fractal_blocks_trains(column):
    net = models.create('fractalnet34', columns=2, widths=(4, 6), dropout=(0.0, 0.0),
                        global_drop_path=0.5, num_classes=3)
    x = random(2, 32, 32, 3)
    variables = jax.jit(net.init)(jax.random.key(0), x)
    logits, taps = jax.jit(functools.partial(net.apply, column=column))(variables, x)
    assert logits.shape == (2, 3)
    assert taps['pool2'].shape == (2, 6)
    (logits, _), changed = jax.jit(functools.partial(
        net.apply, train=True, mutable=['batch_stats'],
        rngs={name: jax.random.key(column) for name in ('dropout', 'drop_path')}))(variables, x)
    assert np.isfinite(logits).all()
    assert (changed['batch_stats']['bn1']['mean'] != 0).any()


# Convolutions of the lecture notes.

HALF = np.repeat(np.float32([[1, 1, 1, 0, 0, 0]]), 6, 0)[None, :, :, None]
EDGE = np.repeat(np.float32([[1, 0, -1]]), 3, 0)[:, :, None, None]


def convolve(x, kernel, *arguments, **options):
    conv = layers.conv(kernel.shape[-1], kernel.shape[0], *arguments, use_bias=False, **options)
    return np.asarray(conv.apply({'params': {'kernel': kernel}}, x))[0, ..., 0]


def test_strided_and_dilated_convolutions_of_the_notes():
    np.testing.assert_array_equal(convolve(HALF, EDGE, 1, 0), [[0, 3, 3, 0]] * 4)
    np.testing.assert_array_equal(convolve(HALF, EDGE, 2, 0), [[0, 3]] * 2)
    np.testing.assert_array_equal(convolve(HALF, EDGE, 1, 0, dilation=2), [[3, 3]] * 2)
    padded = convolve(np.float32([[1, 1, -1, -1]] * 4)[None, :, :, None], EDGE)
    np.testing.assert_array_equal(padded, [[-2, 4, 4, -2], [-3, 6, 6, -3], [-3, 6, 6, -3],
                                           [-2, 4, 4, -2]])


def test_a_1x1_convolution_is_a_full_layer_at_every_pixel():
    x, kernel = random(1, 4, 5, 3), random(1, 1, 3, 2)
    conv = layers.conv(2, 1, use_bias=False)
    np.testing.assert_allclose(conv.apply({'params': {'kernel': kernel}}, x), x @ kernel[0, 0],
                               atol=1e-5)


def test_a_1d_convolution_of_full_length():
    """Kernel support -M ... M on N samples: N + 2 M. Networks' convolutions are correlations."""
    x, kernel = random(10), random(5, seed=1)
    conv = nn.Conv(1, (5,), padding=4, use_bias=False)
    y = conv.apply({'params': {'kernel': kernel[:, None, None]}}, x[None, :, None])[0, :, 0]
    assert len(y) == 10 + 2 * 2
    np.testing.assert_allclose(y, np.convolve(x, kernel[::-1]), atol=1e-5)


def test_3d_convolutions_of_the_notes():
    x = random(1, 14, 14, 14, 1)
    first, second = (nn.Conv(width, (5, 5, 5), padding=0) for width in (16, 32))
    y, variables = jax.jit(first.init_with_output)(jax.random.key(0), x)
    assert y.shape == (1, 10, 10, 10, 16)
    window = x[0, 2:7, 3:8, 4:9, 0, None]
    np.testing.assert_allclose(y[0, 2, 3, 4], (window * variables['params']['kernel'][..., 0, :])
                               .sum((0, 1, 2)), atol=1e-4)
    y = jax.eval_shape(second.init_with_output, jax.random.key(0), y)[0]
    assert y.shape == (1, 6, 6, 6, 32)
