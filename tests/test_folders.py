"""Which files in a folder are images, with links and stray files."""

import collections
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from cnnjax.data import folders
from cnnjax.errors import UserError


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / 'picture.png'
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)
    return path


@pytest.fixture
def place(tmp_path):
    (tmp_path / 'place').mkdir()
    return tmp_path / 'place'


def found(place):
    paths, left_out = folders.find(place)
    return ([os.path.relpath(path, place) for path in paths],
            {reason: count for reason, count in left_out.items() if count})


def test_every_suffix_of_an_image(place):
    names = ['A.JPG', 'a.jpe', 'b.jfif', 'c.JP2', 'd.tga', 'e.ico', 'f.pnm', 'g.mpo', 'h.psd']
    for name in names:
        (place / name).touch()
    assert found(place) == (names, {})


def test_files_without_a_suffix_are_images_by_their_content(place, picture):
    shutil.copy(picture, place / 'a')
    (place / 'b').write_text('no image')
    (place / 'c').touch()
    os.symlink(place / 'missing', place / 'd')
    assert found(place) == (['a'], {'without suffix': 3})


def test_what_is_left_out_is_counted(place):
    for name in ('a.txt', 'b.TXT', 'c.heic', '.DS_Store', '._a.jpg', 'Thumbs.db', 'desktop.ini'):
        (place / name).touch()
    for name in ('__MACOSX', '.git', 'more/@eaDir'):
        (place / name).mkdir(parents=True)
        (place / name / 'a.jpg').touch()
    paths, left_out = found(place)
    assert not paths
    assert left_out == {'.txt': 2, '.heic': 1, 'hidden or of the system': 7}


def test_the_order_is_that_of_the_parts_of_paths(place):
    names = ['a b/c.png', 'a/c.png', 'a.png', 'a/b/c.png', 'B.png', 'a/b.png', 'z/a.png', 'é.png']
    for name in names:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).touch()
    assert found(place)[0] == sorted(names, key=lambda name: name.split('/'))


def test_linked_folders_are_followed_once(place, tmp_path):
    """Also where they lead around in a circle, to themselves or nowhere."""
    for name in ('other/a.png', 'other/deep/b.png', 'place/own/c.png'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    os.symlink(tmp_path / 'other', place / 'linked')
    os.symlink(tmp_path / 'other', place / 'linked again')
    os.symlink(place, place / 'own' / 'up')
    os.symlink(place / 'own', tmp_path / 'other' / 'deep' / 'back')
    os.symlink(place / 'self', place / 'self')
    os.symlink(tmp_path / 'missing', place / 'nowhere')
    os.symlink(tmp_path / 'other' / 'a.png', place / 'file.png')
    paths, left_out = found(place)
    real = [os.path.realpath(place / path) for path in paths if path != 'file.png']
    assert len(paths) == 4
    assert sorted(real) == sorted(map(str, (tmp_path / 'other/a.png', tmp_path / 'other/deep/b.png',
                                            place / 'own/c.png')))
    assert left_out == {'without suffix': 2, 'linked a second time': 3}


def test_a_folder_that_cannot_be_read(place):
    with pytest.raises(UserError, match='missing cannot be read: No such file'):
        folders.find(place / 'missing')


def test_names_that_are_no_text_are_told(place):
    (place / os.fsdecode(b'a.\xff\xfe')).touch()
    assert folders.described(folders.find(place)[1]).isprintable()


def test_only_the_most_frequent_reasons_are_named():
    counts = collections.Counter({f'.{i}': i for i in range(12)})
    assert folders.described(counts) == (
        '; left out: 11 .11, 10 .10, 9 .9, 8 .8, 7 .7, 6 .6, 15 of other kinds')
    assert folders.described(collections.Counter()) == ''
