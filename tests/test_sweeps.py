"""Sweeps: a directory for each run, mistakes found before anything starts, and one table."""

import json

import hypothesis
import ml_collections
import numpy as np
import pytest
from hypothesis import strategies

from cnnjax import atomic, cluster, data, dataset_json, jobs, reports, sweeps
from cnnjax.errors import UserError
from configs import base, quickstart


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """The tests' own process has used jax already: it cannot join others."""
    monkeypatch.setattr(cluster, 'connect', lambda *_: None)


@pytest.fixture
def trained():
    """A training without jax, whose error is its learning rate; the runs that were made."""
    made = []

    def run(config, directory):
        made.append(directory)
        if config.learning_rate > 1:
            raise UserError('too fast\nby far')
        with reports.Metrics(directory, 0) as metrics:
            metrics.write({'step': 1, 'test/error': config.learning_rate, 'test/loss': 1.0},
                          {'step': 2, 'train/error': 0.0})

    run.made = made
    return run


def write(path, body, arguments=''):
    path.write_text(f'def get_config({arguments}): ...\ndef sweep({arguments}):\n    {body}\n')
    return str(path)


@pytest.mark.parametrize('executor', ['', 'debug'])
def test_all_runs_and_their_table(trained, tmp_path, executor, capfd):
    file = write(tmp_path / 'config.py', "return [{'learning_rate': rate, 'model.name': name} "
                 "for rate in (1, 0.5, 2) for name in ('vgg11', 'vgg13')]")
    directory = tmp_path / 'sweep'

    def sweep(config):
        place = jobs.Place(str(directory), executor)
        return sweeps.run(config, place, file, {}, lambda name: trained)

    config = base.get_config().lock()
    assert not sweep(config)
    output, error = capfd.readouterr()
    assert '6 runs, 0 of them finished' in output
    assert error.splitlines()[:2] == ['error: learning_rate=2.0,model.name=vgg11: too fast',
                                      'by far']
    assert config.learning_rate == base.get_config().learning_rate
    table = (directory / 'sweep.md').read_text()
    assert table in output
    assert [line.split() for line in table.splitlines()][2:6:3] == [
        ['|', '50.00', '|', '0.5', '|', 'vgg11', '|', 'finished', '|'],
        ['|', '100.00', '|', '1.0', '|', 'vgg13', '|', 'finished', '|']]
    assert 'failed: too fast |' in table.splitlines()[-1]
    entries = json.loads((directory / 'sweep.json').read_text())
    assert entries[0]['name'] == 'learning_rate=0.5,model.name=vgg11'
    assert entries[0]['error'] == 0.5
    assert entries[0]['fields'] == {'learning_rate': 0.5, 'model.name': 'vgg11'}
    assert len(trained.made) == 6

    # Again: what failed is tried again, last, what is finished is not; then one run more.
    assert not sweep(config)
    assert len(trained.made) == 8
    write(tmp_path / 'config.py', "return [{'learning_rate': 2, 'model.name': 'vgg11'}, "
          "{'learning_rate': 0.25}]")
    assert not sweep(config)
    assert trained.made[8:] == [str(directory / 'learning_rate=0.25'),
                           str(directory / 'learning_rate=2.0,model.name=vgg11')]
    assert len(json.loads((directory / 'sweep.json').read_text())) == 7
    write(tmp_path / 'config.py', "yield {'learning_rate': 0.25}")
    assert sweep(config)
    assert len(trained.made) == 10
    with config.unlocked():
        config.seed = 3
    assert sweep(config)  # another config: the training itself must know
    assert len(trained.made) == 11


def test_a_finished_run_of_other_data_is_refused(trained, tmp_path):
    """Beside it the table would show what was trained on today's."""
    file = write(tmp_path / 'config.py', "yield {'learning_rate': 0.25}; yield {'seed': 1}")
    place = jobs.Place(str(tmp_path / 'sweep'))
    config = base.get_config().lock()
    assert sweeps.run(config, place, file, {}, lambda name: trained)
    digits = {split: data.identity(data.load('digits', split)) for split in ('train', 'test')}
    normalize = data.Normalization(np.float32([0.5]), np.float32([0.5]))
    run = tmp_path / 'sweep' / 'learning_rate=0.25'
    dataset_json.write(run, digits, (8, 8, 1), normalize)
    assert sweeps.run(config, place, file, {}, lambda name: trained)
    dataset_json.write(run, digits | {'test': digits['train']}, (8, 8, 1), normalize)
    with pytest.raises(UserError, match=r'0\.25: this is not the data .*\n  test: examples of a'):
        sweeps.run(config, place, file, {}, lambda name: trained)
    # So is one that was interrupted, before others are begun; without a checkpoint it begins anew.
    atomic.write_json(tmp_path / 'sweep' / 'sweep.json', [])
    (run / 'checkpoints' / '4').mkdir(parents=True)
    with pytest.raises(UserError, match=r'0\.25: this is not the data .*\n  test: examples of a'):
        sweeps.run(config, place, file, {}, lambda name: trained)
    assert len(trained.made) == 2
    (run / 'checkpoints' / '4').rmdir()
    assert sweeps.run(config, place, file, {}, lambda name: trained)
    assert len(trained.made) == 4


