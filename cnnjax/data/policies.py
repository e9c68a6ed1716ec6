"""Random operations on whole images: RandAugment (Cubuk et al. 2019, https://arxiv.org/abs/
1909.13719) and TrivialAugment (Müller & Hutter 2021, https://arxiv.org/abs/2103.10158).

Operations, magnitudes and their ranges are those of torchvision's RandAugment and
TrivialAugmentWide, and each operation gives what it gives with Pillow, within one level of 255.
Images are turned and moved with bilinear interpolation, and black around, as in torchvision's
training recipes.

A compiled step cannot branch for each example, so all examples would go through all operations.
Instead every operation is one of three: a change of places (an affine map, looked up once), of
levels (a table of 256 for each channel), or a mixture with a smooth or gray image. An example goes
through these three, of which two leave it as it is.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.ndimage import map_coordinates

BINS = 31  # magnitudes are 0, 1, ..., 30
#                 names in Pillow's terms     RandAugment  TrivialAugment  either sign
RANGES = {
    'identity':                              (0,           0,              False),
    'shear_x':                               (0.3,         0.99,           True),
    'shear_y':                               (0.3,         0.99,           True),
    'translate_x':                           (150 / 331,   32,             True),
    'translate_y':                           (150 / 331,   32,             True),
    'rotate':                                (30,          135,            True),
    'brightness':                            (0.9,         0.99,           True),
    'color':                                 (0.9,         0.99,           True),
    'contrast':                              (0.9,         0.99,           True),
    'sharpness':                             (0.9,         0.99,           True),
    'posterize':                             (4,           6,              False),
    'solarize':                              (255,         255,            False),
    'autocontrast':                          (0,           0,              False),
    'equalize':                              (0,           0,              False),
}  # RandAugment's translations are shares of the side, TrivialAugment's are pixels.
OPERATIONS = tuple(RANGES)
KINDS = ('randaugment', 'trivial')
PLACES = OPERATIONS[1:6]
LEVELS = ('identity', 'brightness', 'contrast', 'posterize', 'solarize', 'autocontrast', 'equalize')


def changed(key: jax.Array, image: jax.Array, kind: str, operations: int = 2,
            magnitude: int = 9) -> jax.Array:
    """The image, uint8 [H, W, C], after random operations: float32 with whole numbers to 255.

    Args:
      kind: 'randaugment', which does `operations` of the same `magnitude`, 0 to 30; or 'trivial',
        which does one, of a random magnitude.
    """
    table = magnitudes(kind, image.shape)
    signed = np.array([sign for *_, sign in RANGES.values()])

    def one(i, image):
        keys = jax.random.split(jax.random.fold_in(key, i), 3)
        operation = jax.random.randint(keys[0], (), 0, len(OPERATIONS))
        place = magnitude if kind == 'randaugment' else jax.random.randint(keys[1], (), 0, BINS)
        strength = jnp.asarray(table)[operation, place]
        opposite = jnp.asarray(signed)[operation] & jax.random.bernoulli(keys[2])
        return operated(image, operation, jnp.where(opposite, -strength, strength))

    count = operations if kind == 'randaugment' else 1
    return lax.fori_loop(0, count, one, image.astype(np.float32))


def magnitudes(kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """Float32 [OPERATIONS, BINS]: what each magnitude means for images of that shape: slopes,
    pixels, degrees, changes of a factor, the bits that are kept, the level from which to invert."""
    share = np.arange(BINS) / (BINS - 1)
    table = {name: most[KINDS.index(kind)] * share for name, most in RANGES.items()}
    if kind == 'randaugment':
        table['translate_x'] = table['translate_x'] * shape[1]
        table['translate_y'] = table['translate_y'] * shape[0]
    table['posterize'] = 8 - np.round(table['posterize'])
    table['solarize'] = 255 - table['solarize']
    return np.stack([table[name] for name in OPERATIONS]).astype(np.float32)


def operated(image: jax.Array, operation: jax.Array | int, magnitude: jax.Array) -> jax.Array:
    """The image [H, W, C], whole numbers to 255, after the operation with that place in OPERATIONS,
    of a magnitude as in `magnitudes`. Both may be traced."""
    # Two of the three change nothing, so their order is free; this one is the fastest on a CPU.
    image = _looked_up(image, _levels(image.astype(np.int32), operation, magnitude))
    return _moved(_mixed(image, operation, magnitude), operation, magnitude)


def _is(operation, *names):
    return jnp.isin(operation, np.array([OPERATIONS.index(name) for name in names]))


def _moved(image, operation, magnitude):
    """The image sheared, moved or turned."""
    height, width, _ = image.shape
    shear_x, shear_y, right, down, turn = (
        jnp.where(_is(operation, name), magnitude, 0) for name in PLACES)
    angle = turn * np.float32(np.pi / 180)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    # Places are the middles of pixels; images are sheared about their corner, turned about their
    # middle, and moved by whole pixels.
    y, x = np.indices((height, width), np.float32) + np.float32(0.5)
    middle_y, middle_x = np.float32(height / 2), np.float32(width / 2)
    from_y = middle_y + sin * (x - middle_x) + cos * (y - middle_y) + shear_y * x - jnp.trunc(down)
    from_x = middle_x + cos * (x - middle_x) - sin * (y - middle_y) + shear_x * y - jnp.trunc(right)
    inside = (from_y >= 0) & (from_y < height) & (from_x >= 0) & (from_x < width)
    found = jax.vmap(lambda channel: map_coordinates(
        channel, (from_y - 0.5, from_x - 0.5), 1, 'nearest'), -1, -1)(image)
    return jnp.where(inside[..., None], jnp.round(found), 0)


def _levels(image, operation, magnitude):
    """What each level of each channel of an int32 image becomes, [C, 256]."""
    height, width, channels = image.shape
    levels = np.broadcast_to(np.arange(256, dtype=np.int32), (channels, 256))
    low, high = (jnp.broadcast_to(extreme((0, 1))[:, None], levels.shape)
                 for extreme in (image.min, image.max))
    offsets = 256 * np.arange(channels, dtype=np.int32)[None, None]
    counts = jnp.zeros(levels.size, np.int32).at[image + offsets].add(1).reshape(levels.shape)
    below = counts.cumsum(1) - counts
    step = (height * width - jnp.take_along_axis(counts, high[:, :1], 1)) // 255
    spread = jnp.maximum(high - low, 1)
    dropped = 8 - jnp.where(_is(operation, 'posterize'), magnitude, 8).astype(np.int32)
    bits = jnp.left_shift(np.int32(1), dropped)
    mean = jnp.floor(_gray(image).astype(np.float32).mean() + 0.5)
    tables = {
        'identity': levels,
        'brightness': _blend(np.zeros_like(levels), levels, magnitude),
        'contrast': _blend(mean, levels, magnitude),
        'posterize': levels // bits * bits,
        'solarize': jnp.where(levels.astype(np.float32) < magnitude, levels, 255 - levels),
        'autocontrast': jnp.where(high > low, (levels - low) * 255 // spread, levels),
        'equalize': jnp.where(step > 0, (step // 2 + below) // jnp.maximum(step, 1), levels)}
    chosen = levels.astype(np.float32)
    for name in LEVELS[1:]:
        chosen = jnp.where(_is(operation, name), tables[name].astype(np.float32), chosen)
    return jnp.clip(chosen, 0, 255)


def _looked_up(image, table):
    flat = image.reshape(-1, image.shape[-1]).astype(np.int32)
    return jnp.take_along_axis(table.T, flat, 0, mode='clip').reshape(image.shape)


def _mixed(image, operation, magnitude):
    """The image mixed with its grays, or with a smooth image, by the factor 1 + magnitude."""
    whole = image.astype(np.int32)
    height, width, _ = image.shape
    smooth = whole
    if min(height, width) > 2:  # The outermost pixels stay as they are.
        parts = sum(whole[i:height - 2 + i, j:width - 2 + j] for i in range(3) for j in range(3))
        smooth = whole.at[1:-1, 1:-1].set((2 * (parts + 4 * whole[1:-1, 1:-1]) + 13) // 26)
    other = jnp.where(_is(operation, 'sharpness'), smooth, _gray(whole)[..., None])
    return jnp.where(_is(operation, 'color', 'sharpness'), _blend(other, whole, magnitude), image)


def _blend(other, own, magnitude):
    """Pillow's ImageEnhance: other + (1 + magnitude) * (own - other), without its fraction."""
    other, own = other.astype(np.float32), own.astype(np.float32)
    return jnp.floor(jnp.clip(other + (1 + magnitude) * (own - other), 0, 255))


def _gray(image):
    """An int32 image in Pillow's mode L, [H, W]."""
    if image.shape[-1] == 1:
        return image[..., 0]
    red, green, blue = jnp.moveaxis(image, -1, 0)
    return (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
