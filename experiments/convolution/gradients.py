"""The gradients of a convolution, with respect to its input and its kernel, are correlations."""

import numpy as np
from jax import lax
from scipy import signal

from cnnjax import plots, toeplitz
from experiments.convolution import slides
from experiments.convolution.checks import correlate, equal, gradients
from experiments.convolution.pooling import EXAMPLE
from experiments.convolution.sizes import EDGE

IMAGE, STRIDE = EXAMPLE[:5, :5], 2
OUTSIDE = np.array([[1.0, 2], [3, 4]])  # the gradient with respect to the output
# (shape of the input, side of the kernel, padding, stride, dilation); some last pixels are unseen.
RANDOM = (((9,), 3, 0, 1, 1), ((10,), 3, 1, 2, 1), ((7, 8), 3, 1, 1, 1), ((7, 8), 3, 1, 2, 1),
          ((9, 10), 3, 2, 3, 2), ((5, 6, 7), 2, 1, 2, 1))


def part(config, figures):
    """The rows of this part; draws gradients.png."""
    kernel = kernel_gradient(IMAGE, OUTSIDE, len(EDGE), stride=STRIDE)
    inputs = input_gradient(OUTSIDE, EDGE, IMAGE.shape, stride=STRIDE)
    rng = np.random.default_rng(config.seed)
    rows = _compared('f = 3, s = 2', IMAGE, EDGE, OUTSIDE, (0, STRIDE, 1))
    for shape, size, *setting in RANDOM:
        x, weights = rng.normal(size=shape), rng.normal(size=(size,) * len(shape))
        g = rng.normal(size=correlate(x, weights, *setting).shape)
        rows += _compared(f'random {len(shape)}-D, p = {setting[0]}, s = {setting[1]}, '
                          f'd = {setting[2]}', x, weights, g, setting)
    transposed = lax.conv_transpose(OUTSIDE[None, None], EDGE[None, None], (STRIDE,) * 2, 'VALID',
                                    dimension_numbers=('NCHW', 'OIHW', 'NCHW'),
                                    transpose_kernel=True)[0, 0]
    rows.append(equal('the input gradient is the transposed convolution', inputs, transposed,
                      'lax.conv_transpose'))
    draw(kernel, inputs, max(row.difference for row in rows), figures / 'gradients.png')
    return rows


def kernel_gradient(x, g, size, padding=0, stride=1, dilation=1):
    """The input correlated with the output's gradient, with stride - 1 zeros between."""
    spread = with_zeros(g, stride)
    seen = tuple(slice(n + dilation * (size - 1)) for n in spread.shape)
    return signal.correlate(np.pad(x, padding)[seen], spread, 'valid', 'direct')[
        (slice(None, None, dilation),) * x.ndim]


def input_gradient(g, kernel, shape, padding=0, stride=1, dilation=1):
    """The output's gradient, with stride - 1 zeros between, in full correlation with the flipped
    kernel. Pixels after the last position get nothing."""
    found = signal.correlate(with_zeros(g, stride), np.flip(with_zeros(kernel, dilation)), 'full',
                             'direct')
    whole = np.pad(found, [(0, max(0, n + 2 * padding - m))
                           for n, m in zip(shape, found.shape, strict=True)])
    return whole[tuple(slice(padding, padding + n) for n in shape)]


def with_zeros(array, step):
    """The array with step - 1 zeros between neighbours along each axis."""
    spread = np.zeros([(n - 1) * step + 1 for n in array.shape])
    spread[(slice(None, None, step),) * array.ndim] = array
    return spread


def _compared(what, x, kernel, g, setting):
    """Both gradients beside those of JAX, and the transposed matrix."""
    by_jax = gradients(lambda x, kernel: correlate(x, kernel, *setting), (x, kernel), g)
    inputs = input_gradient(g, kernel, x.shape, *setting)
    matrix = toeplitz.matrix(kernel, x.shape, *setting)
    return [equal(f'input gradient, {what}', inputs, by_jax[0], 'jax.vjp'),
            equal(f'... by the transposed matrix, {what}', (matrix.T @ g.ravel()).reshape(x.shape),
                  by_jax[0], 'jax.vjp'),
            equal(f'kernel gradient, {what}', kernel_gradient(x, g, len(kernel), *setting),
                  by_jax[1], 'jax.vjp')]


def draw(kernel, inputs, difference, path):
    figure, axes = slides.slide('Both gradients of a convolution are correlations')
    cell, spread = 0.37, with_zeros(OUTSIDE, STRIDE)
    image = np.full(IMAGE.shape, slides.INPUT, object)
    image[::STRIDE, ::STRIDE][:2, :2] = '#f4b6b0'  # what the first element of the kernel sees
    _equation(axes, 0.7, 1.2, cell, 'forward, stride 2', [
        ('a', IMAGE, slides.INPUT), ('w', EDGE, slides.KERNEL),
        ('z', np.asarray(correlate(IMAGE, EDGE, 0, STRIDE)), slides.OUTPUT)])
    left = _equation(axes, 7.3, 1.2, cell, 'gradient with respect to w', [
        ('a', IMAGE, image), ('∂L/∂z,\nzeros between', spread, slides.OUTPUT),
        ('∂L/∂w', kernel, slides.KERNEL)])
    slides.frame(axes, 7.3, 1.95, cell, (0, 0), 3, slides.FIRST)
    slides.frame(axes, left, 1.95 + cell, cell, (0, 0), 1, slides.FIRST)
    left = _equation(axes, 0.7, 4.15, 0.355, 'gradient with respect to a', [
        ('∂L/∂z, zeros between and around', np.pad(spread, 2), np.pad(
            np.full(spread.shape, slides.OUTPUT, object), 2, constant_values=slides.PADDING)),
        ('w flipped', np.flip(EDGE), slides.KERNEL), ('∂L/∂a', inputs, slides.INPUT)])
    slides.frame(axes, 0.7, 4.9, 0.355, (2, 2), 3, slides.FIRST)
    slides.frame(axes, left, 4.9 + 0.355, 0.355, (2, 2), 1, slides.FIRST)
    for i, line in enumerate((
            'Both are those of jax.vjp,', 'also for random inputs of 1 to 3 axes:',
            f'they differ by {difference:.0e} at most.', '',
            'The gradient of the input is the', 'transposed convolution: the product',
            'with the transposed matrix.')):
        slides.say(axes, 8.2, 4.85 + 0.36 * i, line, 16, 'left')
    plots.save(figure, path)


def _equation(axes, left, top, cell, heading, terms):
    """Draws 'A ⋆ B = C', with grids for A, B and C, and returns where C begins."""
    slides.say(axes, left, top, heading, 17, 'left', weight='bold')
    most = max(len(values) for _, values, _ in terms)
    for sign, (name, values, color) in zip(('', '⋆', '='), terms, strict=True):
        if sign:
            slides.say(axes, left - 0.25, top + 0.75 + most * cell / 2, sign, 30)
        inset = (most - len(values)) * cell / 2
        slides.say(axes, left + len(values) * cell / 2, top + 0.5 + inset, name, 14)
        slides.grid(axes, left, top + 0.75 + inset, values, cell, color)
        start, left = left, left + len(values) * cell + 0.5
    return start
