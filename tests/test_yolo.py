"""YOLO v1: the loss against darknet's and the sheet's numbers, the layers, the detections.

The counts of parameters are in test_models.py, gradients of the network in test_gradients.py.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models, summary
from cnnjax.errors import UserError
from cnnjax.models import yolo
from cnnjax.tasks.task import WholeBatch
from tests.test_gradients import comparisons

SMALL = {'groups': ((3,), (3,)), 'widths': ((2,), (3,)), 'pools': 2}


def random(*shape, seed=0, type=np.float64):
    return np.random.default_rng(seed).normal(size=shape).astype(type)


def outputs_of(batch, cells, predictors, classes, image=(100, 100), seed=0):
    """Outputs in which some boxes, and all boxes of some cells, have no area."""
    rng = np.random.default_rng(seed)
    found = rng.uniform(-0.3, 1.2, (batch, cells, cells, predictors, 4))
    found[..., 2:] *= rng.integers(0, 4, found.shape[:-1] + (1,)) > 0
    found[..., 2:] *= rng.integers(0, 4, found.shape[:-2] + (1, 1)) > 0
    return jax.tree.map(np.float32, {
        'boxes': found, 'confidence': rng.normal(size=found.shape[:-1]),
        'classes': rng.normal(size=(batch, cells, cells, classes)),
        'image': np.tile(image, (batch, 1)), 'frame': np.tile((0, 0, *image), (batch, 1))})


def examples_of(found, labels, **others):
    keys = jax.random.split(jax.random.key(0), len(labels))
    return {'image': np.zeros((len(labels), 4, 4, 3), np.float32),
            'boxes': np.asarray(found, np.float32), 'labels': np.asarray(labels, np.int32),
            'keys': keys, **others}


def loss(net, outputs, examples):
    return net.loss(lambda images, **inputs: (outputs, {}, {}), examples, WholeBatch())


# The loss.

def golden():
    """The example of the sheet: 2 x 2 cells, 2 predictors, 2 classes."""
    outputs = jax.tree.map(np.zeros_like, outputs_of(1, 2, 2, 2))
    outputs['image'] += 100
    outputs['classes'][0, 1, 0] = 0.2, 0.7
    outputs['confidence'][0, 1, 0] = 0.4, 0.3
    outputs['confidence'][0, 0, 0] = 0.1, 0.2
    outputs['boxes'][0, 1, 0] = (0.5, 0.5, 0.6, 0.7), (0.6, 0.1, 0.7, 0.7)
    padding = [0, 0, 0, 0]
    return outputs, examples_of([[[10, 35, 50, 85], padding]], [[1, -1]])


def test_the_loss_of_an_example_computed_by_hand():
    value, (metrics, _) = loss(models.create('yolo_v1', num_classes=2), *golden())
    expected = {'loss': 0.45180344, 'xy_loss': 0.05, 'wh_loss': 0.02306381,
                'object_loss': 0.14373964, 'no_object_loss': 0.105, 'class_loss': 0.13,
                'iou': 0.67913010, 'left_out': 0}
    assert metrics.keys() == expected.keys()
    for name, number in expected.items():
        np.testing.assert_allclose(metrics[name], number, rtol=1e-5, err_msg=name)
    assert value == metrics['loss']
    value, _ = loss(models.create('yolo_v1', num_classes=2, loss_scale=0.5), *golden())
    np.testing.assert_allclose(value, 0.45180344 / 2, rtol=1e-6)


def darknets_delta(outputs, truth, classes):
    """What darknet's detection layer (src/detection_layer.c) passes back for one image, by its own
    loops: delta = scale * (truth - output). And the IoU of each object with its predictor's box.

    `truth` is {(row, column): (class, x, y, w, h)}, x and y within the cell.
    """
    cells, predictors = outputs['confidence'].shape[0], outputs['confidence'].shape[-1]
    delta = {name: np.zeros_like(outputs[name]) for name in ('boxes', 'confidence', 'classes')}
    ious = []
    for row in range(cells):
        for column in range(cells):
            delta['confidence'][row, column] = -0.5 * outputs['confidence'][row, column]
            if (row, column) not in truth:
                continue
            label, *box = truth[row, column]
            one_hot = np.arange(classes) == label
            delta['classes'][row, column] = one_hot - outputs['classes'][row, column]
            true = box[0] / cells, box[1] / cells, box[2], box[3]
            best, best_iou, best_rmse = 0, 0.0, 20.0
            for j in range(predictors):
                x, y, w, h = outputs['boxes'][row, column, j]
                own = x / cells, y / cells, w * w, h * h
                sides = [min(own[i] + own[i + 2] / 2, true[i] + true[i + 2] / 2)
                         - max(own[i] - own[i + 2] / 2, true[i] - true[i + 2] / 2) for i in (0, 1)]
                common = sides[0] * sides[1] if min(sides) > 0 else 0.0
                iou = common / (own[2] * own[3] + true[2] * true[3] - common)
                rmse = sum((a - b) ** 2 for a, b in zip(own, true, strict=True)) ** 0.5
                if best_iou > 0 or iou > 0:
                    if iou > best_iou:
                        best, best_iou = j, iou
                elif rmse < best_rmse:
                    best, best_rmse = j, rmse
            wanted = np.array([box[0], box[1], box[2] ** 0.5, box[3] ** 0.5])
            delta['boxes'][row, column, best] = 5 * (wanted - outputs['boxes'][row, column, best])
            delta['confidence'][row, column, best] = (
                best_iou - outputs['confidence'][row, column, best])
            ious.append(best_iou)
    return delta, ious


def test_the_gradient_is_twice_darknets_delta():
    """In float64, where some cells' boxes overlap their object and others' do not. Padding and
    images without objects have none."""
    cells, classes = 5, 3
    outputs = jax.tree.map(np.float64, outputs_of(4, cells, 3, classes))
    rng = np.random.default_rng(1)
    truths, found, labels = [], np.zeros((4, 6, 4)), np.full((4, 6), -1)
    for i, count in enumerate((6, 3, 0, 5)):
        places = rng.permutation(cells ** 2)[:count]
        truths.append({})
        for m, place in enumerate(places):
            row, column = divmod(int(place), cells)
            x, y = rng.uniform(0.1, 0.9, 2)
            w, h = rng.uniform(0.05, 0.5, 2)
            labels[i, m] = rng.integers(classes)
            truths[i][row, column] = labels[i, m], x, y, w, h
            centre = np.array([column + x, row + y]) / cells
            size = np.array([w, h])
            found[i, m] = 100 * np.concatenate([centre - size / 2, centre + size / 2])
    net = models.create('yolo_v1', num_classes=classes, loss_scale=0.5)
    with jax.enable_x64(True):
        examples = examples_of(found, labels)
        examples['boxes'] = found
        gradient = jax.grad(lambda parts: loss(net, outputs | parts, examples)[0])
        parts = {name: outputs[name] for name in ('boxes', 'confidence', 'classes')}
        ours = gradient(parts)
        assert not list(comparisons(jax.make_jaxpr(gradient)(parts).jaxpr))
    overlaps = []
    for i, truth in enumerate(truths):
        own = {name: array[i] for name, array in outputs.items()}
        theirs, ious = darknets_delta(own, truth, classes)
        overlaps += [iou > 0 for iou in ious]
        for name, array in theirs.items():
            np.testing.assert_allclose(ours[name][i], -array / 4, atol=1e-12, err_msg=name)
    assert 2 < sum(overlaps) < len(overlaps) - 2


def test_without_overlap_the_nearest_predictor_is_responsible():
    outputs, examples = golden()
    outputs['boxes'][0, 1, 0] = (0.5, 0.5, 0, 0.7), (9.0, 9.0, 0.7, 0.7)
    for order, first in ((slice(None), True), (slice(None, None, -1), False)):
        outputs['boxes'] = outputs['boxes'][..., order, :]
        cells, _ = yolo.assign(examples, outputs)
        iou, responsible = yolo.choose(outputs, cells)
        assert not iou[0, 1, 0].any()
        assert responsible.sum() == 1
        assert responsible[0, 1, 0, 0] == first


def test_a_cell_predicts_one_of_its_objects():
    """A random one; the others are counted. Objects of the last column and row have a cell too."""
    outputs = outputs_of(3, 2, 2, 4)
    found = [[[10, 10, 20, 20], [30, 30, 40, 40], [70, 0, 90, 10], [90, 90, 110, 110]]] * 3
    examples = examples_of(found, [[0, 1, 2, 3], [0, -1, 2, 3], [0, 1, 2, 3]])
    kept = set()
    for seed in range(8):
        examples['keys'] = jax.random.split(jax.random.key(seed), 3)
        cells, left_out = yolo.assign(examples, outputs)
        np.testing.assert_array_equal(left_out, [1, 0, 1])
        np.testing.assert_array_equal(cells.label[1], [[0, 2], [-1, 3]])
        for i in (0, 2):
            label = int(cells.label[i, 0, 0])
            kept.add((i, label))
            centre, size = [[0.15, 0.15], [0.35, 0.35]][label], [0.1, 0.1]
            np.testing.assert_allclose(cells.centre[i, 0, 0], centre, rtol=1e-6)
            np.testing.assert_allclose(cells.size[i, 0, 0], size, rtol=1e-6)
    assert kept == {(0, 0), (0, 1), (2, 0), (2, 1)}
    value, (metrics, _) = loss(models.create('yolo_v1', num_classes=4), outputs, examples)
    np.testing.assert_allclose(metrics['left_out'], 2 / 3, rtol=1e-6)
    assert np.isfinite(value)


def test_an_ignored_object_is_neither_an_object_nor_empty():
    """Its cell learns no confidence; with another object in the cell it changes nothing."""
    net, outputs = models.create('yolo_v1', num_classes=2), outputs_of(2, 2, 2, 2)
    examples = examples_of([[[10, 10, 20, 20], [60, 60, 90, 90]],
                            [[10, 10, 20, 20], [5, 5, 30, 20]]], [[0, 1], [0, 1]])
    ignore = np.array([[False, True], [False, True]])
    gradient = jax.grad(lambda parts, examples: loss(net, outputs | parts, examples)[0])
    parts = {name: np.float32(outputs[name]) for name in ('boxes', 'confidence', 'classes')}
    found = gradient(parts, examples | {'ignore': ignore})
    plain = gradient(parts, examples | {'labels': np.array([[0, -1], [0, -1]])})
    for name in parts:
        assert not found[name][0, 1, 1].any()
        np.testing.assert_array_equal(found[name][1], plain[name][1])
        np.testing.assert_array_equal(found[name][0, 0], plain[name][0, 0])
    assert plain['confidence'][0, 1, 1].all()


# The layers.

def test_maps_and_multiply_adds():
    """Those of the sheet, for 448 x 448 pixels."""
    for name, fields, expected in (
            ('yolo_v1', {}, 20_285_153_280), ('yolo_v1_fast', {}, 2_418_728_960),
            ('yolo_v1_local', {}, 20_210_729_728),
            ('yolo_v1_local', {'predictors': 2}, 20_207_656_448),
            ('yolo_v1', {'hidden': (512, 4096)}, 20_107_419_648),
            ('yolo_v1_fast', HEAD_TINY, 1_608_015_360),
            ('yolo_v1_classifier', {}, 4_210_188_288)):
        assert summary.summarize(models.create(name, **fields)).multiply_adds == expected, name
    rows = {row.name: row for row in summary.summarize(models.create('yolo_v1')).rows}
    assert [rows[name].shape[0] for name in ('conv1_1', 'pool1', 'pool2', 'pool3', 'pool4',
                                             'conv5_5', 'conv5_6', 'conv6_2')] == [
        224, 112, 56, 28, 14, 14, 7, 7]
    assert sum(name.startswith('conv') for name in rows) == 24
    assert rows['detection'].shape == (1470,)


HEAD_TINY = {'groups': ((3,),) * 6 + ((3, 3),), 'hidden': (), 'norm': 'batch', 'dropout': 0.0,
             'widths': ((16,), (32,), (64,), (128,), (256,), (512,), (1024, 256))}


@functools.cache
def applied(name, **fields):
    net = models.create(name, **SMALL, **{'num_classes': 3, 'strided': (), **fields})
    x = random(2, 8, 8, 3, type=np.float32)
    shapes = jax.eval_shape(net.init, jax.random.key(0), x)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: np.float32(rng.uniform(-0.5, 0.9, leaf.shape)), shapes)
    return variables, *jax.tree.map(np.asarray, jax.jit(net.apply)(variables, x))


def leaky(x):
    return np.where(x > 0, x, 0.1 * x)


def test_the_order_of_the_layers():
    """The first of two hidden layers is linear in Fast YOLO; the outputs of a kind lie together."""
    variables, outputs, taps = applied('yolo_v1_fast', cells=2, predictors=2, hidden=(4, 5))
    params = variables['params']

    def dense(name, x):
        return x @ params[name]['kernel'] + params[name]['bias']

    np.testing.assert_allclose(taps['relu2_1'], leaky(taps['conv2_1']), rtol=1e-6)
    np.testing.assert_allclose(taps['fc2'], dense('fc2', taps['fc1']), rtol=1e-5)
    np.testing.assert_allclose(taps['detection'], dense('detection', leaky(taps['fc2'])),
                               rtol=1e-5)
    assert 'relu_fc1' not in taps
    flat = taps['detection']
    assert flat.shape == (2, 4 * (3 + 2 + 8))
    np.testing.assert_array_equal(outputs['classes'][:, 1, 0], flat[:, 6:9])
    np.testing.assert_array_equal(outputs['confidence'][:, 1, 0], flat[:, 12 + 4:12 + 6])
    np.testing.assert_array_equal(outputs['boxes'][:, 1, 0, 1], flat[:, 20 + 20:20 + 24])


def test_a_locally_connected_layer_has_a_kernel_for_each_place():
    variables, _, taps = applied('yolo_v1_local', local=4, cells=2)
    params = variables['params']['local']
    x = np.pad(taps['pool2'], ((0, 0), (1, 1), (1, 1), (0, 0)))
    for row in range(2):
        for column in range(2):
            seen = x[:, row:row + 3, column:column + 3].transpose(0, 3, 1, 2).reshape(2, -1)
            np.testing.assert_allclose(
                taps['local'][:, row, column],
                seen @ params['kernel'][row, column] + params['bias'][row, column], rtol=1e-4)
    np.testing.assert_allclose(taps['relu_local'], leaky(taps['local']), rtol=1e-6)


def test_a_convolution_as_the_head_has_an_output_for_each_place():
    variables, outputs, taps = applied('yolo_v1_small', predictors=2)
    kernel, bias = (variables['params']['detection'][name] for name in ('kernel', 'bias'))
    expected = taps['pool2'] @ kernel[0, 0] + bias
    got = np.concatenate([outputs['classes'], outputs['confidence'],
                          outputs['boxes'].reshape(2, 2, 2, 8)], -1)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    np.testing.assert_array_equal(outputs['frame'], [[0, 0, 8, 8]] * 2)
    net = models.create('yolo_v1_small')
    assert [n for n in range(1, 30) if net.fits(n)] == [8, 16, 24]
    with pytest.raises(UserError, match='at least 8 x 8'):
        jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 7, 64, 3)))
    with pytest.raises(UserError, match="'none' or 'batch', not 'frozen'"):
        jax.eval_shape(net.clone(norm='frozen').init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    with pytest.raises(UserError, match='a width for each convolution'):
        jax.eval_shape(models.create('yolo_v1', widths=((3,),) * 6).init, jax.random.key(0),
                       jnp.zeros((1, 448, 448, 3)))


def test_the_initialization_of_darknet():
    """Weights within the square root of 2 / fan-in, which is also the bias of full layers."""
    net = models.create('yolo_v1', **SMALL, strided=(), hidden=(50,), local=4)
    params = jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))['params']
    for name, fan_in in (('conv2_1', 9 * 2), ('local', 9 * 3), ('fc1', 64), ('detection', 50)):
        bound = (2 / fan_in) ** 0.5
        kernel = params[name]['kernel']
        assert 0.8 * bound < abs(kernel).max() <= bound
        bias = 0 if name in ('conv2_1', 'local') else bound
        np.testing.assert_allclose(params[name]['bias'], bias, rtol=1e-6)


def test_a_detector_starts_from_the_classifier():
    net = models.create('yolo_v1', norm='batch')
    source = models.create('yolo_v1_classifier', norm='batch')
    shapes = jax.eval_shape(source.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    like, variables = net.adopt(source, shapes)
    assert like == net
    own = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 448, 448, 3)))
    for collection, count in (('params', 40), ('batch_stats', 20)):
        assert len(variables[collection]) == count
        for name, layer in variables[collection].items():
            assert jax.tree.map(jnp.shape, layer) == jax.tree.map(jnp.shape, own[collection][name])
    assert models.create('yolo_v1').adopt(source, shapes)[0].norm == 'batch'  # It is refused.
    assert net.adopt(models.create('vgg16'), shapes) is None
    assert net.adopt(net, shapes) == (net, shapes)


# The detections.

def test_detections():
    """Greedy suppression within each class, by numpy; at most so many, clipped to the frame."""
    net = models.create('yolo_v1', num_classes=3, max_detections=9, score_threshold=0.1,
                        nms=0.4)
    outputs = outputs_of(2, 3, 2, 3, image=(90, 60))
    outputs['frame'] = np.float32([[0, 0, 90, 60], [0, 0, 70, 60]])
    outputs |= {name: abs(outputs[name]) for name in ('confidence', 'classes')}
    outputs['confidence'][:, 0] *= -1
    found = jax.jit(net.detections)(outputs)
    more = []
    for i in range(2):
        candidates = []
        for row, column, j in np.ndindex(3, 3, 2):
            x, y, w, h = outputs['boxes'][i, row, column, j]
            x, y, w, h = (column + x) * 30, (row + y) * 20, w * w * 90, h * h * 60
            box = np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
            for label, p in enumerate(outputs['classes'][i, row, column]):
                score = max(outputs['confidence'][i, row, column, j], 0) * p
                if score > 0.1:
                    candidates.append((score, label, box))
        kept = []
        for score, label, box in sorted(candidates, key=lambda each: -each[0]):
            if all(label != other or overlap(box, theirs) <= 0.4 for _, other, theirs in kept):
                kept.append((score, label, box))
        more.append(len(kept) - 9)
        kept = kept[:9]
        np.testing.assert_array_equal(found['labels'][i], [label for _, label, _ in kept])
        np.testing.assert_allclose(found['scores'][i], [score for score, _, _ in kept], rtol=1e-5)
        right = 90 - 20 * i
        np.testing.assert_allclose(found['boxes'][i], [
            np.clip(box, 0, [right, 60, right, 60]) for _, _, box in kept], rtol=1e-4, atol=1e-4)
    assert min(more) > 0


def overlap(a, b):
    sides = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
    common = sides.prod()
    union = (a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - common
    return common / union if union > 0 else 0


def test_an_image_without_detections():
    net = models.create('yolo_v1', num_classes=3)
    outputs = outputs_of(1, 3, 2, 3)
    outputs['confidence'] = -abs(outputs['confidence'])
    found = net.detections(outputs)
    assert found['boxes'].shape == (1, 100, 4)
    assert not found['boxes'].any()
    assert not found['scores'].any()
    assert (found['labels'] == -1).all()


def test_scores_of_half_precision_are_multiplied_in_float32():
    """Rounded to bfloat16, both would be 0.9921875."""
    net = models.create('yolo_v1', num_classes=1, nms=1.0, max_detections=2)
    outputs = jax.tree.map(np.zeros_like, outputs_of(1, 2, 1, 1))
    outputs['confidence'][0, 0, :, 0] = 0.99609375, 0.9921875
    outputs['classes'][0, 0, :, 0] = 0.99609375, 1.0
    half = outputs | {name: jnp.asarray(outputs[name], jnp.bfloat16)
                      for name in ('confidence', 'classes')}
    np.testing.assert_array_equal(net.detections(half)['scores'], [[0.99609375 ** 2, 0.9921875]])
