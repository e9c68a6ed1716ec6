"""The classes of pictures are those of an evaluation, whatever the pictures are."""

import csv
import json
import shutil

import flax.linen as nn
import jax
import numpy as np
import pytest
from PIL import Image
from selenium.webdriver.support.ui import WebDriverWait

from cnnjax import data, evaluate, models, predict_classes, trained, weights
from cnnjax.data import images
from cnnjax.errors import UserError
from configs import predict as recipe
from experiments.predict import classes
from experiments.predict import predict as experiment

CLASSES = ('ant', 'bee', 'cat', 'dog', 'elk', 'fox')
NORMALIZE = data.Normalization(np.float32([0.5]), np.float32([0.2]))
CUT = {'image_size': 16, 'test_shorter_side': 20, 'interpolation': 'bicubic'}


def made(evaluation, shape=(16, 16, 3)):
    net = models.create('convnet', num_classes=len(CLASSES), width=4)
    variables = jax.jit(net.init)(jax.random.key(1), np.zeros((1, *shape), 'float32'))
    variables = jax.tree.map(lambda x: 3 * x, variables)  # surer answers
    return trained.Trained(net, variables, NORMALIZE, CLASSES, shape, None, 'convnet',
                           {'task': 'classify', **evaluation})


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """JPEG photographs, which are decoded at half of their size, and PNG files of other shapes."""
    root, rng = tmp_path_factory.mktemp('pictures'), np.random.default_rng(0)
    for i in range(13):
        path = root / 'test' / CLASSES[i % 6] / f'{i}.{"jpg" if i % 3 else "png"}'
        for split in ('train', 'test'):
            (root / split / CLASSES[i % 6]).mkdir(parents=True, exist_ok=True)
        shape = (120, 90 + 7 * i) if i % 3 else (24 + i, 31)
        Image.fromarray(rng.integers(0, 256, (*shape, 3)).astype(np.uint8)).save(path)
        Image.new('RGB', (20, 20)).save(root / 'train' / CLASSES[i % 6] / f'{i}.png')
    return root


@pytest.mark.parametrize('protocol', [{}, {'crops': '10', 'test_flip': False}])
def test_the_test_set_has_the_error_of_its_evaluation(protocol, folder, tmp_path):
    """Bit for bit, of the run and of a weights file of it, in one crop and in ten."""
    network = made(CUT | protocol)
    source = data.load('folder', 'test', str(folder))
    examples = data.Stream(source, data.Crops(16, test_shorter_side=20, shorter_side=(20, 20),
                                              interpolation='bicubic'))
    results = evaluate.evaluate(network, examples, batch_size=8)
    weights.save(network, tmp_path / 'network.safetensors')
    paths = list(source.examples.paths)
    for each in (network, trained.load(tmp_path / 'network.safetensors')):
        found = each.predict(paths, batch_size=8)
        places = np.array([[CLASSES.index(name) for name in one.classes] for one in found])
        np.testing.assert_array_equal(places, results['top'])
        np.testing.assert_array_equal(np.float32([one.probabilities for one in found]),
                                      results['probabilities'])
        assert (places[:, 0] != results['label']).mean() == pytest.approx(results['error'])
    assert 0 < results['error'] < 1


def test_pictures_may_be_files_or_arrays_one_or_many(folder):
    network = made(CUT)
    path = next(folder.glob('test/*/*.png'))
    image = images.read(path)
    expected, = network.predict(path)
    assert len(expected.classes) == len(expected.probabilities) == 5
    assert list(expected.probabilities) == sorted(expected.probabilities, reverse=True)
    for pictures in (str(path), [path], image, image[None], [image], image / np.float32(255),
                     path.parent.glob(path.name)):
        assert network.predict(pictures) == [expected]
    all_, = network.predict(image, top=99)
    assert sorted(all_.classes) == sorted(CLASSES)
    assert sum(all_.probabilities) == pytest.approx(1)
    other, = network.predict(np.zeros((300, 200, 3), np.uint8), top=1)
    assert len(other.classes) == 1


