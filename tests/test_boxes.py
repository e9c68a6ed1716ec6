"""Boxes against numpy, torchvision's values and the papers' counts."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from cnnjax import boxes, parallel


def random_boxes(rng, count, size=100.0, grid=None):
    """Boxes of up to half the size; on a `grid` many of them tie."""
    corner, sides = rng.uniform(0, size / 2, (2, count, 2))
    found = np.concatenate([corner, corner + sides], -1)
    return np.float32(found if grid is None else np.round(found / grid) * grid)


def iou_in_numpy(a, b):
    found = np.zeros((len(a), len(b)))
    for i, one in enumerate(np.float64(a)):
        for j, other in enumerate(np.float64(b)):
            width = min(one[2], other[2]) - max(one[0], other[0])
            height = min(one[3], other[3]) - max(one[1], other[1])
            common = max(width, 0) * max(height, 0)
            union = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)) - common
            found[i, j] = common / union if union > 0 else 0
    return found


def test_iou_of_all_pairs():
    rng = np.random.default_rng(0)
    a, b = random_boxes(rng, 7), random_boxes(rng, 5)
    a[2] = b[1]
    a[3] = b[3] = 0  # padding
    a[4] = [10, 10, 10, 40]  # without area
    found = jax.jit(boxes.iou)(a, b)
    np.testing.assert_allclose(found, iou_in_numpy(a, b), atol=1e-6)
    assert found[2, 1] == 1
    assert not found[3:5].any()
    assert not found[:, 3].any()
    np.testing.assert_array_equal(boxes.area(a)[3:5], 0)
    common = boxes.intersection(a, b)
    sizes = np.array(boxes.area(a)[:, None] + boxes.area(b)[None])
    np.testing.assert_allclose(common, found * sizes / (1 + np.array(found)), rtol=1e-4)
    stacked = boxes.iou(np.stack([a, a + 1]), np.stack([b, b + 1]))
    assert stacked.shape == (2, 7, 5)
    np.testing.assert_allclose(stacked[1], found, atol=1e-5)


def test_an_inverted_box_has_no_area():
    inverted = jnp.float32([[20, 20, 10, 10], [10, 20, 20, 10]])
    assert not boxes.area(inverted).any()
    assert not boxes.iou(inverted, jnp.float32([[0, 0, 30, 30]])).any()


@pytest.mark.parametrize(('weights', 'expected'), [
    ((10., 10., 5., 5.), [1.5, 1.33333337, .47655103, 1.43841052]),
    ((1., 1., 1., 1.), [.15, .13333334, .09531020, .28768211])])
def test_golden_deltas(weights, expected):
    box, anchor = jnp.float32([14, 18, 58, 98]), jnp.float32([10, 20, 50, 80])
    deltas = boxes.encode(box, anchor, weights)
    np.testing.assert_allclose(deltas, expected, rtol=1e-6)
    np.testing.assert_allclose(boxes.decode(deltas, anchor, weights), box, rtol=1e-6)


def test_decode_is_the_inverse_of_encode_and_limited():
    rng = np.random.default_rng(1)
    truth, start = (random_boxes(rng, 20) + np.float32([[0, 0, 1, 1]]) for _ in range(2))
    found = boxes.decode(boxes.encode(truth, start, (10., 10., 5., 5.)), start, (10., 10., 5., 5.))
    np.testing.assert_allclose(found, truth, atol=2e-4)
    assert boxes.LARGEST == 4.135166556742356
    deltas = jnp.float32([[0, 0, 1e9, math.log(2)], [0, 0, -1e9, 0], [0, 0, np.nan, 0]])
    wide, narrow, unknown = boxes.decode(deltas, jnp.float32([[10, 10, 26, 26]]))
    np.testing.assert_allclose(wide, [18 - 500, 18 - 16, 18 + 500, 18 + 16], rtol=1e-5)
    np.testing.assert_array_equal(narrow, [18, 10, 18, 26])
    assert np.isnan(unknown).any()  # is not hidden
    many = boxes.decode(jnp.zeros((2, 3, 4)), jnp.float32([[[0, 0, 4, 4]], [[1, 1, 3, 5]]]))
    assert many.shape == (2, 3, 4)


def test_padding_has_finite_deltas_and_gradients():
    some = jnp.float32([[0, 0, 0, 0], [3, 3, 3, 9], [9, 9, 5, 5], [0, 0, 8, 8]])
    pairs = [array.reshape(-1, 4) for array in jnp.broadcast_arrays(some[:, None], some[None])]

    def total(a, b):
        return boxes.encode(a, b, (10., 10., 5., 5.)).sum()

    assert np.isfinite(total(*pairs))
    for gradient in jax.grad(total, (0, 1))(*pairs):
        assert np.isfinite(gradient).all()


def test_clip():
    some = jnp.float32([[-5, -6, 120, 90], [30, 40, 50, 60], [-9, 5, -3, 8]])
    frame = jnp.float32([10, 0, 100, 80])
    expected = [[10, 0, 100, 80], [30, 40, 50, 60], [10, 5, 10, 8]]
    np.testing.assert_array_equal(boxes.clip(some, frame), expected)
    stacked = boxes.clip(jnp.stack([some, some + 1]), jnp.stack([frame, frame + 1]))
    np.testing.assert_array_equal(stacked, np.stack([expected, np.add(expected, 1)]))
    of_classes = boxes.clip(jnp.stack([some, some], 1), frame)  # [N, classes, 4]
    np.testing.assert_array_equal(of_classes, np.stack([expected, expected], 1))


# Faster R-CNN's nine at stride 16. py-faster-rcnn has (-84, -40, 99, 55) and so on, whose right and
# bottom pixels are inside; its comments show the MATLAB code's, which counts pixels from 1.
VGG16 = np.float32([[-84, -40, 100, 56], [-176, -88, 192, 104], [-360, -184, 376, 200],
                    [-56, -56, 72, 72], [-120, -120, 136, 136], [-248, -248, 264, 264],
                    [-36, -80, 52, 96], [-80, -168, 96, 184], [-168, -344, 184, 360]])


@pytest.mark.parametrize(('grid', 'size', 'total', 'inside'), [
    ((37, 62), (600, 1000), 20646, [1632, 1040, 238, 1650, 1034, 186, 1539, 832, 0]),
    ((37, 50), (600, 800), 16650, [1216, 728, 56, 1260, 748, 108, 1188, 640, 0])])
def test_golden_counts_of_anchors(grid, size, total, inside):
    """In the order of the map's rows, its columns, then the shapes; as many are inside the image as
    in py-faster-rcnn."""
    found = boxes.anchors(VGG16, grid, (16, 16))
    assert (found.shape, found.dtype) == ((total, 4), 'float32')
    y, x, a = 5, 7, 3
    np.testing.assert_array_equal(found[(y * grid[1] + x) * 9 + a],
                                  VGG16[a] + [16 * x, 16 * y, 16 * x, 16 * y])
    within = (found[:, :2] >= 0).all(1) & (found[:, 2] <= size[1]) & (found[:, 3] <= size[0])
    np.testing.assert_array_equal(within.reshape(-1, 9).sum(0), inside)


def test_strides_of_rows_and_columns_differ():
    found = boxes.anchors(jnp.float32([[-1, -2, 1, 2]]), (2, 2), (61, 64))
    np.testing.assert_array_equal(found[1:, :2], [[63, -2], [-1, 59], [63, 59]])


def nms_in_numpy(some, scores, threshold, count, labels=None):
    """Greedy, as written on paper, in float32."""
    labels = np.zeros(len(some)) if labels is None else labels
    kept = []
    for i in np.argsort(-scores, kind='stable'):
        if np.isfinite(scores[i]) and not any(
                iou32(some[i], some[j]) > np.float32(threshold)
                for j in kept if labels[i] == labels[j]):
            kept.append(i)
    return np.array([*kept, *[-1] * count][:count])


def iou32(a, b):
    sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), np.float32(0))
    common = sides[0] * sides[1]
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common
    return common / union if union > 0 else np.float32(0)


def nms_case(seed):
    """(boxes, scores, labels), some of whose overlaps are equal to a threshold, and some scores to
    each other or not a number."""
    rng = np.random.default_rng(seed)
    some = random_boxes(rng, 60, grid=5 if seed % 2 else None)
    scores = np.float32(rng.choice(40, 60) / 40)
    scores[[7, 20, 31]] = [np.nan, np.inf, -np.inf]
    some[40:42] = 0
    scores[40:42] = 0.99
    some[50:52] = [[0, 0, 10, 10], [0, 0, 5, 10]]  # an IoU of exactly one half
    return some, scores, rng.integers(0, 3, 60)


@pytest.mark.parametrize('per_class', [False, True])
@pytest.mark.parametrize('threshold', [0.3, 0.45, 0.5, 0.7])
@pytest.mark.parametrize('form', ['picks', 'rounds'])
def test_nms_is_greedy(form, threshold, per_class):
    """A version of MLPerf's that others copied compares with 0.5 inside, whatever the threshold."""
    cases = [nms_case(seed) for seed in range(4)]
    for count in (8, 70):
        run = jax.jit(jax.vmap(functools.partial(boxes.nms, threshold=threshold, count=count,
                                                 form=form)))
        some, scores, labels = (np.stack(arrays) for arrays in zip(*cases, strict=True))
        found = run(some, scores, labels=labels) if per_class else run(some, scores)
        assert found.dtype == np.int32
        for row, (some, scores, labels) in zip(found, cases, strict=True):
            expected = nms_in_numpy(some, scores, threshold, count, labels if per_class else None)
            np.testing.assert_array_equal(row, expected)


