"""What a gradient on an image goes through before a step: optax transformations of [H, W, C]."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnnjax.images.parametrizations import COLOR_MATRIX, laplacian


def smooth(steps: int, least: float) -> optax.GradientTransformation:
    """The mean of three Gaussian filters of the gradient, less its mean.

    Their standard deviations are 1/2, 1 and 2 times a value that grows in `steps` steps from about
    `least` to 2 + `least` pixels (https://github.com/gordicaleksa/pytorch-deepdream).
    """
    def update(updates, state, params=None):
        sigma = 2 * (state + 1) / steps + least
        kernel: Any = 0
        for factor in (0.5, 1, 2):
            line = jnp.exp(-((jnp.arange(-4, 5) / (factor * sigma)) ** 2) / 2)
            line /= line.sum()
            kernel += jnp.outer(line, line) / 3
        mirrored = jnp.pad(updates, ((4, 4), (4, 4), (0, 0)), 'reflect')
        filtered = jax.vmap(lambda channel: jax.scipy.signal.convolve2d(channel, kernel, 'valid'),
                            -1, -1)(mirrored)
        return filtered - filtered.mean(), state + 1

    return optax.GradientTransformation(lambda params: jnp.int32(0), update)


def bands(count: int) -> optax.GradientTransformation:
    """Divides each of the `count` finest bands of the gradient by its root mean square, so that
    fine and coarse structures grow alike, and leaves out what is coarser, which would flood large
    areas with a colour.

    The bands are levels of the Laplacian pyramid of `parametrizations.laplacian`, with details of
    about 1, 2, 4, ... pixels; a small image has fewer. The normalization is `lap_normalize` of
    Mordvintsev 2016, which keeps the coarsest level, too:
    https://github.com/tensorflow/tensorflow/blob/v1/tensorflow/examples/tutorials/deepdream/deepdream.ipynb
    """
    def normalize(gradient):
        levels = min(count + 1, min(gradient.shape[:2]).bit_length())
        pyramid = laplacian(gradient.shape, levels)
        *fine, coarsest = pyramid.encode(gradient)
        sizes = [jnp.sqrt((band ** 2).mean()) for band in fine]
        fine = [band / jnp.where(size > 0, size, 1)
                for band, size in zip(fine, sizes, strict=True)]
        return pyramid.decode((*fine, jnp.zeros_like(coarsest)))

    return optax.stateless(lambda updates, params: normalize(updates))


def natural_colors() -> optax.GradientTransformation:
    """Turns the gradient by the pixels' colours into the direction of steepest ascent in lucid's
    decorrelated colours: along each principal axis of the colours of photographs it is multiplied
    by their variance, which makes brightness change most (Olah et al. 2017, section
    'Preconditioning and Parameterization', https://distill.pub/2017/feature-visualization).

    An image of another number of channels than three keeps its gradient.
    """
    covariance: np.ndarray = np.asarray(COLOR_MATRIX @ COLOR_MATRIX.T, np.float32)

    def multiply(gradient):
        if gradient.shape[-1] != len(covariance):
            return gradient
        return jnp.matmul(gradient, covariance, precision=jax.lax.Precision.HIGHEST)

    return optax.stateless(lambda updates, params: multiply(updates))
