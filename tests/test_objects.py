"""Boxes of objects: arrays given in Python, and proposals from a file."""

import pickle

import numpy as np
import pytest
from PIL import Image

from cnnjax import data, dataset
from cnnjax.data import objects, proposals
from cnnjax.errors import UserError
from configs import base

IMAGES = np.zeros((3, 20, 30, 3), np.uint8)
BOXES = np.zeros((3, 2, 4))
BOXES[0] = (1, 2, 10, 12), (0, 0, 30, 20)
BOXES[2, 0] = 3, 4, 5, 6
LABELS = np.array([[1, 0], [-1, -1], [0, -1]])


def source(**changes):
    return data.from_arrays(IMAGES, ('cat', 'dog'), **{'boxes': BOXES, 'labels': LABELS, **changes})


def test_arrays_with_boxes_are_a_source():
    ignore = LABELS == 1
    resident = data.Resident(source(ignore=ignore), data.Crops())
    assert {name: (array.dtype.name, array.shape) for name, array in resident.data.items()} == {
        'image': ('uint8', (3, 20, 30, 3)), 'boxes': ('float32', (3, 2, 4)),
        'labels': ('int32', (3, 2)), 'ignore': ('bool', (3, 2)), 'frame': ('float32', (3, 4)),
        'size': ('float32', (3, 2))}
    np.testing.assert_array_equal(resident.data['boxes'], BOXES)
    np.testing.assert_array_equal(resident.data['ignore'], ignore)
    assert resident.data['frame'].tolist() == [[0, 0, 30, 20]] * 3
    assert resident.data['size'].tolist() == [[20, 30]] * 3


@pytest.mark.parametrize(('changes', 'message'), [
    ({'boxes': BOXES[:, 0]}, r'boxes has the shape \[3, 4\]'),
    ({'labels': LABELS[:, :1]}, r'labels has the shape \[3, 1\]: .* must be \[3, 2\]'),
    ({'labels': LABELS / 2}, 'labels is an array of float64: classes are whole numbers'),
    ({'ignore': LABELS[0] > 0}, r'ignore has the shape \[2\]: .* must be \[3, 2\]')])
def test_arrays_of_other_shapes(changes, message):
    with pytest.raises(UserError, match=message):
        source(**changes)


@pytest.mark.parametrize('changes', [
    {'labels': LABELS * 0 - 1}, {'ignore': LABELS >= 0},
    {'boxes': BOXES * 0 + [0, 0, 4, 4], 'labels': np.array([[-1, -1], [-1, -1], [0, -1]])}])
def test_a_set_without_an_object_that_counts_is_refused_at_once(changes):
    """The middle that is cut out does not show the object in the corner."""
    config = base.get_config()
    config.update(task='detect', image_size=8, test_shorter_side=20)
    with pytest.raises(UserError, match='given in Python: their images have no object that counts'):
        dataset.prepare(config, source(**changes))


@pytest.mark.parametrize(('box', 'label', 'message'), [
    ((5, 5, 5, 9), 0, 'object 1 in the image at position 0: the box 5, 5, 5, 9 .* has no area'),
    ((5, 9, 6, 3), 0, 'has no area'), ((5, 5, np.nan, 9), 0, 'is not finite'),
    ((5, 5, 32, 9), 0, 'is not inside the picture of 20 x 30 pixels'),
    ((5, 5, 6, 9), 2, 'an object in the image at position 0 has the class 2')])
@pytest.mark.parametrize('stream', [False, True])
def test_boxes_given_in_python_are_checked(box, label, message, stream):
    boxes, labels = BOXES.copy(), LABELS.copy()
    boxes[0, 1], labels[0, 1] = box, label
    kind = data.Stream if stream else data.Resident
    with pytest.raises(UserError, match=message):
        next(kind(source(boxes=boxes, labels=labels), data.Crops(20, fit='stretch'))
             .test_batches(3))


def test_arrays_that_do_not_belong_together():
    examples = [{'image': IMAGES[0], 'boxes': BOXES[0], 'labels': LABELS[0, :1]}]
    with pytest.raises(UserError, match=r'of M objects boxes are \[M, 4\]'):
        data.Resident(data.Source(examples, ('a', 'b')), data.Crops())


def saved(path, *arrays, **named):
    np.savez(path, *arrays, **named)
    return str(path)


