"""The measures of detections: golden values, and those of pycocotools and of plain loops."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.cocoeval import COCOeval

from cnnjax import average_precision

# Three images of 100 x 100 pixels; boxes are left, top, width, height.
TRUTH = [[('A', 10, 10, 40, 40), ('A', 60, 60, 20, 20), ('B', 5, 70, 20, 20)],
         [('A', 20, 20, 60, 60), ('B', 50, 0, 50, 30)], []]
CROWD = (1, 1)  # the image and the place of an object to ignore
FOUND = [[('A', 12, 11, 40, 40, 0.9), ('B', 5, 72, 20, 18, 0.8), ('A', 11, 10, 38, 42, 0.6),
          ('A', 62, 62, 20, 20, 0.55)],
         [('A', 25, 30, 60, 50, 0.7), ('B', 55, 5, 20, 20, 0.5), ('B', 0, 0, 10, 10, 0.4)],
         [('A', 0, 0, 30, 30, 0.95)]]


def padded(images, width=4):
    """(boxes, labels, scores) of lists of objects."""
    boxes = np.zeros((len(images), width, 4), np.float32)
    labels, scores = (np.full((len(images), width), fill, kind) for fill, kind in (
        (-1, np.int32), (0, np.float32)))
    for i, objects in enumerate(images):
        for j, (name, left, top, across, down, *score) in enumerate(objects):
            boxes[i, j] = left, top, left + across, top + down
            labels[i, j], scores[i, j] = 'AB'.index(name), score[0] if score else 0
    return boxes, labels, scores


def golden(truth=TRUTH, found=FOUND):
    boxes, labels, scores = padded(found)
    true_boxes, true_labels, _ = padded(truth)
    ignore = np.zeros(true_labels.shape, bool)
    ignore[CROWD] = True
    sides = true_boxes[..., 2:] - true_boxes[..., :2]
    return {'boxes': boxes, 'labels': labels, 'scores': scores, 'true_boxes': true_boxes,
            'true_labels': true_labels, 'true_ignore': ignore, 'true_area': sides.prod(-1)}


def test_golden_numbers_of_coco(capsys):
    found = average_precision.coco(golden(), 2)
    assert capsys.readouterr().out == ''
    assert found.numbers == pytest.approx({
        'ap': 0.630413, 'ap50': 0.822112, 'ap75': 0.584158, 'ap_small': 0.55,
        'ap_medium': 0.668317, 'ar1': 0.666667, 'ar10': 0.75, 'ar100': 0.75, 'ar_small': 0.65,
        'ar_medium': 0.7}, abs=1e-6)  # no object is large
    np.testing.assert_allclose(found.ap, [0.360825, 0.9], atol=1e-6)
    np.testing.assert_allclose(found.ap50, [0.644224, 1], atol=1e-6)
    np.testing.assert_allclose(found.precision.mean(1), found.ap50)
    assert found.precision.shape == (2, 101)


def test_golden_precisions_of_voc():
    found = average_precision.voc(golden(), 3)
    np.testing.assert_allclose(found.eleven_points, [0.642424, 1, np.nan], atol=1e-6)
    np.testing.assert_allclose(found.area, [0.644444, 1, np.nan], atol=1e-6)


def test_recalls_of_tenths_count():
    """The third of ten objects reaches the recall 0.3, which 3 * 0.1 exceeds."""
    assert average_precision._voc_class(np.array([True] * 3), 10) == pytest.approx((4 / 11, 0.3))


def test_what_was_taken_for_what():
    found = average_precision.matches(golden(), 2)
    # Of A, the second box of the first object and that of the empty image show nothing.
    np.testing.assert_array_equal(found.confusion, [[3, 0, 0], [0, 1, 0], [2, 1, 0]])
    assert found.recall == 1
    np.testing.assert_allclose(found.image_f1, [6 / 7, 2 / 3, 0])
    wrong = [[('B', *each[1:]) for each in image] for image in FOUND]
    found = average_precision.matches(golden(found=wrong), 2)
    np.testing.assert_array_equal(found.confusion, [[0, 3, 0], [0, 1, 0], [0, 3, 0]])
    assert found.recall == 1  # whatever the class
    unsure = [[(*each[:5], 0.2) for each in image] for image in FOUND]
    found = average_precision.matches(golden(found=unsure), 2)
    np.testing.assert_array_equal(found.confusion, [[0, 0, 3], [0, 0, 1], [0, 0, 0]])
    assert found.recall == 1
    np.testing.assert_array_equal(found.image_f1, [0, 0, np.nan])


@pytest.mark.parametrize('truth', [TRUTH, [[], [], []]], ids=['objects', 'no objects'])
@pytest.mark.parametrize('found', [FOUND, [[], [], []]], ids=['detections', 'no detections'])
def test_sets_without_objects_and_without_detections(truth, found):
    kept = golden(truth, found)
    coco, voc, matches = (measure(kept, 2) for measure in (
        average_precision.coco, average_precision.voc, average_precision.matches))
    if truth is TRUTH:
        expected = 0.822112 if found is FOUND else 0
        assert coco.numbers['ap50'] == pytest.approx(expected, abs=1e-6)
        assert np.isfinite([coco.ap, coco.ap50, voc.area, voc.eleven_points]).all()
        assert matches.recall == (found is FOUND)
    else:
        assert coco.numbers == {}
        for values in (coco.ap, coco.ap50, coco.precision, *voc, matches.recall):
            assert np.isnan(values).all()
    objects = 4 * (truth is TRUTH)  # The crowd, and what is found in it, do not count.
    detections = (8 - (truth is TRUTH)) * (found is FOUND)
    hits = matches.confusion[:2, :2].sum()
    assert matches.confusion.sum() == objects + detections - hits
    assert (hits > 0) == (truth is TRUTH and found is FOUND)


def drawn(seed, images=30, detections=20, objects=6, classes=4):
    """Random objects, and detections near them, of which one in four has another class."""
    rng = np.random.default_rng(seed)
    true_boxes = rng.uniform(0, 200, (images, objects, 4))
    true_boxes[..., 2:] = true_boxes[..., :2] + np.exp(rng.uniform(2.5, 5, (images, objects, 2)))
    true_labels = rng.integers(0, classes, (images, objects))
    true_labels[rng.random((images, objects)) < 0.3] = -1
    true_labels[3] = -1
    near = rng.integers(0, objects, (images, detections))
    boxes = np.take_along_axis(true_boxes, near[..., None], 1)
    boxes = boxes + rng.normal(0, 4, boxes.shape)
    labels = np.where(rng.random(near.shape) < 0.75, np.take_along_axis(true_labels, near, 1),
                      rng.integers(0, classes, near.shape))
    sides = true_boxes[..., 2:] - true_boxes[..., :2]
    return {'boxes': boxes, 'labels': labels, 'scores': -np.sort(-rng.random(near.shape), 1),
            'true_boxes': true_boxes, 'true_labels': true_labels,
            'true_ignore': rng.random(true_labels.shape) < 0.1, 'true_area': sides.prod(-1) * 0.7}


@pytest.mark.parametrize('seed', range(3))
def test_the_recall_of_any_class_is_that_of_pycocotools(seed, monkeypatch):
    """Which calls it useCats=0."""
    kept = drawn(seed)
    judges = []
    real = COCOeval.summarize
    monkeypatch.setattr(COCOeval, 'summarize', lambda self: (real(self), judges.append(self)))
    average_precision.coco(kept, 4)
    judge, = judges
    with contextlib.redirect_stdout(io.StringIO()):
        judge.params.useCats, judge.params.iouThrs = 0, np.array([0.5])
        judge.evaluate()
        judge.accumulate()
    assert average_precision.matches(kept, 4).recall == judge.eval['recall'][0, 0, 0, 2] > 0.5


@pytest.mark.parametrize('seed', range(3))
def test_the_precision_of_voc_is_that_of_its_kit(seed):
    """VOCevaldet.m, detection by detection."""
    kept = drawn(seed)
    found = average_precision.voc(kept, 4)
    for label in range(4):
        mine = [(score, i, box) for i in range(30) for score, box, own in zip(
            kept['scores'][i], kept['boxes'][i], kept['labels'][i], strict=True) if own == label]
        truth = [[j for j, own in enumerate(kept['true_labels'][i]) if own == label]
                 for i in range(30)]
        count = sum(not kept['true_ignore'][i, j] for i in range(30) for j in truth[i])
        right, wrong, taken = [], [], set()
        for _, i, (left, top, end, bottom) in sorted(mine, key=lambda each: -each[0]):
            best, which = -1, None
            for j in truth[i]:
                a, b, c, d = kept['true_boxes'][i, j]
                across, down = min(end, c) - max(left, a), min(bottom, d) - max(top, b)
                if across > 0 and down > 0:
                    inside = across * down
                    overlap = inside / ((end - left) * (bottom - top) + (c - a) * (d - b) - inside)
                    if overlap > best:
                        best, which = overlap, j
            hit = best > 0.5
            if hit and kept['true_ignore'][i, which]:
                continue
            right.append(hit and (i, which) not in taken)
            wrong.append(not right[-1])
            taken |= {(i, which)} if hit else set()
        right, wrong = np.cumsum(right), np.cumsum(wrong)
        recall, precision = right / count, right / (right + wrong)
        eleven = np.mean([max(precision[recall >= t], default=0) for t in np.arange(11) / 10])
        assert found.eleven_points[label] == pytest.approx(eleven)
        edges = np.concatenate([[0], recall, [1]])
        heights = np.concatenate([[0], precision, [0]])
        for k in range(len(heights) - 2, -1, -1):
            heights[k] = max(heights[k], heights[k + 1])
        area = sum((edges[k + 1] - edges[k]) * heights[k + 1] for k in range(len(edges) - 1))
        assert found.area[label] == pytest.approx(area)
