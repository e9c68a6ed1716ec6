"""U-Net, FCN and torchvision's FCN on a dilated ResNet.

The counts of parameters are in test_models.py, the gradients of PyTorch in test_gradients.py, the
logits of torchvision in test_weights.py.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models, summary
from cnnjax.errors import UserError
from cnnjax.models import fcn
from tests.test_later_models import random, shapes

# U-Net.

def test_sizes_of_unet():
    logits, taps, count = shapes('unet')
    assert count == 31_030_658
    assert logits == (388, 388, 2)
    skips = [taps[f'relu{level}_2'][0] for level in (1, 2, 3, 4)]
    crops = [taps[f'crop{level}'][0] for level in (1, 2, 3, 4)]
    assert skips == [568, 280, 136, 64]
    assert crops == [taps[f'up{level}'][0] for level in (1, 2, 3, 4)] == [392, 200, 104, 56]
    assert [(a - b) // 2 for a, b in zip(skips, crops, strict=True)] == [88, 40, 16, 4]
    assert taps['relu5_2'] == (28, 28, 1024)
    assert shapes('unet_padded')[0] == (512, 512, 2)


def test_multiply_adds_of_unet():
    net = models.create('unet')
    (_, taps), variables = jax.eval_shape(net.init_with_output, jax.random.key(0),
                                          jax.ShapeDtypeStruct((1, 572, 572, 1), 'float32'))
    counts = {layer: math.prod(arrays['kernel'].shape) * math.prod(taps[layer].shape[1:3])
              for layer, arrays in variables['params'].items()}
    ups = sum(count for layer, count in counts.items() if layer.startswith('up')) // 4
    assert ups == 5_631_377_408  # an output pixel of an up-convolution sees one input pixel
    assert sum(count for layer, count in counts.items()
               if layer.startswith('conv')) == 144_797_047_040
    assert sum(layer.startswith(('up', 'conv')) for layer in counts) == 23


def test_the_centre_is_cropped():
    x = random(1, 9, 12, 2)
    np.testing.assert_array_equal(models.unet.centre_crop(x, (1, 5, 4, 2)), x[:, 2:7, 4:8])


def test_the_skips_of_unet_are_crops_of_the_contracting_path():
    net = models.create('unet', widths=(2, 3))
    x = random(1, 20, 24, 1)
    (logits, taps), _ = jax.jit(net.init_with_output)(jax.random.key(0), x)
    assert logits.shape == (1, 4, 8, 2)
    np.testing.assert_array_equal(taps['crop1'], taps['relu1_2'][:, 4:-4, 4:-4])


def test_an_output_of_unet_sees_the_pixels_around_its_own():
    """Mirroring the images mirrors the logits of a network whose kernels are symmetric."""
    net = models.create('unet', widths=(2, 3))
    x = random(1, 20, 24, 1)
    variables = jax.tree.map(lambda a: (a + a[::-1, ::-1]) / 2 if a.ndim == 4 else a,
                             jax.jit(net.init)(jax.random.key(0), x))
    apply = jax.jit(net.apply)
    np.testing.assert_allclose(apply(variables, x[:, ::-1, ::-1])[0][:, ::-1, ::-1],
                               apply(variables, x)[0], atol=1e-5)


@pytest.mark.parametrize(('name', 'shape', 'advice'), [
    ('unet', (570, 572), 'heights 556 and 572, widths 572 and 572'),
    ('unet', (100, 572), 'heights 188, '),
    ('unet_padded', (512, 500), 'widths 496 and 512'),
])
def test_unet_names_the_nearest_sizes_that_work(name, shape, advice):
    with pytest.raises(UserError, match=advice):
        jax.eval_shape(models.create(name).init, jax.random.key(0), jnp.zeros((1, *shape, 1)))


def drawn(net, x, seed=0):
    """Variables of the shapes for images x, and the logits and taps that they give."""
    generator = np.random.default_rng(seed)
    variables = jax.tree.map(lambda leaf: np.float32(generator.uniform(0.1, 1, leaf.shape) - (
        0.5 if leaf.ndim == 4 else 0)), jax.eval_shape(net.init, jax.random.key(0), x))
    return variables, *jax.tree.map(np.asarray, jax.jit(net.apply)(variables, x))


def test_unet_with_batch_normalization():
    """It stands between a 3x3 convolution, which then has no bias, and its ReLU."""
    net, x = models.create('unet_padded', widths=(2, 3), norm='batch'), random(2, 6, 10, 1)
    variables, logits, taps = drawn(net, x)
    assert logits.shape == (2, 6, 10, 2)
    for name, tap in taps.items():
        if name.startswith('conv'):
            own, norm = variables['params'][name], name.replace('conv', 'bn')
            assert ('bias' in own) == (name == 'conv')
            if name != 'conv':
                by = variables['params'][norm] | variables['batch_stats'][norm]
                normalized = (tap - by['mean']) / np.sqrt(by['var'] + 1e-5)
                np.testing.assert_allclose(taps[name.replace('conv', 'relu')], np.maximum(
                    normalized * by['scale'] + by['bias'], 0), rtol=1e-5, atol=1e-5)
    assert shapes('unet', norm='batch')[0] == (388, 388, 2)
    with pytest.raises(UserError, match="norm='layer' is none of 'none', 'batch'"):
        models.create('unet', norm='layer')


def test_unet_drops_on_the_last_two_levels():
    net, x = models.create('unet_padded', widths=(2, 2, 2), dropout=0.0), random(1, 8, 8, 1)
    variables, *_ = drawn(net, x)
    _, taps = jax.jit(functools.partial(net.clone(dropout=1.0).apply, train=True))(
        variables, x, rngs={'dropout': jax.random.key(0)})
    assert taps['crop1'].any()
    assert taps['relu2_2'].any()
    assert not taps['crop2'].any()
    bias = variables['params']['up2']['bias']  # all that is left of what comes from below
    np.testing.assert_array_equal(taps['up2'], np.broadcast_to(bias, taps['up2'].shape))


# FCN.
NARROW = {'widths': (2, 3, 4, 3, 2), 'hidden': (4, 3)}


def test_sizes_of_fcn():
    """Those of the released nets: pools with ceil, scores of 500 pixels on 16 x 16 places."""
    logits, taps, _ = shapes('fcn8s')
    assert logits == (500, 500, 21)
    assert {name: taps[name][0] for name in taps if 'relu' not in name and (
        '_1' in name or 'pool' in name or 'score' in name or 'fc' in name)} == {
        'conv1_1': 698, 'pool1': 349, 'conv2_1': 349, 'pool2': 175, 'conv3_1': 175, 'pool3': 88,
        'conv4_1': 88, 'pool4': 44, 'conv5_1': 44, 'pool5': 22, 'fc6': 16, 'fc7': 16,
        'score_fr': 16, 'upscore_pool4': 34, 'score_pool4': 44, 'fuse_pool4': 34,
        'upscore_pool3': 70, 'score_pool3': 88, 'fuse_pool3': 70, 'score': 500}
    assert summary.summarize(models.create('fcn8s')).rows[-1].name == 'score'


@pytest.mark.parametrize('name', ['fcn32s', 'fcn16s', 'fcn8s'])
def test_an_fcn_scores_every_pixel_of_any_picture(name):
    net = models.create(name, **NARROW)
    for height, width in ((1, 1), (31, 33), (57, 250), (333, 500), (96, 97), (24, 25), (27, 28)):
        (logits, _), _ = jax.eval_shape(net.init_with_output, jax.random.key(0),
                                        jnp.zeros((1, height, width, 3)))
        assert logits.shape == (1, height, width, 21)


@pytest.mark.parametrize('name', ['fcn32s', 'fcn16s', 'fcn8s'])
def test_a_score_lies_at_the_middle_of_what_it_sees(name):
    net = models.create(name, **NARROW)
    rows = {row.name: row for row in summary.summarize(net, (64, 64, 3)).rows}

    def middle(layer, unit):
        row = rows[layer]
        return row.offset[0] + unit * row.stride[0] + (row.size[0] - 1) / 2

    # Where the last map's first unit is; and where those before it are, in that map's steps.
    factor = 32 >> net.skips
    place = factor - 0.5 - fcn.CROPS[net.skips]
    for pool, first in reversed(fcn.SKIPS[:net.skips]):
        assert middle(f'score_{pool}', first) == place
        place, factor = place + 1.5 * factor, 2 * factor
    assert middle('score_fr', 0) == place
    assert middle('score_fr', 1) == place + 32


def test_up_sampling_is_linear_between_the_centres():
    """4 pixels wide with a step of 2: 1/4, 3/4, 3/4, 1/4; outside are zeros, as in Caffe."""
    x = np.float32([1, 3])[None, :, None, None]
    x = np.concatenate([x, 10 * x], -1)
    found = fcn.upsample(jnp.asarray(x), 2, 0, (6, 4))[0, :, :, 0]
    side = np.float32([0.25, 0.75, 0.75 + 0.75, 0.25 + 2.25, 2.25, 0.75])
    np.testing.assert_allclose(found, side[:, None] * np.float32([0.25, 0.75, 0.75, 0.25]))
    np.testing.assert_allclose(fcn.upsample(jnp.asarray(x), 2, 3, (2, 1))[0, :, 0, 1],
                               10 * side[3:5] * 0.25)


def test_all_scores_begin_as_zero_and_a_scale_is_before_them():
    net, x = models.create('fcn8s', skip_scales=(0.01, 0.0001), **NARROW), random(1, 9, 20, 3)
    params = jax.jit(net.init)(jax.random.key(0), x)['params']
    assert all(bool(layer['kernel'].any()) != name.startswith('score')
               for name, layer in params.items())
    variables, _, taps = drawn(net, x)
    for pool, scale in (('pool4', 0.01), ('pool3', 0.0001)):
        own = variables['params'][f'score_{pool}']
        np.testing.assert_allclose(taps[f'score_{pool}'], scale * taps[pool] @ own['kernel'][0, 0]
                                   + own['bias'], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('fields', [{'hidden': (4,)}, {'hidden': ()}, {'skip_scales': (1.0,)}])
def test_fields_that_no_fcn_has(fields):
    with pytest.raises(UserError, match=f'not hidden=.*{next(iter(fields.values()))}'.replace(
            '(', r'\(').replace(')', r'\)')):
        jax.eval_shape(models.create('fcn8s', **fields).init, jax.random.key(0),
                       jnp.zeros((1, 8, 8, 3)))
    with pytest.raises(UserError, match='4 widths for 5 groups'):
        models.create('fcn8s', widths=(1, 2, 3, 4))
    with pytest.raises(UserError, match='skips=3'):
        models.create('fcn8s', skips=3)


# Dilation, and the network that has it.

@pytest.mark.parametrize(('name', 'fields'), [
    ('resnet18', {}), ('resnet50', {}), ('resnet50', {'stride_in': '1x1', 'scan': True}),
    ('resnet50', {'shortcut': 'A'}), ('preact_resnet110', {}), ('preact_resnet200', {}),
    ('resnet50d', {}), ('preact_resnet200', {'shortcut': 'D'})])
def test_a_dilated_stage_computes_the_same_at_the_strided_places(name, fields):
    net, x = models.create(name, blocks=(1, 2, 2), widths=(2, 4, 8), **fields), random(1, 37, 45, 3)
    variables, _, strided = drawn(net, x)
    for dilated in (1, 2):
        _, taps = jax.jit(net.clone(dilated=dilated).apply)(variables, x)
        for stage in ('conv2_1', 'conv3_1', 'conv3_2', 'conv4_1', 'conv4_2'):
            step = 2 ** max(0, int(stage[4]) - 4 + dilated)
            np.testing.assert_allclose(taps[stage][:, ::step, ::step], strided[stage], rtol=1e-4,
                                       atol=1e-5, err_msg=stage)
        assert taps['conv4_2'].shape[1:3] == strided[f'conv{4 - dilated}_1'].shape[1:3]
    with pytest.raises(UserError, match='dilated=3: only the stages after the first stride, 2'):
        net.clone(dilated=3).apply(variables, x)


def test_fcn_resnet_and_its_second_head():
    net = models.create('fcn_resnet50', blocks=(1, 1, 1), widths=(2, 3, 4), auxiliary_weight=0.5)
    assert net.auxiliary == {'aux_classifier': 0.5}
    assert models.create('fcn_resnet50').auxiliary == {}
    x = jnp.zeros((2, 41, 58, 3))
    variables = jax.eval_shape(net.init, jax.random.key(0), x)
    assert 'aux_classifier' in variables['params']
    _, taps = jax.eval_shape(net.apply, variables, x)
    assert not any('aux' in name for name in taps)
    assert taps['conv4_1'].shape[1:3] == (11, 15)
    assert summary.summarize(net.clone(auxiliary_weight=0.0)).rows[-1].name == 'classifier'
    (logits, taps), _ = jax.eval_shape(functools.partial(
        net.apply, train=True, mutable=['batch_stats'], rngs={'dropout': jax.random.key(0)}),
        variables, x)
    assert logits.shape == taps['aux_classifier'].shape == (2, 41, 58, 21)
