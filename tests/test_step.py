"""One update and one evaluation, on one device and on four, in every way of mapping them."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import data, losses, models, optim, parallel, step, tasks
from cnnjax.data import geometry
from cnnjax.data.examples import Arrays
from cnnjax.errors import UserError
from cnnjax.evaluate import evaluator
from cnnjax.tasks import detect
from cnnjax.tasks.task import Task
from tests.detector import Grid

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1)).astype(np.uint8)
LABELS = np.arange(8, dtype=np.int32)
BATCH = {'image': IMAGES, 'label': LABELS, 'position': np.arange(8, dtype=np.int32)}
NORMALIZE = data.Normalization(np.float32([0.5]), np.float32([0.25]))
KINDS = ('shard_map', 'pmap', 'jit')
# Ever more pixels of each mask are ignored: the devices have different numbers of those that count.
MASKS = np.random.default_rng(1).integers(0, 3, (8, 8, 8)).astype(np.uint8)
MASKS[np.arange(64).reshape(1, 8, 8) < 7 * np.arange(8)[:, None, None]] = geometry.IGNORE
# The images have different numbers of objects, some none.
CORNERS = np.random.default_rng(2).uniform(0, 5, (8, 3, 2)).astype(np.float32)
OBJECTS = {'boxes': np.concatenate([CORNERS, CORNERS + 3], -1),
           'labels': np.where(np.arange(24) % 8 > np.arange(24) // 3, np.arange(24) % 3, -1).astype(
               np.int32).reshape(8, 3)}
TAGS = np.random.default_rng(3).integers(0, 2, (8, 10)).astype(np.uint8)
BATCHES = {'classify': BATCH,
           'multilabel': {'image': IMAGES, 'tags': TAGS, 'position': np.arange(8, dtype=np.int32)},
           'segment': {'image': IMAGES, 'mask': MASKS, 'position': np.arange(8, dtype=np.int32)},
           'detect': {'image': IMAGES, **OBJECTS, 'position': np.arange(8, dtype=np.int32)}}
CHANGES = {'classify': {'flip': True, 'padding': 1}, 'multilabel': {'flip': True, 'padding': 1},
           'segment': {'flip': True, 'padding': 1, 'rotation': 30.0, 'scale': (0.8, 1.25),
                       'elastic': 0.5},
           'detect': {'flip': True, 'padding': 1, 'scale': (0.8, 1.25)}}
each_task = pytest.mark.parametrize('task', BATCHES)


def narrow_vgg(**fields):
    """Three of net A's groups: no batch statistics, so that devices cannot differ in them."""
    return models.create('vgg11', groups=((3,), (3,), (3,)), widths=(4, 8, 8), hidden=(),
                         num_classes=10, **fields)


def narrow(task):
    """A network for that task in which devices cannot differ."""
    return {'classify': narrow_vgg(), 'multilabel': narrow_vgg(), 'detect': Grid(3, 4),
            'segment': models.create('unet_padded', widths=(4, 8), dropout=0.0,
                                     num_classes=3)}[task]


def update(net, *, task='classify', devices=1, kind='shard_map', steps=3, batch=None,
           resident=None, **options):
    """The state and the losses after some steps."""
    mesh = parallel.data_mesh(devices)
    tx = optim.create(0.05, weight_decay=1e-3)
    augment = functools.partial(data.augment, normalize=NORMALIZE, **CHANGES[task])
    state = parallel.replicate(step.create(net, tx, jax.random.key(0), (8, 8, 1),
                                           averaging='average' in options), mesh)
    run = parallel.parallelize(functools.partial(
        step.train_step, task=tasks.create(task, net), net=net, tx=tx, augment=augment, **options),
        mesh, kind)
    resident, key = parallel.replicate((resident or {}, jax.random.key(1)), mesh)
    values = []
    for _ in range(steps):
        state, metrics = run(state, resident, batch or BATCHES[task], key)
        values.append(float(metrics['loss']))
    return jax.device_get(state), values


