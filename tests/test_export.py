"""Exported networks: programs that agree with the network in every size, and files that are kept
only then."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from cnnjax import export, models, train, trained, weights
from cnnjax.data import Normalization
from cnnjax.errors import UserError
from configs import export as configs
from experiments import export as experiment
from tests.test_models import NARROW

# The heights of images that one network of each family takes, as its program says.
FREE = {'nin': '8*h', 'allcnn_c': '4*h', 'resnet20': '8*h', 'preact_resnet110': '8*h',
        'densenet121': '8*h', 'mobilenet_v1': '8*h', 'unet_padded': '2*h',
        'fcn_resnet50': '4*h', 'faster_rcnn_small': '32*h',
        'yolo_v1_classifier': '8*h', 'highway19': '8*h', 'elu_net': '8*h',
        'recurrent_cnn96': '8*h', 'competitive_multiscale': '8*h', 'rir18_wide': '8*h',
        'resnet50d': '16*h', 'wide_resnet16_8': '8*h', 'mobilenet_v2': '8*h',
        'squeezenet1_1': '2*h', 'transformation_net': '16*h', 'dsn': '8*h',
        'generalized_pooling_tree': '8*h'}


def made(name, fields, shape, mean=(0.5,), task=None):
    """A network of random numbers. Initializing it would be compiled."""
    net, rng = models.create(name, num_classes=4, **fields), np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: rng.uniform(0.1, 0.5, leaf.shape).astype(np.float32) * rng.choice([-1, 1]),
        jax.eval_shape(net.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *shape), 'float32')))
    variables = jax.tree_util.tree_map_with_path(
        lambda path, leaf: abs(leaf) if path[-1].key == 'var' else leaf, variables)
    task = task or ('detect' if hasattr(net, 'detections') else
                    'segment' if name.startswith(('unet', 'fcn')) else
                    'stylize' if name == 'transformation_net' else 'classify')
    return trained.Trained(net, variables, Normalization(np.float32(mean), np.float32([0.25])),
                           tuple('abcd'), shape, None, name, {'task': task})


def noise(*shape):
    return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


def settings(**changes):
    config = configs.get_config()
    config.update(changes)
    return config


@pytest.mark.parametrize('name', NARROW)
def test_a_network_of_each_family_at_two_batch_and_image_sizes(name):
    fields, shape = NARROW[name]
    network = made(name, fields, shape)
    exported = export.export(network)
    batch, height, _, channels = exported.about['inputs']['images']['shape']
    assert (batch, height, channels) == ('b', FREE.get(name, shape[0]), shape[2])
    assert export.check(exported, network, noise(3, *shape)) < 1e-5
    sizes = exported.about['sizes'] or {'step': 0, 'offset': shape[:2], 'least': (0, 0)}
    height, width = (sizes['step'] * (least + i) + sizes['offset'][i]
                     for i, least in enumerate(sizes['least']))
    assert export.check(exported, network, noise(1, height, width, channels)) < 1e-5


ALONE = """
import json, sys
import jax, numpy as np
directory = sys.argv[1]
with open(f'{directory}/network.jax_export', 'rb') as file:
    network = jax.export.deserialize(bytearray(file.read()))
with open(f'{directory}/network.json') as file:
    classes = json.load(file)['classes']
outputs = network.call(np.load(f'{directory}/images.npy'))
assert 'cnnjax' not in sys.modules and 'flax' not in sys.modules
json.dump([[classes[i] for i in outputs['logits'].argmax(-1)],
           np.asarray(outputs['probabilities']).tolist()], sys.stdout)
