"""A trained network takes images in [0, 1] or uint8, and gives one line about anything else."""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models, trained, weights
from cnnjax.data import Normalization
from cnnjax.errors import UserError
from configs import base

MEAN, STD = np.float32([0.4, 0.5, 0.6]), np.float32([0.2, 0.25, 0.3])


def made(name, shape, mean=MEAN, **fields):
    net = models.create(name, num_classes=4, **fields)
    variables = jax.jit(net.init)(jax.random.key(0), np.zeros((1, *shape), 'float32'))
    return trained.Trained(net, variables, Normalization(mean, STD), tuple('abcd'), shape, None,
                           name)


@pytest.fixture(scope='module')
def network():
    """It takes every size."""
    return made('resnet20', (16, 16, 3), blocks=(1, 1, 1), widths=(4, 4, 4))


@pytest.fixture(scope='module')
def sized():
    """Its full layer sees the pixels."""
    return made('convnet', (16, 16, 3), width=4)


@pytest.fixture(scope='module')
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), 'uint8')


@pytest.mark.parametrize('given', [
    lambda images: images,
    lambda images: images / np.float32(255),
    lambda images: images / 255,  # float64
    lambda images: (images / 255).tolist(),
    lambda images: list(images),
    lambda images: tuple(jnp.asarray(image) for image in images),
    lambda images: jnp.asarray(images) / 255,
])
def test_the_right_answer(given, network, images):
    expected = network.net.apply(network.variables, (images / np.float32(255) - MEAN) / STD)[0]
    np.testing.assert_allclose(network(given(images)), expected, rtol=1e-4, atol=1e-5)
    taps = network.taps(given(images))
    np.testing.assert_allclose(taps['fc'], expected, rtol=1e-4, atol=1e-5)


def test_no_images_have_no_logits(network, sized, images):
    for each in (network, sized):
        assert each(images[:0]).shape == each.taps(images[:0])['fc'].shape == (0, 4)


def nan(images):
    images = images / np.float32(255)
    images[0, 3, 3, 1] = np.nan
    return images


@pytest.mark.parametrize(('given', 'message'), [
    (lambda images: images.astype('float32'), r'floats from 0 to 255, not in \[0, 1\].*by 255'),
    (lambda images: jnp.float32(images), 'floats from 0 to 255'),
    (lambda images: (images / 255 - MEAN) / STD, 'floats from -2 to .*normalized here'),
    (lambda images: images / 127.5 - 1, r'floats from -1 to 1, not in'),
    (nan, 'not finite'),
    (lambda images: np.full((1, 16, 16, 3), np.inf), 'not finite'),
    (lambda images: images[0], r'shape \(16, 16, 3\).*takes \[N, H, W, 3\]; images\[None\]'),
    (lambda images: images[..., :1], r'shape \(3, 16, 16, 1\): the network takes \[N, H, W, 3\]$'),
    (lambda images: images.transpose(0, 3, 1, 2), r'images.transpose\(0, 2, 3, 1\)'),
    (lambda images: images[None], r'shape \(1, 3, 16, 16, 3\)'),
    (lambda images: images.astype('int64'), 'type int64: take uint8'),
    (lambda images: images > 99, 'type bool'),
    (lambda images: [images[0], images[1, :8]], r'a list of 2 images .*\(8, 16, 3\).*to one'),
    (lambda images: [], 'a list of 0 images'),
    (lambda images: images[:, :0], 'no pixels'),
    (lambda images: None, r'shape \(\)'),
    (lambda images: 'cat.jpg', r'shape \(\)'),
])
def test_what_is_refused(given, message, network, images):
    for function in (network, network.taps):
        with pytest.raises(UserError, match=message):
            function(given(images))


def test_images_a_little_outside_are_taken(network, images):
    """As interpolation and optimization leave them."""
    assert np.isfinite(network(1.5 * (images / 255) - 0.25)).all()


def test_traced_images(network, images):
    """Shapes are checked there, values cannot be."""
    expected, images = network(images), images / np.float32(255)
    np.testing.assert_allclose(jax.jit(network.__call__)(images), expected, atol=1e-5)
    each = jax.vmap(lambda image: network(image[None])[0])(images)
    np.testing.assert_allclose(each, expected, atol=1e-5)
    assert np.abs(jax.grad(lambda x: network(x).sum())(images)).max() > 0
    assert jax.eval_shape(network, jax.ShapeDtypeStruct((5, 9, 9, 3), 'float32')).shape == (5, 4)
    for function in (jax.jit(network.__call__), jax.vmap(network.__call__)):
        with pytest.raises(UserError, match='the network takes'):
            function(images[0])


