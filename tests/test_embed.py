"""Maps of codes and their neighbours against NumPy; eigenfaces against linear algebra."""

import itertools
import json
import math
import re
import socket
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from cnnjax import data, models, plots
from cnnjax import features as library
from cnnjax.data import Normalization
from cnnjax.errors import UserError
from cnnjax.trained import Trained
from configs import embed as configs
from experiments import eigenfaces, embed


@pytest.fixture
def network(monkeypatch):
    """A small VGG with random weights for the digits, that of every source."""
    net = models.create('vgg11', groups=((3,), (3,)), widths=(6, 5), hidden=(), num_classes=10)
    variables = jax.jit(net.init)(jax.random.key(3), jnp.zeros((1, 8, 8, 1)))
    trained = Trained(net, variables, Normalization(np.float32([0.3]), np.float32([0.4])),
                      tuple('0123456789'), (8, 8, 1), None)
    monkeypatch.setattr(embed.trained, 'load', lambda *_: trained)
    return trained


def config(**fields):
    made = configs.get_config()
    made.update(count=60, perplexity=5.0, neighbours=3, drawn=40, queries=4, batch_size=16)
    made.update(fields)
    return made.lock()


def distances(code):
    square = ((code[:, None].astype('float64') - code) ** 2).sum(-1)
    return np.sqrt(square + np.diag(np.full(len(code), np.inf)))


def test_codes_neighbours_and_numbers_of_the_digits(network, tmp_path, monkeypatch):
    drawn, save = {}, plots.save
    monkeypatch.setattr(plots, 'save', lambda figure, path: drawn.update(
        {path.stem: figure}) or save(figure, path))
    embed.run(config(taps='pixels,relu2_1'), tmp_path)
    said = {name: [text.get_text().replace('\n', ' ') for text in figure.findobj(Text)]
            for name, figure in drawn.items()}
    title = 'runs/quickstart (VGG), layer relu2_1: digits, test set'
    assert title in said['relu2_1']
    assert any('snap to a grid' in text for text in said['relu2_1'])
    assert f'{title}: nearest neighbours' in said['relu2_1-neighbours']
    assert any(re.fullmatch(r'\d distance [\d.e+-]+', text) for text in said['relu2_1-neighbours'])
    assert any('euclidean, between the codes (layer relu2_1)' in text
               for text in said['relu2_1-neighbours'])
    source = data.load('digits', 'test')
    results = json.loads((tmp_path / 'results.json').read_text())
    assert (results['images'], set(results['taps'])) == (60, {'pixels', 'relu2_1'})
    for tap, features in (('pixels', 64), ('relu2_1', 5)):
        found, row = np.load(tmp_path / f'{tap}.npz'), results['taps'][tap]
        assert (found['index'][0], found['index'][-1]) == (0, len(source.examples) - 1)
        examples = [source.examples[i] for i in found['index']]
        images, labels = (np.stack([example[key] for example in examples])
                          for key in ('image', 'label'))
        np.testing.assert_array_equal(found['label'], labels)
        expected = images.reshape(60, -1) / 255 if tap == 'pixels' else (
            network.taps(images)[tap].mean((1, 2)))
        np.testing.assert_allclose(found['code'], expected, rtol=1e-4, atol=1e-5)
        assert row['features'] == features
        for name, points in (('code', found['code']), ('pca', found['pca']),
                             ('tsne', found['tsne'])):
            error = (labels[distances(points).argmin(1)] != labels).mean()
            assert row['nearest_neighbour_error'][name] == pytest.approx(error, abs=1e-12), name
        values = np.linalg.svd(found['code'] - found['code'].mean(0), compute_uv=False)
        np.testing.assert_allclose(row['pca_variance'], (values ** 2 / (values ** 2).sum())[:2],
                                   rtol=1e-4)
        np.testing.assert_allclose((found['pca'] ** 2).sum(0), values[:2] ** 2, rtol=1e-3)
        assert 0.6 < row['trustworthiness']['tsne'] <= 1
        for figure in (tap, f'{tap}-neighbours'):
            with Image.open(tmp_path / 'figures' / f'{figure}.png') as image:
                assert min(image.size) > 500, figure
    pixels = results['taps']['pixels']['nearest_neighbour_error']['code']
    assert pixels < 0.4  # chance is 0.9


