"""Segmentation: which class each pixel of an image shows, learned with softmax cross-entropy.

Long et al. 2014, https://arxiv.org/abs/1411.4038; Ronneberger et al. 2015,
https://arxiv.org/abs/1505.04597.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import losses, overlays
from cnnjax.data import geometry
from cnnjax.errors import UserError
from cnnjax.tasks.task import LossAndMetrics, Observed, Task

TARGET = 'mask'


def create(net: nn.Module, smoothing: float = 0.0) -> Task:
    """The task for networks with logits [N, H', W', classes] for the middle H' x W' pixels of the
    images. Without padding a network has fewer outputs than pixels."""
    del net
    return Task(check, functools.partial(loss, smoothing), observe, results, predict, draw)


def check(outputs: jax.Array, examples: Mapping[str, Any], classes: Sequence[str]) -> None:
    """Raises UserError unless the network has a score for each class at the middle pixels."""
    if outputs.ndim != 4:
        raise UserError(f'the network has one score per class, {list(outputs.shape[1:])}, no maps '
                        "of scores: it cannot tell pixels apart; take task='classify', or a "
                        'network such as unet_padded')
    _, height, width, count = outputs.shape
    mask = examples['mask'].shape[1:]
    if height > mask[0] or width > mask[1] or (mask[0] - height) % 2 or (mask[1] - width) % 2:
        raise UserError(f'the network has scores for {height} x {width} pixels, which are not the '
                        f'middle of a mask of {mask[0]} x {mask[1]}')
    if count != len(classes):
        raise UserError(f'the network has {count} outputs for {len(classes)} classes: its last '
                        'layer needs num_classes of them')


def loss(smoothing: float, apply: Callable, examples: Mapping[str, jax.Array],
         mean: Callable[..., jax.Array]) -> LossAndMetrics:
    """The mean cross-entropy of the pixels that count, and the metrics 'loss' and 'pixel_error',
    the share of these pixels that is wrong."""
    logits, _, batch_stats = apply(examples['image'])
    labels, counts = _truth(examples['mask'], logits.shape)
    value = mean(losses.cross_entropy(logits, labels, smoothing), counts)
    wrong = mean(losses.top_k_error(logits, labels), counts)
    return value, ({'loss': value, 'pixel_error': wrong}, batch_stats)


def observe(apply: Callable, examples: Mapping[str, jax.Array]) -> Observed:
    """For each image the sum of the 'loss' over the pixels that count, their number 'pixels', and
    their 'confusion' matrix, int [classes, classes], with the truth in rows. Its own 'iou' is kept,
    the mean over the classes that it has or that are found in it; NaN where no pixel counts."""
    logits, _ = apply(examples['image'])
    labels, counts = _truth(examples['mask'], logits.shape)
    values = losses.cross_entropy(logits, labels)
    classes = logits.shape[-1]

    def confusion(labels, found, counts):
        places = classes * labels.ravel() + found.ravel()
        return jnp.zeros(classes * classes, jnp.int32).at[places].add(
            counts.ravel().astype(jnp.int32)).reshape(classes, classes)

    def iou(matrix):
        right = matrix.diagonal()
        union = matrix.sum(0) + matrix.sum(1) - right
        return jnp.where(union > 0, right / jnp.maximum(union, 1), 0).sum() / (union > 0).sum()

    matrices = jax.vmap(confusion)(labels, logits.argmax(-1), counts)
    return {'loss': jnp.where(counts, values, 0).sum((1, 2)), 'pixels': counts.sum((1, 2)),
            'confusion': matrices}, {'iou': jax.vmap(iou)(matrices)}


def results(sums: Mapping[str, np.ndarray], kept: Mapping[str, np.ndarray], count: int,
            classes: Sequence[str]) -> dict[str, Any]:
    """The results: 'loss' and 'pixel_error', means over the pixels that count; 'iou/<class>',
    intersection / union of each class (https://arxiv.org/abs/1411.4038, section 5); their mean
    'mean_iou'; and 'error', 1 - mean_iou. A class that is in neither the masks nor the predictions
    has no iou. Of all images together is 'confusion', of each its own 'image_iou': see observe.

    Raises:
      UserError: no pixel counts.
    """
    del count
    matrix = np.asarray(sums['confusion']).astype(np.int64)
    if not sums['pixels']:
        raise UserError(f'no pixel of the masks counts: all are {geometry.IGNORE}, which stands '
                        'for none of the classes')
    right = matrix.diagonal()
    union = matrix.sum(0) + matrix.sum(1) - right
    iou = {name: float(own / of) for name, own, of in zip(classes, right, union, strict=False)
           if of}
    mean_iou = float(np.mean(list(iou.values())))
    return {'loss': float(sums['loss'] / sums['pixels']), 'error': 1 - mean_iou,
            'pixel_error': float(1 - right.sum() / sums['pixels']), 'mean_iou': mean_iou,
            **{f'iou/{name}': value for name, value in iou.items()},
            'confusion': matrix,
            **{f'image_{name}': values for name, values in kept.items()}}


def predict(outputs: jax.Array) -> dict[str, jax.Array]:
    """The 'mask' of the classes with the highest scores, uint8 [N, H', W']."""
    return {'mask': outputs.argmax(-1).astype(jnp.uint8)}


def draw(example: Mapping[str, np.ndarray]) -> np.ndarray:
    """The 'image', uint8 [H, W, C], under the colours of a 'mask', uint8 [H', W'], of its middle:
    uint8 [H, W, 3]. Around the middle its pixels are drawn as ignored."""
    image, mask = example['image'], example['mask']
    top, left = ((side - own) // 2 for side, own in zip(image.shape, mask.shape, strict=False))
    whole = np.full(image.shape[:2], geometry.IGNORE, np.uint8)
    whole[top:top + mask.shape[0], left:left + mask.shape[1]] = mask
    return overlays.overlay(image, whole)


def _truth(mask, shape):
    """(labels, whether they count), both [N, H', W'], of the middle pixels that logits of this
    shape belong to. Labels that do not count are 0."""
    top, left = ((side - own) // 2 for side, own in zip(mask.shape[1:], shape[1:3], strict=True))
    middle = mask[:, top:top + shape[1], left:left + shape[2]].astype(jnp.int32)
    counts = middle != geometry.IGNORE
    return jnp.where(counts, middle, 0), counts
