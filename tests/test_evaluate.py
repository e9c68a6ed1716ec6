"""Published weights are evaluated as published, with the hub's crop, interpolation and
normalization. Outputs are matched to classes by name, or refused."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy
import skimage.data
from huggingface_hub import constants
from PIL import Image

from cnnjax import data, features, models, trained, weights
from cnnjax.errors import UserError
from cnnjax.evaluate import evaluate as judge
from configs import base
from configs import evaluate as recipe
from configs import features as features_recipe
from experiments import evaluate
from tests.golden import make

SOURCE = 'timm/mobilenetv1_025.test'
MEAN, STD = np.float32([0.5, 0.4, 0.3]), np.float32([0.25, 0.2, 0.3])
NUMERIC = ('0', '1', '2', '10')


def published(hub, **pretrained):
    """A hub's cache, laid by hand, with a network of two classes."""
    repository = hub / f'models--{SOURCE.replace("/", "--")}'
    snapshot = repository / 'snapshots' / 'abc'
    snapshot.mkdir(parents=True, exist_ok=True)
    (repository / 'refs').mkdir(exist_ok=True)
    (repository / 'refs' / 'main').write_text('abc')
    layout = weights.layout('mobilenet_v1_025', num_classes=2)
    safetensors.numpy.save_file({name: make.tensor(name, shape) for name, shape in layout.items()
                                 if shape}, snapshot / 'model.safetensors')
    (snapshot / 'config.json').write_text(json.dumps({
        'architecture': 'mobilenetv1_025', 'label_names': ['cat', 'owl'], 'pretrained_cfg': {
            'mean': MEAN.tolist(), 'std': STD.tolist(), 'input_size': [3, 32, 32], **pretrained}}))


@pytest.fixture
def pictures(tmp_path):
    """60 x 90 pixels, fine patterns: how they are cut and scaled changes every pixel."""
    photo, found = skimage.data.astronaut(), []
    for i, name in enumerate(('cat', 'cat', 'owl', 'owl', 'owl')):
        found.append(Image.fromarray(photo[60 * i:60 * i + 60, 100:190]))
        for split in ('train', 'test'):
            folder = tmp_path / 'data' / split / name
            folder.mkdir(parents=True, exist_ok=True)
            found[-1].save(folder / f'{i}.png')
    return found


