"""Data sets are told apart without decoding pictures, and their differences are named."""

import json

import numpy as np
import pytest
from PIL import Image

from cnnjax import data
from cnnjax.data import photos
from cnnjax.errors import UserError


@pytest.fixture
def root(tmp_path):
    """Three pictures of each of two classes."""
    for name in ('cats', 'dogs'):
        (tmp_path / 'train' / name).mkdir(parents=True)
        for i in range(3):
            Image.new('RGB', (4 + i, 4)).save(tmp_path / 'train' / name / f'{i}.bmp')
    return tmp_path


def identity(root):
    return data.identity(data.load('folder', 'train', root))


def rename_class(root):
    (root / 'cats').rename(root / 'zebras')


def add(root):
    Image.new('RGB', (4, 4)).save(root / 'cats/new.bmp')


def remove(root):
    (root / 'cats/1.bmp').unlink()


def resize(root):
    Image.new('RGB', (40, 4)).save(root / 'cats/1.bmp')


def swap(root):
    (root / 'cats/1.bmp').rename(root / 'cats/moved.bmp')
    (root / 'dogs/1.bmp').rename(root / 'cats/1.bmp')
    (root / 'cats/moved.bmp').rename(root / 'dogs/other.bmp')


def add_class(root):
    (root / 'ants').mkdir()
    Image.new('RGB', (4, 4)).save(root / 'ants/0.bmp')


@pytest.mark.parametrize(('change', 'lines'), [
    (lambda root: None, []),
    (rename_class, ["class 'cats' is now 'zebras', with the same examples"]),
    (add, ['examples of a class: cats 3 then, 4 now', 'added: cats/new.bmp']),
    (remove, ['examples of a class: cats 3 then, 2 now', 'missing: cats/1.bmp']),
    (resize, ['of another size or content: cats/1.bmp (118 then, 534 now)']),
    (swap, ['missing: dogs/1.bmp', 'added: dogs/other.bmp']),
    (add_class, ['classes added: ants']),
])
def test_a_folder_that_changed(root, change, lines):
    then = identity(root)
    assert then.counts == (3, 3)
    change(root / 'train')
    now = identity(root)
    assert data.differences(then, now) == lines
    # From a file, without the listing, a change is seen as well.
    kept = data.Identity.of_summary(json.loads(json.dumps(then.summary())))
    assert bool(data.differences(kept, now)) == bool(lines)


def test_a_set_is_the_same_elsewhere(root, tmp_path_factory):
    other = tmp_path_factory.mktemp('other') / 'copy'
    root.rename(other)
    then = identity(other)
    other.rename(root)
    assert identity(root) == then


def test_many_differences_are_few_lines(root):
    then = identity(root)
    for i in range(100):
        Image.new('RGB', (4, 4)).save(root / 'train' / 'dogs' / f'x{i}.bmp')
    *_, line = data.differences(then, identity(root))
    assert line == 'added: dogs/x0.bmp, dogs/x1.bmp, dogs/x10.bmp and 97 more'


def test_names_that_are_no_text(root):
    strange = root / 'train' / 'cats' / 'a\tb\nc\udcff.bmp'
    then = identity(root)
    Image.new('RGB', (4, 4)).save(strange)
    now = identity(root)
    assert data.differences(then, now)[-1] == 'added: cats/a\tb\\nc\udcff.bmp'
    assert data.differences(now, now._replace(digest='')) == ['the same files in another order']


def test_a_set_in_memory_is_told_by_its_pixels():
    digits = data.load('digits', 'train')
    then = data.identity(digits)
    assert then == data.identity(data.Resident(digits, data.Crops()))
    assert sum(then.counts) == then.examples == 1347
    example = dict(digits.examples[5], image=digits.examples[5]['image'] + np.uint8(1))
    changed = data.Source([*digits.examples[:5], example, *digits.examples[6:]], digits.classes)
    line, = data.differences(then, data.identity(changed))
    assert line.startswith('of another size or content: example 5 (')
    relabelled = dict(digits.examples[5], label=0)
    changed = data.Source([*digits.examples[:5], relabelled, *digits.examples[6:]],
                             digits.classes)
    assert data.differences(then, data.identity(changed))[-1] == (
        'of another label: example 5 (6 then, 0 now)')
    assert data.differences(then, data.identity(data.load('digits', 'test')))


def test_the_order_of_classes_counts():
    examples = [{'image': np.zeros((2, 2, 1), np.uint8), 'label': i} for i in range(4)]
    then, now = (data.identity(data.Source(examples, classes))
                 for classes in (('0', '1', '2', '10'), ('0', '1', '10', '2')))
    assert data.differences(then, now)[0] == (
        'classes in another order: 0, 1, 2 and 1 more then, 0, 1, 10 and 1 more now')


def test_photos_are_told_by_their_cells(monkeypatch):
    cells = [photos.Cell('a_1_1', np.zeros((2, 2, 3), np.uint8))]
    then = data.identity(data.Source(photos.Patches(tuple(cells), 'train'), ('a_1_1',)))
    assert then.examples == 64
    cells[0].pixels[0, 0, 0] = 1
    now = data.identity(data.Source(photos.Patches(tuple(cells), 'train'), ('a_1_1',)))
    line, = data.differences(then, now)
    assert line.startswith('of another size or content: train/a_1_1 (')


def test_a_file_that_went_away_is_named(root):
    source = data.load('folder', 'train', root)
    (root / 'train/cats/0.bmp').unlink()
    with pytest.raises(UserError, match=r'cats/0\.bmp cannot be read: No such file'):
        data.identity(source)


@pytest.mark.parametrize('summary', [None, {}, {'classes': 3}, [], {
    'classes': ['a'], 'examples': float('inf'), 'counts': None, 'digest': ''}])
def test_a_damaged_summary(summary):
    with pytest.raises(UserError, match='identity of a data set is damaged'):
        data.Identity.of_summary(summary)

