"""Figures with images in them, and lines, as PNG files."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnjax import atomic, fonts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PathLike = str | os.PathLike[str]


def inversions(path: PathLike, names: Sequence[str], images: np.ndarray,
               reconstructions: Mapping[str, np.ndarray],
               errors: Mapping[str, Sequence[float]], title: str = '') -> None:
    """Draws images and, by depth, what layers know of them.

    Args:
      names: the names of the N images.
      images: [N, H, W, C] in [0, 1].
      reconstructions: {layer: [N, H, W, C]}, in forward order.
      errors: {layer: [N]}, written below the reconstructions: |code of the reconstruction - code
        of the image|^2 / |code of the image|^2.
    """
    from matplotlib.figure import Figure

    shown, columns = min(len(images), 8), 9  # a larger figure is not readable
    layers = list(reconstructions)
    parts = [layers[i:i + columns - 1] for i in range(0, len(layers), columns - 1)]
    width = 1 + max(map(len, parts))
    height, side = images.shape[1] / images.shape[2], 1.35
    figure = Figure(figsize=(side * width, (side * height + 0.17) * shown * len(parts)
                             + 0.2 * len(parts) + 0.45), dpi=200)
    figure.set_layout_engine('constrained', w_pad=0.02, h_pad=0.04, wspace=0, hspace=0)
    axes = figure.subplots(shown * len(parts), width, squeeze=False)
    for row in axes.ravel():
        row.set_axis_off()

    def draw(axes, image, title, label):
        axes.set_axis_on()
        axes.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, 'gray', vmin=0, vmax=1,
                    interpolation='nearest')
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        fonts.fit(axes.set_title(title, fontsize=9, pad=4), side)
        fonts.fit(axes.set_xlabel(label, fontsize=8, labelpad=2, color='0.35'), side)

    for part, layers in enumerate(parts):
        for i in range(shown):
            row = axes[part * shown + i]
            draw(row[0], images[i], '' if i else 'image', names[i])
            for cell, layer in zip(row[1:], layers, strict=False):
                draw(cell, reconstructions[layer][i], '' if i else layer,
                     f'error {errors[layer][i]:.2g}')
    figure.suptitle(fonts.wrapped(title, side * width, 10), fontsize=10)
    figure.supxlabel(fonts.wrapped(
        'error: squared distance of the code of the reconstruction from that of the image, over '
        'the squared norm of the latter', side * width, 8), fontsize=8, color='0.35')
    save(figure, path)


def pictures(rows: Sequence[Sequence[tuple[str, np.ndarray]]], path: PathLike,
             title: str = '') -> None:
    """Draws rows of (text, image [H, W, C] in [0, 1]) side by side, all of one height, below their
    texts and a title."""
    from matplotlib.figure import Figure

    height, gap, line = 2.4, 0.06, 0.22  # inches
    widths = [[height * image.shape[1] / image.shape[0] for _, image in row] for row in rows]
    width = max(sum(row) + gap * (len(row) - 1) for row in widths)
    top = title_height(title, width)
    size = width, top + len(rows) * (height + line)
    figure = Figure(figsize=size, dpi=200)
    entitle(figure, title)
    for i, row in enumerate(rows):
        left = 0.0
        for (name, image), width in zip(row, widths[i], strict=True):
            bottom = 1 - (top + (i + 1) * (height + line)) / size[1]
            axes = figure.add_axes((left / size[0], bottom, width / size[0], height / size[1]))
            axes.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, 'gray', vmin=0,
                        vmax=1)
            axes.set_axis_off()
            fonts.fit(axes.set_title(name, fontsize=9, pad=3), width)
            left += width + gap
    save(figure, path)


def embeddings(panels: Mapping[str, np.ndarray], images: np.ndarray, labels: np.ndarray,
               classes: Sequence[str], path: PathLike, title: str = '') -> None:
    """Draws images where an embedding put them, framed in the colours of their classes.

    Args:
      panels: {title: int [N, 2], row and column of every image; no two the same}.
      images: [N, H, W, C] in [0, 1].
      labels: [N], positions in `classes`.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    colors, frame = class_colors(len(classes)), 2
    zoom = math.ceil(32 / max(images.shape[1:3]))  # small images keep their pixels square and sharp
    tiles = np.repeat(np.repeat(images, zoom, 1), zoom, 2) * np.ones(3)  # gray becomes RGB
    step = max(1, max(tiles.shape[1:3]) // 64)  # the figure has no room for more pixels
    tiles = np.pad(tiles[:, ::step, ::step], ((0, 0), (frame, frame), (frame, frame), (0, 0)))
    inside = np.zeros(tiles.shape[1:3], bool)
    inside[frame:-frame, frame:-frame] = True
    tiles = np.where(inside[..., None], tiles, colors[labels][:, None, None])
    height, width = tiles.shape[1:3]
    size = np.max([np.ptp(cells, 0) for cells in panels.values()], 0) + 1  # one size for all panels
    figure = Figure(figsize=(8 * len(panels), 1.6 + 8 * size[0] * height / (size[1] * width)),
                    layout='constrained', dpi=200)
    for axes, (name, cells) in zip(figure.subplots(1, len(panels), squeeze=False)[0],
                                    panels.items(), strict=True):
        rows, columns = size
        canvas = np.ones((rows * height, columns * width, 3))
        for (row, column), tile in zip(cells + (size - np.ptp(cells, 0)) // 2 - cells.min(0), tiles,
                                       strict=True):
            canvas[row * height:(row + 1) * height, column * width:(column + 1) * width] = tile
        axes.imshow(canvas, interpolation='antialiased')
        axes.set_axis_off()
        axes.set_title(name, fontsize=12)
    figure.suptitle(title, fontsize=14)
    note = 'The images snap to a grid: each is in a cell near its point.'
    legend = [(Patch(color=color), fonts.short(name))
              for color, name in zip(colors, classes, strict=True)]
    if len(classes) > 20:
        legend, note = [], f'{note} Frames: a colour for each of the {len(classes)} classes.'
    figure.legend([patch for patch, _ in legend], [name for _, name in legend], frameon=False,
                  ncols=10, loc='outside lower center', title=note, title_fontsize=11)
    save(figure, path)


def class_colors(count: int) -> np.ndarray:
    """[count, 3]: matplotlib's categorical colours, or a rainbow where those are too few."""
    from matplotlib import colormaps

    if count <= 20:
        return colormaps['tab10' if count <= 10 else 'tab20'](np.arange(count))[:, :3]
    return colormaps['turbo'](np.linspace(0.03, 0.97, count))[:, :3]


def gallery(rows: Sequence[Sequence[tuple[str, np.ndarray, Any]]], path: PathLike,
            side: float = 0.95, title: str = '', note: str = '') -> None:
    """Draws rows of small images with text above each, cut where it is wider than its image.

    Args:
      rows: lists of (text, image [H, W, C] or [H, W] in [0, 1], colour of the frame or None).
      side: width of an image, in inches.
      title: a title above all rows.
      note: what explains the figure, below all rows.
    """
    from matplotlib.figure import Figure

    gap, line, size = 0.08, 0.13, 7.5  # inches, inches and points
    first = rows[0][0][1]
    height = side * first.shape[0] / first.shape[1]
    width = max(map(len, rows)) * (side + gap)
    texts = [0.04 + line * max(text.count('\n') + 1 for text, *_ in row) for row in rows]
    note = fonts.wrapped(note, width, size)
    top, below = title_height(title, width), (line * (note.count('\n') + 1) + gap) * bool(note)
    extent = width, top + sum(texts) + len(rows) * (height + gap) + below
    figure = Figure(figsize=extent, dpi=200)
    entitle(figure, title)
    figure.text(gap / 2 / width, gap / 2 / extent[1], note, fontsize=size, color='0.35',
                va='bottom')
    down = top
    for row, text_height in zip(rows, texts, strict=True):
        down += text_height + height + gap
        for j, (text, image, color) in enumerate(row):
            axes = figure.add_axes(((j * (side + gap) + gap / 2) / width,
                                    1 - (down - gap / 2) / extent[1],
                                    side / width, height / extent[1]))
            axes.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, 'gray', vmin=0,
                        vmax=1, interpolation='nearest')
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(visible=color is not None, linewidth=2.5)
            if color is not None:
                axes.spines[:].set_color(color)
            fonts.fit(axes.set_title(text, fontsize=size, pad=2.5), side + gap / 2)
    save(figure, path)


