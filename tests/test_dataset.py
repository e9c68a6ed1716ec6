"""A run knows its data: another set under the same path is refused."""

import gzip
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from cnnjax import (
    atomic,
    checkpoint,
    cluster,
    data,
    dataset,
    dataset_json,
    reports,
    train,
    trained,
    workdir,
)
from cnnjax import evaluate as evaluation
from cnnjax.errors import UserError
from configs import base, imagenet
from configs import evaluate as evaluate_config
from experiments import evaluate
from experiments import train as experiment
from tests import kill
from tests.test_train import changed


def pictures(root):
    """Ten pictures of each of two classes to train on, four to test on; none of one colour."""
    random = np.random.default_rng(0)
    for split, count in (('train', 10), ('test', 4)):
        for name in ('cats', 'dogs'):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(256, size=(8, 8 + i, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f'{i}.bmp')
    return root


def settings(data_dir):
    values = base.get_config()
    values.update_from_flattened_dict({
        'dataset': 'folder', 'data_dir': str(data_dir), 'image_size': 8, 'batch_size': 8,
        'model.name': 'convnet', 'epochs': 3.0, 'report_every': 0, 'eval_every': 0.0, 'devices': 1})
    return values.lock()


@pytest.fixture(scope='module')
def trained_once(tmp_path_factory):
    root = tmp_path_factory.mktemp('once')
    train.train(settings(pictures(root / 'photos')), root / 'run')
    return root


@pytest.fixture
def config(tmp_path):
    return settings(tmp_path / 'photos')


@pytest.fixture
def finished(trained_once, tmp_path):
    """The directory of a finished run of the config, beside its data."""
    shutil.copytree(trained_once, tmp_path, dirs_exist_ok=True)
    return tmp_path / 'run'


def rename_class(root):
    for split in ('train', 'test'):
        (root / split / 'cats').rename(root / split / 'zebras')


def more(root):
    for i in range(8):
        shutil.copyfile(root / 'train/cats/1.bmp', root / f'train/cats/new{i}.bmp')


def fewer(root):
    for i in range(8):
        (root / f'train/dogs/{i}.bmp').unlink()


def far_fewer(root):
    for i in range(1, 10):
        for name in ('cats', 'dogs'):
            (root / f'train/{name}/{i}.bmp').unlink()


def another_test_picture(root):
    Image.new('RGB', (30, 30)).save(root / 'test/dogs/2.bmp')


def other_pixels(root):
    for path in (root / 'train').rglob('*.bmp'):
        path.write_bytes(path.read_bytes()[:54] + bytes(len(path.read_bytes()) - 54))


def contents(directory):
    return {path.relative_to(directory): path.read_bytes()
            for path in sorted(directory.rglob('*')) if path.is_file()}


CHANGES = [
    (rename_class, ["train: class 'cats' is now 'zebras', with the same examples",
                    "test: class 'cats' is now 'zebras', with the same examples"]),
    (more, ['train: examples of a class: cats 10 then, 18 now',
            'train: added: cats/new0.bmp, cats/new1.bmp, cats/new2.bmp and 5 more']),
    (fewer, ['train: examples of a class: dogs 10 then, 2 now',
             'train: missing: dogs/0.bmp, dogs/1.bmp, dogs/2.bmp and 5 more']),
    (far_fewer, ['train: examples of a class: cats 10 then, 1 now; dogs 10 then, 1 now',
                 'train: missing: cats/1.bmp, cats/2.bmp, cats/3.bmp and 15 more']),
    (another_test_picture, [
        'test: of another size or content: dogs/2.bmp (310 then, 2814 now)']),
]


@pytest.mark.parametrize(('change', 'lines'), CHANGES)
def test_a_run_whose_data_changed_is_refused(config, finished, capsys, change, lines):
    """Finished or not; nothing is written, and with the data of before all is well again."""
    capsys.readouterr()
    root, before = finished.parent / 'photos', contents(finished)
    shutil.copytree(root, finished.parent / 'copy')
    change(root)
    for steps in (6, 9):
        with pytest.raises(UserError) as error:
            train.train(changed(config, epochs=steps / 2), finished)
        told = str(error.value).splitlines()
        assert told[0] == f'{finished}: this is not the data that its run was trained on:'
        assert [line.strip() for line in told[1:-1]] == lines
        assert told[-1].strip().startswith('Restore it; train on this data in another workdir;')
    assert 'finished' not in capsys.readouterr().out
    assert contents(finished) == before
    shutil.rmtree(root)
    (finished.parent / 'copy').rename(root)
    train.train(config, finished)
    assert 'this run is finished, after 6 steps' in capsys.readouterr().out


def test_other_pixels_in_files_of_the_same_size(config, finished):
    other_pixels(finished.parent / 'photos')
    with pytest.raises(UserError, match=r'mean: \[0\.\d+, .*\] then, \[0\.0, 0\.0, 0\.0\] now'):
        train.train(config, finished)


def test_what_the_run_was_trained_on_is_written_once(config, finished):
    before = (finished / 'dataset.json').read_bytes()
    values = json.loads(before)
    assert values['splits']['train']['counts'] == [10, 10]
    with gzip.open(finished / 'dataset.listing.gz', 'rt') as file:
        assert file.readline() == 'train\t0\t246\tcats/0.bmp\n'
    # A mean that another machine rounds differently changes neither the run nor the file.
    values['mean'] = [mean + 1e-7 for mean in values['mean']]
    atomic.write_json(finished / 'dataset.json', values)
    train.train(changed(config, epochs=4.0), finished)
    assert json.loads((finished / 'dataset.json').read_text()) == values
    np.testing.assert_array_equal(trained.load(finished).normalize.mean,
                                  np.float32(values['mean']))


def test_a_finished_run_without_its_data_is_finished(config, finished, capsys):
    (finished.parent / 'photos').rename(finished.parent / 'moved')
    row = train.train(config, finished)
    assert row == reports.read_metrics(finished)[-1]
    said = capsys.readouterr().out
    assert 'this run is finished, after 6 steps; that its data is still the same cannot be' in said
    assert 'photos/train cannot be read' in said
    with pytest.raises(UserError, match='photos/train cannot be read'):
        train.train(changed(config, epochs=4.0), finished)
    with pytest.raises(UserError, match='photos/train cannot be read'):
        train.train(config, finished.parent / 'other')


def test_a_run_of_before(config, finished, capsys):
    """It says what cannot be compared, and compares the rest."""
    values = json.loads((finished / 'dataset.json').read_text())
    del values['splits']
    (finished / 'dataset.listing.gz').unlink()
    atomic.write_json(finished / 'dataset.json', values)
    more(finished.parent / 'photos')
    with pytest.raises(UserError, match='mean: '):
        train.train(config, finished)
    assert 'is of an older version: of its data only' in capsys.readouterr().out
    rename_class(finished.parent / 'photos')
    with pytest.raises(UserError, match='train: classes missing: cats\n  train: classes added: z'):
        train.train(config, finished)
    assert json.loads((finished / 'dataset.json').read_text()) == values


def test_lost_files_are_told(config, finished, capsys):
    (finished / 'dataset.listing.gz').write_bytes(b'damaged')
    more(finished.parent / 'photos')
    with pytest.raises(UserError, match='train: examples of a class: cats 10 then, 18 now\n  Rest'):
        train.train(config, finished)
    before = (finished / 'dataset.json').read_text()
    (finished / 'dataset.json').unlink()
    assert dataset_json.read(finished).splits['train'].counts == (10, 10)
    with pytest.raises(UserError, match='train: examples of a class: cats 10 then, 18 now\n  Rest'):
        train.train(config, finished)
    assert 'dataset.json was lost: it is restored from the newest checkpoint' in (
        capsys.readouterr().out)
    assert (finished / 'dataset.json').read_text() == before


def test_a_lost_file_that_no_checkpoint_has(config, finished, capsys, monkeypatch):
    monkeypatch.setattr(workdir, 'read_past', lambda checkpoint: {})  # as in an older version
    more(finished.parent / 'photos')
    (finished / 'dataset.json').unlink()
    train.train(changed(config, steps=6), finished)
    assert 'has no dataset.json' in capsys.readouterr().out
    assert dataset_json.read(finished).splits['train'].counts == (18, 10)


def test_fewer_steps_than_it_has_made(config, finished, monkeypatch):
    monkeypatch.setattr(workdir, 'read_past', lambda checkpoint: {})
    (finished / 'dataset.json').unlink()
    fewer(finished.parent / 'photos')
    with pytest.raises(UserError, match='has made 6 steps, but 3 epochs of the data .* only 3'):
        train.train(config, finished)


@pytest.mark.parametrize('text', [
    b'garbage', b'train\tno\n', b'train\t0\t246\tcats/0.bmp\n', b'train\t7\t246\tcats/0.bmp\n',
    b'\xff\xfe'])
def test_a_listing_of_something_else_is_not_compared(config, finished, text):
    with gzip.open(finished / 'dataset.listing.gz', 'wb') as file:
        file.write(text)
    more(finished.parent / 'photos')
    with pytest.raises(UserError, match='train: examples of a class: cats 10 then, 18 now\n  Rest'):
        train.train(config, finished)


def test_a_run_that_left_no_checkpoint_begins_anew(config, finished):
    shutil.rmtree(finished / 'checkpoints')
    more(finished.parent / 'photos')
    train.train(config, finished)
    assert dataset_json.read(finished).splits['train'].counts == (18, 10)


@pytest.mark.parametrize('values', [
    {'mean': [float('inf')]}, {'std': [0]}, {'splits': 3}, {'splits': {'train': {}}},
    {'image_shape': [8, 8]}, {'classes': None}])
def test_a_damaged_file_is_named(finished, values):
    path = finished / 'dataset.json'
    atomic.write_json(path, {**json.loads(path.read_text()), **values})
    with pytest.raises(UserError, match=r'dataset\.json is damaged, or of another version'):
        trained.load(finished)


def test_an_evaluation_of_changed_data_is_refused_unless_it_is_named(finished, capsys):
    root = finished.parent / 'photos'
    with (finished / 'config.json').open() as file:
        saved = json.load(file)
    atomic.write_json(finished / 'config.json', {**saved, 'data_dir': str(root)})
    another_test_picture(root)
    values = evaluate_config.get_config()
    values.source = str(finished)
    with pytest.raises(UserError, match='test: of another size or content: dogs/2.bmp'):
        evaluate.run(values, finished.parent)
    values.data_dir = str(root)
    evaluate.run(values, finished.parent)
    assert 'error' in capsys.readouterr().out


def test_all_processes_must_have_the_same_data(config, finished, monkeypatch):
    """What they compare; test_cluster.py has the comparison itself."""
    told = []
    monkeypatch.setattr(cluster, 'agree', lambda **facts: told.append(facts))
    *_, splits = dataset.load_sets(config, '', None)
    assert told == [{'data': {split: splits[split].summary() for split in ('train', 'test')}}]


def test_torchvisions_recipe_streams_and_is_tested_on_larger_images(tmp_path):
    """All of its parts together: the network is trained on 6 pixels, and on 8 it is evaluated,
    loaded and evaluated again."""
    pictures(tmp_path / 'photos')
    recipe = changed(imagenet.get_config('resnet50_2021'), model__name='resnet20',
                     model__stride_in=None, model__widths=(4, 4, 4), dataset='folder',
                     test_split='test', data_dir=str(tmp_path / 'photos'), loader_workers=0,
                     loader_threads=1, batch_size=8, steps=3, warmup=1.0, average_start=0.0,
                     average_every=1, average_decay=0.5, image_size=6, test_image_size=8,
                     test_shorter_side=8, devices=2, eval_every=0.0)
    last = train.train(recipe, tmp_path / 'run')
    network = trained.load(tmp_path / 'run')
    assert network.image_shape == (6, 6, 3)
    assert network.evaluation['image_size'] == 8
    evaluate.run(changed(evaluate_config.get_config(), source=str(tmp_path / 'run')),
                 tmp_path / 'evaluation')
    results = json.loads((tmp_path / 'evaluation' / 'results.json').read_text())
    assert results['loss'] == pytest.approx(last['test/loss'], rel=1e-4)


@pytest.fixture(scope='module')
def validated_once(tmp_path_factory):
    """A finished run on a folder that it divided itself."""
    root = tmp_path_factory.mktemp('divided')
    (pictures(root / 'all') / 'train').rename(root / 'photos')
    experiment.run(divided(root / 'photos'), root / 'run')
    return root


def divided(data_dir):
    return changed(settings(data_dir), split='0.6/0.2/0.2', batch_size=4, eval_every=1.0, keep=1)


@pytest.fixture
def validated(validated_once, tmp_path):
    shutil.copytree(validated_once, tmp_path, dirs_exist_ok=True)
    return tmp_path


def evaluated(run, **fields):
    values = evaluate_config.get_config()
    values.update({'source': str(run), **fields})
    evaluate.run(values, run.parent / 'evaluated')
    return json.loads((run.parent / 'evaluated/results.json').read_text())


def test_the_validation_set_judges_and_the_test_set_is_measured_once(validated, capsys):
    """By the network that the validation set chose."""
    run = validated / 'run'
    rows = reports.read_metrics(run)
    assert not [name for row in rows for name in row if name.startswith('test/')]
    errors = {row['step']: row['val/error'] for row in rows if 'val/error' in row}
    assert list(errors) == [3, 6, 9]
    with checkpoint.Checkpoints(run / 'checkpoints', read_only=True) as checkpoints:
        best = checkpoints.resolve('best')
    assert errors[best] == min(errors.values())

    written = json.loads((run / 'results.json').read_text())
    assert (written['checkpoint'], written['split'], written['count']) == ('best', 'test', 4)
    assert reports.test_errors(run) == {
        'error': written['error'], 'val_error': min(errors.values())}
    source = data.load('folder', 'test', str(validated / 'photos'), shares='0.6/0.2/0.2')
    network = trained.load(run, str(best))
    assert evaluation.evaluate(network, source)['error'] == pytest.approx(written['error'])
    capsys.readouterr()
    experiment.run(moved(validated), run)
    said = capsys.readouterr().out
    assert f'validation error: {100 * rows[-1]["val/error"]:.2f} %' in said
    assert 'test error' not in said  # it is in the report, which is finished


def moved(root):
    return divided(root / 'photos')


def test_the_run_describes_its_three_sets(validated):
    values = json.loads((validated / 'run/dataset.json').read_text())
    assert {split: found['counts'] for split, found in values['splits'].items()} == {
        'train': [6, 6], 'val': [2, 2], 'test': [2, 2]}
    lines = (validated / 'run/split.csv').read_text().splitlines()
    assert lines[0] == 'image,label,split'
    assert len(lines) == 21
    # Beside the pictures it is a data set itself, with the same splits.
    shutil.copy(validated / 'run/split.csv', validated / 'photos')
    for split in ('train', 'val', 'test'):
        table, folder = (data.identity(source) for source in (
            data.load('csv', split, str(validated / 'photos/split.csv')),
            data.load('folder', split, str(validated / 'photos'), shares='0.6/0.2/0.2')))
        assert sorted(table.listing) == sorted(folder.listing)


def test_a_run_keeps_its_splits_when_pictures_come(validated, capsys):
    run, photos = validated / 'run', validated / 'photos'
    before = json.loads((run / 'results.json').read_text())
    for i in range(9):
        shutil.copyfile(photos / f'cats/{i}.bmp', photos / f'cats/new{i}.bmp')
    train.train(changed(moved(validated), epochs=4.0), run)
    assert len(dataset.source(moved(validated), 'test', run).examples) == before['count']
    assert '(cats 6, dogs 6); left out: 9 newer than the run\n' in capsys.readouterr().out
    (run / 'split.csv').unlink()  # Without it the set is divided anew, and that is told.
    with pytest.raises(UserError, match='this is not the data that its run was trained on:\n  tra'):
        train.train(changed(moved(validated), epochs=5.0), run)


def test_a_picture_of_a_split_that_is_gone_is_told(validated):
    gone = data.load('folder', 'test', str(validated / 'photos'), shares='0.6/0.2/0.2')
    (validated / 'photos' / gone.examples.names[0]).unlink()
    with pytest.raises(UserError, match=f'test: missing: {gone.examples.names[0]}'):
        train.train(moved(validated), validated / 'run')


def test_evaluations_of_a_divided_run(validated):
    """Its own test set, another split, and the whole of a folder without splits."""
    run, photos = validated / 'run', str(validated / 'photos')
    atomic.write_json(run / 'config.json', {
        **json.loads((run / 'config.json').read_text()), 'data_dir': photos})
    results = json.loads((run / 'results.json').read_text())
    assert evaluated(run)['error'] == pytest.approx(results['error'])
    assert evaluated(run, split='val')['error'] == pytest.approx(
        reports.test_errors(run)['val_error'])
    assert evaluated(run, split='all', data_dir=photos)['count'] == 20
    for split in ('train', 'test'):
        shutil.copytree(photos, validated / 'others' / split)
    assert evaluated(run, data_dir=str(validated / 'others'))['count'] == 20


def test_a_run_with_a_validation_set_resumes_bit_for_bit(tmp_path, monkeypatch):
    (pictures(tmp_path / 'all') / 'train').rename(tmp_path / 'photos')
    config = moved(tmp_path)
    train.train(config, tmp_path / 'whole')
    with monkeypatch.context() as patch:
        patch.setattr(reports.Metrics, 'write', kill.dying_after(6))
        with pytest.raises(kill.Killed):
            train.train(config, tmp_path / 'parts')
    train.train(config, tmp_path / 'parts')
    kill.assert_same_run(tmp_path / 'parts', tmp_path / 'whole', 9)


def test_copies_in_two_splits_are_told(validated, capsys):
    for split in ('train', 'test'):
        source = data.load('folder', split, str(validated / 'photos'), shares='0.6/0.2/0.2')
        if split == 'train':
            first = source.examples.paths[0]
    shutil.copyfile(first, source.examples.paths[0])
    dataset.load_sets(moved(validated), validated, None)
    assert '1 picture in more than one split, as ' in capsys.readouterr().out


def test_arrays_with_a_validation_set(tmp_path):
    """In Python, with the names of three splits."""
    random = np.random.default_rng(0)
    found = {split: data.from_arrays(
        random.integers(256, size=(8, 8, 8, 3), dtype=np.uint8), ('a', 'b'), label=np.arange(8) % 2)
        for split in ('train', 'val', 'test')}
    config = changed(settings(None), data_dir=None, val_split='val', epochs=1.0)
    assert 'val/error' in train.train(config, tmp_path / 'run', found)
    assert set(dataset_json.read(tmp_path / 'run').splits) == {'train', 'val', 'test'}
    with pytest.raises(UserError, match="no data.Source for 'val'"):
        train.train(config, tmp_path / 'other', {**found, 'val': None})
    with pytest.raises(UserError, match="split='0.8/0.2': data that is given in Python is divided"):
        train.train(changed(config, split='0.8/0.2'), tmp_path / 'other', found)