def test_the_same_seed_gives_the_same_bits_and_the_last_tap_is_the_default(network, tmp_path):
    for name in ('a', 'b'):
        embed.run(config(metric='cosine', pool=False), tmp_path / name)
    assert (tmp_path / 'a/results.json').read_bytes() == (tmp_path / 'b/results.json').read_bytes()
    assert {path.stem for path in tmp_path.glob('a/*.npz')} == {'pixels', 'pool2'}
    assert np.load(tmp_path / 'a/pool2.npz')['code'].shape == (60, 2 * 2 * 5)
    found = np.load(tmp_path / 'a/pool2.npz')
    unit = found['code'] / np.linalg.norm(found['code'], axis=1, keepdims=True)
    error = (found['label'][distances(unit).argmin(1)] != found['label']).mean()
    row = json.loads((tmp_path / 'a/results.json').read_text())['taps']['pool2']
    assert row['nearest_neighbour_error']['code'] == pytest.approx(error, abs=1e-12)


def test_no_image_is_its_own_neighbour():
    code = np.random.default_rng(0).normal(size=(30, 4)).astype('float32')
    code[7] = code[3]  # the same code: each is the other's neighbour
    near, positions = embed.nearest(code, 3)
    expected = distances(code)
    np.testing.assert_allclose(near, np.sort(expected, 1)[:, :3], atol=1e-5)
    assert not (positions == np.arange(30)[:, None]).any()
    assert positions[3, 0] == 7
    assert positions[7, 0] == 3


def test_cells_are_the_nearest_without_overlap():
    points = np.array([[0.0, 0.0], [0.1, 0.0], [1.0, 0.9]])
    found = embed.cells(points)
    side = math.ceil(math.sqrt(embed.ROOM * 3))
    low, high = np.quantile(points, (0.05, 0.95), 0)
    unit = (high - low).max() / side
    at = (np.array([1, -1]) * ((low + high) / 2 - points)[:, ::-1]) / unit  # (down, right)
    grid = np.arange(embed.GRID * side) - (embed.GRID * side - 1) / 2

    def cost(chosen):
        return sum((np.array(place) - goal) @ (np.array(place) - goal)
                   for place, goal in zip(chosen, at, strict=True))
    best = min(itertools.permutations(itertools.product(grid, grid), 3), key=cost)
    assert cost([grid[cell] for cell in found]) == pytest.approx(cost(best))
    assert found[2, 0] < found[0, 0]  # up is up
    assert found[2, 1] > found[0, 1]  # right is right
    many = embed.cells(np.random.default_rng(0).normal(size=(50, 2)) ** 3)
    assert len({tuple(cell) for cell in many}) == 50
    assert len({tuple(cell) for cell in embed.cells(np.zeros((9, 2)))}) == 9


def test_a_map_is_no_block_in_a_corner():
    """A few points that are far from all others do not squeeze these into a block."""
    points = np.random.default_rng(0).normal(size=(200, 2))
    points[:3] += 20
    found = embed.cells(points)
    inside = found[3:]
    assert (np.ptp(inside, 0) + 1).prod() > 2 * len(inside)
    side = embed.GRID * math.ceil(math.sqrt(embed.ROOM * 200))
    assert np.isin(inside, (0, side - 1)).mean() < 0.02
    assert (found[:3, 0] < inside[:, 0].mean()).all()  # They are at the border that is near them.
    assert (found[:3, 1] > inside[:, 1].max()).all()


def test_queries_are_of_all_classes():
    labels = np.array([2, 2, 0, 1, 0, 1, 2])
    assert embed.queries(labels, 3).tolist() == [2, 3, 0]
    assert embed.queries(labels, 5).tolist() == [2, 3, 0, 4, 5]
    assert embed.queries(labels, 2).tolist() == [2, 0]
    assert len(embed.queries(labels, 99)) == 7


@pytest.mark.parametrize(('fields', 'message'), [
    ({'metric': 'l3'}, 'metric'), ({'perplexity': 0.5}, 'perplexity'),
    ({'perplexity': float('nan')}, 'perplexity'), ({'neighbours': 0}, 'neighbours'),
    ({'count': -1}, 'count'), ({'components': 1}, 'components'), ({'queries': 0}, 'queries'),
    ({'drawn': 0}, 'drawn'), ({'seed': -1}, 'seed'), ({'batch_size': 0}, 'batch_size'),
    ({'perplexity': 60.0}, 'perplexity=60.*here are 60'),
    ({'neighbours': 70}, 'neighbours=70'), ({'taps': 'relu2_2'}, 'did you mean relu2_1'),
])
def test_what_makes_no_sense_is_refused_by_name(network, tmp_path, fields, message):
    with pytest.raises(UserError, match=message):
        embed.run(config(**fields), tmp_path)


