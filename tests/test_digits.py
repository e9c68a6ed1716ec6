"""scikit-learn's digits, split once and for all."""

import hashlib

import numpy as np
import pytest
import sklearn.datasets
import sklearn.model_selection

from cnnjax.data import digits
from cnnjax.errors import UserError


def test_digits():
    train, test = (digits.load(split) for split in ('train', 'test'))
    assert (len(train.examples), len(test.examples)) == (1347, 450)
    assert train.classes == test.classes == tuple('0123456789')
    examples = [*train.examples, *test.examples]
    assert {example['image'].shape for example in examples} == {(8, 8, 1)}
    assert {example['image'].dtype for example in examples} == {np.dtype(np.uint8)}
    levels = np.unique([example['image'] for example in examples])
    np.testing.assert_array_equal(levels, np.rint(np.arange(17) * 255 / 16))


def test_the_digits_are_split_once_and_for_all():
    train, test = (np.stack([np.append(example['image'], example['label'])
                             for example in digits.load(split).examples])
                   for split in ('train', 'test'))
    assert not set(map(bytes, train)) & set(map(bytes, test))
    assert len(np.unique(np.concatenate([train, test]), axis=0)) == 1797
    scans = sklearn.datasets.load_digits()
    numbers = sklearn.model_selection.train_test_split(
        np.arange(1797), test_size=450, stratify=scans.target, random_state=0)
    for part, these in zip((train, test), numbers, strict=True):
        np.testing.assert_array_equal(part[:, :64], np.rint(scans.data[these] * 255 / 16))
        np.testing.assert_array_equal(part[:, 64], scans.target[these])
    assert hashlib.sha256(test[:, :64].astype(np.uint8)).hexdigest().startswith('cf4be828d59d9227')
    of_train, of_test = (np.bincount(part[:, -1]) for part in (train, test))
    np.testing.assert_allclose(of_test, 450 / 1797 * (of_train + of_test), atol=1)


@pytest.mark.parametrize('split', ['validation', 'train[:10]', ''])
def test_digits_of_an_unknown_split(split):
    with pytest.raises(UserError) as error:
        digits.load(split)
    assert f"'train' and 'test', not '{split}'" in str(error.value)
