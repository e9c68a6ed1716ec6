"""Curves of losses: of a training, and of optimized images; from the rows of metrics.jsonl."""

import itertools
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cnnjax import fonts, plots

SETS = {'val': 'validation', 'test': 'test'}  # the names of sets in rows and in messages
TRAIN = {'color': '0.6', 'linewidth': 1.2}  # the lines of the training and of the test
TEST = {'color': 'tab:blue', 'linewidth': 1.8}


def training(rows: Sequence[Mapping[str, Any]], path: str | os.PathLike[str],
             title: str = '') -> None:
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
    plots.save(figure, path)


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
        for name, color in zip(names, plots.class_colors(len(names)), strict=True):
            _curve(axes, rows, name, label=fonts.short(name.removeprefix(f'{judged}/{measure}/')),
                   linewidth=1.0, color=color)
    for (name, label), style in zip(means.items(), ('-', '--'), strict=False):
        _curve(axes, rows, f'{judged}/{name}', label=label, linewidth=2.2, color='black',
               linestyle=style)
    axes.set(ylim=(0, 1), ylabel=f'{title} of the {SETS[judged]} set')


def descent(rows: Sequence[Mapping[str, Any]], path: str | os.PathLike[str], title: str = '',
            stages: Sequence[str] = ()) -> None:
    """Draws the loss of optimized images and its terms against the step, from metrics.jsonl, with
    the names of the `stages` above their pieces of the curves.

    What only the first steps of the stages need of the axis of the losses is cut if it is long.
    """
    from matplotlib.figure import Figure

    pieces = [[*piece] for _, piece in itertools.groupby(rows, lambda row: row['stage'])]
    width = min(max(6.4, 2.4 + 0.14 * len(pieces)), 24)
    figure = Figure(figsize=(width, 3.8), layout='constrained', dpi=150)
    axes = figure.subplots()
    terms = dict.fromkeys(name for row in rows for name in row
                          if name not in ('step', 'stage', 'gradient'))
    shown = [*terms] if len(terms) > 2 else ['loss']  # a single term is the loss
    for name in shown:
        points = [(row['step'], row.get(name, math.nan)) for row in rows]
        color, line = ('black', 1.6) if name == 'loss' else (None, 1.0)
        axes.plot(*zip(*points, strict=True), label=name, color=color, linewidth=line)
    for piece in pieces[1:]:
        axes.axvline(piece[0]['step'] - 0.5, color='0.85', linewidth=0.8, zorder=0)
    if all(row[name] > 0 for row in rows for name in terms if name in row):
        axes.set_yscale('log')
    axes.set(xlabel='step', ylabel='loss')
    low, high = _telling(pieces, shown, axes.get_yscale() == 'log')
    axes.set_ylim(low, high)
    first = rows[0]['loss']
    if high is not None and first > high:
        axes.set_xlabel(f'step (the first loss is {first:.3g}, above this figure)')
    axes.set_xlim(rows[0]['step'] - 1, rows[-1]['step'] + 1)
    axes.grid(alpha=0.25, which='both')
    axes.spines[['top', 'right']].set_visible(False)
    if len(terms) > 2:
        axes.legend(frameon=False, fontsize=8, loc='upper left', bbox_to_anchor=(1, 1))
    if len(pieces) > 1:
        _stages(axes, pieces, stages, width - 2.2)
    figure.suptitle(title, fontsize=11)
    plots.save(figure, path)


def _telling(pieces, names, logarithmic):
    """The lowest and the highest loss to draw, with a margin, or two None. An end that only the
    first twentieth of the pieces needs is cut if it would make the axis half as long again."""
    def losses(skipped):
        values = np.array([row[name] for piece in pieces for name in names
                           for row in piece[math.ceil(skipped * len(piece)):] if name in row])
        values = np.log10(values) if logarithmic else values
        return values[np.isfinite(values)]

    every, later = losses(0.0), losses(0.05)
    if not len(later):
        return None, None
    ends = [end(later) if abs(end(every) - end(later)) > 0.5 * (np.ptp(later) or 1) else end(every)
            for end in (np.min, np.max)]
    if ends == [every.min(), every.max()]:
        return None, None
    margin = 0.05 * (ends[1] - ends[0] or 1)
    limits = ends[0] - margin, ends[1] + margin
    return [10 ** limit for limit in limits] if logarithmic else limits


def _stages(axes, pieces, names, width):
    """Writes the names of the stages above their pieces of the curves; upright where they need
    more room, and no two in the same place. `width` is that of the axes, in inches."""
    first, last = pieces[0][0]['step'], pieces[-1][-1]['step']
    inches = width / (last - first + 1)
    size = 7.5
    named = [((piece[0]['step'] + piece[-1]['step']) / 2, len(piece) * inches,
              fonts.short(names[piece[0]['stage'] - 1], 40))
             for piece in pieces if piece[0]['stage'] <= len(names)]
    upright = any(0.65 * size / 72 * len(name) > room for _, room, name in named)
    line, free = 1.5 * size / 72, -math.inf
    for middle, _, name in named:
        if upright and middle * inches < free + line:
            continue
        free = middle * inches
        axes.text(middle, 1.02, name, transform=axes.get_xaxis_transform(), fontsize=size,
                  color='0.35', ha='center', va='bottom', rotation=90 if upright else 0)
