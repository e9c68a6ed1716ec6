"""Convolution flips the kernel, correlation does not; and what known kernels do to a photograph."""


import numpy as np
from scipy import ndimage, signal

from cnnjax import plots
from cnnjax.images import filters, pictures
from experiments.convolution import slides
from experiments.convolution.checks import correlate, equal

IMPULSE = np.zeros((5, 5))
IMPULSE[2, 2] = 1
COUNTED = np.arange(1.0, 10).reshape(3, 3)  # a kernel whose elements differ
SINGLE = 1e-5  # the tolerance of numbers in float32


def part(config, figures):
    """The rows of this part; draws flip.png and kernels.png."""
    picture = pictures.fitted(pictures.read(config.image), (config.size, config.size), 3)
    gray = np.float64(pictures.with_channels(picture, 1)[..., 0])
    kernel, small = square(config.kernel), gray[:12, :12]
    correlated, convolved = (_filtered(gray, kernel) for kernel in (kernel, np.flip(kernel)))
    draw(gray, kernel, correlated, convolved, figures / 'flip.png')
    rows = [
        equal('an impulse correlated with a kernel is the flipped kernel',
              correlate(IMPULSE, COUNTED, 1)[1:4, 1:4], np.flip(COUNTED), 'the kernel'),
        equal('an impulse convolved with a kernel is the kernel',
              correlate(IMPULSE, np.flip(COUNTED), 1)[1:4, 1:4], COUNTED, 'the kernel'),
        equal('convolution commutes, "full": f ∗ g = g ∗ f', correlate(small, np.flip(COUNTED), 2),
              signal.convolve2d(COUNTED, small), 'scipy.signal.convolve2d'),
        equal('correlation does not: f ⋆ g is g ⋆ f, flipped', correlate(small, COUNTED, 2),
              np.flip(signal.correlate2d(COUNTED, small)), 'scipy.signal.correlate2d'),
        equal('photograph, correlated', correlated, ndimage.correlate(
            gray, kernel, mode='nearest'), 'scipy.ndimage.correlate'),
        equal('photograph, convolved', convolved, ndimage.convolve(
            gray, kernel, mode='nearest'), 'scipy.ndimage.convolve'),
        equal('shift by 3 pixels, then correlate = correlate, then shift',
              correlate(gray[3:], kernel), correlate(gray, kernel)[3:], 'lax')]
    filtered, numbers = filters.kernels(picture)
    plots.gallery(filters.kernel_rows(picture, filtered), figures / 'kernels.png', 1.6,
                  f'{pictures.stem(config.image)}, correlated with '
                  'known kernels', filters.CORNER)
    return rows + [
        equal(f'kernel "{name}"', result, np.stack([
            _filtered(color, kernel) for color in np.moveaxis(np.float64(picture), -1, 0)], -1),
              'lax', SINGLE, numbers[name]) for name, (kernel, result) in filtered.items()]


def square(numbers):
    """The numbers of a kernel, row by row, as a square."""
    side = round(len(numbers) ** 0.5)
    return np.reshape(np.float64(numbers), (side, side))


def _filtered(gray, kernel):
    """A picture correlated by lax; its edge is repeated."""
    return np.asarray(correlate(np.pad(gray, len(kernel) // 2, 'edge'),
                                np.float64(kernel)))


def draw(gray, kernel, correlated, convolved, path):
    figure, axes = slides.slide('Convolution flips the kernel, correlation does not')
    lefts, side = (0.8, 3.8, 6.8, 10.0), 2.5
    headings = 'image', 'kernel', 'correlation', 'convolution'
    impulse = [IMPULSE, COUNTED, *(correlate(IMPULSE, values, 1)
                                   for values in (COUNTED, np.flip(COUNTED)))]
    colors = slides.INPUT, slides.KERNEL, slides.OUTPUT, slides.OUTPUT
    for left, heading, values, color in zip(lefts, headings, impulse, colors, strict=True):
        slides.say(axes, left + side / 2, 1.2, heading, 17, weight='bold')
        cell = side / 5
        inset = (5 - len(values)) * cell / 2
        slides.grid(axes, left + inset, 1.5 + inset, values, cell, color)
    slides.picture(axes, lefts[0], 4.4, side, gray)
    for left, result in zip(lefts[2:], (correlated, convolved), strict=True):
        slides.picture(axes, left, 4.4, side, filters.shown(result, kernel))
    cell = min(1.5 / len(kernel), 0.5)
    inset = (side - cell * len(kernel)) / 2
    slides.grid(axes, lefts[1] + inset, 4.4 + inset, kernel, cell, slides.KERNEL)
    slides.say(axes, slides.SIZE[0] / 2, 7.2, 'Networks compute the correlation. They learn their '
               'kernels, so a flip makes no difference.', 16)
    plots.save(figure, path)