def test_damaged_pictures_are_told_and_change_no_other(folder, tmp_path):
    """Those that cannot be opened, and a JPEG that ends too early, which decoding shows."""
    network, paths = made(CUT), sorted(folder.glob('test/*/*'))
    whole = next(folder.glob('test/*/*.jpg')).read_bytes()
    (tmp_path / 'short.jpg').write_bytes(whole[:len(whole) // 2])
    (tmp_path / 'text.png').write_text('no picture')
    mixed = [tmp_path / 'text.png', *paths[:3], tmp_path / 'short.jpg', *paths[3:]]
    unreadable = {}
    found = predict_classes.classes(network, mixed, batch_size=4, unreadable=unreadable)
    assert list(unreadable) == [0, 4]
    assert f'{tmp_path}/short.jpg' in str(unreadable[4])
    assert found[0] is found[4] is None
    expected = network.predict(paths, batch_size=4)
    for one, other in zip(filter(None, found), expected, strict=True):
        assert one.classes == other.classes
        assert one.probabilities == pytest.approx(other.probabilities, rel=1e-5)
    for path in (tmp_path / 'short.jpg', tmp_path / 'text.png'):
        with pytest.raises(UserError, match=path.name):
            network.predict([paths[0], path])


def test_images_that_were_taken_as_they_are():
    """Pictures of their size are seen unchanged, others scaled, or refused."""
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 1)).astype(np.uint8)
    square = made({'image_size': 0}, (8, 8, 1))
    found, = square.predict(image)
    scores = np.asarray(jax.nn.softmax(square(image[None])[0]))
    np.testing.assert_allclose(found.probabilities, np.sort(scores)[::-1][:5], rtol=1e-4)
    large, = square.predict(image.repeat(6, 0).repeat(6, 1))
    assert large.classes[0] == found.classes[0]
    wide = made({'image_size': 0}, (8, 12, 1))
    assert wide.predict(np.zeros((8, 12, 1), np.uint8))
    with pytest.raises(UserError, match=r'a picture: 9 x 12 pixels; the network was trained on '
                                        r'pictures of 8 x 12, as they are: bring it to that size'):
        wide.predict(np.zeros((9, 12, 1), np.uint8))
    border = made({'image_size': 0, 'border': 2}, (12, 12, 1))
    bordered, = border.predict(image)
    whole = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    scores = np.asarray(jax.nn.softmax(border(whole[None])[0]))
    assert bordered.probabilities[0] == pytest.approx(scores.max(), rel=1e-4)
    with pytest.raises(UserError, match='pictures of 8 x 8, as they are'):
        border.predict(whole)
    with pytest.raises(UserError, match=r"crops='10': views are cut from scaled pictures, of a"):
        made({'image_size': 0, 'crops': '10'}, (8, 8, 1)).predict(image)
    with pytest.raises(UserError, match=r'images of shape \(1, 8, 8, 1\): the network takes'):
        made(CUT).predict(image)


@pytest.mark.parametrize('fit', ['pad', 'stretch', 'letterbox'])
def test_every_fit(fit):
    network = made({'image_size': 16, 'fit': fit})
    image = np.random.default_rng(0).integers(0, 256, (10, 14, 3)).astype(np.uint8)
    seen = data.Crops(16, fit=fit).center({'image': image})['image']
    scores = np.asarray(jax.nn.softmax(network(seen[None])[0]))
    assert network.predict(image)[0].probabilities[0] == pytest.approx(scores.max(), rel=1e-5)
    if fit == 'pad':
        unreadable = {}
        predict_classes.classes(network, [image, np.zeros((20, 9, 3), np.uint8)],
                                unreadable=unreadable)
        assert list(unreadable) == [1]


def test_published_weights_are_cut_as_their_hub_says():
    """They tell no image_size: it is that of their images, here larger than a stream's crops."""
    network = made({'test_shorter_side': 300, 'interpolation': 'bicubic'}, (288, 288, 3))
    assert predict_classes.predict.crops(network).size == 288
    assert len(network.predict(np.zeros((50, 40, 3), np.uint8))) == 1


class Maps(nn.Module):
    num_classes: int = 2

    @nn.compact
    def __call__(self, images, train=False):
        return nn.Conv(2, (1, 1), name='conv')(images), {}


def test_networks_of_other_tasks():
    variables = Maps().init(jax.random.key(0), np.zeros((1, 4, 4, 3)))
    network = trained.Trained(Maps(), variables, NORMALIZE, CLASSES[:2], (4, 4, 3), None, 'maps',
                              {'task': 'segment', 'image_size': 0})
    mask, = network.predict(np.zeros((5, 6, 3), np.uint8))
    assert mask.shape == (5, 6)
    with pytest.raises(UserError, match=r'maps was trained to segment: .* take predict\.labels'):
        predict_classes.classes(network, [np.zeros((5, 6, 3), np.uint8)])


@pytest.mark.parametrize('options', [{'top': 0}, {'pictures': []}])
def test_nothing_to_do_is_refused(options):
    with pytest.raises(UserError, match='take at least one of both'):
        made(CUT).predict(**{'pictures': [np.zeros((9, 9, 3), np.uint8)], **options})


