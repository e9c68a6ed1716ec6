"""A run from its config to its files: it resumes bit for bit, and refuses what does not fit."""

import json
import re
import shutil

import flax.linen as nn
import jax
import numpy as np
import pytest
import skimage.data
from PIL import Image

from cnnjax import (
    atomic,
    checkpoint,
    cluster,
    data,
    dataset,
    memory,
    reports,
    train,
    trained,
    workdir,
)
from cnnjax import evaluate as evaluation
from cnnjax.errors import UserError
from experiments import evaluate
from experiments import train as experiment
from tests import conftest, kill
from tests.kill import Killed, assert_same_run, rows


def changed(config, **fields):
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.update_from_flattened_dict({name.replace('__', '.'): value
                                           for name, value in fields.items()})
    return config.lock()


def gone(*_):
    raise data.Missing('the disk is away')


def test_a_run_leaves_everything_behind(tiny, tmp_path, capsys, monkeypatch):
    experiment.run(tiny, tmp_path)
    assert [row['step'] for row in rows(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert 'test/error' in rows(tmp_path)[2]
    assert (tmp_path / 'figures' / 'curves.png').stat().st_size > 10_000
    assert list((tmp_path / 'tensorboard').iterdir())
    assert workdir.read_config(tmp_path).to_dict() == tiny.to_dict()
    start, = json.loads((tmp_path / 'environment.json').read_text())
    assert start['packages']['jax'] == jax.__version__
    said = capsys.readouterr().out
    assert f'test error: {100 * rows(tmp_path)[-1]["test/error"]:.2f} %' in said
    reported = json.loads((tmp_path / 'results.json').read_text())
    assert {f'test/{name}': reported[name] for name in ('error', 'loss', 'ece')}.items() <= (
        rows(tmp_path)[-1].items())
    with monkeypatch.context() as patch:  # a finished run is not evaluated again
        patch.setattr(evaluation, 'evaluate', None)
        experiment.run(tiny, tmp_path)
    (tmp_path / 'results.json').unlink()  # The report is missing, and so is the data.
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(dataset, 'source', gone)
        experiment.run(tiny, tmp_path)
    assert 'no report: the disk is away' in capsys.readouterr().out

    network = trained.load(tmp_path, 'latest')
    assert network.classes == tuple('0123456789')
    assert network.image_shape == (8, 8, 1)
    source = data.load('digits', 'test')
    images = np.stack([example['image'] for example in source.examples])
    labels = np.array([example['label'] for example in source.examples])
    error = (np.argmax(network(images), -1) != labels).mean()
    assert error == pytest.approx(rows(tmp_path)[-1]['test/error'])
    np.testing.assert_allclose(network(images / 255), network(images), atol=1e-5)
    assert list(network.taps(images))[0] == 'conv1'

    results = tmp_path / 'evaluation'
    from configs import evaluate as evaluate_config
    with pytest.raises(UserError, match='^stream=True: .* leave stream out$'):
        evaluate.run(changed(evaluate_config.get_config(), source=str(tmp_path), stream=True),
                     tmp_path / 'evaluation')
    evaluate.run(changed(evaluate_config.get_config(), source=str(tmp_path), checkpoint='latest'),
                 results)
    values = json.loads((results / 'results.json').read_text())
    assert values['count'] == 450
    assert values['error'] == pytest.approx(error)

    experiment.run(tiny, tmp_path)  # finished: says so and changes nothing
    assert 'this run is finished' in capsys.readouterr().out
    assert len(rows(tmp_path)) == 6

    longer = changed(tiny, steps=8)
    train.train(longer, tmp_path)  # It ends before its report.
    experiment.run(longer, tmp_path)
    reported = json.loads((tmp_path / 'results.json').read_text())
    assert (reported['steps'], reported['error']) == (8, rows(tmp_path)[-1]['test/error'])


# Everything random that there is: augmentation, dropout, drop-path.
RANDOM = {'classify': {'model__name': 'fractalnet20', 'model__widths': (4, 4), 'model__columns': 2,
                       'model__dropout': (0.1, 0.2), 'whiten': True, 'mixup': 0.5, 'cutmix': 1.0,
                       'auto_augment': 'randaugment', 'random_erasing': 0.5, 'repeats': 2},
          'multilabel': {'class_weights': (2.0,) * 11, 'color_jitter': 0.2,
                         'loss': 'cross_entropy+focal'},
          'segment': {'model__dropout': 0.2, 'loss': 'cross_entropy+dice', 'weight_map': 5.0,
                      'crop_size': 8, 'flip_vertical': True, 'scale': (0.8, 1.2), 'rotation': 20.0,
                      'elastic': 1.0, 'color_jitter': 0.2},
          'detect': {'crop_size': 24, 'flip_vertical': True, 'scale': (0.8, 1.2), 'rotation': 20.0,
                     'elastic': 1.0, 'color_jitter': 0.2}}


@pytest.mark.parametrize('stop', [2, 3, 5])  # a checkpoint, an evaluation, after a checkpoint
def test_resumed_equals_uninterrupted_bit_for_bit(each, tmp_path, monkeypatch, stop):
    config = changed(each, **RANDOM[each.task])
    train.train(config, tmp_path / 'whole')

    with monkeypatch.context() as patch:
        patch.setattr(reports.Metrics, 'write', kill.dying_after(stop))
        with pytest.raises(Killed):
            train.train(config, tmp_path / 'parts')
    train.train(config, tmp_path / 'parts')
    assert_same_run(tmp_path / 'parts', tmp_path / 'whole', 6)


def killed(*_, **__):
    raise Killed


def preempted(monkeypatch, config, directory, steps, **die):
    """Trains so many steps until a signal comes; dies in that method of Checkpoints, if given."""
    asked = iter([False] * (steps - 1) + [True])
    with monkeypatch.context() as patch:
        patch.setattr(cluster.Preemption, 'reached', lambda _: next(asked))
        for name, function in die.items():
            patch.setattr(checkpoint.Checkpoints, name, function)
        with pytest.raises((SystemExit, Killed)):
            train.train(config, directory)


def test_preempted_twice_and_killed_while_saving(each, tmp_path, monkeypatch):
    """The values since the last row belong to the checkpoint, not to the attempt to save one."""
    config = changed(each, report_every=5, eval_every=0.0, checkpoint_every=0.0)
    train.train(config, tmp_path / 'whole')
    preempted(monkeypatch, config, tmp_path / 'parts', 2)
    preempted(monkeypatch, config, tmp_path / 'parts', 2, save=killed)
    preempted(monkeypatch, config, tmp_path / 'parts', 1)
    train.train(config, tmp_path / 'parts')
    assert_same_run(tmp_path / 'parts', tmp_path / 'whole', 6)
    assert [row['step'] for row in rows(tmp_path / 'parts')] == [5, 6]


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """A config and the directory of its finished run."""
    config = conftest.tiny.__wrapped__()
    train.train(config, tmp_path_factory.mktemp('finished') / 'run')
    return config, tmp_path_factory.getbasetemp().glob('finished*/run').__next__()


@pytest.mark.parametrize('damage', [
    lambda text: text[:-3],  # the last row, which has the error that is reported
    lambda text: text[text.index('\n') + 1:],
    lambda text: text.replace('"step": 3', '"step": 7'),
    lambda text: text.replace('"step": 3', '"step": "x"'),
    lambda text: text.replace('"test/error": ', '"test/error": 1'),
    lambda text: '',
], ids=['cut', 'lost', 'moved', 'damaged', 'changed', 'empty'])
def test_lost_rows_come_back(finished, tmp_path, damage, capsys):
    config, directory = finished
    directory = shutil.copytree(directory, tmp_path / 'run')
    path = directory / 'metrics.jsonl'
    whole = path.read_text()
    path.write_text(damage(whole))
    assert train.train(config, directory) == json.loads(whole.splitlines()[-1])
    assert path.read_text() == whole
    assert re.search('metrics.jsonl: .* restored', capsys.readouterr().out)
    train.train(config, directory)
    assert 'restored' not in capsys.readouterr().out


@pytest.mark.parametrize('content', [None, '{"cut', '{"model": 5}', '[]'])
def test_a_lost_config_comes_back(finished, tmp_path, content):
    config, directory = finished
    directory = shutil.copytree(directory, tmp_path / 'run')
    (directory / 'config.json').unlink()
    if content:
        (directory / 'config.json').write_text(content)
    with pytest.raises(UserError, match='learning_rate: 0.05 there, 0.1 here'):
        train.train(changed(config, learning_rate=0.1), directory)
    assert trained.load(directory).config.to_dict() == config.to_dict()
    train.train(config, directory)
    assert json.loads((directory / 'config.json').read_text()) == json.loads(
        json.dumps(config.to_dict()))


def test_a_run_that_lost_its_checkpoints_begins_anew_with_a_word(finished, tmp_path, capsys):
    config, directory = finished
    directory = shutil.copytree(directory, tmp_path / 'run')
    shutil.rmtree(directory / 'checkpoints')
    with pytest.raises(UserError, match='learning_rate: 0.05 there, 0.1 here'):
        train.train(changed(config, learning_rate=0.1), directory)
    before = rows(directory)
    train.train(config, directory)
    assert 'no checkpoint' in capsys.readouterr().out
    assert rows(directory) == before


def test_many_steps_in_one_program(each, tmp_path):
    """The same training, stopped for every report and checkpoint, and resumed bit for bit."""
    single = changed(each, steps=12, report_every=5, eval_every=6.0, checkpoint_every=0.0)
    train.train(single, tmp_path / 'single')
    many = changed(single, steps_per_call=4, profile=1)
    train.train(changed(many, steps=6), tmp_path / 'parts')
    train.train(many, tmp_path / 'parts')
    train.train(many, tmp_path / 'whole')
    assert_same_run(tmp_path / 'parts', tmp_path / 'whole', 12)
    assert list((tmp_path / 'whole' / 'profile').rglob('*.pb'))
    for one, row in zip(rows(tmp_path / 'single'), rows(tmp_path / 'whole'), strict=True):
        assert row['step'] == one['step']
        assert row['train/loss'] == pytest.approx(one['train/loss'], rel=1e-3)


def test_another_config_is_refused_and_reporting_is_not(tiny, tmp_path):
    train.train(tiny, tmp_path)
    with pytest.raises(UserError, match=r'(?s)another config.*learning_rate: 0.05 there, 0.1 here'):
        train.train(changed(tiny, learning_rate=0.1), tmp_path)
    assert workdir.read_config(tmp_path).to_dict() == tiny.to_dict()  # and nothing was touched
    train.train(changed(tiny, report_every=3, keep=5), tmp_path)


def test_a_run_that_is_older_than_a_field_goes_on(finished, tmp_path):
    """As it was trained: with another value of the field it is refused."""
    config, directory = finished
    directory = shutil.copytree(directory, tmp_path / 'run')
    for path in directory.glob('checkpoints/*/past.json'):
        path.unlink()
        seals = path.with_name(checkpoint.SEAL)
        atomic.write_json(seals, checkpoint._checksums(path.parent))
    values = json.loads((directory / 'config.json').read_text())
    for field in workdir.YOUNGER:
        del values[field]
    atomic.write_json(directory / 'config.json', values)
    with pytest.raises(UserError, match=r"interpolation: 'bilinear' there, 'box' here\nTake"):
        train.train(changed(config, interpolation='box'), directory)
    train.train(config, directory)
    assert workdir.read_config(directory).interpolation == 'bilinear'


def test_more_steps_continue_where_the_schedule_allows_it(tiny, tmp_path):
    train.train(tiny, tmp_path / 'parts')
    longer = changed(tiny, steps=9)
    train.train(longer, tmp_path / 'parts')
    train.train(longer, tmp_path / 'whole')
    assert_same_run(tmp_path / 'parts', tmp_path / 'whole', 9)
    with pytest.raises(UserError, match='steps: 9 there, 3 here'):
        train.train(changed(tiny, steps=3), tmp_path / 'parts')

    cosine = changed(tiny, schedule='cosine')
    train.train(cosine, tmp_path / 'cosine')
    with pytest.raises(UserError, match='the learning rates of the steps done would differ'):
        train.train(changed(cosine, steps=9), tmp_path / 'cosine')


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(each, tmp_path):
    config = changed(each, drops=(6,), drop_factor=1e30)
    train.train(config, tmp_path)
    with pytest.raises(UserError, match=r'step [78]: .*(nan|inf).*Lower learning_rate.*'
                                        r'checkpoint 6 in .* is intact'):
        train.train(changed(config, steps=12), tmp_path)
    assert [row['step'] for row in rows(tmp_path)][:6] == [1, 2, 3, 4, 5, 6]
    assert len(rows(tmp_path)) < 12
    network = trained.load(tmp_path, 'latest')
    outputs = network(np.zeros((1, *network.image_shape)))
    assert all(np.isfinite(values).all() for values in jax.tree.leaves(outputs))


def test_the_best_checkpoint_is_kept_beside_the_newest(each, tmp_path):
    train.train(changed(each, steps=12, keep=1, eval_every=2.0), tmp_path)
    errors = {row['step']: row['test/error'] for row in rows(tmp_path) if 'test/error' in row}
    with checkpoint.Checkpoints(tmp_path / 'checkpoints', read_only=True) as checkpoints:
        best = checkpoints.resolve('best')
        assert errors[best] == min(errors.values())
        assert checkpoints.resolve('latest') == checkpoints.resolve('12') == 12
        with pytest.raises(UserError, match="no checkpoint 'lates'"):
            checkpoints.resolve('lates')
    with pytest.raises(UserError, match="there is no '.*nowhere'"):
        trained.load(tmp_path / 'nowhere')


def test_it_learns(tiny, tmp_path):
    """32 images by heart, without anything random."""
    config = changed(tiny, padding=0, steps=100, eval_every=0.0, checkpoint_every=0.0,
                     model__widths=(8, 8, 8))
    source = data.load('digits', 'train')
    few = data.Source(source.examples[:32], source.classes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, 'load', lambda *_, **__: few)
        last = train.train(config, tmp_path)
    assert last['train/error'] == 0
    assert last['train/loss'] < 0.1


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    """A folder of two classes, cut from two photographs of scikit-image."""
    root = tmp_path_factory.mktemp('photos with spaces')
    random = np.random.default_rng(0)
    for name in ('coffee', 'chelsea'):
        photo = getattr(skimage.data, name)()
        for split, count in (('train', 12), ('test', 5)):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                height, width = random.integers(40, 90, 2)
                y, x = (random.integers(0, n - m) for n, m in
                        zip(photo.shape, (height, width), strict=False))
                Image.fromarray(photo[y:y + height, x:x + width]).save(
                    root / split / name / f'{i}.jpg')
    return root


@pytest.mark.parametrize('stream', [False, True])
def test_a_folder_of_photographs(tiny, photos, tmp_path, stream):
    """Resident or streamed; resumed bit for bit, evaluated on every picture."""
    config = changed(tiny, dataset='folder', data_dir=str(photos), stream=stream, batch_size=8,
                     image_size=24, shorter_side=(24, 32), mean='0.5', std='0.25', flip=True,
                     crop_size=20, rotation=20.0)
    train.train(config, tmp_path / 'whole')
    train.train(changed(config, steps=3), tmp_path / 'parts')
    train.train(config, tmp_path / 'parts')
    assert_same_run(tmp_path / 'parts', tmp_path / 'whole', 6)
    network = trained.load(tmp_path / 'whole', 'latest')
    assert network.classes == ('chelsea', 'coffee')
    files = data.load('folder', 'test', photos).examples
    crops = data.Crops(24)
    logits = network(np.stack([crops.center(example)['image'] for example in files]))
    error = (np.argmax(logits, -1) != np.array([example['label'] for example in files])).mean()
    assert rows(tmp_path / 'whole')[-1]['test/error'] == pytest.approx(error)

    (photos / 'train' / 'coffee' / 'broken.png').write_bytes(b'not a picture')
    try:
        remedy = '' if stream else '.*Mend or remove it; --config.bad_images=skip leaves such pic'
        with pytest.raises(UserError, match=f'broken.png is not a readable image: {remedy}'):
            train.train(config, tmp_path / 'broken')
        train.train(changed(config, bad_images='skip', steps=1), tmp_path / 'broken')
    finally:
        (photos / 'train' / 'coffee' / 'broken.png').unlink()


class Flat(nn.Module):
    """A full layer, which takes images of one size."""

    @nn.compact
    def __call__(self, images, train=False):
        return nn.Dense(10)(images.reshape(len(images), -1)), {}


def test_a_training_on_crops_is_evaluated_on_whole_images(tiny, tmp_path):
    config = changed(tiny, crop_size=6, rotation=20.0, elastic=0.5)
    assert 'test/error' in train.train(config, tmp_path)
    assert trained.load(tmp_path, 'latest').image_shape == (8, 8, 1)

    shapes = {'image': jax.ShapeDtypeStruct((1, 8, 8, 1), np.uint8),
              'label': jax.ShapeDtypeStruct((1,), np.int32)}
    made = train.build(config, range(10), shapes, data.Normalization(*np.ones((2, 1), np.float32)),
                       100)
    assert made.shapes['image'].shape == (1, 6, 6, 1)
    made.check_evaluation(shapes)
    made = made._replace(net=Flat())
    made.check_evaluation(made.shapes)
    with pytest.raises(UserError, match='test images have 8 x 8 pixels, which the network, trained '
                                        'on 6 x 6, cannot take'):
        made.check_evaluation(shapes)


def test_a_resident_set_must_fit_in_memory(tiny, monkeypatch):
    monkeypatch.setattr(memory, 'HOST', 1000)
    with pytest.raises(UserError, match='stream=True'):
        dataset.prepare(tiny, dataset.source(tiny, 'train'))


@pytest.mark.parametrize(('recipe', 'kills'), [('quickstart.py', 3), ('segment.py:coins', 2),
                                               ('detect.py:scenes', 1)])
def test_killed_at_random_moments_nothing_is_lost(tmp_path, recipe, kills):
    """Anywhere: start-up, compilation, steps, evaluation, saving."""
    kill.check(tmp_path, kills, recipe)


def test_training_and_evaluation_under_strict_promotion_of_types_and_ranks(each, tmp_path):
    with (jax.enable_x64(True), jax.numpy_dtype_promotion('strict'),
          jax.numpy_rank_promotion('raise')):
        row = train.train(changed(each, **RANDOM[each.task]), tmp_path)
    assert row['step'] == 6
    assert np.isfinite(row['train/loss'])


def test_data_of_your_own(tiny, tmp_path, monkeypatch):
    """Numpy arrays are trained on, resumed, refused where they changed, and evaluated."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 80)
    images = np.uint8(rng.integers(0, 100, (80, 8, 8, 3)) + 100 * labels[:, None, None, None])
    sources = {'train': data.from_arrays(images[:60], ('dark', 'bright'), label=labels[:60]),
               'test': data.from_arrays(images[60:], ('dark', 'bright'), label=labels[60:])}
    last = train.train(changed(tiny, steps=3), tmp_path / 'run', sources)
    last = train.train(tiny, tmp_path / 'run', sources)
    train.train(tiny, tmp_path / 'whole', sources)
    assert_same_run(tmp_path / 'run', tmp_path / 'whole', 6)

    network = trained.load(tmp_path / 'run', 'latest')
    assert network.classes == ('dark', 'bright')
    results = evaluation.evaluate(network, sources['test'])
    assert results['count'] == 20
    assert results['error'] == pytest.approx(last['test/error'])

    for given, message in (
            ({}, "no data.Source for 'train'"),
            ({**sources, 'test': (images, labels)}, "no data.Source for 'test'"),
            ({**sources, 'test': data.Source([], ('dark', 'bright'))}, "'test' has no examples"),
            ({**sources, 'test': data.Source([(images[0], 1)], ('dark', 'bright'))}, 'is no dict'),
            ({**sources, 'test': data.from_arrays(images[..., :1], ('dark', 'bright'),
                                                  label=labels)}, 'one number of channels'),
            ({**sources, 'test': data.Source([{'image': images[0], 'label': [1]}],
                                             ('dark', 'bright'))}, 'give a number'),
            ({**sources, 'train': data.Source(
                [{'image': images[0], 'label': 1}, {'image': images[1] / 255, 'label': 1}],
                ('dark', 'bright'))}, 'the example at position 1 has another image')):
        with pytest.raises(UserError, match=message):
            train.train(changed(tiny, batch_size=2), tmp_path / 'refused', given)
    assert not (tmp_path / 'refused' / 'config.json').exists()

    images[0] += 1
    with pytest.raises(UserError, match='not the data that its run was trained on'):
        train.train(tiny, tmp_path / 'run', sources)
    with pytest.raises(UserError, match="no data.Source for 'test'"):
        train.train(tiny, tmp_path / 'other', {'train': sources['train']})
    with pytest.raises(UserError, match='the data was given in Python'):
        data.load(network.config.dataset, 'test')
    masks = np.zeros((80, 8, 8), int)
    for array, targets, message in (
            (images / 255, {'label': labels}, 'images are uint8'),
            (images[:0], {'label': labels[:0]}, 'images are uint8'),
            (images, {'label': labels[:3]}, r'label has the shape \[3\]: .* it must be \[80\]'),
            (images, {'label': labels[:, None]}, r'the shape \[80, 1\]: .* must be \[80\]'),
            (images, {'labels': labels}, "the class of a whole image is its 'label'"),
            (images, {'lable': labels}, "'label', 'tags', a 'mask', or 'boxes' .*, not 'lable'"),
            (images, {'mask': masks + 300}, 'the masks have numbers from 300 to 300'),
            (images, {'label': labels / 2}, 'classes are whole numbers')):
        with pytest.raises(UserError, match=message):
            data.from_arrays(array, ('dark', 'bright'), **targets)
    assert data.from_arrays(images, 'ab', mask=masks).examples[0]['mask'].dtype == np.uint8
