"""Max-pooling and average-pooling, and where their gradients go."""

import functools

import jax
import numpy as np
from jax import lax

from cnnjax import layers, plots
from experiments.convolution import slides
from experiments.convolution.checks import equal, gradients

EXAMPLE = np.array([[3.0, 4, 5, 6, 5, 4], [5, 4, 3, 3, 2, 1], [1, 3, 2, 4, 6, 2],
                  [3, 7, 8, 5, 1, 2], [0, 3, 7, 8, 1, 3], [2, 7, 8, 3, 4, 0]])
OUTSIDE = np.arange(1.0, 10).reshape(3, 3)  # the gradient with respect to the output
POOLS = {'max': layers.max_pool, 'average': layers.average_pool}


def part(config, figures):
    """The rows of this part; draws pooling.png."""
    windows = {(size, stride): sliding(EXAMPLE, size, stride) for size, stride in ((2, 2), (3, 1))}
    rows = []
    for (size, stride), seen in windows.items():
        what = f'{size} x {size}, stride {stride}'
        spatial = (size, size), (stride, stride), 'VALID'
        rows += [
            equal(f'max-pool {what}', pool('max', EXAMPLE, size, stride),
                  lax.reduce_window(EXAMPLE, -np.inf, lax.max, *spatial), 'lax.reduce_window'),
            equal(f'average-pool {what}', pool('average', EXAMPLE, size, stride),
                  lax.reduce_window(EXAMPLE, 0.0, lax.add, *spatial) / size ** 2,
                  'lax.reduce_window')]
        g = np.random.default_rng(config.seed).normal(size=seen.shape[:2])
        rows += [_compared(name, f'random, {what}', EXAMPLE, g, size, stride) for name in POOLS]
    ones = np.ones((2, 2))
    rows += [_compared('max', '2 x 2, stride 2', EXAMPLE, OUTSIDE, 2, 2),
             _compared('average', '3 x 3, stride 2', EXAMPLE[:5, :5], ones, 3, 2)]
    draw(figures / 'pooling.png')
    return rows


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def pool(name, x, size, stride):
    """A pool of our layers on one map [H, W]."""
    return POOLS[name](x[None, ..., None], size, stride)[0, ..., 0]


def sliding(x, size, stride):
    """The windows of x [H, W]: [H', W', size, size], views of x."""
    return np.lib.stride_tricks.sliding_window_view(x, (size, size), writeable=True)[
        ::stride, ::stride]


def gradient(name, x, g, size, stride):
    """The gradient by hand: all to the first of the largest, or the same share to every pixel."""
    found = np.zeros_like(x)
    for place in np.ndindex(g.shape):
        share = np.full((size, size), 1 / size ** 2)
        if name == 'max':
            share = np.zeros((size, size))
            share.flat[sliding(x, size, stride)[place].argmax()] = 1
        sliding(found, size, stride)[place] += g[place] * share
    return found


def _compared(name, what, x, g, size, stride):
    by_jax, = gradients(lambda x: pool(name, x, size, stride), (x,), g)
    return equal(f'gradient of the {name}-pool, {what}', gradient(name, x, g, size, stride),
                 by_jax, f'jax.vjp of layers.{name}_pool')


def draw(path):
    figure, axes = slides.slide('Pooling, and where its gradients go')
    cell, top = 0.4, 1.6
    tints = np.array(['#d6e4f2', '#eef4fa'], object)
    window = np.arange(6) // 2
    won = gradient('max', EXAMPLE, np.ones((3, 3)), 2, 2) > 0
    colors = np.where(won, slides.KERNEL, tints[np.add.outer(window, window) % 2])
    largest, means = (np.asarray(pool(name, EXAMPLE, 2, 2)) for name in ('max', 'average'))
    _titled(axes, 0.5, top, cell, 'input a', EXAMPLE, colors)
    _titled(axes, 3.75, top + 0.6, cell, 'max 2 x 2', largest, slides.KERNEL)
    _titled(axes, 5.45, top + 0.45, 0.5, 'average 2 x 2', means, slides.OUTPUT, 14)
    _titled(axes, 8.0, top + 0.6, cell, '∂L/∂z', OUTSIDE, slides.KERNEL)
    _titled(axes, 10.1, top, cell, '∂L/∂a of the max', gradient('max', EXAMPLE, OUTSIDE, 2, 2),
            colors)
    for left in (3.35, 9.65):
        slides.say(axes, left, top + 1.2, '→', 22)
    slides.say(axes, slides.SIZE[0] / 2, 4.32, 'Max: only the largest pixel of a window, '
               'the first of equals, gets a gradient.', 15)
    _draw_average(axes, 5.05)
    plots.save(figure, path)


def _draw_average(axes, top):
    """The average-pool of 3 x 3, two apart: pixels that several windows see get several shares."""
    cell = 0.44
    shares = 9 * gradient('average', EXAMPLE[:5, :5], np.ones((2, 2)), 3, 2)
    names = [[f'a{"₁₂₃₄₅"[i]}{"₁₂₃₄₅"[j]}' for j in range(5)] for i in range(5)]
    tones = {1: '#eef4fa', 2: '#c3d9ee', 4: '#7fb0dc'}
    colors = np.vectorize(tones.get, otypes=[object])(shares.round().astype(int))
    _titled(axes, 0.9, top, cell, 'windows 3 x 3, two apart', names, colors, 12)
    for (i, j), color in zip(((0, 0), (0, 2), (2, 0), (2, 2)), (
            slides.FIRST, slides.SECOND, slides.THIRD, slides.FOURTH), strict=True):
        slides.frame(axes, 0.9, top, cell, (i, j), 3, color, 0.02 + 0.01 * (i + j))
    _titled(axes, 4.4, top, cell, 'windows per pixel', shares, colors)
    for i, line in enumerate(('Average: every window gives 1/9 of its',
                              'gradient to each of its pixels.',
                              'a₁₁ gets it from one window: 1/9 ∂L/∂z₁₁', 'a₂₃ from two: '
                              '1/9 (∂L/∂z₁₁ + ∂L/∂z₁₂)', 'a₃₃ from all four')):
        slides.say(axes, 7.3, top + 0.2 + 0.42 * i, line, 15, 'left')


def _titled(axes, left, top, cell, name, values, color, size=None):
    slides.say(axes, left + len(values) * cell / 2, top - 0.25, name, 15, weight='bold')
    slides.grid(axes, left, top, values, cell, color, size)
