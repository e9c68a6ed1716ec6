"""Transfer learning: frozen layers keep their bits and cost nothing, and the head is new."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data
from flax import traverse_util
from PIL import Image

from cnnjax import (
    checkpoint,
    data,
    models,
    optim,
    parallel,
    reports,
    step,
    tasks,
    train,
    trained,
    transfer,
    weights,
)
from cnnjax.errors import UserError
from configs import base, finetune

PHOTOS = ('coffee', 'chelsea', 'rocket', 'astronaut')
SHAPE = (16, 16, 3)
NORMALIZE = data.Normalization(np.float32([0.5]), np.float32([0.25]))


def folder(root, names):
    """Squares cut from photographs of scikit-image, one class per photograph."""
    random = np.random.default_rng(0)
    for name in names:
        photo = getattr(skimage.data, name)()
        for split, count in (('train', 12), ('test', 4)):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                y, x = (random.integers(0, n - 48) for n in photo.shape[:2])
                Image.fromarray(photo[y:y + 48, x:x + 48]).save(root / split / name / f'{i}.png')
    return root


@pytest.fixture(scope='module')
def two(tmp_path_factory):
    return folder(tmp_path_factory.mktemp('two'), PHOTOS[:2])


@pytest.fixture(scope='module')
def three(tmp_path_factory):
    return folder(tmp_path_factory.mktemp('three'), PHOTOS[1:])


def tiny(config, **fields):
    config.batch_size = 8
    config.steps = 4
    config.report_every = 1
    config.eval_every = 0.0
    config.checkpoint_every = 2.0
    config.devices = 1
    with config.unlocked():
        config.update_from_flattened_dict({name.replace('__', '.'): value
                                           for name, value in fields.items()})
        if config.model.name == 'resnet20':  # no recipe has this field: a shallow one compiles fast
            config.model.blocks = (1, 1, 1)
    return config.lock()


@pytest.fixture(scope='module')
def source(two, tmp_path_factory):
    """A run on two classes, with a normalization that is not the other folder's."""
    directory = tmp_path_factory.mktemp('source')
    train.train(tiny(base.get_config(), dataset='folder', data_dir=str(two), image_size=16,
                     model__widths=(4, 8, 8), mean='0.3', std='0.2', learning_rate=0.05), directory)
    return directory


def fine(source, folder, argument='all', **fields):
    return tiny(finetune.get_config(argument), data_dir=str(folder),
                **{'init_from': str(source), **fields})


def saved(directory, step=None):
    with checkpoint.Checkpoints(directory / 'checkpoints', read_only=True) as checkpoints:
        return traverse_util.flatten_dict(
            checkpoints.variables(step or checkpoints.latest()), sep='/')


def changes(before, after):
    """The variables that differ, a set of paths."""
    return {path for path in before if not np.array_equal(before[path], after[path])}


def test_the_head_only(source, three, tmp_path):
    train.train(fine(source, three, 'head'), tmp_path)
    before, after = saved(source), saved(tmp_path)
    assert changes(before, after) == {'params/fc/kernel', 'params/fc/bias'}
    assert after['params/fc/kernel'].shape == (8, 3)
    network = trained.load(tmp_path)
    assert network.classes == tuple(sorted(PHOTOS[1:]))
    assert network.image_shape == SHAPE
    np.testing.assert_array_equal(network.normalize.mean, np.float32([0.3]))
    assert network.config.model.widths == (4, 8, 8)  # all that the source's config said
    assert network.config.model.name == 'resnet20'


def features(network, side=16):
    images = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), 'uint8')
    return jax.jit(network.taps)(images)['pool']




@pytest.fixture(scope='module')
def odd(three, tmp_path_factory):
    """A weights file of a network with odd fields, its layers so large that ReLU6 ends them."""
    net = models.create('resnet20', blocks=(1, 1, 1), widths=(4, 8, 8), num_classes=3,
                        relu='relu6', survival=0.5)
    variables = jax.jit(net.init)(jax.random.key(0), np.zeros((1, *SHAPE), 'float32'))
    large = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * 9 if path[-1].key == 'scale' else leaf, variables)
    path = tmp_path_factory.mktemp('odd') / 'odd.safetensors'
    weights.save(weights.Weights('resnet20', net, large, NORMALIZE, tuple('abc'), SHAPE), path)
    return path