def labelled(canvas: np.ndarray, places: np.ndarray, labels: Sequence[str], shape: Sequence[int],
             path: PathLike, title: str = '', side: float = 0.9, note: str = '') -> None:
    """Draws a picture [H, W, C] of cells in a grid of that shape (rows, columns) with the labels of
    some, below the places (row, column) [N, 2] they are at; none may be labelled.

    Args:
      side: width of a cell, in inches.
      title, note: what is written above and below.
    """
    from matplotlib.figure import Figure

    rows, columns = shape
    title, note = (fonts.wrapped(text, side * columns, size)
                   for text, size in ((title, 9), (note, 7)))
    lines = title.count('\n') + note.count('\n') + 2
    figure = Figure(figsize=(side * columns, side * rows + 0.15 * lines), layout='constrained',
                    dpi=200)
    axes = figure.subplots()
    axes.imshow(canvas.squeeze(-1) if canvas.shape[-1] == 1 else canvas, 'gray', vmin=0, vmax=1,
                extent=(0, columns, rows, 0), interpolation='antialiased')
    axes.set_axis_off()
    for (row, column), label in zip(places, labels, strict=False):
        axes.text(column + 0.5, row + 0.99, fonts.short(label), fontsize=5, ha='center',
                  va='bottom',
                  bbox={'facecolor': 'white', 'alpha': 0.7, 'linewidth': 0, 'pad': 0.6})
    figure.suptitle(title, fontsize=9)
    figure.supxlabel(note, fontsize=7, color='0.35')
    save(figure, path)


