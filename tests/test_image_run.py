"""Optimizations in a working directory: interrupted ones resume to the same results."""

import json
import shutil
import signal

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from cnnjax import atomic, models, reports, workdir
from cnnjax.data import Normalization
from cnnjax.errors import UserError
from cnnjax.images import descent, objectives, optimize, parametrizations
from cnnjax.images.run import Run
from cnnjax.trained import Trained

SHAPE = (8, 8, 3)
KEY = jax.random.key(0)
STAGES = {'first': 5, 'second': 6}  # steps


@pytest.fixture(scope='module')
def problem():
    net = models.create('vgg11', groups=((3,),), widths=(4,), hidden=(), num_classes=3)
    variables = jax.jit(net.init)(jax.random.key(1), jnp.zeros((1, *SHAPE)))
    normalize = Normalization(np.float32([0.5] * 3), np.float32([0.25] * 3))
    network = Trained(net, variables, normalize, tuple('abc'), SHAPE, None)
    return optimize.Problem(network, objectives.channel('conv1_1') + objectives.dream('conv1_1'),
                            parametrizations.pixels(SHAPE, mean=0.5),
                            project=parametrizations.clip(), average=0.9)


ADAM = optax.adam(0.01)  # one object, one compilation


def config(**fields):
    return ml_collections.ConfigDict({'seed': 0, 'report_every': 2, 'source': 'tiny',
                                      'layers': ('conv1_1',), **fields})


def experiment(problem, directory, config=None):
    """Two stages, the second from the images of the first; their final images."""
    config = config or globals()['config']()
    images = None
    with Run(directory, config, problem.network, sum(STAGES.values())) as run:
        for i, (name, steps) in enumerate(STAGES.items()):
            state = run.optimize(name, problem, ADAM, steps, jax.random.fold_in(KEY, i),
                                 images=images, aux={'unit': jnp.arange(2)})
            images = optimize.decode(problem, state)
    return np.asarray(images)


@pytest.fixture(scope='module')
def whole(problem, tmp_path_factory):
    """An uninterrupted run: its directory and images."""
    directory = tmp_path_factory.mktemp('whole')
    return directory, experiment(problem, directory)


class Stop(Exception):
    """Of the machine, in the middle of a run."""


def stopping(monkeypatch, owner, name, at):
    """Makes the `at`-th call of a function fail."""
    inner, calls = getattr(owner, name), []

    def outer(*args, **kwargs):
        calls.append(1)
        if len(calls) == at:
            raise Stop
        return inner(*args, **kwargs)
    monkeypatch.setattr(owner, name, outer)


def files(directory):
    return sorted(str(path.relative_to(directory)) for path in directory.glob('snapshots/*/*'))


def test_what_a_run_writes(whole, capsys):
    directory, images = whole
    rows = reports.read_metrics(directory)
    assert [row['step'] for row in rows] == list(range(1, 12))
    assert [row['stage'] for row in rows] == [1] * 5 + [2] * 6
    assert set(rows[0]) == {'step', 'stage', 'loss', 'channel', 'dream', 'gradient'}
    assert rows[0]['loss'] == pytest.approx(rows[0]['channel'] + rows[0]['dream'], rel=1e-5)
    assert rows[-1]['loss'] < rows[0]['loss']
    assert files(directory) == sorted(
        f'snapshots/{name}/{step:05d}-{i}.png' for name, steps in (('first', (2, 4, 5)),
                                                                   ('second', (2, 4, 6)))
        for step in steps for i in range(2))
    assert (directory / 'figures' / 'loss.png').stat().st_size > 1000
    assert json.loads((directory / 'config.json').read_text())['report_every'] == 2
    assert images.shape == (2, *SHAPE)


@pytest.mark.parametrize(('owner', 'name', 'at'), [
    (reports.Metrics, 'write', 2),  # before the rows of a report of the first stage are written
    (reports.Metrics, 'write', 5),  # and of the second
    (Run, '_snapshot', 2),
    (Run, '_snapshot', 5),
    (descent, '_step', 3),  # between two reports
    (descent, '_step', 10),
])
def test_interrupted_and_continued(problem, whole, tmp_path, monkeypatch, owner, name, at):
    directory, images = whole
    with monkeypatch.context() as patch:
        stopping(patch, owner, name, at)
        with pytest.raises(Stop):
            experiment(problem, tmp_path)
    assert not (tmp_path / 'figures').exists()
    found = experiment(problem, tmp_path)
    np.testing.assert_array_equal(found, images)
    assert (tmp_path / 'metrics.jsonl').read_text() == (directory / 'metrics.jsonl').read_text()
    assert files(tmp_path) == files(directory)
    assert (tmp_path / 'figures' / 'loss.png').exists()


