"""The experiment visualize: its figures, numbers, resuming and errors."""

import json
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from cnnjax import data, limits, models, plots, trained
from cnnjax.data import sources
from cnnjax.errors import UserError
from cnnjax.images import attribution, faithfulness, strongest
from configs import visualize as configs
from experiments.visualize import maximized, shown, visualize

SAID, save = {}, plots.save  # {figure of the fixture `finished`: its texts}


def make(channels=1, side=8, **options):
    net = models.create('vgg11', groups=((3,), (3,)), widths=(4, 6), hidden=(), num_classes=10,
                        **options)
    shape = (side, side, channels)
    variables = jax.jit(net.init)(jax.random.key(1), jnp.zeros((1, *shape)))
    normalize = data.Normalization(np.full(channels, 0.5, np.float32),
                                   np.full(channels, 0.25, np.float32))
    return trained.Trained(net, variables, normalize, tuple('0123456789'), shape, None)


@pytest.fixture(scope='module')
def network():
    return make()


def settings(**changes):
    config = configs.get_config('digits')
    config.update(count=30, layers='relu1_1:2+0,relu2_1', units=2, patches=4, steps=4,
                  class_steps=4, classes=3, facets=2, pairs=1, grid=3, atlas=3, salient=1,
                  channels=4, rules='deconvnet,gradient', devices=1, **changes)
    return config.lock()


@pytest.fixture(autouse=True)
def loaded(monkeypatch, network):
    monkeypatch.setattr(visualize.trained, 'load', lambda *_: network)


@pytest.fixture(scope='module')
def finished(tmp_path_factory, network):
    """The directory of a whole run."""
    directory = tmp_path_factory.mktemp('whole')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(visualize.trained, 'load', lambda *_: network)
        patch.setattr(plots, 'save', lambda figure, path: SAID.update({path.stem: ' '.join(
            text.get_text() for text in figure.findobj(Text)).replace('\n', ' ')})
            or save(figure, path))
        visualize.run(settings(), directory)
    return directory


def test_the_figures_and_the_numbers(finished, network):
    names = {path.stem for path in finished.glob('figures/*.png')}
    assert names == {'filters', 'relu1_1', 'relu2_1', 'classes', 'saliency', 'activations',
                     'facets', 'pairs', 'grid', 'atlas'}
    for path in finished.glob('figures/*.png'):
        assert np.asarray(Image.open(path)).std() > 10, path  # there is something in it
    results = json.loads((finished / 'results.json').read_text())
    assert results['images'] == 30
    assert results['filters'] == {'layer': 'conv1_1', 'shape': [3, 3, 1, 4]}
    assert [row['unit'] for row in results['layers']['relu1_1']] == [2, 0]
    assert len(results['layers']['relu2_1']) == 2
    assert [row['class'] for row in results['classes']] == ['0', '4', '9']
    saliency, = results['saliency']
    assert saliency['image'] == '0'
    assert results['activations'] == {'image': '0',
                                      'layers': ['relu1_1', 'pool1', 'relu2_1', 'pool2']}
    scans, above = sources.load('digits', 'test').examples, []
    some = np.linspace(0, 449, 30).round().astype(int)
    images = np.stack([scans[i]['image'] for i in some])
    taps = network.taps(images)
    for row in results['layers']['relu2_1']:
        maxima = np.asarray(taps['relu2_1'][..., row['unit']]).max((1, 2))
        np.testing.assert_allclose(row['strongest'], np.sort(maxima)[::-1][:4], rtol=1e-5)
        np.testing.assert_allclose(row['mean'], taps['relu2_1'][..., row['unit']].mean(), rtol=1e-4)
        image = np.asarray(Image.open(
            finished / 'maximized' / 'relu2_1' / f'{row["unit"]}.png'))
        assert image.shape == (8, 8)
        # What is compared is the activation in the file, as it is in the files of the data set.
        score = np.asarray(network.taps(image[None, ..., None])['relu2_1'])[..., row['unit']].max()
        np.testing.assert_allclose(row['maximized'], score, rtol=1e-5)
        above.append(score > maxima.max())
    above += [row['maximized'] > row['strongest'][0] for row in results['layers']['relu1_1']]
    assert results['exceeding']['units'] == np.mean(above)
    assert results['exceeding']['classes'] == np.mean(
        [row['maximized'] > row['strongest'] for row in results['classes']])
    logits = np.asarray(network(images))
    best = max(np.argsort(-logits[:, 0])[:4], key=lambda i: (
        scans[some[i]]['label'] == 0, jax.nn.softmax(logits[i])[0]))
    label = logits[best].argmax()
    assert saliency['class'] == str(label)
    assert saliency['true_class'] == str(scans[some[best]]['label'])
    for score in ('deletion', 'insertion'):
        assert set(saliency[score]) == set(attribution.METHODS)
        by_chance = attribution.random(network, images[[best]], [label], seed=0)
        expected = getattr(faithfulness, score)(network, images[[best]], [label], by_chance)
        np.testing.assert_allclose(saliency[score]['random'], expected[0], rtol=1e-4)
    for row in results['classes']:
        assert row['image'] == logits[:, int(row['class'])].argmax()
        np.testing.assert_allclose(row['strongest'], logits[:, int(row['class'])].max(), rtol=1e-5)
    assert [row['unit'] for row in results['facets']] == [
        row['unit'] for row in results['layers']['relu2_1']]
    assert np.shape([row['facets'] for row in results['facets']]) == (2, 2)
    assert results['pairs'][0]['units'] == [row['unit'] for row in results['facets']]
    assert results['grid'] == {'image': '0', 'layer': 'relu2_1', 'shape': [3, 3]}
    cells = results['atlas']
    assert len(cells['places']) == len(cells['counts']) == len(cells['classes'])
    assert sum(cells['counts']) == 30
    assert set(cells['classes']) <= set('0123456789')
    saved, _ = strongest.load(finished / 'patches.npz')
    assert set(saved) == {'relu1_1', 'relu2_1', 'fc8'}


