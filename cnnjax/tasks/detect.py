"""Detection: where the objects of each class are in an image, learned from their boxes.

Girshick et al. 2013, https://arxiv.org/abs/1311.2524; Redmon et al. 2015,
https://arxiv.org/abs/1506.02640.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import average_precision, overlays
from cnnjax.errors import UserError
from cnnjax.tasks.task import Observed, Task
from cnnjax.tasks.training_loss import CROSS_ENTROPY, TrainingLoss

TARGET = 'boxes'


def create(net: nn.Module, chosen: TrainingLoss = CROSS_ENTROPY) -> Task:
    """The task for detectors (see models), which have a loss of their own."""
    del chosen
    loss: Any = getattr(net, 'loss', None)  # Only `check` sees a network that is no detector.
    return Task(functools.partial(check, net), loss, functools.partial(observe, net), results,
                getattr(net, 'detections', None), draw)


def check(net: nn.Module, outputs: Any, examples: Mapping[str, Any],
          classes: Sequence[str]) -> None:
    """Raises UserError unless the network is a detector of that many classes, and learns from such
    examples."""
    if not isinstance(outputs, Mapping):
        raise UserError(f'the network has scores, {list(outputs.shape[1:])} for an image, and no '
                        "boxes: it cannot find objects; take a detector, such as "
                        "'faster_rcnn_small'")
    if net.num_classes != len(classes):
        raise UserError(f'the network finds {net.num_classes} classes, the data has {len(classes)}')
    found = {name: (*values.shape[:1], *values.shape[2:], values.dtype.kind) for name, values in
             jax.eval_shape(net.detections, outputs).items()}
    if found != {'boxes': (1, 4, 'f'), 'labels': (1, 'i'), 'scores': (1, 'f')}:
        raise UserError(f'{type(net).__name__}.detections returns arrays of the wrong shapes or '
                        'types: see the contract of a detector in cnnjax/models/__init__.py')
    jax.eval_shape(functools.partial(inputs, net), dict(examples))


def inputs(net: nn.Module, examples: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The further arguments of a call of a network, as far as the examples have them (see models).
    A frame that exceeds the image ends at its border, as in training.

    Raises:
      UserError: it judges proposals, and there are none, or the other way round.
    """
    names = getattr(net, 'inputs', ())
    if 'proposals' in names and 'proposals' not in examples:
        raise UserError('the network judges boxes and finds none itself: set proposals to a file '
                        'of them, such as configs/predict.py writes with write_proposals')
    if 'proposals' in examples and 'proposals' not in names:
        raise UserError(f'the network, {type(net).__name__}, takes no proposals: leave proposals '
                        'out, or take one that does, such as fast_rcnn_vgg16')
    found = {name: examples[name] for name in names if name in examples}
    if 'frame' in found:
        height, width = examples['image'].shape[1:3]
        found['frame'] = jnp.clip(found['frame'], 0, np.array([[width, height] * 2], np.float32))
    return found


def observe(net: nn.Module, apply: Callable, examples: Mapping[str, jax.Array]) -> Observed:
    """Sums nothing. Of each image what it shows and what is found in it is kept, in pixels of the
    original picture: the arrays of average_precision.py."""
    outputs, _ = apply(examples['image'], **inputs(net, examples))
    found, labels = net.detections(outputs), examples['labels']
    true_boxes = on_the_picture(examples['boxes'], examples)
    width, height = jnp.moveaxis(true_boxes[..., 2:] - true_boxes[..., :2], -1, 0)
    return {}, {'boxes': on_the_picture(found['boxes'], examples), 'labels': found['labels'],
                'scores': found['scores'], 'true_boxes': true_boxes, 'true_labels': labels,
                'true_ignore': examples.get('ignore', jnp.zeros(labels.shape, bool)),
                'true_area': examples.get('area', width * height)}


