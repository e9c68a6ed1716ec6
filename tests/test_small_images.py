"""Highway, ELU, recurrent, competitive and ResNet-in-ResNet networks against their papers."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import layers, models
from cnnjax.errors import UserError
from cnnjax.images import rules
from tests.test_models import NARROW, size

OURS = ('highway19', 'elu_net', 'recurrent_cnn96', 'competitive_multiscale', 'rir18_wide')


@functools.cache
def shapes(name, **fields):
    """Of (logits, taps), the taps' names in forward order, and of the variables."""
    net, seen = models.create(name, **fields), []

    def run(x):
        (logits, taps), variables = net.init_with_output(jax.random.key(0), x)
        seen.extend(taps)
        return (logits, taps), variables

    outputs, variables = jax.eval_shape(run, jax.ShapeDtypeStruct((1, 32, 32, 3), 'float32'))
    return outputs, seen, variables


def narrow(name, **fields):
    """A narrow network and its variables."""
    own, shape = NARROW[name]
    net = models.create(name, **own | fields)
    return net, net.init(jax.random.key(0), jnp.ones((1, *shape)))


@pytest.mark.parametrize(('name', 'count'), [
    ('highway19', 2_256_838 + 90 * 101), ('elu_net', 39_226_634 + 90 * 1_153),
    ('recurrent_cnn96', 672_202 + 90 * 97), ('rir18_wide', 10_299_370 + 90 * 385),
    ('competitive_multiscale', 4_480_424 + 90 * (10 * 192 + 2 * 2))])
def test_parameters_with_a_hundred_classes(name, count):
    """With 1x1 and 3x3 rivals, and their two normalizations, where they compete for the classes."""
    assert size(shapes(name, num_classes=100)[2]['params']) == count


@pytest.mark.parametrize(('name', 'expected'), [
    ('highway19', {'highway5': (32, 32, 32), 'highway11': (16, 16, 80), 'highway17': (8, 8, 128),
                   'conv18': (8, 8, 100), 'pool3': (100,)}),
    ('highway32', {'highway10': (32, 32, 32), 'highway20': (16, 16, 64), 'highway30': (8, 8, 96)}),
    ('elu_net', {'conv2_4': (16, 16, 640), 'pool2': (8, 8, 640), 'pool4': (2, 2, 896),
                 'pool5': (1, 1, 1024), 'conv6_2': (1, 1, 1152), 'conv8_1': (1, 1, 10)}),
    ('elu_net11', {'pool1': (16, 16, 192), 'pool5': (1, 1, 300), 'conv7_1': (1, 1, 10)}),
    ('recurrent_cnn160', {'pool1': (16, 16, 160), 'rcl3/state3': (16, 16, 160),
                          'pool3': (8, 8, 160), 'rcl5': (8, 8, 160), 'pool5': (160,)}),
    ('competitive_multiscale', {'block1_3': (32, 32, 96), 'block2_1/conv7x7': (16, 16, 192),
                                'block3_1/conv5x5': (8, 8, 192), 'block3_3': (8, 8, 10)}),
    ('rir18_wide', {'conv2_2': (32, 32, 96), 'conv3_3/relu1': (16, 16, 192),
                    'conv4_3': (8, 8, 384), 'pool': (384,)})])
def test_names_and_sizes(name, expected):
    (_, taps), names, _ = shapes(name)
    assert {tap: taps[tap].shape[1:] for tap in expected} == expected
    assert [tap for tap in names if tap in expected] == list(expected)


@pytest.mark.parametrize(('name', 'fields', 'expected'), [
    ('highway19', {}, '0.2 32, 0.2 16, 0.2 8, 0.2 mean'),
    ('elu_net', {}, '0.0 16, 0.1 8, 0.2 4, 0.3 2, 0.4 1, 0.5 1, 0.0 1'),
    ('elu_net', {'dropout_layers': 'all'},
     '0.0 16, 0.1 16, 0.1 16, 0.1 16, 0.1 8, 0.2 8, 0.2 8, 0.2 8, 0.2 4, 0.3 4, 0.3 4, 0.3 2, '
     '0.4 2, 0.4 2, 0.4 1, 0.5 1, 0.5 1, 0.0 1'),
    ('recurrent_cnn96', {}, '0.5 16, 0.5 8, 0.5 8'),
    ('competitive_multiscale', {}, '0.5 16, 0.5 8'),
    ('rir18_wide', {}, '')])
def test_rates_of_dropout_and_the_sides_of_the_maps(name, fields, expected):
    """The sides show that it follows the pools."""
    found = []

    def intercept(method, arguments, options, context):
        if isinstance(context.module, nn.Dropout):
            x, = arguments
            found.append(f'{context.module.rate} {x.shape[1] if x.ndim == 4 else "mean"}')
        return method(*arguments, **options)

    net = models.create(name, **fields)
    with nn.intercept_methods(intercept):
        jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    assert ', '.join(found) == expected