def test_the_figures_name_the_network_the_data_and_their_numbers(finished):
    assert {path.stem for path in finished.glob('figures/*.png')} == SAID.keys()
    on = 'runs/quickstart (VGG) on digits, test set'
    best = 'numbers: activations of the unit at its best place'
    for name, texts in {
            'filters': ['runs/quickstart (VGG): filters of conv1_1', 'numbers: output channels'],
            'relu1_1': [on, 'relu1_1: ', best, 'projected by deconvnet'],
            'classes': [on, 'numbers: logit of the class'], 'facets': [on, best],
            'pairs': [on], 'atlas': [on, 'relu2_1: activation atlas of 30 images',
                                     'The area of an image is'],
            'grid': ['runs/quickstart (VGG), relu2_1: activation grid', 'The area of an image is'],
            'activations': ['runs/quickstart (VGG): activations by 0', 'numbers: rows, columns'],
            'saliency': ['network: runs/quickstart ']}.items():
        assert all(text in SAID[name] for text in texts), (name, SAID[name])


def test_an_interrupted_run_goes_on(finished, network, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    def again(*_, **__):
        raise AssertionError('it is done already')

    with monkeypatch.context() as patch:
        patch.setattr(maximized, 'classes', interrupt)
        with pytest.raises(KeyboardInterrupt):
            visualize.run(settings(), tmp_path)
    assert not (tmp_path / 'results.json').exists()
    with monkeypatch.context() as patch:
        patch.setattr(visualize.strongest, 'search', again)
        patch.setattr(maximized, 'unit_rows', again)
        patch.setattr(shown, 'filters', again)
        visualize.run(settings(), tmp_path)
    results = [json.loads((path / 'results.json').read_text()) for path in (finished, tmp_path)]
    assert results[0] == results[1]
    for path in finished.glob('**/*.png'):
        other = tmp_path / path.relative_to(finished)
        np.testing.assert_array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(other)))

    with pytest.raises(UserError, match='steps: 4 there, 5 here'):
        visualize.run(changed(steps=5), tmp_path)
    monkeypatch.setattr(visualize.trained, 'load', lambda *_: network._replace(
        variables=jax.tree.map(lambda x: x + 1, network.variables)))
    with pytest.raises(UserError, match='other weights'):
        visualize.run(settings(), tmp_path)


def test_what_is_damaged_or_of_another_set_is_not_taken(finished, tmp_path, monkeypatch, capsys):
    directory = tmp_path / 'run'
    shutil.copytree(finished, directory)
    numbers, figure = directory / 'parts' / 'relu1_1.json', directory / 'figures' / 'relu1_1.png'
    made_from = json.loads(numbers.read_text())['made_from']
    assert visualize.finished(numbers, figure, made_from)
    assert visualize.finished(numbers, figure, 'other') is None
    assert 'is of another data set or picture: the part is made anew' in capsys.readouterr().out
    image = directory / 'maximized' / 'relu1_1' / '0.png'
    for path, content in ((image, image.read_bytes()[:50]), (figure, b''), (numbers, b'[]'),
                          (numbers, b'{"numbers": []}'), (numbers, b'{')):
        whole = path.read_bytes()
        path.write_bytes(content)
        assert visualize.finished(numbers, figure, made_from) is None
        assert str(path) in capsys.readouterr().out
        path.write_bytes(whole)
    whole = data.load('digits', 'test')
    monkeypatch.setitem(data.SHIPPED, 'digits', {'label': lambda split: whole._replace(
        examples=[whole.examples[i] for i in range(len(whole.examples))][::-1])})
    with pytest.raises(UserError, match='(?s)patches.npz holds .* another network or data set'):
        visualize.run(settings(), directory)


