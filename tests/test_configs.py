"""Every config loads, every field is used and explained, and recipes build network and schedule."""

import ast
import importlib
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models, optim, train, transfer
from cnnjax.data import Crops, Normalization
from cnnjax.errors import UserError
from cnnjax.plan import plan
from configs import base, detect, segment

ROOT = Path(__file__).parent.parent
SMALL = [name for name in models.names()
         if re.fullmatch(r'resnet(20|32|44|56|110|1202)|resnext29.*|preact_resnet(110|164|1001)'
                         r'|wide_resnet(16_8|28_10|40_4)|densenet_.*|fractalnet(?!34).*|nin|fmp12.*'
                         r'|allcnn.*|convnet|highway.*|elu_net.*|recurrent_cnn.*|competitive.*|rir.*'
                         r'|maxout(_svhn)?|dropconnect|dsn|generalized_pooling.*|fitnet.*', name)]
WITHOUT_RECIPE = [name for name in models.names()
                  if re.fullmatch(r'unet.*|fcn.*|fmp6.*|yolo_v1(?!_class).*|.*rcnn.*'
                                  '|transformation_net', name)]
DIGITS = ['lenet5', 'lenet5_1998', 'maxout_mnist']  # configs/mnist.py; see test_classic_models.py
LARGE = [name for name in models.names() if name not in SMALL + WITHOUT_RECIPE + DIGITS]


def load(name, *argument):
    config = importlib.import_module(f'configs.{name}').get_config(*argument)
    return config.lock()


def fields(config, prefix=''):
    for name, value in config.items():
        yield name
        if hasattr(value, 'items'):
            yield from fields(value)


def test_every_field_of_base_is_read_somewhere_and_explained():
    source = ''.join(path.read_text() for path in [*ROOT.glob('cnnjax/**/*.py'),
                                                   *ROOT.glob('experiments/*.py')])
    text = (ROOT / 'configs' / 'base.py').read_text()
    model_fields = set(base.get_config().model)
    for name in set(fields(base.get_config())) - model_fields:  # those go to models.create at once
        assert re.search(rf"(config|own)\.{name}\b|'{name}'", source), f'{name} is never read'
    for line in text.splitlines():
        if re.match(r'    (config|model)\.\w+ = ', line) and 'ConfigDict' not in line:
            assert '  # ' in line, f'no comment: {line}'


def test_every_field_read_is_in_base():
    known = set(fields(base.get_config()))
    for path in (ROOT / 'cnnjax' / f'{name}.py' for name in ('train', 'training',
                                                             'training_config')):
        for node in ast.walk(ast.parse(path.read_text())):
            if (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
                    and node.value.id == 'config'):
                assert node.attr in known | {'items', 'copy_and_resolve_references'}, (
                    f'{path}: config.{node.attr}')


@pytest.mark.parametrize('name', ['benchmark', 'convolution', 'convolution_speed', 'dream',
                                  'export', 'features', 'invert', 'microscope', 'scaling', 'style',
                                  'visualize'])
def test_every_field_of_an_experiment_is_read_and_explained_and_the_other_way_round(name):
    known = set(fields(load(name)))
    file, = ROOT.glob(f'experiments/**/{name}.py')
    own = file.read_text()
    read = {node.attr for node in ast.walk(ast.parse(own)) if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name) and node.value.id == 'config'}
    assert read <= known
    own = ''.join(path.read_text() for path in [ROOT / 'cnnjax' / 'images' / 'run.py',
                                                ROOT / 'cnnjax' / 'features.py',
                                                *ROOT.glob('experiments/**/*.py')])
    for field in known - {'experiment', 'train_split', 'test_split'}:  # f'{name}_split'
        assert re.search(rf"config\.{field}\b|'{field}'", own), f'{field} is never read'
    for line in (ROOT / 'configs' / f'{name}.py').read_text().splitlines():
        if re.match(r'    config\.\w+ = ', line) and 'config.experiment' not in line:
            assert '  # ' in line, f'no comment: {line}'


def test_recipes_change_fields_and_add_none():
    known = set(fields(base.get_config()))
    for name in ('quickstart', 'cifar', 'imagenet', 'folder', 'photos', 'segment', 'detect',
                 'fast_style'):
        config = load(name)
        assert set(fields(config)) == known


@pytest.mark.parametrize(('family', 'name'), [('cifar', name) for name in SMALL]
                         + [('imagenet', name) for name in LARGE])
