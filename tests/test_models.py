"""The networks against the counts of their papers and torchvision, and against hand computations."""

import functools
import math
import operator

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from cnnjax import layers, models
from cnnjax.errors import UserError

TRUNK = {'hidden': (), 'num_classes': 10}  # VGG on 32 x 32 images: the convolutions and one layer
ULTRA_DEEP = {'widths': (16, 32, 64, 128, 128), 'num_classes': 100}  # FractalNet's table of depths

# (name, fields, images' side, parameters, multiply-adds of the convolutions and full layers or None).
# Parameters count the scale and bias of batch normalization, but not its statistics. Sources:
# torchvision for the ImageNet networks of A, B, D, E, ResNet B and DenseNet; FractalNet's from the
# authors' generator; the others by the formulas of the papers.
COUNTS = [
    ('vgg11', {}, 224, 132_863_336, 7_609_090_048),
    ('vgg11_lrn', {}, 224, 132_863_336, 7_609_090_048),
    ('vgg13', {}, 224, 133_047_848, 11_308_466_176),
    ('vgg16c', {}, 224, 133_638_952, 11_770_888_192),
    ('vgg16', {}, 224, 138_357_544, 15_470_264_320),
    ('vgg19', {}, 224, 143_667_240, 19_632_062_464),
    ('vgg11_bn', {}, 224, 132_868_840, 7_609_090_048),
    ('vgg13_bn', {}, 224, 133_053_736, 11_308_466_176),
    ('vgg16c_bn', {}, 224, 133_638_952 + 2 * 4224, 11_770_888_192),  # two per feature map, as D
    ('vgg16_bn', {}, 224, 138_365_992, 15_470_264_320),
    ('vgg19_bn', {}, 224, 143_678_248, 19_632_062_464),
    ('vgg11', TRUNK, 32, 9_225_610, 152_769_536),
    ('vgg11_bn', TRUNK, 32, 9_231_114, 152_769_536),
    ('vgg16', TRUNK, 32, 14_719_818, 313_201_664),
    ('vgg16_bn', TRUNK, 32, 14_728_266, 313_201_664),

    ('resnet18', {}, 224, 11_689_512, 1_814_073_344),
    ('resnet18', {'shortcut': 'A'}, 224, 11_515_688, 1_794_805_760),
    ('resnet18', {'shortcut': 'C'}, 224, 12_043_816, None),
    ('resnet34', {}, 224, 21_797_672, 3_663_761_408),
    ('resnet34', {'shortcut': 'A'}, 224, 21_623_848, 3_644_493_824),
    ('resnet34', {'shortcut': 'C'}, 224, 22_716_840, None),
    ('resnet50', {}, 224, 25_557_032, 4_089_184_256),
    ('resnet50', {'stride_in': '1x1'}, 224, 25_557_032, 3_857_973_248),
    ('resnet101', {}, 224, 44_549_160, 7_801_405_440),
    ('resnet101', {'stride_in': '1x1'}, 224, 44_549_160, 7_570_194_432),
    ('resnet152', {}, 224, 60_192_808, 11_513_626_624),
    ('resnet152', {'stride_in': '1x1'}, 224, 60_192_808, 11_282_415_616),
    ('resnet20', {}, 32, 269_722, 40_551_040),
    ('resnet20', {'shortcut': 'B'}, 32, 272_474, None),
    ('resnet20', {'num_classes': 100}, 32, 269_722 + 5_850, None),
    ('resnet32', {}, 32, 464_154, 68_862_592),
    ('resnet32', {'shortcut': 'B'}, 32, 466_906, None),
    ('resnet32', {'num_classes': 100}, 32, 464_154 + 5_850, None),
    ('resnet44', {}, 32, 658_586, 97_174_144),
    ('resnet44', {'shortcut': 'B'}, 32, 661_338, None),
    ('resnet44', {'num_classes': 100}, 32, 658_586 + 5_850, None),
    ('resnet56', {}, 32, 853_018, 125_485_696),
    ('resnet56', {'shortcut': 'B'}, 32, 855_770, None),
    ('resnet56', {'num_classes': 100}, 32, 853_018 + 5_850, None),
    ('resnet110', {}, 32, 1_727_962, 252_887_680),
    ('resnet110', {'shortcut': 'B'}, 32, 1_730_714, None),
    ('resnet110', {'num_classes': 100}, 32, 1_727_962 + 5_850, None),
    ('resnet110', {'blocks': (200,) * 3}, 32, 19_421_274, 2_829_238_912),
    ('resnet110', {'blocks': (200,) * 3, 'shortcut': 'B'}, 32, 19_424_026, None),

    ('densenet121', {}, 224, 7_978_856, 2_834_161_664),
    ('densenet161', {}, 224, 28_681_000, 7_727_907_072),
    ('densenet169', {}, 224, 14_149_480, 3_359_843_328),
    ('densenet201', {}, 224, 20_013_928, 4_291_365_888),
    ('densenet_l40_k12', {}, 32, 1_019_722, 264_812_928),
    ('densenet_l40_k12', {'num_classes': 100}, 32, 1_060_132, None),
    ('densenet_l100_k12', {}, 32, 6_979_642, 1_769_516_448),
    ('densenet_l100_k12', {'num_classes': 100}, 32, 7_084_852, None),
    ('densenet_l100_k24', {}, 32, 27_249_082, 6_889_347_744),
    ('densenet_l100_k24', {'num_classes': 100}, 32, 27_457_972, None),
    ('densenet_bc_l100_k12', {}, 32, 769_162, 287_929_692),
    ('densenet_bc_l100_k12', {'num_classes': 100}, 32, 800_032, None),
    ('densenet_bc_l250_k24', {}, 32, 15_324_406, 5_418_785_724),
    ('densenet_bc_l250_k24', {'num_classes': 100}, 32, 15_480_556, None),
    ('densenet_bc_l190_k40', {}, 32, 25_624_430, 9_301_945_740),
    ('densenet_bc_l190_k40', {'num_classes': 100}, 32, 25_821_620, None),
    ('densenet_bc_l40_k36', {}, 32, 1_542_682, None),
    ('densenet_bc_l40_k48', {}, 32, 2_733_130, None),
    ('densenet_bc_l40_k60', {}, 32, 4_261_690, None),

    ('fractalnet20', {}, 32, 33_714_314, 845_222_912),
    ('fractalnet20', {'num_classes': 100}, 32, 33_714_314 + 46_170, None),
    ('fractalnet40', {}, 32, 76_084_554, 2_036_077_568),
    ('fractalnet40', {'num_classes': 100}, 32, 76_084_554 + 46_170, None),
    ('fractalnet20', {**ULTRA_DEEP, 'columns': 1}, 32, 257_924, None),
    ('fractalnet20', {**ULTRA_DEEP, 'columns': 2}, 32, 846_612, None),
    ('fractalnet20', {**ULTRA_DEEP, 'columns': 3}, 32, 2_122_628, None),
    ('fractalnet20', {**ULTRA_DEEP, 'columns': 4}, 32, 4_773_300, None),
    ('fractalnet20', {**ULTRA_DEEP, 'columns': 5}, 32, 10_173_284, None),
    ('fractalnet20', {**ULTRA_DEEP, 'columns': 6}, 32, 21_071_892, None),
]
IDS = ['-'.join([name, *(f'{field}={value}' for field, value in fields.items())])
       for name, fields, *_ in COUNTS]

