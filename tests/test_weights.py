"""Weights: the same results as timm and torchvision, names, round trips, and errors.

The reference values were computed by tests/golden/make.py.
"""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from huggingface_hub import constants

from cnnjax import counterparts, layers, models, trained, weights
from cnnjax.data import Normalization
from cnnjax.errors import UserError
from tests.golden import compare, make

NAMES = compare.names()
MAPPED = sorted(name for counterpart in counterparts.COUNTERPARTS
                if 'lucent' not in counterpart.rules for name in counterpart.networks)
IDENTITY = Normalization(np.float32([0]), np.float32([1]))
TINY = {'widths': (4, 4, 4), 'blocks': (1, 2, 1)}  # A small resnet20.


@pytest.fixture(scope='module')
def golden():
    with np.load(make.GOLDEN) as file:
        return dict(file)


def drawn(name, normalize=IDENTITY, classes=(), image_shape=None, **fields):
    """The `Weights` of a network, drawn at random; variances are positive."""
    net, random = models.create(name, **fields), np.random.default_rng(0)
    image_shape = image_shape or net.image_shape
    shapes = jax.eval_shape(net.init, jax.random.key(0),
                            jax.ShapeDtypeStruct((1, *image_shape), 'float32'))
    variables = jax.tree.map(lambda leaf: random.standard_normal(leaf.shape, 'float32'), shapes)
    variables = jax.tree_util.tree_map_with_path(
        lambda path, leaf: abs(leaf) + 1 if path[-1].key == 'var' else leaf, variables)
    return weights.Weights(name, net, variables, normalize, classes, tuple(image_shape))


def logits(network, size):
    """Of two images, by a `Weights` or a `Trained`."""
    images = np.random.default_rng(1).random((2, size, size, network.image_shape[-1]), 'float32')
    return jax.jit(network.net.apply)(network.variables, network.normalize(images))[0]


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    assert jax.tree.all(jax.tree.map(np.array_equal, one, other))


@pytest.fixture
def file(tmp_path):
    """A tiny ResNet-18 with timm's names, its tensors and its path."""
    tensors = {name: np.ones(shape, 'float32' if shape else 'int64')
               for name, shape in weights.layout('resnet18', num_classes=3, **SMALL).items()}
    return write(tmp_path / 'weights.safetensors', tensors), tensors


SMALL = {'widths': (4, 4), 'blocks': (1, 1)}


def write(path, tensors, metadata=None):
    safetensors.numpy.save_file(tensors, path, metadata)
    return path


@pytest.mark.parametrize('case', make.CASES)
def test_logits_equal_the_reference(case, golden):
    name, fields, sizes = make.CASES[case]
    network = compare.network(name, NAMES[f'case/{case}'], **fields)
    for mode, size in itertools.product(('eval', 'train'), sizes):
        logits = compare.logits(network, mode, size)
        assert compare.error(logits, golden[f'{case}/{mode}/{size}']) < 1e-5
    if 'batch_stats' in network.variables:
        # Batch statistics magnify rounding: in double precision no departure hides behind it.
        with jax.enable_x64(True):
            network = network._replace(net=network.net.clone(dtype=jnp.float64),
                                       variables=jax.tree.map(np.float64, network.variables))
            logits = compare.logits(network, 'train', sizes[1])
        assert compare.error(logits, golden[f'{case}/train/{sizes[1]}']) < 1e-12


def test_every_network_of_the_libraries_has_its_names_here():
    assert make.NETWORKS == MAPPED
    assert set(MAPPED) < set(models.names())


@pytest.mark.parametrize('name', MAPPED)
def test_names_and_shapes_are_theirs(name):
    assert weights.layout(name) == NAMES[name]


@pytest.mark.parametrize(('names', 'library', 'head'), [
    ('', 'timm', 'head.fc.weight'), ('timm', 'timm', 'head.fc.weight'),
    ('torchvision', 'torchvision', 'classifier.6.weight'),
    ('cnnjax', 'cnnjax', 'params/fc8/kernel')])
def test_the_names_that_are_asked_for(names, library, head, tmp_path):
    network = drawn('vgg11', image_shape=(32, 32, 3), widths=(2,) * 5, hidden=(3, 4))
    assert weights.save(network, tmp_path / 'it.safetensors', names) == library
    assert head in safetensors.numpy.load_file(tmp_path / 'it.safetensors')
    assert_same(weights.load(None, tmp_path / 'it.safetensors').variables, network.variables)


