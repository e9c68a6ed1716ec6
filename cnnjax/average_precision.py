"""How good detections are: the average precision of COCO and of PASCAL VOC, and what was taken for
what. Everything here runs on the host; 5,000 images with 100 detections each take a minute, nearly
all of it in pycocotools.

The detections and the objects of a set of n images are a dict of arrays, all on the scale of the
original pictures:

    boxes        float32 [n, D, 4], left, top, right, bottom in pixels, by falling score
    labels       int32 [n, D], the classes 0, 1, ...; -1 where there is no detection
    scores       float32 [n, D]
    true_boxes   float32 [n, M, 4]
    true_labels  int32 [n, M]; -1 where there is no object
    true_ignore  bool [n, M]: the object is no miss if it is not found, and what is found of it is
                 no mistake (a crowd of COCO, a difficult object of PASCAL VOC)
    true_area    float32 [n, M], in square pixels; of a COCO object that of its mask
"""

import contextlib
import io
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

IOU = 0.5  # Boxes that overlap at least so much show the same object.
SCORE = 0.25  # Detections with lower scores are not in the confusion matrix and the F1.
# The numbers of COCO in the order of `COCOeval.stats`.
COCO_NUMBERS = ('ap', 'ap50', 'ap75', 'ap_small', 'ap_medium', 'ap_large', 'ar1', 'ar10', 'ar100',
                'ar_small', 'ar_medium', 'ar_large')
Kept = Mapping[str, np.ndarray]


class Coco(NamedTuple):
    """The results of pycocotools."""

    numbers: dict[str, float]  # by COCO_NUMBERS, without those of sizes that no object has
    ap: np.ndarray  # float [classes], the mean over the IoUs 0.50, 0.55, ..., 0.95; NaN: no object
    ap50: np.ndarray  # float [classes], at the IoU 0.5
    precision: np.ndarray  # float [classes, 101] at the recalls 0, 0.01, ..., 1 and the IoU 0.5


def coco(kept: Kept, classes: int) -> Coco:
    """The measures of COCO (https://cocodataset.org/#detection-eval), by its own code."""
    images = [{'id': i + 1} for i in range(len(kept['labels']))]  # An id of 0 would count as none.
    categories = [{'id': i + 1} for i in range(classes)]

    def indexed(boxes, labels, **columns):
        found: Any = COCO()
        found.dataset = {'images': images, 'categories': categories,
                         'annotations': _annotations(boxes, labels, columns)}
        found.createIndex()
        return found

    with contextlib.redirect_stdout(io.StringIO()):  # It prints what it does.
        judge = COCOeval(
            indexed(kept['true_boxes'], kept['true_labels'], area=kept['true_area'],
                    iscrowd=kept['true_ignore'].astype(int)),
            indexed(kept['boxes'], kept['labels'], area=_areas(kept['boxes']),
                    score=kept['scores']), 'bbox')
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    numbers = {name: float(value) for name, value in zip(COCO_NUMBERS, judge.stats, strict=True)
               if value >= 0}  # -1: no object
    precision = np.where(judge.eval['precision'] < 0, np.nan, judge.eval['precision'])[..., 0, 2]
    return Coco(numbers, precision.mean((0, 1)), precision[0].mean(0), precision[0].T)


def _annotations(boxes, labels, columns):
    """The objects or detections in the form of COCO's files."""
    image, place = np.nonzero(labels >= 0)
    some = boxes[image, place].astype(float)
    names = ('image_id', 'category_id', 'bbox', *columns)
    values = (image + 1, labels[image, place] + 1,
              np.concatenate([some[:, :2], some[:, 2:] - some[:, :2]], 1),
              *(column[image, place] for column in columns.values()))
    rows = zip(*(value.tolist() for value in values), strict=True)
    return [dict(zip(names, row, strict=True)) | {'id': i} for i, row in enumerate(rows, 1)]


def _areas(boxes):
    sides = boxes[..., 2:].astype(float) - boxes[..., :2]
    return sides[..., 0] * sides[..., 1]


class Voc(NamedTuple):
    """The average precisions of each class, float [classes]; NaN where it has no object."""

    eleven_points: np.ndarray  # VOC 2007's: the mean over the recalls 0, 0.1, ..., 1
    area: np.ndarray  # VOC's since 2010: the area under the curve


def voc(kept: Kept, classes: int) -> Voc:
    """The measures of PASCAL VOC: Everingham et al. 2010, section 4.2,
    https://doi.org/10.1007/s11263-009-0275-4, and the development kit of 2010.

    A detection is right if the object of its class that it overlaps most, by more than 0.5, was not
    found with a higher score. Widths are right - left, without the "+ 1" of the kit.
    """
    scores, labels, right, counts = [], [], [], []
    for one in _images(kept):
        # The last column stands for no object.
        iou = np.pad(np.where(one.same_class, one.plain_iou, 0), ((0, 0), (0, 1)))
        ignore = np.append(one.ignore, False)
        best = np.where(iou.max(1) > IOU, iou.argmax(1), len(one.ignore))
        first = np.isin(np.arange(len(best)), np.unique(best, return_index=True)[1])
        judged = ~ignore[best]
        scores.append(one.scores[judged])
        labels.append(one.labels[judged])
        right.append((first & (best < len(one.ignore)))[judged])
        counts.append(np.bincount(one.true_labels[~one.ignore], minlength=classes))
    order = np.argsort(-np.concatenate(scores), kind='stable')
    labels, right = np.concatenate(labels)[order], np.concatenate(right)[order]
    found = [_voc_class(right[labels == i], count) for i, count in enumerate(np.sum(counts, 0))]
    return Voc(*np.transpose(found))