def changed(**fields):
    config = configs.get_config('digits')
    config.update(settings().to_dict() | fields)
    return config


def test_named_pictures(tmp_path, network):
    """Of another size and colour than the network's; the maps are drawn at their own."""
    config = changed(images='skimage:astronaut,skimage:camera', map_size=24)
    found = shown.given(config, network)
    assert [name for name, _ in found] == ['astronaut', 'camera']
    assert all(image.shape == (8, 8, 1) for _, image in found)
    drawn = shown.activations(config, network, found[0], tmp_path / 'activations.png')
    assert drawn == {'image': 'astronaut', 'layers': ['relu1_1', 'pool1', 'relu2_1', 'pool2']}


@pytest.mark.parametrize('four', ['4', '7'])  # A data set may have another order of classes.
def test_images_are_shown_that_the_network_is_surest_of(four, network):
    network = network._replace(classes=(*'0123', four, *'56789'))
    digits = data.Stream(data.load_labelled('digits', 'test'), data.Crops(8))
    labels = np.array([example['label'] for example in digits.examples])
    places = np.tile(np.flatnonzero(labels == 1)[2::-1], (10, 1))  # none of the class 0
    places[4, 2] = np.flatnonzero(labels == int(four))[7]
    places[9] = np.flatnonzero(labels == 9)[[0, 2, 4]]
    images, true = shown.recognized(changed(salient=3), network, digits,
                                    SimpleNamespace(images=places))
    sure = {label: np.asarray(jax.nn.softmax(network(np.stack([
        digits.examples[place]['image'] / np.float32(255) for place in places[label]]))))[:, label]
        for label in (0, 9)}
    expected = places[0, sure[0].argmax()], places[4, 2], places[9, sure[9].argmax()]
    assert [name for name, _ in images] == ['0', four, '9']
    assert true == ['1', four, '9']
    for (_, image), place in zip(images, expected, strict=True):
        np.testing.assert_array_equal(255 * image, digits.examples[place]['image'])


@pytest.mark.parametrize(('images', 'expected'), [
    ('', 'network: runs/quickstart (checkpoint best)     images: digits, test set     layer of the '
         'CAMs: relu2_1, 4 x 4 positions'),
    ('skimage:cat', 'network: runs/quickstart (checkpoint best)     images: cat     layer of the '
                    'CAMs: relu2_1, 4 x 4 positions')])
def test_the_title_of_saliency(images, expected, network):
    run = network._replace(config={'epochs': 1})
    assert shown.about(changed(images=images), run, ['cat']) == expected
    published = network._replace(name='vgg11')
    assert '(vgg11)  ' in shown.about(changed(images=images), published, ['cat'])


def test_layers_and_units():
    colour = make(3, 16)
    config = changed(layers='')
    assert list(visualize.chosen(config, colour)) == ['relu1_1', 'relu2_1', 'pool2']
    config.layers = 'pool2, relu1_1:3+1'
    assert visualize.chosen(config, colour) == {'pool2': None, 'relu1_1': [3, 1]}


@pytest.mark.parametrize(('fields', 'message'), [
    ({'layers': 'relu2_2'}, "'relu2_2' is not in the network"),
    ({'layers': 'relu2_1:6'}, "'relu2_1' has the channels 0 to 5, not 6"),
    ({'layers': 'relu2_1:a'}, "write 'relu2_1:0[+]5'"),
    ({'layers': 'relu2_1:1,fc8,relu2_1:2'}, "layers: 'relu2_1' is named twice"),
    ({'rules': 'deconvnet,guide'}, "'guide' is none of gradient, deconvnet"),
    ({'units': 0}, 'units=0'),
    ({'steps': 0}, 'steps=0'),
    ({'facets': 1}, 'facets=1: several images'),
    ({'layer': 'relu2_2'}, "'relu2_2' is not in the network"),
    ({'images': 'skimage:dog'}, 'skimage:dog'),
    ({'dataset': 'photos'}, 'photos has images of .*, the network was trained on'),
    ({'patches': 31}, 'patches=31: the data set has 30 images'),
])
def test_errors(fields, message, tmp_path):
    with pytest.raises(UserError, match=message):
        visualize.run(changed(**fields), tmp_path)
    assert not (tmp_path / 'results.json').exists()


def test_a_network_without_classes_or_filters(tmp_path, network):
    with pytest.raises(ValueError, match="'photos' or 'digits', not 'cifar'"):
        configs.get_config('cifar')
    assert limits.names(configs.get_config().rules) == ('deconvnet', 'guided', 'gradient')
    params = {name: layer for name, layer in network.variables['params'].items() if name == 'fc8'}
    with pytest.raises(UserError, match='no convolution of the network sees the image'):
        shown.filters(settings(), network._replace(variables={'params': params}),
                      tmp_path / 'filters.png')
