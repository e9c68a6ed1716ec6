"""Figures: any text can be drawn."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from cnnjax import plots

GRAY = np.full((4, 4, 3), 0.5)
CELLS = np.array([[0, 0], [1, 1]])


@pytest.mark.parametrize('name', ['$5_$10', r'$x^{\frac{$', 'caf\udce9', '_a', r'\$', '%s{}', '猫'])
def test_text_is_drawn_as_it_stands(tmp_path, name):
    """Names of classes and files, in every figure that has them."""
    plots.gallery([[(name, GRAY, 'black')]], tmp_path / 'gallery.png')
    plots.pictures([[(name, GRAY)]], tmp_path / 'pictures.png')
    plots.inversions(tmp_path / 'inv.png', [name], GRAY[None], {name: GRAY[None]}, {name: [1.0]})
    plots.embeddings({name: CELLS}, np.stack([GRAY, GRAY]), np.array([0, 1]), (name, 'b'),
                     tmp_path / 'embeddings.png')
    rows = [{'step': 1, 'epoch': 1.0, 'learning_rate': 0.1, 'train/loss': 1.0, 'train/error': 0.5}]
    plots.curves(rows, tmp_path / 'curves.png', name)


def test_what_the_font_lacks_is_spelled_out(tmp_path):
    figure = Figure()
    title = figure.suptitle('é 猫\n\U00020bb7 \udce9\r')
    plots.save(figure, tmp_path / 'figure.png')
    assert title.get_text() == 'é \\u732b\n\\U00020bb7 \\udce9\\r'


def test_a_dollar_is_no_formula_and_a_logarithmic_axis_is_one(tmp_path):
    def drawn(title, ylabel, math):
        figure = Figure(figsize=(3, 2), dpi=100)
        axes = figure.subplots()
        axes.set(yscale='log', ylim=(0.1, 10), title=title, ylabel=ylabel)
        for text in (axes.title, axes.yaxis.label):
            text.set_parse_math(math)
        if math:
            plots.save(figure, tmp_path / 'figure.png')
        else:
            figure.savefig(tmp_path / 'figure.png')
        return np.asarray(Image.open(tmp_path / 'figure.png'))

    assert np.array_equal(drawn('$x_1$', '$y$', True), drawn('$x_1$', '$y$', False))


@pytest.mark.parametrize(('results', 'title'), [
    ({'val/error': 0.5, 'val/loss': 1.0}, 'error (%)'),
    ({'val/error': 0.5, 'val/ap': 0.5, 'val/ap/cat': 0.5},
     'average precision of the validation set'),
    ({'test/error': 0.5, 'test/mean_iou': 0.5, 'test/iou/cat': 0.5}, 'IoU of the test set')])
def test_curves_of_the_set_that_was_evaluated(tmp_path, monkeypatch, results, title):
    drawn = []
    monkeypatch.setattr(plots, 'save', lambda figure, path: drawn.append(figure))
    row = {'step': 1, 'epoch': 1.0, 'learning_rate': 0.1, 'train/loss': 1.0, 'train/error': 0.5}
    plots.curves([row | results, row | results | {'epoch': 2.0}], tmp_path / 'curves.png')
    loss, axes, _ = drawn[0].axes
    assert axes.get_ylabel() == title
    if 'val/loss' in results:
        assert [text.get_text() for text in loss.get_legend().get_texts()] == [
            'train', 'validation']


def test_many_terms_of_a_loss_leave_the_learning_rate_free(tmp_path, monkeypatch):
    drawn, save = [], plots.save
    monkeypatch.setattr(plots, 'save', lambda figure, path: drawn.append(figure) or save(
        figure, path))
    terms = {f'train/{name}_loss': 1.0 + i for i, name in enumerate('abcdefg')}
    row = {'epoch': 1.0, 'learning_rate': 0.1, 'train/loss': 9.0, 'test/error': 0.5,
           'test/ap50': 0.5, 'test/ap': 0.5, **terms}
    plots.curves([row, row | {'epoch': 2.0}], tmp_path / 'curves.png')
    losses, results, rate = drawn[0].axes
    legend = losses.get_legend().get_window_extent()
    assert not legend.overlaps(rate.yaxis.get_tightbbox())
    assert not legend.overlaps(results.get_tightbbox())
    colors = [line.get_color() for line in losses.lines]
    assert len(set(colors)) == len(colors) == 8
