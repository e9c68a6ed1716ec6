"""Images that excite units: scores, independence of chunks, dead units, sizes and errors."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import data, models, parallel
from cnnjax.errors import UserError
from cnnjax.images import objectives, units
from cnnjax.trained import Trained

LAYERS = ('relu1_1', 'conv2_1', 'fc8')


def network(channels=3, side=48, dead=()):
    """A VGG of three layers whose relu1_1 has channels that are 0 for every image."""
    net = models.create('vgg11', groups=((3,), (3,)), widths=(4, 6), hidden=(), num_classes=5)
    shape = (side, side, channels)
    variables = jax.jit(net.init)(jax.random.key(2), jnp.zeros((1, *shape)))
    for unit in dead:
        kernel = variables['params']['conv1_1']['kernel'].at[..., unit].set(0)
        bias = variables['params']['conv1_1']['bias'].at[unit].set(-1)
        variables['params']['conv1_1'] = {'kernel': kernel, 'bias': bias}
    normalize = data.Normalization(np.full(channels, 0.5, np.float32),
                                   np.full(channels, 0.25, np.float32))
    return Trained(net, variables, normalize, tuple('abcde'), shape, None)


def largest(trained, layer, images, numbers, reduce=np.max):
    maps = np.asarray(trained.taps(images)[layer])
    maps = maps.reshape(len(maps), -1, maps.shape[-1])
    return np.array([reduce(maps[i, :, unit]) for i, unit in enumerate(numbers)])


@pytest.fixture(scope='module')
def trained():
    return network()


@pytest.fixture(scope='module')
def found(trained):
    done = []
    maximized = units.maximize(trained, 'conv2_1', [4, 0, 3, 1, 5], steps=20, chunk=2,
                               progress=done.append)
    assert done == [2, 2, 1]  # the last chunk is filled up
    return maximized


def test_the_images_excite_their_units(trained, found):
    assert found.images.shape == (5, 32, 32, 3)
    assert found.images.dtype == np.float32
    assert found.images.min() >= 0
    assert found.images.max() <= 1
    assert found.health == [''] * 5
    np.testing.assert_allclose(
        found.scores, largest(trained, 'conv2_1', found.images, [4, 0, 3, 1, 5]), rtol=1e-5)
    gray = np.full((1, 32, 32, 3), 0.5, np.float32)
    assert not np.asarray(trained.taps(gray)['conv2_1']).any()
    assert (found.scores > 0.1).all()
    # Each excites its own unit more than the others' images do.
    means = np.asarray(trained.taps(found.images)['conv2_1']).mean((1, 2))[:, [4, 0, 3, 1, 5]]
    np.testing.assert_array_equal(means.argmax(0), range(5))


def test_an_image_does_not_depend_on_the_other_units(trained, found):
    again = units.maximize(trained, 'conv2_1', [1, 4], steps=20, chunk=2)
    np.testing.assert_array_equal(again.images, found.images[[3, 0]])
    many = units.maximize(trained, 'conv2_1', range(6), steps=20,
                          mesh=parallel.data_mesh(2))
    np.testing.assert_allclose(many.images[[4, 0, 3, 1, 5]], found.images, atol=1e-3)
    other = units.maximize(trained, 'conv2_1', [1, 4], steps=20, chunk=2, seed=1)
    assert np.abs(other.images - again.images).max() > 0.1


def test_the_sign(trained):
    lowest = units.maximize(trained, 'conv2_1', [0, 1], steps=20, sign=-1)
    highest = units.maximize(trained, 'conv2_1', [0, 1], steps=20)
    assert (lowest.scores < 0).all()
    assert (highest.scores > 0).all()
    np.testing.assert_allclose(
        lowest.scores, largest(trained, 'conv2_1', lowest.images, [0, 1], np.min), rtol=1e-5)


def test_dead_units_are_named_and_the_others_are_done():
    broken = network(dead=[1, 2])
    found = units.maximize(broken, 'relu1_1', range(4), steps=20)
    assert [complaint != '' for complaint in found.health] == [False, True, True, False]
    assert found.health[1] == 'the gradient of the objective is exactly 0'
    assert (found.scores[[0, 3]] > 0).all()
    assert not found.scores[[1, 2]].any()
    alone = units.maximize(broken, 'relu1_1', [2], steps=20)
    assert alone.health == ['the gradient of the objective is exactly 0']


def test_a_unit_that_is_dead_in_noise_is_woken():
    asleep = network()
    bias = asleep.variables['params']['conv1_1']['bias']
    asleep.variables['params']['conv1_1']['bias'] = bias.at[0].set(-1.0)  # 0 on gray
    gray = np.full((1, 32, 32, 3), 0.5, np.float32)
    assert not np.asarray(asleep.taps(gray)['relu1_1'])[..., 0].any()
    found = units.maximize(asleep, 'relu1_1', [0, 1], steps=48)
    assert found.health == ['', '']
    assert found.scores[0] > 0.5


def test_classes_and_small_or_gray_images():
    digits = network(channels=1, side=8)
    assert units.image_size(digits, 'relu1_1') == (8, 8)
    found = units.maximize(digits, 'fc8', range(5), steps=40)
    assert found.images.shape == (5, 8, 8, 1)
    logits = np.asarray(digits(found.images))
    np.testing.assert_array_equal(logits.argmax(0), range(5))
    np.testing.assert_allclose(found.scores, np.diag(logits), rtol=1e-4)


def test_photographs_get_frequencies_and_others_pixels(trained):
    key = jax.random.key(0)
    spectrum = units._problem(trained, 'fc8', (48, 48, 3), 1).parametrization.init(key)
    assert spectrum.shape == (48, 25, 3, 2)
    small = network(side=32)
    assert units._problem(small, 'fc8', (32, 32, 3), 1).parametrization.init(key).shape == (
        32, 32, 3)


def test_the_size_is_twice_the_receptive_field(trained):
    assert units.image_size(trained, 'relu1_1') == (32, 32)  # and not 6
    assert units.image_size(trained, 'fc8') == (48, 48)
    vgg = models.create('vgg16', num_classes=2)  # fields of Simonyan & Zisserman's layers
    large = trained._replace(net=vgg, image_shape=(224, 224, 3), variables=jax.eval_shape(
        vgg.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3))))
    assert units.image_size(large, 'relu3_3') == (80, 80)
    assert units.image_size(large, 'relu4_3') == (184, 184)
    assert units.image_size(large, 'relu5_3') == (224, 224)
    alexnet = models.create('alexnet', num_classes=2)  # Its pools need more than 32 pixels.
    sides = alexnet.image_shape
    large = trained._replace(net=alexnet, image_shape=sides, variables=jax.eval_shape(
        alexnet.init, jax.random.key(0), jnp.zeros((1, *sides))))
    height, width = units.image_size(large, 'relu1')
    assert 32 < height < sides[0]
    assert height == width


def test_errors(trained):
    with pytest.raises(UserError, match=re.escape("'conv2_2' is not in the network")):
        units.maximize(trained, 'conv2_2', [0])
    with pytest.raises(UserError, match='has the channels 0 to 5'):
        units.maximize(trained, 'conv2_1', [6])
    with pytest.raises(UserError, match=re.escape('units=[]')):
        units.maximize(trained, 'conv2_1', [])
    with pytest.raises(UserError, match='size=.*does not fit the network'):
        units.maximize(trained, 'conv2_1', [0], size=2)
    with pytest.raises(UserError, match="'fc8' is not in the network at this size"):
        units.maximize(trained, 'fc8', [0], size=64)
    for name, value in (('sign', 0), ('steps', 0), ('chunk', 0), ('learning_rate', 0.0)):
        with pytest.raises(UserError, match=f'{name}={value}'):
            units.maximize(trained, 'conv2_1', [0], **{name: value})


def test_every_term_of_the_score_is_of_one_unit(trained, found):
    """The objective that is minimised is the negative mean over positions."""
    objective = objectives.channel('conv2_1')
    taps = {'conv2_1': trained.taps(found.images[:1])['conv2_1'][0]}
    value = objective(taps, {'unit': 4})['channel']
    np.testing.assert_allclose(value, -np.asarray(taps['conv2_1'])[..., 4].mean(), rtol=1e-5)
