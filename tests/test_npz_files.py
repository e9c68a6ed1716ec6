"""Arrays in an .npz file as a data set."""

import numpy as np
import pytest

from cnnjax import data
from cnnjax.data import npz_files, sources
from cnnjax.data.examples import Missing
from cnnjax.errors import UserError

IMAGES = np.arange(12, dtype=np.uint8).reshape(12, 1, 1) * np.ones((1, 4, 4), np.uint8)
LABELS = np.array([0, 1, 2] * 4)
TEXTS = np.array(['cat', 'dog', 'eel'])[LABELS]
TAGS = np.stack([LABELS == 0, LABELS < 2], 1).astype(np.int64)


def write(tmp_path, **arrays):
    np.savez(tmp_path / 'a.npz', **arrays)
    return tmp_path / 'a.npz'


def shown(source, target='label'):
    return [(int(example['image'][0, 0, 0]), np.asarray(example[target]).tolist())
            for example in source.examples]


@pytest.mark.parametrize('names', ['x_{0} y_{0}', '{0}_images {0}_labels'])
@pytest.mark.parametrize('labels', [LABELS, LABELS[:, None].astype(np.uint8)])
def test_splits_by_keras_and_by_medmnist(tmp_path, names, labels, capsys):
    arrays = {}
    for split, part in (('train', slice(6)), ('val', slice(6, 8)), ('test', slice(8, None))):
        pair = names.format(split).split()
        arrays |= dict(zip(pair, (IMAGES[part, ..., None], labels[part]), strict=True))
    file = write(tmp_path, **arrays)
    source = sources.load('npz', 'val', str(file))
    assert capsys.readouterr().out == f'{file}, val: 2 images of 2 classes (0 1, 1 1)\n'
    assert source.classes == ('0', '1', '2')
    assert shown(source) == [(6, 0), (7, 1)]
    assert source.examples[0]['image'].shape == (4, 4, 1)
    with pytest.raises(UserError, match="has the arrays .*, not .*holdout.*: rename them"):
        npz_files.load(file, 'holdout')
    with pytest.raises(UserError, match='not images, labels or x, y: leave split out'):
        npz_files.load(file, 'train', shares='0.8/0.2')


@pytest.mark.parametrize('arrays', [
    {'images': IMAGES, 'labels': LABELS, 'classes': ['cat', 'dog', 'eel']},
    {'x': IMAGES, 'y': TEXTS}, {'x': IMAGES, 'y': TEXTS.astype('S')},
    {'x': IMAGES, 'y': LABELS, 'classes': np.array([b'cat', b'dog', b'eel'])}])
def test_shares_divide_arrays(tmp_path, arrays):
    file = write(tmp_path, **arrays)
    parts = {split: npz_files.load(file, split, shares='0.5/0.25/0.25')
             for split in ('train', 'val', 'test')}
    assert parts['train'].classes == ('cat', 'dog', 'eel')
    assert {split: sorted(label for _, label in shown(part)) for split, part in parts.items()} == {
        'train': [0, 0, 1, 1, 2, 2], 'val': [0, 1, 2], 'test': [0, 1, 2]}
    assert sorted(sum(map(shown, parts.values()), [])) == list(enumerate(LABELS.tolist()))
    names = parts['val'].examples.names
    assert [IMAGES[int(name), 0, 0] for name in names] == [place for place, _ in shown(
        parts['val'])]
    assert [line.split('\t')[2] for line in data.identity(parts['val']).listing] == names
    with pytest.raises(UserError, match='divide them with --config.split=0.8/0.1/0.1'):
        npz_files.load(file, 'train')


def test_tags(tmp_path):
    file = write(tmp_path, images=IMAGES, labels=TAGS)
    source = npz_files.load(file, 'all', target='tags', shares='1')
    assert source.classes == ('0', '1')
    assert shown(source, 'tags') == list(enumerate(TAGS.tolist()))
    assert source.about == f'{file}, all: 12 images of 2 classes (0 4, 1 8), 4 of them without any'
    with pytest.raises(UserError, match=r'labels of the shape \[12, 2\]: a class for each image'):
        npz_files.load(file, 'all', shares='1')
    with pytest.raises(UserError, match='learns a 1 or a 0 for each image and class'):
        npz_files.load(write(tmp_path, x=IMAGES, y=LABELS), 'all', target='tags', shares='1')
    with pytest.raises(UserError, match='tags are 1 for .* and 0 for the others, not 0 to 2'):
        npz_files.load(write(tmp_path, x=IMAGES, y=2 * TAGS), 'all', target='tags', shares='1')


