"""The R-CNN family: against torchvision's (golden/detectors.py), by hand, and on eight scenes."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy
from flax import traverse_util

from cnnjax import boxes, counterparts, detection, models, summary, transfer, weights
from cnnjax.data import digit_scenes
from cnnjax.errors import UserError
from cnnjax.tasks.task import WholeBatch
from cnnjax.trained import Trained
from tests.golden import detectors, gradients
from tests.test_gradients import comparisons

SMALL = {'widths': (2, 3, 4), 'hidden': (5,), 'rpn_width': 4, 'pooled': 2}
VGG = {'groups': ((3,), (3, 3)), 'widths': (3, 4), 'hidden': (6, 5), 'pooled': 2}
FIELDS = {'blocks': (1, 1, 1, 1), 'widths': (1, 1, 1, 1), 'rpn_width': 2, 'hidden': (3, 3)}


@pytest.fixture(scope='module')
def golden():
    with np.load(detectors.GOLDEN) as file:
        return dict(file)


def test_an_evaluation_is_torchvisions_stage_by_stage(golden):
    """Two images of different shapes on one canvas, with strides that are not the paper's."""
    with jax.enable_x64(True):
        net, variables = detectors.network(detectors.NARROW)
        found = jax.device_get(detectors.ours(net, variables))
    stages = detectors.summary(found[name] for name in detectors.STAGES)
    np.testing.assert_allclose(stages, golden['stages'], rtol=1e-10, atol=1e-9)
    for name in ('proposals', 'boxes', 'scores'):
        np.testing.assert_allclose(found[name], golden[name], atol=1e-9)
    np.testing.assert_array_equal(found['labels'], golden['labels'])
    assert (found['labels'] >= 0).all()


def loss_of(net, variables, examples):
    """(parameters -> (loss, parts), the parameters)"""
    def loss(params):
        def apply(images, **arguments):
            (outputs, taps), changed = net.apply(
                {**variables, 'params': params}, images, train=True, mutable=['batch_stats'],
                rngs={'dropout': jax.random.key(0)}, **arguments)
            return outputs, taps, changed.get('batch_stats', {})

        value, (metrics, _) = net.loss(apply, examples, WholeBatch())
        return value, metrics

    return loss, variables['params']


def test_losses_and_gradients_are_torchvisions(golden):
    """With a gradient through the proposals, or another choice of regions, they would differ."""
    with jax.enable_x64(True):
        counts = dict(zip(('rpn_count', 'roi_count'), golden['counts'].tolist(), strict=True))
        net, variables = detectors.network({**detectors.NARROW, **counts, 'rpn_share': 1.0,
                                            'roi_share': 1.0})
        height, width = detectors.SIZES[0]
        loss, params = loss_of(net, variables, {
            'image': detectors.inputs()[0][:1, :height, :width], 'boxes': detectors.TRUTH[None],
            'labels': np.int32(detectors.LABELS)[None], 'keys': jax.random.key(0)[None]})
        traced = jax.jit(jax.grad(loss, has_aux=True)).trace(params)
        found, parts = traced.lower().compile()(params)
    assert not list(comparisons(traced.jaxpr.jaxpr))
    value = parts.pop('loss')
    np.testing.assert_allclose(
        [parts[name] for name in ('rpn_class_loss', 'rpn_box_loss', 'class_loss', 'box_loss')],
        golden['losses'], rtol=1e-7)  # torchvision's first is a float32
    assert value == pytest.approx(golden['losses'].sum())
    ours = gradients.numbers(traverse_util.flatten_dict(found, sep='/'))
    theirs = golden['gradients']
    errors = np.abs(ours - theirs) / np.maximum(theirs[:, :1], 1e-3 * theirs[:, :1].max())
    assert errors.max() < 1e-10


def test_anchors_of_caffe():
    """Those of py-faster-rcnn's generate_anchors, whose right and bottom pixels are inside."""
    found = detection.anchor_shapes('caffe', (128, 256, 512), (0.5, 1, 2), 16)
    np.testing.assert_array_equal(found - jnp.array([[0, 0, 1, 1]]), [
        [-84, -40, 99, 55], [-176, -88, 191, 103], [-360, -184, 375, 199], [-56, -56, 71, 71],
        [-120, -120, 135, 135], [-248, -248, 263, 263], [-36, -80, 51, 95], [-80, -168, 95, 183],
        [-168, -344, 183, 359]])


