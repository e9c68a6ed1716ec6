"""Folders of pictures with masks: what is read, and the errors for masks that do not fit."""

import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from cnnjax import data, dataset
from cnnjax.data import geometry, masks
from cnnjax.errors import UserError
from configs import base

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


def prepared(root, split='train', **fields):
    """The set of a folder with masks, with these fields of the config."""
    config = base.get_config()
    config.update({'task': 'segment', 'dataset': 'folder', 'data_dir': str(root), **fields})
    return dataset.prepare(config, dataset.source(config, split))


STREAM = {'stream': True, 'image_size': 2, 'shorter_side': (3, 3)}


@pytest.mark.parametrize('fields', [{}, STREAM])
def test_one_line_tells_the_pixels_of_each_class(scenes, capsys, fields):
    """Of the 36 pixels 4 are ignored; they are counted before anything is cut from them."""
    (scenes / 'train' / 'images' / 'notes.txt').write_text('no picture')
    prepared(scenes, **fields)
    assert capsys.readouterr().out == (
        f'{scenes}/train: 3 images with masks of 3 classes; left out: 1 .txt; pixels: background '
        '41.7 %, cat 25 %, dog 22.2 %, 11.1 % ignored\n')


def test_classes_without_pixels_are_named():
    pixels = np.zeros(256, np.int64)
    pixels[[1, 3]] = 3, 1
    assert masks.described(pixels, 'abcde') == 'b 75 %, d 25 %; none of a, c, e'
    pixels[[0, 2, 4, 5, 6, 7]] = 1000, 900, 1, 800, 700, 600
    assert masks.described(pixels, [f'class{i}' for i in range(12)]) == (
        'class0 25 %, class2 22.5 %, class5 20 %, class6 17.5 %, class7 15 %, class1 0.0749 %, '
        '2 other classes; none of class8, class9, class10 and 1 more')


def test_masks_given_in_python_are_counted(capsys):
    config = base.get_config()
    config.task = 'segment'
    dataset.prepare(config, data.from_arrays(np.zeros((2, 3, 4, 3), np.uint8), 'abc',
                                             mask=np.stack([MASK % 3, MASK * 0])))
    assert capsys.readouterr().out == (
        'given in Python: 2 images of 3 classes; pixels: a 70.8 %, c 16.7 %, b 12.5 %\n')


def test_a_set_is_told_by_the_names_and_sizes_of_its_files(scenes):
    then = data.identity(data.load('folder', 'train', str(scenes), target='mask'))
    assert then.counts is None
    Image.fromarray(np.zeros((30, 40), np.uint8)).save(scenes / 'train' / 'masks' / 'a.png')
    now = data.identity(data.load('folder', 'train', str(scenes), target='mask'))
    line, = data.differences(then, now)
    assert line.startswith('of another size or content: a.jpg')


VALUES = np.uint8([[0, 1, 3], [2, 3, 0]])


def png(path, values, bits, color=0):
    """A PNG file of so many bits a pixel, which Pillow cannot write for gray ones of 2 and 4."""
    rows = [''.join(f'{value:0{bits}b}' for value in row) for row in values]
    length = -(-len(rows[0]) // 8)
    pixels = b''.join(b'\0' + int(row.ljust(8 * length, '0'), 2).to_bytes(length, 'big')
                      for row in rows)
    header = struct.pack('>IIBBBBB', *values.shape[::-1], bits, color, 0, 0, 0)
    palette = [(b'PLTE', bytes(RNG.integers(0, 256, 3 * 2 ** bits, np.uint8)))] * (color == 3)
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(chunk)) + kind + chunk + struct.pack('>I', zlib.crc32(kind + chunk))
        for kind, chunk in ((b'IHDR', header), *palette, (b'IDAT', zlib.compress(pixels)),
                            (b'IEND', b''))))


@pytest.mark.parametrize(('bits', 'color'), [
    (1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (1, 3), (2, 3), (4, 3), (8, 3)])
def test_numbers_of_any_number_of_bits(tmp_path, bits, color):
    """Gray pixels (0) are numbers, and so are indices into a palette (3)."""
    values = VALUES & np.uint8(2 ** min(bits, 8) - 1)
    png(tmp_path / 'mask.png', values, bits, color)
    read = masks.read(tmp_path / 'mask.png')
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, values)


def test_numbers_of_16_bits_in_either_order(tmp_path):
    for order in '<>':
        tifffile.imwrite(tmp_path / 'mask.tif', VALUES.astype(f'{order}u2'), byteorder=order)
        np.testing.assert_array_equal(masks.read(tmp_path / 'mask.tif'), VALUES)