@pytest.mark.parametrize('form', ['picks', 'rounds'])
def test_nms_without_boxes(form):
    for scores in (jnp.full(3, -jnp.inf), jnp.full(3, jnp.nan)):
        found = boxes.nms(jnp.zeros((3, 4)), scores, 0.5, 2, form=form)
        np.testing.assert_array_equal(found, [-1, -1])


def test_arrays_of_numpy():
    some, scores, labels = nms_case(1)
    for form in ('picks', 'rounds'):
        kept = boxes.nms(some, scores, 0.5, 60, labels, form)
        np.testing.assert_array_equal(kept, nms_in_numpy(some, scores, 0.5, 60, labels))
    found = jax.jit(lambda scores: boxes.take(some, boxes.nms(some, scores, 0.5, 60, labels)))
    np.testing.assert_array_equal(found(scores), boxes.take(some, kept))


def test_what_boxes_have_is_taken():
    kept = jnp.int32([2, 0, -1])
    np.testing.assert_array_equal(boxes.take(jnp.int32([5, 6, 7]), kept, -1), [7, 5, -1])
    np.testing.assert_array_equal(boxes.take(jnp.float32([[5, 6], [6, 7], [7, 8]]), kept),
                                  [[7, 8], [5, 6], [0, 0]])


@pytest.mark.parametrize('form', ['picks', 'rounds'])
def test_a_chain_of_suppressions(form):
    """Every second box of a row stays: each that goes would have suppressed the next."""
    left = 4 * jnp.arange(20, dtype=jnp.float32)
    row = jnp.stack([left, 0 * left, left + 10, 0 * left + 10], -1)
    found = boxes.nms(row, -left, 0.4, 20, form=form)
    np.testing.assert_array_equal(found, [*range(0, 20, 2)] + 10 * [-1])


