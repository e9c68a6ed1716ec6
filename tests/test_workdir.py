"""Working directories have one experiment and one writer; nothing is lost or half written."""

import json
import os
import subprocess
import sys

import ml_collections
import numpy as np
import pytest

from cnnjax import atomic, jobs, sweeps, trained, workdir
from cnnjax.errors import UserError
from configs import base

WRITES = {  # one thing that each experiment writes
    'train': 'checkpoints/3/default', 'style': 'checkpoints/coffee/3/default',
    'dream': 'snapshots/1.png', 'invert': 'results.json', 'microscope': 'data/manifest.js',
    'visualize': 'parts/filters.json', 'embed': 'pixels.npz', 'evaluate': 'results.json',
    'features': 'features.npz', 'summarize': 'summary.txt', 'reproduce': 'seed0/config.json',
    'benchmark': 'results.md'}
SWEEP = """
def get_config(): ...
def sweep(): return [{'seed': 1}, {'seed': 2}]
"""


def config(experiment='train', **fields):
    return ml_collections.ConfigDict({'experiment': experiment, 'seed': 0, **fields})


@pytest.fixture(autouse=True)
def experiment(monkeypatch):
    """An experiment that writes one file, another one for each name, and notes the names."""
    made = []

    def run(config, directory):
        made.append(config.experiment)
        path = workdir.Path(directory) / WRITES[config.experiment]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(config.experiment)

    run.made = made
    monkeypatch.setattr(jobs, 'connect', lambda *_: None)
    return run


@pytest.fixture
def start(experiment):
    def begin(name, directory, executor='', run=experiment):
        job = jobs.Job(config(name), str(directory), run)
        return jobs.Place(str(directory), executor).run([job])
    return begin


def everything(directory):
    return {path: path.is_file() and path.read_bytes() for path in directory.rglob('*')}


@pytest.mark.parametrize('holder', WRITES)
def test_an_experiment_does_not_touch_the_directory_of_another(start, experiment, holder,
                                                               tmp_path, capsys):
    assert start(holder, tmp_path)
    before = everything(tmp_path)
    for other in WRITES:
        assert start(other, tmp_path) == (other == holder)
    assert everything(tmp_path) == before
    assert experiment.made == [holder, holder]
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"error: {tmp_path} holds a '{holder}' run; take another workdir"] * (
        len(WRITES) - 1)


def test_before_a_job_is_submitted(start, experiment, tmp_path):
    start('style', tmp_path)
    with pytest.raises(UserError, match="holds a 'style' run; take another workdir"):
        start('train', tmp_path, 'debug')
    assert start('style', tmp_path, 'debug')
    assert start('train', tmp_path / 'other', 'debug')
    assert experiment.made == ['style', 'style', 'train']


def test_a_run_that_failed_at_once_holds_nothing(start, tmp_path):
    def refuse(config, directory):
        raise UserError('a field')

    assert not start('style', tmp_path, run=refuse)
    assert os.listdir(tmp_path) == ['lock']
    workdir.write_config(tmp_path, config('style'))  # as a run that was killed at its start
    assert start('train', tmp_path)
    assert workdir.read_config(tmp_path).experiment == 'train'
    assert not start('style', tmp_path)


def test_sweeps_and_runs_keep_apart(start, experiment, tmp_path):
    (tmp_path / 'config.py').write_text(SWEEP)

    def sweep(directory):
        return sweeps.run(config(), jobs.Place(str(directory)), str(tmp_path / 'config.py'), {},
                          lambda name: experiment)

    assert sweep(tmp_path / 'sweep')
    assert sweep(tmp_path / 'sweep')
    assert not start('train', tmp_path / 'sweep')
    assert start('train', tmp_path / 'sweep' / 'seed=1')
    assert not start('dream', tmp_path / 'sweep' / 'seed=1')
    start('train', tmp_path / 'run')
    with pytest.raises(UserError, match="run holds a 'train' run"):
        sweep(tmp_path / 'run')
    assert experiment.made == ['train'] * 4


def test_directories_of_others(start, tmp_path, capsys):
    """A folder of pictures is taken, one where we would overwrite something is not."""
    (tmp_path / 'cat.jpg').write_text('a picture')
    assert start('train', tmp_path)
    for name, content in (('results.json', '{}'), ('metrics.jsonl', ''),
                          ('config.json', '{"model_type": "bert"}'), ('config.json', '{"cut')):
        other = tmp_path / f'{len(content)}'
        other.mkdir()
        (other / name).write_text(content)
        (other / 'vocab.txt').write_text('the')
        before = everything(other)
        assert not start('train', other)
        assert everything(other) == before
    errors = capsys.readouterr().err.splitlines()
    for line, part in zip(errors, ('holds results.json of a run that has lost its config.json; ',
                                   'holds metrics.jsonl of', 'holds a config.json of another prog',
                                   'config.json is not a readable JSON file'), strict=True):
        assert part in line