@pytest.mark.parametrize('suffix', ['png', 'tif', 'bmp'])
@pytest.mark.parametrize('mode', ['L', 'P', '1'])
def test_formats_that_keep_each_pixel(tmp_path, suffix, mode):
    values = VALUES == 1 if mode == '1' else VALUES
    image = Image.fromarray(values)
    if mode == 'P':
        image.putpalette(RNG.integers(0, 256, 768).tolist())
    assert image.mode == mode
    image.save(tmp_path / f'mask.{suffix}')
    np.testing.assert_array_equal(masks.read(tmp_path / f'mask.{suffix}'), values)


def save(name, mode='L', value=0, **options):
    def apply(directory):
        Image.new(mode, (4, 3), value).save(directory / name, **options)
        return directory / name
    return apply


@pytest.mark.parametrize(('apply', 'message'), [
    (save('a.jpg'), 'a.jpg is a JPEG file, and such do not keep the number of each pixel: save'),
    (save('a.jpg', 'RGB'), 'a.jpg is a JPEG file'),
    (save('a.webp', 'RGB', lossless=True), 'a.webp is a WEBP file'),
    (save('a.gif'), 'a.gif is a GIF file'),  # Pillow renumbers the palette when it saves one.
    (save('a.png', 'RGB'), 'a.png has the mode RGB: a mask is gray or has a palette'),
    (save('a.png', 'RGBA', (0, 0, 0, 255)), 'a.png has the mode RGBA'),
    (save('a.png', 'LA', (1, 255)), 'a.png has the mode LA'),
    (save('a.tif', 'F', 1.0), 'a.tif has the mode F'),
    (save('a.png', 'I;16', 300), 'a.png has a pixel of the value 300: the values of a mask are'),
    (save('a.tif', save_all=True, append_images=[Image.new('L', (4, 3))] * 2),
     'a.tif holds 3 pictures: give each a file of its own'),
    (save('a.png', save_all=True, append_images=[Image.new('L', (4, 3), 1)]),
     'a.png holds 2 pictures')])
def test_files_without_numbers_of_classes_are_refused(tmp_path, apply, message):
    with pytest.raises(UserError, match=message):
        masks.read(apply(tmp_path))