@pytest.mark.parametrize(('arrays', 'message'), [
    ({'x': IMAGES / 255, 'y': LABELS}, r'float64 \[12, 4, 4\] are most likely gray images'),
    ({'x': IMAGES, 'y': LABELS / 2}, 'label is an array of float64: classes are whole numbers'),
    ({'x': IMAGES, 'y': LABELS[1:]}, r'label has the shape \[11\]'),
    ({'x': IMAGES, 'y': LABELS, 'classes': ['a', 'b']}, 'the labels have numbers from 0 to 2, and'),
    ({'x': IMAGES, 'y': LABELS - 1}, 'the labels have numbers from -1 to 1, and there are 2 class'),
    ({'x': np.array([{}]), 'y': LABELS}, 'is no .npz file of arrays without objects'),
    ({'x': IMAGES}, 'has the arrays x, not images, labels or x, y')])
def test_what_is_wrong_is_named(tmp_path, arrays, message):
    for shares in ('1', '0.8/0.2'):
        with pytest.raises(UserError, match=message):
            npz_files.load(write(tmp_path, **arrays), 'all', shares=shares)


def test_files_that_are_wrong(tmp_path):
    with pytest.raises(Missing, match='no.npz is not there'):
        npz_files.load(tmp_path / 'no.npz', 'train')
    with pytest.raises(UserError, match='needs data_dir: the file'):
        npz_files.load('', 'train')
    (tmp_path / 'b.npz').write_text('no arrays')
    np.save(tmp_path / 'c.npy', IMAGES)
    for path in (tmp_path, tmp_path / 'b.npz', tmp_path / 'c.npy', '\0', 'a' * 300):
        with pytest.raises(UserError, match='is no .npz file of arrays'):
            npz_files.load(path, 'train')


@pytest.mark.parametrize(('shape', 'kind'), [
    ((12, 7, 3), 'sequence'), ((12, 3, 4, 5, 2), 'volume')])
def test_sequences_and_volumes(shape, kind, tmp_path, capsys):
    """Floats are what they are; only volumes may be uint8."""
    values = np.random.default_rng(0).normal(0, 300, shape)
    file = write(tmp_path, x=values, y=TEXTS)
    source = sources.load('npz', 'train', str(file), shares='0.75/0.25')
    assert f'train: 9 {kind}s of 3 classes (cat 3, dog 3, eel 3)' in capsys.readouterr().out
    places = [int(name) for name in source.examples.names]
    for place, example in zip(places, source.examples, strict=True):
        assert example['image'].dtype == np.float32
        np.testing.assert_array_equal(example['image'], np.float32(values[place]))
    tagged = npz_files.load(write(tmp_path, x=values, y=TAGS), 'all', target='tags', shares='1')
    assert f'all: 12 {kind}s of 2 classes (0 4, 1 8), 4 of them without' in tagged.about
    levels = np.abs(values).clip(0, 255).astype(np.uint8)
    file = write(tmp_path, x_train=levels, y_train=LABELS)
    found = npz_files.load(file, 'train').examples[3]['image']
    # uint8 of three axes are gray images.
    np.testing.assert_array_equal(found, levels[3] if kind == 'volume' else levels[3, ..., None])
    with pytest.raises(UserError, match=r'volumes \[N, D, H, W, C\] uint8 or floats, not int64'):
        npz_files.load(write(tmp_path, x=levels.astype(int), y=LABELS), 'all', shares='1')
    values[3, 0] = np.inf
    with pytest.raises(UserError, match='numbers that are not finite'):
        npz_files.load(write(tmp_path, x=values, y=LABELS), 'all', shares='1')


def test_examples_without_labels(tmp_path):
    for arrays in ({'images': IMAGES, 'labels': LABELS}, {'a': IMAGES}, {'a': TAGS, 'x': IMAGES}):
        np.testing.assert_array_equal(npz_files.unlabelled(write(tmp_path, **arrays)),
                                      IMAGES[..., None])
    sequences = np.ones((2, 9, 3))
    assert npz_files.unlabelled(write(tmp_path, x=sequences)).dtype == np.float32
    with pytest.raises(UserError, match='has the arrays a, b: rename that of the examples to x'):
        npz_files.unlabelled(write(tmp_path, a=IMAGES, b=IMAGES))
    for array in (sequences[:0], sequences.astype(int), sequences[0], sequences[0, 0, 0]):
        with pytest.raises(UserError, match=r'sequences floats \[N, T, C\], .*, not (float|int)64'):
            npz_files.unlabelled(write(tmp_path, x=array))
    with pytest.raises(Missing, match='no.npz is not there'):
        npz_files.unlabelled(tmp_path / 'no.npz')
