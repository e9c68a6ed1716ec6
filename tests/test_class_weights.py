"""Weights by inverse frequency are scikit-learn's, and make a rare class count."""

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from cnnjax import class_weights, data, dataset, train
from cnnjax.errors import UserError
from tests.test_train import changed


@pytest.mark.parametrize('counts', [(1, 1), (90, 10), (3, 500, 17, 1)])
def test_they_are_scikit_learns(counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    expected = compute_class_weight('balanced', classes=np.arange(len(counts)), y=labels)
    np.testing.assert_allclose(class_weights.balanced(counts), expected)


def test_a_class_without_examples_has_no_part_in_them():
    weights = class_weights.balanced((90, 0, 10))
    assert weights[1] == 0
    np.testing.assert_allclose((weights[0], weights[2]), class_weights.balanced((90, 10)))


def sets(source, **fields):
    prepared = (data.Stream(source, data.Crops(8, shorter_side=(8, 8))) if fields.get('stream')
                else data.Resident(source, data.Crops()))
    return dataset.Sets(prepared, prepared, None, {'train': data.identity(source)})


@pytest.mark.parametrize('stream', [False, True])
def test_a_set_is_counted_by_its_images_or_by_the_pixels_of_its_masks(tiny, stream):
    images = np.zeros((10, 8, 8, 1), np.uint8)
    config = changed(tiny, balanced=True)
    of_images = sets(data.from_arrays(images, 'ab', label=np.arange(10) // 8), stream=stream)
    found = class_weights.resolved(config, of_images)
    assert found.class_weights == class_weights.balanced((8, 2))
    assert not found.balanced
    masks = np.where(np.arange(8) < 2, 1, 0) * np.ones((10, 8, 1), int)
    masks[:, 0] = 255  # ignored
    of_masks = sets(data.from_arrays(images, 'ab', mask=masks), stream=stream)
    assert class_weights.resolved(config, of_masks).class_weights == class_weights.balanced((6, 2))
    assert class_weights.resolved(tiny, of_masks) is tiny
    if stream:
        identity = of_images.splits['train']._replace(counts=None)
        with pytest.raises(UserError, match='is not known without reading all of digits'):
            class_weights.resolved(config, of_images._replace(splits={'train': identity}))


def test_a_rare_class_is_found_only_with_them(tiny, tmp_path):
    """One image in sixteen is of the second class, which looks nearly like the first."""
    rng = np.random.default_rng(0)
    sources = {}
    for split, labels in (('train', np.arange(128) % 16 == 0), ('test', np.arange(40) % 2 == 0)):
        images = rng.normal(110 + 25 * labels[:, None, None, None], 40, (len(labels), 8, 8, 1))
        sources[split] = data.from_arrays(np.uint8(images.clip(0, 255)), ('usual', 'rare'),
                                          label=np.int64(labels))
    config = changed(tiny, padding=0, steps=24, eval_every=0.0, checkpoint_every=0.0,
                     report_every=24, steps_per_call=24, learning_rate=0.02)
    errors = [train.train(changed(config, balanced=balanced), tmp_path / f'{balanced}',
                          sources)['test/error'] for balanced in (False, True)]
    assert errors[0] > 0.45  # nearly all are called usual
    assert errors[1] < 0.4
    with pytest.raises(UserError, match='leave one out'):
        train.check(changed(config, balanced=True, class_weights=(1.0, 2.0)))
    with pytest.raises(UserError, match='balanced=True changes cross_entropy and focal'):
        train.check(changed(config, balanced=True, task='segment', loss='dice'))