def test_recipe_builds_its_network_and_schedule(family, name):
    config = load(family, name)
    examples = {'cifar': 50_000, 'imagenet': 1_281_167}[family]
    classes = {'cifar': 10, 'imagenet': 1000}[family]
    lengths = plan(config, examples)
    warm = config.warmup * (1 if config.steps else lengths.steps_per_epoch)
    rates = [float(lengths.rate(step)) for step in (math.ceil(warm), lengths.steps - 1)]
    assert rates[0] == pytest.approx(config.learning_rate)
    last = (0.0 if config.schedule in ('cosine', 'linear') else
            config.drop_factor ** len(config.drops))
    assert rates[1] == pytest.approx(config.learning_rate * last, rel=1e-4,
                                     abs=1e-4 * config.learning_rate)
    net = models.create(**config.model, num_classes=classes, dtype=config.dtype)
    size = 32 if family == 'cifar' else config.image_size
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    logits, _ = jax.eval_shape(lambda x: net.init_with_output(jax.random.key(0), x)[0], images)
    assert logits.shape == (1, classes)


@pytest.mark.parametrize(('family', 'name'), [
    ('cifar', 'maxout'), ('cifar', 'maxout_svhn'), ('cifar', 'dsn'), ('cifar', 'dsn_svhn'),
    ('cifar', 'generalized_pooling_tree'), ('mnist', 'maxout_mnist')])
def test_the_layers_that_a_recipe_names_are_there(family, name):
    config = load(family, name)
    train.check(config)
    assert config.layer_rates or config.max_norm
    tx = optim.create(config.learning_rate, **{field: config[field] for field in optim.FIELDS})
    net = models.create(**config.model)

    def init(image):
        return tx.init(net.init(jax.random.key(0), image)['params'])

    jax.eval_shape(init, jax.ShapeDtypeStruct((1, *net.image_shape), jnp.float32))


@pytest.mark.parametrize('recipe', segment.RECIPES)
def test_a_recipe_of_segmentation_has_scores_for_its_pixels(recipe):
    """For the sides of its images in training and in an evaluation, in pixels."""
    config = load('segment', recipe)
    train.check(config)
    side = {'scenes': 64, 'coins': 96, 'unet2015': 512 + 2 * 94}.get(recipe, config.image_size)
    shape = (1, side, side, 1 if recipe in ('coins', 'unet2015') else 3)
    shapes = {'image': jax.ShapeDtypeStruct(shape, jnp.uint8),
              'mask': jax.ShapeDtypeStruct(shape[:3], jnp.uint8)}
    if config.weight_map:
        shapes['weight_map'] = jax.ShapeDtypeStruct(shape[:3], jnp.float32)
    made = train.build(config, ('a', 'b'), shapes, Normalization(np.zeros(1), np.ones(1)), 100)
    state = jax.eval_shape(made.init, jax.random.key(0))
    for own, wanted in ((572, 388), (700, 516)) if recipe == 'unet2015' else ((side, side),):
        images = jax.ShapeDtypeStruct((1, own, own, shape[-1]), jnp.float32)
        logits, _ = jax.eval_shape(lambda state, images: made.net.apply(
            {'params': state.params, 'batch_stats': state.batch_stats}, images), state, images)
        assert logits.shape == (1, wanted, wanted, 2)


@pytest.mark.parametrize('size', [320, 640])
def test_a_stream_of_ones_own_pictures_has_their_size_in_an_evaluation(size):
    config = load('detect', 'folder')
    crops = Crops(size, shorter_side=config.shorter_side, fit=config.fit)
    crops.check(stream=True)
    for shape in ((500, 500, 3), (480, 640, 3), (90, 50, 3)):
        example = {'image': np.zeros(shape, np.uint8), 'boxes': np.zeros((1, 4), np.float32),
                   'labels': np.full(1, -1, np.int32)}
        frames = [found['frame'].tolist() for found in (
            crops.center(example), crops.random(example, np.random.default_rng(0)))]
        assert frames[0] == frames[1]
        assert max(frames[0]) == size