# Narrow networks of every family; the smallest images they take.
TINY = {
    'vgg11': ({'widths': (2, 3, 4, 4, 4), 'hidden': (6, 5), 'num_classes': 4}, 32),
    'resnet20': ({'blocks': (1, 1, 1), 'widths': (2, 4, 8), 'num_classes': 4}, 8),
    'resnet50': ({'blocks': (1, 1, 1, 1), 'widths': (2, 2, 2, 2), 'num_classes': 4}, 32),
    'densenet121': ({'layers_per_block': (2, 1), 'growth': 2, 'stem_width': 4, 'num_classes': 4},
                    16),
    'densenet_l40_k12': ({'layers_per_block': (2, 1), 'growth': 2, 'stem_width': 4,
                          'num_classes': 4}, 8),
    'fractalnet20': ({'columns': 2, 'widths': (2, 3), 'dropout': (0.0, 0.1), 'num_classes': 4}, 4),
}


def shapes(name, side, **fields):
    """The shapes of (logits, taps) and of the variables, for one image."""
    net = models.create(name, **fields)
    return jax.eval_shape(net.init_with_output, jax.random.key(0), jnp.zeros((1, side, side, 3)))


def flatten(variables):
    """{path: array}, a path being 'conv4_2/conv1/kernel' and the like."""
    return traverse_util.flatten_dict(variables, sep='/')


def tap_of(parameter, taps):
    """What a layer made: the tap of its own name or, for a part of a unit, of the unit's name."""
    layer = parameter.rpartition('/')[0]
    return taps[layer if layer in taps else layer.rpartition('/')[0]]


def multiply_adds(params, taps):
    return sum(array.size * math.prod(tap_of(path, taps).shape[1:-1])
               for path, array in flatten(params).items() if path.endswith('kernel'))


@pytest.mark.parametrize(('name', 'fields', 'side', 'parameters', 'operations'), COUNTS, ids=IDS)
def test_counts(name, fields, side, parameters, operations):
    (logits, taps), variables = shapes(name, side, **fields)
    params = variables['params']
    assert sum(array.size for array in jax.tree.leaves(params)) == parameters
    if operations is not None:
        assert multiply_adds(params, taps) == operations
    assert logits.shape == (1, params['fc8' if 'fc8' in params else 'fc']['bias'].size)


def test_no_network_is_left_uncounted():
    assert models.names() == sorted({name for name, fields, *_ in COUNTS} & set(models.names()))
    assert set(models.names()) <= {name for name, fields, *_ in COUNTS if not fields}


@pytest.mark.parametrize(('name', 'parameters', 'operations'), [
    ('fractalnet20', 20_398_538, 549_131_264),
    ('fractalnet40', 42_375_370, 1_190_859_776),
])
def test_counts_of_the_deepest_column_of_a_fractal(name, parameters, operations):
    net = models.create(name)
    images = jnp.zeros((1, 32, 32, 3))
    variables = jax.eval_shape(net.init, jax.random.key(0), images)
    _, taps = jax.eval_shape(functools.partial(net.apply, column=net.columns), variables, images)
    params = {unit: arrays for unit, arrays in variables['params'].items() if unit in taps}
    assert all(f'column{net.columns}' in unit or unit == 'fc' for unit in params)
    assert sum(array.size for array in jax.tree.leaves(params)) == parameters
    assert multiply_adds(params, taps) == operations