@pytest.mark.parametrize(('pretrained', 'side', 'kind'), [
    ({'crop_pct': 0.8, 'interpolation': 'bicubic'}, 40, Image.Resampling.BICUBIC),
    ({'crop_pct': 1.0, 'interpolation': 'bilinear'}, 32, Image.Resampling.BILINEAR),
])
def test_crop_and_interpolation_of_the_hub(pretrained, side, kind, pictures, tmp_path, monkeypatch):
    """The loss that the user reads is that of pictures that Pillow scales and cuts alone."""
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'hub'))
    published(tmp_path / 'hub', **pretrained)
    wide = [picture.resize((side * 3 // 2, side), kind) for picture in pictures]
    left, top = (side * 3 // 2 - 32) // 2, (side - 32) // 2
    crops = np.stack([np.asarray(picture)[top:top + 32, left:left + 32] for picture in wide])

    config = features_recipe.get_config()
    config.data_dir = str(tmp_path / 'data')
    network = trained.load(SOURCE)
    batch, = features.load(config, 'test', network, base.get_config()).test_batches(5)
    assert np.abs(batch['image'].astype(int) - crops).max() <= 1
    otherwise = network._replace(evaluation={})
    batch, = features.load(config, 'test', otherwise, base.get_config()).test_batches(5)
    assert (np.abs(batch['image'].astype(int) - crops).max() > 1) == (side == 40)

    logits = network.net.apply(network.variables, (crops / np.float32(255) - MEAN) / STD)[0]
    labels = np.array([0, 0, 1, 1, 1])
    expected = -jax.nn.log_softmax(logits)[np.arange(5), labels].mean()
    config = recipe.get_config()
    config.update(source=SOURCE, dataset='folder', data_dir=str(tmp_path / 'data'), split='test',
                  devices=1)
    evaluate.run(config, tmp_path / 'run')
    results = json.loads((tmp_path / 'run' / 'results.json').read_text())
    assert results['count'] == 5
    assert results['loss'] == pytest.approx(float(expected), rel=1e-4)


@pytest.fixture
def photos(tmp_path):
    """Pictures of four classes, which a file system sorts 0, 1, 10, 2."""
    random = np.random.default_rng(0)
    for number, name in enumerate(NUMERIC):
        for split, count in (('train', 1), ('test', 1 + 3 * number)):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(256, size=(2, 2, 3), dtype=np.uint8)
                Image.fromarray(pixels).resize((8, 8)).save(tmp_path / split / name / f'{i}.bmp')
    return tmp_path


@pytest.fixture
def network(monkeypatch):
    """A function of class names: the random network with these outputs is what is evaluated."""
    def create(classes):
        net = models.create('convnet', num_classes=len(classes), width=4)
        variables = net.init(jax.random.key(0), np.zeros((1, 8, 8, 3)), train=False)
        normalize = data.Normalization(np.float32([0.5]), np.float32([0.1]))
        found = trained.Trained(net, variables, normalize, classes, (8, 8, 3), None)
        monkeypatch.setattr(trained, 'load', lambda *_: found)
        return found
    return create


def run(directory, photos, **fields):
    values = recipe.get_config()
    values.update(source='weights', dataset='folder', data_dir=str(photos), devices=1, **fields)
    evaluate.run(values, directory)
    return json.loads((directory / 'results.json').read_text())['error']


def expected(network, photos, names):
    """The error where output i of the network is the class names[i]."""
    wrong = [names[int(network(np.asarray(Image.open(path))[None]).argmax())] != path.parent.name
             for path in photos.glob('test/*/*.bmp')]
    return np.mean(wrong)


def test_the_same_classes_in_another_order_are_matched_by_name(network, photos, capsys):
    found = network(('0', '1', '10', '2'))
    error = run(photos, photos)
    assert error == pytest.approx(expected(found, photos, found.classes))
    assert error != pytest.approx(expected(found, photos, NUMERIC))  # the test can tell
    assert 'by name' not in capsys.readouterr().out
    found = network(NUMERIC)
    assert run(photos, photos) == pytest.approx(expected(found, photos, NUMERIC))
    assert 'folder has the classes of the network in another order' in capsys.readouterr().out


def test_images_of_another_size_than_the_mean_image_are_normalized_by_its_mean_colour():
    net = models.create('unet_padded', num_classes=2, widths=(2,))
    variables = net.init(jax.random.key(0), np.zeros((1, 4, 4, 1), np.float32))
    mean = np.random.default_rng(0).random((4, 4, 1), np.float32)
    network = trained.Trained(net, variables, data.Normalization(mean, np.float32([0.5])),
                              ('none', 'some'), (4, 4, 1), None, 'unet_padded',
                              {'task': 'segment'})
    images, masks = np.random.default_rng(1).integers(0, 2, (2, 3, 6, 8, 1)).astype(np.uint8)
    examples = data.Resident(data.from_arrays(200 * images, ('none', 'some'), mask=masks[..., 0]),
                             data.Crops())
    colour = network._replace(normalize=network.normalize._replace(mean=mean.mean((0, 1))))
    found, expected = (judge(each, examples)['loss'] for each in (network, colour))
    assert found == pytest.approx(expected)


def test_another_set_is_not_looked_for_where_that_of_the_run_was(network, tmp_path, monkeypatch):
    found = network(tuple('0123456789'))
    config = base.get_config()
    config.update(dataset='folder', data_dir='gone', bad_images='skip', image_size=8)
    monkeypatch.setattr(trained, 'load', lambda *_: found._replace(
        config=config, net=found.net, image_shape=(8, 8, 1), evaluation={
            'image_size': 8}, variables=found.net.init(
                jax.random.key(0), np.zeros((1, 8, 8, 1)), train=False)))
    values = recipe.get_config()
    values.update(source='run', dataset='digits', devices=1)
    evaluate.run(values, tmp_path)
    config.image_size = 6
    with pytest.raises(UserError, match=r'digits has images of \(6, 6, 1\), the network was tr'):
        evaluate.run(values, tmp_path)
    values.data_dir = 'photos'
    with pytest.raises(UserError, match='data_dir=photos: digits'):
        evaluate.run(values, tmp_path)


def test_masks_of_another_folder_are_matched_by_name(tmp_path, monkeypatch, capsys):
    """A network of three classes on masks of two of them, 255 and 0; the network says one class
    everywhere, whose IoU is therefore its share of the pixels."""
    mask = np.uint8(np.random.default_rng(0).random((16, 16)) < 0.3)
    for kind, array in (('images', np.repeat(mask[..., None], 3, -1)), ('masks', 255 * mask)):
        (tmp_path / 'test' / kind).mkdir(parents=True)
        Image.fromarray(array).save(tmp_path / 'test' / kind / 'a.png')
    (tmp_path / 'classes.txt').write_text('ground\ncell\n')
    net = models.create('unet_padded', num_classes=3, widths=(2, 4))
    variables = jax.tree.map(np.zeros_like, net.init(jax.random.key(0), np.zeros((1, 16, 16, 3)),
                                                     train=False))
    variables['params']['conv']['bias'][1] = 1
    config = base.get_config()
    config.update(task='segment', dataset='digit_scenes')
    found = trained.Trained(
        net, variables, data.Normalization(np.float32([0.5]), np.float32([0.1])),
        ('dirt', 'cell', 'ground'), (16, 16, 3), config, evaluation={'task': 'segment'})
    monkeypatch.setattr(trained, 'load', lambda *_: found)
    values = recipe.get_config()
    values.update(source='run', dataset='folder', data_dir=str(tmp_path), devices=1)
    with pytest.raises(UserError, match='mask_values=0,255'):
        evaluate.run(values, tmp_path)
    values.mask_values = (0, 255)
    evaluate.run(values, tmp_path)
    said = capsys.readouterr().out
    assert 'folder has 2 of the 3 classes of the network: its labels are matched by name' in said
    assert f'pixels: ground {100 - 100 * mask.mean():.3g} %, cell {100 * mask.mean():.3g} %' in said
    results = json.loads((tmp_path / 'results.json').read_text())
    assert results['iou/cell'] == pytest.approx(mask.mean())
    assert results['iou/ground'] == 0


def test_some_of_the_classes(network, photos, capsys):
    found = network(('a', '2', '10', 'b', '1', '0'))
    assert run(photos, photos) == pytest.approx(expected(found, photos, found.classes))
    assert '4 of the 6 classes of the network' in capsys.readouterr().out


def test_other_classes_are_refused_and_a_map_is_taken(network, photos, tmp_path_factory):
    found = network(('a', 'b', 'c', 'd'))
    with pytest.raises(UserError, match=r'dataset=folder: the network does not know, or has twice, '
                                        r'0, 1, 10 and 1 more, .* its own 4 are a, b, c and 1 mor'):
        run(photos, photos)
    file = tmp_path_factory.mktemp('names') / 'names.txt'
    file.write_text('2\n10\n\n0\n1\n')
    for given, names in (('1, 0,2,10', ('1', '0', '2', '10')), (str(file), ('2', '10', '0', '1')),
                         ('dataset', ('0', '1', '10', '2'))):
        assert run(photos, photos, classes=given) == pytest.approx(
            expected(found, photos, names)), given


def test_weights_that_know_only_numbers_say_so(network, photos):
    network(('0', '1', '2', '3'))
    with pytest.raises(UserError, match="or has twice, 10, .*: weights tells only their numbers.*"
                                        "'dataset' if it counts them as the data does"):
        run(photos, photos)


@pytest.mark.parametrize(('given', 'message'), [
    ('a,b', 'has 2 different names, the network has 4 outputs'),
    ('0,1,2,2', 'has 3 different names'), (' ', 'has 1 different names'),
    ('no/such/file.txt', 'has 1 different names'), ('0,1,2,3', 'or has twice, 10')])
def test_a_map_that_does_not_fit(network, photos, given, message):
    network(NUMERIC)
    with pytest.raises(UserError, match=message):
        run(photos, photos, classes=given)
