"""Predictions on pictures of any size; tiles have the scores of the whole."""

import csv

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import ExifTags, Image

from cnnjax import memory, models, overlays, predict, trained
from cnnjax.data import Crops, Normalization
from cnnjax.errors import UserError
from configs import predict as recipe
from experiments import predict as experiment

CLASSES = ('background', 'disk', 'square')
NORMALIZE = Normalization(np.float32([0.5]), np.float32([0.2]))


def made(name, shape, config=None, evaluation=None, **fields):
    net = models.create(name, num_classes=len(CLASSES), **fields)
    variables = jax.jit(net.init)(jax.random.key(0), np.zeros((1, *shape), 'float32'))
    return trained.Trained(net, variables, NORMALIZE, CLASSES, shape, config, name,
                           {'task': 'segment', **(evaluation or {})})


@pytest.fixture(scope='module')
def padded():
    return made('unet_padded', (16, 16, 3), widths=(4, 8, 8))


@pytest.fixture(scope='module')
def valid():
    return made('unet', (92, 92, 3), widths=(4, 8, 8))


@pytest.fixture(scope='module')
def dilated():
    return made('fcn_resnet50', (64, 64, 3), widths=(4, 4, 4), blocks=(1, 1, 1))


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def test_an_image_that_fits_has_the_scores_of_the_network(padded, valid):
    image = noise(52, 92, 3)
    np.testing.assert_allclose(predict.scores(padded, image), padded(image[None])[0], atol=1e-5)
    # Without padding there are scores for the middle alone; the border comes from the mirror.
    scores = predict.scores(valid, image)
    assert scores.shape == (52, 92, 3)
    np.testing.assert_allclose(scores[20:-20, 20:-20], valid(image[None])[0], atol=1e-5)
    mirrored = np.pad(image, ((20, 20), (20, 20), (0, 0)), 'reflect')
    np.testing.assert_allclose(scores, valid(mirrored[None])[0], atol=1e-5)
    np.testing.assert_allclose(predict.scores(valid, image / np.float32(255)), scores, atol=1e-4)
    np.testing.assert_array_equal(predict.labels(valid, image), scores.argmax(-1))


@pytest.mark.parametrize('shape', [(1, 1, 3), (3, 50, 3), (51, 53, 3)])
def test_any_size(shape, padded, valid):
    image = noise(*shape)
    for network in (padded, valid):
        assert predict.scores(network, image).shape == (*shape[:2], 3)
    below, right = -shape[0] % 4, -shape[1] % 4
    mirrored = np.pad(image, ((0, below), (0, right), (0, 0)), 'reflect')
    np.testing.assert_allclose(predict.scores(padded, image),
                               padded(mirrored[None])[0, :shape[0], :shape[1]], atol=1e-5)


@pytest.mark.parametrize('name', ['padded', 'valid', 'dilated'])
def test_tiles_have_the_scores_of_the_whole(name, request):
    network, image = request.getfixturevalue(name), noise(151, 90, 3)
    whole = predict.scores(network, image)
    for tile in (70, 101):
        own = predict.window(network.net, network.image_shape, tile)
        assert own.side < 151  # and so there are several
        np.testing.assert_allclose(predict.scores(network, image, tile), whole, atol=1e-5)


def test_tiles_of_a_network_that_takes_any_size():
    """Their corners are multiples of its strides."""
    network, rng = made('fcn8s', (64, 64, 3), widths=(2,) * 5, hidden=(4, 4)), (
        np.random.default_rng(0))
    network = network._replace(variables=jax.tree.map(  # An untrained FCN scores 0 everywhere.
        lambda x: x + rng.normal(0, 0.1, x.shape).astype(np.float32), network.variables))
    assert predict.window(network.net, network.image_shape, 576)[:4] == (576, 0, 223, 32)
    image = noise(700, 9, 3)
    whole = predict.scores(network, image)
    assert np.ptp(whole) > 0.01
    np.testing.assert_allclose(predict.scores(network, image, 576), whole, atol=1e-5)


