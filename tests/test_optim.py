"""The optimizer against scalar recurrences, written out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from cnnjax import models, optim, train
from cnnjax.errors import UserError
from configs import base

PARAMS = {'conv1': {'kernel': jnp.array(2.0), 'bias': jnp.array(3.0)},
          'bn1': {'scale': jnp.array(4.0), 'bias': jnp.array(5.0)}}


def descend(tx, steps, w=1.0):
    """w after each of some steps on f(w) = w^2."""
    w = jnp.array(w)
    state, path = tx.init(w), []
    for _ in range(steps):
        updates, state = tx.update(2 * w, state, w)
        w = optax.apply_updates(w, updates)
        path.append(float(w))
    return path


def rates(schedule, steps):
    """The rate at each of the steps; rounding to seven digits makes them comparable exactly."""
    return [float(f'{float(schedule(step)):.6g}') for step in range(steps)]


@pytest.mark.parametrize(('nesterov', 'expected'), [
    (False, [0.8, 0.46, 0.062, -0.3086]),  # the lecture notes' example
    (True, [0.62, 0.2224, -0.108352, -0.324823]),  # torch's result
])
@pytest.mark.parametrize('order', ['torch', 'caffe'])
def test_momentum_at_a_constant_rate(order, nesterov, expected):
    tx = optim.create(0.1, momentum=0.9, nesterov=nesterov, order=order)
    assert descend(tx, 4) == pytest.approx(expected, abs=5e-7)


@pytest.mark.parametrize('nesterov', [False, True])
@pytest.mark.parametrize('order', ['torch', 'caffe'])
def test_the_orders_differ_after_a_drop_of_the_rate(order, nesterov):
    """The rate falls tenfold at step 3 of 6; weight decay adds to the gradient in both orders."""
    momentum, decay = 0.9, 0.01
    rate = optim.learning_rate(0.1, 6, drops=(3,))
    tx = optim.create(rate, momentum=momentum, nesterov=nesterov, weight_decay=decay,
                            order=order)
    w, v, expected = 1.0, 0.0, []
    for gamma in [0.1] * 3 + [0.01] * 3:
        g = 2 * w + decay * w
        if order == 'torch':
            v = momentum * v + g
            w -= gamma * (g + momentum * v if nesterov else v)
        else:
            v = momentum * v + gamma * g
            w -= gamma * g + momentum * v if nesterov else v
        expected.append(w)
    assert descend(tx, 6) == pytest.approx(expected, abs=5e-7)


def test_after_a_drop_caffes_velocity_is_still_the_old_one():
    torch, caffe = (descend(optim.create(
        optim.learning_rate(0.1, 4, drops=(2,)), order=order), 4) for order in ('torch', 'caffe'))
    assert torch[:2] == pytest.approx(caffe[:2], abs=1e-7)
    # f = w^2 from 1 at rate 0.1: the gradients are 2 and 1.6, the velocity 3.4, then w = 0.46.
    assert torch[2] == pytest.approx(0.46 - 0.01 * (0.9 * 3.4 + 0.92), abs=1e-7)
    assert caffe[2] == pytest.approx(0.46 - (0.9 * 0.1 * 3.4 + 0.01 * 0.92), abs=1e-7)


def test_without_momentum_it_is_gradient_descent():
    assert descend(optim.create(0.1, momentum=0.0), 3) == pytest.approx(
        [0.8, 0.64, 0.512], abs=1e-7)


def first_update(**options):
    """The change of every parameter where each gradient is 1."""
    tx = optim.create(0.5, **options)
    gradients = jax.tree.map(jnp.ones_like, PARAMS)
    updates, _ = tx.update(gradients, tx.init(PARAMS), PARAMS)
    return jax.tree.map(float, updates)


@pytest.mark.parametrize('order', ['torch', 'caffe'])
@pytest.mark.parametrize(('options', 'expected'), [
    ({}, [-0.5, -0.5, -0.5, -0.5]),
    ({'weight_decay': 0.1}, [-0.6, -0.65, -0.7, -0.75]),
    ({'weight_decay': 0.1, 'decay': 'kernels'}, [-0.6, -0.5, -0.5, -0.5]),
    ({'bias_rate': 2.0}, [-0.5, -1.0, -0.5, -1.0]),
    # The four gradients of 1 have the norm 2; the decay is not clipped.
    ({'clip_norm': 1.0, 'weight_decay': 0.1}, [-0.35, -0.4, -0.45, -0.5]),
    ({'clip_norm': 2.5}, [-0.5, -0.5, -0.5, -0.5]),
    # As in Caffe, the multiplier of the rate acts on the decay too.
    ({'bias_rate': 2.0, 'weight_decay': 0.1}, [-0.6, -1.3, -0.7, -1.5]),
    ({'bias_rate': 2.0, 'weight_decay': 0.1, 'decay': 'kernels'}, [-0.6, -1.0, -0.5, -1.0]),
])
def test_which_parameters_decay_and_which_learn_faster(options, expected, order):
    """`expected`: the convolution's kernel and bias, the normalization's scale and bias."""
    updates = first_update(**options, order=order)
    names = [('conv1', 'kernel'), ('conv1', 'bias'), ('bn1', 'scale'), ('bn1', 'bias')]
    assert [updates[module][name] for module, name in names] == pytest.approx(expected, rel=1e-6)


def test_a_faster_bias_keeps_its_momentum():
    """Two steps at gradient 1: the second adds 0.9 of the first, for biases twice."""
    tx = optim.create(0.1, bias_rate=2.0)
    state, gradients = tx.init(PARAMS), jax.tree.map(jnp.ones_like, PARAMS)
    for _ in range(2):
        updates, state = tx.update(gradients, state, PARAMS)
    assert float(updates['conv1']['kernel']) == pytest.approx(-0.19, rel=1e-6)
    assert float(updates['conv1']['bias']) == pytest.approx(-0.38, rel=1e-6)


def test_the_rate_drops_at_the_very_step():
    schedule = optim.learning_rate(0.1, 8, drops=(3, 6), factor=0.5)
    assert rates(schedule, 8) == [0.1] * 3 + [0.05] * 3 + [0.025] * 2


def test_a_constant_rate():
    assert rates(optim.learning_rate(0.1, 4, schedule='constant', drops=(2,)), 6) == [0.1] * 6


def test_a_linear_rate_ends_at_zero():
    schedule = optim.learning_rate(0.4, 5, schedule='linear', warmup=1)
    np.testing.assert_allclose(rates(schedule, 7), [0, 0.4, 0.3, 0.2, 0.1, 0, 0], atol=1e-7)


def test_cosine_ends_at_zero():
    schedule = optim.learning_rate(0.2, 8, schedule='cosine')
    expected = 0.1 * (1 + np.cos(np.pi * np.arange(9) / 8))
    np.testing.assert_allclose([schedule(step) for step in range(9)], expected, atol=1e-8)
    assert float(schedule(8)) == 0 == float(schedule(9))


@pytest.mark.parametrize(('shape', 'start'), [
    ('constant', [0.01, 0.01, 0.01, 0.01]),
    ('linear', [0.01, 0.0325, 0.055, 0.0775]),
])
def test_the_warm_up_precedes_drops_counted_from_the_start_of_training(shape, start):
    schedule = optim.learning_rate(0.1, 9, drops=(6, 8), warmup=4, warmup_shape=shape,
                                   warmup_rate=0.01)
    assert rates(schedule, 9) == start + [0.1, 0.1, 0.01, 0.01, 0.001]


@pytest.mark.parametrize('drop', [2, 4])
def test_a_drop_within_the_warm_up_shows_after_it(drop):
    schedule = optim.learning_rate(0.1, 6, drops=(drop,), warmup=4, warmup_rate=0.02)
    assert rates(schedule, 6) == [0.02] * 4 + [0.01] * 2


def test_cosine_after_a_warm_up_still_ends_with_the_training():
    schedule = optim.learning_rate(0.2, 12, schedule='cosine', warmup=4, warmup_shape='linear')
    assert rates(schedule, 5) == [0, 0.05, 0.1, 0.15, 0.2]
    assert float(schedule(8)) == pytest.approx(0.1, rel=1e-6)
    assert float(schedule(12)) == 0


@pytest.mark.parametrize('make', [
    lambda: optim.learning_rate(0.1, 4, schedule='stepp'),
    lambda: optim.learning_rate(0.1, 4, warmup=1, warmup_shape='stepp'),
    lambda: optim.create(0.1, decay='stepp'),
    lambda: optim.create(0.1, order='stepp'),
    lambda: optim.create(0.1, optimizer='stepp'),
])
def test_an_unknown_choice_is_named(make):
    with pytest.raises(UserError, match="not 'stepp'"):
        make()


def test_depthwise_kernels_may_go_without_decay():
    """As in TF-slim's MobileNet: of its parameters only full kernels decay."""
    net = models.create('mobilenet_v1_025', blocks=((1, 8), (2, 8)))
    params = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))['params']
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), params)
    tx = optim.create(1.0, weight_decay=0.5, decay='kernels_except_depthwise')
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    decayed = {path for path, update in traverse_util.flatten_dict(updates, sep='/').items()
               if (update == -0.5).all()}
    assert decayed == {'conv1/kernel', 'block1/pointwise/kernel', 'block2/pointwise/kernel',
                       'fc/kernel'}


