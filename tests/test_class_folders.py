"""Folders of pictures without splits, and nested ones; test_sources.py has the others."""

import shutil
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from cnnjax import data
from cnnjax.data import copies, sources
from cnnjax.data.examples import Files
from cnnjax.errors import UserError


@pytest.fixture(scope='module')
def animals(tmp_path_factory):
    """Ten pictures of each of two kinds of cats and of dogs, no two alike."""
    root = tmp_path_factory.mktemp('animals')
    for i, name in enumerate(('cats/tame', 'cats/wild', 'dogs')):
        (root / name).mkdir(parents=True)
        for j in range(10):
            Image.new('L', (4, 4), 10 * i + j).save(root / name / f'{j}.bmp')
    (root / 'notes.txt').touch()
    return root


def labels(source):
    return Counter(source.classes[label] for label in source.examples.labels)


def test_an_undivided_folder(animals, capsys):
    found = {split: sources.load('folder', split, str(animals), shares='0.7/0.1/0.2')
             for split in ('train', 'val', 'test')}
    assert labels(found['train']) == {'cats': 14, 'dogs': 7}
    assert labels(found['val']) == {'cats': 2, 'dogs': 1}
    assert labels(found['test']) == {'cats': 4, 'dogs': 2}
    names = [name for source in found.values() for name in source.examples.names]
    assert len(set(names)) == 30
    assert capsys.readouterr().out.splitlines() == [
        f'{animals}, train: 21 images of 2 classes (cats 14, dogs 7); left out: 1 .txt',
        f'{animals}, val: 3 images of 2 classes (cats 2, dogs 1)',
        f'{animals}, test: 6 images of 2 classes (cats 4, dogs 2)']


def test_only_the_pictures_of_a_split_are_checked(animals, tmp_path):
    shutil.copytree(animals, tmp_path, dirs_exist_ok=True)
    bad, *_ = data.load('folder', 'test', str(tmp_path), shares='0.8/0.2').examples.paths
    with open(bad, 'w') as file:
        file.write('no picture')
    for split, left_out in (('train', 0), ('test', 1)):
        whole, read = (data.load('folder', split, str(tmp_path), bad_images, shares='0.8/0.2')
                       for bad_images in ('error', 'skip'))
        assert len(whole.examples) - len(read.examples) == left_out


def test_classes_may_be_whole_paths(animals, tmp_path):
    whole = sources.folder(animals, 'all', shares='1', class_folders='path')
    assert whole.classes == ('cats/tame', 'cats/wild', 'dogs')
    assert labels(whole) == {'cats/tame': 10, 'cats/wild': 10, 'dogs': 10}
    shutil.copytree(animals, tmp_path / 'train')
    shutil.copytree(animals / 'cats/wild', tmp_path / 'test/cats/wild')
    Image.new('L', (4, 4)).save(tmp_path / 'test/cats/loose.bmp')
    with pytest.raises(UserError, match='test has classes that .*train does not have: cats'):
        sources.folder(tmp_path, 'test', class_folders='path')
    (tmp_path / 'test/cats/loose.bmp').rename(tmp_path / 'test/loose.bmp')
    tested = sources.folder(tmp_path, 'test', class_folders='path')
    assert tested.classes == whole.classes
    assert labels(tested) == {'cats/wild': 10}
    assert tested.about.endswith('; left out: 1 outside of the folders of the classes')


def test_many_classes_are_counted_together(tmp_path):
    for i in range(7):
        (tmp_path / str(i)).mkdir()
        for j in range(i + 1):
            Image.new('L', (4, 4)).save(tmp_path / str(i) / f'{j}.bmp')
    assert sources.folder(tmp_path, 'all', shares='1').about == (
        f'{tmp_path}, all: 28 images of 7 classes (1 to 7 of each)')