@pytest.mark.parametrize('named', [{}, {'model__name': 'resnet20'}])
def test_fields_that_change_no_shape_come_along(named, odd, three, tmp_path):
    """Of a file of weights, and of the run that began with them."""
    expected = features(trained.load(odd))
    plain = models.create('resnet20', blocks=(1, 1, 1), widths=(4, 8, 8), num_classes=3)
    assert not np.allclose(features(trained.load(odd)._replace(net=plain)), expected, rtol=0.1)
    for source, directory in ((odd, tmp_path / 'first'), (tmp_path / 'first', tmp_path / 'second')):
        config = fine(source, three, 'head', steps=1)
        with config.unlocked():
            config.model.name = named.get('model__name')
        train.train(config, directory)
        np.testing.assert_array_equal(features(trained.load(directory)), expected)


def test_a_run_saved_gives_back_the_same(source, tmp_path):
    network = trained.load(source)
    weights.save(network, tmp_path / 'a.safetensors')
    found = trained.load(tmp_path / 'a.safetensors')
    np.testing.assert_array_equal(features(found), features(network))
    assert found.net == network.net.clone(dtype=jnp.float32)
    assert (found.image_shape, found.classes) == (network.image_shape, network.classes)
    assert found.evaluation == network.evaluation


def test_the_embedded_network_is_a_source(tmp_path, three):
    """It knows its architecture, its widths and its average pools."""
    train.train(fine('embedded', three, 'head', steps=1), tmp_path)
    network = trained.load(tmp_path)
    assert network.net.pool is models.POOLS['blur']
    images = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), 'uint8')
    np.testing.assert_array_equal(*(jax.jit(each.taps)(images)['pool5']
                                    for each in (network, trained.load('embedded'))))


def test_scan_may_differ(tmp_path, three):
    net = models.create('resnet20', blocks=(2, 3, 1), widths=(4, 4, 4), num_classes=3)
    variables = jax.jit(net.init)(jax.random.key(0), np.zeros((1, *SHAPE), 'float32'))
    path = tmp_path / 'a.safetensors'
    weights.save(weights.Weights('resnet20', net, variables, NORMALIZE, tuple('abc'), SHAPE), path)
    train.train(fine(path, three, 'head', steps=1, model__scan=True), tmp_path / 'run')
    network = trained.load(tmp_path / 'run')
    assert network.net.scan
    np.testing.assert_allclose(features(network), features(trained.load(path)), rtol=1e-5)


@pytest.mark.parametrize(('fields', 'message'), [
    ({'relu': 'relu'}, "relu='relu6' there, 'relu' here"),
    ({'survival': 1.0}, 'survival=0.5 there, 1.0 here'),
    ({'widths': (8, 8, 8)}, r'widths=\(4, 8, 8\) there, \(8, 8, 8\) here'),
])
def test_a_field_that_contradicts_the_weights_is_refused(fields, message, odd, three, tmp_path):
    config = fine(odd, three)
    with config.unlocked():
        config.model.update(fields)
    with pytest.raises(UserError, match=f"init_from='.*odd.safetensors' was .*{message}"):
        train.train(config, tmp_path)


def test_another_network_is_refused(source, odd, three, tmp_path):
    for where, message in (
            (source, r"blocks=\(1, 1, 1\) there, \(5, 5, 5\) here.*model.name, 'resnet20'"),
            (odd, "holds a 'resnet20', not a 'resnet32'")):
        with pytest.raises(UserError, match=message):
            train.train(fine(where, three, model__name='resnet32'), tmp_path)


def test_up_to_a_layer(source, three, tmp_path):
    train.train(fine(source, three, freeze='conv3_1'), tmp_path)
    before, after = saved(source), saved(tmp_path)
    changed = changes(before, after)
    kept = {path for path in before
            if path.split('/')[1] in ('conv1', 'bn1', 'conv2_1', 'conv3_1')}
    assert kept == {path for path in before if path not in changed}
    assert any('batch_stats/conv4_1' in path for path in changed)