def test_anchors_of_torchvision():
    found = detection.anchor_shapes('torchvision', (32,), (0.5, 1, 2), 4)
    np.testing.assert_array_equal(found, [[-23, -11, 23, 11], [-16] * 2 + [16] * 2,
                                          [-11, -23, 11, 23]])


def truth(*rows, ignored=()):
    """A Truth of rows (left, top, right, bottom, label) and of ignored boxes, with padding."""
    rows, ignored = [[*rows, [0, 0, 0, 0, -1]], [*ignored, [0, 0, 0, 0]]]
    examples = {'boxes': np.float32([row[:4] for row in rows] + ignored),
                'labels': np.int32([row[4] for row in rows] + [7] * len(ignored)),
                'ignore': np.array([False] * len(rows) + [True] * len(ignored))}
    return detection.truth(jax.tree.map(jnp.asarray, examples))


def test_the_loss_of_the_rpn_is_equation_1():
    """L({p_i}, {t_i}) by hand: an object of IoU 0.8, whose deltas are off by 0.5 and 2 pixels'
    worth, and two places of background, all of which are sampled."""
    anchors = np.float32([[0, 0, 10, 10], [40, 40, 50, 50], [90, 90, 100, 100], [90, 90, 110, 110]])
    objects, p = truth([0, 0, 10, 8, 3]), np.array([0.9, 0.2, 0.6, 0.5])
    targets = np.array([0, -0.1, 0, np.log(0.8)])
    outputs = {'anchors': jnp.asarray(anchors), 'frame': jnp.array([0., 0, 100, 100]),
               'objectness': jnp.asarray(np.log(p / (1 - p)), jnp.float32),
               'rpn_deltas': jnp.zeros((4, 4)).at[0].set(jnp.asarray(
                   targets + [0.5, 0, 0, -2], jnp.float32))}
    rules = detection.Sampling(256, 0.5, 0.3, 0.7, low_quality=True)
    losses = jax.jit(functools.partial(
        detection.proposal_losses, jax.random.key(0), truth=objects, rules=rules, beta=1.0),
        static_argnames='outside')
    # The last anchor leaves the frame, which the one before it touches.
    found = losses(outputs, outside=False)
    expected = -np.log(0.9) - np.log(0.8) - np.log(0.4)
    assert float(found['rpn_class_loss']) == pytest.approx(expected / 256, rel=1e-5)
    assert float(found['rpn_box_loss']) == pytest.approx((0.5 * 0.5 ** 2 + 1.5) / 256, rel=1e-5)
    found = losses(outputs, outside=True)
    assert float(found['rpn_class_loss']) == pytest.approx((expected - np.log(0.5)) / 256, rel=1e-5)


def given_outputs(net, **changes):
    """(apply, examples) of one image, with an object in it and any outputs of the network."""
    count = 16 * 16 * 9
    corners = np.random.default_rng(0).uniform(0, 40, (count + net.roi_count, 2))
    found = np.float32(np.concatenate([corners, corners + [[12, 19]]], 1))
    outputs = {'anchors': found[None, :count], 'regions': found[None, count:],
               'objectness': np.zeros((1, count), np.float32),
               'rpn_deltas': np.zeros((1, count, 4), np.float32),
               'logits': np.zeros((1, net.roi_count, 11), np.float32),
               'deltas': np.zeros((1, net.roi_count, 11, 4), np.float32),
               'frame': np.float32([[0, 0, 64, 64]])}
    examples = {'image': np.zeros((1, 64, 64, 3)), 'boxes': np.float32([[[10, 10, 22, 29]]]),
                'labels': np.int32([[4]]), 'keys': jax.random.key(0)[None]}
    return (lambda images, choose: ({**outputs, **changes}, {}, {})), examples


def test_lambda_its_normalizer_and_what_learns():
    """The paper's lambda is 10, over the locations of the map instead of the sampled anchors. Those
    outside the frame do not count."""
    net = models.create('faster_rcnn_small')
    variants = [net, net.clone(rpn_lambda=10.0, rpn_normalizer='locations'),
                net.clone(learns='rpn'), net.clone(learns='head')]

    @jax.jit
    def losses():
        apply, examples = given_outputs(net)
        half, _ = given_outputs(net, frame=np.float32([[0, 0, 64, 32]]))
        return [each.loss(apply, examples, WholeBatch())[1][0] for each in variants] + [
            variants[1].loss(half, examples, WholeBatch())[1][0]]

    released, paper, rpn, head, half = losses()
    assert all(value > 0 for value in released.values())
    # 64 sampled anchors, 16 x 16 locations.
    assert paper['rpn_box_loss'] / released['rpn_box_loss'] == pytest.approx(10 * 64 / 256)
    assert half['rpn_box_loss'] / released['rpn_box_loss'] == pytest.approx(10 * 64 / 128)
    assert paper['rpn_class_loss'] == released['rpn_class_loss']
    assert rpn.keys() == {'loss', 'rpn_class_loss', 'rpn_box_loss'}
    assert head.keys() == {'loss', 'class_loss', 'box_loss'}
    assert float(rpn['loss'] + head['loss']) == pytest.approx(float(released['loss']))


