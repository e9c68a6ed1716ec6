"""The photographs as a data set, their recipe, and the network embedded from it."""

import math
import pathlib

import jax
import numpy as np
import pytest
import skimage
from flax import traverse_util

from cnnjax import data, models, train, trained, weights
from cnnjax.data import photos
from cnnjax.errors import UserError
from cnnjax.models import vgg
from configs import photos as recipe


def source(split):
    return data.load('photos', split)


def test_examples():
    for split, count in (('train', 64), ('test', 8)):
        examples, classes, _ = source(split)
        assert 100 < len(classes) == len(set(classes))
        assert len(examples) == count * len(classes)
        some = [examples[i] for i in range(0, len(examples), 97)]
        assert {example['image'].dtype for example in some} == {np.dtype(np.uint8)}
        sides = {example['image'].shape for example in some}
        assert all(height == width >= 40 and channels == 3 for height, width, channels in sides)
        assert len(sides) > 5
    assert source('train').classes == source('test').classes
    assert {name.rsplit('_', 2)[0] for name in classes} == {*photos.NAMES, 'china', 'flower'}


def test_an_example_is_always_the_same_and_no_two_are():
    one, other = source('train').examples, source('train').examples
    classes = len(source('train').classes)
    for i in (0, 5, len(one) - 1):
        np.testing.assert_array_equal(one[i]['image'], other[i]['image'])
        assert one[i]['label'] == one[i - classes]['label'] == i % classes
        assert not np.array_equal(one[i]['image'], one[i - classes]['image'])
    np.testing.assert_array_equal(one[-1]['image'], one[len(one) - 1]['image'])
    with pytest.raises(IndexError):
        one[len(one)]


def test_training_and_test_share_no_pixel(monkeypatch):
    """Every pixel says its row; the rows of a cell that the two splits show are disjoint."""
    monkeypatch.setattr(photos, 'recolor', lambda image, rng: image)
    rows = np.broadcast_to(np.arange(150, dtype=np.uint8)[:, None, None], (150, 160, 3))
    seen = {split: {int(row) for example in photos.Patches((photos.Cell('one', rows),), split)
                    for row in example['image'][:, 0, 0]} for split in photos.EXAMPLES}
    assert max(seen['train']) < 100 <= min(seen['test'])
    assert len(seen['train']) > 90
    assert len(seen['test']) > 45


def test_colours_change_somewhat():
    orange = np.full((4, 4, 3), (200, 128, 60), np.uint8)
    colours = [photos.recolor(orange, np.random.default_rng(seed))[0, 0] for seed in range(100)]
    assert (np.std(colours, 0) > 12).all()
    assert np.abs(np.mean(colours, 0) - orange[0, 0]).max() < 10


def test_cells_cover_a_photograph_once():
    image = np.arange(300 * 451).reshape(300, 451, 1)
    cells = photos.grid('cat', image)
    assert [cell.name for cell in cells] == [f'cat_{i}_{j}' for i in (1, 2) for j in (1, 2, 3)]
    assert sum(cell.pixels[..., 0].size for cell in cells) == image.size
    assert cells[-1].pixels[-1, -1].tolist() == image[-1, -1].tolist()
    assert len(photos.grid('large', np.zeros((1000, 1000, 3)))) == 9


def test_every_photograph_has_three_channels():
    shapes = {name: photos.photograph(name).shape for name in ('camera', 'rocket', 'china')}
    assert shapes == {'camera': (512, 512, 3), 'rocket': (427, 640, 3), 'china': (427, 640, 3)}
    left, right, _ = skimage.data.stereo_motorcycle()
    np.testing.assert_array_equal(photos.photograph('stereo_motorcycle'), left)
    camera = photos.photograph('camera')
    np.testing.assert_array_equal(camera, np.repeat(skimage.data.camera()[..., None], 3, -1))


def test_an_unknown_split():
    with pytest.raises(UserError, match="'train' and 'test', not 'validation'"):
        source('validation')


def test_the_recipe_takes_its_first_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(photos, 'EXAMPLES', {'train': 1, 'test': 1})
    config = recipe.get_config()
    config.lock()
    config.model.widths = (4, 4, 4, 4, 4)
    config.image_size, config.batch_size, config.steps, config.devices = 32, 8, 2, 1
    config.warmup = config.eval_every = config.checkpoint_every = 0.0
    row = train.train(config, tmp_path)
    assert row['step'] == 2
    assert row['train/loss'] < 2 * math.log(len(source('train').classes))
    network = trained.load(tmp_path)
    assert network.net.pool is models.POOLS['blur']


def test_folded_batch_norm_computes_the_same(tmp_path):
    """Statistics, scales and shifts at random: none of them is the identity."""
    fields = {'widths': (4, 5, 6, 7, 8), 'hidden': (), 'num_classes': 3}
    net, folded = models.create('vgg16_bn', **fields), models.create('vgg16', **fields)
    images = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    flat = traverse_util.flatten_dict(jax.jit(net.init)(jax.random.key(1), images))
    random = np.random.default_rng(0)
    flat = {path: leaf if leaf.ndim > 1 else random.uniform(0.5, 2, leaf.shape).astype('float32')
            for path, leaf in flat.items()}
    variables = traverse_util.unflatten_dict(flat)
    taps = jax.jit(net.apply)(variables, images)[1]
    after = jax.jit(folded.apply)(vgg.fold_batch_norm(variables), images)[1]
    for name in ('relu1_1', 'relu3_3', 'relu5_3', 'fc8'):
        np.testing.assert_allclose(after[name], taps[name], rtol=1e-4, atol=1e-4)


def test_embedded(tmp_path, monkeypatch):
    (tmp_path / 'embedded').mkdir()
    monkeypatch.chdir(tmp_path)
    network = trained.load('embedded')
    path = pathlib.Path(trained.__file__).with_name('embedded.safetensors')
    assert path.stat().st_size <= 4 * 2**20
    assert network.net.pool is models.POOLS['blur']
    assert not network.net.batch_norm
    assert sum(leaf.size for leaf in jax.tree.leaves(network.variables)) <= 2_000_000

    test = source('test')
    assert network.classes == test.classes
    some = [test.examples[i] for i in range(2 * len(test.classes))]
    patches = data.Resident(test._replace(examples=some), data.Crops(network.image_shape[0]))
    guesses = np.argmax(jax.jit(network.__call__)(patches.data['image']), -1)
    photograph = np.array([name.rsplit('_', 2)[0] for name in test.classes])
    labels = patches.data['label']
    assert np.mean(guesses != labels) < 0.88, 'chance is 0.99'
    assert np.mean(photograph[guesses] != photograph[labels]) < 0.4, 'chance is 0.94'



def test_activations_of_embedded_are_alive_and_of_usual_scale():
    network = trained.load('embedded')
    image = photos.load('test')[0].cells[0].pixels[None, :96, :128]
    taps = network.taps(image)
    assert {f'relu{i}_1' for i in range(1, 6)} | {'relu4_2'} <= set(taps)
    for name in (f'relu{i}_1' for i in range(1, 6)):
        assert 0.05 < taps[name].mean() < 5
        assert (taps[name].max((0, 1, 2)) > 0).mean() > 0.8


def test_embedded_says_how_it_was_made():
    found = weights.load(None, trained.EMBEDDED)
    config = recipe.get_config()
    assert f'{found.name}_bn' == config.model.name
    assert tuple(found.net.widths) == config.model.widths
    assert found.image_shape == (config.image_size, config.image_size, 3)