def test_another_size(network, sized, images):
    assert network(images[:, :12]).shape == (3, 4)
    assert sized(images).shape == (3, 4)
    for function in (sized, jax.jit(sized.__call__)):
        with pytest.raises(UserError, match='^images of 12 x 16 pixels do not fit this network, '
                                            'which was trained on 16 x 16. Resize'):
            function(images[:, :12])
    assert list(sized.taps(images[:, :12])) == ['conv', 'relu', 'pool']
    assert 'fc' in sized.taps(images)


def test_images_too_small_for_the_network():
    network = made('vgg11', (32, 32, 3), widths=(2,) * 5, hidden=())
    with pytest.raises(UserError, match='8 x 8 pixels do not fit.*at least 32 x 32'):
        network(np.zeros((1, 8, 8, 3), 'uint8'))


def test_a_mean_image_of_another_size_is_its_mean(images):
    """In the logits as in the taps."""
    mean = np.random.default_rng(1).random((16, 16, 3), 'float32')
    network = made('resnet20', (16, 16, 3), mean, blocks=(1, 1, 1), widths=(4, 4, 4))
    small = images[:, :12, :12]
    even = network._replace(normalize=Normalization(mean.mean((0, 1)), STD))
    np.testing.assert_allclose(network(small), even(small), rtol=1e-5)
    np.testing.assert_allclose(network.taps(small)['fc'], even(small), rtol=1e-5)


def test_saved_and_loaded_it_is_the_same(network, sized, images, tmp_path):
    """Name, fields, normalization, classes, shape and crops: all that `load` needs."""
    for each in (network, sized):
        each = each._replace(evaluation={'test_shorter_side': 20, 'interpolation': 'bicubic'})
        weights.save(each, tmp_path / 'a.safetensors')
        found = trained.load(tmp_path / 'a.safetensors')
        assert found._replace(variables=0, normalize=0) == each._replace(variables=0, normalize=0)
        np.testing.assert_array_equal(found(images), each(images))


def test_the_python_of_the_docs(network, images, tmp_path, monkeypatch):
    """Its lines run as they stand, with this network in place of the quickstart's."""
    page = (Path(__file__).parent.parent / 'docs' / 'train.md').read_text()
    block, = (block for block in re.findall(r'```python\n(.*?)```', page, re.DOTALL)
              if 'weights.save(' in block)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trained, 'load', lambda source: network)
    names = {'images': images}
    exec(block, names)
    monkeypatch.undo()
    saved, = tmp_path.glob('*.safetensors')
    np.testing.assert_array_equal(trained.load(saved)(images), names['logits'])


def test_a_home_directory_is_expanded(network, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    weights.save(network, tmp_path / 'a.safetensors')
    assert trained.load('~/a.safetensors').name == 'resnet20'
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'config.json').write_text(json.dumps({'model': {}}))
    with pytest.raises(UserError, match=re.escape(f"'{tmp_path}/run' is not the working")):
        trained.load('~/run')


def test_the_shapes_of_taps_are_those_of_taps(network, sized, images):
    for each in (network, sized):
        taps = each.taps(images)
        shapes = each.tap_shapes()
        assert list(shapes) == list(taps)  # in forward order, which jax would lose
        assert shapes == {name: tap.shape[1:] for name, tap in taps.items()}
    assert 'fc' not in sized.tap_shapes((9, 9, 3))
    abstract = network._replace(variables=jax.eval_shape(lambda: network.variables))
    assert abstract.tap_shapes((9, 8, 3)) == network.tap_shapes((9, 8, 3))


def test_the_config_of_its_training(network):
    defaults = base.get_config()
    assert network.training(defaults) == defaults
    own = network._replace(evaluation={'border': 2}).training(defaults)
    assert (own.border, defaults.border) == (2, 0)
    with pytest.raises(UserError, match='config.json of the run is damaged'):
        network._replace(evaluation={'border': 'x'}).training(defaults)


def test_the_nearest_size_that_fits(network):
    padded = made('unet_padded', (16, 16, 3), widths=(4, 4, 4))  # multiples of 4
    assert padded.fitting((17, 19, 3)) == (16, 20)
    assert padded.fitting((1, 400)) == (4, 400)
    assert made('unet', (44, 44, 3), widths=(4, 4, 4)).fitting((10, 49)) == (44, 48)
    assert network.fitting((17, 1)) == (17, 1)


def test_a_network_before_any_training():
    """The activations of random weights keep their scale from layer to layer, and are the same
    whenever they are asked for."""
    one, other = trained.load('random'), trained.load('random')
    assert one.net == trained.load('embedded').net
    assert trained.fingerprint(one) == trained.fingerprint(other)
    image = np.random.default_rng(0).random((1, 64, 64, 3), np.float32)
    taps = jax.jit(one.taps)(image)
    sizes = [float((taps[f'relu{i}_1'] ** 2).mean()) for i in range(1, 5)]
    assert max(sizes) < 4 * min(sizes)
    named = trained.load('random', name='lenet5')
    assert (named.name, named.image_shape) == ('lenet5', named.net.image_shape)
    assert len(named.classes) == named.net.num_classes
