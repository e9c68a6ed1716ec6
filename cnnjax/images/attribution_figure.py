"""The figure of attribution maps: a row for each image, a column for each method, the deletion and
insertion scores under each map, and bars that explain the colours."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, NamedTuple

import numpy as np

from cnnjax import plots
from cnnjax.charts import short

# A map's quantile that is drawn as its largest value, whatever the peaks.
BRIGHT = 0.995
SIGNED = ('integrated gradients', 'occlusion')  # for and against the class
FINE = ('gradient', 'SmoothGrad', 'random')  # as many values as pixels, and none below 0
BARS = {  # {colormap: the meaning of its colours}
    'gray': 'share of the largest value: importance for the class, of either sign',
    'turbo': 'share of the largest value (RISE: 0 is its smallest): evidence for the class',
    'RdBu_r': 'share of the largest absolute value: blue against the class, red for it'}
NOTE = ('deletion: area under the probability of the class shown, while pixels are deleted, the '
        'most important first; lower is better.\n'
        'insertion: the same, while they are inserted into the blurred image; higher is better. '
        'Bold: the best of a row. A map must beat the random one.')
SIDE, GAP, LINE = 1.3, 0.09, 0.15  # inches: an image, between images, a line of text


class Row(NamedTuple):
    """An image with its maps [H, W] and their scores, by method."""

    image: np.ndarray  # [H, W, C] in [0, 1]
    shown: str  # the class that the maps are of
    probability: float
    truth: str | None  # None: not known
    maps: Mapping[str, np.ndarray]
    deletion: Mapping[str, float]
    insertion: Mapping[str, float]


def colored(method: str, values: np.ndarray, image: np.ndarray) -> np.ndarray:
    """A map [H, W] as a picture. In maps with a sign red speaks for the class, blue against it, and
    white is 0. Those of few positions lie on the image."""
    from matplotlib import colormaps

    if method in SIGNED:
        largest = np.quantile(np.abs(values), BRIGHT) or 1
        return colormaps['RdBu_r'](np.clip(0.5 + values / (2 * largest), 0, 1))[..., :3]
    low = values.min() if method == 'RISE' else 0  # The mean of probabilities is far above 0.
    values = np.clip((values - low) / (np.quantile(values - low, BRIGHT) or 1), 0, 1)
    if method in FINE:
        return values
    gray = image.mean(-1, keepdims=True)
    return 0.45 * gray + 0.55 * colormaps['turbo'](values)[..., :3]


def draw(rows: Sequence[Row], path: str | PathLike[str], about: str) -> None:
    """Draws the rows, all of the same methods; `about` says of which network and data they are."""
    from matplotlib.figure import Figure

    methods = list(rows[0].maps)
    height = SIDE * rows[0].image.shape[0] / rows[0].image.shape[1]
    step = height + 4 * LINE + 2 * GAP
    top, mean, bottom = 1.05, (3 * LINE if len(rows) > 1 else 0), 1.3
    size = (len(methods) + 1) * (SIDE + GAP) + GAP, top + len(rows) * step + mean + bottom
    figure = Figure(figsize=size, dpi=200)

    def text(column, down, words, size_in_points=8.5, **style):
        """Writes a line centred on a column, so many inches below the figure's upper edge."""
        figure.text((GAP + column * (SIDE + GAP) + SIDE / 2) / size[0], 1 - down / size[1], words,
                    ha='center', va='baseline', fontsize=size_in_points, **style)

    figure.text(GAP / size[0], 1 - 0.1 / size[1], 'Where the network sees the class', va='top',
                fontsize=15, weight='bold')
    figure.text(GAP / size[0], 1 - 0.4 / size[1], about, va='top', fontsize=10, color='0.3')
    for column, name in enumerate(['image', *methods]):
        *upper, lower = name.rsplit(maxsplit=1)  # 'integrated gradients' takes two lines.
        text(column, top - 0.08, lower, 10, weight='bold')
        text(column, top - 0.08 - LINE, ' '.join(upper), 10, weight='bold')
    for i, row in enumerate(rows):
        below = top + i * step + height
        for column, picture in enumerate([row.image, *(
                colored(method, row.maps[method], row.image) for method in methods)]):
            axes = figure.add_axes(((GAP + column * (SIDE + GAP)) / size[0], 1 - below / size[1],
                                    SIDE / size[0], height / size[1]))
            axes.imshow(picture.squeeze(-1) if picture.shape[-1] == 1 else picture, 'gray', vmin=0,
                        vmax=1, interpolation='nearest')
            axes.set_axis_off()
        _classes(text, below, row)
        _scores(text, below, methods, row.deletion, row.insertion)
    if len(rows) > 1:
        below = top + len(rows) * step
        text(0, below + LINE, f'mean of {len(rows)} images', weight='bold')
        _scores(text, below, methods, *({method: float(np.mean(
            [getattr(row, name)[method] for row in rows])) for method in methods}
            for name in ('deletion', 'insertion')))
    _bars(figure, size, methods)
    plots.save(figure, path)


def _classes(text, below, row):
    """Prints the class shown and the true one, red where it is another."""
    truth = 'black' if row.truth in (None, row.shown) else 'tab:red'
    for line, (words, color) in enumerate((
            (f'class shown ({row.probability:.0%}):', '0.4'), (short(row.shown), 'black'),
            ('true class:', '0.4'), (short(row.truth or 'not known'), truth)), 1):
        text(0, below + line * LINE, words, color=color)


def _scores(text, below, methods, deletion, insertion):
    for line, (name, scores, best) in enumerate((('deletion', deletion, min),
                                                 ('insertion', insertion, max)), 1):
        printed = [f'{scores[method]:.2f}' for method in methods]
        for column, score in enumerate(printed, 1):
            text(column, below + line * LINE, f'{name} {score}',
                 weight='bold' if score == best(printed, key=float) else 'normal')


def _bars(figure, size, methods):
    """Draws a bar for each kind of colours, with the methods that have it, and the note."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    kinds = {colormap: [method for method in methods if _colormap(method) == colormap]
             for colormap in BARS}
    kinds = {colormap: own for colormap, own in kinds.items() if own}
    width = size[0] / len(kinds)
    for i, (colormap, own) in enumerate(kinds.items()):
        axes = figure.add_axes(((i + 0.08) * width / size[0], 1.05 / size[1],
                                0.84 * width / size[0], 0.1 / size[1]))
        least = -1 if colormap == 'RdBu_r' else 0
        bar: Any = figure.colorbar(ScalarMappable(Normalize(least, 1), colormap), cax=axes,
                                   orientation='horizontal', ticks=np.linspace(least, 1, 5))
        bar.ax.tick_params(labelsize=8, length=2, pad=1)
        bar.set_label(f'{BARS[colormap]}\n({", ".join(own)})', fontsize=8, labelpad=2)
    figure.text(GAP / size[0], 0.06 / size[1], NOTE, va='bottom', fontsize=9, color='0.3')


def _colormap(method):
    return 'RdBu_r' if method in SIGNED else 'gray' if method in FINE else 'turbo'
