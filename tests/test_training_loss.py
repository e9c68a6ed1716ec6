"""Losses that configs choose: golden values, hand-made updates, and any number of devices."""

import functools

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

from cnnjax import losses, parallel, step, tasks
from cnnjax.data import geometry
from cnnjax.errors import UserError
from cnnjax.tasks import segment
from cnnjax.tasks.task import Task, WholeBatch
from cnnjax.tasks.training_loss import CROSS_ENTROPY, TrainingLoss
from configs import base
from tests.test_losses import ALL, LABELS, LOGITS, MAPS, MASKS

WEIGHTS = (1.0, 2.0, 3.0)
IGNORED = ALL.copy()
IGNORED[0, 1, 0] = False
DICE = TrainingLoss((('dice', 1.0),))
CHOSEN = {
    'cross_entropy': CROSS_ENTROPY, 'smoothed': TrainingLoss(label_smoothing=0.1),
    'weights': TrainingLoss(class_weights=WEIGHTS),
    'pixels': TrainingLoss(class_weights=WEIGHTS, loss_denominator='pixels'),
    'images': TrainingLoss(class_weights=WEIGHTS, loss_denominator='images'),
    'focal': TrainingLoss((('focal', 1.0),)), 'dice': DICE,
    'squared_hinge': TrainingLoss((('squared_hinge', 1.0),), class_weights=WEIGHTS),
    'batch_dice': DICE._replace(dice_sums='batch', dice_squared=True, dice_background=True),
    'sum': TrainingLoss((('cross_entropy', 1.0), ('focal', 2.0), ('dice', 0.5)),
                        dice_absent=True)}


@pytest.mark.parametrize(('chosen', 'counts', 'expected'), [
    ('cross_entropy', ALL, 0.600580), ('cross_entropy', IGNORED, 0.662114),
    ('weights', ALL, 0.613241), ('pixels', ALL, 1.073173), ('images', ALL, 4 * 1.073173),
    ('focal', ALL, 0.241778)])
def test_golden_losses(chosen, counts, expected):
    labels = np.where(counts, MASKS, 0)
    assert float(CHOSEN[chosen](WholeBatch(), MAPS, labels, counts)) == pytest.approx(
        expected, abs=2e-6)


def test_a_sum_of_losses():
    expected = sum(factor * CHOSEN[name](WholeBatch(), MAPS, MASKS, ALL) for name, factor in
                   (('cross_entropy', 1), ('focal', 2)))
    expected += 0.5 * losses.dice(MAPS, MASKS, ALL, absent=True).mean()
    assert float(CHOSEN['sum'](WholeBatch(), MAPS, MASKS, ALL)) == pytest.approx(float(expected))


@pytest.mark.parametrize(('denominator', 'expected'), [
    ('weights', lambda values, weights: (weights * values).sum() / weights.sum()),
    ('pixels', lambda values, weights: (weights * values).mean()),
    ('images', lambda values, weights: (weights * values).mean())])
def test_classes_of_images_have_weights_too(denominator, expected):
    weights = np.arange(7.0) + 0.5
    chosen = TrainingLoss(class_weights=tuple(weights), loss_denominator=denominator)
    values = np.asarray(losses.cross_entropy(LOGITS, LABELS))
    assert float(chosen(WholeBatch(), LOGITS, LABELS)) == pytest.approx(
        expected(values, weights[LABELS]))


class Heads(nn.Module):
    """A convolution for each loss, so that each has a gradient of its own."""

    @nn.compact
    def __call__(self, images, train=False):
        return {name: nn.Conv(3, (1, 1), name=name)(images) for name in CHOSEN}, {}


def every_loss(apply, examples, batch):
    outputs, _, batch_stats = apply(examples['image'])
    total, metrics = 0.0, {}
    for name, chosen in CHOSEN.items():
        value, (found, _) = segment.loss(chosen, {}, lambda _, name=name: (outputs[name], {}, {}),
                                         examples, batch)
        total += value
        metrics |= {f'{name}/{key}': value for key, value in found.items()}
    return total, (metrics, batch_stats)


@functools.cache
def examples():
    """Ever more pixels of each image are ignored, up to all of them."""
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 3, (8, 3, 4)).astype(np.uint8)
    for i in range(8):
        mask[i].flat[:2 * i] = geometry.IGNORE
    mask[7] = geometry.IGNORE
    return {'image': rng.normal(size=(8, 3, 4, 3)).astype(np.float32), 'mask': mask,
            'weight_map': np.float32(rng.uniform(0, 9, mask.shape))}


def updated(task, net, devices=1, kind='shard_map', accumulate=1):
    """(parameters before, after one step with the learning rate 1, metrics)"""
    mesh = parallel.data_mesh(devices)
    state = step.create(net, optax.sgd(1.0), jax.random.key(0), (3, 4, 3))
    before = jax.device_get(state.params)
    run = parallel.parallelize(functools.partial(
        step.train_step, task=task, net=net, tx=optax.sgd(1.0), accumulate=accumulate,
        augment=lambda key, positions, examples: examples), mesh, kind, donate=False)
    batch = {**examples(), 'position': np.arange(8, dtype=np.int32)}
    state, metrics = run(parallel.replicate(state, mesh), {}, batch, jax.random.key(1))
    return before, jax.device_get(state.params), jax.device_get(metrics)


@pytest.mark.parametrize('accumulate', [1, 2])
@pytest.mark.parametrize(('devices', 'kind'), [(2, 'shard_map'), *(
    (4, kind) for kind in parallel.KINDS)])
