"""Bad input anywhere either works or gives a UserError that names it.

Other exceptions, warnings and hangs fail. To search for faults with more examples:
HYPOTHESIS_PROFILE=long python -m pytest tests/test_bad_input.py
"""

import contextlib
import functools
import importlib
import io
import json
import os
import pickle
import pwd
import random
import struct
import zlib
from pathlib import Path

import jax
import ml_collections
import numpy as np
import optax
import pytest
import safetensors.numpy
import tifffile
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

import experiments
from cnnjax import (
    atomic,
    data,
    models,
    parallel,
    reports,
    step,
    tasks,
    train,
    trained,
    weights,
    workdir,
)
from cnnjax.data import images
from cnnjax.data.tags import OfBoxes
from cnnjax.errors import UserError
from cnnjax.images import pictures
from configs import base
from tests.conftest import DETECTOR

LONG = os.environ.get('HYPOTHESIS_PROFILE') == 'long'
# The program silences Pillow's warnings about damage that does not matter (cnnjax/quiet.py).
pytestmark = pytest.mark.filterwarnings('ignore::UserWarning:PIL.TiffImagePlugin')


def examples(count):
    """Settings of a test with that many examples, always the same; in the long profile 50 times."""
    return settings(deadline=None, derandomize=not LONG, database=None,
                    max_examples=50 * count if LONG else count,
                    suppress_health_check=list(HealthCheck))


# Configs.

INTEGERS = st.sampled_from([-2 ** 63, -1, 0, 1, 2, 3, 7, 8, 2 ** 31, 2 ** 40, 2 ** 70])
FLOATS = st.sampled_from([float('nan'), float('inf'), -1.0, 0.0, 1e-300, 0.5, 1.0, 1.5, 1e30,
                          1e300])
STRINGS = st.sampled_from(['', 'x', ' ', 'é😀\n', 'a' * 300, '../..', '%s{}', '\0', '1,2', 'nan',
                           '1,inf', '-1', ',', 'all', '~', '/', 'float17', 'float64', 'int32',
                           'bfloat16', 'reflect', 'pmap', 'jit', 'cosine', 'none', 'pixel',
                           'random_resized', 'kernels', 'caffe'])
TUPLES = st.one_of(st.lists(st.sampled_from([(1, 2), 0, -1, 2, 0.5, float('nan'), 'x', 8]),
                            max_size=5).map(tuple),
                   st.lists(st.sampled_from([1, 2, 4]), min_size=1, max_size=5).map(tuple))
NETWORKS = ('convnet', 'nin', 'vgg11', 'fractalnet_slim5', 'lenet5_1998', 'allcnn_c',
            'mobilenet_v1_025', 'unet_padded', 'fmp6_32', 'densenet_l7_k2', 'alexnet', 'resnet20',
            'yolo_v1_small', 'faster_rcnn_small')


def of_type(kind):
    return {bool: st.booleans(), int: INTEGERS, float: FLOATS, str: STRINGS, tuple: TUPLES}.get(
        kind, st.one_of(INTEGERS, FLOATS, STRINGS, TUPLES))


def fields(config, prefix=''):
    """(name, type) of every field."""
    for name in config:
        value = config.get_ref(name)
        if isinstance(value.get(), ml_collections.ConfigDict):
            yield from fields(config[name], f'{prefix}{name}.')
        elif name not in ('experiment', 'source', 'checkpoint'):
            yield f'{prefix}{name}', value.get_type()


def changes(known, most=2):
    """Strategy of {field: value} for some of the fields (name, type)."""
    known = sorted(known, key=lambda field: field[0])
    one = st.sampled_from(known).flatmap(
        lambda field: st.tuples(st.just(field[0]), of_type(field[1])))
    return st.lists(one, min_size=1, max_size=most).map(dict)


class SetUp(BaseException):
    """All of a training is ready, and its steps can be traced; now it would compile."""