OVERLAPS = np.float32([[.9, .1, .5, 0, .29], [.2, .45, .65, .1, .05], [0, .2, .1, .25, 0]])


def match(overlaps, *options):
    """The matches alone."""
    matched, most = boxes.match(np.float32(overlaps), *options)
    np.testing.assert_array_equal(most, np.max(np.float32(overlaps), 0, initial=0))
    return matched.tolist()


@pytest.mark.parametrize(('options', 'expected'), [
    ((.3, .7, True), [0, -2, 1, 2, -1]),
    ((.3, .7, False), [0, -2, -2, -1, -1]),
    ((.5, .5, False), [0, -1, 1, -1, -1])])
def test_golden_matches(options, expected):
    assert match(OVERLAPS, *options) == expected


def test_an_anchor_that_is_the_best_of_a_truth_may_get_another():
    """The second truth's best anchor, the first, overlaps the first truth more: torchvision."""
    assert match([[.6, .75], [.5, .1]], .3, .7, True) == [0, 0]


def test_an_anchor_is_matched_with_the_first_of_truths_that_it_overlaps_equally():
    assert match([[.1, .8, .2], [.8, .8, .2], [.8, .8, .8]], .3, .7) == [1, 0, 2]


def test_all_that_tie_for_a_truth_are_matched_but_not_with_one_that_none_overlaps():
    overlaps = [[.4, .4, .2, 0, .4 * (1 - 1e-7)], [0, 0, 0, 0, 0], [-1] * 5]
    assert match(overlaps, .3, .7, True) == [0, 0, -1, -1, 0]
    assert match([[1e-9, 0, 0]], .3, .7, True) == [0, -1, -1]