def assert_close(a, b, tolerance=2e-6):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


def test_mixtures_are_the_same_on_four_devices_and_with_micro_batches():
    """Each example has the same partner: across devices, and before the batch is split."""
    mix = functools.partial(data.mixed, mixup=0.5, cutmix=1.0)
    one, losses = update(narrow_vgg(), mix=mix)
    four, others = update(narrow_vgg(), mix=mix, devices=4, accumulate=2)
    np.testing.assert_allclose(others, losses, rtol=1e-5)
    assert_close(four.params, one.params, 2e-5)
    assert max(np.abs(np.subtract(losses, update(narrow_vgg())[1]))) > 1e-3


def test_an_update_equals_the_hand_made_one():
    net = narrow_vgg()
    state, (first, *_) = update(net, steps=1)
    tx = optim.create(0.05, weight_decay=1e-3)
    before = step.create(net, tx, jax.random.key(0), (8, 8, 1))
    key = jax.random.split(jax.random.fold_in(jax.random.key(1), 0), 3)[0]
    images = jax.jit(functools.partial(data.augment, normalize=NORMALIZE, flip=True, padding=1))(
        key, BATCH['position'], {'image': IMAGES})['image']

    def loss(params):
        return losses.cross_entropy(net.apply({'params': params}, images)[0], LABELS).mean()

    value, grads = jax.device_get(jax.jit(jax.value_and_grad(loss))(before.params))
    assert first == pytest.approx(float(value), rel=1e-6)
    assert_close(state.params, jax.tree.map(lambda w, g: w - 0.05 * (g + 1e-3 * w),
                                            jax.device_get(before.params), grads))
    assert state.step == 1


@each_task
@pytest.mark.parametrize('kind', KINDS)
def test_four_devices_give_the_losses_of_one(kind, task):
    net = narrow(task)
    one, four = update(net, task=task), update(net, task=task, devices=4, kind=kind)
    np.testing.assert_allclose(four[1], one[1], rtol=1e-5)
    assert_close(four[0].params, one[0].params, 1e-5)


@pytest.mark.parametrize(('name', 'fields'), [
    ('yolo_v1_small', {'groups': ((3,),), 'widths': ((4,),), 'pools': 1}),
    ('faster_rcnn_small', {'groups': ((3,), (3,)), 'widths': (4, 4), 'hidden': (6,), 'pooled': 2,
                           'rpn_width': 4, 'rpn_count': 8, 'rpn_after': (10, 10), 'roi_count': 6,
                           'anchor_sizes': ((3, 5),), 'anchor_ratios': (1, 2)})])
def test_detectors_draw_the_same_on_four_devices(name, fields):
    """The objects of cells, the anchors and the regions that the loss is of."""
    net = models.create(name, **fields, norm='none', num_classes=3)
    one, four = (update(net, task='detect', devices=devices, steps=2) for devices in (1, 4))
    np.testing.assert_allclose(four[1], one[1], rtol=1e-5)
    assert_close(four[0].params, one[0].params, 1e-5)


@each_task
def test_pmap_equals_shard_map_bit_for_bit(task):
    net = {'classify': models.create('resnet20', widths=(4, 4, 4), blocks=(1, 1, 1)),
           'segment': models.create('unet_padded', widths=(4, 8), norm='batch', num_classes=3),
           'multilabel': narrow_vgg(), 'detect': Grid(3, 4)}[task]
    for a, b in zip(*(jax.tree.leaves(update(net, task=task, devices=4, kind=kind))
                      for kind in ('pmap', 'shard_map')), strict=True):
        np.testing.assert_array_equal(a, b)


def test_batch_statistics_are_per_device_but_under_jit():
    net = models.create('resnet20', widths=(4, 4, 4), blocks=(1, 1, 1))
    one = update(net, steps=1)[1]
    assert update(net, steps=1, devices=4, kind='jit')[1] == pytest.approx(one, rel=1e-5)
    assert update(net, steps=1, devices=4)[1] != pytest.approx(one, rel=1e-3)