@pytest.fixture(scope='module')
def digits():
    """{target: {split: source}}: what digit an image shows, and where its ink is."""
    found = {split: data.digits.load(split) for split in ('train', 'test')}
    labels = {split: data.Source(source.examples[:40], source.classes)
              for split, source in found.items()}
    masks, boxes = {}, {}
    for split, source in labels.items():
        images = np.stack([example['image'] for example in source.examples])
        masks[split] = data.from_arrays(images, ('paper', 'ink'), mask=images[..., 0] // 128)
        boxes[split] = data.Source([
            {'image': image, 'boxes': np.float32([[1, 0, 7, 8], [0, 0, 0, 0]]),
             'labels': np.int32([0, -1])} for image in images], ('digit',))
    tags = {split: data.Source(OfBoxes(source.examples, 1), ('digit',))
            for split, source in boxes.items()}
    return {'label': labels, 'mask': masks, 'boxes': boxes, 'tags': tags, 'image': labels}


@pytest.fixture(scope='module')
def set_up(digits, tmp_path_factory):
    """A function of a config: True where a training would begin, False where it is refused."""
    real_load, real_create = data.load, step.create
    shapes = []

    def load(dataset, split, *options, **of_boxes):
        target, = digits.keys() & options
        if dataset == 'digits' and split in digits[target]:
            return digits[target][split]
        return real_load(dataset, split, *options, **of_boxes)

    def create(net, tx, key, image_shape, frozen, check, **options):
        shapes[:] = image_shape, jax.eval_shape(
            lambda key: real_create(net, tx, key, image_shape, frozen, check, **options), key)
        return shapes[1]

    def parallelize(step, mesh, kind='shard_map', donate=True):
        array = jax.ShapeDtypeStruct
        masks = 40, *shapes[0][:2]
        resident = {'image': array((40, *shapes[0]), np.uint8), 'label': array((40,), np.int32),
                    'mask': array(masks, np.uint8), 'weight_map': array(masks, np.float32),
                    'boxes': array((40, 2, 4), np.float32), 'labels': array((40, 2), np.int32),
                    'tags': array((40, 1), np.uint8)}
        batch = {name: array((8,), np.int32) for name in ('index', 'position')}
        one = step.__self__.step  # a single update, even if a program has several
        jax.eval_shape(functools.partial(one, axis=None), shapes[1], resident, batch,
                       jax.random.key(0))
        raise SetUp

    def run(config):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(data, 'load', load)
            patch.setattr(step, 'create', create)
            patch.setattr(parallel, 'parallelize', parallelize)
            patch.setattr(parallel, 'replicate', lambda tree, mesh: tree)
            for module, name in ((workdir, 'write_config'), (workdir, 'write_environment'),
                                 (atomic, 'write_json')):
                patch.setattr(module, name, lambda *arguments: None)
            try:
                train.train(config, directory)
            except SetUp:
                return True
            except UserError:
                return False
        raise AssertionError('neither refused nor set up')

    directory = tmp_path_factory.mktemp('run')
    return run


def training(given, task='classify'):
    """The config of a tiny training with these fields; None where they have another type."""
    config = base.get_config()
    config.update({'devices': 1, 'batch_size': 8, 'steps': 3, 'task': task,
                   'model': {'name': 'convnet'}})
    if task == 'segment':
        config.model.update({'name': 'unet_padded', 'widths': (2, 2)})
    if task == 'detect':
        config.model.name = f'{DETECTOR}:Grid'
    if task == 'stylize':
        config.update({'teacher': 'embedded', 'styles': 'skimage:brick'})
        config.model.update({'name': 'transformation_net', 'widths': (2, 2, 2), 'depth': 1})
    config.lock()
    try:
        config.update_from_flattened_dict(given)
    except (TypeError, ValueError):  # The launcher reports these.
        return None
    return config


each_task = pytest.mark.parametrize('task', tasks.TASKS)


@each_task
@examples(100)
@given(changes(fields(base.get_config())))
@example({'accumulate': 0})
@example({'border': 2 ** 40})
@example({'drops': ((1, 2),)})
@example({'drops': (2 ** 31, 1e11)})
@example({'drops': (1,) * 20, 'drop_factor': 1e300})
@example({'dtype': ','})
@example({'image_size': 1})
@example({'image_size': 2 ** 31 - 1})
@example({'init_from': 'a' * 300})
@example({'seed': 2 ** 70})
@example({'shorter_side': ('a', 'b')})
@example({'warmup': float('nan')})
@example({'loss': '1e300*focal+focal', 'focal_gamma': 1e12})
@example({'loss': 'dice', 'dice_smoothing': 0.0, 'dice_sums': 'batch'})
@example({'class_weights': (1, 2)})
@example({'weight_map': 1e12, 'weight_map_sigma': 1e-3})
def test_a_config_trains_or_is_refused(set_up, task, given):
    if config := training(given, task):
        set_up(config)


@each_task
@pytest.mark.parametrize(('field', 'bad'), [
    ('learning_rate', (float('nan'), float('inf'), -0.1)), ('momentum', (-0.1, 1.0, 2.0)),
    ('label_smoothing', (-0.1, 1.1)), ('padding', (-1, 8)), ('drops', ((-1,), ('a',))),
    ('drop_factor', (-1.0, float('nan'))), ('warmup', (-1.0, 4.0)), ('warmup_rate', (-1.0,)),
    ('weight_decay', (-1.0, float('nan'))), ('dtype', ('float16', 'float17', 'int8', 'float64')),
    ('parallel', ('x', '')), ('batch_size', (0, -8, 41)), ('accumulate', (0, -1, 3)),
    ('keep', (0, -1)), ('report_every', (-1,)), ('eval_every', (-1.0, float('inf'))),
    ('checkpoint_every', (-1.0,)), ('eval_batch_size', (0,)), ('image_size', (-1, 10 ** 6)),
    ('seed', (-1, 2 ** 32)), ('devices', (-1, 5)), ('steps', (-1, 2 ** 31)), ('epochs', (-1.0,)),
    ('border', (-1,)), ('color', (-1.0, 0.1)), ('bias_rate', (-1.0,)), ('head_rate', (-1.0,)),
    ('mean', ('nan', '', '1,2')), ('std', ('0', 'nan', 'inf')), ('schedule', ('square',)),
    ('crop_area', ((0.5, 0.1), (0.1, 2.0), ())), ('loader_threads', (0,)),
    ('loss', ('dise', '', 'focal*2', '0*focal')), ('focal_gamma', (-1.0, float('nan'))),
    ('class_weights', ((1.0, -1.0), (1.0, 2.0, 3.0), (0.0, 0.0))), ('loss_denominator', ('x',)),
    ('dice_sums', ('',)), ('dice_smoothing', (-1.0,)), ('weight_map', (-1.0,)),
    ('weight_map_sigma', (0.0,)),
    ('border_mode', ('mirror', '')), ('crop_size', (-1, 9)), ('rotation', (-1.0, 181.0)),
    ('scale', ((1.5, 0.5), (0.0, 1.0), (), (1.0,), (1.0, 101.0))), ('elastic', (-1.0, 1.5)),
    ('fit', ('whole', '', 'pad')), ('jitter', (-0.1, 0.5)), ('hue', (-0.1, 0.6, 0.1)),
    ('val_split', ('train', 'test')), ('split', ('0.8', '0.5/0.6')),
    ('class_folders', ('last', '')),
    ('saturation', (0.5, 101.0, 1.5)), ('exposure', (0.0, 101.0, 1.5)), ('proposals', ('no.npz',)),
    ('optimizer', ('adam',)), ('rmsprop_epsilon', (0.0, 0.5)), ('adamw_beta2', (1.0, 0.5)),
    ('average', ('mean',)), ('average_every', (0, 2)), ('average_start', (-1.0, 1.0)),
    ('plateau_patience', (0, 3)), ('plateau_threshold', (0.0, 1.0)), ('patience', (-1,)),
])
def test_the_error_names_the_field(digits, field, bad, tmp_path, monkeypatch, task):
    monkeypatch.setattr(data, 'load', lambda dataset, split, *_, **__: digits[
        tasks.target(task)][split])
    for value in bad:
        config = training({field: value}, task)
        with pytest.raises(UserError, match=field):
            train.train(config, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


@examples(60)
@given(st.sampled_from(NETWORKS).flatmap(lambda name: st.tuples(st.just(name), changes(
    [(field, kind) for field, kind in [*fields(base.get_config().model), ('dtype', str)]
     if field != 'name' and hasattr(models.create(name), field)]))),
    st.sampled_from([1, 3, 32, 70]))
@example(('alexnet', {'widths': (97, 2, 2, 2, 2)}), 70)
@example(('densenet_l99999999_k2', {}), 32)
@example(('fractalnet34', {'widths': (1,), 'dropout': (0,)}), 32)
@example(('fractalnet20', {'columns': 60}), 32)
@example(('nin', {'widths': (2, 2, 2)}), 32)
@example(('resnet20', {'widths': (4, 2, 1)}), 32)
@example(('resnext29_8x64d', {'widths': ()}), 32)
@example(('resnext50_32x4d', {'widths': (4,) * 4}), 32)
@example(('unet', {'widths': ()}), 32)
@example(('vgg11', {'hidden': (10 ** 9,)}), 32)
def test_a_network_is_built_or_refused(given, size):
    name, values = given
    with contextlib.suppress(UserError):
        net = models.create(name, **values)
        jax.eval_shape(lambda key, images: net.init_with_output(key, images), jax.random.key(0),
                       jax.ShapeDtypeStruct((1, size, size, 3), 'float32'))


def test_networks_that_do_not_classify_and_that_fill_the_memory(set_up):
    assert not set_up(training({'model.name': 'unet_padded', 'model.widths': (1, 1)}))
    with pytest.raises(UserError, match='parameters, more than the memory'):
        step.create(models.create('vgg11', hidden=(65536, 65536)), optax.sgd(0.1),
                    jax.random.key(0), (512, 512, 3))


class Compiles(BaseException):
    """An experiment has accepted its config."""


# {experiment: the function that runs after its config, network and pictures are accepted}
RUNS = {'evaluate': 'cnnjax.evaluate.evaluator', 'features': 'cnnjax.features.extractor',
        'invert': 'cnnjax.images.run.Run.__init__', 'dream': 'cnnjax.images.run.Run.__init__',
        'style': 'cnnjax.images.run.Run.__init__', 'embed': 'cnnjax.features.extractor',
        'equivariance': 'experiments.equivariance.equivariance',
        'microscope': 'experiments.microscope.microscope.begin',
        'visualize': 'experiments.visualize.visualize.begin',
        'summarize': 'cnnjax.summary.summarize'}
DATA = {'evaluate': 'photos', 'features': 'photos', 'embed': 'photos'}


@pytest.mark.parametrize('name', RUNS)
def test_the_configs_of_the_experiments(name, tmp_path, monkeypatch):
    def compiles(*arguments, **options):
        raise Compiles

    monkeypatch.setattr(RUNS[name], compiles)
    found = {split: data.load('photos', split) for split in ('train', 'test')}
    real = data.load
    monkeypatch.setattr(data, 'load', lambda dataset, split, *options, **of_boxes: found[split] if
                        (dataset, split) in (('photos', 'train'), ('photos', 'test'))
                        else real(dataset, split, *options, **of_boxes))
    network = trained.load('embedded')
    monkeypatch.setattr(trained, 'load', lambda *arguments, **options: network)
    module = importlib.import_module(f'configs.{name}')

    @examples(10)
    @given(changes(fields(module.get_config())))
    def run(given):
        config = module.get_config()
        if name in DATA:
            config.dataset = DATA[name]
        config.lock()
        try:
            config.update_from_flattened_dict(given)
        except (TypeError, ValueError):
            return
        with contextlib.suppress(Compiles, UserError):
            experiments.find(config.experiment)(config, tmp_path)

    run()


# Values that would fill the memory, never end, or fail only after hours of work.
@pytest.mark.parametrize(('name', 'given'), [
    ('dream', {'size': 20000}), ('dream', {'size': 2 ** 31 - 1}),
    ('dream', {'size': 20000, 'images': 'noise'}), ('dream', {'octaves': 2 ** 31 - 1}),
    ('dream', {'frames': 2 ** 30}), ('dream', {'scale': float('inf')}),
    ('dream', {'octaves_above': 3, 'scale': 1e4, 'carry': 'image'}),
    ('dream', {'weights': ('x',)}), ('dream', {'translate': ('x', 1)}),
    ('dream', {'rotate': float('nan')}), ('dream', {'step': float('inf')}),
    ('dream', {'seconds': 700.0}), ('dream', {'report_every': 2 ** 31}),
    ('dream', {'steps': 2 ** 31}),
    ('invert', {'size': 10000}), ('invert', {'restarts': 2 ** 30}), ('invert', {'jitter': 1e9}),
    ('invert', {'devices': 2 ** 30}), ('invert', {'sigma': float('inf')}),
    ('style', {'sizes': (2 ** 31,)}), ('style', {'style_scale': float('nan')}),
    ('style', {'beta1': 1.0}), ('style', {'average': 1e300}), ('style', {'pixel_range': 0.0}),
    ('style', {'style_layer_weights': ('x',) * 5}), ('style', {'sizes': (64.5,)}),
    ('style', {'optimizer': 'lbfgs', 'bound': 'none', 'memory': 2 ** 30}),
    ('embed', {'loader_threads': 2 ** 31 - 1}), ('visualize', {'map_size': 20000}),
    ('visualize', {'map_size': 2}), ('visualize', {'size': 2 ** 20}), ('visualize', {'size': 2}),
    ('visualize', {'learning_rate': float('inf')}),
    ('microscope', {'learning_rate': float('nan')}), ('microscope', {'size': 2 ** 20}),
    ('equivariance', {'count': 2 ** 30}),
    ('equivariance', {'dataset': 'photos', 'farthest': 2 ** 20}),
    ('equivariance', {'shifts': (1.5,)}), ('summarize', {'image_shape': (2,)}),
    ('summarize', {'image_shape': (2 ** 31, 1, 3)}), ('summarize', {'image_shape': ('x',) * 3}),
    ('summarize', {'picture_depth': -1}), ('summarize', {'num_classes': -1}),
    ('scaling', {'steps': 'vgg16:8:-1'}), ('scaling', {'steps': ','}),
    ('scaling', {'own_inside': float('inf')}), ('scaling', {'devices': (1.5,)}),
    ('scaling', {'measured': 'resnet20', 'measured_batch': 10 ** 9}),
    ('scaling', {'dtype': 'float16'}), ('benchmark', {'dtype': 'float16'}),
    ('convolution_speed', {'dtype': 'float16'}),
    ('convolution', {'pairs': 2 ** 30}), ('convolution', {'dimensions': (2 ** 30,)}),
    ('convolution', {'kernel': (float('inf'),) * 9}), ('convolution', {'size': 2 ** 20}),
    ('prepare', {'data_dir': 'a' * 300}),
    ('reproduce', {'seeds': 2 ** 31 - 1, 'recipe.seed': 2 ** 32 - 9}),
    ('reproduce', {'name': 'cifar/x'}), ('reproduce', {'name': 'x'}),
])
def test_the_experiments_name_the_field(name, given, tmp_path):
    config = importlib.import_module(f'configs.{name}').get_config()
    config.update_from_flattened_dict(given | ({'dataset': 'photos'} if name == 'embed' else {}))
    if name == 'embed':
        config.source = 'embedded'
    with pytest.raises(UserError, match='|'.join(field.split('.')[-1] for field in given)):
        experiments.find(name)(config, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(('field', 'bad'), [
    ('components', (1.5,)), ('hidden', (0, None, 2, 2)), ('hidden', (0.5, 0, 2, 2))])
def test_eigenfaces_name_the_field(field, bad, tmp_path):
    config = importlib.import_module('configs.embed').get_config('eigenfaces')
    config[field] = bad
    with pytest.raises(UserError, match=field):
        experiments.find('eigenfaces')(config, tmp_path)


# Image files.

RGB = np.stack(np.broadcast_arrays(*np.ogrid[0:240:10, 0:240:12], 128), -1).astype(np.uint8)


def encoded(kind, image=RGB, **options):
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()


def deep(dtype, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, (RGB / 255 * (1 if dtype == np.float32 else 65535)).astype(dtype),
                     photometric='rgb', **options)
    return file.getvalue()


EXIF = Image.Exif()
EXIF[0x0112], EXIF[0x010e] = 6, 'a description'
FILES = {
    'a.png': encoded('PNG', exif=EXIF), 'a.jpg': encoded('JPEG', exif=EXIF, icc_profile=b'x' * 99),
    'a.gif': encoded('GIF'), 'a.tif': encoded('TIFF'), 'b.tif': deep(np.uint16),
    'c.tif': deep(np.float32, compression='zlib'), 'a.bmp': encoded('BMP'), 'a.ppm': encoded('PPM'),
    'a.webp': encoded('WEBP', save_all=True, append_images=[Image.fromarray(RGB[::-1])])}


def read(path):
    """Reads a file as each part of the code does: [a shape, or None where it is refused]."""
    found = []
    for reader in (images.read, pictures.read):
        try:
            image = reader(path)
        except UserError as error:
            if str(path) not in str(error):
                raise
            found.append(None)
            continue
        assert image.ndim == 3
        assert image.shape[-1] == 3
        found.append(image.shape)
    return found


def checked(png):
    """A PNG file with right checksums, so that damage is not found by them."""
    found, at = bytearray(png), 8
    while at + 12 <= len(found):
        end = at + 8 + int.from_bytes(found[at:at + 4], 'big')
        found[end:end + 4] = struct.pack('>I', zlib.crc32(found[at + 4:end]))
        at = end + 4
    return bytes(found)


@examples(150)
@given(st.sampled_from(sorted(FILES)), st.integers(0, 10 ** 6), st.booleans())
def test_damaged_images(tmp_path_factory, name, seed, cut):
    random_ = random.Random(seed)
    content = bytearray(FILES[name])
    if cut:
        del content[random_.randrange(len(content)):]
    else:
        for _ in range(random_.choice((1, 1, 3, 10))):
            content[random_.randrange(min(len(content), random_.choice((60, 10 ** 6))))] = (
                random_.choice((0, 1, 127, 128, 255)))
        # Sizes stay small, because a picture of 80 megapixels is valid but takes long to read.
        if name == 'a.webp':
            content[20:30] = FILES[name][20:30]
    if name == 'a.png':
        content = checked(content)
    path = tmp_path_factory.getbasetemp() / f'damaged{Path(name).suffix}'
    path.write_bytes(content)
    read(path)


def png(width, height, *chunks):
    """A PNG file of chunks (name, content) after the header."""
    header = b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(content)) + name + content
        + struct.pack('>I', zlib.crc32(name + content)) for name, content in (header, *chunks))


def tiff(width, height, bits, samples=1):
    """A TIFF file of 100 bytes that says it is so large."""
    tags = ((256, width), (257, height), (258, bits), (259, 1), (262, 1), (273, 8), (277, samples),
            (278, height), (279, min(width * height, 2 ** 32 - 1)))
    return (b'II*\0\x08\0\0\0' + struct.pack('<H', len(tags)) + b''.join(
        struct.pack('<HHII', tag, 4, 1, value) for tag, value in tags) + bytes(68))


PIXELS, BOMB = (b'IDAT', zlib.compress(bytes(52))), zlib.compress(bytes(10 ** 8), 9)


@pytest.mark.parametrize('content', [
    png(30000, 30000, PIXELS), png(2 ** 31 - 1, 1, PIXELS), png(0, 5, PIXELS),
    png(4, 4, (b'zTXt', b'a\0\0' + BOMB), PIXELS), png(4, 4, (b'iCCP', b'a\0\0' + BOMB), PIXELS),
    FILES['a.gif'][:6] + b'\xff' * 4 + FILES['a.gif'][10:], b'P6 30000 30000 255\n123',
    b'RIFF\x1a\0\0\0WEBPVP8X\x0a' + bytes(7) + b'\xff' * 6, tiff(30000, 30000, 8),
    tiff(30000, 30000, 16), tiff(9000, 9000, 16), tiff(9000, 9000, 16, 60000), tiff(0, 0, 16),
    b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n',  # Ghostscript's
])
def test_bombs_and_programs(tmp_path, content):
    path = tmp_path / 'a b.png'
    path.write_bytes(content)
    assert read(path) == [None, None]


def test_corrupt_exif_data_are_ignored(tmp_path):
    path = tmp_path / 'a.png'
    exif = b'II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0\x01\0\0\0\x09\0\0\0'
    path.write_bytes(png(4, 4, (b'eXIf', exif), PIXELS, (b'IEND', b'')))
    assert read(path) == [(4, 4, 3)] * 2


def test_what_is_no_file_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / 'pipe.jpg')
    os.symlink('loop.jpg', tmp_path / 'loop.jpg')
    (tmp_path / 'folder.jpg').mkdir()
    for path in (tmp_path / 'pipe.jpg', tmp_path / 'loop.jpg', tmp_path / 'folder.jpg',
                 '/dev/zero', 'a\0.png', 'a' * 5000):
        assert read(path) == [None, None]
    with pytest.raises(UserError, match='pipe.jpg is not a readable image'):
        images.Picture(tmp_path / 'pipe.jpg')