"""


def test_a_run_is_exported_compared_and_used_without_this_library(each, tmp_path, capsys):
    with each.unlocked():
        each.steps = 2
    run, directory = tmp_path / 'run', tmp_path / 'exported'
    train.train(each, run)
    capsys.readouterr()
    experiment.run(settings(source=str(run)), directory)
    printed = capsys.readouterr().out
    assert 'the same numbers' in printed
    assert f'on the first of {each.data_dir or each.dataset}' in printed
    assert {path.name for path in directory.iterdir()} == {
        'config.json', 'network.safetensors', 'network.jax_export', 'network.json'}
    network, exported = trained.load(run), export.load(directory / 'network.jax_export')
    images = noise(2, *network.image_shape)
    own = network(images)
    own = network.net.detections(own) if each.task == 'detect' else {'logits': own}
    found = exported(images)
    for name in own:
        np.testing.assert_allclose(found[name], own[name], rtol=1e-4, atol=1e-5)
    assert exported.classes == network.classes
    about = json.loads((directory / 'network.json').read_text())
    assert set(about['outputs']) == set(found) == {
        'classify': {'logits', 'probabilities'}, 'multilabel': {'logits', 'probabilities'},
        'segment': {'logits', 'mask'}, 'detect': {'boxes', 'labels', 'scores'}}[each.task]
    assert trained.fingerprint(trained.load(directory / 'network.safetensors', name=network.name)
                               ) == trained.fingerprint(network)
    if each.task == 'classify':
        np.testing.assert_allclose(found['probabilities'].sum(-1), 1, rtol=1e-5)
        np.save(directory / 'images.npy', images)
        done = subprocess.run([sys.executable, '-c', ALONE, directory], capture_output=True,
                              text=True, cwd=tmp_path, check=True)
        labels, probabilities = json.loads(done.stdout)
        assert labels == [network.classes[i] for i in own['logits'].argmax(-1)]
        np.testing.assert_allclose(probabilities, found['probabilities'], rtol=1e-4, atol=1e-6)


@pytest.fixture(scope='module')
def network():
    return made('resnet20', {'blocks': (1, 1, 1), 'widths': (2, 4, 8)}, (8, 8, 3))


@pytest.fixture(scope='module')
def exported(network):
    return export.export(network, platforms=('cpu',))


def test_images_as_floats(network):
    exported = export.export(network, dtype='float32', multiple=0)
    images = noise(2, 8, 8, 3)
    assert export.check(exported, network, images / np.float32(255)) < 1e-5
    with pytest.raises(UserError, match=r'uint8 \[2, 8, 8, 3\]: .* images float32 \[b, 8, 8, 3\]'):
        exported(images)


def test_a_mean_image_fixes_the_size(network):
    image = network._replace(normalize=Normalization(np.zeros((8, 8, 3), np.float32),
                                                     np.ones(1, np.float32)))
    assert export.export(image).about['inputs']['images']['shape'] == ['b', 8, 8, 3]


def test_proposals_are_an_input():
    detector = made('fast_rcnn_vgg16', {'widths': (2, 2, 2, 2, 2), 'hidden': (3,), 'pooled': 2},
                    (64, 64, 3))
    exported = export.export(detector, multiple=0)
    assert exported.about['inputs']['proposals'] == {'shape': ['b', 'p', 4], 'type': 'float32'}
    boxes = np.float32([[[0, 0, 20, 30], [5, 9, 60, 50], [0, 0, 64, 64]]] * 2)
    assert export.check(exported, detector, noise(2, 64, 64, 3), boxes) < 1e-5


def test_other_images_are_refused_with_those_that_it_takes(exported):
    for images in (noise(2, 12, 8, 3), noise(8, 8, 3), noise(2, 8, 8, 1)):
        with pytest.raises(UserError, match=r'images uint8 \[b, 8\*h, 8\*w, 3\] from h=1, w=1'):
            exported(images)


def test_a_program_that_differs_is_not_kept(exported, network, tmp_path):
    other = network._replace(variables=jax.tree.map(lambda leaf: 1.01 * leaf, network.variables))
    with pytest.raises(UserError, match='differs from the network by'):
        export.save(exported, tmp_path / 'it',
                    lambda loaded: export.check(loaded, other, noise(2, 8, 8, 3)))
    assert not list(tmp_path.iterdir())


def test_weights_that_differ_are_not_kept(network, tmp_path):
    path = tmp_path / 'network.safetensors'
    weights.save(network, path)
    other = network._replace(variables=jax.tree.map(lambda leaf: 2 * leaf, network.variables))
    with pytest.raises(UserError, match='not those of the network'):
        experiment.compare_weights(path, other)
    assert not path.exists()


def test_damaged_and_missing_files(exported, tmp_path):
    path = export.save(exported, tmp_path / 'it')
    assert export.load(path).classes == tuple('abcd')
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match='is damaged'):
        export.load(path)
    path.with_suffix('.json').unlink()
    with pytest.raises(UserError, match='not both there'):
        export.load(path)


@pytest.mark.parametrize(('changes', 'message'), [
    ({'names': 'timm'}, "names='timm': timm has no network that computes the same; take names=''"),
    ({'names': 'keras'}, "names='keras' is none of"),
    ({'formats': 'onnx'}, "'onnx' is none of safetensors, jax_export"),
    ({'dtype': 'int8'}, "dtype='int8' is none of 'uint8', 'float32'"),
    ({'multiple': -1}, 'multiple=-1: take 0'),
    ({'multiple': 5, 'formats': 'jax_export'}, 'cannot be exported with multiple=5'),
    ({'platforms': 'gpu'}, "'gpu' is none of cpu, cuda, rocm, tpu"),
    ({'platforms': ''}, "platforms='' is empty"),
    ({'platforms': 'tpu', 'formats': 'jax_export'}, 'for tpu, and JAX runs on cpu here'),
])
def test_what_cannot_be_exported(changes, message, network, tmp_path, monkeypatch):
    monkeypatch.setattr(trained, 'load', lambda *_, **__: network)
    with pytest.raises(UserError, match=message):
        experiment.run(settings(**changes), tmp_path)
    assert not list(tmp_path.glob('network.*'))
