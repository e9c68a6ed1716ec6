"""Sequences and volumes: what a training of them learns, and what is done with its network."""

import csv
import json

import numpy as np
import pytest

from cnnjax import data, models, predict_classes, summary, train, trained
from cnnjax.data import clips, digit_outlines, digits, ranks
from cnnjax.errors import UserError
from configs import base
from configs import dream as dream_recipe
from configs import evaluate as evaluate_recipe
from configs import export as export_recipe
from configs import features as features_recipe
from configs import finetune as finetune_recipe
from configs import predict as predict_recipe
from experiments import dream, features
from experiments import evaluate as evaluate_experiment
from experiments import export as export_experiment
from experiments import train as experiment
from experiments.predict import predict as predict_experiment

SHAPES = {'sequence': (64, 2), 'volume': (5, 16, 16, 1)}


@pytest.fixture(scope='module', params=SHAPES)
def run(request, tmp_path_factory):
    """(what an example is called, the directory of a run on such examples, its test set)"""
    patch, directory = pytest.MonkeyPatch(), tmp_path_factory.mktemp(request.param)
    patch.setattr(clips, 'EXAMPLES', {'train': 64, 'test': 20})
    few = {split: digits.load(split) for split in ('train', 'test')}
    patch.setattr(digit_outlines.digits, 'load', lambda split: few[split]._replace(
        examples=few[split].examples[:clips.EXAMPLES[split]]))
    experiment.run(config(request.param), directory)
    yield request.param, directory, data.load(config(request.param).dataset, 'test')
    patch.undo()


def config(kind, **fields):
    """The config of a tiny training, on one device."""
    found = base.get_config()
    found.dataset = {'sequence': 'digit_outlines', 'volume': 'clips'}[kind]
    found.model.name, found.model.width = 'convnet', 12
    found.update({'steps': 24, 'batch_size': 16, 'eval_batch_size': 8,
                  'learning_rate': {'sequence': 0.05, 'volume': 0.003}[kind], 'report_every': 1,
                  'eval_every': 24.0, 'checkpoint_every': 0.0, 'devices': 1, 'padding': 1,
                  'padding_mode': 'edge', **fields})
    return found


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_training_learns_and_its_predictions_are_those_of_its_evaluation(run):
    kind, directory, source = run
    losses = [json.loads(line)['train/loss'] for line in
              (directory / 'metrics.jsonl').read_text().splitlines()]
    assert len(losses) == 24
    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])
    network = trained.load(directory)
    assert network.image_shape == SHAPES[kind]
    results = json.loads((directory / 'results.json').read_text())
    found = rows(directory / 'predictions.csv')
    assert len(found) == results['count'] == 20
    assert [row['truth'] for row in found] == [
        source.classes[example['label']] for example in source.examples]
    wrong = np.mean([row['truth'] != row['prediction'] for row in found])
    assert wrong == pytest.approx(results['error'])
    again = network.predict([example['image'] for example in source.examples])
    assert [one.classes[0] for one in again] == [row['prediction'] for row in found]
    np.testing.assert_allclose([one.probabilities[0] for one in again],
                               [float(row['probability']) for row in found], atol=1e-5)


def test_it_is_evaluated_exported_and_fine_tuned(run, tmp_path, capsys):
    kind, directory, _ = run
    error = json.loads((directory / 'results.json').read_text())['error']
    export = export_recipe.get_config()
    export.update({'source': str(directory), 'dtype': {'sequence': 'float32'}.get(kind, 'uint8')})
    export_experiment.run(export, tmp_path)
    assert 'on the first of' in capsys.readouterr().out  # of the run, not on noise
    evaluation = evaluate_recipe.get_config()
    evaluation.update({'source': str(directory), 'test_flip': True})  # would turn time around
    with pytest.raises(UserError, match=f'one crop and its mirror image needs .* {kind}s'):
        evaluate_experiment.run(evaluation, tmp_path / 'evaluation')
    evaluation.test_flip = None
    for source in (directory, tmp_path / 'network.safetensors'):
        dataset = None if source == directory else config(kind).dataset
        evaluation.update({'source': str(source), 'dataset': dataset, 'devices': 1})
        evaluate_experiment.run(evaluation, tmp_path / 'evaluation')
        assert json.loads((tmp_path / 'evaluation' / 'results.json').read_text())[
            'error'] == pytest.approx(error)
    tuning = finetune_recipe.get_config()
    tuning.update({'init_from': str(directory), 'dataset': config(kind).dataset, 'steps': 1,
                   'flip': kind == 'volume', 'batch_size': 16, 'devices': 1})
    train.train(tuning, tmp_path / 'tuned')
    assert trained.load(tmp_path / 'tuned').image_shape == SHAPES[kind]


def test_examples_in_an_npz_file_are_predicted(run, tmp_path, capsys):
    kind, directory, source = run
    images = np.stack([source.examples[i]['image'] for i in range(5)])
    expected = rows(directory / 'predictions.csv')[:5]
    np.savez(tmp_path / 'new.npz', x=images.astype('float64') if kind == 'sequence' else images)
    recipe = predict_recipe.get_config()
    recipe.update({'source': str(directory), 'pictures': str(tmp_path / 'new.npz')})
    predict_experiment.run(recipe, tmp_path / 'found')
    found = rows(tmp_path / 'found' / 'predictions.csv')
    assert [row['prediction'] for row in found] == [row['prediction'] for row in expected]
    assert [row['file'] for row in found] == [f'{tmp_path}/new.npz/{i}' for i in range(5)]
    page = (tmp_path / 'found' / 'predictions.html').read_text()
    for i in range(5):
        assert f'thumbnails/{i}.jpg' in page
        assert (tmp_path / 'found' / 'thumbnails' / f'{i}.jpg').is_file()
    assert 'file://' not in page  # There is no picture to open.


