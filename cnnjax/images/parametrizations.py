"""What is optimized in place of the pixels, and what keeps an image in its range.

Mordvintsev et al. 2018, "Differentiable Image Parameterizations",
https://distill.pub/2018/differentiable-parameterizations, and its code,
https://github.com/tensorflow/lucid/tree/master/lucid/optvis/param. A parametrization changes which
images gradient descent finds first, not which images exist: Fourier coefficients over frequencies
as photographs have them, colours along the principal axes of photographs. lucid's image is
`sigmoid(decorrelated(fourier(shape), COLOR_MATRIX))`.

An image is float [H, W, C] in [0, 1]; its parameters theta are a pytree of real arrays, so that
every optimizer can work on them; float32, also where JAX_ENABLE_X64 is set, since the networks are.
Maps on images (`decorrelated`, `grayscale`, `sigmoid`, `masked`)
wrap a parametrization. Hard bounds, `clip` and `color_norm`, are projections theta -> theta for
`pixels`, to be applied after every step.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import ArrayLike

from cnnjax.data.augment import LUMA
from cnnjax.errors import UserError

# Columns: the principal axes of the colours of ImageNet's photographs, each as long as the standard
# deviation along it; the longest is 1. Values of lucid/optvis/param/color.py.
COLOR_MATRIX = np.array([[0.26, 0.09, 0.02],
                         [0.27, 0.00, -0.05],
                         [0.27, -0.09, 0.03]], np.float32)
COLOR_MATRIX /= np.linalg.norm(COLOR_MATRIX, axis=0).max()

HALF_A_LEVEL = 0.5 / 256  # rounds to the same 8-bit level: black stays black, white stays white


class Parametrization(NamedTuple):
    """Three pure functions of one image; `jax.vmap` makes batches of them."""

    init: Callable[[jax.Array], Any]  # random key -> theta
    decode: Callable[[Any], jax.Array]  # theta -> image [H, W, C]
    encode: Callable[[jax.Array], Any]  # image [H, W, C] -> theta; decode(theta) is the image


def pixels(shape: Sequence[int], deviation: float = 0.01,
           mean: ArrayLike = 0.0) -> Parametrization:
    """The image itself, [H, W, C]; it starts as Gaussian noise around `mean`.

    Give `mean` (0.5, or the network's mean: a number, [C] or [H, W, C]) where no `sigmoid` maps 0
    to gray.
    """
    shape = _shape(shape)
    mean = np.broadcast_to(np.asarray(mean, np.float32), shape)

    def init(key):
        return mean + deviation * jax.random.normal(key, shape, jnp.float32)

    return Parametrization(init, lambda theta: theta, lambda image: image)


def fourier(shape: Sequence[int], deviation: float = 0.01,
            decay: float = 1.0) -> Parametrization:
    """Fourier coefficients, divided by their frequency to the power `decay`.

    lucid's `fft_image`, with its scale sqrt(H * W) / 4; `deviation` is that of the coefficients.
    The lowest frequency counts as 1 / max(H, W). theta is [H, W // 2 + 1, C, 2]: real and imaginary
    parts. For odd W lucid has one more column and crops; here the inverse transform has W columns.
    """
    height, width, channels = _shape(shape)
    frequencies = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    scale = np.maximum(frequencies, 1 / max(height, width)) ** -decay * np.sqrt(height * width) / 4
    scale = scale.astype(np.float32)[..., None]

    def init(key):
        return deviation * jax.random.normal(key, (*frequencies.shape, channels, 2), jnp.float32)

    def decode(theta):
        spectrum = lax.complex(scale * theta[..., 0], scale * theta[..., 1])
        return jnp.fft.irfft2(spectrum, (height, width), axes=(0, 1))

    def encode(image):
        spectrum = jnp.fft.rfft2(image, axes=(0, 1))
        return jnp.stack([spectrum.real / scale, spectrum.imag / scale], -1)

    return Parametrization(init, decode, encode)


def laplacian(shape: Sequence[int], levels: int = 4,
              deviation: float = 0.01) -> Parametrization:
    """A sum of images of size 1, 1/2, 1/4, ... [H / 2^n, W / 2^n, C], enlarged bilinearly.

    lucid's `laplacian_pyramid_image`. `encode` makes the Laplacian pyramid of Burt & Adelson 1983:
    from the smallest level on, each holds what the smaller ones left over.
    """
    shape = height, width, channels = _shape(shape)
    if levels < 1 or min(height, width) >> (levels - 1) == 0:
        raise UserError(f'levels={levels}: an image of {height} x {width} has 1 to '
                        f'{min(height, width).bit_length()} levels, each half the one before')
    sizes = [(height >> level, width >> level, channels) for level in range(levels)]

    def init(key):
        return tuple(deviation * jax.random.normal(level_key, size, jnp.float32)
                     for level_key, size in zip(jax.random.split(key, levels), sizes, strict=True))

    def decode(theta) -> Any:
        return sum(jax.image.resize(level, shape, 'linear') for level in theta)

    def encode(image):
        theta = []
        for size in reversed(sizes):
            theta.append(jax.image.resize(image, size, 'linear'))
            image = image - jax.image.resize(theta[-1], shape, 'linear')
        return tuple(reversed(theta))

    return Parametrization(init, decode, encode)


def decorrelated(inner: Parametrization, matrix: ArrayLike) -> Parametrization:
    """The inner image's channels are coordinates along the principal axes of colour.

    Args:
      matrix: [C, C] with an inverse, one axis a column: `COLOR_MATRIX` or `color_matrix(images)`.
    """
    matrix = np.asarray(matrix, np.float64)
    channels = _image_shape(inner)[-1]
    if matrix.shape != (channels, channels):
        raise UserError(f'the colour matrix is {list(matrix.shape)}, the image has {channels} '
                        f'channel(s)')
    if np.linalg.matrix_rank(matrix) < channels:
        raise UserError('the colour matrix has no inverse: some colours could not be reached')

    def multiply(image, matrix):
        return jnp.matmul(image, np.float32(matrix.T), precision=lax.Precision.HIGHEST)

    inverse = np.linalg.inv(matrix)
    return Parametrization(inner.init,
                           lambda theta: multiply(inner.decode(theta), matrix),
                           lambda image: inner.encode(multiply(image, inverse)))


def color_matrix(images: Iterable[np.ndarray]) -> np.ndarray:
    """The matrix for `decorrelated` from your own images: a square root of their covariance.

    Args:
      images: [N, H, W, C] or a sequence of [H, W, C] of any sizes, uint8 or float.

    Returns:
      float32 [C, C]: the principal axes in falling order, the longest of length 1; [[1]] for
      images of one channel. Multiplied by white noise it gives the images' covariance, up to scale.
    """
    count, total, products = 0, 0.0, 0.0
    for image in images:
        if np.ndim(image) != 3:
            raise UserError(f'a colour matrix is computed from images [H, W, C], not '
                            f'{list(np.shape(image))}')
        colors = np.reshape(image, (-1, np.shape(image)[-1])).astype(np.float64)
        count += len(colors)
        total += colors.sum(0)
        products += colors.T @ colors
    if not count:
        raise UserError('a colour matrix is computed from images, none were given')
    mean = total / count
    covariance = products / count - np.outer(mean, mean)
    if not np.isfinite(covariance).all():
        raise UserError('the images for the colour matrix have values that are not finite')
    variances, axes = np.linalg.eigh(covariance)
    if variances[0] <= 1e-7 * max(variances[-1], np.max(mean ** 2)):
        raise UserError('the images have fewer independent colours than channels, so they have no '
                        'colour matrix: turn gray photographs stored in colour to one channel')
    # An axis may point either way; ours have a positive first component.
    axes = axes * np.where(axes[0] < 0, -1, 1) * np.sqrt(variances / variances[-1])
    return axes[:, ::-1].astype(np.float32)


def grayscale(inner: Parametrization) -> Parametrization:
    """Three equal channels from an inner image of one; `encode` keeps a picture's luminance."""
    channels = _image_shape(inner)[-1]
    if channels != 1:
        raise UserError(f'grayscale wraps an image of 1 channel, not {channels}')
    return Parametrization(inner.init,
                           lambda theta: jnp.repeat(inner.decode(theta), 3, -1),
                           lambda image: inner.encode(
                               (image * LUMA[None, None]).sum(-1, keepdims=True)))


def sigmoid(inner: Parametrization) -> Parametrization:
    """Bounds the inner image to [0, 1]; 0 becomes gray.

    `encode` first moves black and white half an 8-bit level inwards, from where they can change.
    """
    def encode(image):
        return inner.encode(jax.scipy.special.logit(
            jnp.clip(image, HALF_A_LEVEL, 1 - HALF_A_LEVEL)))

    return Parametrization(inner.init, lambda theta: jax.nn.sigmoid(inner.decode(theta)), encode)


def stack(inner: Parametrization, count: int) -> Parametrization:
    """`count` images, [count, H, W, C], that are optimized as one; each starts from its own key."""
    return Parametrization(lambda key: jax.vmap(inner.init)(jax.random.split(key, count)),
                           jax.vmap(inner.decode), jax.vmap(inner.encode))


def masked(inner: Parametrization, mask: ArrayLike, base: ArrayLike) -> Parametrization:
    """The inner image where `mask` [H, W] is 1, exactly `base` [H, W, C] where it is 0.

    Values in between blend. `encode` is the inner one: what the image had outside is forgotten.
    """
    mask, base = np.asarray(mask, np.float32)[..., None], np.asarray(base, np.float32)
    shape = _image_shape(inner)
    if base.shape != shape or mask.shape[:-1] != shape[:2]:
        raise UserError(f'mask {list(mask.shape[:-1])} and base {list(base.shape)} do not fit the '
                        f'image {list(shape)}')
    if not ((mask >= 0) & (mask <= 1)).all():
        raise UserError('the mask has values outside 0 to 1: divide an 8-bit mask by 255')

    def decode(theta):
        return jnp.where(mask > 0, mask * inner.decode(theta) + (1 - mask) * base, base)

    return Parametrization(inner.init, decode, inner.encode)


def clip() -> Callable[[jax.Array], jax.Array]:
    """The projection onto [0, 1], for `pixels`."""
    return lambda theta: jnp.clip(_pixels('clip', theta), 0, 1)


def color_norm(bound: float, mean: ArrayLike = 0.0) -> Callable[[jax.Array], jax.Array]:
    """The projection onto the ball of radius `bound` around `mean`, for the colour of each pixel.

    B+ of Mahendran & Vedaldi 2016, https://arxiv.org/abs/1512.02017: there 160 of 255
    (https://github.com/aravindhm/nnpreimage), so `color_norm(160 / 255, mean)` in our units.

    Args:
      bound: largest Euclidean norm of a pixel's colour less the mean, in units of the image.
      mean: the network's mean, a number, [C] or [H, W, C], in units of the image.
    """
    if not bound > 0:
        raise UserError(f'bound={bound}: the colour norm is bounded by a positive number')

    def project(theta):
        center = np.broadcast_to(np.asarray(mean, np.float32), _pixels('color_norm', theta).shape)
        color = theta - center
        norm = jnp.linalg.norm(color, axis=-1, keepdims=True)
        return jnp.where(norm > bound, center + color * (bound / jnp.maximum(norm, bound)), theta)

    return project


def _shape(shape):
    """The shape as a tuple of three positive ints."""
    if len(shape) != 3 or min(shape) < 1:
        raise UserError(f"an image's shape is (height, width, channels), not {tuple(shape)}")
    return tuple(map(int, shape))


def _image_shape(parametrization):
    """The shape of the images of a parametrization; computes none."""
    return jax.eval_shape(lambda key: parametrization.decode(parametrization.init(key)),
                          jax.random.key(0)).shape


def _pixels(name, theta):
    """theta, if it is an image."""
    if getattr(theta, 'ndim', None) != 3:
        raise UserError(f'{name} bounds the parameters of `pixels`; with others use `sigmoid`')
    return theta