@pytest.mark.parametrize(('options', 'message'), [
    ({}, r'train cannot be read: No such .* A training divides <class>/\*.jpg itself, with '
     '--config.split=0.8/0.1/0.1'),
    ({'shares': '0.98/0.01/0.01', 'data_dir': '{root}/none'},
     r'none cannot be read: No such .*: data_dir must hold <class>/\*.jpg, which split divides$'),
    ({'data_dir': '{root}/notes.txt'}, 'is a file: --config.dataset=csv reads a table'),
    ({'shares': '0.5/0.6'}, "split='0.5/0.6': give the shares"),
    ({'shares': '0.8/0.2', 'split': 'val'}, "divides the set into train, test; 'val' is none of"),
    ({'shares': '0.8/0.2', 'dataset': 'digits', 'data_dir': None},
     "split='0.8/0.2': only dataset=folder, csv and npz may come undivided; of"),
    ({'class_folders': 'path', 'dataset': 'csv'}, 'class_folders=path: only the classes of'),
    ({'separator': ' '}, "label_separator=' ': only task=multilabel of dataset=csv separates")])
def test_what_does_not_fit_is_refused(animals, options, message):
    given = {'dataset': 'folder', 'split': 'train', 'data_dir': '{root}', **options}
    if given['data_dir']:
        given['data_dir'] = given['data_dir'].format(root=animals)
    with pytest.raises(UserError, match=message):
        sources.load(**given)


def test_a_divided_folder_is_not_divided_again(animals, tmp_path):
    for split in ('train', 'test'):
        shutil.copytree(animals / 'dogs', tmp_path / split / 'dogs')
    with pytest.raises(UserError, match="split='0.8/0.2': .* is divided already, into test, train: "
                                        'leave split out, or divide one of them with'):
        sources.folder(tmp_path, 'train', shares='0.8/0.2')
    assert sources.folder(tmp_path / 'train', 'test', shares='0.8/0.2').classes == ('dogs',)


def test_masks_and_boxes_are_divided_too(scenes, tmp_path):
    shutil.copytree(scenes / 'train', tmp_path / 'masks')
    shutil.copy(scenes / 'classes.txt', tmp_path / 'masks')
    found = {split: data.load('folder', split, str(tmp_path / 'masks'), target='mask',
                              shares='0.5/0.25/0.25') for split in ('train', 'val', 'test', 'all')}
    assert [len(source.examples) for source in found.values()] == [12, 6, 6, 24]
    assert found['val'].about.startswith(f'{tmp_path}/masks, val: 6 images with masks of 3 classes')
    example = found['val'].examples[0]
    assert example['mask'].shape == (16, 16)

    boxes = tmp_path / 'boxes'
    shutil.copytree(scenes / 'train/images', boxes / 'images')
    (boxes / 'labels').mkdir()
    (boxes / 'classes.txt').write_text('round\nsquare\n')
    for path in (boxes / 'images').iterdir():
        number = int(path.stem) % 2
        (boxes / 'labels' / f'{path.stem}.txt').write_text(f'{number} 0.5 0.5 0.25 0.25\n')
    for target in ('boxes', 'tags'):
        parts = {split: data.load('folder', split, str(boxes), target=target, shares='0.75/0.25')
                 for split in ('train', 'test')}
        assert [len(source.examples) for source in parts.values()] == [18, 6]
        names = [name for source in parts.values()
                 for name in (line.split('\t')[2] for line in data.identity(source).listing)]
        assert len(set(names)) == 24
    for name, example in zip(names, (example for source in parts.values()
                                     for example in source.examples), strict=True):
        number = int(name.split('/')[1].removesuffix('.png')) % 2
        np.testing.assert_array_equal(example['tags'], [1 - number, number])


def test_copies_in_two_splits_are_told(animals, tmp_path):
    shutil.copytree(animals, tmp_path, dirs_exist_ok=True)
    found = {split: sources.folder(tmp_path, split, shares='0.8/0.2')
             for split in ('train', 'test')}
    assert copies.told(found) == ''
    learned, tested = (found[split].examples.paths for split in ('train', 'test'))
    shutil.copyfile(learned[1], learned[2])  # within a split
    assert copies.told(found) == ''
    shutil.copyfile(learned[3], tested[1])
    assert copies.told(found) == (
        f'1 picture in more than one split, as {learned[3]} in train and {tested[1]} in test, the '
        'same bytes: remove copies, or errors are too low')
    assert copies.told({'train': data.load('digits', 'train')}) == ''  # They have no files.
    unreadable = [tmp_path / name for name in ('a', 'b')]
    for path in unreadable:  # Folders are of one size, and no files.
        path.mkdir()
    assert copies.told({str(path): data.Source(Files((str(path),), (0,)), ('x',))
                        for path in unreadable}) == ''