@pytest.mark.parametrize('case', make.CASES)
def test_round_trip_with_their_names(case, tmp_path):
    name, fields, _ = make.CASES[case]
    fields = {'relu': 'relu6'} | fields if case == 'mobilenet' else fields  # as in timm
    network, path = drawn(name, num_classes=3, **fields), tmp_path / 'weights.safetensors'
    weights.save(network, path)
    expected = {key: shape for key, shape in NAMES[f'case/{case}'].items()
                if not case.endswith('_torchvision')}
    assert not expected or expected.keys() == safetensors.numpy.load_file(path).keys()
    loaded = weights.load(None, path)
    assert_same(loaded.variables, network.variables)
    assert (loaded.name, loaded.net) == (name, network.net)


def test_half_of_the_bytes(tmp_path):
    network, path = drawn('resnet20', **TINY), tmp_path / 'half.safetensors'
    weights.save(network, path, dtype='float16')
    loaded = weights.load(None, path).variables
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {np.dtype(np.float32)}
    assert_same(loaded, jax.tree.map(lambda x: x.astype(np.float16).astype(np.float32),
                                     network.variables))
    large = jax.tree.map(lambda x: 1e6 * np.ones_like(x), network.variables)
    with pytest.raises(UserError, match="dtype='float16': .* too large"):
        weights.save(network._replace(variables=large), path, dtype='float16')


@pytest.mark.parametrize(('name', 'fields'), [
    ('fractalnet20', {}), ('densenet_l40_k12', {'layers_per_block': (1, 2, 1)}),
    ('resnet20', TINY), ('resnet20', TINY | {'scan': True}), ('resnet18', SMALL | {'scan': True})])
def test_round_trip_of_other_networks_and_fields(name, fields, tmp_path):
    network, path = drawn(name, **fields), tmp_path / 'new' / 'weights.safetensors'
    weights.save(network, path)
    assert_same(weights.load(name, path, **fields).variables, network.variables)
    assert [entry.name for entry in path.parent.iterdir()] == ['weights.safetensors']


def test_normalization_classes_and_image_shape_travel(tmp_path):
    path, random = tmp_path / 'weights.safetensors', np.random.default_rng(0)
    normalize = Normalization(random.random((8, 8, 1), 'float32'), np.float32([1 / 3]))
    saved = drawn('resnet20', normalize, ('cat', 'dog'), (8, 8, 1), num_classes=2, **TINY)
    weights.save(saved, path)
    network = trained.load(path)
    assert (network.classes, network.image_shape) == (('cat', 'dog'), (8, 8, 1))
    np.testing.assert_array_equal(network.normalize.mean, normalize.mean)
    np.testing.assert_array_equal(network.normalize.std, normalize.std)
    np.testing.assert_array_equal(logits(network, 8), logits(saved, 8))


def test_full_layers_take_the_image_shape_into_account(tmp_path):
    network = drawn('vgg11', image_shape=(64, 96, 3), num_classes=2, widths=(2, 2, 2, 2, 2),
                    hidden=(3, 3))
    path = tmp_path / 'weights.safetensors'
    weights.save(network, path)
    assert safetensors.numpy.load_file(path)['pre_logits.fc1.weight'].shape == (3, 2, 2, 3)
    assert_same(weights.load('vgg11', path).variables, network.variables)


def test_a_file_without_metadata_has_the_libraries_normalization(file):
    network = weights.load('resnet18', file[0], **SMALL)
    np.testing.assert_array_equal(network.normalize.mean, np.float32([0.485, 0.456, 0.406]))
    assert network.classes == ('0', '1', '2')
    assert network.evaluation == {'test_shorter_side': 256, 'interpolation': 'bilinear'}


def test_the_libraries_peculiarities_come_with_their_files(tmp_path):
    tensors = {name: np.ones(shape, 'float32')
               for name, shape in weights.layout('mobilenet_v1_025', blocks=((1, 8),)).items()}
    path = write(tmp_path / 'weights.safetensors', tensors)
    theirs = weights.load('mobilenet_v1_025', path, blocks=((1, 8),))
    assert theirs.net.relu is jax.nn.relu6
    assert weights.load('mobilenet_v1_025', path, blocks=((1, 8),), relu=jax.nn.relu
                        ).net.relu is jax.nn.relu
    weights.save(theirs._replace(net=theirs.net.clone(relu=layers.relu)), path)
    assert weights.load('mobilenet_v1_025', path).net.relu is layers.relu


