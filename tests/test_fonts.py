"""Texts of figures: in any script, without warnings, and cut to fit."""

import pathlib

import matplotlib
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.figure import Figure

from cnnjax import charts, fonts, overlays, plots

NAMES = 'кошка', '猫', '\N{CAT}', 'cat'  # Only the first and the last are in DejaVu Sans.
ESCAPED = ['кошка', '\\u732b', '\\U0001f408', 'cat']
BUNDLED = pathlib.Path(matplotlib.get_data_path(), 'fonts', 'ttf')
GRAY = np.full((4, 4, 3), 0.5)


@pytest.fixture
def bundled(monkeypatch):
    """A machine that has the fonts of matplotlib only."""
    # The files are read anew, because the list that matplotlib keeps in a cache may lack some.
    monkeypatch.setattr(font_manager.fontManager, 'ttflist', [])
    for file in sorted(BUNDLED.glob('*.ttf')):
        font_manager.fontManager.addfont(file)
    font_manager.fontManager._findfont_cached.cache_clear()
    yield
    font_manager.fontManager._findfont_cached.cache_clear()


@pytest.fixture
def installed(bundled, tmp_path):
    """A machine with another font, which has the letters of the names in NAMES[1:]: squares."""
    pen = TTGlyphPen(None)
    for i, point in enumerate([(0, 0), (0, 800), (900, 800), (900, 0)]):
        (pen.lineTo if i else pen.moveTo)(point)
    pen.closePath()
    letters = {ord(letter): f'letter{i}' for i, letter in enumerate(''.join(NAMES[1:]) + '…')}
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(['.notdef', *letters.values()])
    builder.setupCharacterMap(letters)
    builder.setupGlyf(dict.fromkeys(['.notdef', *letters.values()], pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys(['.notdef', *letters.values()], (1000, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({'familyName': 'Squares Sans', 'styleName': 'Regular'})
    builder.setupOS2()
    builder.setupPost()
    file = tmp_path / 'squares.ttf'
    builder.save(file)
    font_manager.fontManager.addfont(file)
    return str(file)


def draw_all(directory):
    """Draws the names in figures of every kind; warnings are errors."""
    plots.gallery([[(f'{name}\n1', GRAY, 'black') for name in NAMES]],
                  directory / 'gallery.png', title=NAMES[2], note=NAMES[1])
    plots.pictures([[(name, GRAY) for name in NAMES]], directory / 'pictures.png', NAMES[1])
    charts.confusion(directory, np.eye(4, dtype=int), NAMES, title=NAMES[1])
    plots.lines([{'lines': {name: ([1, 2], [1, 2]) for name in NAMES}}], directory / 'lines.png')
    for name in NAMES:
        overlays.captioned(np.zeros((40, 200, 3), np.uint8), name)


def test_any_script_with_the_bundled_fonts_only(bundled, tmp_path):
    draw_all(tmp_path)
    assert [fonts.short(name) for name in NAMES] == ESCAPED
    assert fonts.drawable('é 猫\n\udce9\r\ue000\t') == ('é \\u732b\n\\udce9\\r\\ue000\\t', [])
    assert fonts.file('猫') == fonts.file()


def test_a_font_that_is_installed_is_used(installed, tmp_path):
    draw_all(tmp_path)
    assert [fonts.short(name) for name in NAMES] == [*NAMES]
    assert fonts.drawable('é 猫') == ('é 猫', ['Squares Sans'])
    assert fonts.file('猫') == installed
    assert fonts.file('é') == fonts.file('é猫') == fonts.file()  # No font has both.
    square = overlays.captioned(np.zeros((40, 200, 3), np.uint8), '猫')[40:]
    assert (square == 0).all(-1).sum() > 100  # Its square is black.
    figure = Figure()
    axes = figure.subplots()
    fonts.name_ticks(axes.xaxis, [0, 1], ['猫', 'é'])
    plots.save(figure, tmp_path / 'ticks.png')
    assert [label.get_text() for label in axes.get_xticklabels()] == ['猫', 'é']
    assert axes.get_xticklabels()[0].get_fontfamily()[-1] == 'Squares Sans'


def test_names_are_cut_by_columns():
    assert fonts.short('a' * 18) == 'a' * 18
    assert fonts.short('a' * 19) == 'a' * 17 + '…'
    assert fonts.short('two\nlines') == 'two lines'
    assert fonts.short('words that end here', 11) == 'words that…'


@pytest.mark.parametrize('text', ['W' * 60, 'i' * 60, f'short\n{"猫" * 30}', 'short'])
def test_texts_are_cut_where_they_are_wider_than_their_place(text):
    figure = Figure(figsize=(4, 2), dpi=100)
    title = figure.subplots().set_title(text, fontsize=9)
    fonts.fit(title, 1.5)
    lines = title.get_text().split('\n')
    assert lines[0] == 'short' or lines[0].endswith('…')
    width = title.get_window_extent().width
    assert width <= 150
    assert text == 'short' or width > 130  # No more is cut than must be.
