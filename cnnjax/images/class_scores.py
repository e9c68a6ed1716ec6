"""The score of a class in an image, and in the image behind masks.

The score is the class's logit S_c, before softmax. A network with maps of logits has one at each
pixel: their mean counts, over the pixels where the class is the likeliest in the image, or over all
where it is nowhere (Vinogradova et al. 2020, https://arxiv.org/abs/2002.11434).
"""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import FlaxError
from jax.typing import ArrayLike

from cnnjax.errors import UserError
from cnnjax.trained import Trained


class Asked(NamedTuple):
    """Images with the class of each that a map is asked for."""

    images: np.ndarray  # float32 [N, H, W, C] in [0, 1]
    classes: np.ndarray  # [N]
    places: np.ndarray  # [N, ...], weights of the logits of an image


def probabilities(network: Trained, images: np.ndarray) -> np.ndarray:
    """The probability of each class, [N, classes], in images [N, H, W, C]; of a network with maps
    of logits, its mean over the pixels."""
    _check_scores(network)
    found = np.asarray(jax.nn.softmax(network(images)))
    return found.mean(tuple(range(1, found.ndim - 1)))


def asked(network: Trained, images: ArrayLike, classes: ArrayLike) -> Asked:
    """The images as floats, with their classes, if the network can score them.

    Raises:
      UserError: it is a detector, the images do not fit it, or it has not such classes.
    """
    _check_scores(network)
    images = np.asarray(images)
    if images.ndim != 4 or not len(images):
        raise UserError(f'attribution takes images [N, H, W, C], not {list(images.shape)}')
    images = np.asarray(images / 255 if images.dtype == np.uint8 else images, np.float32)
    try:
        scores = jax.eval_shape(network, jax.ShapeDtypeStruct(images.shape, 'float32'))
    except (FlaxError, ArithmeticError, TypeError, ValueError) as error:  # from a layer
        raise UserError(f'the network has no scores of classes for images of '
                        f'{list(images.shape[1:])}: {error}; those of its training are '
                        f'{list(network.image_shape)}') from error
    classes = np.asarray(classes)
    if classes.shape != (len(images),) or classes.dtype.kind not in 'iu' or not (
            (classes >= 0) & (classes < scores.shape[-1])).all():
        raise UserError(f'classes={classes.tolist()}: give each of the {len(images)} images a '
                        f'number from 0 to {scores.shape[-1] - 1}')
    places = np.ones(scores.shape[:-1], np.float32)
    if places.ndim > 1:
        likeliest = np.asarray(network(images)).argmax(-1) == classes[:, None, None]
        places = np.where(likeliest.any((1, 2), keepdims=True), likeliest, places)
        places /= places.sum((1, 2), keepdims=True)
    return Asked(images, classes, places)


def own(values: jax.Array, classes: ArrayLike, places: ArrayLike) -> jax.Array:
    """[N], the value of each image's own class, a mean with the weights `places` where there are
    maps [N, H, W, classes]."""
    classes = jnp.reshape(classes, (-1, *(1,) * (values.ndim - 1)))
    found = jnp.take_along_axis(values, classes, -1)[..., 0] * places
    return found.sum(tuple(range(1, found.ndim)))


def behind(network: Trained, question: Asked, count: int,
           masks: Callable[[int, np.ndarray], ArrayLike], others: ArrayLike, *,
           logits: bool = False, chunk: int = 64
           ) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """Scores each image behind each of `count` masks: where a mask is 1, the image is seen, and
    where it is 0, the other image.

    Args:
      masks: called with the number of an image and those of some masks, gives them [M, H, W].
      others: the images seen instead, [N, H, W, C]; or their colour, a number or [C].
      logits: score by logits instead of probabilities.
      chunk: masks at a time, the memory's bound.

    Yields:
      (number of the image, numbers of the masks [M], the masks [M, H, W], the scores [M]).
    """
    images, classes, places = question
    others = np.broadcast_to(np.asarray(others, np.float32), images.shape)
    chunk = max(min(chunk, count), 1)
    for i in range(len(images)):
        for start in range(0, count, chunk):
            # The last chunk begins anew, since another size would be another program.
            numbers = np.arange(start, start + chunk) % count
            drawn = np.asarray(masks(i, numbers), np.float32)
            scores = _blended(network.net, network.variables, network.normalize, images[i],
                              others[i], drawn, classes[i], places[i], logits)
            kept = slice(count - start)
            yield i, numbers[kept], drawn[kept], np.asarray(scores)[kept]


def _check_scores(network):
    if network.task == 'detect':
        raise UserError('a detector has no scores of the classes of a whole image: it cannot be '
                        'asked where it sees one')


@functools.partial(jax.jit, static_argnames=('net', 'logits'))
def _blended(net, variables, normalize, image, other, masks, label, places, logits):
    """[M], the scores of the class of one image behind masks [M, H, W]."""
    network = Trained(net, variables, normalize, (), image.shape, None)
    masks = masks[..., None]
    values = network(masks * image[None] + (1 - masks) * other[None])
    values = values if logits else jax.nn.softmax(values)
    return own(values, jnp.full(len(masks), label), places[None])