BOTTLENECKS = {'widths': (4, 4), 'blocks': (1, 2)}
VGG = {'widths': (4, 4, 4, 4, 4), 'hidden': (6, 5)}


@pytest.mark.parametrize(('name', 'fields', 'odd'), [
    ('mobilenet_v1_025', {'blocks': ((1, 8), (2, 16))}, {'relu': 'relu'}),
    ('mobilenet_v1_025', {'blocks': ((1, 8), (2, 16)), 'relu': 'relu6'}, {}),
    ('resnet50', BOTTLENECKS, {'stride_in': '1x1'}),
    ('resnet50', BOTTLENECKS, {'pool': 'average'}),
    ('resnet50', BOTTLENECKS, {'survival': 0.5}),
    ('resnet50', BOTTLENECKS | {'remat': True, 'scan': True}, {}),
    ('resnet50', BOTTLENECKS, {'shortcut': 'D'}),
    ('resnet50d', BOTTLENECKS, {'shortcut': 'B'}),
    ('seresnet50', BOTTLENECKS | {'remat': True, 'scan': True}, {}),
    ('vgg11', VGG, {'pool': 'average', 'lrn': True}),
    ('vgg11', VGG | {'dropout': 0.1}, {}),
    ('densenet121', {'layers_per_block': (1, 1), 'growth': 4, 'stem_width': 8}, {'relu': 'relu6'}),
    ('alexnet_tv', {'widths': (4, 4, 4, 4, 4), 'hidden': (6, 5)}, {'form': 'krizhevsky'}),
])
def test_a_file_with_their_names_needs_no_metadata(name, fields, odd, tmp_path, capsys):
    """What their library would compute, knowing the tensors' names and shapes alone; and what we
    do, where a field makes that another function."""
    network, path = drawn(name, num_classes=3, **fields, **odd), tmp_path / 'a.safetensors'
    size = 224 if 'hidden' in fields else 64  # full layers see the pixels
    expected = logits(network, size)
    weights.save(network, path)
    loaded = weights.load(None, path)
    np.testing.assert_allclose(logits(loaded, size), expected, rtol=1e-5)
    said, tensors = capsys.readouterr().out, safetensors.numpy.load_file(path)
    for field in odd:
        assert f'({field}=' in said or f'; {field}=' in said
    assert any(key.startswith('params/') for key in tensors) == bool(odd) == bool(said)
    write(path, tensors)
    if odd:
        with pytest.raises(UserError, match='missing|no field'):
            weights.load('resnet18', path)
    else:
        shapes = {key: value for key, value in fields.items() if key not in ('relu', 'dropout')}
        bare = weights.load(name, path, **shapes)._replace(normalize=IDENTITY)
        np.testing.assert_allclose(logits(bare, size), expected, rtol=1e-5)


def test_every_field_of_a_network_has_its_plain_value():
    """What `models.fields` says makes the same network again, for all of them."""
    for name in models.names():
        net = models.create(name)
        swaps = {field: next(iter(known.values())) for field, known in models.FUNCTIONS.items()
                 if hasattr(net, field)}
        if isinstance(getattr(net, 'dropout', None), float):
            swaps['dropout'] = 0.25
        changed = net.clone(**swaps)
        written = json.dumps(models.fields(name, changed))
        assert models.create(name, **json.loads(written)) == changed
        assert models.fields(name, net) == {}