def _voc_class(right, count):
    """Both average precisions of a class with so many objects, whose detections, by falling score,
    are right or wrong."""
    if not count:
        return np.nan, np.nan
    hits = right.cumsum()
    recall, precision = hits / count, hits / np.arange(1, len(right) + 1)
    highest = np.maximum.accumulate(precision[::-1])[::-1]  # at this recall or more
    at = np.searchsorted(recall, np.arange(11) / 10)
    return (np.append(highest, 0)[at].mean(),
            (np.diff(recall, prepend=0) * highest).sum())


class Matches(NamedTuple):
    """What became of each object and each detection where a detection, by falling score, takes the
    free object that it overlaps most, by at least 0.5."""

    recall: float  # the share of the objects that any box finds, whatever its class, NaN: no object
    confusion: np.ndarray  # int64 [classes + 1, classes + 1], truth in rows, last the background
    image_f1: np.ndarray  # float [n], with regard to the classes; NaN: no object and no detection


def matches(kept: Kept, classes: int, boxes: int = 100) -> Matches:
    """The Matches of a set. The recall counts the best `boxes` of an image; the confusion matrix
    and the F1, 2 hits / (detections + objects), count detections with a score of at least SCORE."""
    confusion = np.zeros((classes + 1, classes + 1), np.int64)
    f1, hits, total = [], 0, 0
    for one in _images(kept):
        counts = ~one.ignore
        total += counts.sum()
        taken = _matched(one.iou[:boxes], one.ignore)
        hits += (taken >= 0).sum()
        sure = one.scores >= SCORE
        labels, iou = one.labels[sure], one.iou[sure]
        taken = _matched(iou, one.ignore)
        missed = np.setdiff1d(np.flatnonzero(counts), taken)
        np.add.at(confusion, (one.true_labels[taken[taken >= 0]], labels[taken >= 0]), 1)
        confusion[:, classes] += np.bincount(one.true_labels[missed], minlength=classes + 1)
        confusion[classes] += np.bincount(labels[taken == NOTHING], minlength=classes + 1)
        taken = _matched(np.where(one.same_class[sure], iou, 0), one.ignore)
        right, parts = (taken >= 0).sum(), (taken != IGNORED).sum() + counts.sum()
        f1.append(2 * right / parts if parts else np.nan)
    return Matches(hits / total if total else np.nan, confusion, np.array(f1))


NOTHING, IGNORED = -1, -2


def _matched(iou, ignore):
    """The object that each detection takes, int [D]: NOTHING, or IGNORED, of which any number of
    detections may be."""
    taken, free = np.full(len(iou), NOTHING), ~ignore
    for i in np.flatnonzero((iou >= IOU).any(1)):
        own = np.where(free, iou[i], 0)
        best = own.argmax()
        if own[best] >= IOU:
            taken[i], free[best] = best, False
        elif (iou[i, ignore] >= IOU).any():
            taken[i] = IGNORED
    return taken


class _Image(NamedTuple):
    """The detections and the objects of an image, without padding."""

    labels: np.ndarray  # [D]
    scores: np.ndarray  # [D]
    true_labels: np.ndarray  # [M]
    ignore: np.ndarray  # bool [M]
    same_class: np.ndarray  # bool [D, M]
    iou: np.ndarray  # [D, M]; for an object to ignore the share of the detection that is inside
    plain_iou: np.ndarray  # [D, M]


def _images(kept):
    """An _Image for each."""
    for i, (labels, true_labels) in enumerate(zip(kept['labels'], kept['true_labels'],
                                                  strict=True)):
        found, true = labels >= 0, true_labels >= 0
        ignore = kept['true_ignore'][i][true]
        boxes, true_boxes = (_left_top_width_height(kept[name][i][some]) for name, some in (
            ('boxes', found), ('true_boxes', true)))
        shape = len(boxes), len(true_boxes)  # Without a box, pycocotools returns [].
        iou, plain = (np.reshape(mask.iou(boxes, true_boxes, crowd.tolist()), shape)
                      for crowd in (ignore, np.zeros_like(ignore)))
        labels, true_labels = labels[found], true_labels[true]
        yield _Image(labels, kept['scores'][i][found], true_labels, ignore,
                     labels[:, None] == true_labels[None], iou, plain)


def _left_top_width_height(boxes):
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).astype(float)
