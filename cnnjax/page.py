"""Pages in one HTML file each: they open from disk, in the style of the microscope's.

    text = page.whole('resnet20 on digits', page.facts({'error': '2.00 %'}), page.section(
        'Classes', page.table(('class', 'images'), [('cat', 20), ('dog', 30)])))

The functions return HTML, and escape all the texts that they are given. Parts of a page are HTML.
"""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from PIL import Image

LONG = 20  # The rows of a table that are shown at once.
ROWS = 5  # The most rows below a picture.
STYLES = Path(__file__).parent / 'microscope' / 'style.css', Path(__file__).with_name('page.css')


class Share(float):
    """A number from 0 to 1, which a table shows in percent with a bar."""


class Card(NamedTuple):
    """A picture with a few rows of a table below it."""

    link: str  # the address of what a click shows
    source: str  # the address of the picture
    name: str  # a path, of which the last two parts are shown
    rows: Sequence[Sequence[Any]]


def whole(title: str, *parts: str, lead: str = '') -> str:
    """The text of a page's file. Bytes of file names that are not valid text are spelled out."""
    style = '\n'.join(path.read_text('utf-8') for path in STYLES)
    return f'''<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escaped(title)}</title>
<link rel="icon" href="data:,">
<style>
{style}</style>
<script>
const dark = matchMedia('(prefers-color-scheme: dark)');
const theme = () => document.documentElement.dataset.theme = dark.matches ? 'dark' : 'light';
theme();
dark.addEventListener('change', theme);
</script>
<main>
<h1>{escaped(title)}</h1>
<p class="lead">{escaped(lead)}</p>
{"".join(parts)}</main>
</html>
'''.encode(errors='backslashreplace').decode()


def escaped(text: Any) -> str:
    """The text as HTML, also between quotation marks."""
    return html.escape(str(text))


def section(title: str, *parts: str, remark: str = '') -> str:
    """A part of a page with a title, and a remark behind it."""
    small = f' <small>{escaped(remark)}</small>' if remark else ''
    return f'<section>\n<h2>{escaped(title)}{small}</h2>\n{"".join(parts)}</section>\n'


def remark(text: str) -> str:
    """A line in small type."""
    return f'<p class="remark">{escaped(text)}</p>\n'


def beside(*parts: str) -> str:
    """Parts side by side, where the window is wide enough."""
    return f'<div class="beside">\n{"".join(parts)}</div>\n'


def facts(values: Mapping[str, Any]) -> str:
    """Names and their values, side by side."""
    return '<dl class="facts">\n' + ''.join(
        f'<div><dt>{escaped(name)}</dt><dd>{escaped(value)}</dd></div>\n'
        for name, value in values.items()) + '</dl>\n'


def figure(path: Path, caption: str) -> str:
    """A PNG file, which is copied into the page, above its caption. Screens with twice as many
    pixels show all of its pixels."""
    with Image.open(path) as image:
        width = image.width // 2
    content = base64.b64encode(path.read_bytes()).decode()
    return (f'<figure class="chart"><img src="data:image/png;base64,{content}" width="{width}" '
            f'alt="{escaped(caption)}"><figcaption>{escaped(caption)}</figcaption></figure>\n')


def cards(items: Iterable[Card]) -> str:
    """Pictures in a grid, each loaded when it comes into view."""
    return '<ul class="pictures">\n' + ''.join(
        f'<li><a href="{escaped(card.link)}"><img src="{escaped(card.source)}" loading="lazy" '
        f'alt="{escaped(card.name)}"></a><span class="name" title="{escaped(card.name)}">'
        f'{escaped("/".join(PurePath(card.name).parts[-2:]))}</span>'
        f'<table>{"".join(map(_row, card.rows[:ROWS]))}</table></li>\n'
        for card in items) + '</ul>\n'


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table whose rows after the first LONG are folded away. A Share is shown in percent, with a
    bar."""
    lines = [_row(row) for row in rows]
    head = f'<tr>{"".join(f"<th>{escaped(name)}</th>" for name in header)}</tr>\n'
    first, others = ''.join(lines[:LONG]), ''.join(lines[LONG:])
    more = (f'<details><summary>{len(lines) - LONG:,} more</summary><table>\n{head}{others}'
            '</table></details>\n') if others else ''
    return f'<table>\n{head}{first}</table>\n{more}'


def _row(cells):
    return f'<tr>{"".join(map(_cell, cells))}</tr>\n'


def _cell(value):
    if isinstance(value, Share):
        return (f'<td class="share" style="--share: {value:.4f}"><span>{100 * value:.1f} %</span>'
                '</td>')
    number = isinstance(value, (int, float))
    text = f'{value:,}' if isinstance(value, int) else f'{value:.3f}' if number else escaped(value)
    return f'<td class="number">{text}</td>' if number else f'<td>{text}</td>'