def test_only_a_few_differences_are_shown(tmp_path):
    many = {f'field{i}': (i, i + 1) for i in range(95)}
    with pytest.raises(UserError, match='field5: 5 there, 6 here\n  and 89 more\nTake') as error:
        workdir.refuse(tmp_path, many)
    assert len(str(error.value).splitlines()) == 9


@pytest.mark.parametrize(('whole', 'fit'), [(False, 'crop'), (True, 'pad')])
def test_a_run_of_an_older_version_is_the_same(whole, fit, tmp_path):
    now = base.get_config()
    now.fit = fit
    older = {name: value for name, value in now.to_dict().items()
             if name not in workdir.YOUNGER} | {'whole': whole}
    atomic.write_json(tmp_path / 'config.json', older)
    assert not workdir.differences(workdir.read_config(tmp_path), now)


def test_the_second_run_in_a_workdir_is_refused(tmp_path):
    with workdir.claim(tmp_path, config()), \
            pytest.raises(UserError, match=r'another run .*process \d+ on'), \
            workdir.claim(tmp_path, config()):
        pass
    with workdir.claim(tmp_path, config()):
        pass


def test_a_file_is_no_workdir_of_a_job(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match='file cannot be written: Not a directory$'):
        jobs.Place(str(tmp_path / 'file'), 'local')


@pytest.mark.parametrize(('given', 'message'), [
    ('', 'workdir is empty'), (' ', 'workdir is empty'), ('~nobody-here/x', 'home directory'),
    ('{}/file', 'file: Not a directory; take another one'),
    ('{}/file/below', 'below: Not a directory; take another one'),
    ('{}/dangling', 'dangling cannot be written: File exists'),
    ('{}/' + 'x' * 300, 'File name too long'), ('/proc/new', 'cannot be written: No such file')])
def test_what_cannot_be_a_workdir(given, message, tmp_path):
    (tmp_path / 'file').write_text('')
    (tmp_path / 'dangling').symlink_to('nowhere')
    with pytest.raises(UserError) as error, \
            workdir.claim(workdir.located(given.format(tmp_path)), config()):
        pass
    assert message in str(error.value)
    assert '\n' not in str(error.value)


def test_the_home_directory(monkeypatch, tmp_path):
    monkeypatch.setenv('HOME', str(tmp_path))
    assert workdir.located('~/runs') == str(tmp_path / 'runs')
    assert workdir.located('runs/~') == 'runs/~'


KILLED = """
import os, signal, sys
from cnnjax import atomic
with atomic.replacing(sys.argv[1]) as unfinished:
    unfinished.write_text('half')
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_killed_writers_leave_is_removed(tmp_path):
    path = tmp_path / 'figures' / 'loss.png'
    atomic.write_text(path, 'whole')
    workdir.write_config(tmp_path, config())
    (tmp_path / '.notes.part').write_text('of somebody else')
    other = tmp_path / 'another run' / '.config.json.1.part'  # That run may be writing it.
    with workdir.claim(other.parent, config()):
        other.write_text('half')
    assert subprocess.run([sys.executable, '-c', KILLED, path]).returncode == -9
    assert len(list(path.parent.iterdir())) == 2
    with workdir.claim(tmp_path, config()):
        assert list(path.parent.iterdir()) == [path]
    assert path.read_text() == 'whole'
    assert (tmp_path / '.notes.part').exists()
    assert other.exists()


@pytest.mark.parametrize('content', ['{"cut', '5', '{}', '[5]', '[{"name": 3}]', '[{"name": "a"}]',
                                     '[{"name": "a", "fields": 5, "state": "finished"}]',
                                     '[{"name": "a", "fields": {}, "state": 0}]',
                                     '[{"name": "a", "fields": {}, "state": "", "error": "x"}]'])
def test_a_damaged_sweep_is_made_anew(experiment, content, tmp_path, capsys):
    (tmp_path / 'config.py').write_text(SWEEP)
    (tmp_path / 'sweep').mkdir()
    (tmp_path / 'sweep' / 'sweep.json').write_text(content)
    place = jobs.Place(str(tmp_path / 'sweep'))
    assert sweeps.run(config(), place, str(tmp_path / 'config.py'), {}, lambda name: experiment)
    entries = json.loads((tmp_path / 'sweep' / 'sweep.json').read_text())
    assert [entry['state'] for entry in entries] == ['finished'] * 2
    assert ('is damaged (' in capsys.readouterr().out) == (content != '{}')


@pytest.mark.parametrize('values', [{'mean': [np.inf]}, {'std': [0.0]}, {'std': [-1.0]},
                                    {'mean': [np.nan]}, {'std': ['x']}])
def test_a_damaged_dataset_is_refused(values, tmp_path):
    workdir.write_config(tmp_path, base.get_config())
    atomic.write_json(tmp_path / 'dataset.json', {
        'classes': ['a', 'b'], 'image_shape': [8, 8, 1], 'mean': [0.5], 'std': [1], **values})
    with pytest.raises(UserError, match='dataset.json is damaged'):
        trained.load(tmp_path)