def test_proposals_are_padded_and_move_like_boxes(tmp_path):
    """In the order of the examples; a picture may have none."""
    boxes = [[(0, 0, 30, 20), (1, 1, 3, 3)], np.zeros((0, 4)), [(20, 5, 30, 15)]]
    path = saved(tmp_path / 'p.npz', *map(np.array, boxes))
    with_proposals = data.proposed(source(), path)
    resident = data.Resident(with_proposals, data.Crops(20, fit='stretch'))
    expected = np.zeros((3, 2, 4))
    expected[0], expected[2, 0] = boxes[0], boxes[2][0]
    np.testing.assert_allclose(resident.data['proposals'], expected * (2 / 3, 1, 2 / 3, 1),
                               rtol=1e-6)
    assert resident.data['proposals'].dtype == np.float32
    again = pickle.loads(pickle.dumps(with_proposals.examples))
    np.testing.assert_array_equal(again[-1]['proposals'], expected[2])
    assert data.identity(with_proposals) != data.identity(source())


@pytest.mark.parametrize(('arrays', 'message'), [
    ([np.ones((1, 4))] * 3, r'arr_0 has the box \[1.0, 1.0, 1.0, 1.0\]: left comes before right'),
    ([np.float32([[1, 1, np.inf, 2]])] * 3, 'all are finite'),
    ([np.ones((4, 1))] * 3, r'arr_0 is float64 \[4, 1\], not numbers \[P, 4\]'),
    ([np.array([['a'] * 4])] * 3, 'not numbers'),
    ([np.ones((1, 4))] * 2, 'has 2 arrays for 3 pictures')])
def test_wrong_proposals(tmp_path, arrays, message):
    with pytest.raises(UserError, match=message):
        data.proposed(source(), saved(tmp_path / 'p.npz', *arrays))


def test_files_that_hold_no_proposals(tmp_path):
    with pytest.raises(data.Missing, match='no.npz: this file is not there'):
        data.proposed(source(), tmp_path / 'no.npz')
    (tmp_path / 'p.npz').write_bytes(b'no')
    with pytest.raises(UserError, match='p.npz is no readable .npz file of arrays'):
        data.proposed(source(), tmp_path / 'p.npz')
    np.save(tmp_path / 'p.npy', BOXES)
    with pytest.raises(UserError, match='p.npy is no readable .npz file of arrays'):
        data.proposed(source(), tmp_path / 'p.npy')
    with pytest.raises(UserError, match='these pictures have no names; save an array for each'):
        data.proposed(source(), saved(tmp_path / 'q.npz', a=np.zeros((0, 4))))
    outside = data.proposed(source(), saved(tmp_path / 'r.npz', *[np.array([[0, 0, 20, 30]])] * 3))
    with pytest.raises(UserError, match='position 0 exceeds its 20 x 30 pixels'):
        data.Resident(outside, data.Crops())


def test_proposals_of_files_are_found_by_their_names(tmp_path):
    paths = [tmp_path / f'{name}.png' for name in 'ab']
    for path in paths:
        Image.fromarray(IMAGES[0]).save(path)
    kept = objects.ragged([[objects.Object('', (0, 0, 5, 5), 'x')], []], ('x',), ())
    boxed = data.Source(objects.Boxed(tuple(map(str, paths)), kept, str(tmp_path)), ('x',))
    a, b = np.array([[1, 2, 3, 4]]), np.array([[5, 6, 7, 8]])
    path = saved(tmp_path / 'p.npz', **{'b.png': b, 'a': a, 'other': b})
    found = data.proposed(boxed, path)
    for examples in (found.examples, found.examples.undecoded):
        assert [examples[i]['proposals'].tolist() for i in (0, 1)] == [a.tolist(), b.tolist()]
    then = data.identity(found)
    changed = data.identity(data.proposed(boxed, saved(tmp_path / 'p.npz', b=b + 1, a=a)))
    line, = data.differences(then, changed)
    assert line.startswith('of another size or content: proposals')
    with pytest.raises(UserError, match='has no array for 1 of 2 pictures, such as b'):
        data.proposed(boxed, saved(tmp_path / 'q.npz', a=a))
    twice = boxed._replace(examples=objects.Boxed((str(paths[0]),) * 2, kept, str(tmp_path)))
    with pytest.raises(UserError, match='several pictures have one name'):
        data.proposed(twice, path)


def test_proposals_in_a_config(tmp_path):
    config = base.get_config()
    config.update({'task': 'detect', 'dataset': 'digit_scenes'})
    config.proposals = str(tmp_path / '{split}.npz')
    saved(tmp_path / 'test.npz', *[np.array([[0, 0, 9, 9]])] * 500)
    found = dataset.source(config, 'test')
    assert isinstance(found.examples, proposals.Proposed)
    assert found.examples[7]['proposals'].tolist() == [[0, 0, 9, 9]]
    with pytest.raises(data.Missing, match='train.npz: this file is not there'):
        dataset.source(config, 'train')
    config.task = 'segment'
    with pytest.raises(UserError, match='they are for task=detect, not for segment'):
        dataset.source(config, 'test')
