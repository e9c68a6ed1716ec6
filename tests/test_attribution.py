"""Attribution maps of a class, each against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import data, layers, models
from cnnjax.errors import UserError
from cnnjax.images import attribution, rules
from cnnjax.trained import Trained

CLASSES = np.array([2, 0, 4])


def make(**fields):
    net = models.create('vgg11', groups=((3,), (3,)), widths=(4, 6), hidden=(), num_classes=5,
                        **fields)
    variables = jax.jit(net.init)(jax.random.key(2), jnp.zeros((1, 12, 8, 3)))
    normalize = data.Normalization(np.float32([0.5, 0.4, 0.3]), np.full(3, 0.25, np.float32))
    return Trained(net, variables, normalize, tuple('abcde'), (12, 8, 3), None)


@pytest.fixture(scope='module')
def network():
    return make()


@pytest.fixture(scope='module')
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 12, 8, 3), np.uint8)


def slopes(network, images):
    """dS_c / dI, one image after the other."""
    slope = jax.jit(jax.grad(lambda image, c: network(image[None])[0, c]))
    return np.stack([slope(image, c) for image, c in zip(images, CLASSES, strict=True)])


def test_the_gradient(network, images):
    found = attribution.gradient(network, images, CLASSES)
    assert found.shape == (3, 12, 8)
    expected = slopes(network, np.float32(images / 255))
    np.testing.assert_allclose(found, np.abs(expected).max(-1), rtol=1e-4, atol=1e-6)
    guided = attribution.gradient(network, images, CLASSES, rule='guided')
    expected = slopes(network._replace(net=rules.with_rule(network.net, 'guided')),
                      np.float32(images / 255))
    np.testing.assert_allclose(guided, np.abs(expected).max(-1), rtol=1e-4, atol=1e-6)
    assert np.abs(guided - found).max() > 0.01


def test_smoothgrad_is_the_mean_gradient_of_noisy_images(network, images):
    found = attribution.smooth_gradient(network, images, CLASSES, samples=2, noise=0.3, seed=5)
    floats = np.float32(images / 255)
    spread = 0.3 * (floats.max((1, 2, 3)) - floats.min((1, 2, 3)))
    total = 0
    for sample in range(2):
        key = jax.random.fold_in(jax.random.key(5), sample)
        noise = np.asarray(jax.random.normal(key, floats.shape))
        total += slopes(network, floats + spread[:, None, None, None] * noise)
    np.testing.assert_allclose(found, np.abs(total / 2).max(-1), rtol=1e-3, atol=1e-5)
    still = attribution.smooth_gradient(network, images, CLASSES, samples=3, noise=0)
    np.testing.assert_allclose(still, attribution.gradient(network, images, CLASSES), rtol=1e-5)


@pytest.mark.parametrize('baseline', [0.0, np.float32([0.2, 0.5, 0.7])])
def test_integrated_gradients_are_complete(network, images, baseline):
    """The paper's axiom, proposition 1; and for a linear network the map is the very product."""
    found = attribution.integrated_gradients(network, images, CLASSES, baseline=baseline,
                                             steps=200)
    start = np.broadcast_to(np.float32(baseline), images.shape)
    each = np.arange(3)
    fall = network(np.float32(images / 255))[each, CLASSES] - network(start)[each, CLASSES]
    np.testing.assert_allclose(found.sum((1, 2)), fall, atol=5e-3 * np.abs(fall).max())

    linear = make(relu=lambda x: x, pool=layers.average_pool)
    found = attribution.integrated_gradients(linear, images, CLASSES, baseline=baseline, steps=1)
    floats = np.float32(images / 255)
    expected = (slopes(linear, floats) * (floats - start)).sum(-1)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_grad_cam_against_its_formula(network, images):
    found = attribution.grad_cam(network, images, CLASSES)
    maps = network.taps(images)['relu2_1']
    kernel, bias = (network.variables['params']['fc8'][name] for name in ('kernel', 'bias'))
    for i, c in enumerate(CLASSES):
        def score(maps, c=c):  # the rest of the network, by hand
            return (layers.max_pool(maps[None], 2, 2).reshape(-1) @ kernel + bias)[c]
        np.testing.assert_allclose(score(maps[i]), network(images)[i, c], rtol=1e-5)
        alpha = jax.grad(score)(maps[i]).mean((0, 1))
        cam = np.maximum((np.asarray(maps[i]) * np.asarray(alpha)).sum(-1), 0)
        expected = jax.image.resize(cam, (12, 8), 'linear')
        np.testing.assert_allclose(found[i], expected, rtol=1e-4, atol=1e-6)
    assert found.max() > 0
    named = attribution.grad_cam(network, images, CLASSES, layer='relu2_1')
    np.testing.assert_array_equal(named, found)
    assert attribution.grad_cam(network, images, CLASSES, layer='conv1_1').shape == (3, 12, 8)


@pytest.mark.parametrize(('size', 'stride'), [(3, 2), (8, 8)])
def test_occlusion_against_a_loop(network, images, size, stride):
    done = []
    found = attribution.occlusion(network, images, CLASSES, size=size, stride=stride, chunk=7,
                                  progress=done.append)
    floats = np.float32(images / 255)
    total, count = np.zeros((2, 3, 12, 8))
    squares = 0
    for i, c in enumerate(CLASSES):
        whole = jax.nn.softmax(network(floats[i:i + 1]))[0, c]
        for top in [*range(0, 12 - size, stride), 12 - size]:
            for left in [*range(0, 8 - size, stride), 8 - size]:
                covered = floats[i:i + 1].copy()
                covered[:, top:top + size, left:left + size] = 0.5
                box = i, slice(top, top + size), slice(left, left + size)
                total[box] += whole - jax.nn.softmax(network(covered))[0, c]
                count[box] += 1
                squares += 1
    assert sum(done) == squares
    np.testing.assert_allclose(found, total / count, atol=1e-5)


