"""Normalization: makes of images the numbers that a network sees."""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.data import whitening
from cnnjax.errors import UserError


class Normalization(NamedTuple):
    """Makes images a network's input: (image in [0, 1] - mean) / std. With a matrix for whitening,
    images are normalized in contrast first and whitened last (see whitening.py). Sequences [T, C]
    and volumes [D, H, W, C] are normalized in the same way; floats are taken as they are."""

    mean: np.ndarray  # float32 [C] or, of each pixel, [H, W, C]
    std: np.ndarray  # float32 [C] or [1]
    whitening: np.ndarray | None = None  # float32 [D, D], D = H * W * C; then mean is [H, W, C]

    def __call__(self, images: jax.Array | np.ndarray) -> Any:
        """uint8 or [0, 1] float images [..., H, W, C] -> normalized float32."""
        images = scaled(images)
        mean, std = (jnp.expand_dims(values, range(images.ndim - values.ndim))
                     for values in (self.mean, self.std))
        if self.whitening is None:
            return (images - mean) / std
        flat = (whitening.contrast_normalized(images) - mean).reshape(*images.shape[:-3], -1)
        # At their usual precision, accelerators round the factors to 10 bits or fewer.
        return jnp.matmul(flat, self.whitening, precision='highest').reshape(images.shape) / std

    def inverse(self, images: jax.Array | np.ndarray) -> Any:
        """Normalized images [N, H, W, C] as they were, in [0, 1].

        Raises:
          UserError: they are whitened, and their contrast is lost.
        """
        self.check_pointwise('to undo a normalization')
        std, mean = (values.reshape((1,) * (images.ndim - values.ndim) + values.shape)
                     for values in (self.std, self.fitting(images.shape[1:]).mean))
        return images * std + mean

    def undone(self, images: np.ndarray) -> np.ndarray:
        """Normalized images [N, H, W, C] as pictures, uint8. Whitened ones, whose contrast is
        lost, are shown as they are: gray is 0, and the largest number black or white."""
        if self.whitening is not None:
            largest = np.abs(images).max((-3, -2, -1), keepdims=True)
            return np.round(127.5 + 127.5 * images / np.maximum(largest, 1e-6)).astype(np.uint8)
        return np.round(255 * np.clip(self.inverse(images), 0, 1)).astype(np.uint8)

    def fitting(self, image_shape: Sequence[int]) -> 'Normalization':
        """The same for images [H, W, C] of that shape: a mean image of another size is replaced by
        its mean colour.

        Raises:
          UserError: they are whitened and have another size.
        """
        if self.mean.ndim < 2 or self.mean.shape[:-1] == tuple(image_shape[:-1]):
            return self
        self.check_pointwise(f'images of {" x ".join(map(str, image_shape[:-1]))} pixels')
        return self._replace(mean=self.color)

    @property
    def color(self) -> np.ndarray:
        """Float32 [C], the colour of which the input is 0, on average over the pixels; gray for
        whitened images, where a flat image of any colour is about 0."""
        if self.whitening is not None:
            return np.full(self.mean.shape[-1:], 0.5, np.float32)
        return self.mean.mean(tuple(range(self.mean.ndim - 1)))

    def check_pointwise(self, what: str) -> None:
        """Raises UserError, for `what` needs it, unless each pixel is normalized on its own."""
        if self.whitening is not None:
            height, width, _ = self.mean.shape
            raise UserError(f'{what}: the network was trained on whitened images, and takes whole '
                            f'images of {height} x {width} pixels only')

    def fits(self, image_shape: Sequence[int]) -> bool:
        """Whether images of the shape [H, W, C] can be normalized by it."""
        if self.whitening is not None and (
                self.mean.shape != tuple(image_shape)
                or self.whitening.shape != (math.prod(image_shape),) * 2):
            return False
        try:
            return tuple(image_shape) == np.broadcast_shapes(
                image_shape, np.shape(self.mean), np.shape(self.std))
        except ValueError:  # The shapes do not go together.
            return False


def scaled(images: Any) -> Any:
    """Images whose numbers are float32: uint8 becomes [0, 1], floats stay."""
    return images.astype(np.float32) / np.float32(255) if images.dtype == np.uint8 else images


