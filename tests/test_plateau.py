"""The learning rate falls with the errors of evaluations, as a recurrence by hand says."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax import optim, parallel, reports, train
from cnnjax.errors import UserError
from cnnjax.plateau import Plateau, scale
from tests import conftest, kill
from tests.kill import Killed, assert_same_run, rows
from tests.test_train import changed


def scales(errors, factor, patience, threshold):
    """The scale after each evaluation, by hand."""
    best, waited, now, found = np.inf, 0, 1.0, []
    for error in errors:
        if error < (1 - threshold) * best:
            best, waited = error, 0
        else:
            waited += 1
        if waited == patience:
            now, waited = now * factor, 0
        found.append(now)
    return found


@pytest.mark.parametrize('order', ['torch', 'caffe'])
def test_the_rate_falls_where_a_recurrence_by_hand_says(order):
    """Two steps of f(w) = w^2 between evaluations; those of the warm-up do not count. In Caffe's
    order the velocity still has the old rate."""
    errors = [0.1, 0.5, 0.4, 0.39, 0.4, 0.38, 0.2, 0.2, 0.2, 0.1]
    rule = Plateau(0.5, 2, 0.1, warmup=2)
    rate, momentum = 0.1, 0.9
    tx = optim.create(rate, momentum=momentum, order=order, factor=rule.multiplier)
    expected = [1.0, *scales(errors[1:], 0.5, 2, 0.1)]
    assert expected == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25]
    w, own, v, before = jnp.float32(1), 1.0, 0.0, 1.0
    state = tx.init(w)
    for i, error in enumerate(errors, 1):
        for _ in range(2):
            updates, state = tx.update(2 * w, state, w)
            w = optax.apply_updates(w, updates)
            now = rate * before
            v = momentum * v + (2 * own if order == 'torch' else now * 2 * own)
            own -= now * v if order == 'torch' else v
        assert float(w) == pytest.approx(own, abs=1e-6)
        state = rule.after(state, 2 * i, error)
        before = expected[i - 1]
        assert scale(state) == before


def test_its_state_stays_on_all_devices():
    mesh = parallel.data_mesh()
    tx = optim.create(0.1, factor=Plateau(0.5, 1, 0.1).multiplier)
    state = parallel.replicate(tx.init({'w': jnp.ones(3)}), mesh)
    after = Plateau(0.5, 1, 0.1).after(state, 1, 0.5)
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(state), strict=True):
        assert a.sharding == b.sharding
        assert a.dtype == b.dtype
    assert jax.tree.structure(after) == jax.tree.structure(state)


@pytest.fixture(scope='module')
def following():
    """A config whose rate falls several times; its evaluations are every second step. It has all
    that an optimizer's state can hold, and an average of the weights."""
    return changed(conftest.tiny.__wrapped__(), schedule='plateau', plateau_patience=1,
                   plateau_threshold=0.05, drop_factor=0.5, optimizer='rmsprop', order='caffe',
                   eval_every=2.0, checkpoint_every=3.0, steps=12, warmup=1.0, warmup_rate=0.01,
                   average='polyak', average_start=3.0, average_every=2)


@pytest.fixture(scope='module')
def whole(following, tmp_path_factory):
    """The directory of its training."""
    directory = tmp_path_factory.mktemp('following') / 'run'
    train.train(following, directory)
    return directory


def test_rows_have_the_rate_that_the_steps_had(following, whole):
    found = rows(whole)
    errors = [row['test/error'] for row in found if 'test/error' in row]
    assert len(errors) == 6
    after = [1.0, *scales(errors, 0.5, 1, 0.05)]
    assert after[-2] < 1  # it fell in time for a step
    for row in found:
        base = 0.01 if row['step'] == 1 else following.learning_rate
        assert row['learning_rate'] == pytest.approx(base * after[(row['step'] - 1) // 2])


def test_resumed_between_evaluations_it_goes_on_bit_for_bit(following, whole, tmp_path,
                                                            monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(reports.Metrics, 'write', kill.dying_after(7))
        with pytest.raises(Killed):
            train.train(following, tmp_path)
    train.train(following, tmp_path)
    assert_same_run(tmp_path, whole, 12)


def test_a_shorter_run_goes_on_to_the_same_end(following, whole, tmp_path):
    """The evaluation after its last step, the ninth, is none of a longer run: it is not heard."""
    train.train(changed(following, steps=9), tmp_path)
    assert 'test/error' in rows(tmp_path)[-1]
    train.train(following, tmp_path)
    same = [row['learning_rate'] for row in rows(whole)]
    assert [row['learning_rate'] for row in rows(tmp_path)] == same
    for a, b in zip(*(jax.tree.leaves(kill.saved(directory, 12))
                      for directory in (tmp_path, whole)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_it_falls_on_many_devices_and_in_programs_of_many_steps(following, tmp_path):
    train.train(changed(following, devices=4, parallel='pmap', steps_per_call=2), tmp_path)
    found = rows(tmp_path)
    after = [1.0, *scales([row['test/error'] for row in found if 'test/error' in row], 0.5, 1,
                          0.05)]
    assert [row['learning_rate'] for row in found][1:] == pytest.approx(
        [following.learning_rate * after[(row['step'] - 1) // 2] for row in found[1:]])


def test_what_it_cannot_follow_is_refused(following, whole):
    with pytest.raises(UserError, match='eval_every: 2.0 there, 4.0 here'):
        train.train(changed(following, eval_every=4.0), whole)
    for fields, message in (
            ({'eval_every': 0.0}, 'eval_every=0 has none before the end'),
            ({'drop_factor': 1.0}, 'drop_factor=1.0: .* between 0 and 1'),
            ({'plateau_threshold': 0.0}, 'above 0'), ({'plateau_patience': 0}, 'take 1'),
            ({'schedule': 'step'}, 'plateau_patience=1 has an effect only with schedule=')):
        config = changed(following, **fields)
        with pytest.raises(UserError, match=message):
            train.check(config)