def test_batch_norm_networks_and_blocks():
    net = models.create('resnet20', num_classes=3, widths=(4, 4, 4), blocks=(1, 1, 1))
    shape = (8, 8, 1)
    variables = jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, *shape)))
    network = Trained(net, variables, data.Normalization(np.float32([0.5]), np.float32([1])),
                      tuple('abc'), shape, None)
    images = np.random.default_rng(1).random((2, *shape), np.float32)
    found = attribution.grad_cam(network, images, [1, 2], layer='conv3_1')
    taps = network.taps(images)
    assert found.shape == (2, 8, 8)
    # Behind the last maps are their mean and the full layer: alpha is its weights / positions.
    last = [name for name, tap in taps.items() if tap.ndim == 4][-1]
    found = attribution.grad_cam(network, images, [1, 2], layer=last)
    positions = taps[last].shape[1] * taps[last].shape[2]
    weights = network.variables['params']['fc']['kernel'].T[np.array([1, 2])] / positions
    cam = np.maximum(np.einsum('nhwc,nc->nhw', taps[last], weights), 0)
    np.testing.assert_allclose(found, jax.image.resize(cam, (2, 8, 8), 'linear'), atol=1e-5)


def test_errors(network, images):
    with pytest.raises(UserError, match='classes=.*a number from 0 to 4'):
        attribution.gradient(network, images, [0, 1, 5])
    with pytest.raises(UserError, match='classes='):
        attribution.gradient(network, images, [0])
    with pytest.raises(UserError, match='no scores of classes for images of'):
        attribution.gradient(network, np.zeros((1, 20, 20, 3)), [0])
    with pytest.raises(UserError, match=r'\[N, H, W, C\]'):
        attribution.gradient(network, images[0], [0])
    with pytest.raises(UserError, match="'relu2_2' is not in the network"):
        attribution.grad_cam(network, images, CLASSES, layer='relu2_2')
    with pytest.raises(UserError, match="'fc8' has no positions"):
        attribution.grad_cam(network, images, CLASSES, layer='fc8')
    with pytest.raises(UserError, match='size=9'):
        attribution.occlusion(network, images, CLASSES, size=9)
    with pytest.raises(UserError, match='steps=0'):
        attribution.integrated_gradients(network, images, CLASSES, steps=0)
    with pytest.raises(UserError, match='samples=0'):
        attribution.smooth_gradient(network, images, CLASSES, samples=0)


def test_maps_in_colours():
    values = np.zeros((4, 4), np.float32)
    values[0, 0], values[3, 3] = 1, -1
    signed = attribution.colored('integrated gradients', values, np.zeros((4, 4, 3)))
    assert signed[0, 0, 0] > signed[0, 0, 2]  # red
    assert signed[3, 3, 2] > signed[3, 3, 0]  # blue
    assert signed[1, 1].min() > 0.9
    plain = attribution.colored('gradient', np.abs(values), np.zeros((4, 4, 3)))
    assert plain.shape == (4, 4)
    assert plain.max() == 1
    assert np.isfinite(attribution.colored('gradient', 0 * values, np.zeros((4, 4, 3)))).all()


def test_maps_of_logits_count_where_the_class_is_found():
    """The score is the mean logit of the pixels where the class is the likeliest, or of all where
    it is nowhere; integrated gradients are complete for it."""
    net = models.create('unet_padded', num_classes=3, widths=(4, 8))
    images = np.random.default_rng(0).random((2, 8, 8, 3), np.float32)
    variables = net.init(jax.random.key(0), images)
    normalize = data.Normalization(np.float32([0.5]), np.float32([0.25]))
    network = Trained(net, variables, normalize, tuple('abc'), (8, 8, 3), None)
    logits = np.asarray(network(images))
    counts = np.stack([(logits.argmax(-1) == c).sum((1, 2)) for c in range(3)], 1)
    classes = counts.argmax(1)

    def scores(images):
        own = np.arange(2)[:, None, None], *np.indices((8, 8))[:, None], classes[:, None, None]
        mask = logits.argmax(-1) == classes[:, None, None]
        return (np.asarray(network(images))[own] * mask).sum((1, 2)) / mask.sum((1, 2))

    found = attribution.integrated_gradients(network, images, classes, steps=100)
    np.testing.assert_allclose(found.sum((1, 2)), scores(images) - scores(0 * images), rtol=0.02,
                               atol=1e-3)
    nowhere = np.array([counts.argmin(1)[0]] * 2)
    assert not counts[0, nowhere[0]]
    gradient = jax.grad(lambda images: network(images)[0, :, :, nowhere[0]].mean())(images)
    np.testing.assert_allclose(attribution.gradient(network, images, nowhere)[0],
                               np.abs(gradient).max(-1)[0], atol=1e-6)
    np.testing.assert_allclose(attribution.probabilities(network, images),
                               jax.nn.softmax(logits).mean((1, 2)), rtol=1e-5)
