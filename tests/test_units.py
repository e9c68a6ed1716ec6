"""Images that excite units: scores, independence of chunks, dead units, sizes and errors."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import data, models, parallel
from cnnjax.errors import UserError
from cnnjax.images import strongest, units
from cnnjax.trained import Trained

SIDE = 32
FEW = units.Settings(steps=20)


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
    maximized = units.maximize(trained, 'conv2_1', [4, 0, 3, 1, 5], FEW._replace(chunk=2),
                               size=SIDE, progress=done.append)
    assert done == [2, 2, 1]  # the last chunk is filled up
    return maximized


def test_the_images_excite_their_units(trained, found):
    assert found.images.shape == (5, SIDE, SIDE, 3)
    assert found.images.dtype == np.float32
    assert found.images.min() >= 0
    assert found.images.max() <= 1
    assert found.health == [''] * 5
    np.testing.assert_allclose(
        found.scores, largest(trained, 'conv2_1', found.images, [4, 0, 3, 1, 5]), rtol=1e-5)
    gray = np.full((1, SIDE, SIDE, 3), 0.5, np.float32)
    assert not np.asarray(trained.taps(gray)['conv2_1']).any()
    assert (found.scores > 0.1).all()
    # Each excites its own unit more than the others' images do.
    best = np.asarray(trained.taps(found.images)['conv2_1']).max((1, 2))[:, [4, 0, 3, 1, 5]]
    np.testing.assert_array_equal(best.argmax(0), range(5))


def test_an_image_does_not_depend_on_the_other_units(trained, found):
    again = units.maximize(trained, 'conv2_1', [1, 4], FEW._replace(chunk=2), size=SIDE)
    np.testing.assert_array_equal(again.images, found.images[[3, 0]])
    many = units.maximize(trained, 'conv2_1', range(6), FEW._replace(mesh=parallel.data_mesh(2)),
                          size=SIDE)
    np.testing.assert_allclose(many.images[[4, 0, 3, 1, 5]], found.images, atol=1e-3)
    other = units.maximize(trained, 'conv2_1', [1, 4], FEW._replace(chunk=2, seed=1), size=SIDE)
    assert np.abs(other.images - again.images).max() > 0.1


def test_the_sign(trained):
    lowest = units.maximize(trained, 'conv2_1', [0, 1], FEW, size=SIDE, sign=-1)
    highest = units.maximize(trained, 'conv2_1', [0, 1], FEW, size=SIDE)
    assert (lowest.scores < 0).all()
    assert (highest.scores > 0).all()
    np.testing.assert_allclose(
        lowest.scores, largest(trained, 'conv2_1', lowest.images, [0, 1], np.min), rtol=1e-5)


def test_dead_units_are_named_and_the_others_are_done():
    broken = network(dead=[1, 2])
    found = units.maximize(broken, 'relu1_1', range(4), FEW, size=SIDE)
    assert [complaint != '' for complaint in found.health] == [False, True, True, False]
    assert found.health[1] == 'the gradient of the objective is exactly 0'
    assert (found.scores[[0, 3]] > 0).all()
    assert not found.scores[[1, 2]].any()
    alone = units.maximize(broken, 'relu1_1', [2], FEW, size=SIDE)
    assert alone.health == ['the gradient of the objective is exactly 0']


def test_a_unit_that_is_dead_in_noise_is_woken():
    asleep = network()
    bias = asleep.variables['params']['conv1_1']['bias']
    asleep.variables['params']['conv1_1']['bias'] = bias.at[0].set(-1.0)  # 0 on gray
    gray = np.full((1, SIDE, SIDE, 3), 0.5, np.float32)
    assert not np.asarray(asleep.taps(gray)['relu1_1'])[..., 0].any()
    found = units.maximize(asleep, 'relu1_1', [0, 1], FEW, size=SIDE)
    assert found.health == ['', '']
    assert found.scores[0] > 0.5


def test_classes_and_small_or_gray_images():
    digits = network(channels=1, side=8)
    assert units.image_size(digits, 'relu1_1') == (8, 8)
    found = units.maximize(digits, 'fc8', range(5), FEW)
    assert found.images.shape == (5, 8, 8, 1)
    logits = np.asarray(digits(found.images))
    np.testing.assert_array_equal(logits.argmax(0), range(5))
    np.testing.assert_allclose(found.scores, np.diag(logits), rtol=1e-4)


def test_photographs_get_frequencies_and_others_pixels(trained):
    key = jax.random.key(0)
    spectrum = units.parametrization(trained, (48, 48, 3)).init(key)
    assert spectrum.shape == (48, 25, 3, 2)
    assert units.parametrization(network(side=32), (32, 32, 3)).init(key).shape == (32, 32, 3)


def test_the_size_is_lucids_or_what_the_network_needs(trained):
    assert units.image_size(trained, 'relu1_1') == (128, 128)
    assert units.image_size(trained, 'relu1_1', 64) == (64, 64)
    assert units.image_size(trained, 'fc8') == (48, 48)  # a full layer has no other
    assert units.image_size(network(side=32), 'relu1_1') == (32, 32)  # no photographs
    alexnet = models.create('alexnet', num_classes=2)
    sides = alexnet.image_shape
    large = trained._replace(net=alexnet, image_shape=sides, variables=jax.eval_shape(
        alexnet.init, jax.random.key(0), jnp.zeros((1, *sides))))
    assert units.image_size(large, 'relu1', 32) == (128, 128)  # 32 and 64 do not fit its pools


@pytest.mark.parametrize(('layer', 'pixels', 'blurs'), [('conv2_1', 2, False), ('fc8', 4, True)])
def test_images_move_by_what_a_unit_sees(trained, layer, pixels, blurs):
    """Narrow units, here of 8 pixels, see whole pixels; wide ones lucid's transforms, too."""
    image = np.zeros((64, 64, 3), np.float32)
    image[32:] = 1
    transform = units.robustness(trained, layer, image.shape)
    keys = jax.random.split(jax.random.key(0), 64)
    seen = np.asarray(jax.jit(jax.vmap(transform, (0, None)))(keys, image))
    assert seen.shape == (64, 64, 64, 3)
    assert len(np.unique(seen)) > 3 if blurs else set(np.unique(seen)) == {0, 0.5, 1}
    edges = (seen[:, 8:-8, 32, 0] <= 0.5).sum(1) - 24  # where the black half ends
    assert pixels - 1 <= np.abs(edges).max() <= pixels + 1
    assert units.robustness(network(channels=1, side=8), layer, (8, 8, 1)) is None