def test_caffes_vgg_is_known_and_normalized_as_caffe_does(tmp_path, capsys):
    """Its own preprocessing, blue first and 0..255 less the mean, and its own kernels, by numpy."""
    made = drawn('vgg19', num_classes=2, image_shape=(32, 32, 3), widths=(8, 4, 4, 4, 4), hidden=())
    biases, corner = counterparts.CAFFE['vgg19']
    kernel = np.random.default_rng(0).standard_normal((3, 3, 3, 8), 'float32')  # blue first
    kernel[0, 0, :, 0] = corner
    bias = np.concatenate([biases, np.ones(4)]).astype('float32')
    params = made.variables['params'] | {'conv1_1': {'kernel': kernel, 'bias': bias}}
    weights.save(made._replace(variables={'params': params}), tmp_path / 'full.safetensors')
    tensors = safetensors.numpy.load_file(tmp_path / 'full.safetensors')
    (tmp_path / 'config.json').write_text('{"input_size": [3, 32, 32]}')
    fields = {'widths': (8, 4, 4, 4, 4), 'hidden': ()}
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), 'uint8')
    caffe = images[..., ::-1] - np.float32([103.939, 116.779, 123.68])
    expected = made.net.apply({'params': params}, caffe)[1]['conv1_1']

    for rgb in (False, True):
        if rgb:  # turned by others
            turned = tensors['features.0.weight'][:, ::-1]
            tensors['features.0.weight'] = np.ascontiguousarray(turned)
        found = weights.load('vgg19', write(tmp_path / 'vgg19.safetensors', tensors), **fields)
        tap = found.net.apply(found.variables, found.normalize(images))[1]['conv1_1']
        np.testing.assert_allclose(tap, expected, rtol=1e-4, atol=1e-2)
        assert ('turned around' in capsys.readouterr().out) != rgb
    again = tmp_path / 'again.safetensors'  # saved by us it is no longer blue first
    weights.save(found, again)
    assert_same(weights.load(None, again).variables, found.variables)
    tensors['features.0.bias'] = tensors['features.0.bias'] + np.float32(0.1)
    found = weights.load('vgg19', write(tmp_path / 'vgg19.safetensors', tensors), **fields)
    np.testing.assert_array_equal(found.normalize.mean, np.float32(counterparts.IMAGENET[0]))


def test_caffes_names_of_full_layers(tmp_path):
    fields, theirs = {'widths': (4,) * 5, 'hidden': (6, 5)}, {}
    names = {'pre_logits.fc1': 'classifier.1', 'pre_logits.fc2': 'classifier.4',
             'head.fc': 'classifier.6'}
    for key, shape in weights.layout('vgg19', **fields).items():
        layer, leaf = key.rsplit('.', 1)
        shape = (shape[0], -1) if len(shape) > 1 and layer in names else shape
        ones = np.ones(weights.layout('vgg19', **fields)[key], 'float32')
        theirs[f'{names.get(layer, layer)}.{leaf}'] = ones.reshape(shape)
    assert weights.load('vgg19', write(tmp_path / 'a.safetensors', theirs), **fields)


def test_our_alexnet_is_not_torchvisions(tmp_path):
    """Whose name of another network it has."""
    fields = {'widths': (4, 4, 4, 4, 4), 'hidden': (6, 5), 'num_classes': 2}
    network, path = drawn('alexnet', **fields), tmp_path / 'a.safetensors'
    weights.save(network, path)
    assert weights.load(None, path).net == network.net
    with pytest.raises(UserError, match="holds a 'alexnet', not a 'alexnet_tv', as is said in it"):
        weights.load('alexnet_tv', path)


def test_older_and_wrapped_names(tmp_path):
    fields = {'layers_per_block': (1, 1), 'growth': 4, 'stem_width': 8}
    tensors = {name: np.full(shape, i, 'float32') for i, (name, shape) in
               enumerate(weights.layout('densenet121', **fields).items())}
    old = {'module.' + name.replace('.norm1.', '.norm.1.').replace('.conv2.', '.conv.2.'): tensor
           for name, tensor in tensors.items()}
    assert set(old) & {'module.features.denseblock1.denselayer1.norm.1.weight'}
    assert_same(*(weights.load('densenet121', write(tmp_path / f'{i}.safetensors', each),
                               **fields).variables for i, each in enumerate((tensors, old))))


def test_auxiliary_classifiers_in_torchvisions_googlenet_are_left_out(tmp_path):
    tensors = {name: np.ones(shape, 'float32')
               for name, shape in weights.layout('googlenet_bn', num_classes=2).items()}
    tensors['aux1.fc1.weight'] = np.ones((2, 2), 'float32')
    network = weights.load('googlenet_bn', write(tmp_path / 'a.safetensors', tensors))
    assert network.normalize.mean.tolist() == 0.5


def test_a_file_that_does_not_fit_lists_its_tensors(file, tmp_path):
    path, tensors = file
    tensors['conv1.weight'] = tensors['conv1.weight'][:, :1]
    tensors['bn1.weight'] = tensors['bn1.weight'].astype('int32')
    tensors['layer9.weight'] = tensors.pop('bn1.bias')
    with pytest.raises(UserError, match=r'a.safetensors does not fit resnet18 \(.*\): '
                       r'1 missing: bn1.bias; 1 unexpected: layer9.weight; 2 mis-shaped: '
                       r'bn1.weight int32, conv1.weight \(4, 1, 7, 7\) for \(4, 3, 7, 7\)'):
        weights.load('resnet18', write(tmp_path / 'a.safetensors', tensors), **SMALL)
    with pytest.raises(UserError, match=r'\d\d missing: .*, \.\.\.;'):
        weights.load('resnet50', path)
    with pytest.raises(UserError, match='3 classes, not num_classes=10'):
        weights.load('resnet18', path, num_classes=10, **SMALL)
    with pytest.raises(UserError, match='Neither timm nor torchvision has nin'):
        weights.load('nin', path)
    with pytest.raises(UserError, match='does not say which of our networks'):
        trained.load(path)


