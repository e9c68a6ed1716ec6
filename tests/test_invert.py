"""Inversion against the papers' code, written in NumPy; its table, files and resuming."""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cnnjax import models
from cnnjax.data import Normalization
from cnnjax.errors import UserError
from cnnjax.images import objectives, optimize, pictures, run
from cnnjax.trained import Trained
from configs import invert as configs
from experiments.invert import invert


def network(channels=3, batch_norm=False):
    """A small VGG for images of 8 x 8 whose input is 0 to 255 less the mean."""
    net = models.create('vgg11', groups=((3,), (3,), (3,)), widths=(12, 8, 6), hidden=(),
                        num_classes=3, batch_norm=batch_norm)
    shape = (8, 8, channels)
    variables = jax.jit(net.init)(jax.random.key(3), jnp.zeros((1, *shape)))
    mean = np.float32([0.48, 0.46, 0.41])[:channels]
    return Trained(net, variables, Normalization(mean, np.float32([1 / 255])), ('a', 'b', 'c'),
                   shape, None)


@pytest.fixture
def use(monkeypatch):
    """Makes a network that of every source."""
    def set_network(trained):
        monkeypatch.setattr(invert.trained, 'load', lambda *_: trained)
        return trained
    set_network(network())
    return set_network


def config(preset='adam', **fields):
    made = configs.get_config(preset)
    made.update(images='skimage:astronaut,skimage:coffee', restarts=1, steps=(20, 10),
                report_every=10)
    made.update(fields)
    return made.lock()


class Straight:
    """A `Run` without files."""

    def optimize(self, name, problem, tx, steps, key, *, state, aux, mesh):
        del name
        keys = jax.random.split(key, len(state.step))
        for report in optimize.iterate(problem, tx, state, steps, keys, aux, mesh=mesh):
            state = report.state
        return state


def penalties(x, tv, alpha, per_pixel):
    """deep-goggle's tv(x, 2) and sum(x^6), or nnpreimage's tv and l2, in NumPy."""
    right, down = (np.diff(x, axis=axis, append=np.take(x, [-1], axis)) for axis in (1, 0))
    if not per_pixel:
        return tv * (right ** 2 + down ** 2).sum() + alpha * (x ** 6).sum()
    pixels = x.shape[0] * x.shape[1]
    return (tv * (right ** 2 + down ** 2).sum() + alpha * ((x ** 2).sum(-1) ** 3).sum()) / pixels


def codes_of(trained, layer, images):
    return np.asarray(trained.taps(images)[layer])


