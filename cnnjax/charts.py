"""Charts of an evaluation's numbers: confusions, reliability, precision and recall.

Each function writes figures/NAME.png and returns the name.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax import atomic, fonts, plots, tables
from cnnjax.fonts import short
from cnnjax.tasks import classify

CONFUSION = 'confusion.csv'
NAMED = 40  # The most classes in a legend.
NUMBERED = 25  # The most classes in a matrix with numbers.
LINED = 20  # The most classes with a line of their own colour.


def confusion(directory: str | Path, matrix: np.ndarray, classes: Sequence[str],
              of: str = 'pixels', title: str = '') -> str:
    """Writes a confusion matrix, int [classes, classes] with the truth in rows, to confusion.csv,
    and draws it with its rows in percent `of` what it counts. If it has one row and column more,
    they are those of the background: of objects that are not found, and of findings that are no
    objects."""
    from matplotlib.figure import Figure

    classes = (*classes, 'background') if len(matrix) > len(classes) else classes
    directory, count = Path(directory), len(classes)
    totals = matrix.sum(1, keepdims=True)
    shares = 100 * np.divide(matrix, totals, out=np.full(matrix.shape, np.nan), where=totals > 0)
    side = min(max(0.38 * count, 2.4), 9)
    figure = Figure(figsize=(side + 2.6, side + 1.2), dpi=200, layout='constrained')
    axes = figure.subplots()
    axes.set_facecolor('0.9')  # Rows of classes without an example stay gray.
    shown = axes.imshow(shares, 'Blues', vmin=0, vmax=100)
    size = float(np.clip(72 * side / count / 3.2, 5, 11))
    for (i, j), share in np.ndenumerate(shares if count <= NUMBERED else np.empty((0, 0))):
        if share > 0:
            axes.text(j, i, f'{share:.0f}' if count > 6 else f'{share:.1f}', ha='center',
                      va='center', fontsize=size, color='white' if share > 55 else 'black')
    every = -(-count // NAMED)  # More names would overlap.
    names = [*map(short, classes[::every])]
    # Names that are wider than a column are turned.
    narrow = 72 * side * every / count < 1.2 * 0.65 * 8 * max(map(len, names))
    turned: Any = {'rotation': 45, 'ha': 'right', 'rotation_mode': 'anchor'} if narrow else {}
    fonts.name_ticks(axes.xaxis, range(0, count, every), names, fontsize=8, **turned)
    fonts.name_ticks(axes.yaxis, range(0, count, every), names, fontsize=8)
    axes.set(xlabel='prediction', ylabel='truth')
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(shown, ax=axes, shrink=0.8, pad=0.02)
    bar.set_label(f"% of the truth's {of}", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    figure.suptitle(fonts.wrapped(title, side + 2.4, 10), fontsize=10)
    plots.save(figure, directory / 'figures' / 'confusion.png')
    atomic.write_text(directory / CONFUSION, tables.comma_separated(
        ['truth / prediction', *classes],
        ([name, *row] for name, row in zip(classes, matrix.tolist(), strict=True))))
    return 'confusion'


def reliability(directory: str | Path, bins: np.ndarray, of: str = 'images',
                title: str = '') -> str:
    """Draws the share of the answers that is right, by how sure the network was of them, above how
    many these are: a reliability diagram. `of` says what the answers are about.

    Args:
      bins: float [bins, 3], see classify.calibration.
    """
    from matplotlib.figure import Figure

    counts, confidence, accuracy = bins.T
    width, filled = 1 / len(bins), counts > 0
    left = width * np.arange(len(bins))
    figure = Figure(figsize=(4.6, 5.0), layout='constrained', dpi=200)
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    axes.bar(left, accuracy, width, align='edge', color='#7fb3d5', edgecolor='white',
             label='right answers')
    gaps = np.where(filled, confidence - accuracy, 0)
    axes.bar(left, gaps, width, accuracy, align='edge', color='#d98f6c55', edgecolor='#a8432b',
             linewidth=0.8, hatch='////', label='from there to the mean probability')
    axes.plot([0, 1], [0, 1], '--', color='0.4', linewidth=1, label='calibrated')
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel='share of right answers')
    axes.set_title(f'expected calibration error {100 * classify.calibration_error(bins):.2f} %',
                   fontsize=10)
    figure.legend(*axes.get_legend_handles_labels(), loc='outside lower center', ncols=3,
                  frameon=False, fontsize=7, columnspacing=1.0, handlelength=1.4)
    below.bar(left, counts, width, align='edge', color='0.75', edgecolor='white')
    below.set(xlabel='probability of the answer', ylabel=of)
    for panel in (axes, below):
        panel.spines[['top', 'right']].set_visible(False)
        panel.tick_params(labelsize=8)
    figure.suptitle(fonts.wrapped(title, 4.4, 10), fontsize=10)
    plots.save(figure, Path(directory) / 'figures' / 'reliability.png')
    return 'reliability'


def precision_recall(directory: str | Path, precision: np.ndarray, classes: Sequence[str],
                     title: str = '') -> str:
    """Draws the precision of each class at the recalls from 0 to 1, and their mean.

    Args:
      precision: float [classes, 101] at an IoU of 0.5; NaN for classes without an object. The mean
        of a row is the AP50 of the class.
    """
    from matplotlib.figure import Figure

    recalls = np.linspace(0, 1, precision.shape[1])
    seen = [i for i, row in enumerate(precision) if not np.isnan(row).any()]
    figure = Figure(figsize=(6.2, 4), layout='constrained', dpi=200)
    axes = figure.subplots()
    for i, color in zip(seen, plots.class_colors(len(seen)), strict=True):
        style: Any = {'color': color, 'label': f'{short(classes[i])}  {precision[i].mean():.3f}'}
        if len(seen) > LINED:
            style = {'color': '0.8', 'label': f'{len(seen)} classes' if i == seen[0] else None}
        axes.plot(recalls, precision[i], linewidth=1.0, **style)
    mean = precision[seen].mean(0)
    axes.plot(recalls, mean, color='black', linewidth=2.2, label=f'mean  {mean.mean():.3f}')
    axes.set(xlim=(0, 1), ylim=(0, 1.01), xlabel='recall', ylabel='precision')
    axes.grid(alpha=0.25)
    axes.spines[['top', 'right']].set_visible(False)
    axes.legend(frameon=False, fontsize=8, title='AP at IoU 0.5', loc='upper left',
                bbox_to_anchor=(1, 1))
    figure.suptitle(fonts.wrapped(title, 6, 10), fontsize=10)
    plots.save(figure, Path(directory) / 'figures' / 'precision_recall.png')
    return 'precision_recall'
