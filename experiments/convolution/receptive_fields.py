"""How receptive fields grow, layer by layer; and what small and separable kernels save."""

import itertools
import math

import jax
import numpy as np
from jax import lax

from cnnjax import layers, plots, toeplitz
from experiments.convolution import slides
from experiments.convolution.checks import correlate, equal, gradients

INPUTS = 15
NETWORKS = {  # layers of (kernel, stride, dilation)
    'three layers of 3': ((3, 1, 1),) * 3,
    'strides 2': ((3, 2, 1),) * 3,
    'dilations 1, 2, 4': ((3, 1, 1), (3, 1, 2), (3, 1, 4))}
CHANNELS, FEATURES = 6, 8  # of the convolutions of two dimensions here


def part(config, figures):
    """The rows of this part; draws receptive_fields.png."""
    draw(figures / 'receptive_fields.png')
    return [*(_grown(name, network) for name, network in NETWORKS.items()),
            *_two_of_three(), *_separable(np.random.default_rng(config.seed))]


def size(network):
    """1 + the sum of (kernel - 1) * dilation * all strides before."""
    before = itertools.accumulate((stride for _, stride, _ in network), int.__mul__, initial=1)
    return 1 + sum((kernel - 1) * dilation * step
                   for (kernel, _, dilation), step in zip(network, before, strict=False))


def matrices(network):
    """The matrix of each layer, of ones: which units see which."""
    found, inputs = [], INPUTS
    for kernel, stride, dilation in network:
        found.append(toeplitz.matrix(np.ones(kernel), (inputs,), 0, stride, dilation))
        inputs = len(found[-1])
    return found


def _grown(name, network):
    """The size by the formula, and how many inputs have a gradient."""
    def unit(x):
        for kernel, stride, dilation in network:
            x = correlate(x, np.ones(kernel), 0, stride, dilation)
        return x[len(x) // 2]

    seen, = gradients(unit, (np.ones(INPUTS),), np.float64(1))
    return equal(f'receptive field, {name}', size(network), np.count_nonzero(seen),
                 'inputs with a gradient, jax.vjp')


def _two_of_three():
    """Two kernels of 3 x 3 see as much as one of 5 x 5, with fewer weights."""
    def weights(side):
        conv = layers.conv(CHANNELS, side, use_bias=False)
        return conv.init(jax.random.key(0), np.ones((1, 5, 5, CHANNELS)))['params']['kernel'].size

    return [
        equal('two layers of 3 x 3 see as much as', size(((3, 1, 1),) * 2), 5, '5 x 5'),
        equal('their weights / those of 5 x 5', 2 * weights(3) / weights(5), 18 / 25, '18 / 25')]


def _separable(rng):
    """1x1 and depthwise separable convolutions are special convolutions."""
    x = rng.normal(size=(1, 7, 8, CHANNELS))
    depthwise = rng.normal(size=(3, 3, 1, CHANNELS))
    pointwise = rng.normal(size=(1, 1, CHANNELS, FEATURES))
    whole = depthwise.transpose(0, 1, 3, 2) * pointwise
    separate = _convolve(_convolve(x, depthwise, CHANNELS), pointwise)
    positions = math.prod(separate.shape[1:3])
    cost = positions * (depthwise.size + pointwise.size), positions * whole.size
    return [
        equal('1x1 convolution = a full layer at every pixel', x @ pointwise[0, 0],
              _convolve(x, pointwise), 'lax'),
        equal('depthwise, then 1x1 = one convolution with the product of the kernels', separate,
              _convolve(x, whole), 'lax'),
        equal(f'their multiply-adds / those of the one, N = {FEATURES}, k = 3', cost[0] / cost[1],
              1 / FEATURES + 1 / 9, '1 / N + 1 / k²')]


def _convolve(x, kernel, groups=1):
    return lax.conv_general_dilated(x, kernel, (1, 1), 'VALID', feature_group_count=groups,
                                    dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def draw(path):
    figure, axes = slides.slide('A unit of a deeper layer sees more of the input')
    for i, (name, network) in enumerate(NETWORKS.items()):
        _draw_network(axes, 0.55 + 4.25 * i, name, network)
    slides.say(axes, slides.SIZE[0] / 2, 6.9, 'receptive field = 1 + Σ (kernel − 1) · dilation · '
               '(product of the strides before)', 18)
    plots.save(figure, path)


def _draw_network(axes, left, name, network):
    """The units of all layers, from the input at the bottom, and what the middle one sees."""
    slides.say(axes, left + 1.9, 1.35, name, 18, weight='bold')
    slides.say(axes, left + 1.9, 1.8, f'sees {size(network)} of {INPUTS} inputs', 16)
    layers = matrices(network)
    places, heights = [np.arange(INPUTS)], 5.9 - 1.15 * np.arange(len(network) + 1)
    for matrix in layers:  # A unit stands above the middle of what it sees.
        places.append((matrix @ places[-1]) / matrix.sum(1))
    seen = [np.arange(len(layers[-1])) == len(layers[-1]) // 2]
    for matrix in layers[::-1]:
        seen.insert(0, seen[0] @ matrix > 0)
    x = [left + at * 3.8 / (INPUTS - 1) for at in places]
    for layer, matrix in enumerate(layers):
        for above, below in np.argwhere(matrix):
            used = seen[layer + 1][above]
            axes.plot([x[layer][below], x[layer + 1][above]], heights[[layer, layer + 1]],
                      color=slides.FIRST if used else '0.8', linewidth=1.8 if used else 0.8,
                      zorder=1 + used)
    for layer, (at, height) in enumerate(zip(x, heights, strict=True)):
        axes.scatter(at, np.full(len(at), height), 90, [
            slides.KERNEL if used else 'white' for used in seen[layer]], zorder=4, linewidths=1.3,
            edgecolors=[slides.FIRST if used else '0.6' for used in seen[layer]])