@pytest.mark.parametrize(('layer', 'part'), [('relu1_1', 0), ('relu2_1', 1), ('relu3_1', 2)])
def test_mahendran2015_is_deep_goggle(use, layer, part):
    """core/invert_nn.m: momentum, reset where the rate changes, everything over sigma^2."""
    trained = use(network())
    made = configs.get_config('mahendran2015')
    assert made.steps == (100, 200, 100)
    assert made.learning_rate == pytest.approx((0.004, 0.0004, 0.00004))
    assert made.sigma == 27098.11571533
    # 8e-10 is the paper's 2.16e8 for images over sigma, the penalties' half in it; TV 0.5, 5, 50.
    assert made.alpha_weight[0] / 2 * made.sigma ** 4 == pytest.approx(2.157e8, rel=1e-3)
    rates = np.repeat((0.004, 0.0004, 0.00004), (4, 3, 2))
    made.update(steps=(4, 3, 2), images='skimage:astronaut', restarts=1)
    depth = list(trained.tap_shapes())
    assert len(depth) == 10  # conv, relu and pool three times, fc8: one part is about a third
    image = invert.load(made, trained)[0].image[None]
    codes = codes_of(trained, layer, image)
    objective = objectives.match(layer, made.match)
    found, _ = invert.invert(made, Straight(), trained, objective, depth, codes, image.shape[1:])

    sigma = 27098.11571533 * np.sqrt(8 * 8 * 3 / (227 * 227 * 3))
    key = jax.random.split(jax.random.fold_in(jax.random.key(0), depth.index(layer)))[1]
    noise = np.float64(jax.random.normal(
        jax.random.fold_in(jax.random.split(key, 1)[0], 0), (8, 8, 3)))
    x, velocity, before = noise / np.linalg.norm(noise) * sigma, 0, None
    mean = trained.normalize.mean[None, None]

    def distance(x):
        code = trained.taps((x / 255 + mean)[None])[layer]
        return ((code - codes) ** 2).sum()

    def penalty(x):
        right = jnp.diff(x, axis=1, append=x[:, -1:])
        down = jnp.diff(x, axis=0, append=x[-1:])
        return (1, 10, 100)[part] / 2 * (right**2 + down**2).sum() + 8e-10 / 2 * (x ** 6).sum()

    assert float(jax.jit(penalty)(x)) == pytest.approx(
        penalties(x, (1, 10, 100)[part] / 2, 4e-10, per_pixel=False), rel=1e-4)
    of_penalty, of_distance = (jax.jit(jax.grad(term)) for term in (penalty, distance))
    for rate in rates:
        if rate != before:
            velocity, before = 0 * velocity, rate
        velocity = (0.9 * velocity - rate * np.float64(of_penalty(np.float32(x)))
                    - rate * sigma ** 2 / (codes ** 2).sum()
                    * np.float64(of_distance(np.float32(x))))
        x = x + velocity
    np.testing.assert_allclose(found[0, 0], np.clip(x / 255 + mean, 0, 1), atol=2e-4)