@pytest.mark.parametrize('recipe', detect.RECIPES)
def test_a_recipe_of_detection_has_a_step(recipe):
    """Its training step can be traced, so its network, loss, frozen layers and data fit."""
    config = load('detect', recipe)
    train.check(config)
    side, given = config.image_size or 64, 'fast_rcnn' in config.model.name
    shapes = {'image': jax.ShapeDtypeStruct((1, side, side, 3), jnp.uint8),
              'labels': jax.ShapeDtypeStruct((1, 2), jnp.int32),
              'ignore': jax.ShapeDtypeStruct((1, 2), bool),
              **{name: jax.ShapeDtypeStruct((1, *shape), jnp.float32)
                 for name, shape in (('boxes', (2, 4)), ('frame', (4,)), ('size', (2,)),
                                     ('proposals', (5, 4))) if given or name != 'proposals'}}
    net = models.create(**config.model, num_classes=2)
    assert bool(transfer.frozen_layers(net, config.freeze, (side, side, 3))) == bool(config.freeze)
    config.freeze = ''  # It needs weights to freeze.
    made = train.build(config, ('a', 'b'), shapes, Normalization(np.zeros(3), np.ones(3)), 100_000)
    state = jax.eval_shape(made.init, jax.random.key(0))
    batch = {**shapes, 'position': jax.ShapeDtypeStruct((1,), jnp.int32)}
    after, metrics = jax.eval_shape(
        lambda state, batch: made.step(state, {}, batch, jax.random.key(0), None), state, batch)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert metrics['loss'].shape == ()


@pytest.mark.parametrize(('recipe', 'expected'), [
    ('coco_faster_rcnn_fpn', 41_755_286 - 41_532_886),  # torchvision's: all and those that change
    ('voc_faster_rcnn', 260_160), ('voc_step3', 14_714_688), ('voc_step4', 14_714_688 + 2_387_510)])
def test_how_many_parameters_of_a_detector_are_frozen(recipe, expected):
    config = load('detect', recipe)
    net, shape = models.create(**config.model), (64, 64, 3)
    params = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, *shape)))['params']
    _, fixed = transfer.split(params, transfer.frozen_layers(net, config.freeze, shape))
    assert sum(leaf.size for leaf in jax.tree.leaves(fixed)) == expected


def test_the_published_lengths():
    """The iterations and epochs of the papers, in steps."""
    resnet = plan(load('cifar', 'resnet110'), 50_000)
    assert resnet.steps == 64_000
    assert [float(resnet.rate(step)) for step in (399, 400, 31_999, 32_000, 48_000)] == (
        pytest.approx([0.01, 0.1, 0.1, 0.01, 0.001]))
    fractal = plan(load('cifar', 'fractalnet20'), 50_000)
    assert fractal.steps_per_epoch == 500
    assert [float(fractal.rate(500 * epoch)) for epoch in (199, 200, 300, 350, 375)] == (
        pytest.approx([0.02, 0.002, 2e-4, 2e-5, 2e-6]))
    assert plan(load('cifar', 'densenet_bc_l100_k12'), 50_000).steps == 300 * 781
    elu = plan(load('cifar', 'elu_net11'), 50_000)
    assert [float(elu.rate(step)) for step in (0, 34_999, 35_000, 84_999, 85_000, 135_000)] == (
        pytest.approx([0.01, 0.01, 0.005, 0.005, 5e-4, 5e-5]))
    assert elu.steps == 165_000
    highway = plan(load('cifar', 'highway19'), 50_000)
    assert [float(highway.rate(step)) for step in (99_999, 100_000, 150_000, 199_999)] == (
        pytest.approx([0.025, 0.0025, 2.5e-4, 2.5e-5]))
    assert plan(load('cifar', 'rir18_wide'), 50_000).steps == 82 * 100


@pytest.mark.parametrize('family', ['cifar', 'imagenet', 'quickstart', 'segment', 'detect'])
def test_an_unknown_argument_is_refused(family):
    with pytest.raises(ValueError, match='lenet99'):
        load(family, 'lenet99')


@pytest.mark.parametrize(('family', 'network', 'near'), [
    ('cifar', 'resnet21', 'resnet20'), ('cifar', 'resnet50', 'resnet56'),
    ('cifar', 'resnet50_stochastic', 'resnet110_stochastic'),
    ('cifar', 'densenet121', 'densenet_'),
    ('cifar', 'fractalnet34', 'fractalnet40'), ('cifar', 'allcnn_d', 'allcnn_'),
    ('imagenet', 'resnet20', 'resnet50'), ('imagenet', 'vgg12', 'vgg1'),
    ('segment', 'fcn64s', 'fcn32s'), ('detect', 'voc_step5', 'voc_step4'),
    ('imagenet', 'densenet_l40_k12', 'densenet'), ('imagenet', 'mobilenet_v3', 'mobilenet_v')])
def test_a_network_without_a_recipe_is_refused_with_the_nearest(family, network, near):
    with pytest.raises(UserError, match=f"no recipe for '{network}' .*take .*did you mean.*{near}"):
        load(family, network)


