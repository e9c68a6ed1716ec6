"""The views of the papers' tests: what they cut, and that their mean is what a hand computes."""

import functools
import json

import jax
import numpy as np
import pytest

from cnnjax import data, dataset, evaluate, layers, models, reports, trained, views, weights
from cnnjax.errors import UserError
from cnnjax.views import Views
from configs import evaluate as recipe
from configs import imagenet
from experiments import evaluate as evaluation
from experiments import train

CLASSES = ('a', 'b', 'c', 'd')
SHAPES = ((40, 40), (40, 56), (60, 40), (40, 40), (40, 58), (44, 40))
RANDOM = np.random.default_rng(0)
PICTURES = [RANDOM.integers(256, size=(*shape, 1), dtype=np.uint8) for shape in SHAPES]
LABELS = [0, 1, 2, 3, 2, 1]


def untrained():
    """A network without padding, 32 x 32 pixels, which sees the positions of a larger image four
    pixels apart."""
    net = models.create('lenet5', num_classes=4)
    variables = jax.jit(functools.partial(net.init, train=False))(
        jax.random.key(0), np.zeros((1, 32, 32, 1), np.float32))
    return trained.Trained(net, variables, data.Normalization(np.float32([0.4]), np.float32([0.1])),
                           CLASSES, (32, 32, 1), None, 'lenet5', {'task': 'classify'})


@pytest.fixture(scope='module')
def lenet():
    return untrained()


@pytest.fixture(scope='module')
def logits(lenet):
    return jax.jit(lambda images: lenet(images))


def prepared(stream):
    examples = [{'image': image, 'label': label}
                for image, label in zip(PICTURES, LABELS, strict=True)]
    source, crops = data.Source(examples, CLASSES), data.Crops(
        32, shorter_side=(32, 48), test_shorter_side=40)
    return data.Stream(source, crops, threads=2) if stream else data.Resident(source, crops)


def cut(picture, *corners):
    return np.stack([picture[top:top + 32, left:left + 32] for top, left in corners])


def corners(picture, square):
    """The upper left corners of AlexNet's five crops."""
    height, width = (40, 40) if square else picture.shape[:2]
    top, left = (n - side for n, side in zip(picture.shape[:2], (height, width), strict=True))
    places = [(0, 0), (0, 1), (1, 0), (1, 1), (0.5, 0.5)]
    return [(int(top / 2 + a * (height - 32)), int(left / 2 + b * (width - 32)))
            for a, b in places]


