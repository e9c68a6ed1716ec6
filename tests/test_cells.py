"""A paper's table is trained cell by cell: it resumes, tells what is missing, and can be drawn."""

import json
import pickle
from pathlib import Path

import pytest
from PIL import Image

from cnnjax import cluster, data, jobs, reports, sweeps, workdir
from cnnjax.errors import UserError
from configs import tables as papers
from configs.recipes.tables import Row, Table
from experiments import train
from experiments.tables import cells, tables, text
from tests.test_jobs import slurm  # noqa: F401, a fixture

NARROW = {'image_size': 0, 'report_every': 2}
BLOCKS = {'model.widths': (4, 4), 'model.blocks': (1, 1), **NARROW}
FRACTAL = {'model.widths': (4,), 'model.dropout': (0.0,), 'model.columns': 2, **NARROW}
SMALL = Table(
    'A small table', 'nobody, https://example.org', {
        'digits': ('digits', 'error'), 'top-5': ('digits', 'top5_error'), 'C10': ('C10', 'error')},
    {'resnet': Row('ResNet [1]', '5.00 - 8.75', 'digits/resnet20', BLOCKS),
     'drop_path': Row('FractalNet [2]', '4.00 1.00 -', 'digits/fractalnet', FRACTAL),
     'column': Row('↳ its deepest column', '4.50 - -', 'digits/fractalnet', FRACTAL,
                   of='drop_path', measure='column2/error'),
     'searched': Row('A search [3]', '- - 6.37', remark='not a network')})


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """The tests' own process has used jax already: it cannot join others."""
    monkeypatch.setattr(cluster, 'connect', lambda *_: None)
    monkeypatch.setitem(papers.TABLES, 'small', SMALL)
    tables.tell.cache_clear()


def table(**fields):
    config = papers.get_config('small')
    config.update(fields)
    return config.lock()


def contents(directory):
    found = json.loads((directory / 'small.json').read_text())
    return {(row['name'], column): cell for row in found['rows']
            for column, cell in row['cells'].items()}


class Killed(BaseException):
    """In the place of kill -9."""


def test_a_table_is_killed_and_resumed_with_one_data_set_missing(tmp_path, monkeypatch, capsys):
    """Three trainings, one of which has the numbers of three cells."""
    config = table(epochs=0.2, devices=1, data_dir=str(tmp_path))
    place = jobs.Place(str(tmp_path / 'table'))
    real, killed = reports.Metrics.write, []

    def dying(self, row):
        real(self, row)
        if 'drop_path' in str(self._directory) and not killed:
            killed.append(row['step'])
            raise Killed

    monkeypatch.setattr(reports.Metrics, 'write', dying)
    with pytest.raises(Killed):
        tables.sweep(config, place)
    found = contents(tmp_path / 'table')
    assert found['resnet', 'digits']['state'] == 'finished'
    assert found['drop_path', 'digits']['state'] == 'not finished'
    before = (tmp_path / 'table' / 'resnet,digits,epochs=0.2,seed0' / 'metrics.jsonl').read_text()
    tables.tell.cache_clear()
    capsys.readouterr()

    assert not tables.sweep(config, place)  # CIFAR-10 is missing
    output = capsys.readouterr().out
    assert '3 runs, 1 of them finished' in output
    assert output.count('cifar10 is not prepared') == 1
    assert (tmp_path / 'table' / 'resnet,digits,epochs=0.2,seed0' / 'metrics.jsonl'
            ).read_text() == before
    found = contents(tmp_path / 'table')
    fractal = 'drop_path,digits,epochs=0.2,seed0'
    errors = reports.test_errors(tmp_path / 'table' / fractal)
    for cell, measure in ((('drop_path', 'digits'), 'error'),
                          (('drop_path', 'top-5'), 'top5_error'),
                          (('column', 'digits'), 'column2/error')):
        assert found[cell]['ours'] == 100 * errors[measure]
        assert found[cell]['trainings'] == {fractal: found[cell]['ours']}
        assert found[cell]['difference'] == pytest.approx(
            found[cell]['ours'] - float(found[cell]['paper']))
        assert found[cell]['length'] == '0.2 of 20 epochs'
    assert found['resnet', 'C10']['state'] == 'no data: cifar10'
    assert found['searched', 'C10']['state'] == 'no network'
    assert found['resnet', 'top-5']['state'] == ''  # no number is published
    written = (tmp_path / 'table' / 'small.md').read_text()
    assert written in output
    lines = [[cell.strip() for cell in line.split('|')][1:-1] for line in written.splitlines()]
    lines = {line[0]: line[1:] for line in lines if line}
    assert lines['ResNet [1]'][1:] == ['-', '8.75 / no data: cifar10']
    assert lines['A search [3]'] == ['-', '-', '6.37 / no network']
    assert lines['ResNet [1]'][0].startswith(f'5.00 / {found["resnet", "digits"]["ours"]:.2f} (')
    assert 'the training was shorter than the recipe' in written
    assert 'A search [3]: not a network.' in written
    with Image.open(tmp_path / 'table' / 'figures' / 'small.png') as picture:
        assert picture.width > 500


