"""Figures of a run, as PNG files."""

import itertools
import math
from pathlib import Path


def curves(rows, path, title=''):
    """Draws loss, error and learning rate against the epoch, from the rows of metrics.jsonl."""
    from matplotlib import ticker  # here: half a second that a short run need not pay
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), layout='constrained', dpi=150)
    losses, errors = figure.subplots(1, 2)

    def line(axes, name, scale=1.0, **style):
        points = [(row['epoch'], scale * row[name]) for row in rows if name in row]
        if points:
            axes.plot(*zip(*points, strict=True), **style)

    train, test = {'color': '0.6', 'linewidth': 1.2}, {'color': 'tab:blue', 'linewidth': 1.8}
    line(losses, 'train/loss', label='train', **train)
    line(losses, 'test/loss', label='test', **test)
    line(errors, 'train/error', 100, label='train', **train)
    line(errors, 'test/error', 100, label='test', **test)
    columns = sorted({name for row in rows for name in row
                      if name.startswith('test/column') and name.endswith('/error')})
    for i, name in enumerate(columns, 1):  # C0 is the whole network's colour
        line(errors, name, 100, label=name.split('/')[1], linewidth=1.0, color=f'C{i}')
    losses.set_yscale('log')
    errors.set_yscale('symlog', linthresh=1, linscale=0.5)  # an error may well be 0
    errors.set_ylim(0, 100)
    errors.yaxis.set_major_locator(ticker.FixedLocator([0, 1, 2, 5, 10, 20, 50, 100]))
    errors.yaxis.set_major_formatter('{x:g}')
    for axes, label in ((losses, 'loss'), (errors, 'error (%)')):
        axes.set(xlabel='epoch', ylabel=label)
        axes.grid(alpha=0.25, which='both')
        axes.spines[['top', 'right']].set_visible(False)
        axes.legend(frameon=False)
    rate = losses.twinx()
    line(rate, 'learning_rate', color='tab:orange', linewidth=1.0, linestyle=':')
    highest = max(row['learning_rate'] for row in rows)
    rate.set(ylabel='learning rate (dotted)', yscale='log', ylim=(highest * 1e-4, highest * 2))
    rate.spines[['top']].set_visible(False)
    figure.suptitle(title)
    _save(figure, path)


def descent(rows, path):
    """Draws the loss of optimized images and its terms against the step, from metrics.jsonl."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout='constrained', dpi=150)
    axes = figure.subplots()
    terms = dict.fromkeys(name for row in rows for name in row
                          if name not in ('step', 'stage', 'gradient'))
    for name in terms if len(terms) > 2 else ('loss',):  # a single term is the loss
        points = [(row['step'], row.get(name, math.nan)) for row in rows]
        style = {'color': 'black', 'linewidth': 1.6} if name == 'loss' else {'linewidth': 1.0}
        axes.plot(*zip(*points, strict=True), label=name, **style)
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
    _save(figure, path)


def inversions(path, names, images, reconstructions, errors):
    """Draws images and, by depth, what layers know of them.

    Args:
      names: of the N images.
      images: [N, H, W, C] in [0, 1].
      reconstructions: {layer: [N, H, W, C]}, in forward order.
      errors: {layer: [N]}, written below them.
    """
    from matplotlib.figure import Figure

    shown, columns = min(len(images), 8), 9  # beyond that a figure is no longer read
    layers = list(reconstructions)
    parts = [layers[i:i + columns - 1] for i in range(0, len(layers), columns - 1)]
    width = 1 + max(map(len, parts))
    height, side = images.shape[1] / images.shape[2], 1.35
    figure = Figure(figsize=(side * width, (side * height + 0.13) * shown * len(parts)
                             + 0.14 * len(parts)), layout='constrained', dpi=200)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
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
    _save(figure, path)


def pictures(rows, path):
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
    _save(figure, path)


def _save(figure, path):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
