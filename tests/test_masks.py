"""Folders of pictures with masks: what is read, and the errors for masks that do not fit."""

import numpy as np
import pytest
from PIL import Image

from cnnjax import data
from cnnjax.data import geometry, masks
from cnnjax.errors import UserError

RNG = np.random.default_rng(0)
MASK = np.uint8([[0, 1, 2, 255], [1, 1, 0, 0], [2, 2, 2, 255]])


@pytest.fixture
def scenes(tmp_path):
    """Three pictures of 3 x 4 pixels in each split, with masks of the three ways to store them."""
    (tmp_path / 'classes.txt').write_text('background\ncat\ndog\n')
    for split in ('train', 'test'):
        for kind in ('images', 'masks'):
            (tmp_path / split / kind / 'b').mkdir(parents=True)
        for name in ('a', 'b/c', 'd'):
            image = RNG.integers(0, 256, (3, 4, 3), np.uint8)
            Image.fromarray(image).save(tmp_path / split / 'images' / f'{name}.jpg')
        palette = Image.new('P', MASK.shape[::-1])
        palette.putdata(MASK.ravel().tolist())
        palette.putpalette(RNG.integers(0, 256, 768).tolist())
        palette.save(tmp_path / split / 'masks' / 'a.png')
        Image.fromarray(MASK).save(tmp_path / split / 'masks' / 'b/c.png')
        Image.fromarray(MASK == 1).save(tmp_path / split / 'masks' / 'd.png')
    return tmp_path


def test_masks_are_classes_however_they_are_stored(scenes):
    source = data.load('folder', 'train', str(scenes), target='mask')
    assert source.classes == ('background', 'cat', 'dog')
    assert len(source.examples) == 3
    for i, expected in enumerate((MASK, MASK, MASK == 1)):
        for examples in (source.examples, source.examples.undecoded):
            example = examples[i]
            assert example['mask'].dtype == np.uint8
            np.testing.assert_array_equal(example['mask'], expected)
            assert np.asarray(example['image']).shape == (3, 4, 3)


def test_a_folder_says_what_it_has(scenes, capsys):
    (scenes / 'train' / 'images' / 'notes.txt').write_text('no picture')
    source = data.load('folder', 'train', str(scenes), target='mask')
    assert f'{scenes}/train: 3 images with masks of 3 classes; left out: 1 .txt' in (
        capsys.readouterr().out)
    then = data.identity(source)
    assert then.counts is None
    Image.fromarray(np.zeros((30, 40), np.uint8)).save(scenes / 'train' / 'masks' / 'a.png')
    now = data.identity(data.load('folder', 'train', str(scenes), target='mask'))
    line, = data.differences(then, now)
    assert line.startswith('of another size or content: a.jpg')


def test_resident_sets_and_streams_have_the_masks(scenes):
    source = data.load('folder', 'train', str(scenes), target='mask')
    resident = data.Resident(source, data.Crops())
    np.testing.assert_array_equal(resident.data['mask'][0], MASK)
    assert resident.shapes['mask'].shape == (1, 3, 4)
    stream = data.Stream(source, data.Crops(2, shorter_side=(3, 3)))
    batch = next(stream.train_batches(3, 0))
    assert {name: batch[name].shape for name in ('image', 'mask')} == {
        'image': (3, 2, 2, 3), 'mask': (3, 2, 2)}
    last = list(stream.test_batches(2))[-1]
    assert last['weight'].tolist() == [1, 0]
    assert not last['mask'][1].any()


def change(file, text=None, size=None, mode='L'):
    def apply(root):
        path = root / 'train' / file
        if text is not None:
            path.write_text(text)
        elif size is None:
            path.unlink()
        else:
            Image.new(mode, size, 9 if mode == 'L' else None).save(path)
    return apply


@pytest.mark.parametrize(('apply', 'message'), [
    (change('masks/a.png'), r'images/a\.jpg has no mask: .*masks/a\.png is not there$'),
    (change('masks/a.png', 'x'), r'masks/a\.png is not a readable image'),
    (change('masks/a.png', size=(4, 3), mode='RGB'), r'masks/a\.png has the mode RGB: a mask is'),
    (change('masks/a.png', size=(5, 3)), r'position 0 has 3 x 4 pixels, its mask \[3, 5\]'),
    (change('masks/a.png', size=(4, 3)), 'mask of the image at position 0 has the class 9: the 3'),
    (change('../classes.txt'), r'classes\.txt is not there: it names the classes'),
    (change('../classes.txt', 'a\na\n'), r'classes\.txt has 1 different names in 2 lines')])
def test_what_does_not_fit_is_named(scenes, apply, message):
    apply(scenes)
    with pytest.raises(UserError, match=message):
        data.Resident(data.load('folder', 'train', str(scenes), target='mask'), data.Crops())


def test_unreadable_files_can_be_left_out(scenes, capsys):
    (scenes / 'train' / 'masks' / 'a.png').write_text('x')
    source = data.load('folder', 'train', str(scenes), 'skip', 'mask')
    assert len(source.examples) == 2
    assert 'skipped: ' in (said := capsys.readouterr().out)
    assert '1 unreadable' in said


def test_data_without_masks_says_so(scenes):
    with pytest.raises(UserError, match='^dataset=digits has no mask of each image, only label; '
                       '.* dataset=digit_scenes or coins or folder'):
        data.load('digits', 'train', target='mask')
    with pytest.raises(data.Missing, match='val/images is not there'):
        data.load('folder', 'val', str(scenes), target='mask')


def test_classes_in_another_order_change_the_masks(scenes):
    source = data.load('folder', 'train', str(scenes), target='mask')
    matched = data.matched(source, ('dog', 'background', 'cat', 'cow'))
    table = {0: 1, 1: 2, 2: 0, geometry.IGNORE: geometry.IGNORE}
    np.testing.assert_array_equal(matched.examples[0]['mask'], np.vectorize(table.get)(MASK))


def test_pictures_that_are_turned_or_have_one_name_are_refused(scenes):
    """A mask does not say whether it is turned too, nor which of two pictures it belongs to."""
    exif = Image.Exif()
    exif[0x0112] = 3
    path = scenes / 'train' / 'images' / 'a.jpg'
    Image.open(path).save(path, exif=exif)
    with pytest.raises(UserError, match=r'a\.jpg has the EXIF orientation 3'):
        data.Resident(data.load('folder', 'train', str(scenes), target='mask'), data.Crops())
    Image.open(path).save(path.with_suffix('.png'))
    with pytest.raises(UserError, match=r'a\.jpg and .*a\.png|a\.png and .*a\.jpg'):
        data.load('folder', 'train', str(scenes), target='mask')


def test_masks_without_a_picture_are_counted(scenes, capsys):
    Image.fromarray(MASK).save(scenes / 'train' / 'masks' / 'lonely.png')
    data.load('folder', 'train', str(scenes), target='mask')
    assert 'left out: 1 masks without a picture' in capsys.readouterr().out


def test_a_mask_is_read_without_its_picture(scenes):
    np.testing.assert_array_equal(masks.read(scenes / 'train' / 'masks' / 'b' / 'c.png'), MASK)