@pytest.mark.parametrize('train', [False, True])
@pytest.mark.parametrize('name', OURS)
def test_activations_in_bfloat16(name, train):
    fields, shape = NARROW[name]
    net = models.create(name, dtype='bfloat16', **fields)
    x = jax.ShapeDtypeStruct((2, *shape), 'float32')
    variables = jax.eval_shape(net.init, jax.random.key(0), x)
    (logits, taps), _ = jax.eval_shape(functools.partial(
        net.apply, train=train, rngs={'dropout': jax.random.key(0)}, mutable=['batch_stats']),
        variables, x)
    assert {logits.dtype.name, *(tap.dtype.name for tap in taps.values())} == {'bfloat16'}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {'float32'}


def test_closed_gates_carry_and_open_gates_transform():
    net, variables = narrow('highway19')
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    for bias, passed in ((-200.0, 'relu1'), (200.0, 'relu2')):
        params = {name: own | {'bias': jnp.full_like(own['bias'], bias)} if 'transform' in name
                  else own for name, own in variables['params'].items()}
        _, taps = net.apply({'params': params}, x)
        np.testing.assert_array_equal(taps['highway2'], taps[passed])
    assert (taps['relu1'] != taps['relu2']).any()


def test_gates_are_nearly_closed_at_first():
    params = narrow('highway19')[1]['params']
    assert {name: float(own['bias'][0]) for name, own in params.items()} == {
        'conv1': 0, 'conv2': 0, 'transform2': -2, 'conv3': 0, 'conv4': 0, 'transform4': -2,
        'conv5': 0, 'ip2': 0}


def test_kernels_of_the_32_layers_alternate():
    params = shapes('highway32')[2]['params']
    sides = [params[f'conv{n}']['kernel'].shape[0] for n in range(1, 32)]
    assert sides == 3 * [3, 1, 3, 1, 3, 1, 3, 1, 3, 1] + [1]
    assert all(params[f'transform{n}']['kernel'].shape == params[f'conv{n}']['kernel'].shape
               for n in range(2, 31) if n not in (11, 21))


def test_activations_of_the_elu_network():
    """An ELU ends at -1; the paper also has ReLUs in its place. No backward rule fits it."""
    net, variables = narrow('elu_net')
    x = 9 * jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    _, taps = net.apply(variables, x)
    np.testing.assert_allclose(taps['elu1_1'], np.where(
        taps['conv1_1'] > 0, taps['conv1_1'], np.expm1(np.minimum(taps['conv1_1'], 0))), rtol=1e-6)
    assert taps['elu1_1'].min() < -0.9
    plain, _ = narrow('elu_net', relu='relu')
    assert plain.apply(variables, x)[1]['elu1_1'].min() == 0
    assert models.create('nin', relu='elu').relu is nn.elu
    assert rules.with_rule(net, 'gradient') == net
    with pytest.raises(UserError, match='ELUNet has the activation'):
        rules.with_rule(net, 'guided')


def test_every_stack_has_its_rate():
    with pytest.raises(UserError, match='2 dropout rates for 7 stacks'):
        shapes('elu_net', dropout=(0.0, 0.1))
    with pytest.raises(UserError, match='dropout_layers'):
        models.create('elu_net', dropout_layers='first')


@pytest.mark.parametrize(('name', 'maps'), [
    ('recurrent_cnn96', 13), ('recurrent_cnn128', 17), ('recurrent_cnn160', 21)])
def test_states_are_normalized_over_an_eighth_of_the_maps_and_one(name, maps, monkeypatch):
    normalize, calls = layers.local_response_normalization, []
    monkeypatch.setattr(layers, 'local_response_normalization', lambda x, *options: (
        calls.append(options), normalize(x, *options))[1])
    jax.eval_shape(models.create(name).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    assert calls == 16 * [(1.0, 0.001 / maps, 0.75, maps)]  # four layers at t = 0, 1, 2, 3


def test_recurrent_layers_without_iterations_are_convolutions():
    assert set(shapes('recurrent_cnn96', iterations=0)[2]['params']['rcl2']) == {'forward'}


@pytest.mark.parametrize('widths', [(5, 8), (8, 6)])
def test_widths_that_two_streams_cannot_have(widths):
    with pytest.raises(UserError, match='rir18_wide: widths=.*even numbers'):
        models.create('rir18_wide', blocks=(1, 1), widths=widths)


@pytest.mark.parametrize(('name', 'side'), [
    ('highway19', 4), ('recurrent_cnn96', 4), ('competitive_multiscale', 4)])
def test_too_small_images(name, side):
    with pytest.raises(UserError, match=f'at least {side} x {side}'):
        jax.eval_shape(models.create(name).init, jax.random.key(0), jnp.zeros((1, side - 1, 9, 3)))


@pytest.mark.parametrize('name', ['elu_net', 'rir18_wide'])
def test_images_of_one_pixel(name):
    net, _ = narrow(name)
    logits, _ = jax.eval_shape(net.init_with_output, jax.random.key(0), jnp.zeros((1, 1, 1, 3)))[0]
    assert logits.shape == (1, 10)