@pytest.mark.parametrize(('name', 'fields', 'message'), [
    ('fast_rcnn_vgg16', {'learns': 'rpn'}, 'this network has no RPN'),
    ('faster_rcnn_small', {'anchor_sizes': ()}, 'anchor_sizes=.*take something like'),
    ('faster_rcnn_small', {'anchor_sizes': (8, 16)}, r'take something like \(\(11, 17, 25\),\)'),
    ('faster_rcnn_small', {'anchor_sizes': ((8,), (16,))}, 'sizes for each of its maps, 1'),
    ('faster_rcnn_resnet50_fpn', {'anchor_sizes': ((8,),)}, 'sizes for each of its maps, 5'),
    ('faster_rcnn_resnet50_fpn', {'anchor_sizes': ((8,), (8, 9)) + ((8,),) * 3}, 'share an RPN'),
    ('faster_rcnn_small', {'rpn_iou': (0.7, 0.3)}, 'rpn_iou=.*: the first must not be above'),
    ('faster_rcnn_small', {'rpn_iou': (0.5,)}, r'rpn_iou=\(0.5,\): give 2 numbers'),
    ('faster_rcnn_small', {'rpn_before': (1, 2, 3)}, 'rpn_before=.*: give 2 numbers'),
    ('faster_rcnn_small', {'rpn_after': ()}, 'rpn_after=.*: give 2 numbers'),
    ('faster_rcnn_small', {'roi_count': 10 ** 9}, 'take 65536 or a smaller number'),
    ('faster_rcnn_small', {'pooling': 'warp'}, "pooling='warp' is for given proposals"),
    ('faster_rcnn_resnet50_fpn', {'pooling': 'max'}, "a pyramid takes 'align'")])
def test_fields_that_do_not_fit_together_are_refused(name, fields, message):
    with pytest.raises(UserError, match=f'{name}: .*{message}'):
        models.create(name, **fields)


def test_ignored_objects_are_neither_learned_nor_background():
    candidates = jnp.array([[0., 0, 10, 10], [20, 20, 30, 30], [21, 21, 29, 29], [20, 20, 60, 60],
                            [0, 0, 0, 0]])
    rules = detection.Sampling(8, 0.5, 0.5, 0.5)
    matched, overlap = jax.jit(detection.assign, static_argnums=2)(candidates, truth(
        [0, 0, 10, 10, 1], ignored=[[20, 20, 30, 30]]), rules)
    # The fourth is larger than the ignored object, most of it is background; the last is padding.
    np.testing.assert_array_equal(matched, [0, -2, -2, -1, -2])
    np.testing.assert_array_equal(overlap, [1, 0, 0, 0, 0])


def test_regions_are_proposals_and_true_boxes():
    """Half of the places are for objects, and background overlaps an object by 0.1 at least."""
    objects = truth([0, 0, 10, 10, 1], [50, 50, 70, 70, 2])
    proposals = jnp.array([[0., 0, 10, 8], [0, 0, 10, 30], [80, 80, 90, 90], [0, 0, 0, 0]])
    rules = detection.Sampling(6, 0.5, 0.5, 0.5, 0.1)
    choose = jax.jit(detection.choose, static_argnums=3)
    regions = np.asarray(choose(jax.random.key(0), proposals, objects, rules))
    assert sorted(map(tuple, regions)) == [
        (0, 0, 0, 0), (0, 0, 0, 0), (0, 0, 10, 8), (0, 0, 10, 10), (0, 0, 10, 30), (50, 50, 70, 70)]
    two = detection.Sampling(2, 0.5, 0.5, 0.5)
    drawn = {tuple(map(tuple, np.asarray(choose(jax.random.key(seed), proposals, objects, two))))
             for seed in range(8)}
    assert len(drawn) > 2
    assert all(sum(region in {(0, 0, 10, 8), (0, 0, 10, 10), (50, 50, 70, 70)}
                   for region in regions) == 1 for regions in drawn)


