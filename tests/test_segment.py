"""Segmentation: golden values, and a U-Net trained on a folder of masks."""

import csv
import importlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics

import experiments
from cnnjax import data, evaluate, predict, tasks, train, trained, weights
from cnnjax.data import geometry
from cnnjax.errors import UserError
from cnnjax.images import pictures
from cnnjax.tasks.task import WholeBatch
from configs import base
from experiments import evaluate as experiment
from experiments import train as train_experiment
from tests.kill import rows
from tests.test_losses import MAPS, MASKS

LABELS = np.uint8(MASKS)
IGNORED = LABELS.copy()
IGNORED[0, 1, 0] = geometry.IGNORE
TASK = tasks.create('segment', None)
CLASSES = ('background', 'round', 'square')


def evaluated(logits, mask, classes=CLASSES):
    """The results of an evaluation in which a network finds these logits."""
    sums, kept = TASK.observe(lambda images: (jnp.asarray(logits), {}),
                              {'image': None, 'mask': mask})
    return TASK.results({name: np.float64(values).sum(0) for name, values in sums.items()}, kept,
                        len(mask), classes)


@pytest.mark.parametrize(('mask', 'expected'), [(LABELS, 0.600580), (IGNORED, 0.662114)])
def test_golden_losses(mask, expected):
    assert evaluated(MAPS, mask)['loss'] == pytest.approx(expected, abs=1e-6)
    value, (metrics, batch_stats) = TASK.loss(
        lambda images: (jnp.asarray(MAPS), {}, 'statistics'), {'image': None, 'mask': mask},
        WholeBatch())
    assert float(value) == float(metrics['loss']) == pytest.approx(expected, abs=1e-6)
    assert batch_stats == 'statistics'
    right = (MAPS.argmax(-1) == mask)[mask != geometry.IGNORE].mean()
    assert float(metrics['pixel_accuracy']) == pytest.approx(right)


def test_the_losses_of_auxiliary_heads_are_added_and_not_reported():
    class Net:
        auxiliary = {'head': 0.25}

    task = tasks.create('segment', Net())
    value, (metrics, _) = task.loss(lambda images: (jnp.asarray(MAPS), {'head': -MAPS}, {}),
                                    {'image': None, 'mask': IGNORED}, WholeBatch())
    assert float(metrics['loss']) == pytest.approx(0.662114, abs=1e-6)
    head = evaluated(-MAPS, IGNORED)['loss']
    assert float(value) == pytest.approx(0.662114 + 0.25 * head, abs=1e-6)


def test_golden_results():
    found = evaluated(MAPS, LABELS)
    np.testing.assert_array_equal(found['confusion'], [[3, 0, 0], [1, 2, 1], [0, 0, 1]])
    assert found['confusion'].dtype == np.int64
    expected = {'iou/background': 3 / 4, 'iou/round': 2 / 4, 'iou/square': 1 / 2,
                'dice/background': 6 / 7, 'dice/round': 4 / 6, 'dice/square': 2 / 3,
                'mean_iou': 7 / 12, 'error': 5 / 12, 'mean_dice': (6 / 7 + 4 / 3) / 3,
                'pixel_accuracy': 6 / 8, 'mean_accuracy': (1 + 2 / 4 + 1) / 3,
                'frequency_weighted_iou': (3 * 3 / 4 + 4 * 2 / 4 + 1 / 2) / 8, 'absent': 0}
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    np.testing.assert_allclose(found['image_iou'], [1, (1 / 2 + 1 / 3 + 0) / 3], rtol=1e-6)
    assert found.keys() == expected.keys() | {'loss', 'confusion', 'image_iou'}


def test_a_class_that_is_nowhere_is_absent():
    """It has no iou and is in no mean. One that is only found, or only missed, has the iou 0."""
    logits = np.concatenate([MAPS, np.full((2, 2, 2, 2), -9.0, np.float32)], -1)
    found = evaluated(logits, LABELS, (*CLASSES, 'missed', 'absent'))
    assert found['absent'] == 2
    assert found['mean_iou'] == pytest.approx(7 / 12)
    assert not {'iou/missed', 'iou/absent', 'dice/absent'} & found.keys()
    mask = LABELS.copy()
    mask[mask == 2] = 3
    found = evaluated(logits, mask, (*CLASSES, 'missed', 'absent'))
    assert found['absent'] == 1
    assert found['iou/square'] == found['iou/missed'] == 0
    assert found['mean_iou'] == pytest.approx((3 / 4 + 2 / 4) / 4)
    assert found['mean_accuracy'] == pytest.approx((1 + 2 / 4 + 0) / 3)
    with pytest.raises(UserError, match='no pixel of the masks counts: all are 255'):
        evaluated(MAPS, np.full_like(LABELS, geometry.IGNORE))


