"""Figures of a run, as PNG files."""

import itertools
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnjax import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PathLike = str | os.PathLike[str]
SETS = {'val': 'validation', 'test': 'test'}  # the names of sets in rows and in messages
TRAIN = {'color': '0.6', 'linewidth': 1.2}  # the lines of the training and of the test
TEST = {'color': 'tab:blue', 'linewidth': 1.8}


def curves(rows: Sequence[Mapping[str, Any]], path: PathLike, title: str = '') -> None:
    """Draws loss, error and learning rate against the epoch, from the rows of metrics.jsonl. If
    these have a mean IoU or an AP50, it is drawn in place of the error, which is 1 minus it."""
    from matplotlib.figure import Figure  # here, because the import takes half a second

    names = dict.fromkeys(name for row in rows for name in row)
    judged = next((name for name in SETS if f'{name}/error' in names), 'test')
    segments, detects = f'{judged}/mean_iou' in names, f'{judged}/ap50' in names
    figure = Figure(figsize=(10, 3.6), layout='constrained', dpi=150)
    losses, results = figure.subplots(1, 2)
    _curve(losses, rows, 'train/loss', label='train', **TRAIN)
    # What a segmentation trains with may be another loss.
    _curve(losses, rows, f'{judged}/loss',
           label=SETS[judged] + ', cross-entropy' * segments, **TEST)
    terms = [name for name in names
             if detects and name.startswith('train/') and name != 'train/loss']
    for name, color in zip(terms, itertools.cycle(
            f'C{i}' for i in (0, 2, 3, 4, 5, 6, 8, 9)), strict=False):
        _curve(losses, rows, name, label=name.removeprefix('train/').replace('_', ' '),
               linewidth=1.0, color=color)
    losses.set_yscale('log')
    if segments:
        _by_class(results, rows, judged, 'iou', {'mean_iou': 'mean'}, 'IoU')
    elif detects:
        _by_class(results, rows, judged, 'ap50', {'ap50': 'AP50', 'ap': 'AP'}, 'average precision')
    elif f'{judged}/ap' in names:
        _by_class(results, rows, judged, 'ap', {'ap': 'mean'}, 'average precision')
    else:
        _errors(results, rows, judged)
    losses.set_ylabel('loss')
    for axes in (losses, results):
        axes.set_xlabel('epoch')
        axes.grid(alpha=0.25, which='both')
        axes.spines[['top', 'right']].set_visible(False)
        # Many names stand beside the lines, and beside the scale of the learning rate.
        beside = (1.27 if axes is losses else 1, 1)
        axes.legend(frameon=False, **{'loc': 'upper left', 'bbox_to_anchor': beside, 'fontsize': 8}
                    if len(axes.lines) > 6 else {})
    rate = losses.twinx()
    _curve(rate, rows, 'learning_rate', color='tab:orange', linewidth=1.0, linestyle=':')
    highest = max(row['learning_rate'] for row in rows)
    rate.set(ylabel='learning rate (dotted)', yscale='log', ylim=(highest * 1e-4, highest * 2))
    rate.spines[['top']].set_visible(False)
    figure.suptitle(title)
    save(figure, path)


def _curve(axes, rows, name, scale=1.0, **style):
    points = [(row['epoch'], scale * row[name]) for row in rows if name in row]
    if points:  # A single point makes no line.
        axes.plot(*zip(*points, strict=True), marker='o' if len(points) == 1 else None, **style)


def _errors(axes, rows, judged):
    from matplotlib import ticker

    for name in dict.fromkeys(name for row in rows for name in row
                              if re.fullmatch('train/.*error', name)):
        label = 'train' if name == 'train/error' else name.replace('_', ' ').replace('/', ', ')
        _curve(axes, rows, name, 100, label=label, **TRAIN)
    _curve(axes, rows, f'{judged}/error', 100, label=SETS[judged], **TEST)
    columns = sorted({name for row in rows for name in row
                      if name.startswith(f'{judged}/column') and name.endswith('/error')})
    for i, name in enumerate(columns, 1):  # C0 is the whole network's colour
        _curve(axes, rows, name, 100, label=name.split('/')[1], linewidth=1.0, color=f'C{i}')
    axes.set_yscale('symlog', linthresh=1, linscale=0.5)  # an error may well be 0
    axes.set_ylim(0, 100)
    axes.yaxis.set_major_locator(ticker.FixedLocator([0, 1, 2, 5, 10, 20, 50, 100]))
    axes.yaxis.set_major_formatter('{x:g}')
    axes.set_ylabel('error (%)')