def test_detections_by_hand():
    """Two classes of the second region, of which one box is suppressed by the first region's."""
    logits = jnp.log(jnp.array([[0.1, 0.8, 0.1], [0.2, 0.5, 0.3], [0.95, 0.03, 0.02], [0, 1, 0]]))
    regions = jnp.array([[0., 0, 10, 10], [0, 0, 10, 9], [30, 30, 40, 40], [0, 0, 0, 0]])
    deltas = jnp.zeros((4, 3, 4)).at[1, 2, 0].set(10.0)  # moved by its width
    found = jax.jit(functools.partial(detection.detect, least=0.05, threshold=0.5, count=4))(
        logits, deltas, regions, jnp.array([0., 0, 15, 20]))
    np.testing.assert_array_equal(found['labels'], [0, 1, 1, -1])
    np.testing.assert_allclose(found['scores'], [0.8, 0.3, 0.1, 0], rtol=1e-5)
    np.testing.assert_allclose(found['boxes'], [[0, 0, 10, 10], [10, 0, 15, 9], [0, 0, 10, 10],
                                                [0, 0, 0, 0]], atol=1e-5)


def scenes(count):
    """A batch of digit scenes, as a training has them."""
    source = digit_scenes.load('train', 'boxes')
    examples = [source.examples[i] for i in range(count)]
    batch = {name: np.stack([each[name] for each in examples]) for name in examples[0]}
    return {**batch, 'image': np.float32(batch['image']) / 127.5 - 1,
            'keys': jax.random.split(jax.random.key(0), count)}


def drawn(net, side):
    """Variables of a network for images of that side."""
    def draw(path, leaf):
        values = gradients.draw('/'.join(key.key for key in path), leaf.shape)
        return np.float32(values ** 2 if path[-1].key == 'var' else values)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(
        net.init, jax.random.key(0), jnp.zeros((1, side, side, 3))))


def started(net, source, variables, side):
    """(the names of the layers that are new, the outputs of `net` for noise): it starts from the
    network `source`."""
    found = transfer.adopted(net, Trained(source, variables, None, (), (side, side, 3), None), '')
    transfer.check_network(net, found, '')
    own = drawn(net, side)
    new = transfer.layers(own) - transfer.layers(found.variables)
    merged = transfer.carry_over(own, found.variables, new, '')
    images = gradients.draw('images', (1, side, side, 3)).astype(np.float32)
    return new, jax.jit(net.apply)(merged, images)[1], jax.jit(source.apply)(variables, images)[1]


def test_a_detector_starts_from_a_classifier():
    """Their maps are the same, also without the biases before batch normalization."""
    classifier = models.create('vgg11_bn', **{**VGG, 'pooled': None})
    variables = drawn(classifier, 8)
    for norm in ('none', 'batch', 'frozen'):
        net = models.create('fast_rcnn_vgg16', **VGG, norm=norm)
        new, ours, theirs = started(net, classifier, variables, 8)
        assert new == {'cls_score', 'bbox_pred'}
        np.testing.assert_allclose(ours['relu2_2'], theirs['relu2_2'], rtol=1e-4)
    small = models.create('faster_rcnn_small', **{**SMALL, 'groups': VGG['groups'],
                                                  'widths': (3, 4)})
    assert started(small, classifier, variables, 8)[0] == {
        'fc6', 'cls_score', 'bbox_pred', 'rpn_conv', 'rpn_cls_score', 'rpn_bbox_pred'}


@pytest.mark.parametrize('scan', [False, True])
def test_a_pyramid_starts_from_a_resnet(scan):
    fields = {'blocks': (1, 2), 'widths': (2, 3)}
    classifier = models.create('resnet50', **fields, scan=scan)
    net = models.create('faster_rcnn_resnet50_fpn', **fields, rpn_width=2, hidden=(3,),
                        anchor_sizes=((8,), (16,), (32,)))
    new, ours, theirs = started(net, classifier, drawn(classifier, 16), 16)
    assert {name.rstrip('0123456789') for name in new} == {
        'lateral', 'p', 'rpn_conv', 'rpn_cls_score', 'rpn_bbox_pred', 'fc', 'cls_score',
        'bbox_pred'}
    np.testing.assert_allclose(ours['conv3_2'], theirs['conv3_2'], rtol=1e-5)


