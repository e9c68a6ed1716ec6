"""Averages of the weights, by hand and in a training, and their batch statistics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from cnnjax import checkpoint, data, dataset, evaluate, models, resume, train, trained
from cnnjax.averages import Average
from cnnjax.errors import UserError
from cnnjax.plan import plan
from tests.test_step import KINDS, assert_close, update
from tests.test_train import changed

WEIGHTS = np.float32([3, 1, 4, 1, 5, 9, 2, 6, 5])


def path(average):
    """The average after each step, where the weights after steps 1, 2, ... are WEIGHTS."""
    value, found = jnp.zeros(()), []
    compiled = jax.jit(average.update)
    for done, weights in enumerate(WEIGHTS, 1):
        value = compiled(value, weights, jnp.int32(done))
        found.append(float(value))
    return found


def test_polyaks_is_the_mean_of_the_weights_from_a_start_on():
    assert path(Average('polyak')) == pytest.approx([WEIGHTS[:n].mean() for n in range(1, 10)])
    # Up to step 3 and in step 5 it is a copy; steps 4, 6 and 8 count.
    assert path(Average('polyak', start=3, every=2)) == pytest.approx(
        [3, 1, 4, 1, 1, 5, 5, 16 / 3, 16 / 3])


def test_an_exponential_moving_average_is_torchvisions():
    """Its first value is a copy, the next are decay * old + (1 - decay) * new."""
    assert path(Average('ema', decay=0.75)) == pytest.approx(
        [3, 2.5, 2.875, 2.40625, 3.0546875, 4.541015625, 3.90576171875, 4.4293212890625,
         4.571990966796875])
    assert path(Average('ema', start=2, every=3, decay=0.5)) == [3, 1, 4, 4, 4, 6.5, 6.5, 6.5, 5.75]


def test_what_does_not_change_stays_exactly():
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    for kind in ('polyak', 'ema'):
        for done in (1, 2, 3, 1000):
            found = Average(kind).update(values, values, jnp.int32(done))
            np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize('kind', KINDS)
def test_it_is_updated_in_the_step_on_all_devices(kind):
    net = models.create('resnet20', widths=(4, 4, 4), blocks=(1, 1, 1))
    before, after = (update(net, devices=4, kind=kind, steps=steps, accumulate=2,
                            average=Average('ema', decay=0.5))[0] for steps in (2, 3))
    assert_close(after.average, jax.tree.map(
        lambda old, new: (old + new) / 2, before.average,
        {'params': after.params, 'batch_stats': after.batch_stats}))
    assert after.variables is after.average


def test_a_loaded_network_has_the_average_and_statistics_that_fit_it(tiny, tmp_path, monkeypatch):
    """The running statistics that were averaged are as near to the statistics of the whole training
    set under the averaged weights as those of the training are under its weights."""
    states, save = [], checkpoint.Checkpoints.save
    monkeypatch.setattr(checkpoint.Checkpoints, 'save', lambda self, step, state, *rest: (
        states.append(state), save(self, step, state, *rest)))
    config = changed(tiny, average='ema', average_decay=0.95, padding=0, steps=100,
                     learning_rate=0.1, report_every=0, eval_every=0.0, checkpoint_every=0.0)
    last = train.train(config, tmp_path)
    state, network = jax.device_get(states[-1]), trained.load(tmp_path)
    own = {'params': state.params, 'batch_stats': state.batch_stats}
    for a, b in zip(jax.tree.leaves(network.variables), jax.tree.leaves(state.average),
                    strict=True):
        np.testing.assert_array_equal(a, b)
    test_set = data.load('digits', 'test')
    assert evaluate.evaluate(network, test_set)['error'] == pytest.approx(last['test/error'])
    assert last['test/error'] < evaluate.evaluate(
        network._replace(variables=own), test_set)['error']

    images = network.normalize(dataset.prepare(config, data.load('digits', 'train')).data['image'])

    def misfit(params, batch_stats):
        zero = jax.tree.map(jnp.zeros_like, batch_stats)
        _, found = jax.jit(lambda: network.net.apply(
            {'params': params, 'batch_stats': zero}, images, train=True,
            mutable=['batch_stats']))()
        exact = traverse_util.flatten_dict(found['batch_stats'])  # 0.9 * 0 + 0.1 * exact
        return sum(
            float(np.mean(((values - 10 * exact[name]) / (10 * exact[*name[:-1], 'var']) ** (
                0.5 if name[-1] == 'mean' else 1)) ** 2))
            for name, values in traverse_util.flatten_dict(batch_stats).items())

    averaged, unaveraged, mixed = (misfit(*(tree[name] for name in ('params', 'batch_stats')))
                                   for tree in (state.average, own,
                                                {**state.average, 'batch_stats': own[
                                                    'batch_stats']}))
    assert averaged <= unaveraged < mixed


def test_fields_without_an_average_are_refused(tiny):
    for fields, message in (
            ({'average_every': 2}, "average_every=2 has an effect only with average='polyak' or"),
            ({'average': 'polyak', 'average_decay': 0.5}, "only with average='ema'"),
            ({'average': 'swa'}, "'swa' is none of '', 'polyak', 'ema'"),
            ({'average': 'ema', 'average_decay': 1.0}, 'below 1')):
        with pytest.raises(UserError, match=message):
            train.check(changed(tiny, **fields))


def test_a_longer_run_keeps_the_start_of_its_average(tiny, tmp_path):
    """The start counts epochs or, once `steps` is set, steps: that would be another average."""
    saved = changed(tiny, steps=0, epochs=2.0, average='polyak', average_start=1.0)
    for fields in ({'epochs': 3.0}, {'steps': 30}):
        longer = changed(saved, **fields)
        check = functools.partial(resume.check_config, tmp_path, longer, plan(longer, 320), 20,
                                  {'config': saved})
        if 'epochs' in fields:
            check()
            continue
        with pytest.raises(UserError, match='would differ, or the average of their weights would'):
            check()
