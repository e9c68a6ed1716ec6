"""The sources by name, and folders of photographs with stray files in them."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image

from cnnjax.data import sources
from cnnjax.errors import UserError

PHOTOGRAPHS = Path(skimage.__file__).parent / 'data'


@pytest.fixture
def photos(tmp_path):
    """Five photographs of two classes, and much that is none."""
    root = tmp_path / 'my photos'
    for photograph, place in (('chelsea.png', 'train/cats/b.png'),
                              ('chelsea.png', 'train/cats/a/deep er/chélsea.PNG'),
                              ('rocket.jpg', 'train/Space/rocket.jpg'),
                              ('rocket.jpg', 'train/Space/Rocket.JPEG'),
                              ('chelsea.png', 'test/cats/.thumbnails/b.png'),
                              ('chelsea.png', 'test/cats/._b.png'),
                              ('chelsea.png', 'test/cats/b.png'),
                              ('chelsea.png', 'test/loose.png'),
                              ('chelsea.png', 'train/.trash/b.png')):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PHOTOGRAPHS / photograph, root / place)
    for place in ('train/cats/notes.txt', 'train/cats/Thumbs.db', 'train/list.csv', 'train/cats/a'
                  '/photo.jpg.json', 'test/.DS_Store', 'test/cats/png'):
        (root / place).write_text('no image')
    return root


def test_two_classes_of_one_name_are_refused(photos):
    """The second one spells out the byte in the name of the first, as we do."""
    for name in (b'caf\xe9', rb'caf\xe9'):
        shutil.copytree(photos / 'train/cats', photos / 'train' / os.fsdecode(name))
    with pytest.raises(UserError, match=r'two folders of the name caf\\xe9: rename one'):
        sources.load('folder', 'train', str(photos))


def damage(path):
    path.write_bytes(path.read_bytes()[:3000])


def test_folder(photos):
    source = sources.folder(photos, 'train')
    assert source.classes == ('Space', 'cats')
    directory = photos / 'train'
    assert source.examples.paths == (
        f'{directory}/Space/Rocket.JPEG', f'{directory}/Space/rocket.jpg',
        f'{directory}/cats/a/deep er/chélsea.PNG', f'{directory}/cats/b.png')
    assert source.examples.labels == (0, 0, 1, 1)
    example = source.examples[1]
    assert example['label'] == 0
    with Image.open(PHOTOGRAPHS / 'rocket.jpg') as rocket:
        np.testing.assert_array_equal(example['image'], rocket)


def test_a_split_without_a_class_keeps_the_labels_of_train(photos):
    source = sources.folder(photos, 'test')
    assert source.classes == ('Space', 'cats')
    assert source.examples.paths == (f'{photos}/test/cats/b.png',)
    assert source.examples.labels == (1,)


def test_files_are_a_sequence(photos):
    examples = sources.folder(photos, 'train').examples
    assert len(examples) == 4
    assert [example['label'] for example in examples] == [0, 0, 1, 1]
    assert examples[-1]['label'] == 1
    with pytest.raises(IndexError):
        examples[4]


@pytest.mark.parametrize('root', ['~/my photos', 'my photos', './my photos/'])
def test_folders_below_home_and_here(photos, monkeypatch, root):
    monkeypatch.setenv('HOME', str(photos.parent))
    monkeypatch.chdir(photos.parent)
    assert len(sources.folder(root, 'train').examples) == 4


def test_a_hidden_place_is_no_hidden_file(photos, tmp_path):
    shutil.copytree(photos, tmp_path / '.cache' / 'photos')
    assert len(sources.folder(tmp_path / '.cache' / 'photos', 'train').examples) == 4


def test_links_are_followed(photos, tmp_path):
    (tmp_path / 'other' / 'train').mkdir(parents=True)
    os.symlink(photos / 'train' / 'cats', tmp_path / 'other' / 'train' / 'linked')
    source = sources.folder(tmp_path / 'other', 'train')
    assert source.classes == ('linked',)
    assert len(source.examples) == 2


@pytest.mark.parametrize(('change', 'split', 'message'), [
    (lambda root: (root / 'test/dogs').mkdir(), 'test',
     '{root}/test has classes that {root}/train does not have: dogs'),
    (lambda root: (root / 'train/dogs').mkdir(), 'train', '{root}/train/dogs has no image'),
    (lambda root: (root / 'test/Space').mkdir(), 'test', '{root}/test/Space has no image'),
    (lambda root: None, 'validation', '{root}/validation cannot be read: No such file or directory'
     ': {root} has the folders test, train; train_split, val_split and test_split name those of'),
    (lambda root: (root / 'val').touch(), 'val', '{root}/val cannot be read: Not a directory'),
    (lambda root: (root / 'val').mkdir(), 'val', '{root}/val has no folders'),
    (lambda root: (root / 'train').rename(root / 'Train'), 'test', '{root}/train cannot be read'),
    (lambda root: shutil.rmtree(root), 'train', '{root}/train cannot be read'),
])
def test_a_wrong_folder_is_named(photos, change, split, message):
    change(photos)
    with pytest.raises(UserError) as error:
        sources.folder(photos, split)
    assert message.format(root=photos) in str(error.value)


@pytest.mark.parametrize('root', [None, ''])
def test_no_folder(root):
    with pytest.raises(UserError, match='needs data_dir'):
        sources.folder(root, 'train')


def test_what_to_do_with_bad_images_is_one_of_two(photos):
    with pytest.raises(UserError, match="bad_images is 'error' or 'skip', not 'ignore'"):
        sources.load('folder', 'train', photos, 'ignore')


def test_a_bad_image_is_an_error_when_it_is_read(photos):
    damage(photos / 'train/Space/rocket.jpg')
    examples = sources.folder(photos, 'train').examples
    assert len(examples) == 4
    assert examples[0]['image'].shape == (427, 640, 3)
    with pytest.raises(UserError, match='my photos/train/Space/rocket.jpg is not a readable image'):
        examples[1]


def test_bad_images_are_skipped_counted_and_listed(photos, capsys):
    bad = photos / 'train/Space/rocket.jpg', photos / 'train/cats/b.png'
    for path in bad:
        damage(path)
    source = sources.folder(photos, 'train', 'skip')
    assert source.examples.paths == (f'{photos}/train/Space/Rocket.JPEG',
                                     f'{photos}/train/cats/a/deep er/chélsea.PNG')
    assert source.examples.labels == (0, 1)
    skipped = capsys.readouterr().out.splitlines()
    assert [line.partition(' is not a readable image: ')[0] for line in skipped] == [
        f'skipped: {path}' for path in bad]
    assert source.about.startswith(
        f'{photos}/train: 2 images of 2 classes (Space 1, cats 1); left out: ')
    assert '2 unreadable' in source.about


def test_where_all_are_good_none_is_skipped(photos, capsys):
    source = sources.folder(photos, 'train', 'skip')
    assert len(source.examples) == 4
    assert not capsys.readouterr().out
    assert 'unreadable' not in source.about


@pytest.mark.parametrize(('split', 'images', 'reasons'), [
    ('train', '4 images of 2 classes (Space 2, cats 2)', {
        '2 hidden or of the system', '1 .csv', '1 .txt', '1 .json'}),
    ('test', '1 image of 1 class (cats 1)', {'3 hidden or of the system', '1 without suffix',
                                    '1 outside of the folders of the classes'}),
])
def test_one_line_tells_what_was_found_and_left_out(photos, capsys, split, images, reasons):
    sources.load('folder', split, photos)
    line, = capsys.readouterr().out.splitlines()
    start, left_out = line.split('; left out: ')
    assert start == f'{photos}/{split}: {images}'
    assert set(left_out.split(', ')) == reasons


def test_one_line_tells_of_other_sources(capsys):
    sources.load('digits', 'test')
    assert capsys.readouterr().out == 'digits, test: 450 images of 10 classes\n'


def test_folders_of_the_system_are_no_classes(photos):
    for name in ('__MACOSX', '@eaDir', '$RECYCLE.BIN', 'lost+found'):
        shutil.copytree(photos / 'train' / 'cats', photos / 'train' / name)
    assert sources.folder(photos, 'train').classes == ('Space', 'cats')


def test_a_class_without_images_tells_what_it_has(photos):
    (photos / 'train/dogs').mkdir()
    (photos / 'train/dogs/a.heic').touch()
    with pytest.raises(UserError, match='train/dogs has no image; left out: 1 .heic: give it'):
        sources.folder(photos, 'train')


def test_a_split_of_bad_images(photos):
    damage(photos / 'test/cats/b.png')
    with pytest.raises(UserError) as error:
        sources.folder(photos, 'test', 'skip')
    assert str(error.value) == f'{photos}/test: none of its images can be read'


@pytest.mark.parametrize(('dataset', 'given', 'message'), [
    ('digits', {'data_dir': 'photos'}, 'data_dir=photos: digits come with a library'),
    ('photos', {'data_dir': 'photos'}, 'data_dir=photos: photos come with a library'),
    ('digit', {}, "no 'digit'; did you mean digits"),
    ('digits', {'bad_images': 'skip'}, "bad_images=skip: .* dataset=folder"),
    ('cifar10', {'bad_images': 'skip'}, "bad_images=skip: .* dataset=folder"),
    ('coins', {}, 'dataset=coins has no label for each image, only a mask .config.task='
     'segment learns masks.; these data sets do: digits, photos, digit_outlines, clips, '
     'clip_frames, folder, some of'),
    ('coins', {'target': 'boxes'}, 'dataset=coins has no boxes for each image, only a mask .*'
     'do: digit_scenes, folder, some of tensorflow-datasets'),
    ('folder', {'bad_boxes': 'none'}, "bad_boxes is 'error' or 'skip', not 'none'"),
    ('folder', {'bad_boxes': 'skip'}, 'bad_boxes=skip: only boxes of dataset=folder and of'),
    ('digit_scenes', {'bad_boxes': 'skip', 'target': 'boxes'}, 'bad_boxes=skip: only boxes of'),
    ('digit_scenes', {'annotations': 'a.json', 'target': 'boxes'}, 'annotations=a.json: only')])
def test_what_a_set_does_not_use_is_refused(dataset, given, message):
    with pytest.raises(UserError, match=message):
        sources.load(dataset, 'test', **given)


def test_load_finds_the_source(photos, tmp_path):
    assert len(sources.load('digits', 'test').examples) == 450
    damage(photos / 'train/cats/b.png')
    assert len(sources.load('folder', 'train', photos).examples) == 4
    assert len(sources.load('folder', 'train', photos, 'skip').examples) == 3
    with pytest.raises(UserError, match=r'cifar10/3\.0\.2'):  # tensorflow-datasets' business
        sources.load('cifar10', 'train', tmp_path)


def test_a_data_set_may_be_left_out():
    assert sources.load_if_named('', 'test', None) is None
    assert len(sources.load_if_named('digits', 'test', None).examples) == 450
    with pytest.raises(UserError, match='data_dir=x is that of a data set: give dataset too'):
        sources.load_if_named('', 'test', 'x')
