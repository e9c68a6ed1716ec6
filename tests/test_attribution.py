"""Attribution maps of a class, each against its definition."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from cnnjax import data, layers, models
from cnnjax.errors import UserError
from cnnjax.images import (
    attribution,
    attribution_figure,
    class_scores,
    faithfulness,
    occlusions,
    rules,
)
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


def behind_the_maps(network, c, pool=layers.max_pool):
    """The score of class c as a function of the maps of 'relu2_1' [h, w, C], by hand."""
    kernel, bias = (network.variables['params']['fc8'][name] for name in ('kernel', 'bias'))
    return lambda maps: (pool(maps[None], 2, 2).reshape(-1) @ kernel + bias)[c]


def enlarged(cam):
    return jax.image.resize(np.maximum(cam, 0), (12, 8), 'linear')


def test_grad_cam_and_layer_cam_against_their_formulas(network, images):
    found = attribution.grad_cam(network, images, CLASSES)
    by_layer = attribution.layer_cam(network, images, CLASSES)
    maps = np.asarray(network.taps(images)['relu2_1'])
    for i, c in enumerate(CLASSES):
        score = behind_the_maps(network, c)
        np.testing.assert_allclose(score(maps[i]), network(images)[i, c], rtol=1e-5)
        slope = np.asarray(jax.grad(score)(maps[i]))
        np.testing.assert_allclose(found[i], enlarged((maps[i] * slope.mean((0, 1))).sum(-1)),
                                   rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(by_layer[i], enlarged((maps[i] * slope.clip(0)).sum(-1)),
                                   rtol=1e-4, atol=1e-6)
    assert found.max() > 0
    named = attribution.grad_cam(network, images, CLASSES, layer='relu2_1')
    np.testing.assert_array_equal(named, found)
    assert attribution.grad_cam(network, images, CLASSES, layer='conv1_1').shape == (3, 12, 8)


def test_grad_cam_plus_plus_against_derivatives_of_the_exponential(images):
    """Its formula with the second and third derivatives of Y = exp(S) themselves."""
    network = make(pool=layers.average_pool)
    found = attribution.grad_cam_plus_plus(network, images, CLASSES)
    maps = np.asarray(network.taps(images)['relu2_1'])
    each = np.eye(maps[0].size, dtype=np.float32).reshape(-1, *maps.shape[1:])

    def mean(maps, *_):
        return maps.reshape(3, 2, 2, 2, -1).mean((1, 3))

    for i, c in enumerate(CLASSES):
        score = behind_the_maps(network, c, lambda maps, *_: mean(maps[0]))

        def along(function, direction):
            return lambda maps: jax.jvp(function, (maps,), (direction,))[1]

        def three(direction, score=score, own=maps[i]):
            first = along(lambda maps: jnp.exp(score(maps)), direction)
            second = along(first, direction)
            return first(own), second(own), along(second, direction)(own)

        first, second, third = (np.asarray(values).reshape(maps.shape[1:])
                                for values in jax.jit(jax.vmap(three))(each))
        alpha = second / (2 * second + maps[i].sum((0, 1)) * third)
        weights = (alpha * first.clip(0)).sum((0, 1))
        expected = enlarged((weights * maps[i]).sum(-1)) / np.exp(score(maps[i]))
        np.testing.assert_allclose(found[i], expected, rtol=1e-3, atol=1e-6)
        assert found[i].max() > 0


def test_score_cam_against_a_loop(network, images):
    """Channel 1 is constant: it has no mask."""
    variables = jax.tree.map(np.array, network.variables)
    variables['params']['conv2_1']['kernel'][..., 1] = 0
    variables['params']['conv2_1']['bias'][1] = 2
    network = network._replace(variables=variables)
    found = attribution.score_cam(network, images, CLASSES, chunk=4)
    floats, mean = np.float32(images / 255), np.float32([0.5, 0.4, 0.3])
    maps = np.asarray(network.taps(images)['relu2_1'])
    assert np.ptp(maps[..., 1]) == 0
    for i, c in enumerate(CLASSES):
        increases, kept = [], []
        for k in range(6):
            mask = np.asarray(jax.image.resize(maps[i, ..., k], (12, 8), 'linear'))
            if np.ptp(mask):
                mask = (mask - mask.min()) / np.ptp(mask)
                seen = mean + mask[..., None] * (floats[i] - mean)
                empty = network(np.broadcast_to(mean, (1, 12, 8, 3)))[0, c]
                increases.append(network(seen[None])[0, c] - empty)
                kept.append(k)
        weights = np.exp(increases) / np.exp(increases).sum()
        np.testing.assert_allclose(found[i], enlarged((maps[i][..., kept] * weights).sum(-1)),
                                   rtol=1e-4, atol=1e-5)
        assert 1 not in kept
        assert len(kept) > 1


class Region(nn.Module):
    """Class 0 is where the pixels in rows 2 to 4 and columns 5 to 7 are bright."""

    @nn.compact
    def __call__(self, images, train=False):
        inside = images[:, 2:5, 5:8].mean((1, 2, 3))
        return jnp.stack([8 * inside - 4, 0 * inside], -1), {}


REGION = np.zeros((12, 10), np.float32)
REGION[2:5, 5:8] = 1


@pytest.fixture(scope='module')
def region():
    return Trained(Region(), {}, data.Normalization(np.zeros(1, np.float32),
                                                    np.ones(1, np.float32)),
                   ('bright', 'dark'), (12, 10, 1), None)


def test_rise_finds_the_region_that_counts(region):
    white = np.ones((2, 12, 10, 1), np.float32)
    found = attribution.rise(region, white, [0, 1], masks=300, seed=3)
    assert REGION[np.unravel_index(found[0].argmax(), REGION.shape)]
    assert REGION[np.unravel_index(found[1].argmin(), REGION.shape)]  # Light speaks against it.
    masks = np.asarray(occlusions._grids(jax.random.key(3), np.arange(300), (12, 10), 7, 0.5))
    assert masks.shape == (300, 12, 10)
    assert masks.min() >= 0
    assert masks.max() <= 1
    np.testing.assert_allclose(masks.mean(0), 0.5, atol=0.15)  # everywhere, at the edges too
    assert len({mask.tobytes() for mask in masks}) == 300
    sure = 1 / (1 + np.exp(4 - 8 * masks[:, 2:5, 5:8].mean((1, 2))))
    np.testing.assert_allclose(found[0], (sure[:, None, None] * masks).sum(0) / 150, rtol=1e-4)
    np.testing.assert_allclose(attribution.rise(region, white, [0, 1], masks=300, seed=3, chunk=7),
                               found, rtol=1e-4)
    other = attribution.rise(region, white[:1], [0], masks=300, seed=4)
    assert np.abs(other[0] - found[0]).max() > 0.01


def test_deletion_and_insertion_of_a_known_region(region):
    image = (REGION + np.random.default_rng(0).random(REGION.shape, np.float32)) / 2
    images, chance = image[None, ..., None], np.random.default_rng(1).random((1, 12, 10))
    maps = {'right': REGION[None], 'wrong': -REGION[None], 'random': chance}
    deleted = {name: faithfulness.deletion(region, images, [0], found)[0]
               for name, found in maps.items()}
    assert deleted['right'] < deleted['random'] < deleted['wrong']
    inserted = {name: faithfulness.insertion(region, images, [0], found)[0]
                for name, found in maps.items()}
    assert inserted['right'] > inserted['random'] > inserted['wrong']

    order = np.argsort(-chance.ravel())
    blurred = ndimage.gaussian_filter(image, 2.0, mode='nearest')
    for found, first, then in ((faithfulness.deletion, image, 0 * image),
                               (faithfulness.insertion, blurred, image)):
        probabilities = []
        for count in (0, 30, 60, 90, 120):
            now = first.copy()
            now.flat[order[:count]] = then.flat[order[:count]]
            probabilities.append(1 / (1 + np.exp(4 - 8 * now[REGION > 0].mean())))
        expected = (sum(probabilities) - (probabilities[0] + probabilities[-1]) / 2) / 4
        options = {'blur': 0.2} if found is faithfulness.insertion else {}
        np.testing.assert_allclose(found(region, images, [0], chance, steps=4, **options),
                                   [expected], rtol=1e-5)
    # Equal values are in no order: neither the first rows nor the last come first.
    flat = faithfulness.deletion(region, images, [0], 0 * chance)[0]
    assert deleted['right'] < flat < deleted['wrong']


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
    with pytest.raises(UserError, match='masks=0'):
        attribution.rise(network, images, CLASSES, masks=0)
    with pytest.raises(UserError, match=r'maps=\[3, 8, 12\]: give a finite map \[3, 12, 8\]'):
        faithfulness.deletion(network, images, CLASSES, np.zeros((3, 8, 12)))
    with pytest.raises(UserError, match='steps=0'):
        faithfulness.deletion(network, images, CLASSES, np.zeros((3, 12, 8)), steps=0)
    with pytest.raises(UserError, match='blur=0'):
        faithfulness.insertion(network, images, CLASSES, np.zeros((3, 12, 8)), blur=0)


def test_maps_in_colours():
    values = np.zeros((4, 4), np.float32)
    values[0, 0], values[3, 3] = 1, -1
    signed = attribution_figure.colored('integrated gradients', values, np.zeros((4, 4, 3)))
    assert signed[0, 0, 0] > signed[0, 0, 2]  # red
    assert signed[3, 3, 2] > signed[3, 3, 0]  # blue
    assert signed[1, 1].min() > 0.9
    plain = attribution_figure.colored('gradient', np.abs(values), np.zeros((4, 4, 3)))
    assert plain.shape == (4, 4)
    assert plain.max() == 1
    for method in attribution.METHODS:
        empty = attribution_figure.colored(method, 0 * values, np.zeros((4, 4, 3)))
        assert np.isfinite(empty).all()


def test_the_figure(tmp_path, monkeypatch):
    """What is printed, and that the best scores are bold: to the digits that are printed."""
    figures = []
    monkeypatch.setattr(attribution_figure.plots, 'save', lambda figure, _: figures.append(figure))
    image, maps = np.zeros((4, 4, 1)), {'gradient': np.eye(4), 'RISE': np.eye(4)}
    rows = [attribution_figure.Row(image, 'cat', 0.75, truth, maps, {'gradient': low, 'RISE': 0.5},
                                   {'gradient': 0.601, 'RISE': 0.602})
            for truth, low in (('dog', 0.2), (None, 0.6))]
    attribution_figure.draw(rows, tmp_path / 'figure.png', 'of a test')
    texts = [(text.get_text(), text.get_weight(), text.get_color()) for text in figures[0].texts]
    words = [text for text, *_ in texts]
    assert {'of a test', 'gradient', 'RISE', 'class shown (75%):', 'cat', 'not known',
            'mean of 2 images'} <= set(words)
    assert ('dog', 'normal', 'tab:red') in texts
    scores = [(text, weight) for text, weight, _ in texts if text.startswith('deletion 0')]
    assert scores == [('deletion 0.20', 'bold'), ('deletion 0.50', 'normal'),
                      ('deletion 0.60', 'normal'), ('deletion 0.50', 'bold'),
                      ('deletion 0.40', 'bold'), ('deletion 0.50', 'normal')]
    assert [(text, weight) for text, weight, _ in texts if text.startswith('insertion 0')] == [
        ('insertion 0.60', 'bold')] * 6
    labels = [axes.get_xlabel() for axes in figures[0].axes if axes.get_xlabel()]
    assert [label.split('\n')[1] for label in labels] == ['(gradient)', '(RISE)']


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
    np.testing.assert_allclose(class_scores.probabilities(network, images),
                               jax.nn.softmax(logits).mean((1, 2)), rtol=1e-5)