@pytest.mark.parametrize('nesterov', [False, True])
@pytest.mark.parametrize('order', ['torch', 'caffe'])
def test_rmsprop_is_tensorflows(order, nesterov):
    """The mean square begins at 1, and epsilon is below the root; L2 is part of the gradient."""
    share, epsilon, momentum, decay = 0.8, 0.5, 0.9, 0.1
    tx = optim.create(optim.learning_rate(0.1, 6, drops=(3,)), optimizer='rmsprop', order=order,
                      nesterov=nesterov, momentum=momentum, rmsprop_decay=share,
                      rmsprop_epsilon=epsilon, weight_decay=decay)
    w, v, mean, expected = 1.0, 0.0, 1.0, []
    for rate in [0.1] * 3 + [0.01] * 3:
        g = 2 * w + decay * w
        mean = share * mean + (1 - share) * g ** 2
        g /= (mean + epsilon) ** 0.5
        own = g if order == 'torch' else rate * g
        v = momentum * v + own
        step = own + momentum * v if nesterov else v
        w -= rate * step if order == 'torch' else step
        expected.append(w)
    assert descend(tx, 6) == pytest.approx(expected, abs=5e-7)


def test_adamw_is_torchs():
    """torch.optim.AdamW(lr=0.1, betas=(0.9, 0.99), weight_decay=0.2), at a tenth of the rate from
    step 3 on."""
    tx = optim.create(optim.learning_rate(0.1, 6, drops=(3,)), optimizer='adamw', momentum=0.9,
                      adamw_beta2=0.99, weight_decay=0.2)
    assert descend(tx, 6) == pytest.approx(
        [0.88, 0.7629066, 0.6490964, 0.6380894, 0.6271892, 0.6163681], abs=1e-6)


