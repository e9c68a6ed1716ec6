"""Damaged checkpoints: the run resumes from the one before, and says so."""

import multiprocessing
import resource
import shutil
import types
from concurrent import futures
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging

from cnnjax import atomic, checkpoint, workdir
from cnnjax.errors import UserError
from cnnjax.step import TrainState


def state(step):
    values = np.random.default_rng(step).normal(size=(300, 300)).astype(np.float32)
    return TrainState(jnp.int32(step), {'conv1': jnp.array(values)}, {}, {})


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    directory = tmp_path_factory.mktemp('written')
    with checkpoint.Checkpoints(directory) as checkpoints:
        checkpoints.save(1, state(1), error=0.5)
        checkpoints.save(2, state(2))
    return directory


@pytest.fixture
def checkpoints(written, tmp_path):
    return shutil.copytree(written, tmp_path / 'checkpoints')


def newest(directory):
    with checkpoint.Checkpoints(directory) as checkpoints:
        step = checkpoints.latest()
        restored = checkpoints.restore(step, state(0))
    np.testing.assert_array_equal(restored.params['conv1'], state(step).params['conv1'])
    assert restored.step == step
    return step


def test_the_newest_and_the_best_are_restored(checkpoints):
    assert newest(checkpoints) == 2
    with checkpoint.Checkpoints(checkpoints, read_only=True) as reading:
        assert reading.resolve('best') == 1
        np.testing.assert_array_equal(reading.variables(1)['params']['conv1'],
                                      state(1).params['conv1'])


def largest(directory):
    return max(directory.rglob('*'), key=lambda path: path.stat().st_size * path.is_file())


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1  # a weight that would be off by a little
    path.write_bytes(data)


@pytest.mark.parametrize('damage', [
    flip,
    lambda path: path.unlink(),
    lambda path: path.write_bytes(path.read_bytes()[:-1]),
    lambda path: shutil.rmtree(path.parent.parent),
    lambda path: (path.parents[2] / checkpoint.SEAL).write_text('{"cut'),
], ids=['bit', 'deleted', 'truncated', 'item', 'seal'])
def test_a_damaged_one_is_set_aside(checkpoints, damage, capsys):
    damage(largest(checkpoints / '2'))
    with (checkpoint.Checkpoints(checkpoints, read_only=True) as reading,
          pytest.raises(UserError, match='checkpoint 2 in .* is damaged: take another')):
        reading.variables(2)
    assert newest(checkpoints) == 1
    assert 'checkpoint 2 in' in capsys.readouterr().out
    with checkpoint.Checkpoints(checkpoints) as again:
        again.save(2, state(2))
    assert newest(checkpoints) == 2
    assert not capsys.readouterr().out


def odd(name, make):
    return pytest.param(name, make, id=f'{name}-{make.__name__}')


def file(path):
    path.write_text('a')


def link(path):
    path.symlink_to(path.with_name('2'))


def dangling(path):
    path.symlink_to('nowhere')


@pytest.mark.parametrize(('name', 'make'), [
    odd(name, make) for name in ('notes', '²', '0', '9', '007')
    for make in (file, Path.mkdir, link, dangling)])
def test_odd_entries_are_no_checkpoints(checkpoints, name, make):
    """A link to another step's checkpoint, above all: it would be taken for that step."""
    make(checkpoints / name)
    file(checkpoints / 'damaged-9')
    assert newest(checkpoints) == 2
    with checkpoint.Checkpoints(checkpoints) as again:
        again.save(12, state(12), error=0.1)
    assert newest(checkpoints) == 12


def resume(directory):
    with checkpoint.Checkpoints(directory) as checkpoints:
        checkpoints.past(1)
        checkpoints.restore(1, state(0))


# After a damaged manifest, tensorstore may answer when orbax has closed its event loop.
@pytest.mark.filterwarnings('ignore:Exception ignored in. None:pytest.PytestUnraisableException'
                            'Warning')
@pytest.mark.parametrize(('name', 'text'), [
    ('default/_METADATA', ''), ('default/_METADATA', '{}'), ('default/_METADATA', '[]'),
    ('default/_METADATA', '{"tree_metadata": 5}'), ('default/manifest.ocdbt', 'x'),
    ('_CHECKPOINT_METADATA', '[]'), ('metrics/metrics', '{"cut'), ('metrics/metrics', '[]'),
    ('metrics/metrics', '{"error": "x"}'),
    (workdir.PAST, '{"step": 1, "config": 5}')])
def test_what_matches_its_seal_and_cannot_be_read(checkpoints, name, text):
    shutil.rmtree(checkpoints / '2')
    (checkpoints / '1' / name).write_text(text)
    atomic.write_json(checkpoints / '1' / checkpoint.SEAL,
                       checkpoint._checksums(checkpoints / '1'))
    with pytest.raises(UserError, match='checkpoint') as error:
        resume(checkpoints)
    assert '\n' not in str(error.value)


def test_a_file_where_they_belong(tmp_path):
    (tmp_path / 'checkpoints').write_text('')
    with pytest.raises(UserError, match='checkpoints is a file, where checkpoints are kept: move'):
        checkpoint.Checkpoints(tmp_path / 'checkpoints')


def test_deleted_ones_are_not_missed(checkpoints):
    shutil.rmtree(checkpoints / '2')
    assert newest(checkpoints) == 1
    shutil.rmtree(checkpoints)
    with checkpoint.Checkpoints(checkpoints) as none:
        assert none.latest() is None


def fill_the_disk(checkpoints):
    logging.set_verbosity(logging.ERROR)  # as launch.py does
    with checkpoint.Checkpoints(checkpoints) as full:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        full.save(3, state(3))
        full.wait()


def test_a_disk_without_room_is_told_before(checkpoints, monkeypatch, capfd):
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: types.SimpleNamespace(free=600_000))
    with checkpoint.Checkpoints(checkpoints) as full, pytest.raises(
            UserError, match='checkpoint 3 cannot be .*: it takes 0.7 MB, and 0.6 MB are free\n'):
        full.save(3, state(3))
    assert capfd.readouterr().err == ''
    assert newest(checkpoints) == 2


def test_a_full_disk_leaves_the_ones_before(checkpoints, capfd):
    """One error, without those that orbax's threads log before it."""
    with (futures.ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as pool,
          pytest.raises(UserError, match='checkpoint 3 cannot be written .*: File too large')):
        pool.submit(fill_the_disk, checkpoints).result()
    assert capfd.readouterr().err == ''
    assert newest(checkpoints) == 2