def test_what_save_refuses(tmp_path):
    network, path = drawn('resnet20', **TINY), tmp_path / 'a.safetensors'
    wide = models.create('resnet20', blocks=(1, 2, 1), widths=(4, 4, 8))
    for changed, message in (
            ({'net': wide}, 'variables does not fit resnet20 .* mis-shaped'),
            ({'variables': {'params': {}}}, 'variables does not fit resnet20 .* missing'),
            ({'name': 'vgg11'}, 'vgg11 is a VGG, not a ResNet'),
            ({'name': ''}, 'no name'),
            ({'classes': ('a', 'b')}, '10 outputs'),
            ({'image_shape': (32, 32, 1), 'normalize': Normalization(
                np.float32([0.5] * 3), np.float32([1]))}, r'of \(3,\) and \(1,\)'),
            ({'net': network.net.clone(relu=jnp.tanh)}, 'relu is .*tanh.* no name')):
        with pytest.raises(UserError, match=message):
            weights.save(network._replace(**changed), path)
    with pytest.raises(UserError, match='must end in .safetensors'):
        weights.save(network, tmp_path / 'a.npz')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('damage', [
    lambda whole: b'',
    lambda whole: whole[:-5],
    lambda whole: whole[:40],
    lambda whole: (10 ** 12).to_bytes(8, 'little') + whole[8:],
    lambda whole: whole[:8] + b'[' + whole[9:],
    lambda whole: b'PK\x03\x04' + whole])
def test_a_damaged_file_is_refused(damage, file):
    path = file[0]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=r'weights.safetensors is damaged or no safetensors file'):
        weights.load('resnet18', path)


@pytest.mark.parametrize(('whole', 'fit'), [('false', 'crop'), ('true', 'pad')])
def test_a_file_of_an_older_version_tells_how_pictures_become_images(whole, fit, tmp_path):
    path = tmp_path / 'a.safetensors'
    weights.save(drawn('resnet20', **TINY), path)
    with safetensors.safe_open(path, 'numpy') as opened:
        metadata = opened.metadata() | {'evaluation': f'{{"image_size": 8, "whole": {whole}}}'}
    found = weights.load(None, write(path, safetensors.numpy.load_file(path), metadata))
    assert found.evaluation == {'image_size': 8, 'fit': fit}


def test_damaged_metadata_are_refused(tmp_path):
    path = tmp_path / 'a.safetensors'
    weights.save(drawn('resnet20', **TINY), path)
    with safetensors.safe_open(path, 'numpy') as opened:
        metadata = opened.metadata()
    tensors = safetensors.numpy.load_file(path)
    for key, value in (
            ('mean', '['), ('fields', '[1]'), ('std', '[0]'), ('input_size', '[3]'),
            ('fields', '{"blocks": [4000, 4000, 4000], "widths": [4, 4, 4]}'),
            ('evaluation', '{"test_shorter_side": "x"}'), ('evaluation', '{"lr": 1}'),
            ('architecture', '5'), ('architecture', '[1]')):
        with pytest.raises(UserError, match='damaged'):
            weights.load(None, write(path, tensors, metadata | {key: value}))
    for fields in ('{"pool": 5, "stem": 7}', '{"relu": "gelu"}', '{"scan": "x"}', '{"name": "x"}',
                   '{"widths": "abc"}', '{"block": "Basic"}', '{"blocks": [1, 2.5, 1]}'):
        with pytest.raises(UserError):
            weights.load(None, write(path, tensors, metadata | {'fields': fields}))


@pytest.mark.parametrize(('mean', 'channels'), [([0.5] * 3, 1), ([0.5] * 2, 3)])
def test_a_normalization_of_other_channels_is_refused(mean, channels, tmp_path):
    path = tmp_path / 'a.safetensors'
    weights.save(drawn('resnet20', image_shape=(8, 8, channels), **TINY), path)
    with safetensors.safe_open(path, 'numpy') as opened:
        metadata = opened.metadata() | {'mean': json.dumps(mean)}
    with pytest.raises(UserError, match=rf'images are \(8, 8, {channels}\), but its mean'):
        weights.load(None, write(path, safetensors.numpy.load_file(path), metadata))


