"""How large the output of a convolution is, by the formula and by lax."""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax import convolution, plots, toeplitz
from experiments.convolution import slides
from experiments.convolution.checks import correlate, equal

EDGE = np.tile([1.0, 0.0, -1.0], (3, 1))  # It finds vertical edges.
HALF = np.tile([1.0, 1, 1, 0, 0, 0], (6, 1))


class Setting(NamedTuple):
    """An image and how the kernel moves over it."""

    name: str
    image: np.ndarray
    padding: int = 0
    stride: int = 1
    dilation: int = 1


SETTINGS = (
    Setting('valid: no padding', HALF), Setting('stride 2', HALF, stride=2),
    Setting('dilation 2', HALF, dilation=2),
    Setting('same: padding 1', np.tile([1.0, 1, -1, -1], (4, 1)), 1),
    Setting('full: padding 2', np.tile([1.0, 1, -1], (3, 1)), 2),
    Setting('padding 1, stride 2', HALF[:5, :5], 1, 2))
# (what, shape of the input, layers of (size, stride, padding, features))
CHAINS = (
    ('RGB image', (512, 512, 3), ((3, 2, 1, 16), (1, 1, 0, 8))),
    ('volume', (14, 14, 14, 1), ((5, 1, 0, 16), (5, 1, 0, 32))))


CELL, LETTERS = 0.31, 9.5  # the side of a cell, in inches, and its letters, in points
SWEEP = {'n': range(4, 7), 'kernel': range(1, 4), 'padding': range(3), 'stride': range(1, 4),
         'dilation': range(1, 4)}


def part(config, figures):
    """The rows of this part; draws sizes.png."""
    outputs = [correlate(setting.image, EDGE, *setting[2:]) for setting in SETTINGS]
    rows = [equal(f'{_sides(setting.image)} image with edge filter, {setting.name}', output,
                  _by_matrix(setting), 'product with a matrix')
            for setting, output in zip(SETTINGS, outputs, strict=True)]
    draw(outputs, figures / 'sizes.png')
    return rows + [_chain(*chain) for chain in CHAINS] + [_sweep()]


def _sides(image):
    return ' x '.join(map(str, image.shape))


def _by_matrix(setting):
    """The output by the formula's size and the matrix of the convolution."""
    shape = [convolution.output_size(n, len(EDGE), *setting[2:]) for n in setting.image.shape]
    matrix = toeplitz.matrix(EDGE, setting.image.shape, *setting[2:])
    return (matrix @ setting.image.ravel()).reshape(shape)


def _chain(what, shape, layers):
    """The sizes of a network of convolutions, by the formula and by the shapes of lax."""
    x, shapes, expected = jax.ShapeDtypeStruct((1, *shape), 'float32'), [shape], [shape]
    for size, stride, padding, features in layers:
        axes = len(shape) - 1
        spatial = 'DHW'[-axes:]
        kernel = jax.ShapeDtypeStruct((size,) * axes + (x.shape[-1], features), 'float32')
        x = jax.eval_shape(functools.partial(
            lax.conv_general_dilated, window_strides=(stride,) * axes,
            padding=[(padding, padding)] * axes,
            dimension_numbers=(f'N{spatial}C', f'{spatial}IO', f'N{spatial}C')), x, kernel)
        expected.append(x.shape[1:])
        shapes.append((*(convolution.output_size(n, size, padding, stride)
                         for n in shapes[-1][:-1]), features))
    return equal(f'sizes of the {what}', np.array(shapes), np.array(expected), 'shapes of lax',
                 shown=' → '.join(' x '.join(map(str, shape)) for shape in shapes))


def _sweep():
    """The formula beside lax, in all settings where the kernel fits."""
    settings = [(n, f, p, s, d) for n, f, p, s, d in itertools.product(*SWEEP.values())
                if n + 2 * p > d * (f - 1)]
    found = [convolution.output_size(*setting) for setting in settings]
    expected = [jax.eval_shape(
        lambda x, kernel, setting=(p, s, d): correlate(x, kernel, *setting),
        jnp.zeros(n), jnp.zeros(f)).size for n, f, p, s, d in settings]
    ranges = ', '.join(f'{name} {min(values)} ... {max(values)}' for name, values in SWEEP.items())
    return equal(f'the formula: {ranges}', found, expected, 'shapes of lax',
                 shown=f'{len(settings)} sizes')


def draw(outputs, path):
    figure, axes = slides.slide('Size of the output = ⌊(n + 2p − (f − 1) d − 1) / s⌋ + 1')
    slides.say(axes, slides.SIZE[0] / 2, 1.0,
               'n pixels, padding p, kernel of f, dilation d, stride s', 17)
    slides.say(axes, 8.3, 2.95, 'kernel', 15)
    slides.grid(axes, 8.3 - 1.5 * CELL, 3.15, EDGE, CELL, slides.KERNEL, LETTERS)
    for i, (setting, output) in enumerate(zip(SETTINGS, outputs, strict=True)):
        left, top = (0.5, 4.7, 9.3)[i % 3], (2.1, 5.1)[i // 3]
        _draw_setting(axes, left, top, setting, output)
    plots.save(figure, path)


def _draw_setting(axes, left, top, setting, output, cell=CELL):
    name, image, p, s, d = setting
    n, f = len(image), len(EDGE)
    colors = np.full((n + 2 * p,) * 2, slides.PADDING, object)
    colors[p:p + n, p:p + n] = slides.INPUT
    colors[:f * d:d, :f * d:d] = slides.KERNEL
    span = (f - 1) * d + 1
    slides.say(axes, left, top - 0.55, name, 17, 'left', weight='bold')
    slides.say(axes, left, top - 0.2, f'⌊({n} + {2 * p} − {(f - 1) * d} − 1) / {s}⌋ + 1 = '
               f'{len(output)}', 14, 'left')
    slides.grid(axes, left, top, np.pad(image, p), cell, colors, LETTERS)
    right = left + len(colors) * cell + 0.5
    slides.grid(axes, right, top, output, cell, slides.OUTPUT, LETTERS)
    slides.say(axes, right - 0.25, top + cell * 1.5, '→', 20)
    for color, place, inset in ((slides.SECOND, 1, 0.025), (slides.FIRST, 0, -0.015)):
        slides.frame(axes, left, top, cell, (0, place * s), span, color, inset)
        slides.frame(axes, right, top, cell, (0, place), 1, color, 0.01)
