"""Tools for examples that several sources share."""

import numpy as np
import pytest

from cnnjax import data
from cnnjax.errors import UserError


def test_a_subset_is_some_of_the_examples_in_order():
    source = data.digits.load('test')
    assert data.spread(450, 3).tolist() == [0, 224, 449]
    assert data.spread(3, 0).tolist() == data.spread(3, 9).tolist() == [0, 1, 2]
    some = data.subset(source, [7, 3])
    assert len(some.examples) == 2
    assert some.classes == source.classes
    assert [example is source.examples[i] for example, i in
            zip(some.examples, (7, 3), strict=True)] == [True, True]


@pytest.mark.parametrize(('target', 'values', 'what'), [
    ('label', 2, 'the label of the image'), ('label', -1, 'the label of the image'),
    ('mask', np.uint8([[0, 2], [1, 255]]), 'the mask of the image'),
    ('labels', np.int32([0, 5, -1]), 'an object in the image')])
def test_a_number_that_is_no_class_is_not_renumbered(target, values, what):
    source = data.Source([{'image': np.zeros((2, 2, 1), np.uint8), target: values}], ('a', 'b'))
    matched = data.matched(source, ('b', 'a', 'c'))
    with pytest.raises(UserError, match=f'{what} at position 0 has the class'):
        matched.examples[0]


def test_what_stands_for_no_class_keeps_its_number():
    example = {'image': np.zeros((1, 2, 1), np.uint8), 'mask': np.uint8([[1, 255]]),
               'labels': np.int32([0, -1])}
    matched = data.matched(data.Source([example], ('a', 'b')), ('b', 'a', 'c')).examples[0]
    assert matched['mask'].tolist() == [[0, 255]]
    assert matched['labels'].tolist() == [1, -1]