def title_height(title: str, width: float) -> float:
    """The height of a title of `entitle` in a figure of that width, all in inches."""
    return (0.2 * (fonts.wrapped(title, width, 10).count('\n') + 1) + 0.1) * bool(title)


def entitle(figure: 'Figure', title: str) -> None:
    """Writes a title at the upper left of a figure without a layout."""
    width, height = figure.get_size_inches()
    figure.text(0.04 / width, 1 - 0.05 / height, fonts.wrapped(title, width, 10),
                fontsize=10, va='top', linespacing=1.3)


def lines(panels: Sequence[Mapping[str, Any]], path: PathLike, title: str = '') -> None:
    """Draws panels side by side, below a title.

    Args:
      panels: dicts of `lines` {label: (x, y) or (x, y, deviation)}; `title`, `xlabel`, `ylabel` and
        whatever else `Axes.set` takes; `dashed`, labels of reference lines.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(panels), 3.4 + 0.3 * bool(title)), layout='constrained',
                    dpi=200)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _lines(axes, **panel)
    figure.suptitle(title)
    save(figure, path)


def _lines(axes, lines, dashed=(), **settings):
    for label, (x, y, *deviation) in lines.items():
        style = {'color': '0.5', 'linestyle': '--'} if label in dashed else {}
        line, = axes.plot(x, y, label=label, linewidth=1.5,
                          marker='o' if len(x) <= 20 and not style else '', markersize=3, **style)
        if deviation:
            axes.fill_between(x, np.subtract(y, deviation[0]), np.add(y, deviation[0]),
                              color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set(**settings)
    if settings.get('xscale') == 'log':
        axes.xaxis.set_major_formatter('{x:g}')
    elif all(isinstance(value, int) for x, *_ in lines.values() for value in x):
        axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.25, which='both')
    axes.spines[['top', 'right']].set_visible(False)
    outside = {'loc': 'upper left', 'bbox_to_anchor': (1, 1)} if len(lines) > 5 else {}
    axes.legend(frameon=False, fontsize=8, **outside)


def equivariance(layers: Sequence[tuple[str, float]], shifts: Sequence[float], errors: np.ndarray,
                 invariance: Sequence[Mapping[str, Any]], path: PathLike,
                 title: str = '') -> None:
    """Draws a table of relative errors by layer and shift, in colours, beside panels of `lines`.

    Args:
      layers: [(name, stride)].
      errors: [layers, shifts]; NaN where there is none.
      invariance: panels as those of `lines`.
    """
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    keep = np.linspace(0, len(layers) - 1, min(len(layers), 40)).round().astype(int)
    layers, errors = [layers[i] for i in keep], np.asarray(errors, float)[keep]
    height = max(3.2 * len(invariance), 0.19 * len(layers) + 1) + 0.3 * bool(title)
    widths = 1.8 + 0.5 * len(shifts), 5.6
    figure = Figure(figsize=(sum(widths), height), layout='constrained', dpi=200)
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=widths)[0]
    axes, least = left.subplots(), 1e-7
    shown = axes.imshow(np.clip(errors, least, None), 'viridis', LogNorm(least, 1), aspect='auto')
    for (i, j), value in np.ndenumerate(errors):
        if not math.isnan(value):
            text = f'{value:.2f}' if value >= 0.01 else f'{value:.0e}' if value else '0'
            axes.text(j, i, text, ha='center', va='center', fontsize=6,
                      color='black' if value > 3e-3 else 'white')
    axes.set(xlabel='shift (pixels)', ylabel='layer  / stride (pixels)',
             title='|f(shift x) - shift f(x)| / |f(x)|')
    fonts.name_ticks(axes.xaxis, range(len(shifts)), [*map(str, shifts)], fontsize=8)
    fonts.name_ticks(axes.yaxis, range(len(layers)), [f'{fonts.short(name, 30)}  /{stride:g}'
                                                      for name, stride in layers], fontsize=7)
    bar = left.colorbar(shown, ax=axes, shrink=0.6, pad=0.02)
    bar.set_label('relative error; 0: the layer moves with the picture', fontsize=8)
    bar.ax.tick_params(labelsize=8)
    for axes, panel in zip(right.subplots(len(invariance), 1, squeeze=False)[:, 0], invariance,
                           strict=True):
        _lines(axes, **panel)
    figure.suptitle(title)
    save(figure, path)


def save(figure: 'Figure', path: PathLike) -> None:
    """Writes a figure to a file, whole or not at all. Its text, such as names of classes and files,
    is drawn as it stands: '$5_$10' is no formula, and any script is drawn or spelled out."""
    from matplotlib.text import Text

    # Formatters, such as that of a logarithmic axis, write formulas.
    ticks = {text for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)
             for text in axis.findobj(Text) if text is not axis.label}
    for text in set(figure.findobj(Text)) - ticks:
        fonts.make_plain(text)
    with atomic.replacing(path) as unfinished:
        figure.savefig(unfinished, format=Path(path).suffix[1:])