@pytest.mark.parametrize('overlaps', [np.zeros((0, 3)), np.zeros((2, 3)), np.full((2, 3), -1.)])
def test_an_image_without_truths_is_background(overlaps):
    assert match(overlaps, .3, .7, True) == [-1] * 3


def test_ties_are_found_where_the_overlaps_are_computed():
    """The smallest shape that has the truth inside has the same overlap wherever it is."""
    truth = np.float32([[300.3, 300.7, 308.9, 309.1]])
    start = boxes.anchors(VGG16, (37, 62), (16, 16))
    found = jax.jit(lambda truth: boxes.match(boxes.iou(truth, start), .3, .7, True)[0])(truth)
    around = ((start[:, :2] <= truth[:, :2]) & (start[:, 2:] >= truth[:, 2:])).all(-1)
    sizes = np.where(around, boxes.area(start), np.inf)
    np.testing.assert_array_equal(found >= 0, sizes == sizes.min())
    assert (found >= 0).sum() > 20


@pytest.mark.parametrize(('positives', 'negatives', 'expected'), [
    (30, 60, (8, 16)), (3, 60, (3, 16)), (30, 4, (8, 12)), (0, 60, (0, 16)), (2, 3, (2, 5)),
    (0, 0, (0, 0)), (100, 0, (8, 8))])
def test_sample_counts(positives, negatives, expected):
    """(positives drawn, all drawn) of 16, at most half of them positive."""
    order = np.random.default_rng(2).permutation(100)
    positive, negative = order < positives, order >= 100 - negatives
    indices, chosen, used = sample16(jax.random.key(3), positive, negative)
    assert (chosen.sum(), used.sum()) == expected
    drawn = indices[used]
    assert len(set(drawn.tolist())) == len(drawn)
    np.testing.assert_array_equal(positive[drawn], chosen[used])
    np.testing.assert_array_equal(negative[drawn], ~chosen[used])
    assert used[:len(drawn)].all()
    assert not chosen[~used].any()


sample16 = jax.jit(functools.partial(boxes.sample, count=16, most=8))


def test_a_sample_may_be_larger_than_what_there_is():
    indices, chosen, used = boxes.sample(jax.random.key(0), np.array([True, False, False]),
                                         np.array([False, False, True]), 5, 4)
    np.testing.assert_array_equal(indices[used], [0, 2])
    np.testing.assert_array_equal(chosen, [True] + 4 * [False])


def test_samples_are_fair_and_the_same_on_any_number_of_devices():
    positive, negative = np.arange(20) < 12, np.arange(20) >= 12
    keys = jax.random.split(jax.random.key(4), 2000)

    def draw(keys):
        return jax.vmap(lambda key: boxes.sample(key, positive, negative, 7, 3))(keys)

    indices, _, used = jax.jit(draw)(keys)
    assert used.all()
    counts = np.bincount(np.ravel(indices), minlength=20) / len(keys)
    np.testing.assert_allclose(counts[:12], 3 / 12, atol=0.04)
    np.testing.assert_allclose(counts[12:], 4 / 8, atol=0.04)
    spread = jax.shard_map(draw, mesh=parallel.data_mesh(4), in_specs=P(parallel.AXIS),
                           out_specs=P(parallel.AXIS), check_vma=False)
    np.testing.assert_array_equal(jax.jit(spread)(keys)[0], indices)


def test_float32_under_strict_promotion_of_types():
    some, scores = np.float32(np.zeros((6, 4))), np.zeros(6, np.float32)
    mask, key = np.zeros(6, bool), jax.random.key(0)

    def run(some, scores, mask, key):
        overlaps = boxes.iou(some, some)
        floats = overlaps, boxes.encode(some, some), boxes.decode(some, some), boxes.clip(
            some, some[0]), boxes.anchors(some, (2, 3), (4, 4.5))
        return floats, (boxes.nms(some, scores, 0.5, 3),
                        boxes.nms(some, scores, 0.5, 3, mask, 'rounds'),
                        boxes.match(overlaps, 0.3, 0.7, True)[0],
                        boxes.sample(key, mask, mask, 4, 2))

    with jax.enable_x64(True), jax.numpy_dtype_promotion('strict'):
        floats, indices = jax.eval_shape(run, some, scores, mask, key)
    assert {str(array.dtype) for array in floats} == {'float32'}
    assert [str(array.dtype) for array in indices[:3]] == ['int32'] * 3
