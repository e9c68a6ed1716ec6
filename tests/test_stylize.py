"""Style transfer in one pass: the network, its loss, its training and its pictures."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cnnjax import data, models, perceptual, predict, reports, train, trained, weights
from cnnjax.errors import UserError
from cnnjax.images import descent, pictures
from cnnjax.tasks import stylize
from configs import fast_style
from configs import predict as predict_config
from configs import style as style_config
from experiments import style
from experiments import train as training
from experiments.predict import predict as predictions
from tests.kill import Killed, assert_same_run, dying_after

LAYERS = {'content_layers': 'relu2_1', 'style_layers': 'relu1_1,relu3_1',
          'style_layer_weights': (0.7, 0.3)}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A teacher with random weights, a style, and photographs in a folder and one inside it."""
    folder = tmp_path_factory.mktemp('stylize')
    net = models.create('vgg11', widths=(4, 6, 8, 8, 8), hidden=(), num_classes=2, pool='average')
    normalize = data.Normalization(np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32))
    variables = jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    weights.save(weights.Weights('vgg11', net, variables, normalize, ('a', 'b'), (32, 32, 3)),
                 folder / 'teacher.safetensors')
    rng = np.random.default_rng(0)
    pictures.write(folder / 'red.png', rng.normal((0.8, 0.2, 0.2), 0.1, (40, 40, 3)))
    for i in range(6):
        smooth = pictures.resize(rng.random((4, 4, 3), np.float32), (40, 48))
        pictures.write(folder / 'photos' / ('more' if i % 2 else '.') / f'{i}.png', smooth)
    return folder


def config(folder, **fields):
    made = fast_style.get_config()
    made.update({
        'dataset': 'folder', 'data_dir': f'{folder}/photos', 'split': '0.67/0.33', 'devices': 1,
        'teacher': f'{folder}/teacher.safetensors', 'styles': f'{folder}/red.png',
        'style_size': 40, 'image_size': 40, 'crop_size': 32, 'batch_size': 2, 'steps': 4,
        'warmup': 0.0, 'report_every': 1, 'eval_every': 2.0, 'checkpoint_every': 1.0,
        **LAYERS, **fields})
    made.model.update({'widths': (2, 3, 4), 'depth': 1})
    return made


def built(folder, **fields):
    """The Training of a config, for images of 32 pixels, and its teacher."""
    made = config(folder, **fields)
    teacher = trained.load(made.teacher)
    normalize = data.Normalization(np.full(3, 0.4, np.float32), np.full(3, 0.2, np.float32))
    shapes = {'image': jax.ShapeDtypeStruct((1, 40, 40, 3), jnp.uint8)}
    return train.build(made, ('picture',), shapes, normalize, 4, teacher=teacher), teacher


@functools.cache
def images(count, seed=1):
    return np.random.default_rng(seed).random((count, 32, 32, 3), np.float32)


def test_the_size_of_a_picture_is_kept():
    net = models.create('transformation_net', widths=(2, 3, 4), depth=1)
    for size in ((33, 47), (8, 9), (10, 30)):
        shape = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
        (image, _), _ = jax.eval_shape(net.init_with_output, jax.random.key(0), shape)
        assert image.shape == shape.shape


def test_the_border_is_mirrored():
    """So a plain image stays plain; zeros beside it would show."""
    # Instance normalization would enlarge the rounding errors of a plain image.
    net = models.create('transformation_net', widths=(2, 3, 4), depth=1, norm='batch')
    (image, _), _ = jax.jit(net.init_with_output)(jax.random.key(0), jnp.full((1, 32, 32, 3), 0.7))
    assert np.ptp(image[0], (0, 1)).max() < 1e-4
    assert image.min() > 0


def test_maps_are_enlarged_bilinearly():
    net = models.create('transformation_net', widths=(2, 3, 4), depth=1)
    (_, taps), variables = jax.jit(net.init_with_output)(jax.random.key(0), images(2))
    small = taps['block1']
    large = jax.image.resize(small, (2, 16, 16, 4), 'bilinear')
    padded = jnp.pad(large, ((0, 0), (1, 1), (1, 1), (0, 0)), 'reflect')
    expected = nn.Conv(3, (3, 3), padding='VALID').apply(
        {'params': variables['params']['conv4']}, padded)
    np.testing.assert_allclose(taps['conv4'], expected, atol=1e-5)


def test_a_residual_network_starts_with_the_photograph():
    net = models.create('transformation_net', widths=(2, 3, 4), depth=1, residual=True)
    normalize = data.Normalization(np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32))
    photographs = normalize(images(2))
    variables = jax.jit(net.init)(jax.random.key(0), photographs)
    params = variables['params']
    params['conv6'] = jax.tree.map(jnp.zeros_like, params['conv6'])
    image, _ = jax.jit(net.apply)({'params': params}, photographs)
    np.testing.assert_allclose(image, images(2), atol=0.13)  # The tanh bends black and white.
    middle = abs(images(2) - 0.5) < 0.2
    np.testing.assert_allclose(image[middle], images(2)[middle], atol=0.011)


