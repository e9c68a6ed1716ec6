"""Augmentation of examples with uint8 images, inside the compiled step."""

import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.data import geometry, policies
from cnnjax.data.crops import SIDE
from cnnjax.data.normalize import scaled
from cnnjax.errors import UserError
from cnnjax.limits import Number, Used, Whole

LIMITS = {
    'padding': Whole(0, SIDE // 4), 'crop_size': Whole(0, SIDE), 'scale': Number(0.01, 100),
    'rotation': Number(0, 180), 'elastic': Number(0, SIDE // 8), 'jitter': Number(0, below=0.5),
    'hue': Number(0, 0.5), 'saturation': Number(1, 100), 'exposure': Number(1, 100),
    'color': Number(0), 'color_jitter': Number(0, 1), 'auto_augment': ('', *policies.KINDS),
    'randaugment_operations': Whole(1, 16), 'randaugment_magnitude': Whole(0, policies.BINS - 1),
    'random_erasing': Number(0, 1), 'mixup': Number(0, 1000), 'cutmix': Number(0, 1000)}
USED = {'randaugment_operations': Used('auto_augment', ('randaugment',), 2),
        'randaugment_magnitude': Used('auto_augment', ('randaugment',), 9)}
# The fields of a config that `augment` takes.
FIELDS = ('flip', 'flip_vertical', 'padding', 'padding_mode', 'crop_size', 'scale', 'rotation',
          'elastic', 'jitter', 'color', 'color_jitter', 'hue', 'saturation', 'exposure',
          'auto_augment', 'randaugment_operations', 'randaugment_magnitude', 'random_erasing')
# Principal components of ImageNet's colours, for images in [0, 1]: Krizhevsky et al. 2012, section
# 4.1; the values of https://github.com/facebookarchive/fb.resnet.torch.
EIGENVALUES = np.array([0.2175, 0.0188, 0.0045], np.float32)
EIGENVECTORS = np.array([[-0.5675, 0.7192, 0.4009],
                         [-0.5808, -0.0045, -0.8140],
                         [-0.5836, -0.6948, 0.4203]], np.float32)
# The weights of red, green and blue in gray, ITU-R BT.601, as in Pillow's mode L.
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def augment(key: jax.Array, positions: jax.Array, examples: Mapping[str, jax.Array], *,
            normalize: Callable[[jax.Array], jax.Array], flip: bool = False,
            flip_vertical: bool = False, padding: int = 0, padding_mode: str = 'zero',
            crop_size: int = 0, scale: Sequence[float] = (1.0, 1.0), rotation: float = 0.0,
            elastic: float = 0.0, jitter: float = 0.0, color: float = 0.0,
            color_jitter: float = 0.0, hue: float = 0.0, saturation: float = 1.0,
            exposure: float = 1.0, auto_augment: str = '', randaugment_operations: int = 2,
            randaugment_magnitude: int = 9,
            random_erasing: float = 0.0) -> dict[str, jax.Array]:
    """Normalizes the images of a batch and changes each example at random, in the papers' order.

    The order is operations of a policy, colour, normalization, padding, crop, flips, erasing. Zeros
    are padded after the normalization, so they stand for the mean. Jitter, crop, scale, rotation
    and deformation are one warp, so that each pixel is interpolated once, and a turned crop shows
    what is beside it.

    What happens to an example depends on the key and its position alone: it is the same on any
    number of devices, and for sets on the devices and streams, whose host only cuts pictures of
    any size to the images that come here.

    Sequences [N, T, C] and volumes [N, D, H, W, C] are padded, cut and mirrored along their own
    axes; the other changes are for images (see ranks.py).

    Args:
      positions: int [N], the examples' places in the global batch, which seed what is random.
      examples: {'image': uint8 [N, H, W, C]} and the targets, which move with the image (see
        geometry.py).
      flip: mirror left to right with probability 1/2.
      flip_vertical: mirror upside down with probability 1/2.
      padding: pixels added on every side before a random crop.
      padding_mode: 'zero', 'reflect' or 'edge': what is outside the image, also after a warp.
      crop_size: the side of the random crop; 0: [H, W], which after padding is a translation.
      scale: the range of the factor by which things grow, which is log-uniform.
      rotation: the largest angle in degrees, in both directions.
      elastic: the standard deviation of U-Net's displacements, in pixels (see
        `geometry.displacement_field`).
      jitter: each border of the image moves in or out by at most this share of the side, and what
        it then holds is stretched to the image's size, as in YOLO (Redmon et al. 2015, section 2.2;
        https://arxiv.org/abs/1506.02640), where the authors' padding is 'edge'. Objects may be
        lost: see `geometry.warped`.
      color: each principal component of the colours is added in a random amount with this standard
        deviation (Krizhevsky et al. 2012, section 4.1: 0.1); RGB only.
      color_jitter: brightness, contrast and saturation are multiplied by random factors that differ
        from 1 by at most this; RGB or gray.
      hue, saturation, exposure: see `distorted`; RGB only.
      auto_augment: 'randaugment' or 'trivial', see `policies.changed`; RGB or gray.
      randaugment_operations, randaugment_magnitude: of 'randaugment'.
      random_erasing: the probability of a gray rectangle, see `erased`.

    Raises:
      UserError: an argument does not fit the images.
    """
    *size, channels = examples['image'].shape[1:]
    shape = (crop_size,) * len(size) if crop_size else tuple(size)
    room = [n + 2 * padding - m for n, m in zip(size, shape, strict=True)]
    warp = tuple(scale) != (1, 1) or rotation or elastic or jitter
    distort = hue or saturation != 1 or exposure != 1
    _check_geometry(tuple(size), shape, padding, padding_mode, scale, elastic)
    for field, value, off, allowed in (
            ('color', color, 0, (3,)), ('color_jitter', color_jitter, 0, (1, 3)),
            ('auto_augment', auto_augment, '', (1, 3)), ('hue', hue, 0, (3,)),
            ('saturation', saturation, 1, (3,)), ('exposure', exposure, 1, (3,))):
        if value != off and channels not in allowed:
            raise UserError(f'{field}={value} needs RGB{" or gray" * (1 in allowed)} images, not '
                            f'{channels} channel(s)')

    def one(position, example):
        color_key, crop_key, flip_key = jax.random.split(jax.random.fold_in(key, position), 3)
        image = example['image']
        if auto_augment:
            image = policies.changed(jax.random.fold_in(color_key, 2), image, auto_augment,
                                     randaugment_operations, randaugment_magnitude)
        image = scaled(image)
        if color_jitter:
            image = jittered(jax.random.fold_in(color_key, 0), image, color_jitter)
        if distort:
            image = distorted(jax.random.fold_in(color_key, 1), image, hue, saturation, exposure)
        if color:
            draws = color * jax.random.normal(color_key, (3,), np.float32)
            image += (EIGENVECTORS @ (EIGENVALUES * draws))[None, None]
        example = {**example, 'image': normalize(image)}
        if warp or any(room):
            corner = jax.random.randint(crop_key, (len(room),), 0, np.array(room) + 1)
            if warp:
                draws = _warp(jax.random.fold_in(crop_key, 0), scale, rotation, elastic)
                if jitter:
                    draws['part'] = _part(jax.random.fold_in(crop_key, 1), size, jitter)
                example = geometry.warped(example, corner - padding, shape, padding_mode, **draws)
            else:
                example = geometry.cropped(example, corner, shape, padding, padding_mode)
        if flip:
            example = geometry.mirrored(example, jax.random.bernoulli(flip_key), len(size) - 1)
        if flip_vertical:
            upside_down = jax.random.bernoulli(jax.random.fold_in(flip_key, 0))
            example = geometry.mirrored(example, upside_down, len(size) - 2)
        if random_erasing:
            keys = jax.random.split(jax.random.fold_in(flip_key, 1))
            image = erased(keys[0], example['image'])
            erase = jax.random.bernoulli(keys[1], random_erasing)
            example = {**example, 'image': jnp.where(erase, image, example['image'])}
        if 'frame' in example:  # A network looks for objects only on the image.
            most = np.array([*shape[::-1]] * 2, np.float32)
            example = {**example, 'frame': jnp.clip(example['frame'], 0, most)}
        return example

    return jax.vmap(one)(positions, examples)


def _check_geometry(image, shape, padding, padding_mode, scale, elastic):
    """Raises UserError if these arguments of `augment` do not fit images of that (height, width);
    `shape` is that of the result."""
    size = ' x '.join(map(str, image))
    if padding_mode not in geometry.MODES:
        raise UserError(f"padding_mode is 'zero', 'reflect' or 'edge', not '{padding_mode}'")
    if padding >= min(image):
        by = ' by reflection' if padding_mode == 'reflect' else ''
        raise UserError(f'padding={padding}{by} needs larger images than {size}')
    if max(shape) > min(image) + 2 * padding and shape != image:
        raise UserError(f'crop_size={shape[0]} is cut from images of {size} with padding='
                        f'{padding}: take a smaller crop or more padding')
    if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
        raise UserError(f'scale={scale} is no range: two positive numbers, the smaller one first')
    if elastic > min(shape) / 8:
        raise UserError(f'elastic={elastic} would fold images of {shape[0]} x {shape[1]}: take at '
                        f'most an eighth of their side, {min(shape) / 8:g}')


def _warp(key, scale, rotation, elastic):
    """A random scale, angle and displacements, for `geometry.warped`."""
    keys = jax.random.split(key, 3)
    return {'scale': jnp.exp(jax.random.uniform(keys[0], (), np.float32, *np.log(scale))),
            'angle': math.radians(rotation) * jax.random.uniform(keys[1], (), np.float32, -1, 1),
            'displacements': elastic * jax.random.normal(keys[2], (3, 3, 2), np.float32)}


def _part(key, shape, jitter):
    """A random part of an image of that (height, width), float32 [4], for `geometry.warped`."""
    height, width = shape
    borders = np.array([0, 0, width, height], np.float32)
    moves = jax.random.uniform(key, (4,), np.float32, -jitter, jitter)
    return borders + np.array([width, height] * 2, np.float32) * moves


def distorted(key: jax.Array, image: jax.Array, hue: float, saturation: float,
              exposure: float) -> jax.Array:
    """An RGB image [H, W, 3] whose hue is turned by a share of the circle from -hue to hue, and
    whose saturation and value, as in HSV, are multiplied by a factor from 1 to `saturation` or to
    `exposure`, or divided by it, with equal chances; clipped to [0, 1].

    This is `random_distort_image` of https://github.com/pjreddie/darknet, src/image.c.
    """
    keys = jax.random.split(key, 3)
    turn = jax.random.uniform(keys[0], (), np.float32, -hue, hue)
    factors = jax.random.uniform(keys[1], (2,), np.float32, 1,
                                 np.array([saturation, exposure], np.float32))
    factors = jnp.where(jax.random.bernoulli(keys[2], shape=(2,)), factors, 1 / factors)
    red, green, blue = jnp.moveaxis(image, -1, 0)
    value = image.max(-1)
    spread = value - image.min(-1)  # value times saturation
    safe = jnp.where(spread > 0, spread, 1)
    sixths = jnp.where((red >= green) & (red >= blue), (green - blue) / safe, jnp.where(
        green >= blue, 2 + (blue - red) / safe, 4 + (red - green) / safe))

    def channel(offset):
        """https://en.wikipedia.org/wiki/HSL_and_HSV#HSV_to_RGB_alternative"""
        place = (offset + sixths + 6 * turn) % 6
        share = jnp.clip(jnp.minimum(place, 4 - place), 0, 1)
        return factors[1] * (value - factors[0] * spread * share)

    return jnp.clip(jnp.stack([channel(offset) for offset in (5, 3, 1)], -1), 0, 1)


def jittered(key: jax.Array, image: jax.Array, most: float) -> jax.Array:
    """An RGB image [H, W, 3] whose brightness, contrast and saturation are multiplied by factors
    from 1 - most to 1 + most, not clipped; of a gray image [H, W, 1], which has no saturation, the
    first two.

    This is `ColorJitter` of https://github.com/facebookarchive/fb.resnet.torch, without its random
    order, which does not change the result.
    """
    brightness, contrast, saturation = jax.random.uniform(
        key, (3,), np.float32, 1 - most, 1 + most)
    gray = image
    if image.shape[-1] == 3:
        gray = (image @ LUMA)[..., None]
        image = saturation * image + (1 - saturation) * gray
    return brightness * (contrast * image + (1 - contrast) * gray.mean())


def erased(key: jax.Array, image: jax.Array) -> jax.Array:
    """A normalized image [H, W, C] with a random rectangle of zeros, the mean: 2 to 33 % of the
    area, with sides in ratios from 0.3 to 3.3, anywhere inside (Zhong et al. 2017, https://
    arxiv.org/abs/1708.04896). As in torchvision's RandomErasing, the first of ten rectangles that
    is smaller than the image is taken; without one, the image stays as it is."""
    height, width, _ = image.shape
    keys = jax.random.split(key, 3)
    area = height * width * jax.random.uniform(keys[0], (10,), np.float32, 0.02, 0.33)
    ratio = jnp.exp(jax.random.uniform(keys[1], (10,), np.float32, *np.log([0.3, 3.3])))
    sides = jnp.round(jnp.sqrt(jnp.stack([area * ratio, area / ratio], -1))).astype(np.int32)
    whole = np.array([height, width], np.int32)
    fits = (sides < whole[None]).all(-1)
    rows, columns = side = sides[fits.argmax()]
    top, left = jax.random.randint(keys[2], (2,), 0, whole - side + 1, np.int32)
    y, x = np.ogrid[:whole[0], :whole[1]]
    inside = (top <= y) & (y < top + rows) & (left <= x) & (x < left + columns)
    return jnp.where((inside & fits.any())[..., None], 0, image)