@each_task
def test_micro_batches_are_the_same_on_any_number_of_devices(task):
    """A mean over the pixels that count is that of a micro-batch: it depends on its examples."""
    net = narrow(task)
    one = update(net, task=task, accumulate=2)
    four = update(net, task=task, devices=4, accumulate=2)
    np.testing.assert_allclose(four[1], one[1], rtol=1e-5)
    assert_close(four[0].params, one[0].params, 1e-5)


@pytest.mark.parametrize('kind', KINDS)
def test_micro_batches_give_the_same_gradient(kind):
    whole, parts = update(narrow_vgg()), update(narrow_vgg(), devices=2, kind=kind, accumulate=2)
    np.testing.assert_allclose(parts[1], whole[1], rtol=1e-5)
    assert_close(parts[0].params, whole[0].params, 1e-5)


@pytest.mark.parametrize(('devices', 'kind'), [(1, 'shard_map'), *((4, kind) for kind in KINDS)])
@pytest.mark.parametrize('accumulate', [1, 2])
def test_each_example_has_a_key_of_its_own(devices, kind, accumulate, monkeypatch):
    """It depends on the run's key, the step and the example's place, and on nothing else."""
    def loss(apply, examples, batch):
        drawn = jax.vmap(jax.random.uniform)(examples['keys'])
        value = batch.mean(drawn * examples['label'])  # The value tells the place.
        return value + 0 * apply(examples['image'])[0].sum(), ({'loss': value}, {})

    monkeypatch.setattr(tasks, 'create', lambda *_: Task(None, loss, None, None))
    _, values = update(narrow_vgg(), devices=devices, kind=kind, accumulate=accumulate, steps=2)
    drawn = []
    for number in range(2):
        key = jax.random.split(jax.random.fold_in(jax.random.key(1), number), 4)[3]
        drawn.append([float(jax.random.uniform(jax.random.fold_in(key, i))) for i in range(8)])
    assert len({*drawn[0], *drawn[1]}) == 16
    assert values == pytest.approx([np.mean(LABELS * row) for row in drawn])


def test_the_keys_of_a_step_stay_what_they_were():
    """Runs of older versions, which had three, go on as they began."""
    np.testing.assert_array_equal(
        jax.random.key_data(step.keys(jax.random.key(1), 5)[:3]),
        jax.random.key_data(jax.random.split(jax.random.fold_in(jax.random.key(1), 5), 3)))


@each_task
def test_a_resident_set_is_indexed_in_the_step(task):
    order = np.random.default_rng(1).permutation(8).astype(np.int32)
    position, examples = BATCH['position'], {
        name: array for name, array in BATCHES[task].items() if name != 'position'}
    streamed = update(narrow(task), task=task, batch={
        name: array[order] for name, array in examples.items()} | {'position': position})
    resident = update(narrow(task), task=task, batch={'index': order, 'position': position},
                      resident=examples)
    assert resident[1] == pytest.approx(streamed[1], rel=1e-6)


def test_dropout_differs_between_devices_and_drop_path_does_not():
    class Draws(nn.Module):
        @nn.compact
        def __call__(self, images, train=False):
            self.param('unused', nn.initializers.zeros, ())
            if train:
                for name in ('dropout', 'drop_path'):
                    drawn = jax.random.uniform(self.make_rng(name))
                    jax.debug.callback(lambda x, name=name: seen[name].append(float(x)), drawn)
            return jnp.zeros((len(images), 10)), {}

    seen = {'dropout': [], 'drop_path': []}
    update(Draws(), devices=4, steps=2)
    jax.effects_barrier()
    assert len(set(seen['dropout'])) == 8
    assert len(set(seen['drop_path'])) == 2


def test_bfloat16_keeps_parameters_and_statistics_in_float32():
    net = models.create('resnet20', widths=(4, 4, 4), blocks=(1, 1, 1), dtype='bfloat16')
    state, values = update(net)
    assert {leaf.dtype for leaf in jax.tree.leaves(state[1:])} == {np.dtype('float32')}
    assert values == pytest.approx(
        update(models.create('resnet20', widths=(4, 4, 4), blocks=(1, 1, 1)))[1], rel=0.05)