@pytest.mark.parametrize('shape', [(152, 92), (68, 68)])
def test_tiles_are_normalized_as_the_whole(shape, padded):
    """By their part of a mean image, or by its mean colour, also where it is as large as a tile."""
    assert predict.window(padded.net, padded.image_shape, 70).side == 68
    mean = np.float32(noise(*shape, 3) / 255)
    network = padded._replace(normalize=Normalization(mean, np.float32([0.2])))
    image = np.random.default_rng(1).integers(0, 256, (152, 92, 3)).astype(np.uint8)
    np.testing.assert_allclose(predict.scores(network, image, 70), predict.scores(network, image),
                               atol=1e-5)


def test_how_a_network_looks_at_an_image(padded, valid):
    """By hand: in a U-Net of three levels a score sees 20 pixels before and 23 after its own."""
    window = predict.window
    assert window(padded.net, (16, 16, 3), 70)[:4] == (68, 0, 22, 4)
    assert window(valid.net, (92, 92, 3), 70)[:4] == (68, 20, 0, 4)
    paper = models.create('unet')  # figure 2 of the paper: 572 pixels in, 388 out, four max-pools
    assert window(paper, (572, 572, 1), 572)[:4] == (572, 92, 0, 16)
    assert window(paper, (572, 572, 1), 10).side == 188  # the smallest


def test_an_image_larger_than_the_memory_is_refused(padded, monkeypatch):
    monkeypatch.setattr(memory, 'device', lambda: 4 * 2 * 6 * 68 * 68)
    assert predict.scores(padded, noise(200, 68, 3), 68).shape == (200, 68, 3)
    with pytest.raises(UserError, match='picture=200 x 68 pixels takes'):
        predict.scores(padded, noise(200, 68, 3))


@pytest.mark.parametrize('config', [{'image_size': 32}, {'image_size': 24, 'border': 4}])
def test_pictures_are_scaled_as_those_of_the_training(config, tmp_path):
    """The middle of the scaled picture is the image of an evaluation; the scores are those of it,
    scaled back."""
    network = made('unet_padded', (32, 32, 3), ConfigDict(config), widths=(4, 8), evaluation={
        'test_shorter_side': 40, 'interpolation': 'bicubic', 'border': config.get('border', 0)})
    image = noise(80, 96, 3)
    height, width = (40, 48) if not config.get('border') else (36, 44)
    assert predict.scaled_shape(network, image.shape) == (height, width)
    scaled = predict.resized(image, (height, width), 'bicubic')
    crop = Crops(32, test_shorter_side=40, interpolation='bicubic').center({'image': image})
    if not config.get('border'):
        off = abs(scaled[4:-4, 8:-8].astype(int) - crop['image'])
        assert off.max() <= 1
    scores = predict.scores(network, image)
    small = np.asarray(network(scaled[None]))[0]
    expected = np.stack([np.asarray(Image.fromarray(plane).resize((96, 80), 2))
                         for plane in small.transpose(2, 0, 1)], -1)
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_weights_without_a_run_scale_as_the_run_did():
    network = made('unet_padded', (8, 8, 3), widths=(4, 8), evaluation={'image_size': 8})
    assert predict.scaled_shape(network, (16, 24)) == (8, 12)
    network = network._replace(evaluation={'test_shorter_side': 12, 'image_size': 0})
    assert predict.scaled_shape(network, (16, 24)) == (16, 24)


def test_files_are_upright_and_have_the_channels_of_the_network(padded, tmp_path):
    image, exif = noise(12, 20, 3), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # the camera was turned
    Image.fromarray(image).save(tmp_path / 'a.png', exif=exif)
    turned = np.rot90(image, -1)
    np.testing.assert_array_equal(predict.scores(padded, tmp_path / 'a.png'),
                                  predict.scores(padded, turned))
    gray = made('unet_padded', (16, 16, 1), widths=(4, 8))
    luma = np.asarray(Image.fromarray(turned).convert('L'))[..., None]
    np.testing.assert_array_equal(predict.scores(gray, tmp_path / 'a.png'),
                                  predict.scores(gray, luma))


@pytest.mark.parametrize(('picture', 'message'), [
    (noise(12, 12), r'a picture of shape \[12, 12\]: the network takes \[H, W, 3\]'),
    (noise(12, 12, 1), r'shape \(1, 12, 12, 1\): the network takes \[N, H, W, 3\]'),
    (np.zeros((12, 12, 3)) + 9, r'floats from 9 to 9, not in \[0, 1\]'),
    ('no/such.jpg', 'no/such.jpg')])
def test_what_is_no_picture_is_refused(picture, message, padded):
    with pytest.raises(UserError, match=message):
        predict.labels(padded, picture)