def by_hand(logits, picture, crops):
    """The mean probabilities of a picture."""
    pair = picture, picture[:, ::-1]
    if crops != 'dense':
        batch = [cut(each, *corners(each, crops == '10')) for each in pair]
        return jax.nn.softmax(logits(np.concatenate(batch))).mean(0)
    rows, columns = (range((n - 32) % 4 // 2, n - 31 - (n - 32) % 4 // 2, 4)
                     for n in picture.shape[:2])
    positions = [(top, left) for top in rows for left in columns]
    return np.mean([jax.nn.softmax(logits(cut(each, *positions)).mean(0)) for each in pair], 0)


@pytest.mark.parametrize(('crops', 'stream', 'devices'), [
    ('10', False, 1), ('10_whole', True, 2), ('dense', True, 4), ('dense', False, 1)])
def test_the_mean_over_views_is_that_of_a_hand(crops, stream, devices, lenet, logits):
    """Pictures of five shapes, whose shorter side needs no scaling: each is seen once, in order."""
    network = lenet._replace(evaluation={'task': 'classify', 'crops': crops, 'test_flip': True})
    results = evaluate.evaluate(network, prepared(stream), batch_size=8, devices=devices)
    expected = np.stack([by_hand(logits, picture, crops) for picture in PICTURES])
    np.testing.assert_array_equal(results['label'], LABELS)
    np.testing.assert_allclose(results['true_probability'], expected[np.arange(6), LABELS],
                               rtol=1e-4)
    np.testing.assert_array_equal(results['top'][:, 0], expected.argmax(-1))
    assert results['count'] == 6
    assert results['error'] == pytest.approx((expected.argmax(-1) != LABELS).mean())
    assert results['loss'] == pytest.approx(-np.log(expected[np.arange(6), LABELS]).mean(),
                                            rel=1e-4)


def test_scales_and_mirror_images_have_the_same_weight(lenet, logits):
    network = lenet._replace(evaluation={'test_scales': (40, 36), 'test_flip': True})
    found = evaluate.log_probabilities(network, prepared(True), devices=1)
    scaled = [np.stack([data.Crops(32, test_shorter_side=side).center({'image': picture})['image']
                        for picture in PICTURES]) for side in (40, 36)]
    expected = np.mean([jax.nn.softmax(logits(images)) for crop in scaled
                        for images in (crop, crop[:, :, ::-1])], 0)
    np.testing.assert_allclose(np.exp(found['scores/']), expected, rtol=1e-4)


def test_a_picture_as_large_as_a_crop_is_seen_once(lenet, logits):
    examples = data.Resident(data.from_arrays(cut(PICTURES[0], (0, 0), (8, 8)), CLASSES,
                                              label=[0, 1]), data.Crops(32))
    network = lenet._replace(evaluation={'crops': 'dense'})
    found = evaluate.log_probabilities(network, examples, devices=1)['scores/']
    np.testing.assert_allclose(found, jax.nn.log_softmax(logits(examples.data['image'])),
                               rtol=1e-4)


def test_an_ensemble_is_the_mean_of_its_networks(lenet, logits):
    """The second has its classes in another order, other weights and ten crops."""
    order = np.array([2, 0, 3, 1])
    other = lenet._replace(
        variables=jax.tree.map(lambda x: 0.9 * x, lenet.variables),
        classes=tuple(np.array(CLASSES)[order]), evaluation={'crops': '10'})
    one = prepared(False)
    found = evaluate.fused([lenet, other], [one, one], devices=1)
    others = jax.jit(lambda images: other(images))
    tens = np.stack([by_hand(others, picture, '10') for picture in PICTURES])
    expected = (jax.nn.softmax(logits(one.data['image'])) + tens[:, np.argsort(order)]) / 2
    np.testing.assert_allclose(found['true_probability'], expected[np.arange(6), LABELS],
                               rtol=1e-4)
    with pytest.raises(UserError, match='has other classes than lenet5: d; an ensemble'):
        evaluate.fused([lenet, other._replace(classes=('a', 'b', 'c', 'e'))], [one, one])
    with pytest.raises(UserError, match='an ensemble, .* of segment: only'):
        evaluate.fused([lenet, other._replace(evaluation={'task': 'segment'})], [one, one])


@pytest.mark.parametrize(('name', 'side', 'positions', 'fields'), [
    ('vgg11', 64, (2, 3), {'widths': (2,) * 5, 'hidden': (5, 5)}),
    ('alexnet', 99, (2, 3), {'widths': (2,) * 5, 'hidden': (5, 5)}),
    ('lenet5_1998', 32, (9, 17), {}), ('convnet', 6, (17, 33), {'width': 2}),
    ('fractalnet20', 8, (9, 17), {'columns': 1, 'widths': (2, 2), 'dropout': (0.0, 0.0)})])
def test_full_layers_as_convolutions_have_the_same_logits(name, side, positions, fields):
    net = models.create(name, num_classes=3, **fields)
    images = jax.random.normal(jax.random.key(1), (2, side, side, 1))

    def logits(variables, images):
        with layers.fully_convolutional():
            return net.apply(variables, images, train=False)[0]

    @jax.jit
    def both(key):
        variables = net.init(key, images, train=False)
        return variables, net.apply(variables, images, train=False)[0], logits(variables, images)

    variables, expected, found = both(jax.random.key(0))
    np.testing.assert_allclose(found, expected[:, None, None], rtol=1e-5, atol=1e-5)
    assert abs(expected).max() > 1e-5
    larger = jax.ShapeDtypeStruct((2, side + 32, side + 64, 1), np.float32)
    assert jax.eval_shape(logits, variables, larger).shape == (2, *positions, 3)
    assert net.apply(variables, images, train=False)[0].shape == (2, 3)  # outside the context


def test_networks_that_cannot_see_whole_pictures():
    net = models.create('alexnet_tv', num_classes=3, widths=(2,) * 5, hidden=(5, 5))
    views.check_network(Views('dense', (256,)), net, data.Crops(224), 3)
    with pytest.raises(UserError, match="crops='dense': AlexNet .* of 128 pixels: fc6 sees 6 x 6"):
        views.check_network(Views('dense', (256,)), net, data.Crops(128), 3)
    fractional = models.create('fmp6_32', num_classes=3, depth=3, width=2, canvas=14)
    with pytest.raises(UserError, match='FractionalNet has no grid of positions in an image of 5'):
        views.check_network(Views('dense', (10,)), fractional, data.Crops(5), 1)


@pytest.mark.parametrize(('chosen', 'task', 'crops', 'message'), [
    (Views('12'), 'classify', data.Crops(4), "crops='12' is none of '1', '10'"),
    (Views('1', (0,)), 'classify', data.Crops(4), r'test_scales=\(0,\): take 1'),
    (Views(test_flip=True), 'segment', data.Crops(4), 'test_flip=True: only the classes'),
    (Views('dense'), 'classify', data.Crops(), "crops='dense': views are cut from scaled pict"),
    (Views('1', (5,)), 'classify', data.Crops(4, fit='pad'), 'with image_size and fit='),
    (Views('10'), 'classify', data.Crops(4), 'from a square of 4 pixels are all the same'),
    (Views('10_whole', (8, 3)), 'classify', data.Crops(4), 'shorter side is scaled to 3')])
def test_views_that_cannot_be_cut(chosen, task, crops, message):
    with pytest.raises(UserError, match=message):
        views.check(chosen, task, crops)


def test_the_mirror_image_of_a_picture_that_is_cut_in_no_way(lenet, logits):
    """Its whole, stretched."""
    source = data.from_arrays(np.stack(PICTURES[:1]), CLASSES, label=[0])
    examples = data.Resident(source, data.Crops(32, fit='stretch'))
    network = lenet._replace(evaluation={'test_flip': True})
    found = evaluate.log_probabilities(network, examples, devices=1)['scores/']
    image = examples.data['image']
    pair = jax.nn.softmax(logits(np.concatenate([image, image[:, :, ::-1]])))
    np.testing.assert_allclose(np.exp(found[0]), pair.mean(0), rtol=1e-4)


def test_a_whole_picture_smaller_than_the_full_layers_see(lenet):
    network = lenet._replace(evaluation={'crops': 'dense', 'test_scales': (40, 24)})
    with pytest.raises(UserError, match='LeNet5 cannot see whole pictures of 24 pixels: LeNet-5'):
        evaluate.evaluate(network, prepared(False), devices=1)


def test_a_file_of_weights_tells_its_views(lenet, tmp_path):
    fields = {'crops': 'dense', 'test_scales': (36, 40), 'test_flip': True, 'image_size': 32}
    weights.save(lenet._replace(evaluation=fields), tmp_path / 'lenet.safetensors')
    assert trained.load(tmp_path / 'lenet.safetensors').evaluation == fields


def test_a_finished_run_is_tested_on_its_views(tiny, tmp_path, capsys):
    """Its last row has the error of one crop; with other views the same run is tested again."""
    with tiny.unlocked():
        tiny.update({'steps': 2, 'eval_every': 0.0, 'border': 1, 'test_shorter_side': 10,
                     'image_size': 8, 'crops': '10', 'eval_batch_size': 450})
    train.run(tiny, tmp_path)
    found = json.loads((tmp_path / 'results.json').read_text())
    assert found['views'] == '10 crops of the middle square, shorter side 10'
    assert (f'test error of {found["views"]}: {100 * found["error"]:.2f} %'
            in capsys.readouterr().out)
    network = trained.load(tmp_path)
    source = dataset.source(network.config, 'test')
    again = evaluate.evaluate(network, source, devices=1)
    one = evaluate.evaluate(network._replace(evaluation={}), source, devices=1)
    assert again['loss'] == pytest.approx(found['loss'])
    row = reports.read_metrics(tmp_path)[-1]
    assert row['test/loss'] == pytest.approx(one['loss'])
    assert abs(one['loss'] - found['loss']) > 1e-4
    assert reports.test_errors(tmp_path)['error'] == found['error']

    config = recipe.get_config()
    config.update(source=f'{tmp_path},{tmp_path}', checkpoint='latest')
    evaluation.run(config, tmp_path / 'ensemble')
    assert found['views'] in capsys.readouterr().out
    both = json.loads((tmp_path / 'ensemble' / 'results.json').read_text())
    assert {**both, 'source': '', 'steps': 2} == {
        **found, 'source': '', 'loss': pytest.approx(found['loss']),
        'ece': pytest.approx(found['ece'])}
    name = tiny.model.name
    assert f'<h1>{name} + {name} on ' in (tmp_path / 'ensemble' / 'report.html').read_text()

    train.run(tiny, tmp_path)
    assert 'report:' not in capsys.readouterr().out
    with tiny.unlocked():
        tiny.crops = '1'
    train.run(tiny, tmp_path)
    assert 'report:' in capsys.readouterr().out
    found = json.loads((tmp_path / 'results.json').read_text())
    assert found['loss'] == pytest.approx(row['test/loss'])
    assert reports.test_errors(tmp_path)['error'] == row['test/error']
    with tiny.unlocked():
        tiny.update({'crops': 'dense', 'image_size': 0})
    with pytest.raises(UserError, match="crops='dense': views are cut from scaled pictures"):
        train.run(tiny, tmp_path / 'other')


@pytest.mark.parametrize('network', imagenet.PAPER)
def test_recipes_test_as_their_papers(network):
    config = imagenet.get_config(network)
    own = Views.of(config)
    views.check(own, config.task, dataset.crops(config))
    assert own == Views.of(imagenet.PAPER[network]['views'])


def test_what_is_known_of_the_papers():
    described = {name: views.described(imagenet.get_config(name))
                 for name in ('alexnet', 'vgg16', 'resnet34', 'resnet50')}
    assert described == {
        'alexnet': '10 crops of the middle square, shorter side 256',
        'vgg16': 'the whole picture and its mirror image, shorter side 384',
        'resnet34': '10 crops of the whole picture, shorter side 256',
        'resnet50': 'one crop, shorter side 256'}
