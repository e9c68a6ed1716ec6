"""Mixtures of a batch against numpy, and their loss against soft targets."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from cnnjax import parallel, train
from cnnjax.data import mixed
from cnnjax.errors import UserError
from cnnjax.tasks import classify
from cnnjax.tasks.task import WholeBatch
from cnnjax.tasks.training_loss import CROSS_ENTROPY
from tests.test_train import changed

RNG = np.random.default_rng(0)
BATCH = {'image': RNG.random((6, 7, 9, 3), np.float32), 'label': np.int32([3, 1, 4, 1, 5, 2])}
BEFORE = {name: np.roll(values, 1, 0) for name, values in BATCH.items()}


def many(count, **fields):
    """Mixtures by so many keys."""
    draw = jax.jit(jax.vmap(lambda key: mixed(key, BATCH, **fields)))
    return jax.tree.map(np.asarray, draw(jax.random.split(jax.random.key(0), count)))


def blend(share):
    share = share[:, :1, None, None, None]
    return share * BATCH['image'] + (1 - share) * BEFORE['image']


def test_mixup_blends_each_image_with_the_one_before():
    found = many(400, mixup=0.2)
    assert (found['share'] == found['share'][:, :1]).all()
    assert stats.kstest(found['share'][:, 0], stats.beta(0.2, 0.2).cdf).pvalue > 1e-3
    np.testing.assert_allclose(found['image'], blend(found['share']), atol=1e-6)
    np.testing.assert_array_equal(found['label'][7], BATCH['label'])
    np.testing.assert_array_equal(found['other_label'][7], BEFORE['label'])


def test_cutmix_pastes_a_rectangle_of_the_image_before():
    """As torchvision: half sides are whole, the middle is any pixel, and the share of the label is
    that of the pixels."""
    found = many(2000, cutmix=1.0)
    other = (found['image'] == BEFORE['image']).all(-1)
    assert (other | (found['image'] == BATCH['image']).all(-1)).all()
    assert (other == other[:, :1]).all()
    other = other[:, 0]
    np.testing.assert_allclose(found['share'], 1 - other.mean((1, 2))[:, None].repeat(6, 1),
                               atol=1e-6)
    rows, columns = other.any(2).sum(1), other.any(1).sum(1)
    np.testing.assert_array_equal(other.sum((1, 2)), rows * columns)
    share, draws = RNG.random(100_000), []  # Beta(1, 1)
    for size in (7, 9):
        middle, half = RNG.integers(0, size, 100_000), (np.sqrt(1 - share) / 2 * size).astype(int)
        draws.append(np.minimum(middle + half, size) - np.maximum(middle - half, 0))
    expected = np.bincount(draws[0] * draws[1], minlength=64)[:64] / 100_000
    counts = np.bincount(rows * columns, minlength=64)
    some = expected > 0.005
    expected_some = expected[some] / expected[some].sum() * counts[some].sum()
    assert stats.chisquare(counts[some], expected_some).pvalue > 1e-3
    assert counts[expected == 0].sum() == 0


def test_with_both_a_batch_is_mixed_in_one_of_the_ways():
    found = many(400, mixup=1.0, cutmix=1.0)
    blended = np.abs(found['image'] - blend(found['share'])).max((1, 2, 3, 4)) < 1e-6
    pasted = ((found['image'] == BEFORE['image']) | (found['image'] == BATCH['image'])).all(
        (1, 2, 3, 4))
    assert (blended | pasted).all()
    assert stats.binomtest(int((blended & ~pasted).sum()), 400).pvalue > 1e-3
    assert mixed(jax.random.key(0), BATCH) is BATCH


@pytest.mark.parametrize('kind', parallel.KINDS)
def test_the_partner_of_the_first_is_on_another_device(kind):
    """Three devices mix as one does."""
    def step(state, data, batch, key, axis):
        found = mixed(key, batch, axis, cutmix=1.0)
        return state, found if axis is None else jax.lax.all_gather(found, axis, tiled=True)

    mesh = parallel.data_mesh(3)
    key = parallel.replicate(jax.random.key(4), mesh)
    _, found = parallel.parallelize(step, mesh, kind, donate=False)({}, {}, BATCH, key)
    for name, expected in mixed(jax.random.key(4), BATCH, cutmix=1.0).items():
        np.testing.assert_array_equal(found[name], expected)


def test_the_loss_is_that_of_soft_targets():
    """torchvision's: the cross-entropy of mixed one-hot labels, then smoothed. The training error
    is that of the label with the larger weight."""
    logits, head = (jnp.asarray(RNG.normal(size=(6, 7)), jnp.float32) for _ in range(2))
    chosen = CROSS_ENTROPY._replace(label_smoothing=0.1)
    for share in (0.3, 0.8):
        examples = {**BATCH, 'other_label': BEFORE['label'], 'share': np.full(6, share, np.float32)}
        value, (metrics, _) = classify.loss(
            chosen, {'head': 0.5}, lambda _: (logits, {'head': head}, {}), examples, WholeBatch())
        own, other = (np.eye(7)[labels] for labels in (BATCH['label'], BEFORE['label']))
        targets = optax.smooth_labels(jnp.asarray(share * own + (1 - share) * other), 0.1)
        expected = [float(optax.softmax_cross_entropy(each, targets).mean())
                    for each in (logits, head)]
        assert float(metrics['loss']) == pytest.approx(expected[0], rel=1e-6)
        assert float(value) == pytest.approx(expected[0] + 0.5 * expected[1], rel=1e-6)
        labels = BATCH['label'] if share > 0.5 else BEFORE['label']
        assert float(metrics['error']) == pytest.approx((logits.argmax(-1) != labels).mean())


def test_the_first_batch_is_drawn_as_it_is_mixed(tiny, tmp_path, monkeypatch):
    config = changed(tiny, mixup=1.0, cutmix=1.0)
    examples = train.data.Resident(train.data.load('digits', 'train'), train.data.Crops())
    normalize = train.data.normalization(None, '0', '1')
    made = train.build(config, examples.classes, examples.shapes, normalize, len(examples))
    drawn = []
    monkeypatch.setattr(train.figures, 'first_batch', lambda *arguments: drawn.append(arguments))
    batch = next(train.first_drawn(config, tmp_path, made, examples, normalize,
                                   examples.train_batches(32, config.seed)))
    key = train.step.keys(train.run_keys(config)[1], 0)[0]
    whole = made.mix(key, made.augment(key, batch['position'],
                                       train.step.fetch(examples.data, batch)), None)
    (_, run, *_, seen), = drawn
    assert run == f'{tmp_path.name}: {config.model.name} on digits'
    assert 4 < len(seen['image']) < 32
    for name in ('image', 'label', 'other_label', 'share'):
        np.testing.assert_allclose(seen[name], whole[name][:len(seen[name])], atol=1e-6)


@pytest.mark.parametrize(('field', 'value'), [('mixup', 0.2), ('cutmix', 1.0),
                                              ('auto_augment', 'trivial')])
def test_masks_and_boxes_are_not_mixed(tiny, field, value):
    with pytest.raises(UserError, match=f"^{field}=.* task='"):
        train.check(changed(tiny, task='segment', model__name='unet', model__widths=None,
                            **{field: value}))
