"""Networks that start from others: segmentation from classification, the finer from the coarser.

Those that start from a network like themselves are in test_finetune.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

from cnnjax import data, layers, models, parallel, train, trained, transfer, weights
from cnnjax.errors import UserError
from cnnjax.models import resnet, vgg
from configs import base

CLASSES = ('ground', 'thing')
VGG = {'widths': (2, 3, 4, 3, 2), 'hidden': (4, 3)}
RESNET = {'blocks': (1, 2, 1), 'widths': (2, 3, 4)}
NORMALIZE = data.Normalization(np.float32([0.5, 0.25, 0.125]), np.float32([0.25]))


def variables(net, side, seed=0):
    random = np.random.default_rng(seed)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, side, side, 3)))
    return jax.tree.map(lambda leaf: np.float32(random.uniform(0.1, 1, leaf.shape)), shapes)


def file(path, name, side=224, **fields):
    """A file with the weights of a network that was trained on three other classes."""
    net = models.create(name, num_classes=3, **fields)
    weights.save(weights.Weights(name, net, variables(net, side), NORMALIZE, tuple('abc'),
                                 (side, side, 3)), path)
    return path


def recipe(source, name, **fields):
    config = base.get_config()
    config.update({'task': 'segment', 'steps': 1, 'batch_size': 2, 'learning_rate': 1e-3,
                   'devices': 1, 'eval_batch_size': 2, 'init_from': str(source)})
    config.model.update({'name': name, **fields})
    return config


def begin(source, name, **fields):
    """The network with the variables that a training from `source` begins with."""
    config = recipe(source, name, **fields)
    start = train.starting_weights(config)
    shapes = {'image': np.zeros((1, 9, 12, 3), np.uint8), 'mask': np.zeros((1, 9, 12), np.uint8)}
    training = train.build(config, CLASSES, shapes, start.normalize, 2, start)
    state = train.initial_state(config, training, start, parallel.data_mesh(1))
    return start._replace(net=training.net, variables={
        'params': state.params, 'batch_stats': state.batch_stats})


def flat(network):
    return traverse_util.flatten_dict(network.variables, sep='/')


@pytest.mark.parametrize('name', ['vgg16', 'vgg16_bn'])
def test_vggs_full_layers_become_convolutions(name, tmp_path, capsys):
    path = file(tmp_path / 'vgg.safetensors', name, **VGG)
    after = flat(begin(path, 'fcn8s', **VGG))
    assert ('new layers: score_fr, score_pool3, score_pool4; the others are those of its '
            f'{name}\n') in capsys.readouterr().out
    source = trained.load(path).variables
    folded = source if name == 'vgg16' else vgg.fold_batch_norm(source)
    _, taps = jax.jit(models.create('vgg16', num_classes=3, **VGG).apply)(
        folded, np.float32(np.random.default_rng(1).uniform(size=(1, 224, 224, 3))))
    x = taps['pool5']
    for layer, size in (('fc6', 7), ('fc7', 1)):
        own = {kind: after[f'params/{layer}/{kind}'] for kind in ('kernel', 'bias')}
        x = layers.conv(len(own['bias']), size, padding=0).apply({'params': own}, x)
        np.testing.assert_allclose(x[0, 0, 0], taps[layer][0], rtol=1e-5)
        x = jnp.maximum(x, 0)
    np.testing.assert_array_equal(after['params/conv5_3/kernel'],
                                  folded['params']['conv5_3']['kernel'])
    assert not any(after[f'params/score_{of}/kernel'].any() for of in ('fr', 'pool4', 'pool3'))


def test_a_trunk_alone_leaves_the_full_layers_new(tmp_path, capsys):
    path = file(tmp_path / 'vgg.safetensors', 'vgg16', 48, **VGG | {'hidden': ()})
    after = flat(begin(path, 'fcn32s', **VGG))
    assert 'new layers: fc6, fc7, score_fr; ' in capsys.readouterr().out
    np.testing.assert_array_equal(after['params/conv1_1/kernel'],
                                  flat(trained.load(path))['params/conv1_1/kernel'])


def test_a_finer_fcn_starts_with_the_scores_of_a_coarser_one(tmp_path, capsys):
    random = np.random.default_rng(0)
    examples = data.from_arrays(random.integers(0, 256, (2, 9, 12, 3), np.uint8), CLASSES,
                                mask=random.integers(0, 2, (2, 9, 12), np.uint8))
    path = file(tmp_path / 'vgg.safetensors', 'vgg16', **VGG)
    train.train(recipe(path, 'fcn32s', **VGG), tmp_path / '32s',
                {'train': examples, 'test': examples})
    coarse = trained.load(tmp_path / '32s')
    np.testing.assert_array_equal(coarse.normalize.mean, NORMALIZE.mean)
    assert coarse.variables['params']['score_fr']['kernel'].any()
    capsys.readouterr()
    fine = begin(tmp_path / '32s', 'fcn16s', **VGG)
    assert 'new layers: score_pool4; the others are those of its fcn32s' in capsys.readouterr().out
    for name, value in flat(coarse).items():
        np.testing.assert_array_equal(flat(fine)[name], value)
    images = np.random.default_rng(2).integers(0, 256, (1, 20, 30, 3), np.uint8)
    taps, before = (jax.jit(network.taps)(images) for network in (fine, coarse))
    np.testing.assert_allclose(taps['score_fr'], before['score_fr'], rtol=1e-5)
    np.testing.assert_array_equal(taps['fuse_pool4'], taps['upscore_pool4'])
    # The other way, the scores of pool4 would be lost.
    weights.save(fine._replace(name='fcn16s', classes=CLASSES), tmp_path / '16s.safetensors')
    with pytest.raises(UserError, match='unexpected: params/score_pool4'):
        begin(tmp_path / '16s.safetensors', 'fcn32s', **VGG)


@pytest.mark.parametrize('scan', [False, True])
def test_a_dilated_network_starts_from_a_resnet(scan, tmp_path, capsys):
    path = file(tmp_path / 'resnet.safetensors', 'resnet50', 64, **RESNET)
    network = begin(path, 'fcn_resnet50', scan=scan, **RESNET)
    assert 'new layers: classifier/bn, classifier/conv, classifier/score; the others are those ' \
        'of its resnet50' in capsys.readouterr().out
    source = trained.load(path)
    usual = network.variables if not scan else resnet.unstack(network.variables)
    found, expected = flat(network._replace(variables=usual)), flat(source)
    assert expected.keys() - found.keys() == {'params/fc/kernel', 'params/fc/bias'}
    for name in expected.keys() & found.keys():
        np.testing.assert_array_equal(found[name], expected[name])
    assert network.net.dilated == 2


def test_a_second_head_is_new_if_the_weights_have_none(tmp_path, capsys):
    path = file(tmp_path / 'fcn.safetensors', 'fcn_resnet50', 64, **RESNET)
    begin(path, 'fcn_resnet50', auxiliary_weight=0.5, **RESNET)
    assert ('new layers: aux_classifier/bn, aux_classifier/conv, aux_classifier/score, '
            'classifier/score; ') in capsys.readouterr().out


@pytest.mark.parametrize(('source', 'fields', 'name', 'own', 'message'), [
    ('vgg11', VGG, 'fcn32s', VGG, 'another kind, vgg11: FCN starts from .* like vgg16'),
    ('vgg16', VGG, 'fcn32s', VGG | {'hidden': (4, 4)}, r'hidden=\(4, 3\) there, \(4, 4\) here.* '
     'depend on that: give those fields of model the values there$'),
    ('vgg16', VGG | {'pool': 'average'}, 'fcn32s', VGG, "pool='average' there, 'max' here"),
    ('resnet50', RESNET | {'stride_in': '1x1'}, 'fcn_resnet50', RESNET, "stride_in='1x1' there"),
    ('resnet50', RESNET, 'unet_padded', {}, "holds a 'resnet50', not a 'unet_padded'"),
])
def test_what_does_not_fit_is_refused(source, fields, name, own, message, tmp_path):
    path = file(tmp_path / 'a.safetensors', source, 224 if 'hidden' in fields else 64, **fields)
    if source == 'vgg11':  # only the run of a network, not a file, may be of any name
        net = models.create(source, **fields)
        with pytest.raises(UserError, match=message):
            transfer.adopted(models.create(name, **own), trained.load(path)._replace(net=net), 'x')
        message = "holds a 'vgg11', not a 'fcn32s'"
    with pytest.raises(UserError, match=message):
        begin(path, name, **own)


def test_full_layers_of_smaller_images_are_of_another_shape(tmp_path):
    path = file(tmp_path / 'a.safetensors', 'vgg16', 64, **VGG)
    with pytest.raises(UserError, match=r'1 of another shape: params/fc6/kernel \(8, 4\) there, '
                                        r'\(7, 7, 2, 4\) here'):
        begin(path, 'fcn32s', **VGG)


def test_a_file_that_does_not_say_whose_weights_it_holds(tmp_path):
    """Its last layer does: those of a library have the names of one network or of another."""
    path = file(tmp_path / 'a.safetensors', 'resnet50', 64, **RESNET)
    bare = tmp_path / 'bare.safetensors'
    for name in ('resnet50', 'fcn_resnet50'):
        safetensors.numpy.save_file(safetensors.numpy.load_file(
            file(path, name, 64, **RESNET)), bare)
        assert weights.load('fcn_resnet50', bare, ('resnet50',), **RESNET).name == name
    assert models.create('fcn_resnet101').adopts[0] == 'resnet101'
    for name in ('vgg16', 'vgg16_bn'):  # Their last layers are alike; one has batch normalization.
        safetensors.numpy.save_file(safetensors.numpy.load_file(
            file(path, name, **VGG)), bare)
        assert weights.load('fcn32s', bare, ('vgg16', 'vgg16_bn'), **VGG).name == name


def test_published_segmentation_weights_have_vocs_classes(tmp_path):
    """torchvision's file has a second head, which is left out unless it is asked for."""
    net = models.create('fcn_resnet50', auxiliary_weight=0.5, **RESNET)
    path, bare = tmp_path / 'a.safetensors', tmp_path / 'bare.safetensors'
    weights.save(weights.Weights('fcn_resnet50', net, variables(net, 64), NORMALIZE, (),
                                 (64, 64, 3)), path)
    safetensors.numpy.save_file(safetensors.numpy.load_file(path), bare)
    network = weights.load('fcn_resnet50', bare, **RESNET)
    assert (len(network.classes), network.classes[0], network.classes[-1]) == (
        21, 'background', 'tvmonitor')
    assert network.evaluation == {'task': 'segment'}
    assert 'aux_classifier' not in network.variables['params']
    both = weights.load('fcn_resnet50', bare, auxiliary_weight=0.5, **RESNET)
    assert jax.tree.all(jax.tree.map(np.array_equal, both.variables, variables(net, 64)))
    assert trained.load(path).task == 'classify'  # it says so: nothing, as the run that made it


@pytest.mark.parametrize(('name', 'fields', 'head'), [
    ('fcn8s', VGG, {'score_fr', 'score_pool4', 'score_pool3'}),
    ('fcn_resnet50', RESNET | {'auxiliary_weight': 0.5},
     {'classifier/score', 'aux_classifier/score'}),
    ('unet_padded', {'widths': (2, 3), 'norm': 'batch'}, {'conv'})])
def test_heads_and_what_freezes_below_them(name, fields, head):
    net, shape = models.create(name, **fields), (32, 32, 3)
    assert transfer.head(net, shape) == head
    frozen = transfer.frozen_layers(net, 'all', shape)
    assert not head & frozen
    assert {'conv1_1', 'conv1'} & frozen