def _by_class(axes, rows, judged, measure, means, title):
    """The means {name: label} and, where classes are few, the measure of each class."""
    names = dict.fromkeys(name for row in rows for name in row
                          if name.startswith(f'{judged}/{measure}/'))
    if len(names) <= 10:
        for name, color in zip(names, class_colors(len(names)), strict=True):
            _curve(axes, rows, name, label=name.removeprefix(f'{judged}/{measure}/'), linewidth=1.0,
                   color=color)
    for (name, label), style in zip(means.items(), ('-', '--'), strict=False):
        _curve(axes, rows, f'{judged}/{name}', label=label, linewidth=2.2, color='black',
               linestyle=style)
    axes.set(ylim=(0, 1), ylabel=f'{title} of the {SETS[judged]} set')


def descent(rows: Sequence[Mapping[str, Any]], path: PathLike) -> None:
    """Draws the loss of optimized images and its terms against the step, from metrics.jsonl."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout='constrained', dpi=150)
    axes = figure.subplots()
    terms = dict.fromkeys(name for row in rows for name in row
                          if name not in ('step', 'stage', 'gradient'))
    for name in terms if len(terms) > 2 else ('loss',):  # a single term is the loss
        points = [(row['step'], row.get(name, math.nan)) for row in rows]
        color, width = ('black', 1.6) if name == 'loss' else (None, 1.0)
        axes.plot(*zip(*points, strict=True), label=name, color=color, linewidth=width)
    for row, following in itertools.pairwise(rows):
        if row['stage'] != following['stage']:
            axes.axvline(following['step'] - 0.5, color='0.85', linewidth=0.8, zorder=0)
    if all(row[name] > 0 for row in rows for name in terms if name in row):
        axes.set_yscale('log')
    axes.set(xlabel='step', ylabel='loss')
    axes.grid(alpha=0.25, which='both')
    axes.spines[['top', 'right']].set_visible(False)
    if len(terms) > 2:
        axes.legend(frameon=False)
    save(figure, path)


def inversions(path: PathLike, names: Sequence[str], images: np.ndarray,
               reconstructions: Mapping[str, np.ndarray],
               errors: Mapping[str, Sequence[float]]) -> None:
    """Draws images and, by depth, what layers know of them.

    Args:
      names: the names of the N images.
      images: [N, H, W, C] in [0, 1].
      reconstructions: {layer: [N, H, W, C]}, in forward order.
      errors: {layer: [N]}, written below the reconstructions.
    """
    from matplotlib.figure import Figure

    shown, columns = min(len(images), 8), 9  # a larger figure is not readable
    layers = list(reconstructions)
    parts = [layers[i:i + columns - 1] for i in range(0, len(layers), columns - 1)]
    width = 1 + max(map(len, parts))
    height, side = images.shape[1] / images.shape[2], 1.35
    figure = Figure(figsize=(side * width, (side * height + 0.13) * shown * len(parts)
                             + 0.14 * len(parts)), dpi=200)
    figure.set_layout_engine('constrained', w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    axes = figure.subplots(shown * len(parts), width, squeeze=False)
    for row in axes.ravel():
        row.set_axis_off()

    def draw(axes, image, title, label):
        axes.set_axis_on()
        axes.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, 'gray', vmin=0, vmax=1,
                    interpolation='nearest')
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        axes.set_title(title, fontsize=9, pad=4)
        axes.set_xlabel(label, fontsize=8, labelpad=2, color='0.35')

    for part, layers in enumerate(parts):
        for i in range(shown):
            row = axes[part * shown + i]
            draw(row[0], images[i], '' if i else 'image', names[i])
            for cell, layer in zip(row[1:], layers, strict=False):
                draw(cell, reconstructions[layer][i], '' if i else layer, f'{errors[layer][i]:.2g}')
    save(figure, path)


def pictures(rows: Sequence[Sequence[tuple[str, np.ndarray]]], path: PathLike) -> None:
    """Draws rows of (title, image [H, W, C] in [0, 1]) side by side, all of one height."""
    from matplotlib.figure import Figure

    height, gap, title = 2.4, 0.06, 0.22  # inches
    widths = [[height * image.shape[1] / image.shape[0] for _, image in row] for row in rows]
    size = max(sum(row) + gap * (len(row) - 1) for row in widths), len(rows) * (height + title)
    figure = Figure(figsize=size, dpi=200)
    for i, row in enumerate(rows):
        left = 0.0
        for (name, image), width in zip(row, widths[i], strict=True):
            bottom = 1 - ((i + 1) * (height + title)) / size[1]
            axes = figure.add_axes((left / size[0], bottom, width / size[0], height / size[1]))
            axes.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, 'gray', vmin=0,
                        vmax=1)
            axes.set_axis_off()
            axes.set_title(name, fontsize=9, pad=3)
            left += width + gap
    save(figure, path)


def embeddings(panels: Mapping[str, np.ndarray], images: np.ndarray, labels: np.ndarray,
               classes: Sequence[str], path: PathLike) -> None:
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
    figure = Figure(figsize=(7 * len(panels), 0.8 + 7 * size[0] * height / (size[1] * width)),
                    layout='constrained', dpi=200)
    for axes, (title, cells) in zip(figure.subplots(1, len(panels), squeeze=False)[0],
                                    panels.items(), strict=True):
        rows, columns = size
        canvas = np.ones((rows * height, columns * width, 3))
        for (row, column), tile in zip(cells + (size - np.ptp(cells, 0)) // 2 - cells.min(0), tiles,
                                       strict=True):
            canvas[row * height:(row + 1) * height, column * width:(column + 1) * width] = tile
        axes.imshow(canvas, interpolation='antialiased')
        axes.set_axis_off()
        axes.set_title(title, fontsize=12)
    if len(classes) <= 20:
        figure.legend([Patch(color=color) for color in colors], classes, frameon=False, ncols=10,
                      loc='outside lower center')
    save(figure, path)


def class_colors(count: int) -> np.ndarray:
    """[count, 3]: matplotlib's categorical colours, or a rainbow where those are too few."""
    from matplotlib import colormaps

    if count <= 20:
        return colormaps['tab10' if count <= 10 else 'tab20'](np.arange(count))[:, :3]
    return colormaps['turbo'](np.linspace(0.03, 0.97, count))[:, :3]


