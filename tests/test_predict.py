"""Predictions on pictures of any size; tiles have the scores of the whole."""

import contextlib
import csv
import io
import json

import flax.linen as nn
import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import ExifTags, Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cnnjax import (
    counterparts,
    data,
    evaluate,
    memory,
    models,
    overlays,
    predict,
    trained,
)
from cnnjax.data import Crops, Normalization, images
from cnnjax.errors import UserError
from configs import predict as recipe
from experiments.predict import boxes
from experiments.predict import predict as experiment
from tests.detector import Lights

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


def test_views_are_refused_before_anything_is_written(predicted, tmp_path):
    Image.fromarray(noise(9, 9, 3)).save(tmp_path / 'a.png')
    with pytest.raises(UserError, match="crops='10': only the classes of pictures are averaged"):
        predicted(pictures=str(tmp_path / 'a.png'), crops='10')
    assert not (tmp_path / 'run').exists()


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
    page = (directory / 'predictions.html').read_text()
    assert page.count('<li>') == 3
    assert 'href="overlays/a-2.png"' in page
    assert f'{folder}/broken.jpg' in page
    # Predicted again, the files of other pictures go, and those of others stay.
    (directory / 'masks' / 'own.png').write_bytes(b'')
    predicted(pictures=str(folder / 'a.png'), draw=False)
    left = {str(path.relative_to(directory)) for path in directory.rglob('*') if path.is_file()}
    assert left == {
        'config.json', 'masks/a.png', 'masks/own.png', 'predictions.csv', 'predictions.json'}


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


FITS = {'as it is': {'image_size': 0},
        'crop': {'image_size': 16, 'test_shorter_side': 20},
        'pad': {'image_size': 64, 'fit': 'pad'},
        'stretch': {'image_size': 20, 'fit': 'stretch'},
        'letterbox': {'image_size': 24, 'test_shorter_side': 20, 'fit': 'letterbox'}}
NAMES = ('red thing', 'green thing')


def detector(**evaluation):
    side = evaluation.get('image_size') or 32
    return trained.Trained(Lights(), {}, Normalization(np.float32([0.5]), np.float32([0.2])), NAMES,
                           (side, side, 3), None, 'bright', {'task': 'detect', **evaluation})


def shown(red, green, shape=(40, 60)):
    """A dark picture with a red and a green box; None: without it."""
    image = np.full((*shape, 3), 40, np.uint8)
    for channel, box in enumerate((red, green)):
        if box:
            left, top, right, bottom = box
            image[top:bottom, left:right, channel] = 240
    return image


@pytest.mark.parametrize('fit', FITS)
def test_boxes_are_those_of_the_picture_however_the_network_sees_it(fit, tmp_path):
    network, image = detector(**FITS[fit]), shown((12, 8, 36, 28), (40, 20, 48, 36))
    found = predict.detections(network, image)
    np.testing.assert_array_equal(found['labels'], [0, 1])
    expected = np.float32([[12, 8, 36, 28], [40, 20, 48, 36]])
    # A box is found to a pixel of the image that the network sees, and cut where that ends.
    pixel = {'crop': 2.0, 'stretch': 3.0, 'letterbox': 2.5}.get(fit, 0)
    if fit == 'crop':
        expected = expected.clip([14, 4, 14, 4], [46, 36, 46, 36])
    assert abs(found['boxes'] - expected).max() <= pixel + 1e-3
    assert found['scores'][0] > found['scores'][1] > 0
    np.testing.assert_array_equal(found['proposals'], found['boxes'])
    Image.fromarray(image).save(tmp_path / 'a.png')
    for same in (image / np.float32(255), tmp_path / 'a.png'):
        again = predict.detections(network, same)
        for name, values in found.items():
            np.testing.assert_array_equal(again[name], values)
    assert len(predict.detections(network, shown(None, None))['boxes']) == 0