def test_interrupted_twice(problem, whole, tmp_path, monkeypatch):
    directory, images = whole
    for at in (7, 3):  # the second time, in the second stage again
        with monkeypatch.context() as patch:
            stopping(patch, descent, '_step', at)
            with pytest.raises(Stop):
                experiment(problem, tmp_path)
    np.testing.assert_array_equal(experiment(problem, tmp_path), images)
    assert (tmp_path / 'metrics.jsonl').read_text() == (directory / 'metrics.jsonl').read_text()


@pytest.mark.parametrize(('at', 'step'), [(3, 3), (8, 8)])  # of each stage, within a report
def test_a_signal_saves_and_the_same_command_goes_on(problem, whole, tmp_path, monkeypatch, capsys,
                                                     at, step):
    directory, images = whole
    with monkeypatch.context() as patch:
        inner, calls = descent._step, []

        def outer(*args):
            calls.append(1)
            if len(calls) == at:
                signal.raise_signal(signal.SIGTERM)
            return inner(*args)
        patch.setattr(descent, '_step', outer)
        with pytest.raises(SystemExit) as ended:
            experiment(problem, tmp_path)
    assert ended.value.code == 128 + signal.SIGTERM
    assert len(calls) == at
    assert (f'asked to stop: saved after step {step} of 11; the same command goes on from there'
            in capsys.readouterr().out)
    assert len(reports.read_metrics(tmp_path)) == step
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    np.testing.assert_array_equal(experiment(problem, tmp_path), images)
    assert f'resuming after step {step} of 11' in capsys.readouterr().out
    assert (tmp_path / 'metrics.jsonl').read_text() == (directory / 'metrics.jsonl').read_text()
    assert files(tmp_path) == files(directory)


