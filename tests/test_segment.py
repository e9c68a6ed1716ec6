"""Segmentation: golden values, and a U-Net trained on a folder of masks."""

import csv
import functools
import importlib
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import experiments
from cnnjax import data, evaluate, parallel, reports, step, tasks, train, trained, weights
from cnnjax.data import geometry
from cnnjax.errors import UserError
from cnnjax.images import pictures
from configs import base
from experiments import evaluate as experiment
from experiments import train as train_experiment
from tests.kill import Killed, assert_same_run, dying_after, rows

# Two images of 2 x 2 pixels, three classes.
LOGITS = np.float32([[[(2, 0, -1), (0, 1, 0)], [(-1, 0, 2), (.5, .5, 0)]],
                     [[(1, 1, 1), (3, -1, 0)], [(0, 2, 0), (0, 0, 1)]]])
LABELS = np.uint8([[(0, 1), (2, 0)], [(1, 0), (1, 1)]])
IGNORED = LABELS.copy()
IGNORED[0, 1, 0] = geometry.IGNORE
TASK = tasks.create('segment', None)
CLASSES = ('background', 'round', 'square')


def apply(images, **_):
    return jnp.asarray(LOGITS), {}


@pytest.mark.parametrize(('mask', 'expected'), [(LABELS, 0.600580), (IGNORED, 0.662114)])
def test_golden_losses(mask, expected):
    examples = {'image': None, 'mask': mask}
    sums, kept = TASK.observe(apply, examples)
    sums = {name: np.asarray(values).sum(0) for name, values in sums.items()}
    np.testing.assert_allclose(kept['iou'], [1, (1 / 2 + 1 / 3 + 0) / 3], rtol=1e-6)
    results = TASK.results(sums, kept, 2, CLASSES)
    assert results['loss'] == pytest.approx(expected, abs=1e-6)

    value, (metrics, batch_stats) = TASK.loss(
        lambda images: (*apply(images), 'statistics'), examples,
        functools.partial(step._mean, None))
    assert float(value) == float(metrics['loss']) == pytest.approx(expected, abs=1e-6)
    assert batch_stats == 'statistics'


def test_golden_intersections_over_unions():
    results = TASK.results({'confusion': np.float64([[3, 0, 0], [1, 2, 1], [0, 0, 1]]),
                            'pixels': 8.0, 'loss': 0.0}, {}, 2, CLASSES)
    assert [results[f'iou/{name}'] for name in CLASSES] == pytest.approx([0.75, 0.5, 0.5])
    assert results['mean_iou'] == pytest.approx(0.583333, abs=1e-6)
    assert results['error'] == pytest.approx(1 - 0.583333, abs=1e-6)
    assert results['pixel_error'] == pytest.approx(2 / 8)


def test_a_class_that_is_nowhere_has_no_iou():
    matrix = np.zeros((4, 4))
    matrix[:3, :3] = [[3, 0, 0], [1, 2, 1], [0, 0, 1]]
    results = TASK.results({'confusion': matrix, 'pixels': 8.0, 'loss': 0.0}, {}, 2,
                           (*CLASSES, 'absent'))
    assert 'iou/absent' not in results
    assert results['mean_iou'] == pytest.approx(0.583333, abs=1e-6)
    with pytest.raises(UserError, match='no pixel of the masks counts: all are 255'):
        TASK.results({'confusion': 0 * matrix, 'pixels': 0.0, 'loss': 0.0}, {}, 2, CLASSES)


def test_valid_convolutions_are_judged_at_their_middle_pixels():
    mask = np.full((2, 6, 4), geometry.IGNORE, np.uint8)
    mask[:, 2:4, 1:3] = LABELS
    sums, _ = TASK.observe(apply, {'image': None, 'mask': mask})
    assert sums['pixels'].tolist() == [4, 4]
    shapes = {'mask': jax.ShapeDtypeStruct((1, 6, 4), np.uint8)}
    TASK.check(jax.ShapeDtypeStruct((1, 2, 2, 3), np.float32), shapes, CLASSES)
    for outputs, message in (((1, 3, 2, 3), 'not the middle of a mask of 6 x 4'),
                             ((1, 8, 4, 3), 'not the middle'), ((1, 3), 'no maps of scores'),
                             ((1, 2, 2, 4), '4 outputs for 3 classes')):
        with pytest.raises(UserError, match=message):
            TASK.check(jax.ShapeDtypeStruct(outputs, np.float32), shapes, CLASSES)


class Linear(nn.Module):
    """A network of one convolution."""

    num_classes: int = 3

    @nn.compact
    def __call__(self, images, train=False):
        return nn.Conv(self.num_classes, (1, 1))(images), {}