def test_a_detector_refuses_what_is_no_picture(padded, monkeypatch):
    for picture, message in ((noise(12, 12), r'a picture of shape \[12, 12\]'),
                             (np.zeros((4, 4, 3)) + 9, r'floats from 9 to 9'),
                             ('no/such.jpg', 'no/such.jpg')):
        with pytest.raises(UserError, match=message):
            predict.detections(detector(image_size=0), picture)
    with pytest.raises(UserError, match="was trained to segment: it finds no boxes; take one of "
                                        "task='detect'"):
        predict.detections(padded, noise(16, 16, 3))
    with pytest.raises(UserError, match='was trained to detect: it has no maps of scores'):
        predict.labels(detector(image_size=0), noise(16, 16, 3))
    for proposals, message in (([], r'the array of proposals is float64 \[0\], not numbers'),
                               ([[5, 5, 3, 9]], 'has the box .*: left comes before right')):
        with pytest.raises(UserError, match=message):
            predict.detections(detector(image_size=0), noise(16, 16, 3), proposals)
    with pytest.raises(UserError, match='larger than image_size=64'):
        predict.detections(detector(image_size=64, fit='pad'), noise(65, 3, 3))
    monkeypatch.setattr(memory, 'device', lambda: 100)
    with pytest.raises(UserError, match='picture=48 x 48 pixels takes'):
        predict.detections(detector(image_size=0), noise(48, 48, 3))


@pytest.fixture
def detected(tmp_path, monkeypatch):
    """A function of the fields of the config: the directory with the detections."""
    def run(network=None, **fields):
        monkeypatch.setattr(trained, 'load', lambda *_: network or detector(image_size=0))
        config = recipe.get_config()
        config.update(fields)
        experiment.run(config, tmp_path / 'run')
        return tmp_path / 'run'
    return run


def loaded(path):
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def test_predicted_files_have_the_average_precision_of_the_evaluation(detected, tmp_path):
    """As COCO's own programs compute it of the files; JPEGs are decoded at a fraction of their
    size, as in the evaluation."""
    rng, truth, examples = np.random.default_rng(0), [], []
    for i in range(12):
        corners = np.sort(rng.integers(0, (96, 64), (2, 2, 2)), 1)
        found = [*corners[:, 0], *corners[:, 1] + 6]
        boxes = np.float32([[*found[0], *found[2]], [*found[1], *found[3]]]).clip(
            0, [96, 64, 96, 64])
        path = tmp_path / 'new' / f'{i + 3:06d}.jpg'
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(shown(*boxes.astype(int).tolist(), (64, 96))).save(path)
        boxes[0] = (boxes[0] + rng.normal(0, 3, 4)).clip(0, [96, 64, 96, 64])
        truth += [{'id': 2 * i + c + 1, 'image_id': 70 + i, 'category_id': 5 - c, 'iscrowd': 0,
                   'bbox': [*box[:2], *box[2:] - box[:2]], 'area': np.prod(box[2:] - box[:2])}
                  for c, box in enumerate(boxes.astype(float))]
        examples.append({'image': images.Picture(path), 'boxes': boxes,
                         'labels': np.int32([0, 1])})
    (tmp_path / 'truth.json').write_text(json.dumps({
        'images': [{'id': 70 + i, 'file_name': f'{i + 3:06d}.jpg'} for i in range(12)],
        'categories': [{'id': 4, 'name': NAMES[1]}, {'id': 5, 'name': NAMES[0]}],
        'annotations': truth}))
    network = detector(image_size=24, test_shorter_side=20, fit='letterbox', interpolation='box')
    results = evaluate.evaluate(network, data.Stream(
        data.Source(examples, NAMES), predict.crops(network), threads=1), devices=1)
    directory = detected(network, pictures=str(tmp_path / 'new'), score=0.0,
                         annotations=str(tmp_path / 'truth.json'))
    with contextlib.redirect_stdout(io.StringIO()):
        known = loaded(tmp_path / 'truth.json')
        judge = COCOeval(known, known.loadRes(str(directory / 'detections.json')), 'bbox')
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    assert 0.2 < results['ap50'] < 0.99
    assert results['ap'] == pytest.approx(judge.stats[0], abs=1e-12)
    assert results['ap50'] == judge.stats[1]