def normalization(images: Any, mean: str, std: str, whiten: bool = False) -> Normalization:
    """The normalization for a training set, uint8 [N, H, W, C], or of sequences or volumes.

    Args:
      images: the training set; None when both `mean` and `std` are numbers.
      mean: 'channel', 'pixel' (a mean image) or numbers, one per channel: '0.485,0.456,0.406'.
      std: 'channel', 'scalar' (one for all channels), 'none' (pixels keep their range of 255, as in
        Caffe, and floats theirs) or numbers.
      whiten: whether contrast normalization and whitening (see whitening.py) take the place of
        both, which are then 'channel'.
    """
    if whiten:
        return _whitening(images, mean, std)
    if std == 'none':  # Floats have no such range.
        std = str(1 / 255) if images is None or images.dtype == np.uint8 else '1'
    numbers = {field: _numbers(field, value) for field, value in (('mean', mean), ('std', std))}
    if numbers['std'] is not None and not (numbers['std'] > 0).all():
        raise UserError(f"std='{std}' divides the images: it takes positive numbers")
    if images is not None:
        channels = images.shape[-1]
        for field, value in numbers.items():
            if value is not None and len(value) not in (1, channels):
                raise UserError(f'{field} has {len(value)} numbers, the images have {channels} '
                                f'channel(s)')
    elif numbers['mean'] is None or numbers['std'] is None:
        raise UserError('a streamed data set needs its mean and std in numbers, such as '
                        "mean='0.485,0.456,0.406', std='0.229,0.224,0.225'; or begin with the "
                        'weights of init_from, which have their own')

    @functools.cache
    def histograms():
        """A histogram of each channel, [C, 256]. np.bincount takes 8 bytes for each pixel, so
        it gets only some images at a time."""
        some = max(2 ** 20 // math.prod(images.shape[1:-1]), 1)
        return np.stack([sum(np.bincount(images[i:i + some, ..., c].ravel(), minlength=256)
                             for i in range(0, len(images), some)) for c in range(channels)])

    def moments(axis):
        """Exact mean and variance over all pixels, without a copy of the set as floats. `axis` is
        () for each channel, 0 for all of them."""
        if images.dtype != np.uint8:
            axes = tuple(range(images.ndim - (axis == ())))
            return images.mean(axes, np.float64), images.var(axes, np.float64)
        counts = histograms().sum(axis, keepdims=True)
        counts = counts.reshape(-1, 256) / counts.reshape(-1, 256).sum(-1, keepdims=True)
        levels = np.arange(256) / 255
        center = counts @ levels
        return center, (counts * (levels - center[:, None]) ** 2).sum(-1)

    center, scale = numbers['mean'], numbers['std']
    if center is None:
        center = moments(())[0]
        if mean == 'pixel':
            center = images.mean(0, dtype=np.float64) / (255 if images.dtype == np.uint8 else 1)
    if scale is None:
        scale = np.sqrt(moments(() if std == 'channel' else 0)[1])
    # A constant channel has the standard deviation 0, by which nothing can be divided.
    return Normalization(np.asarray(center, np.float32),
                         np.asarray(np.where(scale > 0, scale, 1), np.float32))


def _whitening(images, mean, std):
    if (mean, std) != ('channel', 'channel'):
        raise UserError(f"whiten=True has a mean and a scale of its own: leave out mean='{mean}' "
                        f"and std='{std}'")
    if images is None:
        raise UserError('whiten=True needs the whole training set in memory: leave out stream')
    center, matrix = whitening.zca(images)
    return Normalization(center, np.ones(1, np.float32), matrix)


def _numbers(field, value):
    """The numbers in `value`; None if it names a statistic of the data."""
    if value in {'mean': ('channel', 'pixel'), 'std': ('channel', 'scalar')}[field]:
        return None
    try:
        numbers = np.array([float(number) for number in value.split(',')])
        if np.isfinite(numbers).all():
            return numbers
        raise ValueError
    except ValueError:
        names = {'mean': "'channel', 'pixel'", 'std': "'channel', 'scalar', 'none'"}[field]
        raise UserError(f"{field} is {names} or numbers such as '0.485,0.456,0.406', "
                        f"not '{value}'") from None