def test_detectors_start_from_each_other():
    faster = models.create('faster_rcnn_vgg16', **VGG, rpn_width=3, num_classes=3)
    fast = models.create('fast_rcnn_vgg16', **VGG, rpn_width=3, num_classes=3)
    rpn = {'rpn_conv', 'rpn_cls_score', 'rpn_bbox_pred'}
    for net, source, expected in ((fast, faster, set()), (faster, fast, rpn)):
        new, ours, theirs = started(net, source, drawn(source, 8), 8)
        assert new == expected
        np.testing.assert_array_equal(ours['relu2_2'], theirs['relu2_2'])
    with pytest.raises(UserError, match='widths'):
        started(fast.clone(widths=(5, 4)), faster, drawn(faster, 8), 8)
    with pytest.raises(UserError, match='starts from one like itself or like vgg16'):
        started(fast, models.create('convnet'), drawn(models.create('convnet'), 8), 8)


def test_nothing_outside_the_frame_matters():
    net = models.create('faster_rcnn_small', **SMALL, rpn_before=(40, 40))
    variables, frame = drawn(net, 16), np.float32([[0, 0, 16, 11]])
    images = np.float32(gradients.draw('images', (1, 16, 16, 3)))
    apply = jax.jit(net.apply)
    one, other = (apply(variables, np.where(np.arange(16)[:, None, None] < 11, images, rest),
                        frame=frame)[0] for rest in (0.0, 5.0))
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert one['proposals'][..., 3].max() <= 11
    assert one['proposals'].any()


def test_while_the_rpn_learns_its_proposals_are_the_detections():
    net = models.create('faster_rcnn_small', **SMALL, learns='rpn', max_detections=5)
    images = np.float32(gradients.draw('images', (1, 16, 16, 3)))

    @jax.jit
    def run(variables):
        outputs, _ = net.apply(variables, images)
        return outputs, net.detections(outputs)

    outputs, found = run(drawn(net, 16))
    np.testing.assert_array_equal(found['boxes'], outputs['proposals'][:, :5])
    np.testing.assert_array_equal(found['labels'], 0)
    assert (np.diff(found['scores']) <= 0).all()


def test_given_proposals_are_judged_and_padding_is_not():
    net = models.create('fast_rcnn_vgg16', **VGG, rpn_width=3, score_threshold=0.0)
    variables = drawn(net, 16)
    images = np.float32(gradients.draw('images', (1, 16, 16, 3)))
    given = np.float32([[[2, 3, 9, 12], [0, 0, 16, 16], [0, 0, 0, 0]]])
    outputs, _ = jax.jit(net.apply)(variables, images, proposals=given)
    np.testing.assert_array_equal(outputs['regions'], given)
    found = jax.jit(net.detections)(outputs)
    assert (found['labels'] >= 0).sum() <= 2 * 20
    whole, _ = jax.jit(net.apply)(variables, images)
    np.testing.assert_allclose(whole['logits'][:, 0], outputs['logits'][:, 1], rtol=1e-5)


def test_rcnn_sees_pixels_around_a_proposal():
    """Of a ramp, a warped image of 8 pixels for 4 would be so: but 16 around it are of 224."""
    net = models.create('rcnn_vgg16', **{**VGG, 'pooled': 20})
    side = 80
    ramp = np.float32(np.arange(100)[:, None, None] + np.zeros((100, 100, 3)))[None]
    seen = []

    def intercept(call, args, options, context):
        if context.module.name == 'conv1_1' and context.method_name == '__call__':
            seen.append(args[0])
        return call(*args, **options)

    variables = drawn(net, 100)
    with nn.intercept_methods(intercept):
        net.apply(variables, ramp, proposals=np.float32([[[20, 30, 44, 78], [0, 0, 0, 0]]]))
    crops = seen[0]
    assert crops.shape == (2, side, side, 3)
    # 48 pixels are 48 of the 80, with 16 on either side; a pixel's centre is at 0.5.
    np.testing.assert_allclose(crops[0, :, 40, 0], np.arange(side) + 30 - 16, atol=1e-3)


