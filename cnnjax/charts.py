"""Charts of an evaluation's numbers: confusions, reliability, precision and recall.

Each function writes figures/NAME.png and returns the name.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax import atomic, plots, tables
from cnnjax.tasks import classify

CONFUSION = 'confusion.csv'
NAMED = 40  # The most classes in a legend.
NUMBERED = 25  # The most classes in a matrix with numbers.
LINED = 20  # The most classes with a line of their own colour.


def short(name: str) -> str:
    """A name of a class with at most 18 characters."""
    return name if len(name) <= 18 else f'{name[:17]}…'


def confusion(directory: str | Path, matrix: np.ndarray, classes: Sequence[str],
              of: str = 'pixels') -> str:
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
    figure = Figure(figsize=(side + 2.6, side + 0.9), dpi=200, layout='constrained')
    axes = figure.subplots()
    axes.set_facecolor('0.9')  # Rows of classes without an example stay gray.
    shown = axes.imshow(shares, 'Blues', vmin=0, vmax=100)
    size = float(np.clip(72 * side / count / 3.2, 5, 11))
    for (i, j), share in np.ndenumerate(shares if count <= NUMBERED else np.empty((0, 0))):
        if share > 0:
            axes.text(j, i, f'{share:.0f}' if count > 6 else f'{share:.1f}', ha='center',
                      va='center', fontsize=size, color='white' if share > 55 else 'black')
    names = [plots.spelled_out(short(name), plots.font()) for name in classes]
    every = -(-count // NAMED)  # More names would overlap.
    plain: Any = {'fontsize': 8, 'parse_math': False}  # names may hold '$'
    turned: Any = {'rotation': 45, 'ha': 'right', 'rotation_mode': 'anchor'} if count > 3 else {}
    axes.set_xticks(range(0, count, every), names[::every], **plain, **turned)
    axes.set_yticks(range(0, count, every), names[::every], **plain)
    axes.set(xlabel='prediction', ylabel='truth')
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(shown, ax=axes, shrink=0.8, pad=0.02)
    bar.set_label(f"% of the truth's {of}", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    plots.save(figure, directory / 'figures' / 'confusion.png')
    atomic.write_text(directory / CONFUSION, tables.comma_separated(
        ['truth / prediction', *classes],
        ([name, *row] for name, row in zip(classes, matrix.tolist(), strict=True))))
    return 'confusion'


def reliability(directory: str | Path, bins: np.ndarray) -> str:
    """Draws the share of the answers that is right, by how sure the network was of them, above how
    many these are: a reliability diagram.

    Args:
      bins: float [bins, 3], see classify.calibration.
    """
    from matplotlib.figure import Figure

    counts, confidence, accuracy = bins.T
    width, filled = 1 / len(bins), counts > 0
    left = width * np.arange(len(bins))
    figure = Figure(figsize=(4.6, 5.0), layout='constrained', dpi=200)
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    axes.bar(left, accuracy, width, align='edge', color='#7fb3d5', edgecolor='white')
    gaps = np.where(filled, confidence - accuracy, 0)
    axes.bar(left, gaps, width, accuracy, align='edge', color='#d98f6c55', edgecolor='#a8432b',
             linewidth=0.8, hatch='////')
    axes.plot([0, 1], [0, 1], '--', color='0.4', linewidth=1)
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel='share that is right')
    axes.set_title(f'expected calibration error {100 * classify.calibration_error(bins):.2f} %',
                   fontsize=10)
    below.bar(left, counts, width, align='edge', color='0.75', edgecolor='white')
    below.set(xlabel='probability of the answer', ylabel='images')
    for panel in (axes, below):
        panel.spines[['top', 'right']].set_visible(False)
        panel.tick_params(labelsize=8)
    plots.save(figure, Path(directory) / 'figures' / 'reliability.png')
    return 'reliability'


def precision_recall(directory: str | Path, precision: np.ndarray, classes: Sequence[str]) -> str:
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
    plots.save(figure, Path(directory) / 'figures' / 'precision_recall.png')
    return 'precision_recall'