@pytest.mark.parametrize('seed', [None, 0, 1])
def test_results_equal_those_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    mask = IGNORED if seed is None else rng.integers(0, 6, (5, 7, 9)).astype(np.uint8)
    logits = MAPS if seed is None else rng.normal(size=(5, 7, 9, 5)).astype(np.float32)
    classes = logits.shape[-1]
    mask[mask == classes] = geometry.IGNORE
    names = tuple(map(str, range(classes)))
    found = evaluated(logits, mask, names)
    truth, guess = (each[mask != geometry.IGNORE] for each in (mask, logits.argmax(-1)))
    np.testing.assert_array_equal(found['confusion'], metrics.confusion_matrix(truth, guess))
    for name, score in (('iou', metrics.jaccard_score), ('dice', metrics.f1_score)):
        expected = score(truth, guess, average=None)
        assert [found[f'{name}/{i}'] for i in names] == pytest.approx(expected)
        assert found[f'mean_{name}'] == pytest.approx(expected.mean())
    assert found['pixel_accuracy'] == pytest.approx(metrics.accuracy_score(truth, guess))
    assert found['mean_accuracy'] == pytest.approx(metrics.recall_score(
        truth, guess, labels=np.unique(truth), average='macro'))
    assert found['frequency_weighted_iou'] == pytest.approx(
        metrics.jaccard_score(truth, guess, average='weighted'))


def test_counts_of_a_large_set_are_exact():
    """The host adds up what the devices count in a batch; float64 holds up to 2^53."""
    matrix = np.float64([[2 ** 52, 1], [3, 2 ** 51 + 1]])
    found = TASK.results({'confusion': matrix, 'pixels': matrix.sum(), 'loss': 0.0}, {}, 1, 'ab')
    assert found['confusion'].tolist() == [[2 ** 52, 1], [3, 2 ** 51 + 1]]


def test_valid_convolutions_are_judged_at_their_middle_pixels():
    mask = np.full((2, 6, 4), geometry.IGNORE, np.uint8)
    mask[:, 2:4, 1:3] = LABELS
    assert evaluated(MAPS, mask)['confusion'].sum() == 8
    shapes = {'mask': jax.ShapeDtypeStruct((1, 6, 4), np.uint8)}
    TASK.check(jax.ShapeDtypeStruct((1, 2, 2, 3), np.float32), shapes, CLASSES)
    for outputs, message in (((1, 3, 2, 3), 'not the middle of a mask of 6 x 4'),
                             ((1, 8, 4, 3), 'not the middle'), ((1, 3), 'no maps of scores'),
                             ((1, 2, 2, 4), '4 outputs for 3 classes')):
        with pytest.raises(UserError, match=message):
            TASK.check(jax.ShapeDtypeStruct(outputs, np.float32), shapes, CLASSES)


@pytest.fixture
def config(segmenting):
    with segmenting.unlocked():
        segmenting.devices = 2
    return segmenting


