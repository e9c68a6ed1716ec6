"""Segmentation: which class each pixel of an image shows, learned from its mask.

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
from jax import lax

from cnnjax import losses, overlays
from cnnjax.data import geometry
from cnnjax.errors import UserError
from cnnjax.tasks.task import LossAndMetrics, Observed, Task, WholeBatch, check_scores
from cnnjax.tasks.training_loss import CROSS_ENTROPY, TrainingLoss

TARGET = 'mask'


def create(net: nn.Module, chosen: TrainingLoss = CROSS_ENTROPY) -> Task:
    """The task for networks with logits [N, H', W', classes] for the middle H' x W' pixels of the
    images. Without padding a network has fewer outputs than pixels. The losses of `auxiliary`
    heads, {tap: weight}, are added if the network has any."""
    return Task(check, functools.partial(loss, chosen, getattr(net, 'auxiliary', {})), observe,
                results, predict, draw)


def check(outputs: jax.Array, examples: Mapping[str, Any], classes: Sequence[str]) -> None:
    """Raises UserError unless the network has a score for each class at the middle pixels."""
    check_scores(outputs)
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


def loss(chosen: TrainingLoss, auxiliary: Mapping[str, float], apply: Callable,
         examples: Mapping[str, jax.Array], batch: WholeBatch) -> LossAndMetrics:
    """The chosen loss of the pixels that count with that of the auxiliary heads, and the metrics
    'loss' and 'pixel_accuracy', the share of these pixels that is right, which leave the heads out.
    Examples may have a 'weight_map', float [N, H, W], which is added to the pixels' weights."""
    logits, taps, batch_stats = apply(examples['image'])
    labels, counts, extra = _truth(examples, logits.shape)
    value = chosen(batch, logits, labels, counts, extra)
    right = batch.mean((_found(logits) == labels).astype(jnp.float32), counts)
    metrics = {'loss': value, 'pixel_accuracy': right}
    for name, weight in auxiliary.items():
        value += weight * chosen(batch, taps[name], labels, counts, extra)
    return value, (metrics, batch_stats)


def observe(apply: Callable, examples: Mapping[str, jax.Array]) -> Observed:
    """For each image the sum of the 'loss' over the pixels that count, their number 'pixels', and
    their 'confusion' matrix, int [classes, classes], with the truth in rows. Its own 'iou' is kept,
    the mean over the classes that it has or that are found in it; NaN where no pixel counts."""
    logits, _ = apply(examples['image'])
    labels, counts, _ = _truth(examples, logits.shape)
    values = losses.cross_entropy(logits, labels)
    classes = logits.shape[-1]

    def confusion(labels, found, counts):
        places = classes * labels.ravel() + found.ravel()
        return jnp.zeros(classes * classes, jnp.int32).at[places].add(
            counts.ravel().astype(jnp.int32)).reshape(classes, classes)

    def iou(matrix):
        matrix = matrix.astype(jnp.float32)
        right = matrix.diagonal()
        return jnp.nanmean(right / (matrix.sum(0) + matrix.sum(1) - right))  # absent: 0 / 0

    matrices = jax.vmap(confusion)(labels, _found(logits), counts)
    return {'loss': jnp.where(counts, values, 0).sum((1, 2)), 'pixels': counts.sum((1, 2)),
            'confusion': matrices}, {'iou': jax.vmap(iou)(matrices)}


def results(sums: Mapping[str, np.ndarray], kept: Mapping[str, np.ndarray], count: int,
            classes: Sequence[str]) -> dict[str, Any]:
    """The results of the pixels that count, of all images together.

    'confusion' is the matrix of all pixels, int64 [classes, classes], with the truth in rows, and
    'image_iou' the iou of each image, float [count] (see observe). All others are numbers
    (https://arxiv.org/abs/1411.4038, section 5): 'loss', the mean cross-entropy; 'error',
    1 - mean_iou; 'mean_iou' and 'mean_dice', the means of 'iou/<class>', intersection / union, and
    'dice/<class>', 2 intersection / (truth + prediction); 'pixel_accuracy', the share of the pixels
    that is right; 'mean_accuracy', the mean share of the classes that have pixels;
    'frequency_weighted_iou', the mean iou weighted by the classes' pixels; and 'absent', how many
    classes are in neither the masks nor the predictions. These have no iou and no dice, and are in
    no mean.

    Raises:
      UserError: no pixel counts.
    """
    del count
    if not sums['pixels']:
        raise UserError(f'no pixel of the masks counts: all are {geometry.IGNORE}, which stands '
                        'for none of the classes')
    matrix = np.asarray(sums['confusion']).astype(np.int64)
    right, truth, found = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    union = truth + found - right
    seen = np.flatnonzero(union).tolist()
    iou, dice = right[seen] / union[seen], 2 * right[seen] / (truth + found)[seen]
    of_class = {f'{name}/{classes[i]}': float(value)
                for name, values in (('iou', iou), ('dice', dice))
                for i, value in zip(seen, values, strict=True)}
    return {'loss': float(sums['loss'] / sums['pixels']), 'error': float(1 - iou.mean()),
            'mean_iou': float(iou.mean()), 'mean_dice': float(dice.mean()),
            'pixel_accuracy': float(right.sum() / truth.sum()),
            'mean_accuracy': float((right[truth > 0] / truth[truth > 0]).mean()),
            'frequency_weighted_iou': float((truth[seen] * iou).sum() / truth.sum()),
            **of_class, 'absent': len(classes) - len(seen), 'confusion': matrix,
            **{f'image_{name}': values for name, values in kept.items()}}


def predict(outputs: jax.Array) -> dict[str, jax.Array]:
    """The 'mask' of the classes with the highest scores, uint8 [N, H', W']."""
    return {'mask': _found(outputs).astype(jnp.uint8)}


def draw(example: Mapping[str, np.ndarray], classes: Sequence[str]) -> np.ndarray:
    """A picture, uint8 [H, W, 3]: the 'image', uint8 [H, W, C], with the colours of a 'mask',
    uint8 [H', W'], of its middle pixels. The pixels around them are drawn as ignored."""
    del classes
    image, mask = example['image'], example['mask']
    top, left = ((side - own) // 2 for side, own in zip(image.shape, mask.shape, strict=False))
    whole = np.full(image.shape[:2], geometry.IGNORE, np.uint8)
    whole[top:top + mask.shape[0], left:left + mask.shape[1]] = mask
    return overlays.overlay(image, whole)


def _found(logits):
    return lax.argmax(logits, logits.ndim - 1, jnp.int32)


def _truth(examples, shape):
    """(labels, whether they count, their extra weights), [N, H', W'], of the middle pixels that
    logits of this shape belong to. Labels that do not count are 0. Without a weight map there are
    no extra weights: None."""
    def middle(maps):
        top, left = ((side - own) // 2 for side, own in zip(maps.shape[1:], shape[1:3],
                                                            strict=True))
        return maps[:, top:top + shape[1], left:left + shape[2]]

    labels = middle(examples['mask']).astype(jnp.int32)
    counts = labels != geometry.IGNORE
    extra = middle(examples['weight_map']) if 'weight_map' in examples else None
    return jnp.where(counts, labels, 0), counts, extra