@pytest.mark.parametrize(('layer', 'part', 'jitter'), [('relu1_1', 0, 1), ('relu3_1', 2, 5)])
def test_mahendran2016_is_nnpreimage(use, layer, part, jitter):
    """core/nnpreimage.m and get_defaults.m: AdaGrad that forgets, momentum, the bound B+."""
    trained = use(network())
    made = configs.get_config('mahendran2016')
    assert made.learning_rate == pytest.approx((53.333, 5.3333), rel=1e-4)
    assert made.steps == (300, 50)
    assert made.bound == 160
    assert made.alpha_weight == (pytest.approx(3.81e-12, rel=2e-3),)
    assert made.tv_weight == (pytest.approx(0.0066, rel=2e-2),)
    assert made.match_weight == (300, 100, 20, 1)
    depth = list(trained.tap_shapes())
    # max(round(stride / 4), 1), with strides 1 and 4 here; a larger share to see it move.
    assert [invert.stride(trained, name, depth) for name in ('relu1_1', 'relu3_1', 'fc8')] == [
        1, 4, 8]
    made.update(steps=(4, 3), images='skimage:coffee', restarts=1,
                jitter=0.25 if jitter == 1 else 1.25)
    image = invert.load(made, trained)[0].image[None]
    codes = codes_of(trained, layer, image)
    objective = objectives.match(layer, made.match)
    found, _ = invert.invert(made, Straight(), trained, objective, depth, codes, image.shape[1:])

    margin, mean = jitter - 1, trained.normalize.mean[None, None]
    key, key_of_noise = jax.random.split(
        jax.random.fold_in(jax.random.key(0), depth.index(layer)))
    u = np.float64(jax.random.uniform(
        jax.random.fold_in(jax.random.split(key_of_noise, 1)[0], 0),
        (8 + margin, 8 + margin, 3), minval=-1))
    x = u / np.quantile(u, 0.95) * 80 / np.sqrt(3)
    C = (300, 100, 20, 1)[4 * depth.index(layer) // len(depth)] / (codes ** 2).sum()

    def loss(x, corner):
        crop = jax.lax.dynamic_slice(x, (*corner, 0), (8, 8, 3))
        distance = ((trained.taps((crop / 255 + mean)[None])[layer] - codes) ** 2).sum()
        right = jnp.diff(x, axis=1, append=x[:, -1:])
        down = jnp.diff(x, axis=0, append=x[-1:])
        penalty = (6.5 / 80) ** 2 * (right ** 2 + down ** 2).sum()
        penalty += 80.0 ** -6 * ((x ** 2).sum(-1) ** 3).sum()
        return C * distance + penalty / (x.shape[0] * x.shape[1])

    gradient_of_loss = jax.jit(jax.grad(loss))
    for steps, rate, move in ((4, 53.3333, margin), (3, 5.33333, 0)):
        if not move and margin:
            first = margin // 2
            x = x[first:first + 8, first:first + 8]
            key = jax.random.split(key)[0]
        velocity, squares = 0, 0
        each = jax.random.split(key, 1)[0]
        for step in range(1, steps + 1):
            corner = jnp.zeros(2, int)
            if move:
                corner = jax.random.randint(jax.random.fold_in(each, step), (2,), 0, move + 1)
            gradient = np.float64(gradient_of_loss(np.float32(x), corner))
            squares = 0.9 * squares + gradient ** 2
            velocity = 0.9 * velocity - gradient / (1 / (64 * rate) + np.sqrt(squares))
            x = x + velocity
            norm = np.linalg.norm(x, axis=-1, keepdims=True)
            x = x * np.minimum(160 / norm, 1)
    np.testing.assert_allclose(found[0, 0], np.clip(x / 255 + mean, 0, 1), atol=3e-3)


def test_the_error_falls_and_a_shallow_layer_is_inverted(use, tmp_path):
    invert.run(config(layers='conv1_1,relu3_1', steps=(150, 100), report_every=50,
                      tv_weight=(0.0,)), tmp_path)
    rows = json.loads((tmp_path / 'results.json').read_text())['layers']
    assert rows['conv1_1']['error'] < 1e-4
    shown = np.asarray(Image.open(tmp_path / 'reconstructions' / 'conv1_1' / 'coffee.png'))
    image = np.asarray(Image.open(tmp_path / 'reconstructions' / 'original' / 'coffee.png'))
    assert np.abs(shown.astype(int) - image).max() <= 12
    first, last = ({}, {})
    for line in (tmp_path / 'metrics.jsonl').read_text().splitlines():
        row = json.loads(line)
        first.setdefault(row['stage'], row['match'])
        last[row['stage']] = row['match']
    assert last[4] < first[3] / 10


def test_some_channels_of_a_layer(use, tmp_path):
    """What two channels know: their codes alone are matched, and judged."""
    trained = use(network())
    made = config(layers='relu1_1:5+2', steps=(80,), learning_rate=(0.05,), tv_weight=(0.0,))
    invert.run(made, tmp_path)
    row = json.loads((tmp_path / 'results.json').read_text())['layers']['relu1_1']
    assert row['code'] == [8, 8, 2]
    images = np.stack([example.image for example in invert.load(made, trained)])
    found = np.stack([pictures.read(tmp_path / 'reconstructions' / 'relu1_1' / f'{name}.png')
                      for name in ('astronaut', 'coffee')])
    before, after = (np.asarray(trained.taps(each)['relu1_1']) for each in (images, found))

    def error(channels):
        difference = after[..., channels] - before[..., channels]
        return (difference ** 2).sum((1, 2, 3)) / (before[..., channels] ** 2).sum((1, 2, 3))

    assert row['error'] == pytest.approx(error([5, 2]).mean(), rel=0.1, abs=2e-4)
    assert (error([5, 2]) < 0.15).all()
    assert (error([0, 1, 3, 4, 6, 7, 8, 9, 10, 11]) > 2 * error([5, 2])).all()
    with pytest.raises(UserError, match="layers: 'relu1_1' has the channels 0 to 11, not 12"):
        invert.run(config(layers='relu1_1:12'), tmp_path / 'other')


def test_files_and_table(use, tmp_path, capsys):
    trained = use(network())
    made = config(layers='relu2_1,fc8', restarts=3, steps=(30,), learning_rate=(0.05,),
                  images='skimage:astronaut,skimage:coffee,skimage:cat')
    invert.run(made, tmp_path)
    printed = capsys.readouterr().out
    results = json.loads((tmp_path / 'results.json').read_text())
    assert list(results['layers']) == ['relu2_1', 'fc8']
    assert results['images'] == ['astronaut', 'coffee', 'cat']
    images = np.stack([example.image for example in invert.load(made, trained)])
    for layer, row in results['layers'].items():
        folder = tmp_path / 'reconstructions' / layer
        found = np.stack([pictures.read(folder / f'{name}.png') for name in results['images']])
        taps, codes = trained.taps(found), codes_of(trained, layer, images)
        each = ((taps[layer] - codes) ** 2).reshape(3, -1).sum(1) / (
            codes ** 2).reshape(3, -1).sum(1)
        errors = np.array(row['errors'])
        assert errors.shape == (3, 3)
        best = errors[np.arange(3), row['kept']]
        np.testing.assert_allclose(best, each, rtol=0.1, atol=2e-4)  # files of 8 bits
        assert row['error'] == pytest.approx(best.mean())
        assert row['error_standard_error'] == pytest.approx(best.std(ddof=1) / np.sqrt(3))
        assert row['restart_spread'] == pytest.approx(np.std(errors, 1, ddof=1).mean())
        pairs = np.mean([((codes[i] - codes[j]) ** 2).sum()
                         for i in range(3) for j in range(3) if i != j])
        by_pairs = best * (codes ** 2).reshape(3, -1).sum(1) / pairs
        assert row['pair_error'] == pytest.approx(by_pairs.mean(), rel=1e-5)
        assert row['pair_error_standard_error'] == pytest.approx(
            by_pairs.std(ddof=1) / np.sqrt(3), rel=1e-5)
        top = trained(images).argmax(-1)
        assert row['class_kept'] == np.mean(np.asarray(taps['fc8']).argmax(-1) == top)
        assert re.search(rf'\| {layer} .* {row["error"]:.3g} ± ', printed)
    assert '| layer ' in (tmp_path / 'results.md').read_text()
    with Image.open(tmp_path / 'figures' / 'inversions.png') as figure:
        assert figure.width > 500
    assert (tmp_path / 'figures' / 'loss.png').exists()


def test_resumed_is_uninterrupted(use, tmp_path, monkeypatch):
    made = config('mahendran2016', layers='relu2_1', jitter=1.0, steps=(20, 20))
    invert.run(made, tmp_path / 'whole')
    report, calls = run.Run._report, []

    def killed(self, *arguments):
        report(self, *arguments)
        calls.append(arguments[0])
        if len(calls) == 3:  # This is in the second stage.
            raise KeyboardInterrupt
    monkeypatch.setattr(run.Run, '_report', killed)
    with pytest.raises(KeyboardInterrupt):
        invert.run(made, tmp_path / 'killed')
    assert calls[-1] == 'relu2_1-2'
    monkeypatch.setattr(run.Run, '_report', report)
    invert.run(made, tmp_path / 'killed')
    for name in ('results.json', 'results.md', 'metrics.jsonl',
                 'reconstructions/relu2_1/astronaut.png', 'reconstructions/relu2_1/coffee.png'):
        assert (tmp_path / 'killed' / name).read_bytes() == (
            tmp_path / 'whole' / name).read_bytes(), name
    other = config('mahendran2016', layers='relu2_1', jitter=0.5)
    with pytest.raises(UserError, match='another config'):
        invert.run(other, tmp_path / 'whole')


@pytest.mark.parametrize('match', ['l1', 'inner'])
def test_other_matches_and_parametrizations(use, tmp_path, match):
    made = config(match=match, layers='relu2_1', steps=(30,), learning_rate=(0.05,),
                  parametrization='fourier', jitter=0.5)
    invert.run(made, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
    assert rows[-1]['match'] < rows[0]['match']


def test_gray_images_of_a_data_set_and_batch_norm(use, tmp_path):
    use(network(channels=1, batch_norm=True))
    invert.run(config(dataset='digits', count=3, layers='relu1_1', steps=(10,),
                      learning_rate=(0.05,)), tmp_path)
    results = json.loads((tmp_path / 'results.json').read_text())
    assert results['image_shape'] == [8, 8, 1]
    assert len(results['images']) == len(set(results['images'])) == 3
    assert invert.load(config(), network(channels=1))[0].image.shape == (8, 8, 1)


def test_another_size_has_no_class(use, tmp_path, capsys):
    invert.run(config(size=16, layers='pool3', steps=(2,), learning_rate=(0.05,),
                      images='skimage:cat'), tmp_path)
    row = json.loads((tmp_path / 'results.json').read_text())['layers']['pool3']
    assert row['code'] == [2, 2, 6]
    for field in ('class_kept', 'error_standard_error', 'pair_error', 'restart_spread'):
        assert row[field] is None, field
    assert 'no scores of classes' in capsys.readouterr().out
    with pytest.raises(UserError, match="'fc8'"):
        invert.run(config(size=16, layers='fc8'), tmp_path / 'full')


def test_images_of_a_folder(tmp_path):
    for i in range(5):
        pictures.write(tmp_path / f'{i}.png', np.full((4 + i, 9, 3), i / 8, np.float32))
    found = invert.load(config(images=str(tmp_path), count=3), network())
    assert [example.name for example in found] == ['0', '2', '4']
    assert {example.image.shape for example in found} == {(8, 8, 3)}
    assert len(invert.load(config(images=str(tmp_path), count=0), network())) == 5
    twice = invert.load(config(images='skimage:cat,skimage:cat'), network())
    assert [example.name for example in twice] == ['cat', 'cat-2']
    (tmp_path / 'empty').mkdir()
    with pytest.raises(UserError, match='no picture'):
        invert.load(config(images=str(tmp_path / 'empty')), network())


def test_a_dead_code_is_refused(use, tmp_path):
    trained = network()
    params = jax.tree.map(lambda x: x, trained.variables['params'])
    params['conv1_1']['bias'] = params['conv1_1']['bias'] - 1e9
    use(trained._replace(variables={'params': params}))
    with pytest.raises(UserError, match="'relu1_1' is 0 everywhere for astronaut"):
        invert.run(config(layers='relu1_1'), tmp_path)


@pytest.mark.parametrize(('fields', 'message'), [
    ({'steps': (-1, 2)}, 'steps'), ({'steps': ()}, 'steps'), ({'steps': (1.5, 2.0)}, 'whole'),
    ({'steps': (3,)}, 'every stage'),
    ({'learning_rate': (float('nan'), 0.1)}, 'learning_rate'), ({'restarts': 0}, 'restarts'),
    ({'count': -1}, 'count'), ({'size': -8}, 'size'), ({'seed': -1}, 'seed'),
    ({'report_every': 0}, 'report_every'), ({'match': 'l3'}, 'match'),
    ({'optimizer': 'sgd'}, 'optimizer'), ({'parametrization': 'cppn'}, 'parametrization'),
    ({'momentum': 1.0}, 'momentum'), ({'sigma': 0.0}, 'sigma'),
    ({'tv_weight': (-1.0,)}, 'tv_weight'), ({'images': ' '}, 'images'),
    ({'bound': 10.0, 'parametrization': 'fourier'}, 'bound'),
    ({'images': 'skimage:dog'}, 'skimage:dog'), ({'layers': 'relu9'}, 'relu9'),
])
def test_what_makes_no_sense_is_refused_by_name(use, tmp_path, fields, message):
    with pytest.raises(UserError, match=message):
        invert.run(config(**fields), tmp_path)


def test_every_field_is_explained_and_read():
    source = ''.join(Path(module.__file__).read_text() for module in (invert,))
    comments = re.findall(r'    config\.(\w+) = .*  # ', Path(configs.__file__).read_text())
    for field in configs.get_config():
        if field not in ('experiment', 'report_every'):
            assert re.search(rf"config\.{field}\b|'{field}'", source), field
        assert field in comments or field in ('experiment', 'seed'), field
    with pytest.raises(ValueError, match='mahendran2017'):
        configs.get_config('mahendran2017')