def gallery(rows: Sequence[Sequence[tuple[str, np.ndarray, Any]]], path: PathLike,
            side: float = 0.95, title: str = '') -> None:
    """Draws rows of small images with a line of text above each.

    Args:
      rows: lists of (text, image [H, W, C] or [H, W] in [0, 1], colour of the frame or None).
      side: width of an image, in inches.
      title: lines above all rows.
    """
    from matplotlib.figure import Figure

    gap, line = 0.08, 0.17
    first = rows[0][0][1]
    height, top = side * first.shape[0] / first.shape[1], line * len(title.splitlines())
    size = max(map(len, rows)) * (side + gap), len(rows) * (height + line + gap) + top
    figure = Figure(figsize=size, dpi=200)
    figure.text(0.5, 1 - gap / 2 / size[1], title, fontsize=8, ha='center', va='top')
    for i, row in enumerate(rows):
        bottom = size[1] - top - (i + 1) * (height + line + gap) + gap / 2
        for j, (text, image, color) in enumerate(row):
            axes = figure.add_axes(((j * (side + gap) + gap / 2) / size[0], bottom / size[1],
                                    side / size[0], height / size[1]))
            axes.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, 'gray', vmin=0,
                        vmax=1, interpolation='nearest')
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(visible=color is not None, linewidth=2.5)
            if color is not None:
                axes.spines[:].set_color(color)
            axes.set_title(text, fontsize=7.5, pad=2.5)
    save(figure, path)