def test_the_loss_is_the_objective_of_style_transfer(folder):
    """On the same photograph, image and style as experiments/style.py sees them."""
    made, teacher = built(folder)
    photographs, found = images(2), images(2, seed=2)
    examples = made.teach(made.teach.variables, {
        'image': made.teach.normalize(photographs)}, 0)
    np.testing.assert_allclose(examples['taught']['image'], photographs, atol=1e-6)
    terms = made.teach.judge(made.teach.variables, found, examples['taught'])
    own = style_config.get_config()
    own.update(LAYERS | {name: config(folder)[name] for name in (
        'content_weight', 'style_weight', 'style_convention', 'tv_weight')})
    shared, codes = style.targets(own, teacher, photographs, [pictures.read(folder / 'red.png')])
    problem, _ = style.formulate(own, teacher, (32, 32, 3))
    for i in range(2):
        aux = shared | {'maps': jax.tree.map(lambda leaf, i=i: leaf[i], codes)}
        total, expected = descent.loss(problem, teacher.variables, found[i], jax.random.key(0), aux)
        assert terms.keys() == expected.keys() == {'content', 'style', 'variation'}
        for name, value in expected.items():
            np.testing.assert_allclose(terms[name][i], value, rtol=1e-4)
        np.testing.assert_allclose(sum(terms.values())[i], total, rtol=1e-4)


def test_a_step_changes_the_network_and_not_its_teacher(folder):
    made, _ = built(folder)
    state = made.init(jax.random.key(0))
    batch = {'image': np.uint8(255 * images(2)), 'position': np.arange(2)}
    batch['image'] = np.pad(batch['image'], ((0, 0), (4, 4), (4, 4), (0, 0)), 'reflect')
    after, metrics = jax.jit(lambda *arguments: made.step(*arguments, None))(
        state, {'teacher': made.teach.variables}, batch, jax.random.key(1))
    assert set(after.params) == {'block1', 'conv6', 'shortcut', *(
        f'{kind}{i}' for i in range(1, 6) for kind in ('conv', 'norm'))}
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), state.params, after.params)
    flat = {jax.tree_util.keystr(path): value
            for path, value in jax.tree_util.tree_leaves_with_path(moved)}
    assert all(value > 0 for name, value in flat.items() if 'kernel' in name or 'scale' in name)
    assert set(metrics) == {'loss', 'content', 'style', 'variation', 'stability'}
    np.testing.assert_allclose(2 * metrics['loss'], sum(metrics.values()), rtol=1e-5)


def observed(apply, deviation=0.2):
    def judge(variables, images, taught):
        return {'content': ((images - taught['image']) ** 2).mean((1, 2, 3)) + 2.0}

    task = stylize.create(judge, np.full((1, 1, 3), deviation, np.float32))
    photographs = images(3)
    sums, kept = task.observe(apply, {
        'image': (photographs - 0.4) / deviation, 'teacher': None,
        'taught': {'image': photographs}})
    assert kept == {}
    return task.results({name: np.asarray(value).sum(0) for name, value in sums.items()}, kept, 3,
                        ('picture',))


def test_what_leaves_pictures_as_they_are_flickers_as_they_do():
    found = observed(lambda images: (0.2 * images + 0.4, {}))
    assert found['flicker'] == pytest.approx(1, rel=1e-4)
    assert found['error'] == pytest.approx(1, rel=1e-5)
    assert found['loss'] == found['content'] == pytest.approx(2, rel=1e-5)


def test_what_stays_in_place_flickers_more_and_what_ignores_the_picture_less():
    pattern = images(1, seed=5)
    assert observed(lambda images: (0.2 * images + 0.4 + pattern, {}))['flicker'] > 5
    assert observed(lambda images: (0 * images + 0.5, {}))['flicker'] == 0


def test_stability_compares_the_images_of_moved_pictures():
    """A network that moves with its picture is stable under motion, but not under noise."""
    def judge(variables, images, taught):
        return {'content': images.mean((1, 2, 3))}

    def stability(apply, **fields):
        task = stylize.create(judge, 1.0, stylize.Stability(2.0, **fields))
        examples = {'image': images(2), 'keys': jax.random.split(jax.random.key(3), 2),
                    'teacher': None, 'taught': {}}
        value, (metrics, _) = task.loss(apply, examples, stylize.WholeBatch())
        np.testing.assert_allclose(value, metrics['content'] + metrics['stability'], rtol=1e-6)
        return float(metrics['stability'])

    def same(images):
        return images, {}, {}

    pattern = images(1, seed=5)
    assert stability(same, shift=3) == 0
    assert stability(same, noise=0.1) == pytest.approx(2 * 0.1 ** 2, rel=0.1)
    assert stability(lambda images: (images + pattern, {}, {}), shift=3) > 0.05