def test_a_dead_code_is_refused(network, tmp_path, monkeypatch):
    params = jax.tree.map(lambda x: x, network.variables['params'])
    params['conv2_1']['bias'] = params['conv2_1']['bias'] - 1e9
    monkeypatch.setattr(embed.trained, 'load',
                        lambda *_: network._replace(variables={'params': params}))
    with pytest.raises(UserError, match="'relu2_1' is the same for every image"):
        embed.run(config(taps='relu2_1'), tmp_path)
    params['conv2_1']['bias'] = params['conv2_1']['bias'] * np.float32(np.nan)
    with pytest.raises(UserError, match="taps: 'relu2_1' is not finite for 60 of 60 images"):
        embed.run(config(taps='relu2_1'), tmp_path)


def test_a_code_of_one_number(network, tmp_path):
    """A line has a map too: t-SNE begins with two components."""
    embed.run(config(taps='relu2_1:3'), tmp_path)
    found = np.load(tmp_path / 'relu2_1:3.npz')
    assert found['code'].shape == (60, 1)
    np.testing.assert_allclose(np.abs(found['pca'][:, 0]),
                               np.abs(found['code'][:, 0] - found['code'].mean()), atol=1e-5)
    assert not found['pca'][:, 1].any()
    assert np.isfinite(found['tsne']).all()
    error = (found['label'][distances(found['code']).argmin(1)] != found['label']).mean()
    row = json.loads((tmp_path / 'results.json').read_text())['taps']['relu2_1:3']
    assert row['features'] == 1
    assert row['nearest_neighbour_error']['code'] == pytest.approx(error, abs=0.05)


# ---- Eigenfaces


def faces_of_a_space(count=30, pixels=40, rank=6):
    """Faces that fill a space of `rank` dimensions exactly, and a mask that hides a quarter."""
    rng = np.random.default_rng(1)
    faces = rng.normal(size=pixels) + rng.normal(size=(count, rank)) @ rng.normal(
        size=(rank, pixels))
    return faces, np.arange(pixels) % 4 != 0


def test_projection_and_distance_are_those_of_linear_algebra():
    faces, _ = faces_of_a_space()
    space = eigenfaces.fit(faces, 6)
    others = np.random.default_rng(2).normal(size=(5, 40))
    projected = eigenfaces.project(space, others, 6)
    centred = (faces - faces.mean(0)).T
    expected = faces.mean(0) + (others - faces.mean(0)) @ centred @ np.linalg.pinv(centred)
    np.testing.assert_allclose(projected, expected, atol=1e-9)
    np.testing.assert_allclose(eigenfaces.project(space, faces, 6), faces, atol=1e-9)
    measured = eigenfaces.measure(space, eigenfaces.fit(eigenfaces.standardize(faces), 6), others,
                                  6)
    np.testing.assert_allclose(measured['distance'], np.linalg.norm(others - expected, axis=1))
    inverse = np.linalg.pinv(np.cov(faces.T), rcond=1e-9)
    shift = projected - faces.mean(0)
    np.testing.assert_allclose(measured['within'] ** 2, np.einsum('ni,ij,nj->n', shift, inverse,
                                                                  shift), rtol=1e-6)


def test_a_hidden_part_is_the_least_squares_face():
    faces, seen = faces_of_a_space()
    space = eigenfaces.fit(faces[:20], 6)
    hidden = np.where(seen, faces[20:], 7.0)
    np.testing.assert_allclose(eigenfaces.repair(space, hidden, seen, 6), faces[20:], atol=1e-9)
    # With fewer components: the pseudo-inverse V Sigma^-1 U^T, of which V Sigma U^T is none.
    basis = space.components_[:4]
    u, sigma, vt = np.linalg.svd(basis[:, seen].T, full_matrices=False)
    visible = (hidden - space.mean_)[:, seen].T
    right = (vt.T / sigma @ u.T @ visible).T @ basis + space.mean_
    found = eigenfaces.repair(space, hidden, seen, 4)
    np.testing.assert_allclose(found[:, ~seen], right[:, ~seen], atol=1e-9)
    np.testing.assert_array_equal(found[:, seen], faces[20:][:, seen])
    wrong = (vt.T * sigma @ u.T @ visible).T @ basis + space.mean_
    assert np.abs(found - wrong)[:, ~seen].max() > 0.1
    for kind in ('projection', 'mean face'):
        other = eigenfaces.repair(space, hidden, seen, 6, kind)
        assert np.abs(other - faces[20:])[:, ~seen].max() > 0.1
        np.testing.assert_array_equal(other, eigenfaces.repair(
            space, np.where(seen, hidden, -3.0), seen, 6, kind))  # Hidden pixels do not matter.