def test_boxes_tables_and_the_files_of_coco(detected, tmp_path, capsys):
    folder, network = tmp_path / 'new', detector(image_size=0)
    pictures = {'7.png': shown((12, 8, 36, 28), (40, 20, 48, 36)), '12.png': shown(None, None),
                'b/file.png': shown(None, (0, 0, 30, 30))}
    for name, image in pictures.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name)
    (folder / 'broken.jpg').write_bytes(b'\xff\xd8 nothing')
    directory = detected(pictures=f'{folder}/*.*,{folder}/b/file.png', score=0.1,
                         write_proposals=True)
    said = capsys.readouterr().out
    assert f'skipped: {folder}/broken.jpg is not a readable image' in said
    assert f'predicted: 3, skipped: 1; see predictions.html in {directory}' in said
    listed = json.loads((directory / 'predictions.json').read_text())
    assert [one['name'] for one in listed['predictions']] == ['12', '7', 'file']
    assert [one['file'] for one in listed['skipped']] == [f'{folder}/broken.jpg']
    assert [found['class'] for found in listed['predictions'][1]['objects']] == ['red thing']
    assert listed['predictions'][1]['picture'] == 'boxes/7.png'
    with open(directory / 'predictions.csv') as file:
        table = list(csv.DictReader(file))
    assert [(row['name'], row['class']) for row in table] == [('7', NAMES[0]), ('file', NAMES[1])]
    assert table[0] == {'name': '7', 'file': f'{folder}/7.png', 'class': NAMES[0],
                        'score': '0.2000', 'left': '12.00', 'top': '8.00', 'right': '36.00',
                        'bottom': '28.00'}
    for name in ('7.png', '12.png', 'b/file.png'):
        found = predict.detections(network, pictures[name])
        sure = found['scores'] >= 0.1
        with Image.open(directory / 'boxes' / f'{name.split("/")[-1]}') as image:
            np.testing.assert_array_equal(np.asarray(image), overlays.boxes(
                pictures[name], found['boxes'][sure], found['labels'][sure], NAMES,
                scores=found['scores'][sure]))
    results = json.loads((directory / 'detections.json').read_text())
    assert [(each['image_id'], each['category_id'], each['bbox']) for each in results] == [
        (2, 1, [12, 8, 24, 20]), (4, 2, [0, 0, 30, 30])]  # counted: 'file' is no number
    whole = loaded(directory / 'coco.json')
    assert {image['file_name']: image['id'] for image in whole.dataset['images']} == {
        '12.png': 1, '7.png': 2, 'file.png': 4}
    assert whole.dataset['images'][0] == {'id': 1, 'file_name': '12.png', 'width': 60, 'height': 40}
    assert [each['name'] for each in whole.dataset['categories']] == list(NAMES)
    assert [each | {'id': 0} for each in whole.dataset['annotations']] == [
        {'id': 0, **each, 'area': each['bbox'][2] * each['bbox'][3], 'iscrowd': 0}
        for each in results]
    with np.load(directory / 'proposals.npz') as proposals:
        assert {name: len(proposals[name]) for name in proposals} == {
            '7.png': 2, '12.png': 0, 'file.png': 1}
        np.testing.assert_array_equal(proposals['7.png'][0], [12, 8, 36, 28])


def test_pictures_with_numbers_as_names_have_them_as_ids(detected, tmp_path):
    for name in ('000000397133', '12'):
        Image.fromarray(shown((0, 0, 40, 40), None)).save(tmp_path / f'{name}.png')
    directory = detected(pictures=f'{tmp_path}/*.png')
    assert {each['image_id'] for each in json.loads(
        (directory / 'detections.json').read_text())} == {397133, 12}


def test_ids_are_those_of_the_file_that_a_run_was_trained_on(detected, tmp_path):
    """Its classes' ids also for pictures that it does not have."""
    Image.fromarray(shown((0, 0, 40, 40), None)).save(tmp_path / 'a.png')
    (tmp_path / 'annotations').mkdir()
    file = tmp_path / 'annotations' / 'instances_train.json'
    values = {'images': [{'id': 50, 'file_name': 'x/a.png'}], 'annotations': [],
              'categories': [{'id': 7, 'name': NAMES[1]}, {'id': 44, 'name': NAMES[0]}]}
    config = ConfigDict({'dataset': 'folder', 'data_dir': str(tmp_path), 'annotations': '',
                         'train_split': 'train', 'test_split': 'test'})
    for name, number in (('x/a.png', 1), ('a.png', 50)):
        values['images'][0]['file_name'] = name
        file.write_text(json.dumps(values))
        directory = detected(detector(image_size=0)._replace(config=config),
                             pictures=f'{tmp_path}/a.png')
        result, = json.loads((directory / 'detections.json').read_text())
        assert (result['image_id'], result['category_id']) == (number, 44)