class Label(nn.Module):
    """Reads the class off the first pixel: its errors are known."""
    subnetworks = {'shifted': {'shift': 1}}

    def __call__(self, images, train=False, shift=0):
        label = jnp.round(images[:, 0, 0, 0] * 255).astype(int)
        return jax.nn.one_hot((label + shift) % 10, 10) * 100, {}


class Labels(nn.Module):
    """Reads the class of each pixel off it."""

    def __call__(self, images, train=False):
        return jax.nn.one_hot(jnp.round(images[..., 0] * 255).astype(int), 10) * 100, {}


class Sure(Label):
    """Reads the only class of an image off its first pixel."""

    def __call__(self, images, train=False, shift=0):
        logits, taps = super().__call__(images, train, shift)
        return 2 * logits - 100, taps


class Whole(nn.Module):
    """Finds one object, as large as the image, whose class it reads off the first pixel."""
    num_classes: int = 10
    inputs = ('frame',)

    def __call__(self, images, train=False, frame=None):
        label = jnp.round(images[:, 0, 0, 0] * 255).astype(jnp.int32)
        return {'label': label, 'frame': frame}, {}

    def detections(self, outputs):
        labels = outputs['label'][:, None]
        return {'boxes': outputs['frame'][:, None], 'labels': labels,
                'scores': 1 / (1 + labels.astype(jnp.float32))}


def known(task):
    """A network, 21 images, their targets with three errors, the last example among them, and the
    results."""
    images = np.zeros((21, 4, 4, 1), np.uint8)
    if task == 'detect':
        found = (np.arange(21, dtype=np.int32) % 10)[:, None]
        labels = np.stack([found[:, 0], np.full(21, -1, np.int32)], 1)
        labels[[0, 5, 20], 0] = 9, 6, 9
        boxes = np.tile(np.float32([[0, 0, 30, 40], [0, 0, 0, 0]]), (21, 1, 1))
        boxes[10] /= 4
        expected = detect.results({}, {
            'boxes': boxes[:1, :1].repeat(21, 0), 'labels': found, 'scores': 1 / (1 + found),
            'true_boxes': boxes, 'true_labels': labels, 'true_ignore': labels < -1,
            'true_area': boxes[..., 2] * boxes[..., 3]}, 21, tuple('0123456789'))
        assert expected['ap_medium'] > 0 == expected['ap_small']  # the pictures' sizes
        images = np.tile(found[:, :, None, None].astype(np.uint8), (1, 40, 30, 1))
        return Whole(), images, {'boxes': boxes, 'labels': labels}, {
            name: value for name, value in expected.items() if not np.ndim(value)}
    if task == 'segment':
        images[..., 0] = np.arange(21 * 16).reshape(21, 4, 4) % 10
        masks = images[..., 0].copy()
        masks[:, 3] = geometry.IGNORE
        masks[[0, 5, 20], 2, 2] = (masks[[0, 5, 20], 2, 2] + 1) % 10
        return Labels(), images, {'mask': masks}, {
            'pixel_accuracy': 1 - 3 / (21 * 12), 'loss': 3 / (21 * 12) * 100, 'absent': 0}
    images[:, 0, 0, 0] = np.arange(21) % 10
    labels = images[:, 0, 0, 0].astype(int)
    labels[[0, 5, 20]] = 9, 6, 9
    if task == 'multilabel':
        return Sure(), images, {'tags': np.eye(10, dtype=np.uint8)[labels]}, {
            'tag_error': 6 / 210, 'loss': 6 / 210 * 100, 'exact_match': 18 / 21,
            'micro_f1': 18 / 21}
    return Label(), images, {'label': labels}, {
        'error': 3 / 21, 'shifted/error': 20 / 21, 'loss': 3 / 21 * 100}


