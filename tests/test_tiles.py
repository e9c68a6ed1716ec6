"""Gradients computed in tiles against those of the whole image, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models
from cnnjax.data import Normalization
from cnnjax.errors import UserError
from cnnjax.images import neural_style, objectives, tiles
from cnnjax.images.regularizers import total_variation
from cnnjax.trained import Trained

VGG = {'groups': ((3,), (3,), (3,)), 'widths': (3, 4, 5), 'hidden': (6,)}
NETS = {
    'vgg': lambda: models.create('vgg11', **VGG, num_classes=3, dtype='float64'),
    'vgg_average': lambda: models.create('vgg11', **VGG, num_classes=3, dtype='float64',
                                         pool='average'),
    'resnet': lambda: models.create('resnet18', blocks=(1, 1), widths=(3, 4), num_classes=3,
                                    dtype='float64'),
    'alexnet': lambda: models.create('alexnet', widths=(4, 4, 6, 6, 4), hidden=(4, 4),
                                     num_classes=3, dtype='float64'),
}
SHAPES = {'vgg': (32, 32, 3), 'vgg_average': (32, 32, 3), 'resnet': (64, 64, 3),
          'alexnet': (67, 67, 3)}
LAYERS = {'vgg': ['relu1_1', 'relu2_1', 'conv3_1'], 'vgg_average': ['relu1_1', 'pool2', 'relu3_1'],
          'resnet': ['relu1', 'conv2_1/relu1', 'conv3_1'], 'alexnet': ['conv1', 'norm1', 'pool2']}


@functools.cache
def network(name, mean=(0.4, 0.5, 0.6)):
    """With random parameters, biases and batch statistics included; float64 under enable_x64."""
    with jax.enable_x64(True):
        net, shape = NETS[name](), SHAPES[name]
        shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, *shape)))
        random = np.random.default_rng(0)

        def draw(path, leaf):
            values = random.normal(size=leaf.shape)
            if len(leaf.shape) > 1:
                return values / np.sqrt(np.prod(leaf.shape[:-1]) / 2)
            positive = path[-1].key in ('scale', 'var')
            return 1 + 0.1 * np.abs(values) if positive else 0.2 * values
        variables = jax.tree_util.tree_map_with_path(draw, shapes)
    return Trained(net, variables, Normalization(np.float32(mean), np.float32([0.25] * 3)),
                   tuple('abc'), shape, None)


def picture(height, width, seed=0):
    return np.random.default_rng(seed).random((height, width, 3))


def mixture(layers):
    """Gram and Wasserstein styles, a content, a code and a dream."""
    return (neural_style.style(layers) + 0.1 * neural_style.style(layers[-1:], None, 'wasserstein')
            + neural_style.content(layers[1:]) + objectives.match(layers[0])
            + 1e-3 * objectives.dream(layers[-1]))


def halves(taps):
    """The regions left and right of the fifth column: {layer: {'regions': [h, w, 2]}}."""
    left = {layer: jnp.zeros(tap.shape[:2]).at[:, :5].set(1.0) for layer, tap in taps.items()}
    return {layer: {'regions': jnp.stack([mask, 1 - mask], -1)} for layer, mask in left.items()}


@functools.cache
def problem(name, shape):
    """A loss (tile, variables, image) of images of this shape; the whole image's (value, gradient).

    The style of 'vgg_average' has two regions.
    """
    net, layers = network(name), LAYERS[name]
    objective = mixture(layers)

    @jax.jit
    def prepare(content, style):
        taps, others = ({layer: tiles.taps(net, net.variables, image)[layer] for layer in layers}
                        for image in (content, style))
        regions = name == 'vgg_average'
        maps = {layer: {'content': taps[layer], 'code': taps[layer],
                        **(halves(taps)[layer] if regions else {})} for layer in layers}
        aux = {'maps': halves(others)} if regions else {}
        return {'maps': maps, 'style': neural_style.moments(layers)(others, aux)}

    aux = prepare(picture(*shape, seed=1), picture(70, 71, seed=2))

    def loss(tile, variables, image):
        terms = tiles.value(net, objective, tile, variables, image, aux)
        return sum(terms.values()) + 1e-3 * total_variation()(image)

    return loss, differentiate(loss, 0, net, shape)


def differentiate(loss, tile, net, shape):
    value, gradient = jax.jit(jax.value_and_grad(functools.partial(loss, tile), 1))(
        net.variables, picture(*shape))
    assert gradient.dtype == np.float64
    return float(value), np.asarray(gradient)


def compare(name, shape, tile):
    """Relative differences of value and gradient, tiled and not."""
    with jax.enable_x64(True):
        loss, (value, gradient) = problem(name, shape)
        tiled_value, tiled_gradient = differentiate(loss, tile, network(name), shape)
    return (abs(value - tiled_value) / abs(value),
            np.abs(gradient - tiled_gradient).max() / np.abs(gradient).max())


@pytest.mark.parametrize(('name', 'shape', 'tile'), [
    ('vgg', (67, 90), 24), ('vgg_average', (57, 130), 17),
    ('resnet', (141, 150), 32), ('alexnet', (131, 150), 30),
])
def test_value_and_gradient_are_those_of_the_whole_image(name, shape, tile):
    with jax.enable_x64(True):
        tiling = tiles.Tiling(network(name), LAYERS[name], shape, tile)
    assert len(set(tiling.places[:, 0, 0])) > 1  # in rows, and in columns
    assert len(set(tiling.places[:, 1, 0])) > 1
    value, gradient = compare(name, shape, tile)
    assert value < 1e-12
    assert gradient < 1e-10


@pytest.mark.parametrize('side', ['before', 'after'])
def test_a_halo_that_is_too_small_is_seen(monkeypatch, side):
    cut = tiles.cut

    def narrow(length, tile, stride, before, after):
        return cut(length, tile, stride, *((0, after) if side == 'before' else (before, 0)))
    monkeypatch.setattr(tiles, 'cut', narrow)
    assert compare('vgg', (67, 90), 24)[1] > 1e-3


def test_every_pixel_is_owned_once_and_windows_fit():
    for length in range(1, 140, 3):
        for tile, stride, before, after in ((16, 4, 7, 5), (1, 1, 0, 0), (9, 8, 30, 30),
                                            (200, 2, 3, 3)):
            axis = tiles.cut(length, tile, stride, before, after)
            pixels = np.arange(length)
            owners = (axis.owned[:, :1] <= pixels) & (pixels < axis.owned[:, 1:])
            assert (owners.sum(0) == 1).all()
            assert (axis.starts % stride == 0).all()
            assert (axis.starts >= 0).all()
            assert (axis.starts + axis.window <= length).all()
            if len(axis.starts) > 1:  # what is owned is inside, with its halo
                begins, ends = axis.owned[:, 0], np.minimum(axis.owned[:, 1], length)
                assert (axis.starts <= np.maximum(begins - before, 0)).all()
                assert (axis.starts + axis.window >= np.minimum(ends + after, length)).all()


def test_maps_are_exact():
    for name in ('vgg', 'alexnet'):
        net, image = network(name), picture(107, 121)
        with jax.enable_x64(True):
            whole, found = (jax.jit(functools.partial(
                tiles.maps, net, LAYERS[name], tile))(net.variables, image) for tile in (0, 30))
            for layer in LAYERS[name]:
                np.testing.assert_allclose(found[layer], whole[layer], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize('shape', [(32, 32), (70, 64)], ids=['of the training', 'another'])
def test_a_mean_image_is_subtracted_as_from_the_whole_image(shape):
    """Windows of any size belong to an image of one size."""
    net = network('vgg')
    net = net._replace(normalize=net.normalize._replace(mean=np.float32(picture(32, 32, seed=3))))
    layers = ['relu1_1']
    with jax.enable_x64(True):
        # Of 64 pixels, a tile of 24 and its halo have the 32 pixels of the mean image.
        for tile in (8, 24, 28):
            whole, found = (jax.jit(functools.partial(tiles.maps, net, layers, side))(
                net.variables, picture(*shape)) for side in (0, tile))
            np.testing.assert_allclose(found['relu1_1'], whole['relu1_1'], rtol=1e-11, atol=1e-11)


def test_targets_of_another_size_are_refused():
    net, objective = network('vgg'), neural_style.content(['relu2_1'])
    for shape in ((48, 40, 4), (20, 20, 4)):
        aux = {'maps': {'relu2_1': {'content': np.zeros(shape)}}}
        for tile in (0, 16):
            with jax.enable_x64(True), pytest.raises(
                    UserError, match=r"aux\['maps'\]\['relu2_1'\]\['content'\]"):
                jax.eval_shape(lambda image, tile=tile, aux=aux: tiles.value(
                    net, objective, tile, net.variables, image, aux), picture(64, 64))


@pytest.mark.parametrize(('name', 'objective', 'message'), [
    ('vgg', objectives.neuron('relu1_1'), 'no function of sums over positions; take tile=0'),
    ('vgg', lambda taps, aux: taps['relu1_1'].sum(), 'no function of sums over positions'),
    ('vgg', objectives.channel('fc6'), "tile=16: the units of 'fc6' see the whole image"),
    ('resnet', objectives.channel('fc'), "the units of 'fc' see the whole image"),
    ('vgg', objectives.dream('relu2_9'), "layer 'relu2_9' is not in the network.*did you mean"),
])
def test_what_cannot_be_cut_is_refused(name, objective, message):
    net = network(name)
    with jax.enable_x64(True), pytest.raises(UserError, match=message):
        jax.eval_shape(lambda image: tiles.value(net, objective, 16, net.variables, image,
                                                 {'unit': 0}), picture(96, 96))


def test_an_image_smaller_than_a_tile_is_not_cut():
    tiling = tiles.Tiling(network('vgg'), ['conv3_1'], (40, 300, 3), 64)
    assert tiling.window[0] == 40
    assert tiling.places.shape == (5, 2, 3)


def test_memory_is_that_of_a_tile():
    net = network('vgg')
    net = net._replace(net=net.net.clone(dtype='float32'),
                       variables=jax.tree.map(np.float32, net.variables))
    style = {'relu2_1': {'mean': np.ones((1, 4), np.float32),
                         'second': np.ones((1, 4, 4), np.float32)}}

    def temporary(side, tile):
        def loss(image):
            return tiles.value(net, neural_style.style(['relu2_1']), tile, net.variables, image,
                               {'style': style})['style']
        image = jax.ShapeDtypeStruct((side, side, 3), jnp.float32)
        compiled = jax.jit(jax.grad(loss)).lower(image).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    whole = {side: temporary(side, 0) for side in (256, 512)}
    assert whole[512] > 3.5 * whole[256]
    tiled = {side: temporary(side, 64) for side in (256, 512, 1024)}
    assert tiled[256] < whole[256] / 5
    assert tiled[1024] < 1.05 * tiled[256]
