"""Curves of losses: their names and colours, and the pieces of several stages."""

import itertools

import numpy as np
import pytest

from cnnjax import curves, plots


@pytest.fixture
def drawn(monkeypatch):
    """The figures, which are saved too."""
    figures, save = [], plots.save
    monkeypatch.setattr(plots, 'save', lambda figure, path: figures.append(figure) or save(
        figure, path))
    return figures


@pytest.mark.parametrize(('results', 'title'), [
    ({'val/error': 0.5, 'val/loss': 1.0}, 'error (%)'),
    ({'val/error': 0.5, 'val/ap': 0.5, 'val/ap/cat': 0.5},
     'average precision of the validation set'),
    ({'test/error': 0.5, 'test/mean_iou': 0.5, 'test/iou/cat': 0.5}, 'IoU of the test set')])
def test_curves_of_the_set_that_was_evaluated(tmp_path, monkeypatch, results, title):
    drawn = []
    monkeypatch.setattr(plots, 'save', lambda figure, path: drawn.append(figure))
    row = {'step': 1, 'epoch': 1.0, 'learning_rate': 0.1, 'train/loss': 1.0, 'train/error': 0.5}
    curves.training([row | results, row | results | {'epoch': 2.0}], tmp_path / 'curves.png')
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
    curves.training([row, row | {'epoch': 2.0}], tmp_path / 'curves.png')
    losses, results, rate = drawn[0].axes
    legend = losses.get_legend().get_window_extent()
    assert not legend.overlaps(rate.yaxis.get_tightbbox())
    assert not legend.overlaps(results.get_tightbbox())
    colors = [line.get_color() for line in losses.lines]
    assert len(set(colors)) == len(colors) == 8


def stages(lengths, first=1e6):
    """Rows of stages that begin with a loss of `first`, then fall from 2 to 1."""
    rows = []
    for stage, length in enumerate(lengths, 1):
        for i, loss in enumerate(np.linspace(2, 1, length)):
            rows.append({'step': len(rows) + 1, 'stage': stage, 'gradient': 1.0,
                         'loss': float(loss if i else first)})
    return rows


@pytest.mark.parametrize(('first', 'cut'), [(1e6, True), (2.2, False), (-5e3, True)])
def test_first_steps_do_not_dwarf_the_rest(drawn, tmp_path, first, cut):
    """On a logarithmic axis, and on a linear one, which losses below 0 have."""
    curves.descent(stages([50, 50], first), tmp_path / 'loss.png', 'loss of embedded (vgg16)')
    axes, = drawn[0].axes
    low, high = axes.get_ylim()
    assert low <= 1 < 1.9 <= high
    assert (low <= first <= high) != cut
    assert (high - low < 2) == cut or not cut
    assert ('1e+06' in axes.get_xlabel()) == (first == 1e6)
    assert drawn[0].get_suptitle() == 'loss of embedded (vgg16)'


@pytest.mark.parametrize(('lengths', 'names', 'upright'), [
    ([40, 60], ['128 px', '256 px'], False),
    ([30] * 16, [f'conv{i}_1-stage' for i in range(16)], True),
    ([1, 200, 1, 1, 200], ['a' * 50, 'b', 'c', 'd', '猫'], True)])
def test_stages_are_named_at_their_pieces(drawn, tmp_path, lengths, names, upright):
    curves.descent(stages(lengths), tmp_path / 'loss.png', 'title', names)
    figure, = drawn
    axes, = figure.axes
    assert [text.get_text() for text in axes.texts][:2] == [
        names[0] if len(names[0]) < 40 else names[0][:39] + '…', names[1]]
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert {text.get_rotation() for text in axes.texts} == {90.0 if upright else 0.0}
    for box in boxes:
        assert figure.bbox.contains(box.x0, box.y0)
        assert figure.bbox.contains(box.x1, box.y1)
    last = np.cumsum(lengths) - np.array(lengths) / 2
    if not upright:  # Each is in the middle of its piece.
        np.testing.assert_allclose([text.get_position()[0] for text in axes.texts], last + 0.5)