def test_all_layers_learn_and_the_same_classes_keep_their_head(source, two, three, tmp_path,
                                                               capsys):
    train.train(fine(source, three), tmp_path / 'three')
    assert 'the last layer is new' in capsys.readouterr().out
    assert changes(saved(source), saved(tmp_path / 'three')) == set(saved(source))
    slow = {'learning_rate': 1e-9, 'head_rate': 1.0}
    train.train(fine(source, two, **slow), tmp_path / 'same')
    np.testing.assert_allclose(saved(tmp_path / 'same')['params/fc/kernel'],
                               saved(source)['params/fc/kernel'], atol=1e-6)


def test_resumed_equals_uninterrupted_bit_for_bit(source, three, tmp_path):
    same = {'freeze': 'conv3_1', 'schedule': 'constant'}
    config = fine(source, three, **same)
    train.train(config, tmp_path / 'whole')
    train.train(fine(source, three, **same, steps=2), tmp_path / 'parts')
    train.train(config, tmp_path / 'parts')
    assert not changes(saved(tmp_path / 'whole', 4), saved(tmp_path / 'parts', 4))
    losses = [[row['train/loss'] for row in reports.read_metrics(tmp_path / name)]
              for name in ('whole', 'parts')]
    assert losses[0] == losses[1]


def shallow(width):
    return models.create('resnet20', blocks=(1, 1, 1), widths=(width,) * 3, num_classes=3)


def one_step(net, freeze, devices=1, **options):
    """(state before, state after, compiled update) of a step on random images."""
    frozen = transfer.frozen_layers(net, freeze, SHAPE)
    tx = optim.create(0.1, weight_decay=1e-2, **options)
    state = step.create(net, tx, jax.random.key(0), SHAPE, frozen)
    batch = {'image': np.random.default_rng(0).integers(0, 256, (12, *SHAPE)).astype(np.uint8),
             'label': np.arange(12, dtype=np.int32) % net.num_classes,
             'position': np.arange(12, dtype=np.int32)}
    update = functools.partial(
        step.train_step, task=tasks.create('classify', net), net=net, tx=tx, frozen=frozen,
        augment=lambda key, positions, examples: {
            **examples, 'image': NORMALIZE(examples['image'])})
    run = parallel.parallelize(update, parallel.data_mesh(devices), donate=False)
    mesh_state = parallel.replicate(state, parallel.data_mesh(devices))
    after, _ = run(mesh_state, {}, batch, jax.random.key(1))
    flops = None
    if devices == 1:
        lowered = jax.jit(functools.partial(update, axis=None)).lower(
            state, {}, batch, jax.random.key(1))
        flops = lowered.compile().cost_analysis()['flops']
    return state, after, flops


def flat(tree):
    return traverse_util.flatten_dict(jax.device_get(tree), sep='/')


def test_frozen_layers_cost_no_backward_pass():
    """A step costs three forward passes; with all frozen little more than one."""
    net = shallow(16)
    state, _, whole = one_step(net, '')
    _, _, half = one_step(net, 'conv2_1')
    frozen, _, head = one_step(net, 'all')
    forward = jax.jit(lambda params, stats, x: net.apply(
        {'params': params, 'batch_stats': stats}, x)[0]).lower(
            state.params, state.batch_stats, jnp.zeros((12, *SHAPE))).compile()
    assert whole > 2.5 * forward.cost_analysis()['flops']
    assert head < 1.1 * forward.cost_analysis()['flops']
    assert head < half < 0.8 * whole
    assert sum(x.size for x in jax.tree.leaves(frozen.opt_state)) == 16 * 3 + 3  # the momentum


def test_weight_decay_and_three_devices_leave_frozen_layers_alone():
    """Three equal statistics, summed and divided, need not give the same bits."""
    net = shallow(4)
    before, after, _ = one_step(net, 'conv3_1', devices=3)
    for tree in ('params', 'batch_stats'):
        changed = changes(flat(getattr(before, tree)), flat(getattr(after, tree)))
        assert {path.split('/')[0] for path in changed} <= {'conv4_1', 'fc'}
        assert any(path.startswith('conv4_1') for path in changed)


