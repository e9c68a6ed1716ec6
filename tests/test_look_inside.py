"""A detector is looked into as any other network; what needs scores of classes is refused."""

import importlib
import json

import numpy as np
import pytest

import experiments
from cnnjax import data, train, trained
from cnnjax.data import digit_scenes
from cnnjax.errors import UserError
from cnnjax.images import attribution, class_scores, pictures
from configs import base
from tests.conftest import DETECTOR


@pytest.fixture(scope='module')
def detector_run(tmp_path_factory):
    """The directory of a run, and few scenes of digits as long as it is used."""
    config = base.get_config()
    config.update({'task': 'detect', 'dataset': 'digit_scenes', 'image_size': 16, 'fit': 'stretch',
                   'steps': 1, 'batch_size': 8, 'devices': 1, 'eval_batch_size': 10})
    config.model.name = f'{DETECTOR}:Grid'
    directory = tmp_path_factory.mktemp('run')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digit_scenes, 'EXAMPLES', {'train': 16, 'test': 10})
        train.train(config, directory)
        yield directory


@pytest.mark.parametrize(('name', 'fields', 'result', 'shape'), [
    ('visualize', {'images': 'skimage:cat', 'steps': 2, 'units': 1, 'patches': 2, 'salient': 0,
                   'classes': 0, 'rules': 'gradient', 'layers': 'relu1', 'facets': 0, 'pairs': 0,
                   'grid': 2, 'atlas': 2},
     'figures/activations.png', None),
    ('microscope', {'steps': 2, 'units_per_layer': 1, 'devices': 1, 'rule': 'gradient',
                    'facets': 0, 'grid': 0, 'atlas': 0},
     'manifest.json', None),
    ('features', {'taps': 'relu1', 'devices': 1}, 'results.json', None),
    ('embed', {'perplexity': 2.0, 'devices': 1}, 'results.json', None),
    ('dream', {'layers': 'relu1', 'size': 37, 'octaves': 2, 'steps': 1}, 'figures/dream.png',
     (25, 37, 3)),
    ('style', {'content_layers': 'relu1', 'style_layers': 'relu0,relu1', 'style_layer_weights': (),
               'sizes': (18, 31), 'steps': (1,)}, 'figures/astronaut.png', (31, 31, 3)),
    ('invert', {'layers': 'relu1', 'steps': (2, 1), 'restarts': 1, 'devices': 1,
                'images': 'skimage:cat,skimage:coffee'}, 'results.md', None),
    ('equivariance', {'size': 32, 'shifts': (1, 4), 'count': 2, 'farthest': 2}, 'results.json',
     None)])
def test_a_detector_is_looked_at_as_any_other_network(name, fields, result, shape, detector_run,
                                                      tmp_path):
    config = importlib.import_module(f'configs.{name}').get_config()
    config.update({'source': str(detector_run), **fields})
    if 'split' in config or 'test_split' in config:
        config.dataset = 'digit_scenes'
    experiments.find(name)(config, tmp_path)
    assert (tmp_path / result).exists()
    if shape:
        assert pictures.read(tmp_path / result).shape == shape
    if name == 'visualize':
        assert 'saliency' not in json.loads((tmp_path / 'results.json').read_text())
    if name == 'microscope':
        manifest = json.loads((tmp_path / 'manifest.json').read_text())
        assert [layer['name'] for layer in manifest['layers']] == ['relu0', 'relu1', 'cells']
        assert not any(layer['output'] for layer in manifest['layers'])
        assert manifest['classes'][-2:] == ['9', 'no object']
    if name == 'invert':
        assert 'class kept: not known' in (tmp_path / result).read_text()


def test_what_needs_scores_of_classes_is_refused(detector_run, tmp_path):
    config = importlib.import_module('configs.visualize').get_config()
    config.update({'source': str(detector_run), 'dataset': 'digit_scenes', 'layers': 'relu1'})
    with pytest.raises(UserError, match='a detector has no scores of the classes of a whole image; '
                                        'set both to 0'):
        experiments.find('visualize')(config, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()
    network = trained.load(detector_run)
    image = np.zeros((1, 16, 16, 3), np.uint8)
    for call in (lambda: class_scores.probabilities(network, image),
                 lambda: attribution.gradient(network, image, [0])):
        with pytest.raises(UserError, match='a detector has no scores of the classes of a whole'):
            call()


def test_the_label_of_an_image_with_boxes_is_that_of_the_largest(detector_run):
    source = data.load_labelled('digit_scenes', 'test', detector=True)
    assert source.classes == (*map(str, range(10)), 'no object')
    for labelled, boxed in zip(source.examples, data.load(
            'digit_scenes', 'test', target='boxes').examples, strict=True):
        areas = np.prod(boxed['boxes'][:, 2:] - boxed['boxes'][:, :2], -1)
        assert labelled['label'] == boxed['labels'][areas.argmax()]
        np.testing.assert_array_equal(labelled['image'], boxed['image'])
    empty = data.from_arrays(np.zeros((1, 4, 4, 3), np.uint8), ('a', 'b'),
                             boxes=np.zeros((1, 2, 4)), labels=-np.ones((1, 2), int))
    assert data.examples.Labelled(empty.examples, 2)[0]['label'] == 2
