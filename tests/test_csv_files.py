"""Tables of pictures and what they show."""

import numpy as np
import pytest
from PIL import Image

from cnnjax.data import csv_files, sources
from cnnjax.data.examples import Missing
from cnnjax.data.identity import identity
from cnnjax.errors import UserError


@pytest.fixture
def place(tmp_path):
    """A folder with six pictures, whose red tells which."""
    (tmp_path / 'my pictures').mkdir()
    for i in range(6):
        Image.new('RGB', (4, 4), (40 * i, 0, 0)).save(tmp_path / 'my pictures' / f'{i}.png')
    return tmp_path


def write(place, *lines, name='labels.csv', encoding='utf-8'):
    (place / name).write_text('\n'.join(lines) + '\n', encoding=encoding)
    return place / name


def rows(*cells):
    return [f'my pictures/{i}.png,{rest}' for i, rest in enumerate(cells)]


def shown(source, target='label'):
    """(picture's number, what it shows) of each example."""
    return [(int(example['image'][0, 0, 0]) // 40, np.asarray(example[target]).tolist())
            for example in source.examples]


DIVIDED = rows('Käse,train', '"a, b",train', 'Käse,test')


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig'])
def test_a_column_of_splits(place, capsys, encoding):
    file = write(place, 'Path,class,split,width', *(f'{row},7' for row in DIVIDED), '',
                 encoding=encoding)
    source = sources.load('csv', 'train', str(file))
    assert source.classes == ('Käse', 'a, b')
    assert shown(source) == [(0, 0), (1, 1)]
    assert shown(sources.load('csv', 'test', str(file))) == [(2, 0)]
    assert capsys.readouterr().out.splitlines() == [
        f'{file}, train: 2 images of 2 classes (Käse 1, a, b 1)',
        f'{file}, test: 1 image of 1 class (Käse 1)']


def test_a_cell_may_have_several_lines(place):
    file = write(place, 'image,label', *rows('"new\nline"', 'a\u2028b', 'a\x0cb'))
    assert csv_files.load(file, 'all', shares='1').classes == ('a\x0cb', 'a\u2028b', 'new\nline')


@pytest.mark.parametrize('delimiter', [';', '\t'])
def test_other_delimiters(place, delimiter):
    lines = ['image,label,split', 'my pictures/0.png,10,train', 'my pictures/3.png,9,train']
    file = write(place, *(line.replace(',', delimiter) for line in lines))
    source = csv_files.load(file, 'train')
    assert source.classes == ('9', '10')  # numbers in their order
    assert shown(source) == [(0, 1), (3, 0)]


def test_shares_divide_it(place):
    file = write(place, 'image,label', *rows('a', 'b', 'a', 'b', 'a', 'b'))
    parts = [shown(csv_files.load(file, split, shares='0.3/0.3/0.4'))
             for split in ('train', 'val', 'test')]
    assert [sorted(label for _, label in part) for part in parts] == [[0, 1]] * 3
    assert sorted(sum(parts, [])) == [(i, i % 2) for i in range(6)]


def test_the_pictures_may_be_elsewhere(place):
    (place / 'tables').mkdir()
    for split, cells in (('train', '0.png,b'), ('test', '1.png,b')):
        write(place, 'image,label', cells, '2.png,c', name=f'tables/{split}.csv')
    directory = place / 'my pictures'
    for annotations in ('../tables/{split}.csv', str(place / 'tables' / '{split}.csv')):
        source = csv_files.load(directory, 'test', annotations=annotations)
        assert shown(source) == [(1, 0), (2, 1)]
        assert source.about == f'{source.about.split(":")[0]}: 2 images of 2 classes (b 1, c 1)'
        assert source.examples.names == ['1.png', '2.png']


@pytest.mark.parametrize(('header', 'cells', 'options'), [
    ('labels', ('cat|dog', 'dog', '', ' eel | cat '), {}),
    ('tags', ('cat dog', 'dog', '', 'eel cat'), {'separator': ' '}),
    ('cat,dog,eel', ('1,1,0', '0,1,0', '0,0,0', '1.0,0,1'), {})])
def test_tags(place, header, cells, options):
    file = write(place, f'image,{header}', *rows(*cells))
    source = csv_files.load(file, 'all', target='tags', shares='1', **options)
    assert source.classes == ('cat', 'dog', 'eel')
    assert shown(source, 'tags') == [(0, [1, 1, 0]), (1, [0, 1, 0]), (2, [0, 0, 0]),
                                     (3, [1, 0, 1])]
    assert source.examples[0]['tags'].dtype == np.uint8
    assert source.about == (f'{file}, all: 4 images of 3 classes (cat 2, dog 2, eel 1), 1 of '
                            'them without any')
    first = identity(source)
    assert first.counts is None
    file.write_text(file.read_text().replace(cells[1], cells[3], 1))
    again = csv_files.load(file, 'all', target='tags', shares='1', **options)
    assert identity(again).digest != first.digest


def test_unreadable_pictures_are_left_out(place, capsys):
    (place / 'my pictures/1.png').write_text('no picture')
    file = write(place, 'image,label,split', *rows('a,train', 'b,train', 'b,train'),
                 'no.png,a,train')
    source = csv_files.load(file, 'train', 'skip')
    assert shown(source) == [(0, 0), (2, 1)]
    assert source.about.endswith('; left out: 2 unreadable')
    assert 'skipped: ' in capsys.readouterr().out


@pytest.mark.parametrize(('lines', 'message'), [
    (['id,breed', '0.png,a'], r'its first line has the columns id, breed. It needs one that is'),
    (['image,cat,dog', '0.png,1,0'], 'one called label; task=multilabel learns one column for'),
    (['image,file,label', 'a,b,c'], 'its columns image and file are both the image: rename one'),
    (['image,label,split', '0.png,a'], 'line 2: it has 2 columns, the first line 3'),
    (['image,label,split', '0.png,,train'], 'line 2: 0.png has no label'),
    (['image,label,split', ',a,train'], 'line 2: it names no picture'),
    (['image,Labels,split', '0.png,a|b,train'],
     r"line 2: 'a\|b' are several classes: --config.task=multilabel learns them"),
    (['image,label,split', *rows('a,train', 'b,train'), 'x.png,a,train', 'y.png,a,train'],
     r'line 4: .*/x.png is not there, nor 1 more. Paths are relative to the folder of the file'),
    (['image,label,split', './a.png,a,train', 'a.png,b,test'],
     'line 3: .*a.png is in line 2, too: give each picture one line; task=multilabel learns sev'),
    (['image,label', '0.png,a'], 'has no column split: add one that says train or test, or divide'),
    (['image,label,split', *rows('a,training')],
     "has no row of the split 'train', only of training: name them, as in --config.train_split=tr"),
    (['image,label,split'], 'has no row below its header'), ([], 'its first line has the columns'),
    (['image,label,split', '"0.png,a,train'], 'line 2: unexpected end of data')])
def test_what_is_wrong_is_named(place, lines, message):
    file = write(place, *lines)
    with pytest.raises(UserError, match=message):
        csv_files.load(file, 'train')


@pytest.mark.parametrize(('lines', 'message'), [
    (['image,cat,width', *rows('1,640')], "line 2: the column width has '640', and a class has 1"),
    (['image,cat,cat', *rows('1,0')], 'each column needs a name of its own, not image, cat, cat'),
    (['image', 'a.png'], 'It needs one .* and one called label, or one for each class')])
def test_tags_that_are_wrong(place, lines, message):
    with pytest.raises(UserError, match=message):
        csv_files.load(write(place, *lines), 'all', target='tags', shares='1')


def test_files_that_are_wrong(place):
    with pytest.raises(Missing, match='no.csv is not there'):
        csv_files.load(place / 'no.csv', 'train')
    with pytest.raises(UserError, match='is a folder: data_dir is the file, as in .*labels.csv'):
        csv_files.load(place, 'train')
    with pytest.raises(UserError, match='needs data_dir: the file'):
        csv_files.load(None, 'train')
    with pytest.raises(UserError, match='0.png is not a readable text file'):
        csv_files.load(place / 'my pictures/0.png', 'train')
    file = write(place, 'image,label,split', *DIVIDED)
    with pytest.raises(UserError, match='is divided already, by its column split: leave split out'):
        csv_files.load(file, 'train', shares='0.8/0.2')
    for split, label in (('train', 'a'), ('test', 'b')):
        write(place, 'image,label', *rows(label), name=f'{split}.csv')
    with pytest.raises(UserError, match=r'test.csv has classes that .*train.csv does not have: b'):
        csv_files.load(place / '{split}.csv', 'test')