def noted(config, place, monkeypatch, error=lambda recipe: 0.05):
    """Runs the table with a training that only notes an error."""
    def run(recipe, directory):
        with reports.Metrics(directory, 0) as metrics:
            metrics.write({'step': 4, 'epoch': 1.0, 'images_per_second': 64.0,
                           **{f'test/{name}': error(recipe) for name in (
                               'error', 'top5_error', 'column2/error')}})

    class Network:
        variables = {'params': {}}

    monkeypatch.setattr(tables.trained, 'load', lambda directory: Network)
    monkeypatch.setattr(train, 'run', run)
    return tables.sweep(config, place)


def test_several_seeds_have_a_deviation_and_a_failed_cell_stops_no_other(tmp_path, monkeypatch,
                                                                         capfd):
    def error(recipe):
        if recipe.dataset == 'cifar10':
            raise UserError('no luck\nat all')
        return 0.04 + 0.02 * recipe.seed

    place = jobs.Place(str(tmp_path))
    assert not noted(table(seeds=2), place, monkeypatch, error)
    assert 'error: resnet,C10,seed1: no luck' in capfd.readouterr().err
    found = contents(tmp_path)
    assert found['resnet', 'digits']['ours'] == pytest.approx(5)
    assert found['resnet', 'digits']['deviation'] == pytest.approx(2 ** 0.5)
    assert text.ours(found['resnet', 'digits']) == '5.00 ± 1.41 (+0.00)'
    assert text.ours(found['resnet', 'C10']) == 'failed: no luck'
    assert (tmp_path / 'resnet,digits,seed1').is_dir()


def test_some_rows_and_columns(tmp_path, monkeypatch):
    place = jobs.Place(str(tmp_path))
    assert noted(table(rows='drop_path,column', columns='digits'), place, monkeypatch)
    assert sorted(path.name for path in tmp_path.glob('*seed*')) == ['drop_path,digits,seed0']
    found = contents(tmp_path)
    assert found['resnet', 'digits']['state'] == 'not run'
    assert found['column', 'digits']['ours'] == 5  # from the same training
    assert noted(table(unpublished=True, rows='drop_path'), place, monkeypatch)
    assert contents(tmp_path)['drop_path', 'C10']['ours'] == 5
    for fields, message in (({'rows': 'renset'}, "no 'renset'; did you mean resnet"),
                            ({'columns': 'C100'}, "no 'C100'; did you mean C10"),
                            ({'rows': 'searched'}, 'none of the chosen cells has a network'),
                            ({'seeds': 0}, 'seeds=0: take 1')):
        with pytest.raises(UserError, match=message):
            tables.sweep(table(**fields), place)


