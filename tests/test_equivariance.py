"""Shifts against slices written out by hand."""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cnnjax import layers, models, plots, summary
from cnnjax.data import Normalization
from cnnjax.errors import UserError
from cnnjax.trained import Trained
from configs import equivariance as configs
from experiments import equivariance


@pytest.fixture
def network(monkeypatch):
    """A small VGG with random weights for images of 16 x 16, that of every source."""
    net = models.create('vgg11', groups=((3,), (3,)), widths=(6, 5), hidden=(), num_classes=7)
    variables = jax.jit(net.init)(jax.random.key(3), jnp.zeros((1, 16, 16, 3)))
    trained = Trained(net, variables, Normalization(np.float32([0.5] * 3), np.float32([0.3] * 3)),
                      tuple('abcdefg'), (16, 16, 3), None)
    monkeypatch.setattr(equivariance.trained, 'load', lambda *_: trained)
    return trained


def config(**fields):
    made = configs.get_config()
    made.update(size=32, shifts=(1, 2, 3, 4), farthest=3, count=8, pool_size=4, batch_size=5)
    made.update(fields)
    return made.lock()


def noise(*shape):
    return np.random.default_rng(0).uniform(size=shape).astype(np.float32)


def test_layers_move_with_the_picture_by_multiples_of_their_stride(network):
    rows = equivariance.equivariance(config(), network, noise(48, 40, 3))
    assert [(row['layer'], row['stride']) for row in rows] == [
        ('conv1_1', 1), ('relu1_1', 1), ('pool1', 2), ('conv2_1', 2), ('relu2_1', 2), ('pool2', 4)]
    for row in rows:
        for shift, error in row['errors'].items():
            if int(shift) % row['stride']:
                assert error > 0.05, row
            else:
                assert error < 1e-6, row


def test_the_error_is_that_of_slices_written_out(network):
    picture = noise(36, 36, 3)
    rows = equivariance.equivariance(config(layers='pool1,conv2_1'), network, picture)
    windows = np.stack([picture[shift:shift + 32, shift:shift + 32] for shift in range(5)])
    taps = network.taps(windows)
    assert [row['layer'] for row in rows] == ['pool1', 'conv2_1']
    # Units of pool1 see 4 pixels from 2 i - 1, of conv2_1 8 from 2 i - 3: inside are 1 ... 14 and
    # 2 ... 13 of the 16; a shift by three pixels is one unit and a half.
    for row, first, last in zip(rows, (1, 2), (14, 13), strict=True):
        assert row['units'] == (last - first + 1) ** 2
        still, moved = np.float64(taps[row['layer']][0]), np.float64(taps[row['layer']][3])
        inner = slice(first, last - 1)  # units i with i + 1 and i + 2 inside
        expected = sum(still[first + a:last - 1 + a, first + b:last - 1 + b]
                       for a in (1, 2) for b in (1, 2)) / 4
        error = np.linalg.norm(moved[inner, inner] - expected) / np.linalg.norm(expected)
        assert row['errors']['3'] == pytest.approx(error, rel=1e-5)
        assert row['sees'] == {'pool1': 4, 'conv2_1': 8}[row['layer']]
    one, = equivariance.equivariance(config(layers='pool1:2'), network, picture)
    still, moved = (np.float64(taps['pool1'][i, ..., 2]) for i in (0, 4))
    inner = slice(1, 13)  # units i with i + 2 inside
    error = np.linalg.norm(moved[inner, inner] - still[3:15, 3:15])
    assert one['errors']['4'] == pytest.approx(error / np.linalg.norm(still[3:15, 3:15]), abs=1e-6)
    assert one['errors']['3'] != rows[0]['errors']['3']


def test_what_is_linear_is_interpolated_exactly():
    side = np.arange(0, 16, 2)
    seen = [summary.Extent(axis, side, side + 1, 2.0) for axis in (1, 2)]
    ramp = np.add.outer(np.arange(20.0), 3 * np.arange(20.0))[..., None] + 1

    def mean(x):
        return np.asarray(layers.average_pool(jnp.asarray(x)[None], 2, 2)[0])
    still = mean(ramp[:16, :16])
    for shift in (1, 2, 3):
        moved = mean(ramp[shift:shift + 16, shift:shift + 16])
        assert equivariance.moved_error(seen, still, moved, shift, 16) < 1e-7
        back = mean(ramp[3 - shift:19 - shift, 3 - shift:19 - shift])
        assert shift == 3 or equivariance.moved_error(seen, mean(ramp[3:19, 3:19]), back, shift,
                                                      16) > 0.01  # the other way


def test_no_unit_clear_of_the_border_is_no_number(network):
    rows = equivariance.equivariance(config(size=8, shifts=(4,), layers='relu1_1,pool2'), network,
                                     noise(48, 48, 3))
    assert rows[0]['errors']['4'] is not None
    assert (rows[1]['errors']['4'], rows[1]['units']) == (None, 0)


def test_codes_come_back_where_the_picture_repeats_itself(network):
    row = np.float32([0.1, 0.9, 0.4])
    tile = np.stack([np.roll(row, i) for i in range(3)])[..., None] * np.float32([1, 0.8, 0.6])
    found = equivariance.invariance(config(), network, np.tile(tile, (14, 14, 1)))
    assert found['shifts'] == [1, 2, 3]
    assert found['images'] == 8
    assert list(found['cosine']) == ['relu1_1', 'relu2_1', 'pool2', 'fc8']
    for name, values in found['cosine'].items():
        assert values[2] == pytest.approx(1, abs=1e-6), name
    assert found['cosine']['relu1_1'][0] < 0.999
    assert found['class_kept'][2] == 1