def test_what_the_network_does_not_take_is_refused(run, tmp_path):
    kind, directory, source = run
    recipe = predict_recipe.get_config()
    recipe.update({'source': str(directory), 'pictures': 'docs/style.png'})
    trained_on = f'convnet was trained on {kind}s'
    with pytest.raises(UserError, match=f"'docs/style.png': {trained_on} .*: give an .npz file"):
        predict_experiment.run(recipe, tmp_path)
    images = source.examples[0]['image'][None]
    for arrays, message in (({'a': images, 'b': images}, 'has the arrays a, b: rename that of'),
                            ({'x': images[:, 1:]}, f'has {kind}s .*, and {trained_on}'),
                            ({'x': images.astype('complex64')}, 'not complex64')):
        np.savez(tmp_path / 'new.npz', **arrays)
        recipe.pictures = str(tmp_path / 'new.npz')
        with pytest.raises(UserError, match=message):
            predict_experiment.run(recipe, tmp_path)
    for each, recipe in ((dream, dream_recipe), (features, features_recipe)):
        looking = recipe.get_config()
        looking.source = str(directory)
        with pytest.raises(UserError, match=f'needs a network of images .*, and {trained_on}'):
            each.run(looking, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['new.npz']  # Nothing was written.
    network, errors = trained.load(directory), {}
    with pytest.raises(UserError, match=f'one crop and its mirror image needs .* {kind}s'):
        network._replace(evaluation=network.evaluation | {'test_flip': True}).predict(images)
    if kind == 'sequence':  # One that cannot be seen does not change the others.
        images = np.stack([np.full_like(images[0], np.nan), images[0]])
        found = predict_classes.classes(network, list(images), unreadable=errors)
        assert found[0] is None
        assert 'not finite' in str(errors[0])
        assert found[1] == network.predict(images[1:])[0]


@pytest.mark.parametrize(('shape', 'fields', 'message'), [
    ((9, 2), {'task': 'segment'}, r"task='segment' needs images .* sequences \[9, 2\]: take"),
    ((9, 2), {'flip': True}, 'flip=True, and .* sequences .* it would turn time around; leave it'),
    ((9, 2), {'rotation': 10.0}, 'rotation=10.0, .* no meaning for a sequence; leave it out'),
    ((3, 9, 9, 1), {'cutmix': 0.5}, r'cutmix=0.5, .* volumes \[3, 9, 9, 1\]: it has no meaning'),
    ((3, 9, 9, 1), {'scale': (0.5, 1.0)}, r'scale=\(0.5, 1.0\), and'),
    ((3, 9, 9, 1), {'stream': True}, 'stream=True, .* no meaning for a volume; leave it out')])
def test_fields_of_images_alone_are_refused(shape, fields, message):
    found = config('volume', **fields)
    with pytest.raises(UserError, match=message):
        ranks.check(found, shape)
    ranks.check(found, (9, 9, 3))


def test_the_usual_fields_fit_all():
    usual = base.get_config()
    for shape in ((9, 2), (9, 9, 3), (3, 9, 9, 1)):
        ranks.check(usual, shape)
        ranks.check(usual.to_dict(), shape)  # as a run's config.json has them
    ranks.check(config('volume', flip=True, flip_vertical=True), (3, 9, 9, 1))
    assert [ranks.name(shape) for shape in ((9, 2), (9, 9, 3), (3, 9, 9, 1), (9,))] == [
        'sequence', 'image', 'volume', 'example']
    assert ranks.axes((3, 9, 9, 1)) == 'N, D, H, W, 1'


@pytest.mark.parametrize(('name', 'fields', 'reason'), [
    ('fmp6_32', {'canvas': 400, 'width': 2}, 'needs images'), ('lenet5_1998', {}, 'needs images'),
    ('inception_v3', {'auxiliary_weight': 0.0}, 'has a kernel of [17] x [17] and cannot take')])
def test_a_network_of_images_alone_is_refused(name, fields, reason, tmp_path):
    """It would fail in the middle, or take the batch for an axis of an image."""
    found = config('sequence')
    with found.unlocked():
        found.model.update({'width': None, 'name': name} | fields)
    given = data.from_arrays(np.zeros((20, 320, 2)), '01', label=np.arange(20) % 2)
    with pytest.raises(UserError, match=rf'{name} does not take sequences \[320, 2\]: .*{reason}'):
        train.train(found, tmp_path, {'train': given, 'test': given})
    assert not any(tmp_path.iterdir())
    net = models.create(name, **fields)
    with pytest.raises((UserError, ValueError), match=reason):
        summary.summarize(net, (320, 2))


def test_only_images_have_masks_and_boxes():
    with pytest.raises(UserError, match="sequences have a 'label' or 'tags', not 'mask'"):
        data.from_arrays(np.zeros((2, 9, 3)), 'ab', mask=np.zeros((2, 9, 3), np.uint8))


@pytest.mark.parametrize(('dtype', 'axes'), [
    ('uint8', {3, 4}), ('float32', {2, 4}), ('float64', {2, 4}), ('int32', set()), ('bool', set())])
def test_what_an_example_is(dtype, axes):
    assert {n for n in range(7) if ranks.is_example(np.dtype(dtype), n)} == axes
    assert not ranks.is_example(None, 2)
