"""Images with any number of classes: tags of boxes, and tags for another network's classes."""

import numpy as np
import pytest

from cnnjax import data, dataset
from cnnjax.data import tags
from cnnjax.errors import UserError
from tests.test_train import changed

IMAGES = np.zeros((2, 4, 4, 3), np.uint8)


def test_the_tags_of_boxes_are_the_objects_that_count():
    boxes = np.tile(np.float32([0, 0, 2, 2]), (2, 3, 1))
    source = data.from_arrays(IMAGES, 'abcd', boxes=boxes, labels=[[1, 1, 3], [2, -1, -1]],
                              ignore=[[0, 0, 1], [0, 0, 0]])
    examples = tags.OfBoxes(source.examples, 4)
    assert [example['tags'].tolist() for example in examples] == [[0, 1, 0, 0], [0, 0, 1, 0]]
    assert len(examples) == 2
    assert set(examples[0]) == {'image', 'tags'}


def test_a_set_with_boxes_has_tags(capsys):
    found = data.load('digit_scenes', 'test', target='tags')
    boxes = data.load('digit_scenes', 'test', target='boxes')
    assert found.classes == tuple('0123456789')
    for i in (0, 7):
        shown = set(np.flatnonzero(found.examples[i]['tags']).tolist())
        assert shown == set(boxes.examples[i]['labels'].tolist()) - {-1}
    assert data.identity(found).digest == data.identity(boxes).digest
    with pytest.raises(UserError, match='dataset=digits has no tags for each image, only a label; '
                                        'these data sets do: digit_scenes, folder'):
        data.load('digits', 'test', target='tags')


def test_tags_are_matched_by_name():
    source = data.from_arrays(IMAGES, ('cat', 'dog'), tags=[[1, 0], [1, 1]])
    matched = data.matched(source, ('dog', 'eel', 'cat'))
    assert [example['tags'].tolist() for example in matched.examples] == [[0, 0, 1], [1, 0, 1]]
    assert matched.examples[0]['tags'].dtype == np.uint8


def test_the_sets_of_a_run_are_matched_by_name(tiny, tmp_path):
    """Files of boxes list only the classes of their own split."""
    sources = {'train': data.from_arrays(IMAGES, 'abc', tags=[[1, 0, 0], [0, 1, 1]]),
               'test': data.from_arrays(IMAGES, 'cb', tags=[[1, 0], [0, 1]])}
    config = changed(tiny, task='multilabel')
    found = dataset.load_sets(config, tmp_path, None, sources)
    assert found.test.classes == ('a', 'b', 'c')
    np.testing.assert_array_equal(found.test.data['tags'], [[0, 0, 1], [0, 1, 0]])
    sources['test'] = data.from_arrays(IMAGES, 'bx', tags=[[1, 0], [0, 1]])
    with pytest.raises(UserError, match='test has the class x, which the training set does not'):
        dataset.load_sets(config, tmp_path, None, sources)
    labelled = {split: data.from_arrays(IMAGES, classes, label=[0, 1])
                for split, classes in (('train', 'ab'), ('test', 'ba'))}
    with pytest.raises(UserError, match='test has the classes b, a, the training set a, b: give'):
        dataset.load_sets(tiny, tmp_path, None, labelled)


@pytest.mark.parametrize(('given', 'message'), [
    ([[1, 2], [0, 0]], 'tags are 1 for the classes that an image shows and 0 for the others'),
    ([[1], [0]], r'tags has the shape \[2, 1\]: with images of .* it must be \[2, 2\]'),
    ([[0.5, 1], [0, 0]], 'tags is an array of float64')])
def test_tags_that_are_none(given, message):
    with pytest.raises(UserError, match=message):
        data.from_arrays(IMAGES, ('cat', 'dog'), tags=given)