@pytest.mark.parametrize(('body', 'message'), [
    ("yield {'learning_rat': 1}", 'did you mean --config.learning_rate?'),
    ("yield {'model.nam': 'vgg11'}", 'did you mean --config.model.name?'),
    ("yield {'learning_rate': 'high'}", 'cannot be casted'),
    ("yield {'learning_rate.x': 1}", "'learning_rate' is a value"),
    ("yield {'model.widths': 'wide'}", 'cannot be casted'),
    ("yield {'keep': 1.5}", 'cannot be casted'),
    ("yield {'batch_size': 32}", 'batch_size is given on the command line'),
    ("yield {'model': {'name': 'vgg11'}}", 'not a dict such as'),
    ("yield {'model': 'vgg11'}", 'model.stem is given on the command line'),
    ("yield {'seed': 0}; yield {'seed': 0}", 'sweep() yields seed=0 twice'),
    ("yield {'learning_rate': 1}; yield {'learning_rate': 1.0}", 'learning_rate=1.0 twice'),
    ('yield 3', 'yields 3, not a dict'),
    ("yield {0: 'x'}", 'not a dict'),
    ('return []', 'yields no run'),
    ('return None', 'not iterable'),
    ("raise ValueError('no such network')", 'no such network'),
])
def test_a_wrong_sweep_is_told_before_it_starts(trained, tmp_path, body, message):
    file = write(tmp_path / 'config.py', body)
    with pytest.raises(UserError) as error:
        sweeps.run(base.get_config().lock(), jobs.Place(str(tmp_path / 'sweep')), file,
                   {'batch_size': 8, 'model.stem': 3}, lambda name: trained)
    assert message in str(error.value)
    assert '\n' not in str(error.value)
    assert not (tmp_path / 'sweep').exists()
    assert trained.made == []


def test_the_function_and_its_argument(tmp_path):
    (tmp_path / 'config.py').write_text('def get_config(): ...')
    with pytest.raises(UserError, match=r'config.py has no sweep\(\): write in it, for example'):
        sweeps.read(str(tmp_path / 'config.py'))
    file = write(tmp_path / 'config.py', "yield {'model.name': name}", 'name')
    assert sweeps.read(f'{file}:vgg11') == [{'model.name': 'vgg11'}]
    with pytest.raises(UserError, match='must take the same argument as get_config: missing a'):
        sweeps.read(file)
    with pytest.raises(UserError, match='must take the same argument as get_config: too many'):
        sweeps.read(write(tmp_path / 'config.py', 'yield {}') + ':vgg11')


@pytest.mark.parametrize('network', ['resnet', 'fractalnet'])
def test_the_quickstart_has_a_sweep(network):
    config = quickstart.get_config(network).lock()
    found = sweeps.read(f'{quickstart.__file__}:{network}')
    assert len({sweeps.name(sweeps.variant(config, fields, {})[1]) for fields in found}) == 6


def test_names_are_readable():
    assert sweeps.name({'seed': 2, 'learning_rate': 0.1}) == 'learning_rate=0.1,seed=2'
    assert sweeps.name({'model.widths': (4, 8)}) == 'model.widths=(4,8)'
    assert sweeps.name({'data_dir': 'a b/c'}) == 'data_dir=a%20b%2Fc'
    assert sweeps.name({}) == 'unchanged'


TEXT = strategies.text(alphabet='a1./\\,=()%~ü \n', max_size=100)
FIELDS = strategies.dictionaries(strategies.sampled_from('abc'), strategies.one_of(
    TEXT, strategies.lists(strategies.text(alphabet='a,()', max_size=3), max_size=3)))


@hypothesis.settings(database=None, deadline=None)
@hypothesis.given(FIELDS, FIELDS)
def test_names_are_safe_and_differ(first, second):
    names = [sweeps.name(fields) for fields in (first, second)]
    for name in names:
        assert len(name.encode()) < 255
        assert not set(name) & set('/\\ \0\n')
        assert name not in ('', '.', '..')
    if not any(isinstance(value, str) and isinstance(second.get(field), list)
               or isinstance(value, list) and isinstance(second.get(field), str)
               for field, value in first.items()):  # a field has one type
        assert (names[0] == names[1]) == (first == second)


def test_the_error_of_other_experiments(tmp_path):
    assert reports.test_errors(tmp_path) == {}
    atomic.write_json(tmp_path / 'results.json', {'error': 0.25, 'count': 4})
    assert reports.test_errors(tmp_path) == {'error': 0.25}


def test_a_run_that_breaks_is_noted(tmp_path):
    def broken(config, directory):
        raise ZeroDivisionError('0 images')

    config = ml_collections.ConfigDict({'experiment': 'train', 'seed': 0})
    file = write(tmp_path / 'config.py', "yield {'seed': 1}")
    with pytest.raises(ZeroDivisionError):
        sweeps.run(config, jobs.Place(str(tmp_path)), file, {}, lambda name: broken)
    assert "failed: ZeroDivisionError('0 images')" in (tmp_path / 'sweep.md').read_text()


def test_a_sweep_chooses_by_the_validation_error(tmp_path):
    """And shows the test error of each run beside it."""
    for name, validation, tested in (('seed=0', 0.3, 0.1), ('seed=1', 0.2, 0.4)):
        atomic.write_text(tmp_path / name / 'metrics.jsonl', ''.join(
            json.dumps({'step': i, 'val/error': validation + i / 10}) + '\n' for i in (1, 0)))
        atomic.write_json(tmp_path / name / 'results.json', {'error': tested, 'count': 4})
    entries = sweeps.ranked({name: {
        'fields': {}, 'state': 'finished', **reports.test_errors(tmp_path / name)}
        for name in ('seed=0', 'seed=1')})
    assert list(entries) == ['seed=1', 'seed=0']
    assert [line.split() for line in sweeps.table(entries).splitlines()][::2] == [
        ['|', 'validation', 'error,', '%', '|', 'test', 'error,', '%', '|', 'state', '|'],
        ['|', '20.00', '|', '40.00', '|', 'finished', '|']]