def test_a_network_for_whole_images_is_refused():
    net = models.create('resnet20', blocks=(1, 1, 1), widths=(4, 4, 4))
    network = trained.Trained(net, {}, NORMALIZE, tuple('abcdefghij'), (8, 8, 3), None)
    with pytest.raises(UserError, match=r'one score per class, \[10\], no maps of scores'):
        predict.labels(network, noise(8, 8, 3))


@pytest.fixture
def predicted(padded, tmp_path, monkeypatch):
    """A function of the fields of the config: the directory with the predictions."""
    monkeypatch.setattr(trained, 'load', lambda *_: padded)

    def run(**fields):
        config = recipe.get_config()
        config.update(fields)
        experiment.run(config, tmp_path / 'run')
        return tmp_path / 'run'
    return run


def test_masks_overlays_and_shares(predicted, padded, tmp_path, capsys):
    """Pictures of one name keep apart, and one that cannot be read is told."""
    folder = tmp_path / 'new'
    pictures = {'a.png': noise(12, 20, 3), 'b/a.bmp': noise(9, 9, 3),
                'b/A_overlay.png': noise(5, 7, 3)}
    for name, image in pictures.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name)
    (folder / 'broken.jpg').write_bytes(b'\xff\xd8 nothing')
    (folder / 'notes.txt').write_text('no picture')
    before = sorted(path for path in tmp_path.rglob('*'))
    directory = predicted(pictures=str(folder), opacity=0.25)
    said = capsys.readouterr().out
    assert f'{folder}: 4 pictures; left out: 1 .txt' in said
    assert f'skipped: {folder}/broken.jpg is not a readable image' in said
    assert 'predicted: 3, skipped: 1' in said
    with open(directory / 'predictions.csv') as file:
        table = {row['name']: row for row in csv.DictReader(file)}
    assert list(table) == ['a', 'A_overlay', 'a-2']
    for name, key in (('a', 'a.png'), ('a-2', 'b/a.bmp'), ('A_overlay', 'b/A_overlay.png')):
        labels = predict.labels(padded, pictures[key])
        row = table[name]
        assert row['file'] == str(folder / key)
        assert (int(row['height']), int(row['width'])) == labels.shape
        assert [float(row[c]) for c in CLASSES] == pytest.approx(
            [(labels == i).mean() for i in range(3)], abs=1e-6)
        with Image.open(directory / 'masks' / f'{name}.png') as image:
            np.testing.assert_array_equal(np.asarray(image), labels)
        with Image.open(directory / 'overlays' / f'{name}.png') as image:
            np.testing.assert_array_equal(np.asarray(image),
                                          overlays.overlay(pictures[key], labels, 0.25))
    outside = [path for path in tmp_path.rglob('*') if directory not in (path, *path.parents)]
    assert sorted(outside) == before


def test_files_patterns_and_folders(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ('a.png', 'b,c.png', 'new/d.png', 'new/e.jpg', 'new/deep/f.jpg'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b'')
    for text, expected in (('a.png', ['a.png']), ('b,c.png', ['b,c.png']),
                           ('new/*.jpg,a.png', ['new/e.jpg', 'a.png']),
                           ('new/**/*.jpg', ['new/deep/f.jpg', 'new/e.jpg']),
                           ('new', ['new/d.png', 'new/deep/f.jpg', 'new/e.jpg']),
                           ('a.png,a.png', ['a.png'])):
        assert experiment.find(text) == expected
    with pytest.raises(UserError, match=r"pictures='\*.gif' names no picture: give files, folders"):
        experiment.find('a.png,*.gif')


def test_bad_input_writes_nothing(predicted, tmp_path):
    (tmp_path / 'a.png').write_bytes(b'nothing')
    for fields, message in (({'pictures': ''}, "pictures='' is empty"),
                            ({'pictures': 'x', 'opacity': 2.0}, 'opacity=2.0'),
                            ({'pictures': 'x', 'tile': 0}, 'tile=0'),
                            ({'pictures': str(tmp_path / 'a.png')},
                             'no picture of 1 has a prediction: .*a.png is not a readable image')):
        with pytest.raises(UserError, match=message):
            predicted(**fields)
    assert not {path.name for path in tmp_path.rglob('*')} & {
        'masks', 'overlays', 'predictions.csv'}