@pytest.mark.parametrize(('options', 'expected'), [
    # Gradients of 1 with a mean square of 1 and a negligible epsilon are as long as those of SGD.
    ({'optimizer': 'rmsprop'}, [-0.5, -0.5, -0.5, -0.5]),
    ({'optimizer': 'rmsprop', 'bias_rate': 2.0}, [-0.5, -1.0, -0.5, -1.0]),
    ({'optimizer': 'adamw'}, [-0.5, -0.5, -0.5, -0.5]),
    ({'optimizer': 'adamw', 'bias_rate': 2.0}, [-0.5, -1.0, -0.5, -1.0]),
    ({'optimizer': 'adamw', 'head_rate': 3.0, 'head': ('bn1',)}, [-0.5, -0.5, -1.5, -1.5]),
    ({'optimizer': 'adamw', 'clip_norm': 1e-3}, [-0.5, -0.5, -0.5, -0.5]),
    # rate * decay * w is subtracted, whatever the length of the gradient.
    ({'optimizer': 'adamw', 'weight_decay': 0.1}, [-0.6, -0.65, -0.7, -0.75]),
    ({'optimizer': 'adamw', 'weight_decay': 0.1, 'decay': 'kernels', 'bias_rate': 2.0},
     [-0.6, -1.0, -0.5, -1.0])])
def test_multipliers_and_decay_of_the_other_optimizers(options, expected):
    updates = first_update(**{'rmsprop_epsilon': 1e-9, **options})
    names = [('conv1', 'kernel'), ('conv1', 'bias'), ('bn1', 'scale'), ('bn1', 'bias')]
    assert [updates[module][name] for module, name in names] == pytest.approx(expected, rel=1e-4)


def test_rmsprop_divides_the_decay_too():
    updates = first_update(optimizer='rmsprop', weight_decay=0.5, decay='kernels',
                           rmsprop_epsilon=1e-9)
    assert updates['conv1']['kernel'] == pytest.approx(-0.5 * 2 / (0.9 + 0.1 * 4) ** 0.5, rel=1e-5)
    assert updates['conv1']['bias'] == pytest.approx(-0.5, rel=1e-5)


def test_fields_that_an_optimizer_does_not_use_are_refused():
    config = base.get_config()
    for name, (_, _, default) in optim.USED.items():
        assert config[name] == default
    train.check(config)
    for fields, message in (
            ({'rmsprop_decay': 0.5}, "rmsprop_decay=0.5 has an effect only with optimizer="
                                     "'rmsprop', and optimizer is 'sgd': set rmsprop_decay=0.9"),
            ({'optimizer': 'rmsprop', 'adamw_beta2': 0.9}, "only with optimizer='adamw'"),
            ({'optimizer': 'adamw', 'order': 'caffe'}, "order='caffe' .*'sgd' or 'rmsprop'"),
            ({'optimizer': 'adamw', 'nesterov': True}, 'nesterov=True'),
            ({'optimizer': 'adamm'}, "'adamm' is none of 'sgd', 'rmsprop', 'adamw'")):
        changed = base.get_config()
        changed.update(fields)
        with pytest.raises(UserError, match=message):
            train.check(changed)