@pytest.mark.parametrize('kind', parallel.KINDS)
def test_ignored_pixels_weigh_the_same_on_any_number_of_devices(kind):
    """Where devices have different numbers of pixels that count, the mean of their means is not
    the mean."""
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 3, (8, 4, 4)).astype(np.uint8)
    for i in range(8):
        mask[i].flat[:2 * i] = geometry.IGNORE
    batch = {'image': rng.integers(0, 256, (8, 4, 4, 3)).astype(np.uint8), 'mask': mask,
             'position': np.arange(8, dtype=np.int32)}
    config = base.get_config()
    config.update(task='segment', batch_size=8, steps=2, flip=True, padding=1)
    config.model.name = 'unet_padded'
    made = train.build(config, CLASSES, {name: batch[name][:1] for name in ('image', 'mask')},
                       data.Normalization(np.float32([0.5]), np.float32([0.25])), 8)
    made = made._replace(net=Linear())

    def after(devices):
        mesh = parallel.data_mesh(devices)
        state = parallel.replicate(made.init(jax.random.key(0)), mesh)
        update = parallel.parallelize(made.step, mesh, kind, donate=False)
        return jax.device_get(update(state, {}, batch, jax.random.key(1)))

    (one, metrics), (four, theirs) = after(1), after(4)
    for name in ('loss', 'pixel_error'):
        assert theirs[name] == pytest.approx(metrics[name], rel=1e-5)
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(four.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def scene(rng):
    """A picture of noise with a bright disk or square on it, and its mask, whose right edge is
    ignored."""
    y, x = np.mgrid[:16, :16]
    top, left = rng.integers(3, 13, 2)
    label = int(rng.integers(1, 3))
    inside = ((y - top) ** 2 + (x - left) ** 2 <= 9 if label == 1
              else (abs(y - top) <= 2) & (abs(x - left) <= 2))
    image = rng.integers(0, 90, (16, 16, 3)) + 150 * inside[..., None]
    mask = np.where(inside, label, 0).astype(np.uint8)
    mask[:, -1] = geometry.IGNORE
    return image.astype(np.uint8), mask


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp('scenes'), np.random.default_rng(0)
    (root / 'classes.txt').write_text('\n'.join(CLASSES))
    for split, count in (('train', 24), ('test', 10)):
        for i in range(count):
            image, mask = scene(rng)
            for kind, array in (('images', image), ('masks', mask)):
                (root / split / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(root / split / kind / f'{i}.png')
    return root


@pytest.fixture
def config(scenes):
    config = base.get_config()
    config.update({'task': 'segment', 'dataset': 'folder', 'data_dir': str(scenes), 'flip': True,
                   'padding': 2, 'batch_size': 8, 'steps': 6, 'learning_rate': 0.05,
                   'report_every': 1, 'eval_every': 3.0, 'checkpoint_every': 2.0, 'devices': 2,
                   'eval_batch_size': 4})
    config.model.update({'name': 'unet_padded', 'widths': (4, 8), 'dropout': 0.0})
    return config.lock()


def test_a_unet_is_trained_resumed_loaded_and_evaluated(config, scenes, tmp_path, capsys,
                                                        monkeypatch):
    train_experiment.run(config, tmp_path / 'whole')
    said = capsys.readouterr().out
    assert 'images with masks of 3 classes' in said
    last = rows(tmp_path / 'whole')[-1]
    for name in ('error', 'pixel_error'):
        assert f'test {name}: {100 * last[f"test/{name}"]:.2f} %' in said
    assert {'train/loss', 'train/pixel_error', 'test/loss', 'test/error', 'test/mean_iou',
            'test/pixel_error', 'test/iou/background'} <= last.keys()
    drawn = {path.name for path in (tmp_path / 'whole' / 'figures').iterdir()}
    assert drawn == {f'{name}.png' for name in ('curves', 'first_batch', 'predictions', 'worst',
                                                'confusion')}

    with monkeypatch.context() as patch:
        patch.setattr(reports.Metrics, 'write', dying_after(5))
        with pytest.raises(Killed):
            train.train(config, tmp_path / 'parts')
    train.train(config, tmp_path / 'parts')
    assert_same_run(tmp_path / 'parts', tmp_path / 'whole', 6)

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

    weights.save(network, tmp_path / 'weights.safetensors')  # which know their task
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
    assert last['test/pixel_error'] < 0.05
    assert last['test/iou/background'] > 0.95


@pytest.mark.parametrize(('fields', 'message'), [
    ({'model.name': 'resnet20', 'model.dropout': None},
     "the network has one score per class, .3., no maps of scores"),
    ({'task': 'segmentation'}, "task is one of classify, segment, not 'segmentation'; did you mean "
                               'segment'),
    ({'task': 'classify'}, r'maps of scores \[16, 16, 2\], not one score per class'),
    ({'model.widths': (4, 8, 8, 8, 8, 8)}, 'U-Net cannot take images of 16 x 16 pixels')])
def test_what_does_not_fit_is_said_before_anything_is_written(config, fields, message, tmp_path):
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.update_from_flattened_dict(fields)
        if 'model.dropout' in fields:
            config.model.update(widths=(4, 4, 4))
    with pytest.raises(UserError, match=message):
        train.train(config, tmp_path / 'run')
    assert not (tmp_path / 'run' / 'config.json').exists()



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
                         'rules': 'gradient', 'layers': 'relu3_2'}, 'figures/saliency.png', None),
    ('microscope', True, {'steps': 2, 'units_per_layer': 1, 'layers': 'relu2_2,conv',
                          'devices': 1}, 'manifest.json', None),
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