def test_masks_of_pascal_voc(scenes):
    """Colours are in the palette (class 15 is (192, 128, 128)), and 255 is the objects' border."""
    names = ['background', *(f'object{i}' for i in range(1, 21))]
    (scenes / 'classes.txt').write_text('\n'.join(names))
    values = np.uint8([[0, 0, 255, 15], [0, 255, 15, 15], [0, 255, 20, 20]])
    mask = Image.fromarray(values)
    colors = np.uint8([[sum((i >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(8))
                        for channel in range(3)] for i in range(256)])
    assert colors[[15, 255]].tolist() == [[192, 128, 128], [224, 224, 192]]
    mask.putpalette(colors.ravel().tolist())
    mask.save(scenes / 'train' / 'masks' / 'a.png')
    example = data.load('folder', 'train', str(scenes), target='mask').examples[0]
    np.testing.assert_array_equal(example['mask'], values)


def test_the_mark_that_windows_puts_before_a_text_is_no_part_of_a_name(scenes):
    (scenes / 'classes.txt').write_text('\ufeffbackground\ncat\ndog\n')
    assert masks.read_classes(scenes / 'classes.txt') == ('background', 'cat', 'dog')


@pytest.fixture
def halves(scenes):
    """The scenes with masks of 0 and 255, and two classes."""
    (scenes / 'classes.txt').write_text('background\ncat\n')
    for split in ('train', 'test'):
        for name in ('a', 'b/c', 'd'):
            Image.fromarray(np.uint8(255 * (MASK == 1))).save(
                scenes / split / 'masks' / f'{name}.png')
    return scenes


@pytest.mark.parametrize('fields', [{}, STREAM])
def test_masks_of_0_and_255_are_refused_unless_a_field_says_what_they_are(halves, capsys, fields):
    with pytest.raises(UserError, match=r'/train: 3 images with masks of 2 classes: every pixel of '
                                        r'the masks is background or 255, .*mask_values=0,255; if'):
        prepared(halves, **fields)
    prepared(halves, mask_values=(0, 1), **fields)
    assert 'background 75 %, 25 % ignored; none of cat' in capsys.readouterr().out
    examples = prepared(halves, mask_values=(0, 255), **fields)
    assert 'pixels: background 75 %, cat 25 %\n' in capsys.readouterr().out
    np.testing.assert_array_equal(examples.examples[0]['mask'], MASK == 1)


def test_arrays_of_0_and_255_are_refused():
    source = data.from_arrays(np.zeros((1, 3, 4, 3), np.uint8), 'ab', mask=255 * (MASK == 1)[None])
    with pytest.raises(UserError, match='given in Python: 1 image of 2 classes: every pixel of the '
                                        'masks is a or 255, .* stands for a class, renumber it'):
        dataset.prepare(base.get_config(), source)


@pytest.mark.parametrize('fields', [{}, STREAM])
def test_masks_that_are_all_ignored_are_refused(scenes, fields):
    for name in ('a', 'b/c', 'd'):
        Image.new('L', (4, 3), 255).save(scenes / 'train' / 'masks' / f'{name}.png')
    with pytest.raises(UserError, match='train: 3 images .*: every pixel of the masks is 255'):
        prepared(scenes, **fields)


def test_values_are_mapped_to_classes_in_their_order(scenes):
    source = data.load('folder', 'train', str(scenes), 'error', 'mask', (2, 0, 1))
    table = {2: 0, 0: 1, 1: 2, 255: geometry.IGNORE}
    np.testing.assert_array_equal(source.examples[0]['mask'], np.vectorize(table.get)(MASK))


@pytest.mark.parametrize(('values', 'message'), [
    ((0, 255), r'mask_values=\(0, 255\): .*classes\.txt has 3 classes; give a value from 0'),
    ((0, 1, 300), 'mask_values=.*give a value from 0 to 255 for each'),
    ((0, 1, 1), r'mask_values=\(0, 1, 1\): .*has 3 classes; give'),
    ((3, 1, 255), r'masks/a\.png has a pixel of the value 0: those .* are 3, 1, 255\.')])
def test_values_that_do_not_fit_are_named(scenes, values, message):
    with pytest.raises(UserError, match=message):
        prepared(scenes, mask_values=values)


@pytest.mark.parametrize('fields', [{}, STREAM])
def test_every_mask_is_checked_before_the_first_step(scenes, fields):
    """Also the last one, and by the name of its file."""
    Image.fromarray(MASK + np.uint8(5)).save(scenes / 'train' / 'masks' / 'd.png')
    with pytest.raises(UserError, match=r'masks/d\.png has a pixel of the value [567]: '):
        prepared(scenes, **fields)


def test_only_masks_of_folders_have_other_values(scenes):
    for dataset_, target in (('digit_scenes', 'mask'), ('folder', 'label')):
        with pytest.raises(UserError, match=r'^mask_values=\(0, 255\): only masks of dataset='):
            data.load(dataset_, 'train', target=target, mask_values=(0, 255))


def test_pictures_and_masks_are_no_classes(scenes):
    """A forgotten task would learn to tell pictures from masks."""
    with pytest.raises(UserError, match='train has the folders images and masks. To learn the '
                                        'masks, set config.task=segment; if these are two'):
        data.load('folder', 'train', str(scenes))


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
    (change('masks/a.png', size=(5, 3)), r'masks/a\.png has 3 x 5 pixels, its picture 3 x 4: a'),
    (change('masks/a.png', size=(4, 3)), r'masks/a\.png has a pixel of the value 9: those '
     r'of the classes are 0, 1, 2\. If a folder has other values, list that of each class'),
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
    assert 'skipped: ' in capsys.readouterr().out
    assert '1 unreadable' in source.about


def test_data_without_masks_says_so(scenes):
    with pytest.raises(UserError, match='^dataset=digits has no mask for each image, only a label; '
                       '.* digit_scenes, coins, folder, some of tensorflow-datasets'):
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
    exif, path = Image.Exif(), scenes / 'train' / 'images' / 'a.jpg'
    mask = scenes / 'train' / 'masks' / 'a.png'
    for turned, orientation in ((path, 3), (mask, 6)):
        exif[0x0112] = orientation
        Image.open(turned).save(turned, exif=exif)
        with pytest.raises(UserError, match=rf'{turned.name} has the EXIF orientation '
                                            f'{orientation}'):
            data.Resident(data.load('folder', 'train', str(scenes), target='mask'), data.Crops())
        exif[0x0112] = 0  # Some cameras write this; it means nothing.
        Image.open(turned).save(turned, exif=exif)
    data.Resident(data.load('folder', 'train', str(scenes), target='mask'), data.Crops())
    Image.open(path).save(path.with_suffix('.png'))
    with pytest.raises(UserError, match=r'a\.jpg and .*a\.png|a\.png and .*a\.jpg'):
        data.load('folder', 'train', str(scenes), target='mask')


def test_masks_without_a_picture_are_counted(scenes):
    Image.fromarray(MASK).save(scenes / 'train' / 'masks' / 'lonely.png')
    source = data.load('folder', 'train', str(scenes), target='mask')
    assert 'left out: 1 masks without a picture' in source.about


def test_a_mask_is_read_without_its_picture(scenes):
    np.testing.assert_array_equal(masks.read(scenes / 'train' / 'masks' / 'b' / 'c.png'), MASK)


def test_arrays_of_masks_have_at_most_255_classes():
    """255 stands for none."""
    images, mask = np.zeros((1, 3, 4, 3), np.uint8), np.zeros((1, 3, 4), np.uint8)
    names = [str(i) for i in range(256)]
    assert len(data.from_arrays(images, names[:255], mask=mask).classes) == 255
    with pytest.raises(UserError, match='256 classes: masks have at most 255'):
        data.from_arrays(images, names, mask=mask)
