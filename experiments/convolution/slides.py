"""Slides of a lecture: figures of 16:9 on which everything has its place in inches, from the top
left corner, and grids of numbers in cells."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE = 40 / 3, 7.5  # width and height in inches
INK = '0.15'
INPUT, KERNEL, OUTPUT, PADDING = '#d6e4f2', '#fbdfc3', '#d5ebd0', 'white'  # colours of grids
FIRST, SECOND, THIRD, FOURTH = '#c1272d', '#00667a', '#3f9b3f', '#d98f00'  # colours of frames


def slide(title: str) -> tuple['Figure', 'Axes']:
    """A figure with a title, and axes over all of it whose lengths are inches."""
    from matplotlib.figure import Figure  # here, because the import takes half a second

    figure = Figure(figsize=SIZE, dpi=120)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, SIZE[0]), ylim=(SIZE[1], 0))
    axes.set_axis_off()
    say(axes, SIZE[0] / 2, 0.5, title, 25, weight='bold')
    return figure, axes


def say(axes: 'Axes', x: float, y: float, text: str, size: float = 16, align: str = 'center',
        color: str = INK, **options: Any) -> None:
    """A text around, or to the right or left of, a place; y is its middle."""
    axes.text(x, y, text, fontsize=size, ha=align, va='center', color=color, **options)


def plot(figure: 'Figure', left: float, top: float, width: float, height: float) -> 'Axes':
    """New axes for a diagram in a part of the slide."""
    axes = figure.add_axes((left / SIZE[0], 1 - (top + height) / SIZE[1],
                            width / SIZE[0], height / SIZE[1]))
    axes.tick_params(labelsize=13)
    axes.spines[['top', 'right']].set_visible(False)
    return axes


def grid(axes: 'Axes', left: float, top: float, values: Any, cell: float, color: Any,
         size: float | None = None) -> None:
    """Draws numbers, or texts, in cells.

    Args:
      values: [rows, columns]; None, or an empty text, leaves a cell without one.
      cell: the side of a cell, in inches.
      color: that of all cells, or [rows, columns] of colours, or [rows, columns, 4].
      size: the size of the font; default: what fits the cells.
    """
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Rectangle

    values = np.asarray(values, object)
    colors = color if np.ndim(color) == 3 else np.broadcast_to(np.asarray(color, object),
                                                                values.shape)
    texts = [[number(value) for value in row] for row in values]
    longest = max(len(text) for row in texts for text in row)
    size = size or min(36 * cell, 20) * min(1, 2.6 / longest)
    for i, j in np.ndindex(values.shape):
        x, y = left + j * cell, top + i * cell
        axes.add_patch(Rectangle((x, y), cell, cell, facecolor=colors[i, j], edgecolor='0.55',
                                 linewidth=0.8))
        dark = sum(to_rgb(colors[i, j])) < 1.2
        axes.text(x + cell / 2, y + cell / 2, texts[i][j], fontsize=size, ha='center',
                  va='center_baseline', color='white' if dark else INK)


def number(value: Any) -> str:
    """A number with the sign of minus, not the hyphen; a text as it is, and None as nothing."""
    if value is None or isinstance(value, str):
        return value or ''
    return f'{value:.4g}'.replace('-', '−')


def frame(axes: 'Axes', left: float, top: float, cell: float, place: tuple[int, int],
          size: int | tuple[int, int], color: str, inset: float = 0.0) -> None:
    """Frames `size` cells of a grid, from the one at `place`."""
    from matplotlib.patches import Rectangle

    rows, columns = np.broadcast_to(size, 2)
    axes.add_patch(Rectangle(
        (left + place[1] * cell + inset, top + place[0] * cell + inset),
        columns * cell - 2 * inset, rows * cell - 2 * inset, fill=False, edgecolor=color,
        linewidth=3.2, joinstyle='round', zorder=3))


def signed(values: np.ndarray) -> np.ndarray:
    """Colours [..., 4] of numbers: red below 0, blue above."""
    from matplotlib import colormaps

    return colormaps['RdBu'](0.5 + 0.4 * values / np.abs(values).max(initial=1e-12))


def picture(axes: 'Axes', left: float, top: float, width: float, image: np.ndarray) -> None:
    """Draws a gray picture [H, W] or one of colours [H, W, 3], in [0, 1]."""
    height = width * image.shape[0] / image.shape[1]
    axes.imshow(image, 'gray', vmin=0, vmax=1, extent=(left, left + width, top + height, top),
                aspect='auto', interpolation='antialiased')