def test_multiply_adds():
    """torchvision tells 134.38 G of 800 x 800 pixels. Of 600 x 1000 pixels Caffe's pools leave
    38 x 63 places, not 37 x 62, to the last three convolutions and to the RPN."""
    fpn = summary.summarize(models.create('faster_rcnn_resnet50_fpn'), (800, 800, 3))
    assert fpn.multiply_adds == 134_379_721_216
    vgg = summary.summarize(models.create('faster_rcnn_vgg16'), (600, 1000, 3))
    places = 38 * 63, 37 * 62
    assert vgg.multiply_adds == (
        183_161_475_072 + (places[0] - places[1]) * 3 * 9 * 512 ** 2
        + 5_475_649_536 // places[1] * places[0] + 300 * 119_967_744)


def test_weights_of_torchvision(tmp_path):
    """Names of both generations; only the old one's networks normalize without an epsilon. The
    outputs of background are no class."""
    net = models.create('faster_rcnn_resnet50_fpn', **FIELDS, num_classes=3)
    layout = {name: shape for name, shape in weights.layout(
        'faster_rcnn_resnet50_fpn', (64, 64, 3), **FIELDS, num_classes=3).items() if shape}
    tensors = {name: np.float32(gradients.draw(name, shape) ** 2)
               for name, shape in layout.items()}
    assert tensors['roi_heads.box_predictor.cls_score.weight'].shape == (4, 3)
    older = {name.replace('_blocks.0.0.', '_blocks.0.').replace('_blocks.1.0.', '_blocks.1.')
             .replace('_blocks.2.0.', '_blocks.2.').replace('_blocks.3.0.', '_blocks.3.')
             .replace('conv.0.0.', 'conv.'): value for name, value in tensors.items()}
    assert 'backbone.fpn.inner_blocks.3.weight' in older
    assert 'rpn.head.conv.bias' in older
    loaded = []
    for given in (tensors, older):
        safetensors.numpy.save_file(given, tmp_path / 'weights.safetensors')
        loaded.append(weights.load('faster_rcnn_resnet50_fpn', tmp_path / 'weights.safetensors',
                                   **FIELDS))
    new, old = loaded
    assert (new.net.epsilon, old.net.epsilon) == (1e-5, 0)
    assert new.net == net
    jax.tree.map(np.testing.assert_array_equal, new.variables, old.variables)
    assert new.evaluation == {'task': 'detect', 'fit': 'letterbox', 'image_size': 1333,
                              'test_shorter_side': 800, 'interpolation': 'bilinear'}
    kernel = new.variables['params']['fc6']['kernel'].reshape(7, 7, 2, 3)
    np.testing.assert_array_equal(
        kernel.transpose(3, 2, 0, 1).reshape(3, -1), tensors['roi_heads.box_head.fc6.weight'])
    assert len(counterparts.COCO) == 90
    assert counterparts.COCO[0] == 'person'
    assert counterparts.COCO.count('N/A') == 10


def test_six_scenes_are_learned():
    """So the small network, both losses and the detections work together."""
    net, examples = models.create('faster_rcnn_small'), scenes(6)
    variables = jax.jit(net.init)(jax.random.key(0), examples['image'])
    tx = optax.chain(optax.clip_by_global_norm(5.0), optax.adam(3e-3))

    @jax.jit
    def update(i, state):
        variables, opt_state = state
        keys = jax.vmap(jax.random.fold_in, (0, None))(examples['keys'], i)

        def loss(params):
            def apply(images, **arguments):
                (outputs, taps), changed = net.apply(
                    {**variables, 'params': params}, images, train=True, mutable=['batch_stats'],
                    **arguments)
                return outputs, taps, changed['batch_stats']

            return net.loss(apply, {**examples, 'keys': keys}, WholeBatch())

        grads, (_, stats) = jax.grad(loss, has_aux=True)(variables['params'])
        updates, opt_state = tx.update(grads, opt_state)
        return {'params': optax.apply_updates(variables['params'], updates),
                'batch_stats': stats}, opt_state

    state = variables, tx.init(variables['params'])
    for i in range(60):
        state = update(i, state)
    found = jax.device_get(jax.jit(
        lambda variables: net.detections(net.apply(variables, examples['image'])[0]))(state[0]))
    seen = []
    for i, labels in enumerate(examples['labels']):
        overlaps = np.asarray(boxes.iou(examples['boxes'][i], found['boxes'][i]))
        right = (overlaps > 0.5) & (labels[:, None] == found['labels'][i])
        seen += np.where(right, found['scores'][i], 0).max(1)[labels >= 0].tolist()
    assert np.mean(np.array(seen) > 0.05) > 0.9
    assert np.mean(np.array(seen) > 0.3) > 0.7
