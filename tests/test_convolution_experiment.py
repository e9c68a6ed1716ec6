"""The slides about convolution and pooling: numbers of the lecture notes, and errors that stop."""

import json
import re

import jax
import numpy as np
import pytest
from PIL import Image
from scipy import integrate

from cnnjax import plots, toeplitz
from cnnjax.errors import UserError
from configs import convolution as configs
from experiments.convolution import (
    checks,
    convolution,
    dimensions,
    gradients,
    pooling,
    sizes,
    slides,
)


def config(**fields):
    made = configs.get_config()
    made.update(size=32, matrix_size=4, dimensions=(2, 30), pairs=200)
    made.update(fields)
    return made.lock()


@pytest.fixture(scope='module')
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp('convolution')
    convolution.run(config(), directory)
    return directory


@pytest.mark.parametrize(('part', 'what', 'value'), [
    ('Sizes', '6 x 6 image with edge filter, valid: no padding', [[0, 3, 3, 0]] * 4),
    ('Sizes', '6 x 6 image with edge filter, stride 2', [[0, 3]] * 2),
    ('Sizes', '6 x 6 image with edge filter, dilation 2', [[3, 3]] * 2),
    ('Sizes', '4 x 4 image with edge filter, same: padding 1',
     [[-2, 4, 4, -2], [-3, 6, 6, -3], [-3, 6, 6, -3], [-2, 4, 4, -2]]),
    ('Sizes', 'sizes of the RGB image', '512 x 512 x 3 → 256 x 256 x 16 → 256 x 256 x 8'),
    ('Sizes', 'sizes of the volume',
     '14 x 14 x 14 x 1 → 10 x 10 x 10 x 16 → 6 x 6 x 6 x 32'),
    ('Matrices', 'weights of a full layer of this size', 256),
    ('Matrices', '... if each unit sees its neighbourhood only', (3 * 4 - 2) ** 2),
    ('Matrices', '... if all share theirs, as in a convolution', 9),
    # The first: 3 * 1 + 5 * 2 + 1 * 3 + 2 * 4.
    ('Gradients', 'kernel gradient, f = 3, s = 2', [[24, 41, 45], [52, 51, 35], [33, 52, 39]]),
    ('Pooling', 'max-pool 2 x 2, stride 2', [[5, 6, 5], [7, 8, 6], [7, 8, 4]]),
    ('Pooling', 'average-pool 2 x 2, stride 2', [[4, 4.25, 3], [3.5, 4.75, 2.75], [3, 6.5, 2]]),
    ('Receptive fields', 'receptive field, three layers of 3', 7),
    ('Receptive fields', 'receptive field, dilations 1, 2, 4', 15)])
def test_the_numbers_of_the_lecture_notes(directory, part, what, value):
    results = json.loads((directory / 'results.json').read_text())
    row, = (row for row in results[part] if row['what'] == what)
    assert row['value'] == value
    assert row['difference'] == 0


def test_the_files(directory):
    results = json.loads((directory / 'results.json').read_text())
    assert list(results) == list(convolution.PARTS)
    text = (directory / 'results.md').read_text()
    for rows in results.values():
        assert all(f'| {row["what"]} |' in text for row in rows)
    for name in ('sizes', 'flip', 'matrices', 'gradients', 'pooling', 'receptive_fields',
                 'dimensions'):
        with Image.open(directory / 'figures' / f'{name}.png') as image:
            assert image.size == (1600, 900), name
    with Image.open(directory / 'figures' / 'kernels.png') as image:
        assert min(image.size) > 500


def test_no_frame_crosses_a_number(tmp_path, monkeypatch):
    saved, save = [], plots.save
    monkeypatch.setattr(plots, 'save', lambda figure, path: saved.append(figure) or save(
        figure, path))
    sizes.part(config(), tmp_path)
    figure, = saved
    axes, = figure.axes
    numbers = [text.get_window_extent() for text in axes.texts
               if re.fullmatch(r'−?\d', text.get_text())]
    frames = [patch for patch in axes.patches if not patch.get_fill()]
    assert len(frames) == 24
    for frame in frames:
        box, half = frame.get_window_extent(), frame.get_linewidth() / 72 * figure.dpi / 2
        for number in numbers:
            columns = [abs(x - edge) < half for edge in (box.x0, box.x1) for x in (
                number.x0, number.x1)] + [number.x0 < edge < number.x1 for edge in (box.x0, box.x1)]
            assert not (any(columns) and box.y0 < number.y1 and number.y0 < box.y1)


