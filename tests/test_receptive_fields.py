"""Receptive fields against the footprint of the gradient, and against published ones."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import layers, models, summary
from cnnjax.layers import pooling


def rows(name, **fields):
    return {row.name: row for row in summary.summarize(models.create(name, **fields)).rows}


@pytest.mark.parametrize(('name', 'fields', 'layer', 'size', 'stride'), [
    ('vgg16', {}, 'conv5_3', 196, 16),
    ('vgg16', {}, 'pool5', 212, 32),
    ('resnet50', {'stride_in': '1x1'}, 'conv5_3', 483, 32),  # Araujo et al. 2019, Table 1
    ('resnet50', {}, 'conv5_3', 427, 32),
    ('alexnet', {}, 'pool5', 195, 32),
    ('mobilenet_v1', {}, 'block13', 315, 32),
    ('fcn32s', {}, 'fc7', 404, 32),  # Long et al. 2014, Table 1
])
def test_published_receptive_fields(name, fields, layer, size, stride):
    row = rows(name, **fields)[layer]
    assert (row.size, row.stride) == ((size, size), (stride, stride))


def test_full_layers_see_the_whole_image():
    found = rows('vgg11')
    assert found['fc6'].size == (math.inf, math.inf)
    assert rows('resnet20')['pool'].size == (math.inf, math.inf)


class Crooked(nn.Module):
    """Everything that moves pixels, differently along the two sides."""

    num_classes: int = 2
    image_shape = (33, 40, 2)

    @nn.compact
    def __call__(self, images, train=False):
        taps, x = {}, images
        x = taps['dilated'] = nn.Conv(3, (3, 2), (2, 1), ((2, 0), (0, 1)), kernel_dilation=(2, 3),
                                      name='dilated')(x)
        x = taps['flipped'] = x[:, ::-1, 3:]
        y = taps['cut'] = x[:, 1:]
        x = taps['joined'] = jnp.concatenate([x[:, :-1], y], -1)
        x = taps['turned'] = x.transpose(0, 2, 1, 3)
        x = taps['pooled'] = nn.avg_pool(x, (2, 3), (2, 3))
        x = taps['up'] = nn.ConvTranspose(2, (2, 2), (2, 2), 'VALID', name='up')(x)
        x = taps['picked'] = x[:, :, jnp.array([0, 3, 4, 9])]
        x = taps['finer'] = models.fcn.upsample(x, 2, 1, (9, 10))
        taps['mixed'] = x * x.sum(1, keepdims=True)
        return x.mean((1, 2)), taps


@pytest.mark.parametrize(('net', 'shape'), [
    (Crooked(), (33, 40, 2)),
    (models.create('vgg11', groups=((3,), (3, 3), (1, 3)), widths=(2, 3, 3), hidden=(4,)),
     (24, 28, 1)),
    (models.create('resnet50', blocks=(1, 2), widths=(2, 2), stride_in='1x1'), (48, 64, 1)),
    (models.create('resnet20', blocks=(3, 1, 1), widths=(2, 4, 4)), (16, 24, 1)),
    (models.create('resnet20', blocks=(3, 1, 1), widths=(2, 4, 4), scan=True), (16, 24, 1)),
    (models.create('densenet121', layers_per_block=(2, 1), growth=2, stem_width=3), (32, 48, 1)),
    (models.create('fractalnet20', columns=2, widths=(2, 2), dropout=(0.0, 0.0)), (12, 16, 1)),
    (models.create('unet', widths=(2, 2)), (28, 32, 1)),
    (models.create('fmp6_32', depth=2, width=2, canvas=16), (16, 16, 1)),
    (models.create('fcn_resnet50', blocks=(1, 2, 1), widths=(1, 1, 1), base_width=64),
     (33, 40, 1)),
], ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None)
def test_receptive_fields_are_the_footprints_of_the_gradient(net, shape, monkeypatch):
    """With positive weights, and without maxima, every pixel that is seen has a gradient."""
    monkeypatch.setattr(pooling, 'larger', jnp.maximum)  # Both arguments share its gradient.
    assert_footprints(net.clone(**{field: value for field, value in (
        ('relu', lambda x: x), ('pool', layers.average_pool)) if hasattr(net, field)}), shape)


def test_receptive_fields_where_edges_are_repeated():
    net = models.create('vgg11', groups=((3,), (5, 3), (3,)), widths=(2, 2, 2), hidden=(),
                        relu=lambda x: x, pool='blur')
    with layers.continued_edges():
        assert_footprints(net, (24, 34, 1))
    assert [row.size[0] for row in summary.summarize(net, (24, 34, 1)).rows
            if row.name.startswith('pool')] == [6, 24, 44]  # by hand; windows of four pixels


def assert_footprints(net, shape):
    variables = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), jax.eval_shape(
        net.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *shape), 'float32')))
    image = jnp.ones((1, *shape))  # all alike: a maximum's gradient goes to all
    outputs, pull = jax.vjp(jax.jit(lambda image: net.apply(variables, image)[1]), image)
    pull = jax.jit(pull)
    for row in summary.summarize(net, shape).rows:
        name = row.name
        if name not in outputs:
            continue
        output = outputs[name]
        assert output.shape[1:] == row.shape
        for i in range(0, min(output.shape[1:-1] or (1,)), 2):
            unit = (0, *(i,) * (output.ndim - 2))
            one = jax.tree.map(jnp.zeros_like, outputs)
            footprint, = pull(one | {name: one[name].at[unit].set(1.0)})
            for side, (extent, n) in enumerate(zip(row.seen, shape, strict=False)):
                k = 0 if extent.axis is None else i
                low, high = max(extent.low[k], 0), min(extent.high[k], n - 1)
                pixels = np.flatnonzero(np.asarray(footprint[0]).any((1 - side, 2)))
                if low > high:
                    assert not len(pixels)
                else:
                    assert (pixels[0], pixels[-1]) == (low, high), (name, i, side)


def test_parts_of_the_channels_see_what_all_of_them_see():
    found = rows('rir18_wide', blocks=(1, 1), widths=(2, 4))['conv3_1/conv1']
    assert (found.size, found.stride) == ((11, 11), (2, 2))  # three 3x3s, and one two pixels apart