# How pictures become images. Those with boxes are made smaller, with a border on their right.
CROPS = {'classify': data.Crops(), 'multilabel': data.Crops(), 'segment': data.Crops(),
         'detect': data.Crops(20, fit='letterbox', test_shorter_side=15)}


@each_task
@pytest.mark.parametrize(('devices', 'kind'), [(1, 'shard_map'), (4, 'shard_map'), (4, 'pmap'),
                                               (4, 'jit')])
def test_evaluation_counts_every_example_once(devices, kind, task):
    net, images, targets, expected = known(task)
    source = data.Source(Arrays({'image': images, **targets}), tuple('0123456789'))
    identity = data.Normalization(np.float32([0]), np.float32([1]))
    for batch_size in (1, 8, 20, 100):
        results = evaluator(tasks.create(task, net), net, identity,
                            data.Resident(source, CROPS[task]), parallel.data_mesh(devices),
                            batch_size=batch_size, kind=kind)({})
        assert results['count'] == 21
        assert {name: results[name] for name in expected} == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(('devices', 'kind'), [(1, 'shard_map'), (4, 'shard_map'), (4, 'pmap'),
                                               (4, 'jit')])
def test_an_evaluation_may_keep_what_it_finds_in_each_example(devices, kind):
    """Such as boxes: each example's once, in the order of the set, none of the padding."""
    class Pixels(nn.Module):
        def __call__(self, images, train=False):
            return images[:, :, 0, 0], {}

    def observe(apply, examples):
        outputs, _ = apply(examples['image'])
        return {}, {'boxes': jnp.stack([outputs] * 3, 1), 'label': examples['label']}

    def results(sums, kept, count, classes):
        assert sums == {}
        assert classes == tuple('ab')
        return {**kept, 'error': count}

    images = np.random.default_rng(0).integers(0, 256, (21, 2, 2, 1)).astype(np.uint8)
    labels = np.arange(21) % 2
    examples = data.Resident(data.from_arrays(images, 'ab', label=labels), data.Crops())
    identity = data.Normalization(np.float32([0]), np.float32([1 / 255]))
    for batch_size in (1, 8, 100):
        found = evaluator(Task(None, None, observe, results), Pixels(), identity, examples,
                          parallel.data_mesh(devices), batch_size=batch_size, kind=kind)({})
        np.testing.assert_allclose(found['boxes'], np.stack([images[:, :, 0, 0]] * 3, 1))
        np.testing.assert_array_equal(found['label'], labels)
        assert found['error'] == found['count'] == 21


@pytest.mark.parametrize(('batch', 'accumulate', 'near'), [(30, 1, 'such as 32'),
                                                            (12, 2, 'such as 16')])
def test_a_batch_that_does_not_divide_is_refused(batch, accumulate, near):
    with pytest.raises(UserError, match=f'batch_size={batch} does not divide.*{near}'):
        parallel.check_batch(batch, parallel.data_mesh(4), accumulate)


def test_unknown_devices_and_ways_are_refused():
    with pytest.raises(UserError, match='devices=5, but there are 4'):
        parallel.data_mesh(5)
    with pytest.raises(UserError, match="not 'xmap'"):
        parallel.parallelize(lambda *_: None, parallel.data_mesh(1), 'xmap')


def test_an_evaluation_needs_a_batch_that_can_be_counted():
    """The devices count pixels in 32 bits."""
    large = data.Resident(data.from_arrays(np.broadcast_to(np.uint8(0), (2, 2, 2, 1)), 'a',
                                           label=[0, 0]), data.Crops())
    large.data = {'image': np.broadcast_to(np.uint8(0), (2, 2 ** 16, 2 ** 14, 1))}
    for batch_size, message in ((0, 'at least one image, not 0'), (2, '2,147,483,648 pixels')):
        with pytest.raises(UserError, match=message):
            evaluator(None, narrow_vgg(), NORMALIZE, large, parallel.data_mesh(1),
                      batch_size=batch_size)
