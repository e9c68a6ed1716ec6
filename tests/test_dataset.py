"""A run knows its data: another set under the same path is refused."""

import gzip
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from cnnjax import atomic, cluster, dataset, reports, train, trained, workdir
from cnnjax.errors import UserError
from configs import base, imagenet
from configs import evaluate as evaluate_config
from experiments import evaluate
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
    assert dataset.read(finished).splits['train'].counts == (10, 10)
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
    assert dataset.read(finished).splits['train'].counts == (18, 10)


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
    assert dataset.read(finished).splits['train'].counts == (18, 10)


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
