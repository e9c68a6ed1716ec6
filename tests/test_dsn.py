"""Deeply-Supervised Nets: the companion classifiers and the loss that they are trained with."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax import losses, models, step, tasks
from cnnjax.errors import UserError
from cnnjax.tasks.training_loss import TrainingLoss

NARROW = {'widths': ((4, 3, 2), (4, 3, 3), (4, 3)), 'dropout': 0.0}


def test_the_squared_hinge_loss_and_its_gradient():
    """By hand: scores 0.5, -2 and 0 with the label 0 miss their margins by 0.5, 0 and 1."""
    logits, labels = jnp.array([[0.5, -2.0, 0.0]]), jnp.array([0])
    value, gradient = jax.value_and_grad(lambda x: losses.squared_hinge(x, labels).sum())(logits)
    assert float(value) == pytest.approx(0.25 + 1)
    np.testing.assert_allclose(gradient, [[-1, 0, 2]])
    of_tags = losses.binary_squared_hinge(logits, jnp.array([[1, 0, 0]]), positive=3.0)
    np.testing.assert_allclose(of_tags, [[0.75, 0, 1]])


def test_companions_are_taps_in_training_only():
    net = models.create('dsn', **NARROW)
    x = jnp.zeros((2, 8, 8, 3))
    variables = jax.eval_shape(net.init, jax.random.key(0), x)
    seen = []
    for train in (True, False):
        jax.eval_shape(lambda variables, train=train: seen.append(
            list(net.apply(variables, x, train=train)[1])), variables)
    assert net.auxiliary == {'svm1': 1.0, 'svm2': 1.0, 'svm3': 1.0}
    assert [tap for tap in seen[0] if tap not in seen[1]] == ['svm1', 'svm2', 'svm3']
    assert seen[0][:3] == ['conv1', 'svm1', 'relu_conv1']  # they see no ReLU
    assert seen[1][-2:] == ['cccp6', 'pool3']
    assert models.create('dsn', auxiliary_weight=0.0).auxiliary == {}


def test_the_training_step_adds_the_companions_losses():
    net, tx = models.create('dsn', **NARROW), optax.sgd(1.0)
    chosen = TrainingLoss((('squared_hinge', 1.0),))
    images = np.float32(np.random.default_rng(0).normal(size=(2, 8, 8, 3)))
    batch = {'image': images, 'label': np.array([3, 5]), 'position': np.arange(2)}
    state = step.create(net, tx, jax.random.key(0), (8, 8, 3))
    after, metrics = step.train_step(
        state, {}, batch, jax.random.key(1), None, task=tasks.create('classify', net, chosen),
        net=net, tx=tx, augment=lambda key, positions, examples: examples)
    logits, taps = net.apply({'params': state.params}, images, train=True)
    assert float(metrics['loss']) == pytest.approx(
        float(losses.squared_hinge(logits, batch['label']).mean()), rel=1e-5)
    own = 2 * jax.nn.one_hot(batch['label'], 10) - 1
    for head in net.auxiliary:
        slope = (-2 * own * jnp.maximum(1 - own * taps[head], 0)).mean(0)
        np.testing.assert_allclose(state.params[head]['bias'] - after.params[head]['bias'], slope,
                                   rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('poolings', [('max',), ('max', 'tree'), ('max', 'max', 'max')])
def test_unknown_pools(poolings):
    with pytest.raises(UserError, match='poolings=.*give 2 of max, average'):
        models.create('dsn', poolings=poolings)
