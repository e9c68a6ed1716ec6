"""Texts of figures and pictures, such as names of classes and files: in any script, and cut to fit.

Their font is matplotlib's, DejaVu Sans. Characters that it lacks, such as those of Chinese, are
drawn with other fonts that are installed. What no font has is spelled out, as '\\u732b'.
"""

import functools
import textwrap
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.text import Text

LONGEST = 18  # The most columns of a name; a wide character, such as a Chinese one, takes two.


def short(name: str, most: int = LONGEST) -> str:
    """A name in one line of at most so many columns, with an ellipsis where it is cut."""
    name, _ = drawable(' '.join(name.splitlines()))
    if _columns(name) <= most:
        return name
    while _columns(name) >= most:
        name = name[:-1]
    return f'{name.rstrip()}…'


def drawable(text: str, path: str = '') -> tuple[str, list[str]]:
    """The text with what no font has spelled out, and the names of the fonts that have what the
    one in the file, by default the usual one, lacks."""
    lacking, found = _lacking(text, path or file()), []
    for family, other in _others() if lacking else ():
        if left := _lacking(''.join(lacking), other):
            found += [family] * (left < lacking)
        else:
            found.append(family)
        lacking = left
        if not lacking:
            break
    return _spelled(text, lacking), found


def spelled_out(text: str, path: str) -> str:
    """The text with what the font in a file lacks spelled out."""
    return _spelled(text, _lacking(text, path))


def file(text: str = '') -> str:
    """The file of the usual font, or of one that has the whole text if the usual one does not."""
    from matplotlib import font_manager  # here, because the import takes half a second

    usual = font_manager.findfont(font_manager.FontProperties())
    others = _others() if text and _lacking(text, usual) else []
    return next((path for _, path in others if not _lacking(text, path)), usual)


def wrapped(text: str, width: float, size: float) -> str:
    """A text of letters of that size, in points, with lines of at most about so many inches."""
    columns = max(int(width * 72 / (0.6 * size)), 10)
    return '\n'.join(textwrap.fill(line, columns) for line in text.splitlines())


def name_ticks(axis: Any, places: Sequence[float], names: Sequence[str], **options: Any) -> None:
    """Writes names in one line, of classes or layers, at the ticks of an axis, as they stand."""
    shown, families = drawable('\n'.join(names))
    axis.set_ticks(places, shown.split('\n'), parse_math=False, **options)
    for label in axis.get_ticklabels():
        label.set_fontfamily([*label.get_fontfamily(), *families])


def fit(text: 'Text', width: float) -> None:
    """Cuts, with an ellipsis, the lines of a figure's text that are wider than so many inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    make_plain(text)
    figure: Any = text.get_figure(root=True)
    canvas = figure.canvas
    if not isinstance(canvas, FigureCanvasAgg):  # A new one becomes that of the figure.
        canvas = FigureCanvasAgg(figure)
    renderer = canvas.get_renderer()

    def wide(line):
        return renderer.get_text_width_height_descent(
            line, text.get_fontproperties(), False)[0] > width * figure.dpi

    lines = text.get_text().split('\n')
    for i, line in enumerate(lines):
        cut = line
        while cut and wide(lines[i]):
            cut = cut[:-1]
            lines[i] = f'{cut.rstrip()}…'
    text.set_text('\n'.join(lines))


def make_plain(text: 'Text') -> None:
    """Makes a text no formula, with fonts that have its characters; spells out what none has."""
    from matplotlib import font_manager

    shown, families = drawable(text.get_text(),
                               font_manager.findfont(text.get_fontproperties()))
    text.set_text(shown)
    text.set_fontfamily([*dict.fromkeys([*text.get_fontfamily(), *families])])
    text.set_parse_math(False)


def _columns(text):
    return sum(1 + (unicodedata.east_asian_width(character) in 'WF') for character in text)


def _lacking(text, path):
    """The characters, of those that have a picture, that the font in a file lacks."""
    return {character for character in text
            if ord(character) not in _characters(path) and not _without_picture(character)}


def _without_picture(character):
    """Whether it is a control character, half of one, or has no meaning that all fonts share."""
    return unicodedata.category(character) in ('Cc', 'Cn', 'Co', 'Cs')


def _spelled(text, lacking):
    return ''.join(character.encode('unicode_escape').decode()
                   if character in lacking or character != '\n' and _without_picture(character)
                   else character for character in text)


@functools.cache
def _characters(path):
    from matplotlib import ft2font

    return frozenset(ft2font.FT2Font(path).get_charmap())


def _others():
    """(name, file) of the upright fonts that are installed, those without serifs first."""
    from matplotlib import font_manager

    found = {entry.name: entry.fname for entry in font_manager.fontManager.ttflist
             if entry.style == 'normal' and entry.weight in (400, 'normal')
             and not getattr(entry, 'index', 0)
             # The Last Resort has a box for every character.
             and not entry.name.startswith('Last Resort')}
    return sorted(found.items(), key=lambda item: (
        'Sans' not in item[0] and 'Gothic' not in item[0], item))
