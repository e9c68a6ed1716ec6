"""Scenes of digits on photographs: their split, and masks and boxes that fit the picture."""

import numpy as np
import pytest

from cnnjax import data
from cnnjax.data import digit_scenes, digits, photos
from cnnjax.errors import UserError


@pytest.fixture(scope='module')
def scenes():
    """{split: Source} with all targets of each scene."""
    found = {split: digit_scenes.load(split, 'mask') for split in ('train', 'test')}
    return {split: source._replace(examples=digit_scenes.Scenes(
        split, ('mask', 'boxes', 'labels'), source.examples.scans, source.examples.photographs))
            for split, source in found.items()}


def some(scenes, count=100):
    return [scenes[split].examples[i] for split in scenes for i in range(count)]


@pytest.mark.parametrize(('split', 'count'), [('train', 4000), ('test', 500)])
def test_each_target_has_its_classes(split, count):
    masks, boxes = (data.load('digit_scenes', split, target=target) for target in ('mask', 'boxes'))
    assert len(masks.examples) == len(boxes.examples) == count
    assert masks.classes == ('background', 'digit')
    assert boxes.classes == tuple('0123456789')
    assert masks.examples[0].keys() == {'image', 'mask'}
    assert boxes.examples[0].keys() == {'image', 'boxes', 'labels'}
    np.testing.assert_array_equal(masks.examples[0]['image'], boxes.examples[0]['image'])


def test_examples_have_one_shape(scenes):
    for example in some(scenes):
        shapes = {name: (array.dtype.name, array.shape) for name, array in example.items()}
        assert shapes == {'image': ('uint8', (64, 64, 3)), 'mask': ('uint8', (64, 64)),
                          'boxes': ('float32', (3, 4)), 'labels': ('int32', (3,))}
        assert set(np.unique(example['mask'])) <= {0, 1}


def test_a_scene_is_always_the_same_and_no_two_are(scenes):
    examples = scenes['test'].examples
    for i in (0, 7, 499):
        again = digit_scenes.load('test', 'mask').examples[i]
        np.testing.assert_array_equal(again['image'], examples[i]['image'])
        np.testing.assert_array_equal(again['mask'], examples[i]['mask'])
    np.testing.assert_array_equal(examples[-1]['image'], examples[499]['image'])
    assert len({example['image'].tobytes() for example in some(scenes)}) == 200
    with pytest.raises(IndexError):
        examples[500]


def test_training_and_test_share_no_scan_and_no_photograph(scenes):
    """12 photographs are for training, 6 for the test; those of text are in neither."""
    train, test = (scenes[split].examples for split in ('train', 'test'))
    assert (len(train.photographs), len(test.photographs)) == (12, 6)
    assert not train.photographs.keys() & test.photographs.keys()
    assert set(photos.NAMES) - train.photographs.keys() - test.photographs.keys() == {
        'page', 'text'}
    for examples, split in ((train, 'train'), (test, 'test')):
        np.testing.assert_array_equal([scan['image'] for scan in examples.scans],
                                      [scan['image'] for scan in digits.load(split).examples])


def test_boxes_hold_the_masks_and_hardly_overlap(scenes):
    """A box is at least as large as the ink in the mask, which is darker than its own."""
    counts = []
    for example in some(scenes):
        here = example['labels'] >= 0
        boxes, inside = example['boxes'][here], np.zeros((64, 64), np.uint8)
        assert (example['boxes'][~here] == 0).all()
        assert (boxes == boxes.round()).all()
        for left, top, right, bottom in boxes.astype(int):
            assert 0 <= left < right <= 64
            assert 0 <= top < bottom <= 64
            assert bottom - top <= 32
            inside[top:bottom, left:right] = 1
            part = example['mask'][top:bottom, left:right]
            assert part.any(0).mean() > 0.5
            assert part.any(1).mean() > 0.5
        assert (example['mask'] <= inside).all()
        counts.append(len(boxes))
        for i in range(len(boxes)):
            assert (digit_scenes.covered(boxes[i], boxes[i + 1:]) <= 0.1).all()
    assert set(counts) == {1, 2, 3}
    assert 1.8 < np.mean(counts) < 2.2


def test_the_part_of_the_smaller_box_that_is_covered():
    """A quarter of the small box is in the first large one, nothing in the second."""
    small = np.float32([0, 0, 2, 2])
    large = np.float32([[1, 1, 9, 9], [2, 0, 9, 9]])
    np.testing.assert_allclose(digit_scenes.covered(small, large), [0.25, 0])
    np.testing.assert_allclose(digit_scenes.covered(large[0], small[None]), [0.25])


def test_a_digit_differs_from_what_is_under_it():
    """On a gray scene its full ink has one colour, at least 90 levels away; its edges are mixed."""
    rng = np.random.default_rng(0)
    for scan in digits.load('test').examples[:20]:
        ink, box = digit_scenes.place(scan['image'], np.zeros((0, 4)), rng)
        scene = np.full((64, 64, 3), 128, np.float32)
        digit_scenes.draw(scene, ink, rng)
        assert (scene[ink == 0] == 128).all()
        colours = np.unique(scene[ink == 1], axis=0)
        assert len(colours) == 1
        assert np.linalg.norm(colours[0] - 128) >= 90
        rows, columns = np.nonzero(ink > 0.3)
        assert tuple(box) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_digits_cover_about_a_fifteenth_of_the_pixels(scenes):
    share = np.mean([example['mask'] for example in some(scenes)])
    assert 0.055 < share < 0.08


def test_the_set_is_told_by_its_scans_and_photographs(scenes):
    then = data.identity(scenes['test'])
    assert (then.examples, then.counts) == (500, None)
    assert len(then.listing) == 7
    examples = scenes['test'].examples
    changed = {**examples.photographs, 'moon': examples.photographs['moon'][:100]}
    now = data.identity(scenes['test']._replace(
        examples=digit_scenes.Scenes('test', ('mask',), examples.scans, changed)))
    line, = data.differences(then, now)
    assert line.startswith('of another size or content: test/moon')


def test_an_unknown_split():
    with pytest.raises(UserError, match="the splits 'train' and 'test', not 'val'"):
        data.load('digit_scenes', 'val', target='mask')
