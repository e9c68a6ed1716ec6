"""Figures: any text can be drawn."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from cnnjax import curves, plots

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
    curves.training(rows, tmp_path / 'curves.png', name)


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
