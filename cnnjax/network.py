"""A network with all it needs for images in [0, 1]: Network(...)(images) -> logits."""

import contextlib
import copy
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import FlaxError
from jax.typing import ArrayLike
from ml_collections import ConfigDict

from cnnjax import models
from cnnjax.data import Normalization, ranks
from cnnjax.errors import UserError

# Floats may be a little outside [0, 1] after interpolation or optimization. Images in [0, 255] or
# [-1, 1] and normalized images exceed this range.
RANGE = (-0.5, 1.5)


class Network(NamedTuple):
    """A network with its variables, and the normalization, class names and shape of its images."""

    net: nn.Module
    variables: Any  # {'params': ..., 'batch_stats': ...}
    normalize: Normalization  # uint8 or [0, 1] images [..., H, W, C] -> the network's input
    classes: tuple[str, ...]
    image_shape: tuple[int, ...]  # [H, W, C] of the training images; see data/ranks.py
    config: Any  # the config of the run; None for published weights
    name: str = ''  # as `models.create` takes it
    evaluation: dict[str, Any] = {}  # see `metadata.EVALUATION`

    def __call__(self, images: ArrayLike | Sequence[ArrayLike], **arguments: Any) -> jax.Array:
        """The outputs for images [N, H, W, C], uint8 or floats in [0, 1]: logits [N, classes], maps
        of them, or of a detector a dict, which `net.detections` makes boxes of. Sequences [N, T, C]
        and volumes [N, D, H, W, C] are uint8 from 0 to 255, or any floats, as in the training.

        Raises:
          UserError: the images have another rank, type, size or number of channels; or, unless
            they are traced, values outside the range.
        """
        images = self.checked(images)
        same = images.shape[1:] == tuple(self.image_shape)
        with contextlib.nullcontext() if same else self._of_another_size(images):
            normalize = self.normalize.fitting(images.shape[1:])
            return self.net.apply(self.variables, normalize(images), train=False, **arguments)[0]

    def taps(self, images: ArrayLike | Sequence[ArrayLike],
             **arguments: Any) -> dict[str, jax.Array]:
        """Every activation, {layer: array}, for images [N, H, W, C], uint8 or floats in [0, 1].

        The images may have another size than those of the training. If the size does not fit a full
        layer, the activations before that layer are returned.

        Raises:
          UserError: as for a call of the network.
        """
        images, misfits = self.checked(images), []

        def intercept(call, args, kwargs, context):
            layer = context.module
            if isinstance(layer, nn.Dense) and layer.has_variable('params', 'kernel'):
                kernel: Any = layer.get_variable('params', 'kernel')
                expected, width = kernel.shape
                if args[0].shape[-1] != expected:
                    misfits.append('/'.join(layer.path))
                    return jnp.zeros((*args[0].shape[:-1], width), args[0].dtype)
            return call(*args, **kwargs)

        normalize = self.normalize.fitting(images.shape[1:])
        with nn.intercept_methods(intercept):
            found: Any = self.net.apply(self.variables, normalize(images), train=False, **arguments)
        return dict(itertools.takewhile(lambda item: item[0] not in misfits, found[1].items()))

    def tap_shapes(self, shape: Sequence[int] | None = None) -> dict[str, tuple[int, ...]]:
        """{layer: shape of its activation} for one image, in forward order; computes nothing.

        `shape` is that of the image [H, W, C]; None: the shape of the training images. Raises
        UserError like `taps`.
        """
        found = {}

        def collect(variables, images):  # jax would sort the names of a returned dict.
            taps = self._replace(variables=variables).taps(images)
            found.update((name, tap.shape[1:]) for name, tap in taps.items())

        images = jax.ShapeDtypeStruct((1, *(shape or self.image_shape)), 'float32')
        jax.eval_shape(collect, self.variables, images)
        return found

    def fitting(self, shape: Sequence[int]) -> tuple[int, int]:
        """(height, width) as near as possible to those of `shape` that fit the network, by its
        rule `fits` (see models). Whitened images have the training's size."""
        if self.normalize.whitening is not None:
            return self.image_shape[0], self.image_shape[1]
        fits = models.fits(self.net)
        height, width = (next(n for off in itertools.count() for n in (side - off, side + off)
                              if n > 0 and fits(n)) for side in shape[:2])
        return height, width

    def training(self, defaults: ConfigDict) -> ConfigDict:
        """The config that the network was trained with, as far as it is known.

        Missing fields, such as those added after the run, come from `defaults`, the config of a
        training. Raises UserError if a known value does not fit such a config.
        """
        own = copy.deepcopy(defaults)
        with own.unlocked():
            try:
                own.update(self.config.to_dict() if self.config else self.evaluation)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise UserError(f'the config.json of the run is damaged: {error}') from None
        return own

    def of_images(self, what: str) -> 'Network':
        """The network itself; raises UserError, for `what` needs it, unless it takes images."""
        if len(self.image_shape) != 3:
            raise UserError(f'{what} needs a network of images [H, W, C], and '
                            f'{self.name or "this one"} was trained on '
                            f'{ranks.name(self.image_shape)}s {list(self.image_shape)}')
        return self

    @property
    def task(self) -> str:
        """The name of the task that it was trained for; published weights classify."""
        return self.evaluation.get('task', 'classify')

    def checked(self, images: ArrayLike | Sequence[ArrayLike]) -> jax.Array | np.ndarray:
        """The images as an array [N, H, W, C]. Raises UserError as a call of the network does."""
        if isinstance(images, (list, tuple)):
            shapes = sorted({np.shape(image) for image in images})
            if len(shapes) != 1:
                raise UserError(f'a list of {len(images)} images of the shapes {shapes}: bring '
                                'them to one')
            images = (jnp if any(isinstance(image, jax.Array) for image in images) else np).stack(
                images)
        elif not isinstance(images, jax.Array):
            images = np.asarray(images)
        channels = self.image_shape[-1]
        rank = len(self.image_shape)
        taken = f'the network takes [{ranks.axes(self.image_shape)}]'
        if images.ndim != rank + 1:
            raise UserError(f'images of shape {images.shape}: {taken}'
                            + ('; images[None] is a batch of one' if images.ndim == rank else ''))
        if images.shape[-1] != channels:
            raise UserError(f'images of shape {images.shape}: {taken}' + (
                '; images.transpose(0, 2, 3, 1) puts the channels last'
                if images.shape[1] == channels and rank == 3 else ''))
        if 0 in images.shape[1:]:
            raise UserError(f'images of shape {images.shape} have no pixels: {taken}')
        if rank == 2 and not jnp.issubdtype(images.dtype, jnp.floating):
            raise UserError(f'sequences of type {images.dtype}: they are floats, as in the '
                            'training')
        if images.dtype != np.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
            raise UserError(f'images of type {images.dtype}: take uint8 for values from 0 to 255 '
                            '(images.astype(np.uint8)), or floats in [0, 1]')
        _check_values(images, RANGE if rank == 3 else (-np.inf, np.inf))
        return images

    @contextlib.contextmanager
    def _of_another_size(self, images):
        """A context that blames errors on the size of the images."""
        try:
            yield
        except (FlaxError, ValueError, TypeError, ZeroDivisionError) as error:
            reason = f': {error}' if isinstance(error, UserError) else ''
            given, own = (' x '.join(map(str, shape))
                          for shape in (images.shape[1:-1], self.image_shape[:-1]))
            raise UserError(
                f'images of {given} pixels do not fit this network, which was trained on '
                f'{own}{reason}. '
                'Resize them; `taps` gives the activations before the first full layer') from error


def _check_values(images, allowed):
    """Raises UserError for floats outside this range; traced arrays are not checked."""
    if (isinstance(images, jax.core.Tracer) or not images.size or images.dtype == np.uint8
            or not getattr(images, 'is_fully_addressable', True)):
        return
    low, high = float(images.min()), float(images.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UserError('images hold numbers that are not finite (NaN or infinity)')
    if low < allowed[0] or high > allowed[1]:
        raise UserError(f'images are floats from {low:g} to {high:g}, not in [0, 1]: give uint8, '
                        'or divide by 255; they are normalized here, not before')
