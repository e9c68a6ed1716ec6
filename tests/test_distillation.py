"""Learning from a teacher: its losses by hand, the step that has them, stages, kills, mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from cnnjax import data, distillation, losses, reports, train, trained
from cnnjax.errors import UserError
from tests.conftest import tiny as tiny_fixture
from tests.kill import Killed, assert_same_run, dying_after, saved

HINT = {'loss': 'hint', 'guided_layer': 'conv2_1', 'hint_layer': 'conv3_1',
        'learning_rate': 5e-4}
TAUGHT = {'loss': 'cross_entropy+4*distillation', 'distillation_fall': 4.0,
          'distillation_last': 1.0}


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    path = str(tmp_path_factory.mktemp('teacher') / 'run')
    config = tiny_fixture.__wrapped__()
    config.model.widths = (4, 6, 8)
    train.train(config, path)
    return path


@pytest.fixture
def student(tiny, teacher):
    def make(**fields):
        config = tiny.copy_and_resolve_references()
        config.teacher = teacher
        config.update(fields)
        return config.lock()

    return make


def test_distillation_is_a_cross_entropy_of_softened_probabilities():
    rng = np.random.default_rng(0)
    logits, wanted = np.float32(rng.normal(0, 3, (2, 4, 5)))
    expected = -(special.softmax(wanted / 3, -1) * special.log_softmax(logits / 3, -1)).sum(-1)
    np.testing.assert_allclose(losses.distillation(logits, wanted, 3.0), expected, rtol=1e-6)
    # The gradient vanishes where the student says the same.
    gradient = jax.grad(lambda x: losses.distillation(x, wanted, 3.0).sum())(jnp.array(wanted))
    np.testing.assert_allclose(gradient, 0, atol=1e-7)


def test_half_a_square_of_each_example():
    x = jnp.arange(12.0).reshape(2, 3, 2)
    np.testing.assert_allclose(losses.half_square(x), [27.5, 225.5])


def test_the_share_of_the_teacher_falls_in_a_straight_line(teacher, student):
    """From 4 to 1 times in four steps: 1, 13/16, 10/16, 7/16, 4/16 of 4, and no further."""
    source, config = distillation.load(student(**TAUGHT))
    assert len(config.teacher_digest) == 16
    images = np.zeros((1, 8, 8, 1), np.float32)
    made = distillation.teaching(config, source, {'image': images}, source.normalize,
                                 source.classes, 10)
    shares = [float(made(source.variables, {'image': images}, step)['taught']['share'][0])
              for step in (0, 1, 2, 3, 4, 9)]
    np.testing.assert_allclose(shares, np.array([16, 13, 10, 7, 4, 4]) / 16)


def test_a_teacher_sees_the_same_images_by_its_own_normalization(teacher, student):
    source, config = distillation.load(student(**TAUGHT))
    pictures = np.random.default_rng(0).uniform(0, 1, (3, 8, 8, 1)).astype(np.float32)
    other = data.Normalization(np.float32([0.25]), np.float32([2.0]))
    for normalize in (source.normalize, other):
        made = distillation.teaching(config, source, {'image': pictures[:1]}, normalize,
                                     source.classes, 10)
        said = jax.jit(lambda *given, made=made: made(*given))(
            source.variables, {'image': normalize(pictures)}, 0)['taught']
        np.testing.assert_allclose(said['logits'], source(pictures), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('fields', [TAUGHT, HINT], ids=['taught', 'hint'])
def test_a_killed_stage_ends_with_the_same_bits(fields, student, tmp_path, monkeypatch):
    config = student(**fields)
    train.train(config, str(tmp_path / 'whole'))
    with monkeypatch.context() as patch:
        patch.setattr(reports.Metrics, 'write', dying_after(4))
        with pytest.raises(Killed):
            train.train(config, str(tmp_path / 'parts'))
    train.train(config, str(tmp_path / 'parts'))
    assert_same_run(tmp_path / 'parts', tmp_path / 'whole', 6)


@pytest.mark.parametrize('fields', [
    {'devices': 4, 'parallel': 'shard_map'}, {'devices': 4, 'parallel': 'pmap'},
    {'devices': 4, 'parallel': 'jit'}, {'accumulate': 2}], ids=str)
def test_devices_and_micro_batches_have_the_same_first_loss(fields, student, tmp_path):
    """One step of a network without batch normalization, whose loss does not depend on the batch
    of a device."""
    plain = {'steps': 1, 'eval_every': 0.0, 'checkpoint_every': 0.0, 'padding': 0}
    found = []
    for more in ({}, fields):
        config = student(**TAUGHT, **plain, **more).unlock()
        config.model.name, config.model.widths = 'convnet', None
        path = str(tmp_path / f'{len(found)}')
        train.train(config, path)
        found.append(reports.read_metrics(path)[-1]['train/loss'])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_the_second_stage_starts_from_the_first(student, tmp_path):
    train.train(student(**HINT), str(tmp_path / 'hint'))
    first = reports.read_metrics(str(tmp_path / 'hint'))
    assert first[-1]['test/error'] <= first[0].get('test/error', 1)
    train.train(student(**TAUGHT, init_from=str(tmp_path / 'hint')), str(tmp_path / 'taught'))
    assert trained.load(str(tmp_path / 'taught')).classes


def test_layers_above_the_guided_one_do_not_learn(student, tmp_path):
    train.train(student(**HINT), str(tmp_path))
    before, after = (saved(tmp_path, step)['params'] for step in (4, 6))

    def moved(layer):
        return not all(np.array_equal(a, b) for a, b in zip(
            jax.tree.leaves(before[layer]), jax.tree.leaves(after[layer]), strict=True))

    assert moved('conv2_1')
    assert not moved('conv4_1')
    assert not moved('fc')


@pytest.mark.parametrize(('fields', 'message'), [
    ({}, 'nothing is learned from it'),
    ({'loss': 'distillation', 'teacher': ''}, 'needs a teacher'),
    ({'loss': 'hint'}, 'needs two layers'),
    (HINT | {'hint_layer': 'conv9'}, "hint_layer='conv9' is no layer of teacher="),
    (HINT | {'guided_layer': 'conv9'}, "guided_layer='conv9' is no layer of this network"),
    (HINT | {'guided_layer': 'conv4_1', 'hint_layer': 'conv2_1'}, 'at least as large as the hint'),
    (TAUGHT | {'distillation_last': 5.0}, 'is more than the factor'),
    ({'loss': 'cross_entropy+hint'}, 'stands alone'),
    ({'temperature': 2.0, 'teacher': ''}, 'temperature=2.0 changes distillation')], ids=str)
def test_mistakes(fields, message, student, tmp_path):
    with pytest.raises(UserError, match=message):
        train.train(student(**fields), str(tmp_path / 'run'))
    assert not (tmp_path / 'run' / 'metrics.jsonl').exists()


def test_another_teacher_is_refused(student, teacher, tmp_path):
    config = student(**TAUGHT)
    train.train(config, str(tmp_path / 'run'))
    with pytest.raises(UserError, match='it is another one'):
        train.train(student(**TAUGHT, teacher_digest='0' * 16), str(tmp_path / 'other'))