def results(sums: Mapping[str, np.ndarray], kept: Mapping[str, np.ndarray], count: int,
            classes: Sequence[str]) -> dict[str, Any]:
    """The results of all images together.

    Numbers: 'error', 1 - ap50; those of COCO, 'ap', 'ap50', 'ap75', 'ap_small', 'ap_medium',
    'ap_large', 'ar1', 'ar10', 'ar100', 'ar_small', 'ar_medium', 'ar_large'; 'ap/<class>' and
    'ap50/<class>'; 'voc07_map' and 'voc_map', the means of PASCAL VOC's average precisions of 2007
    and of 2010; 'recall', the share of the objects that one of the best 100 boxes of an image
    shows, whatever its class; and as further errors, to compare with published ones, 'ap_error' and
    'voc07_error', 1 - ap and 1 - voc07_map. Classes and sizes without an object have no numbers,
    and are in no mean.

    Arrays: 'precision', float [classes, 101], at the recalls 0, 0.01, ..., 1 and the IoU 0.5, NaN
    where a class has no object; and 'confusion', int64 [classes + 1, classes + 1] with the truth in
    rows, the last one the background, and 'image_f1', float [count] (see
    average_precision.matches).

    Raises:
      UserError: there is no object to find.
    """
    del sums, count
    if not ((kept['true_labels'] >= 0) & ~kept['true_ignore']).any():
        raise UserError('no image of the set to evaluate has an object that counts: there is '
                        'nothing to find')
    coco = average_precision.coco(kept, len(classes))
    voc = average_precision.voc(kept, len(classes))
    matches = average_precision.matches(kept, len(classes))
    of_class = {f'{name}/{label}': float(value)
                for name, values in (('ap', coco.ap), ('ap50', coco.ap50))
                for label, value in zip(classes, values, strict=True) if np.isfinite(value)}
    voc07_map = float(np.nanmean(voc.eleven_points))
    return {'error': 1 - coco.numbers['ap50'], 'ap_error': 1 - coco.numbers['ap'],
            'voc07_error': 1 - voc07_map, **coco.numbers, 'voc07_map': voc07_map,
            'voc_map': float(np.nanmean(voc.area)), 'recall': float(matches.recall), **of_class,
            'precision': coco.precision, 'confusion': matches.confusion,
            'image_f1': matches.image_f1}


def draw(example: Mapping[str, np.ndarray], classes: Sequence[str]) -> np.ndarray:
    """A picture, uint8 [H', W', 3]: what the 'frame' has of an 'image', uint8 [H, W, C], with the
    names of its 'boxes', or of those found, whose 'scores' are at least average_precision.SCORE."""
    image, labels, scores = example['image'], example['labels'], example.get('scores')
    ignore = example.get('ignore')
    if scores is not None:  # What is to be ignored are objects, not detections.
        labels, ignore = np.where(scores >= average_precision.SCORE, labels, -1), None
    frame = example.get('frame', np.array([0, 0, *image.shape[1::-1]], np.float32))
    left, top = np.floor(frame[:2]).clip(0).astype(int)
    right, bottom = np.ceil(frame[2:]).astype(int)
    moved = example['boxes'] - np.array([[left, top, left, top]])
    return overlays.boxes(image[top:bottom, left:right], moved, labels, classes, scores=scores,
                          ignore=ignore)


def on_the_picture(boxes: jax.Array, examples: Mapping[str, jax.Array]) -> jax.Array:
    """Boxes [N, K, 4] on the images as boxes on the original pictures, whose 'size' is known if
    they were scaled or moved. A picture fills its image, or the 'frame' in it."""
    if 'size' not in examples:
        return boxes
    height, width = examples['image'].shape[1:3]
    frame = examples.get('frame', jnp.array([[0, 0, width, height]], jnp.float32))
    scale = examples['size'][:, ::-1] / (frame[:, 2:] - frame[:, :2])
    return (boxes - jnp.tile(frame[:, :2], 2)[:, None]) * jnp.tile(scale, 2)[:, None]