def test_a_unet_is_trained_loaded_and_evaluated(config, scenes, tmp_path, capsys, monkeypatch):
    train_experiment.run(config, tmp_path / 'whole')
    said = capsys.readouterr().out
    assert 'images with masks of 3 classes' in said
    last = rows(tmp_path / 'whole')[-1]
    assert f'test error: {100 * last["test/error"]:.2f} %' in said
    assert {'train/loss', 'train/pixel_accuracy', 'test/loss', 'test/error', 'test/mean_iou',
            'test/pixel_accuracy', 'test/iou/background', 'test/absent'} <= last.keys()
    assert 'test/confusion' not in last
    drawn = {path.name for path in (tmp_path / 'whole' / 'figures').iterdir()}
    assert drawn == {f'{name}.png' for name in ('curves', 'first_batch', 'predictions', 'worst',
                                                'confusion')}
    with monkeypatch.context() as patch:  # a finished run is not evaluated and drawn again
        patch.setattr(evaluate, 'evaluate', None)
        train_experiment.run(config, tmp_path / 'whole')

    network = trained.load(tmp_path / 'whole', 'latest')
    assert network.task == 'segment'
    source = data.load('folder', 'test', str(scenes), target='mask')
    found = np.asarray(network(np.stack([e['image'] for e in source.examples]))).argmax(-1)
    truth = np.stack([e['mask'] for e in source.examples])
    matrix = np.zeros((3, 3))
    np.add.at(matrix, (truth[truth != geometry.IGNORE], found[truth != geometry.IGNORE]), 1)
    assert matrix.sum() == 10 * 16 * 15
    right = matrix.diagonal()
    iou = right / np.where(union := matrix.sum(0) + matrix.sum(1) - right, union, 1)
    assert last['test/mean_iou'] == pytest.approx(iou[union > 0].mean())
    assert last['test/error'] == pytest.approx(1 - iou[union > 0].mean())
    results = evaluate.evaluate(network, source, batch_size=3)
    assert results['count'] == 10
    assert results['error'] == pytest.approx(last['test/error'])
    np.testing.assert_array_equal(results['confusion'], matrix)

    weights.save(network, tmp_path / 'weights.safetensors')  # Files know their task, too.
    again = trained.load(tmp_path / 'weights.safetensors')
    assert again.task == 'segment'
    results = evaluate.evaluate(again, data.Resident(source, data.Crops()))
    assert results['error'] == pytest.approx(last['test/error'])
    with pytest.raises(UserError, match='these weights are no run'):
        evaluate.evaluate(again, source)
    labelled = data.from_arrays(np.zeros((2, 16, 16, 3), np.uint8), CLASSES, label=[0, 1])
    for call in (lambda: evaluate.evaluate(network, labelled),
                 lambda: train.train(config, tmp_path / 'other', {'train': labelled,
                                                                  'test': labelled})):
        with pytest.raises(UserError, match='task=segment learns from a mask for each image, and '
                                            'the examples have only image, label'):
            call()

    from configs import evaluate as evaluate_config
    asked = evaluate_config.get_config()
    asked.update(source=str(tmp_path / 'whole'), checkpoint='latest')
    experiment.run(asked, tmp_path / 'evaluation')
    values = json.loads((tmp_path / 'evaluation' / 'results.json').read_text())
    assert values['mean_iou'] == pytest.approx(last['test/mean_iou'])
    assert 'confusion' not in values  # only numbers
    for run in ('whole', 'evaluation'):  # both of the last checkpoint
        with open(tmp_path / run / 'confusion.csv') as file:
            header, *lines = csv.reader(file)
        assert header[1:] == [line[0] for line in lines] == list(CLASSES)
        np.testing.assert_array_equal(np.float64([line[1:] for line in lines]), matrix)


def test_a_unet_learns_shapes(config, tmp_path):
    config = config.copy_and_resolve_references()
    config.update(steps=120, schedule='cosine', learning_rate=0.1, report_every=60, eval_every=0.0,
                  checkpoint_every=0.0, devices=1, eval_batch_size=10)
    last = train.train(config, tmp_path)
    assert last['test/pixel_accuracy'] > 0.95
    assert last['test/iou/background'] > 0.95


@pytest.mark.parametrize(('fields', 'message'), [
    ({'model.name': 'resnet20', 'model.dropout': None},
     "the network has one score per class, .3., no maps of scores"),
    ({'task': 'segmentation'}, 'one of classify, multilabel, segment, detect, stylize, not '
                               "'segmentation'; did you mean segment"),
    ({'task': 'classify'}, 'To learn the masks, set config.task=segment'),
    ({'task': 'classify', 'dataset': 'digits', 'data_dir': None},
     r'maps of scores \[8, 8, 10\], not one score per class'),
    ({'class_weights': (1.0, 2.0)}, 'class_weights has 2 numbers for 3 classes'),
    ({'model.widths': (4, 8, 8, 8, 8, 8)}, 'U-Net cannot take images of 16 x 16 pixels'),
    ({'model.name': 'unet', 'crop_size': 18}, 'the test images have 16 x 16 pixels, which the '
     'network, trained on 18 x 18, cannot take: .* nearest that work: heights 18,')])
def test_what_does_not_fit_is_said_before_anything_is_written(config, fields, message, tmp_path):
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.update_from_flattened_dict(fields)
        if 'model.dropout' in fields:
            config.model.update(widths=(4, 4, 4))
    with pytest.raises(UserError, match=message):
        train.train(config, tmp_path / 'run')
    assert not (tmp_path / 'run' / 'config.json').exists()