# Weights files.

VALUES = (None, 0, -1, 2.5, float('nan'), '', 'x', [], [0], [-1, 2, 3], {}, {'a': 1}, True,
          10 ** 30, [10 ** 9] * 3, [None], ['a', 'a'])


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """The header and the tensors of a weights file of a tiny network."""
    path = tmp_path_factory.mktemp('weights') / 'a.safetensors'
    net = models.create('convnet', num_classes=2, width=2)
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), jax.eval_shape(
        net.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, 1), 'float32')))
    normalize = data.Normalization(np.float32([0]), np.float32([1]))
    weights.save(weights.Weights('convnet', net, variables, normalize, ('a', 'b'), (8, 8, 1)), path)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], 'little')
    return json.loads(content[8:8 + length]), content[8 + length:], path.parent / 'b.safetensors'


def load(path, header, tensors):
    """Whether a file with this header is loaded."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(header).to_bytes(8, 'little') + header + tensors)
    try:
        trained.load(path)
    except UserError:
        return False
    return True


@examples(60)
@given(st.sampled_from(('architecture', 'fields', 'mean', 'std', 'input_size', 'label_names',
                        'evaluation')),
       st.one_of(st.sampled_from(VALUES), st.sampled_from(NETWORKS), st.dictionaries(
           st.sampled_from(('width', 'num_classes', 'relu', 'dtype', 'name', 'parent', 'x', 'scan',
                            'blocks', 'layers_per_block', 'test_shorter_side')),
           st.sampled_from(VALUES), max_size=2)))
@example('fields', {'relu': 0})
@example('fields', {'dtype': [8, 8]})
@example('fields', {'name': 'x'})
@example('architecture', 0)
@example('input_size', [-1, 2, 3])
@example('fields', {'scan': True})
@example('evaluation', {'test_shorter_side': 'x'})
def test_damaged_metadata(whole, key, value):
    header, tensors, path = whole
    about = header['__metadata__'] | {key: json.dumps(value)}
    load(path, header | {'__metadata__': about}, tensors)


@examples(60)
@given(st.integers(0, 10 ** 6))
def test_damaged_headers(whole, seed):
    header, tensors, path = whole
    random_, text = random.Random(seed), bytearray(json.dumps(header).encode())
    for _ in range(random_.choice((1, 2, 5))):
        text[random_.randrange(len(text))] = random_.choice(b'\x00\xff0"{}[],9')
    load(path, bytes(text), tensors)
    header = json.loads(json.dumps(header))
    tensor = header[random_.choice([key for key in header if key != '__metadata__'])]
    tensor[random_.choice(tuple(tensor))] = random_.choice(
        ('F64', 'F16', 'BF16', 'I32', 'BOOL', 'F8_E4M3', 'X', [0], [2 ** 40] * 2, [0, 2 ** 63]))
    load(path, header, tensors)


def test_headers_that_are_too_deep_or_too_long(whole):
    header, tensors, path = whole
    assert load(path, header, tensors)
    assert not load(path, b'[' * 100_000, tensors)
    deep = header['__metadata__'] | {'fields': '[' * 100_000}
    assert not load(path, header | {'__metadata__': deep}, tensors)
    path.write_bytes((2 ** 63).to_bytes(8, 'little') + b'{}')
    with pytest.raises(UserError, match='damaged'):
        trained.load(path)
    (path.parent / 'config.json').write_text('[' * 100_000)
    path.write_bytes(safetensors.numpy.save({'a': np.ones(2, 'float32')}))
    with pytest.raises(UserError, match='config.json is damaged'):
        weights.load('convnet', path)
    (path.parent / 'config.json').unlink()


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(whole, value):
    header, tensors, path = whole
    bad = np.frombuffer(tensors, 'float32').copy()
    bad[0] = value
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, 'little') + text + bad.tobytes())
    with pytest.raises(UserError, match='not finite'):
        trained.load(path)


@pytest.mark.parametrize('source', [
    'hf-hub:', 'timm/', 'timm/é', 'timm/..', 'hf-hub:a/b@../..', 'a\0.safetensors', 'x' * 300,
    'x' * 300 + '.pth', '/dev/zero', 'timm/' + 'x' * 200, '\ud800.safetensors', 'timm/a--b', ' '])
def test_sources_that_are_none(source):
    with pytest.raises(UserError):
        trained.load(source)


# The JSON files of a run.

@pytest.mark.parametrize('content', ['', '{', '[]', '5', 'null', '"a"', '{"model": 5}', '[' * 99999,
                                     '{"model": {}}', '{"classes": 5}', '{"a.b": 1}'])
@pytest.mark.parametrize('file', ['config.json', 'dataset.json', 'metrics.jsonl',
                                  'environment.json'])
def test_damaged_files_of_a_run(file, content, tmp_path):
    workdir.write_config(tmp_path, base.get_config())
    atomic.write_json(tmp_path / 'dataset.json', {
        'classes': ['a', 'b'], 'image_shape': [8, 8, 1], 'mean': [0.5], 'std': [1]})
    (tmp_path / file).write_text(content + '\n')
    with pytest.raises(UserError):
        trained.load(tmp_path)  # It fails here at the latest, without a checkpoint.
    for function in (reports.read_metrics, workdir.write_environment):
        try:
            function(tmp_path)
        except UserError as error:
            if str(tmp_path / file) not in str(error):
                raise


def test_fields_that_an_older_run_lacks_have_their_defaults():
    config = base.get_config()
    del config.border
    config.image_size = 8
    network = trained.load('embedded')._replace(config=config)
    own = network.training(base.get_config())
    assert (own.border, own.image_size) == (0, 8)
    config.image_size = -3
    with pytest.raises(UserError, match='image_size=-3'):
        train.check(network.training(base.get_config()))


# Names.

def test_a_run_in_a_place_with_an_odd_name(tmp_path, tiny, monkeypatch):
    """Folders, classes and working directories may be called anything that a file system takes."""
    latin = os.fsdecode(b'caf\xe9')
    root = tmp_path / f"my 'photos' 100% é😀 {latin}"
    classes = ('.hidden', 'a b', "it's", 'new\r\nline', 'é😀', 'x' * 255, '$5_$10', '$x^{\\frac{$',
               latin)
    for split in ('train', 'test'):
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for i in range(2):
                (root / split / name / f'{i} %d é.bmp').write_bytes(FILES['a.bmp'])
    config = tiny.copy_and_resolve_references()
    config.update({'dataset': 'folder', 'data_dir': f'{root}/', 'image_size': 8, 'batch_size': 5,
                   'steps': 1, 'model': {'name': 'convnet', 'widths': None}})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match='checkpoints need a path in UTF-8'):
        experiments.find('train')(config, str(root / 'run'))
    directory = tmp_path / "my 'runs' 100% é😀" / ('%s {} ' + 'y' * 200)
    experiments.find('train')(config, str(directory.relative_to(tmp_path)) + '/')
    network = trained.load(directory)
    assert network.classes == tuple(sorted([*classes[1:-1], r'caf\xe9']))
    assert network(np.zeros((1, 8, 8, 3), np.uint8)).shape == (1, 8)
    assert network.config.data_dir == f'{root}/'


def test_labels_out_of_range():
    picture = {'image': np.zeros((8, 8, 1), np.uint8)}
    for label in (-1, 1, 2 ** 40):
        with pytest.raises(UserError, match='label'):
            data.Resident(data.Source([picture | {'label': label}], ('a',)), data.Crops())


def test_one_class_and_empty_classes(tmp_path, set_up):
    for split in ('train', 'test'):
        (tmp_path / split / 'cat').mkdir(parents=True)
        for i in range(8):
            (tmp_path / split / 'cat' / f'{i}.bmp').write_bytes(FILES['a.bmp'])
    own = {'dataset': 'folder', 'data_dir': str(tmp_path), 'image_size': 8}
    assert set_up(training(own))  # A single class is no error.
    config = importlib.import_module('configs.features').get_config()
    config.update(source='embedded', data_dir=str(tmp_path), devices=1)
    with pytest.raises(UserError, match="images of one class, 'cat'"):
        experiments.find('features')(config, tmp_path / 'run')
    for split in ('train', 'test'):
        (tmp_path / split / 'dog').mkdir()
    assert not set_up(training(own))
    with pytest.raises(UserError, match='dog has no image'):
        data.load('folder', 'train', str(tmp_path))


# Users.

@pytest.fixture
def homeless(monkeypatch):
    """As in a container: a user id that the system does not know, and no $HOME."""
    def unknown(number):
        raise KeyError(f'getpwuid(): uid not found: {number}')

    for name in ('HOME', 'XDG_CACHE_HOME', 'TFDS_DATA_DIR'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, 'getpwuid', unknown)


def test_a_user_without_a_home_keeps_no_compiled_programs(homeless):
    cache = jax.config.jax_compilation_cache_dir
    jax.config.update('jax_compilation_cache_dir', None)
    try:
        parallel.cache_programs()
        assert jax.config.jax_compilation_cache_dir is None
    finally:
        jax.config.update('jax_compilation_cache_dir', cache)


def test_a_user_without_a_home_is_told_to_name_directories(homeless):
    with pytest.raises(UserError, match='^~/photos/train cannot be read'):
        data.load('folder', 'train', '~/photos')
    with pytest.raises(UserError, match='data_dir=~/sets: this user has no home directory'):
        data.load('cifar10', 'train', '~/sets')


class Malicious:
    """Unpickling it writes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, 'w')


def test_nothing_is_unpickled_from_patches(tmp_path):
    from cnnjax.images import strongest

    (tmp_path / 'patches.npz').write_bytes(pickle.dumps(Malicious(tmp_path / 'executed')))
    with pytest.raises(UserError, match='patches.npz'):
        strongest.load(tmp_path / 'patches.npz')
    assert not (tmp_path / 'executed').exists()