def test_any_number_of_devices_gives_the_update_of_one(devices, kind, accumulate):
    """Where devices have different numbers of pixels that count, the mean of their means is not
    the mean, and the Dice of a batch is no mean at all."""
    task = Task(None, every_loss, None, None)
    before, one, metrics = updated(task, Heads(), accumulate=accumulate)
    _, several, theirs = updated(task, Heads(), devices, kind, accumulate)
    for name, value in metrics.items():
        assert theirs[name] == pytest.approx(value, rel=1e-5), name
    for name in CHOSEN:
        assert abs(one[name]['kernel'] - before[name]['kernel']).max() > 1e-3
        for leaf in one[name]:
            np.testing.assert_allclose(several[name][leaf], one[name][leaf], rtol=1e-5, atol=1e-6,
                                       err_msg=name)


def test_an_update_of_unet_equals_the_hand_made_one():
    """With class weights, a weight map, and their sum over the pixels divided by the pixels'
    number."""
    class Linear(nn.Module):
        @nn.compact
        def __call__(self, images, train=False):
            return nn.Conv(3, (1, 1), name='score')(images), {}

    task = tasks.create('segment', Linear(), CHOSEN['pixels'])
    before, after, metrics = updated(task, Linear())
    kernel = np.float64(before['score']['kernel'][0, 0])
    counts = examples()['mask'] != geometry.IGNORE
    images, labels = examples()['image'][counts], examples()['mask'][counts]
    weights = np.float64(WEIGHTS)[labels] + examples()['weight_map'][counts]
    p = np.exp(images @ kernel)
    p /= p.sum(-1, keepdims=True)
    loss = -(weights * np.log(p[np.arange(len(p)), labels])).sum() / len(p)
    assert metrics['loss'] == pytest.approx(loss, rel=1e-5)
    assert metrics['pixel_accuracy'] == pytest.approx((p.argmax(-1) == labels).mean())
    error = weights[:, None] * (p - np.eye(3)[labels]) / len(p)
    np.testing.assert_allclose(after['score']['kernel'][0, 0], kernel - images.T @ error,
                               rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(after['score']['bias'], -error.sum(0), rtol=1e-5, atol=1e-6)


def chosen(**fields):
    config = base.get_config()
    config.update(fields)
    return tasks.loss(config)


def test_the_loss_of_a_config():
    assert chosen() == chosen(task='segment') == CROSS_ENTROPY
    found = chosen(task='segment', loss=' 2 * focal + 0.5*dice', class_weights=(1, 2), weight_map=1,
                   focal_gamma=3.0, loss_denominator='pixels', dice_squared=True,
                   dice_smoothing=0.0, dice_background=True, dice_absent=True, dice_sums='batch')
    assert found == TrainingLoss((('focal', 2.0), ('dice', 0.5)), 0.0, (1, 2), 'pixels', 3.0,
                                 'batch', 0.0, True, True, True)


@pytest.mark.parametrize(('fields', 'message'), [
    ({'loss': 'cross_entopy'},
     "'cross_entopy' is none of cross_entropy, focal, squared_hinge, hint, distillation; did you"),
    ({'loss': 'dice'}, "loss='dice': dice compares masks: it needs task='segment'"),
    ({'loss': 'cross_entropy+dise', 'task': 'segment'}, 'hinge, hint, dice; did you mean dice'),
    ({'loss': ''}, "'' is none of"), ({'loss': 'focal+'}, "'' is none of"),
    ({'loss': 'focal+focal'}, 'each loss once'), ({'loss': '-1*focal'}, 'a positive factor'),
    ({'loss': 'a*focal'}, 'a positive factor'), ({'loss': 'nan*focal'}, 'a positive factor'),
    ({'loss': 'inf*focal'}, 'a positive factor'), ({'loss': '0*focal'}, 'a positive factor'),
    ({'loss': 'focal', 'label_smoothing': 0.1}, 'label_smoothing=0.1 changes cross_entropy, which'),
    ({'loss': 'dice', 'task': 'segment', 'class_weights': (1.0, 2.0)}, 'class_weights=.* changes'),
    ({'loss': 'dice', 'task': 'segment', 'weight_map': 1.0}, 'weight_map=1.0 changes cross_en'),
    ({'focal_gamma': 5.0}, 'focal_gamma=5.0 changes focal, which'),
    ({'dice_squared': True, 'task': 'segment'}, 'dice_squared=True changes dice, which'),
    ({'dice_sums': 'batch'}, 'dice_sums=batch changes dice, which'),
    ({'dice_smoothing': 0.0}, 'dice_smoothing=0.0 changes dice, which'),
    ({'loss': 'dice', 'task': 'segment', 'loss_denominator': 'pixels'}, 'loss_denominator=pixels '
     'changes cross_entropy and focal and squared_hinge, which'),
    ({'class_weights': (0, 0)}, 'at least one must be above 0'),
    ({'weight_map': 1.0}, 'weighs the pixels of masks'),
    ({'task': 'segmentation'}, "not 'segmentation'; did you mean segment")])
def test_a_loss_that_does_not_fit_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        chosen(**fields)


def test_each_class_has_a_weight():
    config = base.get_config()
    config.class_weights = WEIGHTS
    for classes in (None, 3):
        assert tasks.loss(config, classes) == CHOSEN['weights']
    with pytest.raises(UserError, match='class_weights has 3 numbers for 2 classes'):
        tasks.loss(config, 2)