def test_a_table_is_one_array_of_slurm(slurm, tmp_path, capsys):  # noqa: F811
    place = jobs.Place(str(tmp_path / 'table'), 'slurm', 'timeout_min=30')
    assert tables.sweep(table(), place)
    output = capsys.readouterr().out
    assert 'job 4242: an array of 3 runs' in output
    assert f'table, as the runs finish: {tmp_path}/table/small.md' in output
    assert {cell['state'] for cell in contents(tmp_path / 'table').values()} == {
        'not finished', 'no network', ''}
    delayed = pickle.loads((tmp_path / 'table/submitit/4242_0_submitted.pkl').read_bytes())
    job = delayed.function
    assert job.label == 'resnet,digits,seed0'
    assert (job.config.model.name, job.table.table) == ('resnet20', 'small')


def test_the_times_of_trainings_are_compared_by_their_ratio():
    entries = {f'resnet110_{name},C10+,seed0': {
        'state': 'finished', 'fields': {}, 'seconds': seconds, 'error': 0.1}
        for name, seconds in (('constant', 8000.0), ('stochastic', 6000.0))}
    found = cells.compare(papers.get_config('stochastic_depth2'), entries)
    constant, stochastic, ratio = (row['cells'] for row in found['rows'])
    assert constant['CIFAR10+']['ours'] == 8000
    written = text.markdown(found)
    assert '20h 42m / 2h 13m' in written
    assert '15h 7m / 1h 40m' in written
    assert '0.73 / 0.75 (+0.02)' in written
    assert '0.74 |' in written  # 15h 20m / 20h 51m, not run
    assert stochastic['CIFAR100+']['state'] == 'not run'
    assert ratio['SVHN']['paper'] == '0.76'


def test_the_seconds_of_a_training_leave_out_compilation_and_evaluations():
    rows = [{'step': 10, 'images_per_second': 100.0}, {'step': 30, 'images_per_second': 200.0},
            {'step': 31, 'test/error': 0.5}]
    assert reports.training_seconds(rows, 20) == pytest.approx((2 + 2) * 31 / 30)
    assert reports.training_seconds(rows[2:], 20) is None


def test_a_sweep_tells_missing_data_apart_from_failures(tmp_path):
    (tmp_path / 'config.py').write_text('def get_config(): ...\ndef sweep(): yield {"seed": 1}\n')

    def run(config, directory):
        raise data.Missing('not prepared')

    config = papers.training(table(), SMALL.rows['resnet'], 'digits', 0)[0]
    assert not sweeps.run(config, jobs.Place(str(tmp_path)), str(tmp_path / 'config.py'), {},
                          lambda name: run)
    assert 'no data: not prepared' in (tmp_path / 'sweep.md').read_text()


def test_every_field_is_read():
    source = ''.join(path.read_text() for path in (Path(tables.__file__), Path(cells.__file__),
                                                   Path(papers.__file__)))
    for field in papers.get_config():
        assert f'config.{field}' in source or f"'{field}'" in source


def test_a_part_of_the_seeds_is_said_to_be_one(tmp_path, monkeypatch):
    def error(recipe):
        if recipe.seed:
            raise UserError('no luck')
        return 0.04

    assert not noted(table(seeds=2, columns='digits'), jobs.Place(str(tmp_path)), monkeypatch,
                     error)
    found = contents(tmp_path)['resnet', 'digits']
    assert text.ours(found).endswith('1 of 2 seeds)')
    assert found['trainings'] == {'resnet,digits,seed0': pytest.approx(4),
                                  'resnet,digits,seed1': None}


def test_another_process_and_another_type_of_numbers_spoil_no_entry(tmp_path, monkeypatch):
    place = jobs.Place(str(tmp_path))
    with workdir.lock(tmp_path), pytest.raises(UserError, match='another run writes in'):
        noted(table(rows='drop_path', columns='digits'), place, monkeypatch)
    assert noted(table(rows='drop_path', columns='digits'), place, monkeypatch)
    assert noted(table(rows='drop_path', columns='digits', dtype='bfloat16'), place, monkeypatch)
    assert sorted(path.name for path in tmp_path.glob('*seed*')) == [
        'drop_path,digits,bfloat16,seed0', 'drop_path,digits,seed0']