def labelled(canvas: np.ndarray, places: np.ndarray, labels: Sequence[str], shape: Sequence[int],
             path: PathLike, title: str = '', side: float = 0.9) -> None:
    """Draws a picture [H, W, C] of cells in a grid of that shape (rows, columns) with the labels of
    some, below the places (row, column) [N, 2] they are at; none may be labelled.

    Args:
      side: width of a cell, in inches.
    """
    from matplotlib.figure import Figure

    rows, columns = shape
    figure = Figure(figsize=(side * columns, side * rows + 0.5), layout='constrained', dpi=200)
    axes = figure.subplots()
    axes.imshow(canvas.squeeze(-1) if canvas.shape[-1] == 1 else canvas, 'gray', vmin=0, vmax=1,
                extent=(0, columns, rows, 0), interpolation='antialiased')
    axes.set_axis_off()
    for (row, column), label in zip(places, labels, strict=False):
        axes.text(column + 0.5, row + 0.99, label[:14], fontsize=5, ha='center', va='bottom',
                  bbox={'facecolor': 'white', 'alpha': 0.7, 'linewidth': 0, 'pad': 0.6})
    figure.suptitle(title, fontsize=9)
    save(figure, path)


def lines(panels: Sequence[Mapping[str, Any]], path: PathLike) -> None:
    """Draws panels side by side.

    Args:
      panels: dicts of `lines` {label: (x, y) or (x, y, deviation)}; `title`, `xlabel`, `ylabel` and
        whatever else `Axes.set` takes; `dashed`, labels of reference lines.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(panels), 3.4), layout='constrained', dpi=200)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _lines(axes, **panel)
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
                 invariance: Sequence[Mapping[str, Any]], path: PathLike) -> None:
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
    height = max(3.2 * len(invariance), 0.19 * len(layers) + 1)
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
    axes.set(xticks=range(len(shifts)), yticks=range(len(layers)), xlabel='shift (pixels)',
             title='|f(shift x) - shift f(x)| / |f(x)|')
    axes.set_xticklabels(shifts, fontsize=8)
    axes.set_yticklabels([f'{name}  /{stride:g}' for name, stride in layers], fontsize=7)
    axes.set_ylabel('layer  / stride')
    left.colorbar(shown, ax=axes, shrink=0.6, pad=0.02)
    for axes, panel in zip(right.subplots(len(invariance), 1, squeeze=False)[:, 0], invariance,
                           strict=True):
        _lines(axes, **panel)
    save(figure, path)


def save(figure: 'Figure', path: PathLike) -> None:
    """Writes a figure to a file, whole or not at all. Its text, such as names of classes and files,
    is drawn as it stands: '$5_$10' is no formula, and what the font lacks is spelled out."""
    from matplotlib import font_manager
    from matplotlib.text import Text

    # Formatters, such as that of a logarithmic axis, write formulas.
    ticks = {text for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)
             for text in axis.findobj(Text) if text is not axis.label}
    for text in set(figure.findobj(Text)) - ticks:
        text.set_text(spelled_out(text.get_text(), font_manager.findfont(
            text.get_fontproperties())))
        text.set_parse_math(False)
    with atomic.replacing(path) as unfinished:
        figure.savefig(unfinished, format=Path(path).suffix[1:])


def spelled_out(text: str, font: str) -> str:
    """The text with the characters that the font in a file lacks spelled out, as '\\u732b', and
    with all control characters but line breaks."""
    from matplotlib import font_manager

    known = font_manager.get_font(font)
    return ''.join(
        character if character == '\n' or character >= ' ' and known.get_char_index(ord(character))
        else character.encode('unicode_escape').decode() for character in text)


def font() -> str:
    """The file of the font of the figures."""
    from matplotlib import font_manager

    return font_manager.findfont(font_manager.FontProperties())