def test_shifts_go_in_all_directions_and_no_further(network, monkeypatch):
    """The windows are those of the picture: each pixel tells where it is."""
    places = np.stack(np.meshgrid(np.arange(64), np.arange(64), indexing='ij'), -1) / 64
    picture = np.concatenate([places, places[..., :1]], -1).astype(np.float32)
    seen = []
    monkeypatch.setattr(Trained, 'taps', lambda self, images: jax.debug.callback(
        lambda x: seen.append(np.asarray(x)), images, ordered=True) or {
        'pool2': images[:, :2, :2], 'fc8': images[:, 0, 0]})
    monkeypatch.setattr(Trained, 'tap_shapes', lambda *_: {'pool2': (2, 2, 3), 'fc8': (3,)})
    monkeypatch.setattr(equivariance.selection, 'entries', lambda *_: ('pool2',))
    equivariance.invariance(config(farthest=2, count=40, batch_size=40), network, picture)
    jax.effects_barrier()
    still, *moved = (np.round(batch[:, 0, 0, :2] * 64).astype(int) for batch in seen)
    for shift, batch in enumerate(moved, 1):
        steps = {tuple(step) for step in batch - still}
        assert steps == {(shift, 0), (-shift, 0), (0, shift), (0, -shift)}


def test_the_mean_cosine():
    codes = np.float64([[1, 0], [3, 4], [0, 0], [0, 0]])
    others = np.float64([[0, 2], [6, 8], [0, 0], [1, 0]])
    assert equivariance.cosine(codes, others) == pytest.approx((0 + 1 + 1 + 0) / 4)


@pytest.mark.parametrize('dataset', ['', 'digits'])
def test_the_files(network, tmp_path, dataset, monkeypatch):
    drawn, save = {}, plots.save
    monkeypatch.setattr(plots, 'save', lambda figure, path: drawn.update(
        {path.stem: figure}) or save(figure, path))
    equivariance.run(config(dataset=dataset, image='skimage:cat'), tmp_path)
    assert drawn['equivariance'].get_suptitle() == 'embedded (VGG): cat' + (
        '; classes: digits, test set' if dataset else '')
    assert any(axes.get_ylabel().startswith('relative error')
               for part in drawn['equivariance'].subfigs for axes in part.axes)  # of the colours
    results = json.loads((tmp_path / 'results.json').read_text())
    assert len(results['equivariance']) == 6
    assert results['invariance']['images'] == 8
    assert len(results['invariance']['class_kept']) == 3
    assert results['pooling']['max']['peaks'] == 1 > results['pooling']['average']['peaks'] > 0
    assert results['pooling']['max']['unchanged'] > results['pooling']['average']['unchanged']
    for name in ('equivariance', 'pooling'):
        with Image.open(tmp_path / 'figures' / f'{name}.png') as image:
            assert min(image.size) > 500, name


@pytest.mark.parametrize(('fields', 'message'), [
    ({'size': 4}, 'size'), ({'size': 20.5}, 'size'), ({'shifts': ()}, 'shifts'),
    ({'shifts': (0,)}, 'shifts'), ({'shifts': (1.5, 2.0)}, 'shifts'), ({'farthest': 0}, 'farthest'),
    ({'count': 0}, 'count'), ({'pool_size': 1}, 'pool_size'), ({'seed': -1}, 'seed'),
    ({'batch_size': 0}, 'batch_size'), ({'size': 300}, r'300 x 451 pixels.*304'),
    ({'farthest': 143}, 'farthest=143 need 302'), ({'size': 8, 'pool_size': 9}, 'pool_size=9'),
    ({'layers': 'relu9'}, 'relu9'), ({'image': 'skimage:dog'}, 'skimage:dog'),
    ({'image': ''}, "image=''"), ({'dataset': 'flours'}, "no 'flours'"),
    ({'data_dir': 'photos'}, 'data_dir=photos .*give dataset too'),
])
def test_what_makes_no_sense_is_refused_by_name(network, tmp_path, fields, message):
    made = configs.get_config()
    made.update(size=32, shifts=(1, 4), image='skimage:cat')
    with made.ignore_type():
        made.update(fields)
    with pytest.raises(UserError, match=message):
        equivariance.run(made.lock(), tmp_path)


def test_gray_networks_get_gray_pictures(network, monkeypatch, tmp_path):
    net = network.net
    variables = jax.jit(net.init)(jax.random.key(3), jnp.zeros((1, 16, 16, 1)))
    gray = network._replace(variables=variables, image_shape=(16, 16, 1),
                            normalize=Normalization(np.float32([0.5]), np.float32([0.3])))
    monkeypatch.setattr(equivariance.trained, 'load', lambda *_: gray)
    equivariance.run(config(count=2, layers='conv1_1', shifts=(1,)), tmp_path)
    rows = json.loads((tmp_path / 'results.json').read_text())['equivariance']
    assert [row['layer'] for row in rows] == ['conv1_1']
    assert rows[0]['errors']['1'] < 1e-6


def test_every_field_is_explained_and_read():
    source = ''.join(Path(module.__file__).read_text() for module in (equivariance,))
    comments = re.findall(r'    config\.(\w+) = .*  # ', Path(configs.__file__).read_text())
    for field in configs.get_config():
        if field != 'experiment':
            assert re.search(rf"config\.{field}\b|'{field}'", source), field
            assert field in comments, field