def test_one_channel_of_others_without_a_mean_is_refused(tmp_path):
    """torchvision's mean of three colours is not theirs."""
    tensors = {name: np.ones(shape, 'float32')
               for name, shape in weights.layout('resnet18', (32, 32, 1), **SMALL).items()}
    (tmp_path / 'config.json').write_text('{"input_size": [1, 32, 32]}')
    path = write(tmp_path / 'a.safetensors', tensors)
    with pytest.raises(UserError, match='images are .* 1.*, but its mean .*config.json'):
        weights.load('resnet18', path, **SMALL)
    (tmp_path / 'config.json').write_text('{"input_size": [1, 32, 32], "mean": [0.5], "std": [1]}')
    assert weights.load('resnet18', path, **SMALL).image_shape == (32, 32, 1)


@pytest.mark.parametrize(('config', 'message'), [
    ({'architecture': 'resnetblur18'}, "holds a 'resnetblur18', not a 'resnet18', .* config.json"),
    ({'architecture': 'resnet18', 'model_args': {'act_layer': 'silu'}}, 'act_layer makes another'),
    ({'architecture': 'resnet18', 'global_pool': 'max'}, 'global_pool=max makes another'),
    ({'architecture': 'resnet18', 'crop_pct': 0, 'pretrained_cfg': {
        'input_size': [3, 32, 32], 'crop_pct': 7}}, 'damaged.*crop_pct 7'),
])
def test_another_network_beside_the_file_is_refused(config, message, file):
    (file[0].parent / 'config.json').write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        weights.load('resnet18', file[0], **SMALL)


def test_the_hubs_cache_serves_offline(file, tmp_path, monkeypatch):
    path, tensors = file
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'hub'))
    repository = tmp_path / 'hub' / 'models--timm--resnet18.tv_in1k'
    snapshot = repository / 'snapshots' / 'abc'
    snapshot.mkdir(parents=True)
    (repository / 'refs').mkdir()
    (repository / 'refs' / 'main').write_text('abc')
    path.rename(snapshot / 'model.safetensors')
    (snapshot / 'config.json').write_text(json.dumps({
        'architecture': 'resnet18', 'label_names': ['cat', 'dog', 'owl'],
        'pretrained_cfg': {'mean': [0.5] * 3, 'std': [0.25] * 3, 'input_size': [3, 64, 48],
                           'crop_pct': 0.95, 'interpolation': 'bicubic'}}))
    network = weights.load('resnet18', 'timm/resnet18.tv_in1k', **SMALL)
    assert network.evaluation == {'test_shorter_side': 67, 'interpolation': 'bicubic'}
    assert network.classes == ('cat', 'dog', 'owl')
    assert network.image_shape == (64, 48, 3)
    assert network.normalize.std.tolist() == [0.25] * 3
    with pytest.raises(UserError, match='does not fit resnet18'):  # its name is the config's
        trained.load('timm/resnet18.tv_in1k')
    (snapshot / 'config.json').write_text('{')
    with pytest.raises(UserError, match='config.json is damaged'):
        weights.load('resnet18', 'timm/resnet18.tv_in1k', **SMALL)
    with pytest.raises(UserError, match=r'file config.json is neither cached nor to be had .*'
                       'https://huggingface.co/timm/vgg19.tv_in1k/resolve/main/model.safetensors'):
        trained.load('timm/vgg19.tv_in1k')


def test_a_source_that_is_nothing(tmp_path):
    for source in (tmp_path / 'a.safetensors', 'a/b/c', 'nowhere.pth'):
        with pytest.raises(UserError, match='no such file'):
            weights.load('resnet18', source)
    (tmp_path / 'weights.npz').write_bytes(b'')
    with pytest.raises(UserError, match='weights are read from .safetensors'):
        weights.load('resnet18', tmp_path / 'weights.npz')


def test_a_file_of_a_detector_that_does_not_say_its_task(tmp_path):
    path = tmp_path / 'detector.safetensors'
    weights.save(drawn('yolo_v1_small', widths=((2,), (2,), (2,), (2, 2, 2))), path)
    assert trained.load(path).task == 'detect'
