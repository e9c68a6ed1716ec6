"""Random changes of an image that a visualization should survive: jitter, mirroring, scale,
rotation, padding.

Olah et al. 2017, "Feature Visualization", https://distill.pub/2017/feature-visualization, section
'Transformation robustness'; https://github.com/tensorflow/lucid, lucid/optvis/transform.py.

A transform is a pure function (key, image [H, W, C]) -> image, differentiable, whose output shape
depends on the input's shape alone. `jax.vmap` over keys and images gives each image its own draw.
Each is the identity at zero: `jitter(0)`, `pad(0)`, `scale([1])`, `rotate([0])`.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates

from cnnjax.errors import UserError

Transform = Callable[[jax.Array, jax.Array], jax.Array]


def jitter(pixels: int, mode: str = 'roll') -> Transform:
    """Moves the image by a random whole number of pixels down and right.

    Args:
      pixels: for 'roll', both moves are uniform from -pixels to pixels, both included, and what
        leaves the image comes back on the other side (google's DeepDream). For 'crop', a random
        crop that is smaller than the image by `pixels` in height and width (lucid).
    """
    _check_pixels('jitter', pixels)
    if mode not in ('roll', 'crop'):
        raise UserError(f"jitter's mode is 'roll' or 'crop', not '{mode}'")

    def roll(key, image):
        _check_smaller('jitter', pixels, image)
        return jnp.roll(image, jax.random.randint(key, (2,), -pixels, pixels + 1), (0, 1))

    def crop(key, image):
        _check_smaller('jitter', pixels, image)
        height, width, channels = image.shape
        corner = jax.random.randint(key, (2,), 0, pixels + 1)
        return jax.lax.dynamic_slice(image, (*corner, 0),
                                     (height - pixels, width - pixels, channels))

    return roll if mode == 'roll' else crop


def pad(pixels: int, mode: str = 'constant', value: float = 0.5) -> Transform:
    """Adds a border on all four sides; not random.

    Args:
      mode: 'constant', a border of `value` (gray in an image from 0 to 1), or 'reflect'.
    """
    _check_pixels('pad', pixels)
    if mode not in ('constant', 'reflect'):
        raise UserError(f"pad's mode is 'constant' or 'reflect', not '{mode}'")
    sides = ((pixels, pixels), (pixels, pixels), (0, 0))

    def add(key, image):
        if mode == 'constant':
            return jnp.pad(image, sides, constant_values=value)
        _check_smaller('pad', pixels, image)
        return jnp.pad(image, sides, 'reflect')

    return add


def scale(factors: float | Sequence[float], fill: float = 0.5) -> Transform:
    """Enlarges the image about its centre by one of `factors`, drawn uniformly; bilinear.

    The shape stays: an enlarged image is cropped, a reduced one surrounded by `fill`. (lucid's has
    a shape that changes, which no compiled program can have.) Samples are points, not averages, as
    in lucid: below 1/2 pixels are skipped, so reduce that far in several steps.
    """
    choices = _choices('scale', 'factors', factors)
    if not (choices > 0).all():
        raise UserError(f"scale's factors are positive, not {choices.min():g}")

    def resize(key, image):
        factor = jax.random.choice(key, choices)
        size = jnp.asarray(image.shape[:2], image.dtype)
        return fill + jax.image.scale_and_translate(
            image - fill, image.shape, (0, 1), jnp.stack([factor, factor]),
            (1 - factor) * size / 2, 'linear', antialias=False)

    return resize


def rotate(degrees: float | Sequence[float], fill: float = 0.5) -> Transform:
    """Turns the image about its centre, anticlockwise, by one of `degrees`, drawn uniformly.

    Bilinear; the shape stays, and corners from outside the image are `fill` (black in lucid).
    """
    choices = _choices('rotate', 'degrees', degrees)

    def turn(key, image):
        angle = jnp.deg2rad(jax.random.choice(key, choices))
        cosine, sine = jnp.cos(angle), jnp.sin(angle)
        middle = [(size - 1) / 2 for size in image.shape[:2]]
        down, right = (jnp.arange(size, dtype=image.dtype) - center
                       for size, center in zip(image.shape[:2], middle, strict=True))
        down, right = down[:, None], right[None]
        source = [middle[0] + cosine * down + sine * right,
                  middle[1] - sine * down + cosine * right]
        return jax.vmap(lambda channel: map_coordinates(channel, source, 1, cval=fill),
                        -1, -1)(image)

    return turn


def flip() -> Transform:
    """Mirrors the image left to right with probability 1/2."""
    def mirror(key, image):
        return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)

    return mirror


def turn() -> Transform:
    """Turns the image by 0, 90, 180 or 270 degrees, drawn uniformly; no pixel is interpolated.

    The shape stays. A square image is turned as it is. Another one that lies on its side is
    repeated periodically, as `jitter` does, and the window of the shape is at a random place, so
    that every pixel is seen equally often on average.
    """
    def quarters(key, image):
        count, place = jax.random.split(key)
        number, (height, width) = jax.random.randint(count, (), 0, 4), image.shape[:2]
        if height == width:
            sides = [lambda image, n=n: jnp.rot90(image, n) for n in (1, 3)]
        else:
            # The turned image has `width` rows and `height` columns.
            down, right = jax.random.randint(place, (2,), 0, jnp.array([width, height]))
            rows = (down + jnp.arange(height)) % width
            columns = (right + jnp.arange(width)) % height
            sides = [lambda image, n=n: jnp.rot90(image, n)[rows][:, columns] for n in (1, 3)]
        return jax.lax.switch(number, [lambda image: image, sides[0],
                                       lambda image: jnp.rot90(image, 2), sides[1]], image)

    return quarters


def compose(*transforms: Transform) -> Transform:
    """One after the other, each with its own key; the identity if there are none."""
    def apply(key, image):
        for transform_key, transform in zip(jax.random.split(key, len(transforms)), transforms,
                                            strict=True):
            image = transform(transform_key, image)
        return image

    return apply


def each(transform: Transform) -> Transform:
    """Draws the transform anew for every image of a stack [K, H, W, C]."""
    return lambda key, images: jax.vmap(transform)(jax.random.split(key, len(images)), images)


def _check_pixels(name, pixels):
    if not isinstance(pixels, (int, np.integer)) or pixels < 0:
        raise UserError(f'{name} takes a whole number of pixels, 0 or more, not {pixels!r}')


def _check_smaller(name, pixels, image):
    if pixels >= min(image.shape[:2]):
        raise UserError(f'{name} by {pixels} pixels needs an image larger than that, not '
                        f'{image.shape[0]} x {image.shape[1]}')


def _choices(name, argument, values):
    """The values as float32 [N]."""
    values = np.atleast_1d(np.asarray(values, np.float32))
    if not values.size or values.ndim != 1 or not np.isfinite(values).all():
        raise UserError(f"{name}'s {argument} are one or more finite numbers, not {values}")
    return values


SCALES, DEGREES = [1 + step / 50 for step in range(-5, 6)], [*range(-10, 11), *5 * [0]]


def robust(pixels: int) -> Transform:
    """lucid's standard transforms with the image's shape kept: it moves by up to `pixels` on gray,
    is scaled by 0.9 to 1.1 and turned by up to 10 degrees."""
    return compose(pad(pixels), scale(SCALES), rotate(DEGREES), jitter(2 * pixels, 'crop'))


def moved(pixels: int) -> Transform:
    """Moves an image on gray by up to `pixels` in each direction."""
    return compose(pad(pixels), jitter(2 * pixels, 'crop'))


# lucid's standard_transforms. The output has 12 pixels more than the image in height and width.
LUCID = compose(pad(12), jitter(8, 'crop'), scale(SCALES), rotate(DEGREES), jitter(4, 'crop'))