def test_areas_and_errors_of_roc_curves():
    near, far = np.array([1.0, 2.0, 3.0]), np.array([2.5, 4.0])
    assert eigenfaces.area(near, far) == pytest.approx(5 / 6)
    assert eigenfaces.equal_error(np.array([0, 0.2, 1]), np.array([0, 0.8, 1])) == (
        pytest.approx(0.2))
    assert eigenfaces.equal_error(np.array([0, 1]), np.array([0, 1])) == pytest.approx(0.5)
    pictures = np.array([[1.0, 3.0, 5.0], [0.2, 0.2, 0.2]])
    np.testing.assert_allclose(eigenfaces.standardize(pictures),
                               [[-2 / 8 ** 0.5, 0, 2 / 8 ** 0.5], [0, 0, 0]])


def test_visible_pixels():
    seen = eigenfaces.visible((1, 0, 2, 3), (4, 4)).reshape(4, 4)
    np.testing.assert_array_equal(seen, [[1, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 1], [1, 1, 1, 1]])


def test_eigenfaces_of_the_faces_that_come_with_scikit_image(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError('nothing is to be downloaded')
    monkeypatch.setattr(socket.socket, 'connect', refuse)
    made = configs.get_config('eigenfaces')
    made.update(components=(1, 5, 20), shown=2)
    eigenfaces.run(made.lock(), tmp_path)
    results = json.loads((tmp_path / 'results.json').read_text())
    assert (results['faces'], results['others']) == (100, 100)
    own, other = (results['reconstruction_rmse'][name]['mean']
                  for name in ('faces of the space', 'other faces'))
    assert own[0] > own[1] > own[2]
    assert other[0] > other[1] > other[2]
    assert all(a < b for a, b in zip(own, other, strict=True))
    faces = eigenfaces.load()[:100].reshape(100, -1)
    values = np.linalg.svd(faces - faces.mean(0), compute_uv=False) ** 2
    np.testing.assert_allclose(results['variance'], (values.cumsum() / values.sum())[[0, 4, 19]])
    # Flat pictures lie near any space that spans a change of brightness, so the distance alone does
    # not tell them from faces. Standardized, or with the position within the space, it does.
    areas = {name: row['mean'] for name, row in results['roc_area'].items()}
    assert areas['distance'][0] > 0.9 > 0.5 > areas['distance'][2]
    assert min(areas['standardized'][:2]) > 0.9
    assert areas['within'][1] > 0.9
    assert results['equal_error_rate']['within'] < 0.2 < 0.4 < (
        results['equal_error_rate']['distance'])
    repairs = {name: row['mean'] for name, row in results['repair_rmse'].items()}
    assert max(repairs['least squares']) < repairs['mean face'][0] < repairs['projection'][2]
    assert results['hidden_share'] == 8 * 17 / 625
    for name in ('eigenfaces', 'reconstructions', 'repair', 'curves'):
        with Image.open(tmp_path / 'figures' / f'{name}.png') as image:
            assert min(image.size) > 400, name


@pytest.mark.parametrize(('fields', 'message'), [
    ({'components': ()}, 'components'), ({'components': (0, 3)}, 'components'),
    ({'components': (5, 80)}, r'components=\(5, 80\).*at most 79'), ({'folds': 1}, 'folds'),
    ({'folds': 101}, 'folds=101'), ({'detect': 80}, 'detect'), ({'repair': 0}, 'repair'),
    ({'shown': 0}, 'shown'), ({'seed': -1}, 'seed'), ({'hidden': (20, 0, 8, 5)}, 'hidden'),
    ({'hidden': (0, 0, 25, 25)}, 'hidden'), ({'hidden': (1, 1, 0, 3)}, 'hidden'),
    ({'hidden': (1, 1, 3, 3, 3)}, 'hidden'), ({'hidden': (-1, 1, 3, 3)}, 'hidden'),
])
def test_eigenfaces_that_make_no_sense_are_refused(tmp_path, fields, message):
    made = configs.get_config('eigenfaces')
    made.update(fields)
    with pytest.raises(UserError, match=message):
        eigenfaces.run(made.lock(), tmp_path)


@pytest.mark.parametrize(('kind', 'modules'), [('codes', (embed, library)),
                                               ('eigenfaces', (eigenfaces,))])
def test_every_field_is_explained_and_read(kind, modules):
    source = ''.join(Path(module.__file__).read_text() for module in modules)
    comments = re.findall(r'    config\.(\w+) = .*  # ', Path(configs.__file__).read_text())
    for field in configs.get_config(kind):
        if field != 'experiment':
            assert re.search(rf"config\.{field}\b|'{field}'", source), field
            assert field in comments or field == 'seed', field
    with pytest.raises(ValueError, match='fisherfaces'):
        configs.get_config('fisherfaces')