def test_maximized_images_exceed_the_strongest_images(trained):
    """The scores that are compared are those of strongest.search, of the files' 8 bits: also of the
    maximized images themselves, among which each is the strongest of its unit."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (40, 48, 48, 3), np.uint8)
    smooth = np.repeat(np.repeat(noise[:, ::8, ::8], 8, 1), 8, 2)
    crops = data.Crops()

    def strong(images):
        examples = [{'image': image, 'label': 0} for image in images]
        stream = data.Resident(data.Source(examples, tuple('abcde')), crops)
        return strongest.search(trained, ['conv2_1'], stream, 1)['conv2_1']

    settings = units.Settings(steps=40)
    found = units.maximize(trained, 'conv2_1', range(6), settings, size=48)
    assert np.mean(found.scores > strong([*noise, *smooth]).maximum) >= 0.9
    files = np.round(255 * found.images).astype(np.uint8)
    np.testing.assert_array_equal(files / np.float32(255), found.images)
    own = strong(files)
    assert (own.images[:, 0] == np.arange(6)).all()
    np.testing.assert_allclose(own.maximum, found.scores, rtol=1e-4)


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
    with pytest.raises(UserError, match='sign=0'):
        units.maximize(trained, 'conv2_1', [0], sign=0)
    for name, value in (('steps', 0), ('chunk', 0), ('learning_rate', 0.0)):
        with pytest.raises(UserError, match=f'{name}={value}'):
            units.maximize(trained, 'conv2_1', [0], FEW._replace(**{name: value}))