@pytest.fixture(scope='module')
def run(folder, tmp_path_factory):
    """The working directory of a run that was killed and resumed, and of one that was not."""
    directory = tmp_path_factory.mktemp('run')
    made = config(folder, style_layers='relu1_1', style_layer_weights=(),
                  style_convention='tensorflow')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reports.Metrics, 'write', dying_after(3))
        with pytest.raises(Killed):
            train.train(made, directory / 'killed')
    training.run(made, directory / 'killed')
    train.train(made, directory / 'whole')
    return directory / 'killed', directory / 'whole'


def test_a_killed_run_ends_as_one_that_was_not(run):
    assert_same_run(*run, 4)
    rows = reports.read_metrics(run[0])
    assert {'test/error', 'test/content', 'test/style', 'test/variation', 'test/flicker',
            'train/stability'} <= set(rows[-1])
    assert (run[0] / 'figures' / 'stylized.png').exists()


def test_pictures_and_animations_of_any_size(folder, run, tmp_path):
    rng = np.random.default_rng(0)
    shown = tmp_path / 'shown'
    pictures.write(shown / 'odd.png', rng.random((33, 47, 3)))
    frames = [Image.fromarray(rng.integers(0, 255, (20, 31, 3), np.uint8)) for _ in range(3)]
    for kind in ('gif', 'webp'):
        frames[0].save(shown / f'film.{kind}', save_all=True, append_images=frames[1:],
                       duration=80)
    made = predict_config.get_config()
    made.update({'source': str(run[0]), 'pictures': str(shown)})
    predictions.run(made, tmp_path / 'run')
    network = trained.load(run[0])
    image = pictures.read(tmp_path / 'run' / 'stylized' / 'odd.png')
    assert image.shape == (33, 47, 3)
    np.testing.assert_allclose(network.predict(shown / 'odd.png')[0], image, atol=0.51 / 255)
    for name in ('film.gif', 'film-2.webp'):
        with Image.open(tmp_path / 'run' / 'stylized' / name) as film:
            assert (film.n_frames, film.size) == (3, (31, 20))
    found, seconds = pictures.frames(tmp_path / 'run' / 'stylized' / 'film-2.webp')
    assert seconds == pytest.approx(0.08)
    own, _ = pictures.frames(shown / 'film.webp')
    away = [np.abs(predict.stylized(network, own[2]) - frame).mean() for frame in found]
    assert np.argmin(away) == 2
    assert 'stylized/odd.png' in (tmp_path / 'run' / 'predictions.html').read_text()


def test_photographs_without_classes(folder, tmp_path):
    sets = [data.load('folder', split, f'{folder}/photos', target='image', shares='0.67/0.33')
            for split in ('train', 'test')]
    assert sorted(name for found in sets for name in data.names(found.examples)) == [
        '0.png', '2.png', '4.png', 'more/1.png', 'more/3.png', 'more/5.png']
    assert [len(found.examples) for found in sets] == [4, 2]
    with pytest.raises(UserError, match='no folder .*train.*split=0.9/0.1'):
        data.load('folder', 'train', f'{folder}/photos', target='image')
    (tmp_path / 'train').mkdir()
    with pytest.raises(UserError, match='there is no picture'):
        data.load('folder', 'train', str(tmp_path), target='image')
    shipped = [set(data.load('photos', split, target='image').examples.names)
               for split in ('train', 'test')]
    assert list(map(len, shipped)) == [16, 4]
    assert not shipped[0] & shipped[1]


@pytest.mark.parametrize(('fields', 'message'), [
    ({'teacher': ''}, "task='stylize' needs teacher"),
    ({'styles': ''}, "task='stylize' needs styles"),
    ({'task': 'classify', 'dataset': 'digits', 'data_dir': None, 'split': '', 'teacher': ''},
     'styles=.* has an effect only with task'),
    ({'style_layer_weights': (1.0,)}, 'each of the 2 style_layers a weight'),
    ({'style_layers': 'relu1_1,relu9_1'}, "teacher=.*'relu9_1'.*did you mean"),
    ({'style_size': 8}, 'red.png, scaled to style_size=8.*at least 32'),
    ({'loss': 'focal'}, "loss=focal: task='stylize' has a loss of its own"),
])
def test_what_does_not_fit_is_refused(folder, tmp_path, fields, message):
    with pytest.raises(UserError, match=message):
        train.train(config(folder, **fields), tmp_path)


def test_a_network_that_makes_no_images_is_refused(folder):
    net = models.create('resnet20', widths=(4, 4, 4), num_classes=1)
    with pytest.raises(UserError, match="makes images of images, such as 'transformation_net'"):
        stylize.check(jax.ShapeDtypeStruct((1, 1), jnp.float32), {'image': images(1)}, ('a',))
    with pytest.raises(UserError, match='it makes no pictures'):
        predict.stylized(trained.Trained(net, {}, None, ('a',), (32, 32, 3), None), images(1)[0])


def test_the_recipes_fit_together():
    for recipe in fast_style.RECIPES:
        made = fast_style.get_config(recipe)
        train.check(made)
        perceptual.check(made)
