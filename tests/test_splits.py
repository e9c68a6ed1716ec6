"""Sets without splits are divided alike in each class, by nothing but names."""

from collections import Counter
from fractions import Fraction

import pytest

from cnnjax import data
from cnnjax.data import splits
from cnnjax.errors import UserError

NAMES = [f'{name}/{i}.jpg' for name, count in (('cat', 100), ('dog', 31), ('fox', 3))
         for i in range(count)]
LABELS = [name.split('/')[0] for name in NAMES]
GOLDEN = ['dog/4.jpg', 'dog/19.jpg', 'dog/12.jpg', 'dog/29.jpg', 'dog/14.jpg', 'dog/25.jpg']


@pytest.mark.parametrize(('total', 'expected'), [
    (3, [1, 1, 1]), (4, [2, 1, 1]), (9, [7, 1, 1]), (10, [8, 1, 1]), (11, [9, 1, 1]),
    (15, [12, 2, 1]), (16, [13, 2, 1]), (1000, [800, 100, 100])])
def test_each_split_has_its_share_and_at_least_one(total, expected):
    assert splits.counts(total, [Fraction(8, 10), Fraction(1, 10), Fraction(1, 10)]) == expected


def test_every_class_is_divided_in_the_same_shares():
    found = splits.divided(NAMES, LABELS, '0.8/0.1/0.1')
    counts = Counter((label, found[name]) for name, label in zip(NAMES, LABELS, strict=True))
    assert counts == {
        ('cat', 'train'): 80, ('cat', 'val'): 10, ('cat', 'test'): 10, ('dog', 'train'): 25,
        ('dog', 'val'): 3, ('dog', 'test'): 3, ('fox', 'train'): 1, ('fox', 'val'): 1,
        ('fox', 'test'): 1}
    places = {split: splits.places(NAMES, LABELS, '0.8/0.1/0.1', split)
              for split in ('train', 'val', 'test', 'all')}
    assert sorted(places['train'] + places['val'] + places['test']) == places['all']
    assert places['all'] == list(range(len(NAMES)))


def test_the_split_is_always_the_same_whatever_the_order():
    """Golden: another version of this code must not move pictures from the test to the training."""
    found = splits.divided(NAMES, LABELS, '0.8/0.2')
    assert [name for name, split in found.items() if split == 'test' and 'dog' in name] == GOLDEN
    backwards = splits.divided(NAMES[::-1], LABELS[::-1], '0.8/0.2')
    assert backwards == found


def test_a_new_picture_moves_at_most_one_other_in_each_split():
    before = splits.divided(NAMES, LABELS, '0.8/0.1/0.1')
    for i in range(20):
        after = splits.divided([*NAMES, f'cat/new{i}.jpg'], [*LABELS, 'cat'], '0.8/0.1/0.1')
        moved = [name for name in NAMES if before[name] != after[name]]
        assert len(moved) <= 2
        assert all(name.startswith('cat/') for name in moved)


def test_what_a_run_had_is_kept():
    given = {'cat/1.jpg': 'test', 'cat/2.jpg': 'train'}
    assert splits.places(NAMES, LABELS, '0.8/0.2', 'test', given) == [1]
    assert splits.places(NAMES, LABELS, '0.8/0.2', 'train', given) == [2]


@pytest.mark.parametrize('text', ['0.8', '0.8/0.1', '0.5/0.5/0.5', 'a/b', '1.2/-0.2', '0/1', '/',
                                  '0.25/0.25/0.25/0.25', '0.8:0.2', 'nan/1', '1/0/0'])
def test_shares_that_are_none(text):
    with pytest.raises(UserError, match=r"split='.*': give the shares of train, val and test, who"):
        splits.parse(text)


def test_shares_are_exact():
    assert splits.parse('0.7/0.2/0.1') == {'train': Fraction(7, 10), 'val': Fraction(1, 5),
                                           'test': Fraction(1, 10)}


def test_a_class_with_too_few_is_named():
    with pytest.raises(UserError, match=r"takes at least 3 pictures of each class, and some have "
                                        r'fewer: fox \(2\). Give them more, or leave them out'):
        splits.divided(NAMES[:-1], LABELS[:-1], '0.8/0.1/0.1')
    with pytest.raises(UserError, match=r'at least 2 pictures, and there are 1'):
        splits.divided(['a'], None, '0.8/0.2')


def test_a_split_that_there_is_not():
    with pytest.raises(UserError, match="divides the set into train, test; 'val' is none of them"):
        splits.places(NAMES, LABELS, '0.8/0.2', 'val')


def test_names_of_any_kind_are_kept(tmp_path):
    names = [f'{name}/{i}.jpg' for name in ('new\nline', '"a", b', 'caf\udce9', "it's")
             for i in '123']
    for name in names:
        (tmp_path / 'photos' / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / 'photos' / name).write_bytes(b'')
    found = {split: data.load('folder', split, str(tmp_path / 'photos'), shares='0.5/0.5')
             for split in ('train', 'test')}
    splits.write(tmp_path, {split: data.identity(source) for split, source in found.items()})
    given = splits.read(tmp_path)
    for split, source in found.items():
        again = data.load('folder', split, str(tmp_path / 'photos'), shares='0.5/0.5', given=given)
        assert again.examples.paths == source.examples.paths
        assert 'newer' not in again.about
        assert 'new\\nline' in again.about


def test_a_damaged_file_is_told(tmp_path):
    assert splits.read(tmp_path) is None
    (tmp_path / 'split.csv').write_text('name,part\na.jpg,train\n')
    with pytest.raises(UserError, match=r'split.csv is damaged: .*; delete it'):
        splits.read(tmp_path)