@pytest.mark.parametrize(('value', 'message'), [
    ([1.0, 2.1], 'sums: differs from lax by 0.1'), ([1.0, np.nan], 'differs from lax by nan'),
    ([1.0], r'sums: shape \(1,\), but \(2,\) by lax')])
def test_a_number_that_differs_is_an_error(value, message):
    with pytest.raises(ArithmeticError, match=message):
        checks.equal('sums', value, [1.0, 2.0], 'lax')


def test_an_error_stops_the_run(tmp_path, monkeypatch):
    right = toeplitz.matrix
    monkeypatch.setattr(toeplitz, 'matrix', lambda *arguments: right(*arguments) * 1.001)
    with pytest.raises(ArithmeticError, match='valid: no padding: differs from product with a'):
        convolution.run(config(), tmp_path)
    assert not (tmp_path / 'results.json').exists()


def test_the_gradients_by_hand():
    """Of the sum over z of g z, where z_i = w_0 a_2i + w_1 a_2i+1."""
    a, w, g = np.array([1.0, 2, 3, 4, 5]), np.array([10.0, 20]), np.array([1.0, 3])
    np.testing.assert_array_equal(gradients.input_gradient(g, w, (5,), stride=2),
                                  [10, 20, 30, 60, 0])
    np.testing.assert_array_equal(gradients.kernel_gradient(a, g, 2, stride=2), [10, 14])


def test_where_the_gradients_of_pools_go():
    x = np.array([[1.0, 2, 0, 5], [2, 0, 5, 5]])
    np.testing.assert_array_equal(pooling.gradient('max', x, np.array([[7.0, 9]]), 2, 2),
                                  [[0, 7, 0, 9], [0, 0, 0, 0]])
    shares = pooling.gradient('average', np.zeros((5, 5)), np.ones((2, 2)), 3, 2)
    assert [9 * shares[place] for place in ((0, 0), (1, 2), (2, 2))] == pytest.approx([1, 2, 4])


@pytest.mark.parametrize('n', [2, 3, 50])
def test_the_density_of_the_angle(n):
    assert integrate.quad(dimensions.density, 0, np.pi, (n,))[0] == pytest.approx(1)
    assert dimensions.density(1.0, n) / dimensions.density(np.pi / 2, n) == pytest.approx(
        np.sin(1.0) ** (n - 2))


def test_vectors_that_are_not_random_are_an_error(tmp_path, monkeypatch):
    right = dimensions.sample
    monkeypatch.setattr(dimensions, 'sample', lambda n, pairs, rng: right(n + 2, pairs, rng))
    with pytest.raises(ArithmeticError, match='norm .* not distributed as in theory'):
        dimensions.part(config(dimensions=(30,), pairs=2000), tmp_path)


def test_dark_cells_have_white_numbers():
    _, axes = slides.slide('title')
    slides.grid(axes, 0, 0, [[-2.0, 1.5]], 1, [['#400000', 'white']])
    title, *texts = axes.texts
    assert [(text.get_text(), text.get_color()) for text in texts] == [
        ('−2', 'white'), ('1.5', slides.INK)]
    assert title.get_text() == 'title'


@pytest.mark.parametrize(('fields', 'message'), [
    ({'kernel': (1.0,) * 8}, 'kernel=.* has 8 numbers'),
    ({'kernel': (1.0,) * 16}, 'kernel=.* has 16 numbers'), ({'kernel': ()}, 'kernel.* is empty'),
    ({'kernel': (0.0,) * 9}, 'is zero'), ({'kernel': (1.0,) * 25}, 'take a matrix_size of'),
    ({'size': 8}, 'size=8'), ({'matrix_size': 17}, 'matrix_size=17'),
    ({'dimensions': (1, 2)}, 'dimensions'), ({'pairs': 10}, 'pairs=10'), ({'seed': -1}, 'seed=-1'),
    ({'image': 'skimage:dog'}, 'skimage:dog')])
def test_what_makes_no_sense_is_refused_by_name(tmp_path, fields, message):
    with pytest.raises(UserError, match=message):
        convolution.run(config(**fields), tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_a_larger_kernel(tmp_path):
    kernel = tuple(np.outer([1.0, 4, 6, 4, 1], [1.0, 4, 6, 4, 1]).ravel() / 256)
    made = config(kernel=kernel, matrix_size=5)
    with jax.enable_x64(True):
        for name in ('Kernels', 'Matrices'):
            assert convolution.PARTS[name].part(made, tmp_path)