def test_a_mirrored_border_lets_valid_convolutions_see_every_pixel(config, tmp_path):
    """The paper's overlap-tile strategy: the middle that has scores is the picture."""
    config = config.copy_and_resolve_references()
    config.update(image_size=32, border=8, border_mode='reflect', crop_size=20, rotation=10.0,
                  elastic=1.0, scale=(0.9, 1.1), flip_vertical=True, steps=2, learning_rate=0.001)
    config.model.name = 'unet'
    assert np.isfinite(train.train(config, tmp_path)['test/loss'])
    network = trained.load(tmp_path)
    assert network.image_shape == (32, 32, 3)
    assert network(np.zeros((1, 32, 32, 3), np.uint8)).shape == (1, 16, 16, 3)
    weights.save(network, tmp_path / 'weights.safetensors')
    again = trained.load(tmp_path / 'weights.safetensors')
    assert again.evaluation == network.evaluation
    assert (again.evaluation['border'], again.evaluation['border_mode']) == (8, 'reflect')
    for each in (network, again):  # new pictures are scaled as those of the training
        assert predict.scaled_shape(each, (40, 50)) == (round(40 * 32 / 56), round(50 * 32 / 56))


@pytest.fixture(scope='module')
def trained_run(scenes, tmp_path_factory):
    config = base.get_config()
    config.update({'task': 'segment', 'dataset': 'folder', 'data_dir': str(scenes), 'steps': 1,
                   'batch_size': 8, 'devices': 1, 'eval_batch_size': 10})
    config.model.update({'name': 'unet_padded', 'widths': (4, 8, 8), 'dropout': 0.0})
    directory = tmp_path_factory.mktemp('run')
    train.train(config, directory)
    return directory


@pytest.mark.parametrize(('name', 'own_data', 'fields', 'result', 'shape'), [
    ('visualize', True, {'images': '', 'steps': 2, 'units': 1, 'patches': 2, 'salient': 1,
                         'rules': 'gradient', 'layers': 'relu3_2', 'facets': 0, 'pairs': 0,
                         'grid': 0, 'atlas': 0}, 'figures/saliency.png', None),
    ('microscope', True, {'steps': 2, 'units_per_layer': 1, 'layers': 'relu2_2,conv', 'devices': 1,
                          'facets': 0, 'grid': 0, 'atlas': 2}, 'manifest.json', None),
    ('features', True, {'taps': 'relu3_2', 'devices': 1}, 'results.json', None),
    ('embed', True, {'taps': 'relu3_2', 'perplexity': 2.0, 'devices': 1}, 'results.json',
     None),
    # At the sizes of these, the network takes no image: they take the nearest that fits.
    ('dream', False, {'layers': 'relu2_2', 'size': 37, 'octaves': 2, 'steps': 1},
     'figures/dream.png', (24, 36, 3)),
    ('style', False, {'content_layers': 'relu2_2', 'style_layers': 'relu1_1,relu2_1',
                      'style_layer_weights': (), 'sizes': (18, 31), 'steps': (1,)},
     'figures/astronaut.png', (32, 32, 3)),
    ('invert', False, {'layers': 'relu2_2', 'steps': (2, 1), 'restarts': 1, 'devices': 1,
                       'images': 'skimage:cat,skimage:coffee'}, 'results.md', None),
    ('equivariance', False, {'size': 32, 'shifts': (1, 4), 'count': 2, 'farthest': 2},
     'results.json', None)])
def test_a_segmentation_network_is_looked_at_as_any_other(name, own_data, fields, result, shape,
                                                          scenes, trained_run, tmp_path):
    config = importlib.import_module(f'configs.{name}').get_config()
    config.update({'source': str(trained_run), **fields})
    if own_data:
        config.update({'dataset': 'folder', 'data_dir': str(scenes)})
    experiments.find(name)(config, tmp_path)
    assert (tmp_path / result).exists()
    if shape:
        assert pictures.read(tmp_path / result).shape == shape


def test_images_with_masks_have_the_label_of_most_of_their_pixels(scenes):
    examples = data.load_labelled('folder', 'test', str(scenes)).examples
    masks = data.load('folder', 'test', str(scenes), target='mask').examples
    for labelled, masked in zip(examples, masks, strict=True):
        assert set(np.unique(masked['mask'])) == {0, labelled['label'], geometry.IGNORE}
    blank = data.from_arrays(np.zeros((1, 2, 2, 3), np.uint8), CLASSES,
                             mask=np.array([[[0, geometry.IGNORE]] * 2]))
    assert data.examples.Labelled(blank.examples)[0]['label'] == 0