def test_a_signal_after_the_last_step(problem, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended, \
            Run(tmp_path, config(), problem.network, 3) as run:  # noqa: PT012
        run.optimize('only', problem, ADAM, 3, KEY, aux={'unit': jnp.arange(2)})
        signal.raise_signal(signal.SIGINT)
    assert ended.value.code == 130
    assert 'the same command writes the pictures' in capsys.readouterr().out


def test_what_has_not_moved_is_an_error_again_and_again(problem, tmp_path, capsys):
    """Of a first optimization; another one may have nothing left to do."""
    still = optax.sgd(1e-9)
    for _ in range(2):  # also where it was finished before
        with pytest.raises(UserError, match='only: the image has not moved'), \
                Run(tmp_path, config(), problem.network, 4) as run:
            run.optimize('only', problem, still, 4, KEY, aux={'unit': jnp.arange(2)})
    assert not (tmp_path / 'figures').exists()
    with Run(tmp_path / 'two', config(), problem.network, 9) as run:
        run.optimize('first', problem, ADAM, 5, KEY, aux={'unit': jnp.arange(2)})
        run.optimize('first', problem, still, 4, KEY, aux={'unit': jnp.arange(2)})
    assert 'first-2, image 1: the image has not moved' in capsys.readouterr().out


def test_a_loss_that_rises_is_told(problem, tmp_path, capsys):
    with Run(tmp_path, config(), problem.network, 8) as run:
        run.optimize('only', problem, optax.adam(-1e-3), 8, KEY, aux={'unit': jnp.arange(2)})
    assert 'only: the loss has not fallen' in capsys.readouterr().out


def test_finished_stages_are_read(problem, whole, monkeypatch):
    directory, images = whole
    before = (directory / 'metrics.jsonl').read_text()
    (directory / 'figures' / 'loss.png').unlink()
    with monkeypatch.context() as patch:
        stopping(patch, descent, '_step', 1)  # no step is made
        found = experiment(problem, directory)
    np.testing.assert_array_equal(found, images)
    assert (directory / 'metrics.jsonl').read_text() == before
    assert (directory / 'figures' / 'loss.png').exists()
    assert len(json.loads((directory / 'environment.json').read_text())) >= 2


@pytest.fixture
def copied(whole, tmp_path):
    """A copy of the finished run, and the rows it must have."""
    directory = shutil.copytree(whole[0], tmp_path / 'copy')
    return directory, (directory / 'metrics.jsonl').read_text()


@pytest.mark.parametrize('stage', list(STAGES))
def test_a_damaged_stage_is_made_again_and_no_row_is_lost(problem, whole, copied, stage):
    directory, rows = copied
    for path in (directory / 'checkpoints' / stage).rglob('*'):
        if path.is_file():
            path.write_bytes(b'damaged')
    np.testing.assert_array_equal(experiment(problem, directory), whole[1])
    assert (directory / 'metrics.jsonl').read_text() == rows


def test_rows_that_are_lost_come_back(problem, whole, copied, monkeypatch, capsys):
    directory, rows = copied
    lines = rows.splitlines(keepends=True)
    lines[3:] = ['[]\n', *lines[4:9], lines[9][:9]]
    (directory / 'metrics.jsonl').write_text(''.join(lines))
    with monkeypatch.context() as patch:
        stopping(patch, descent, '_step', 1)  # no step is made
        np.testing.assert_array_equal(experiment(problem, directory), whole[1])
    assert (directory / 'metrics.jsonl').read_text() == rows
    assert 'restored' in capsys.readouterr().out


def test_a_lost_config_comes_back(problem, copied):
    directory, _ = copied
    (directory / 'config.json').unlink()
    newer = directory / 'checkpoints' / 'last' / '99' / workdir.PAST
    atomic.write_json(newer, {'step': 99})  # Another program's: it has no copy of the config.
    with pytest.raises(UserError, match='seed: 0 there, 1 here'):
        experiment(problem, directory, config(seed=1))
    newer.unlink()
    experiment(problem, directory)
    assert workdir.read_config(directory) == config()


def test_another_config_is_refused(problem, whole):
    directory, _ = whole
    before = (directory / 'config.json').read_text()
    with pytest.raises(UserError, match=r"layers: \('conv1_1',\) there.*\n  seed: 0 there, 1 here"):
        experiment(problem, directory, config(seed=1, layers=('relu1_1',)))
    assert (directory / 'config.json').read_text() == before


def test_a_directory_whose_first_start_failed_is_usable(problem, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stopping(patch, descent, '_step', 2)
        with pytest.raises(Stop):
            experiment(problem, tmp_path, config(seed=3))
    np.testing.assert_array_equal(experiment(problem, tmp_path), whole[1])
    assert workdir.read_config(tmp_path).seed == 0
    assert len(reports.read_metrics(tmp_path)) == 11


def test_the_directory_of_a_training_is_refused(tmp_path):
    """`source` and the working directory are easily confused; nothing there is touched."""
    workdir.write_config(tmp_path, config(experiment='train'))
    (tmp_path / 'checkpoints' / '120').mkdir(parents=True)
    before = (tmp_path / 'config.json').read_text()
    with pytest.raises(UserError, match="experiment: 'train' there, 'dream' here"):
        Run(tmp_path, config(experiment='dream'), None, 3)
    assert (tmp_path / 'config.json').read_text() == before


def test_other_weights_are_refused(problem, whole):
    network = problem.network
    other = network._replace(variables=jax.tree.map(lambda x: x + 1, network.variables))
    with pytest.raises(UserError, match='other weights'):
        Run(whole[0], config(), other, 1)


def test_a_broken_image_is_reported_and_the_others_go_on(problem, tmp_path, capsys):
    images = np.full((2, *SHAPE), 0.5, np.float32)
    images[1] = np.nan
    with Run(tmp_path, config(), problem.network, 4) as run:
        state = run.optimize('only', problem, ADAM, 4, KEY, images=images, snapshots=False,
                             aux={'unit': jnp.arange(2)})
    assert np.isfinite(state.theta[0]).all()
    assert 'image 1: the loss is not finite' in capsys.readouterr().out
    assert not (tmp_path / 'snapshots').exists()
    rows = reports.read_metrics(tmp_path)
    assert len(rows) == 4