class Judge(Lights):
    """Judges the proposals that it is given: the first is the object."""
    inputs = ('proposals',)

    @nn.compact
    def __call__(self, images, train=False, proposals=None):
        taken = np.zeros((len(images), 2, 4), 'float32') if proposals is None else proposals[:, :2]
        return {'proposals': taken, 'shares': 0.9 * (taken[..., 2] > 0)}, {'images': images}


class Silent(Lights):
    """Makes no proposals."""

    @nn.compact
    def __call__(self, images, train=False, frame=None):
        return {'shares': images}, {'images': images}


def test_proposals_of_one_network_are_judged_by_another(detected, tmp_path):
    image = shown((12, 8, 36, 28), (40, 20, 48, 36))
    Image.fromarray(image).save(tmp_path / 'a.png')
    Image.fromarray(image[::-1]).save(tmp_path / 'b.png')
    file = detected(pictures=f'{tmp_path}/*.png', write_proposals=True) / 'proposals.npz'
    judge = detector(image_size=30, fit='stretch')._replace(net=Judge())
    directory = detected(judge, pictures=f'{tmp_path}/*.png', proposals=str(file))
    for name, expected in (('a', [12, 8, 24, 20]), ('b', [12, 12, 24, 20])):
        boxes = [each['bbox'] for each in json.loads((directory / 'detections.json').read_text())
                 if each['image_id'] == 1 + (name == 'b')]
        np.testing.assert_allclose(boxes[0], expected, atol=1e-4)
        assert len(boxes) == 2
    (tmp_path / 'c.png').write_bytes((tmp_path / 'a.png').read_bytes())
    for network, fields, message in (
            (judge, {}, "proposals='': bright judges boxes and finds none itself: give an .npz"),
            (judge, {'proposals': str(file)}, 'has no array for 1 of 3 pictures, such as c'),
            (None, {'proposals': str(file)}, 'bright finds its own: leave the file out')):
        with pytest.raises(UserError, match=message):
            detected(network, pictures=f'{tmp_path}/*.png', **fields)


def test_another_suppression():
    assert boxes.suppressing(Lights(), 0.3) == Lights(nms=0.3)
    assert boxes.suppressing(Lights(), None) == Lights()


def test_bad_input_of_detections_writes_nothing(detected, tmp_path):
    picture = tmp_path / 'a.png'
    Image.fromarray(noise(8, 8, 3)).save(picture)
    (tmp_path / 'other.json').write_text(json.dumps({
        'images': [{'id': 1, 'file_name': 'b.png'}], 'categories': [{'id': 1, 'name': 'x'}]}))
    (tmp_path / 'bad.json').write_text('[]')
    for fields, message in (
            ({'score': 2.0}, 'score=2.0'), ({'iou': -1.0}, 'iou=-1.0'),
            ({'annotations': f'{tmp_path}/none.json'}, 'none.json'),
            ({'annotations': f'{tmp_path}/bad.json'}, 'bad.json'),
            ({'annotations': f'{tmp_path}/other.json'}, 'other.json has no id for .*a.png'),
            ({'write_proposals': True, 'network': detector()._replace(net=Silent())},
             'write_proposals=True: bright makes no proposals'),
            ({'iou': 0.5, 'network': detector()._replace(net=nn.Dense(1))},
             'iou=0.5: Dense has no field nms')):
        with pytest.raises(UserError, match=message):
            detected(**{'pictures': str(picture), **fields})
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('listed', [False, True])
def test_classes_of_coco_have_its_ids(listed, tmp_path):
    """Those of torchvision's networks, which count some numbers without a class, and those of
    tensorflow-datasets, which count only the classes."""
    names = counterparts.COCO
    real = {name: i for i, name in enumerate(names, 1) if name != 'N/A'}
    assert len(real) == 80
    assert (real['person'], real['toothbrush'], real['stop sign']) == (1, 90, 13)
    config = recipe.get_config()
    if listed:
        config.annotations = str(tmp_path / 'instances.json')
        (tmp_path / 'instances.json').write_text(json.dumps({
            'images': [{'id': 9, 'file_name': 'a.png'}], 'annotations': [],
            'categories': [{'id': i, 'name': name} for name, i in real.items()]}))
    for classes in (names, tuple(real)):
        network = detector()._replace(classes=classes)
        of_pictures, of_classes = boxes.coco_ids(config, network, ['x/a.png'])
        assert of_pictures == {'x/a.png': 9 if listed else 1}
        assert {name: i for name, i in zip(classes, of_classes, strict=True)
                if name != 'N/A'} == real