@pytest.mark.parametrize(('family', 'argument', 'expected'), [
    ('imagenet', 'resnext50_32x4d', {
        'crop': 'random_resized', 'color': 0.1, 'color_jitter': 0.4, 'epochs': 100,
        'drops': (30, 60, 90),
        'nesterov': True, 'order': 'torch', 'weight_decay': 1e-4, 'batch_size': 256}),
    ('imagenet', 'densenet121', {'crop': 'random_resized', 'color': 0.1, 'color_jitter': 0.4}),
    ('cifar', 'resnext29_8x64d', {
        'nesterov': True, 'epochs': 300, 'drops': (150, 225), 'weight_decay': 5e-4}),
    ('cifar', 'wide_resnet28_10', {
        'padding_mode': 'reflect', 'nesterov': True, 'epochs': 200, 'drops': (60, 120, 160),
        'drop_factor': 0.2, 'learning_rate': 0.1, 'weight_decay': 5e-4, 'batch_size': 128}),
    ('cifar', 'wide_resnet16_8_svhn', {
        'dataset': 'svhn_cropped', 'mean': '0', 'std': '1', 'padding': 0, 'flip': False,
        'learning_rate': 0.01, 'epochs': 160, 'drops': (80, 120), 'drop_factor': 0.1}),
    ('imagenet', 'wide_resnet50_2', {'epochs': 90, 'drops': (30, 60), 'nesterov': True}),
    ('imagenet', 'mobilenet_v1', {
        'decay': 'kernels_except_depthwise', 'weight_decay': 4e-5, 'optimizer': 'rmsprop',
        'momentum': 0.9, 'rmsprop_decay': 0.9, 'rmsprop_epsilon': 1.0, 'order': 'caffe'}),
    ('imagenet', 'googlenet', {'average': 'polyak'}),
    ('imagenet', 'mobilenet_v2', {'drop_factor': 0.98, 'batch_size': 96, 'weight_decay': 4e-5,
                                  'optimizer': 'rmsprop'}),
    ('imagenet', 'inception_v3', {
        'optimizer': 'rmsprop', 'rmsprop_epsilon': 1.0, 'clip_norm': 2.0, 'batch_size': 1600,
        'learning_rate': 0.045, 'label_smoothing': 0.1, 'average': 'ema', 'image_size': 299}),
    ('imagenet', 'squeezenet1_1', {'schedule': 'linear', 'batch_size': 512, 'image_size': 227,
                                   'learning_rate': 0.04, 'weight_decay': 2e-4}),
    ('cifar', 'densenet_bc_l100_k12_svhn', {
        'dataset': 'svhn_cropped', 'train_split': 'train+extra', 'mean': '0', 'std': '1',
        'flip': False, 'padding': 0, 'epochs': 40, 'drops': (20, 30), 'nesterov': True}),
    ('cifar', 'fractalnet20_svhn', {
        'dataset': 'svhn_cropped', 'padding': 0, 'epochs': 20, 'drops': (10, 15, 17.5, 18.75)}),
    ('cifar', 'highway19', {'batch_size': 100, 'nesterov': True, 'weight_decay': 1e-3,
                            'bias_rate': 2, 'decay': 'kernels', 'padding': 8}),
    ('cifar', 'recurrent_cnn160_svhn', {'dataset': 'svhn_cropped', 'flip': False, 'padding': 0}),
    ('cifar', 'nin', {'whiten': True}), ('cifar', 'allcnn_c', {'whiten': True, 'padding': 5}),
    ('cifar', 'nin_svhn', {'dataset': 'svhn_cropped', 'flip': False, 'whiten': False}),
    ('imagenet', 'resnet50_2021', {  # torchvision's
        'batch_size': 1024, 'epochs': 600, 'learning_rate': 0.5, 'schedule': 'cosine',
        'warmup': 5, 'warmup_rate': 0.5 * 0.01, 'weight_decay': 2e-5, 'label_smoothing': 0.1,
        'mixup': 0.2, 'cutmix': 1, 'auto_augment': 'trivial', 'random_erasing': 0.1, 'color': 0,
        'repeats': 4, 'crop_area': (0.08, 1), 'image_size': 176, 'test_image_size': 224,
        'test_shorter_side': 232, 'average': 'ema', 'average_every': 32,
        'average_decay': pytest.approx(1 - 2e-5 * 8 * 128 * 32 / 600)})])
def test_what_the_authors_code_has(family, argument, expected):
    config = load(family, argument)
    assert {field: config[field] for field in expected} == expected


def test_svhn_is_compared_with_the_errors_on_it():
    config = load('reproduce', 'cifar/densenet_l40_k12_svhn')
    assert config.paper.error.svhn_cropped == 1.79
    assert config.recipe.model.dropout == 0.2