def test_frozen_normalization_is_that_of_evaluation():
    """All frozen, the features of a training step are an evaluation's."""
    net = shallow(4)
    images = jax.random.normal(jax.random.key(1), (4, *SHAPE))
    variables = jax.jit(net.init)(jax.random.key(0), images)
    with transfer.frozen_norms(transfer.frozen_layers(net, 'all', SHAPE)):
        (logits, _), stats = net.apply(variables, images, train=True, mutable=['batch_stats'])
    np.testing.assert_array_equal(logits, net.apply(variables, images)[0])
    assert not changes(flat(variables['batch_stats']), flat(stats['batch_stats']))
    (logits, _), stats = net.apply(variables, images, train=True, mutable=['batch_stats'])
    assert changes(flat(variables['batch_stats']), flat(stats['batch_stats']))


def test_the_head_learns_so_many_times_as_fast():
    net = shallow(4)
    head = transfer.head(net, SHAPE)
    assert head == {'fc'}
    before, slow, _ = one_step(net, '')
    _, fast, _ = one_step(net, '', head_rate=10.0, head=head)
    moves = {name: [flat(after.params)[name] - flat(before.params)[name] for after in (slow, fast)]
             for name in ('fc/kernel', 'conv4_1/conv2/kernel')}
    np.testing.assert_allclose(moves['fc/kernel'][1], 10 * moves['fc/kernel'][0], rtol=1e-4,
                               atol=1e-6)
    np.testing.assert_allclose(*moves['conv4_1/conv2/kernel'], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(('name', 'fields', 'shape', 'expected'), [
    ('vgg11_bn', {'widths': (2,) * 5, 'hidden': ()}, (32, 32, 3), {'fc8'}),
    ('densenet_l40_k12', {'layers_per_block': (1, 1)}, (8, 8, 3), {'fc'}),
    ('allcnn_c', {}, (32, 32, 3), {'conv9'}),
])
def test_heads(name, fields, shape, expected):
    assert transfer.head(models.create(name, **fields), shape) == expected


def test_layers_of_a_name():
    net = models.create('vgg11_bn', widths=(2,) * 5, hidden=())
    frozen = functools.partial(transfer.frozen_layers, net, image_shape=(32, 32, 3))
    assert frozen(freeze='') == frozenset()
    assert frozen(freeze='conv2_1') == {'conv1_1', 'bn1_1', 'conv2_1'}
    assert frozen(freeze='relu2_1') == frozen(freeze='pool2') == {'conv1_1', 'bn1_1', 'conv2_1',
                                                                  'bn2_1'}
    assert frozen(freeze='all') == frozen(freeze='pool5')
    assert frozen(freeze='conv1_1, bn1_1') == {'conv1_1', 'bn1_1'}

    fractal = models.create('fractalnet20', columns=2, widths=(2, 2), dropout=(0.0, 0.0))
    layers = transfer.frozen_layers(fractal, 'block1_column2_unit1', (8, 8, 3))
    assert layers == {f'block1_column2_unit1/{name}' for name in ('conv', 'bn', 'bn_column')}


def test_errors(source, three, tmp_path):
    def refused(match, *arguments, **fields):
        with pytest.raises(UserError, match=match):
            train.train(fine(source, three, *arguments, **fields), tmp_path / 'refused')
        assert not (tmp_path / 'refused' / 'checkpoints' / '1').exists()

    refused(r"'conv3_9' is no layer.*did you mean.*conv3_", freeze='conv3_9')
    refused('leaves nothing to train', freeze='fc')
    refused('would freeze random weights', freeze='conv1', init_from='', model__name='resnet20',
            image_size=16)
    refused("^there is no 'nowhere': give the working directory of a run", init_from='nowhere')
    refused('is not the working directory of a run: it has no config', init_from=str(tmp_path))
    refused('neither is init_from: give .*=embedded', init_from='')
    refused(r'(?s)does not fit.*missing there.*unexpected', model__name='vgg11', image_size=32,
            model__widths=(2,) * 5)
    refused('with model.scan', freeze='conv3_1', model__scan=True)
    with pytest.raises(ValueError, match="'all' or 'head', not 'tail'"):
        finetune.get_config('tail')