@pytest.fixture(scope='module')
def predicted(folder, tmp_path_factory):
    """What the experiment writes of the folder and a damaged file."""
    directory, bad = tmp_path_factory.mktemp('predictions'), folder / 'test' / '<b>#1%.jpg'
    bad.write_bytes(next(folder.glob('test/*/*.jpg')).read_bytes()[:900])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trained, 'load', lambda *_: made(CUT))
        config = recipe.get_config()
        config.update(pictures=str(folder / 'test'), top=4, batch_size=5, source='runs/x')
        experiment.run(config, directory)
        bad.rename(folder / 'bad')
    return directory


def test_tables_of_many_pictures(predicted, folder):
    paths = sorted(map(str, folder.glob('test/*/*')))
    expected = made(CUT).predict(paths, top=4, batch_size=5)
    listed = json.loads((predicted / 'predictions.json').read_text())
    assert listed['classes'] == list(CLASSES)
    assert [one['file'] for one in listed['skipped']] == [str(folder / 'test' / '<b>#1%.jpg')]
    assert [one['file'] for one in listed['predictions']] == paths
    with open(predicted / 'predictions.csv') as file:
        rows = list(csv.DictReader(file))
    for one, row, prediction in zip(listed['predictions'], rows, expected, strict=True):
        assert tuple(one['classes']) == prediction.classes
        assert one['probabilities'] == pytest.approx(prediction.probabilities, rel=1e-5)
        assert [row['name'], row['file']] == [one['name'], one['file']]
        assert [row['prediction'], *(row[f'class{i}'] for i in (2, 3, 4))] == one['classes']
        assert float(row['probability4']) == pytest.approx(one['probabilities'][3], abs=1e-6)
        with Image.open(predicted / one['thumbnail']) as small, Image.open(one['file']) as whole:
            assert small.size == whole.size  # None is enlarged.


def test_the_page_of_predictions_in_a_browser(driver, predicted):
    driver.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', {  # so high that all are in view
        'width': 1200, 'height': 6000, 'deviceScaleFactor': 1, 'mobile': False})
    driver.get((predicted / 'predictions.html').as_uri())
    assert driver.execute_script('return document.images.length') == 13
    WebDriverWait(driver, 30).until(lambda _: driver.execute_script(  # They load after the page.
        'return [...document.images].every(i => i.complete && i.naturalWidth)'))
    assert '<b>#1%.jpg' in driver.find_element('css selector', 'main').text
    assert len(driver.find_elements('css selector', '.pictures td.share')) == 13 * 4
    driver.find_element('css selector', '.pictures a').click()
    assert driver.current_url.endswith(('.png', '.jpg'))
    assert driver.get_log('browser') == []


def test_no_table_of_other_pictures_is_left(predicted, folder, tmp_path, monkeypatch):
    """Where none of the new pictures can be read."""
    directory = shutil.copytree(predicted, tmp_path / 'predictions')
    monkeypatch.setattr(trained, 'load', lambda *_: made(CUT))
    config = recipe.get_config()
    config.update(pictures=str(folder / 'bad'), batch_size=5, source='runs/x')
    with pytest.raises(UserError, match='no picture of 1 has a prediction'):
        experiment.run(config, directory)
    left = {path.name for path in directory.rglob('*') if path.is_file()}
    assert not left - {'config.json', 'lock'}


def test_the_terminal_shows_the_first(capsys, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(trained, 'load', lambda *_: made(CUT))
    config = recipe.get_config()
    paths = sorted(map(str, folder.glob('test/*/*.png')))
    config.update(pictures=','.join(paths), draw=False, devices=1)
    experiment.run(config, tmp_path)
    best = made(CUT).predict(paths[0])[0]
    assert (f'| {paths[0]} | {best.classes[0]} {100 * best.probabilities[0]:.1f} %'
            in ' '.join(capsys.readouterr().out.split()))
    assert not (tmp_path / 'thumbnails').exists()


def test_the_page_has_the_first_pictures_and_the_tables_all(folder, tmp_path, monkeypatch):
    """A browser cannot show a hundred thousand; thumbnails are made of those that it shows."""
    monkeypatch.setattr(trained, 'load', lambda *_: made(CUT))
    for module in (experiment, classes):
        monkeypatch.setattr(module, 'PICTURED', 2)
    paths = sorted(map(str, folder.glob('test/*/*.png')))
    config = recipe.get_config()
    config.update(pictures=','.join(paths))
    experiment.run(config, tmp_path)
    text = (tmp_path / 'predictions.html').read_text()
    assert text.count('<li>') == len(list((tmp_path / 'thumbnails').iterdir())) == 2
    assert 'These are the first 2; predictions.csv has all.' in text
    assert len((tmp_path / 'predictions.csv').read_text().splitlines()) == 1 + len(paths) > 3
