"""Folders of pictures whose names are those of the classes:

    root/<split>/cat/a.jpg    a set that is divided into splits
    root/cat/a.jpg            one that is not, which `shares` divides (see splits.py)

Folders inside that of a class are followed. With class_folders='path' a class is the whole path of
the folders that hold pictures, as animals/cat in root/<split>/animals/cat/a.jpg.
"""

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from cnnjax.data import folders, images, splits
from cnnjax.data.examples import Files, Missing, Source, by_class, counted
from cnnjax.data.identity import one_line, some
from cnnjax.errors import UserError

KINDS = ('first', 'path')  # see the top of this file
DIVIDED = {'train', 'val', 'valid', 'validation', 'test'}  # usual names of splits


def folder(root: str | os.PathLike[str] | None, split: str, bad_images: str = 'error', *,
           shares: str = '', class_folders: str = 'first',
           given: Mapping[str, str] | None = None) -> Source:
    """The pictures of a split; the classes are the folders of root/train, or of root, sorted.

    Args:
      bad_images: with 'error' an unreadable file raises an error later, when it is read; 'skip'
        reads every file once now, and leaves out and lists those that cannot be read.
      shares, given: see splits.places; '': each split has a folder.
      class_folders: 'first' or 'path', see the top of this file.

    Raises:
      Missing: root/train, or root, is not there.
      UserError: a folder is missing or empty, there is a class that root/train does not have, or a
        class has too few pictures to be divided.
    """
    if not root:
        raise UserError("dataset='folder' needs data_dir: the folder that holds "
                        'train/<class>/*.jpg and test/<class>/*.jpg, or <class>/*.jpg and is '
                        'divided by --config.split=0.8/0.1/0.1')
    root = Path(os.path.expanduser(root))
    if os.path.isfile(root):
        raise UserError(f'data_dir={root} is a file: --config.dataset=csv reads a table of pictures'
                        ' and labels, --config.dataset=npz arrays')
    find = {'first': _first, 'path': _path}[class_folders]
    learned, here = (root, root) if shares else (root / 'train', root / split)
    try:
        found = find(learned, left_out := Counter())
        classes = tuple(found)
        if here != learned:
            found = find(here, left_out := Counter())
    except Missing as error:
        raise Missing(f'{error}: {_needed(root, learned)}') from error
    _check_classes(root, classes, shares)
    if unknown := sorted(set(found) - set(classes)):
        raise UserError(f'{here} has classes that {root / "train"} does not have: '
                        f'{", ".join(unknown)}')
    files = [(path, label) for label, name in enumerate(classes)
             for path in _pictures(found.get(name, ()), left_out)]
    where = here
    if shares:
        names = [os.path.relpath(path, root) for path, _ in files]
        kept = splits.places(names, [classes[label] for _, label in files], shares, split, given)
        files, where = [files[i] for i in kept], f'{root}, {split}'
        if split not in ('train', splits.ALL):  # The line of the training set tells them.
            left_out = Counter()
        elif given is not None:
            left_out['newer than the run'] = sum(one_line(name) not in given for name in names)
    if bad_images == 'skip':
        readable = folders.readable(files, lambda file: images.read(file[0]), f'checking {split}')
        left_out['unreadable'] = len(files) - len(readable)
        files = readable
    if not files:
        raise UserError(f'{where}: none of its images can be read')
    paths, labels = zip(*files, strict=True)
    return Source(Files(paths, labels, root=str(here)), classes,
                  counted(where, len(files), len(set(labels)), by_class(labels, classes))
                  + folders.described(left_out))


def _needed(root, learned):
    """What data_dir must hold: a text for the error of a folder that is not there."""
    if learned == root:
        return 'data_dir must hold <class>/*.jpg, which split divides'
    if os.path.isdir(learned):
        found = _first(root, Counter())
        return (f'{root} has the folders {some(list(found))}; train_split, val_split and '
                'test_split name those of a training')
    return ('data_dir must hold train/<class>/*.jpg and test/<class>/*.jpg. A training divides '
            '<class>/*.jpg itself, with --config.split=0.8/0.1/0.1')


def _check_classes(root, classes, shares):
    """Raises UserError if the folders' names are not those of classes."""
    for target, task in (('masks', 'segment'), ('labels', 'detect')):
        if classes == ('images', target):
            raise UserError(f'{root if shares else root / "train"} has the folders images and '
                            f'{target}. To learn the {target}, set config.task={task}; if these '
                            'are two classes, rename one')
    if shares and 'train' in classes and set(classes) <= DIVIDED:
        raise UserError(f"split='{shares}': {root} is divided already, into {', '.join(classes)}: "
                        f'leave split out, or divide one of them with data_dir={root / "train"}')


def _first(directory, left_out):
    """{name: path} of the folders in a folder, sorted by name; counts everything else."""
    try:
        entries = folders.scan(directory, left_out)
    except UserError as error:
        kind = Missing if isinstance(error.__cause__, FileNotFoundError) else UserError
        raise kind(str(error)) from error
    found = {}
    for entry in entries:
        if folders.is_folder(entry):
            name = _readable(entry.name)
            if name in found:
                raise UserError(f'{directory} has two folders of the name {name}: rename one')
            found[name] = entry.path
        else:
            left_out[folders.unusable(entry) or 'outside of the folders of the classes'] += 1
    if not found:
        raise UserError(f'{directory} has no folders: each class needs one, with its images in it')
    return found


def _path(directory, left_out):
    """{path relative to the folder: paths of the pictures in it} of all folders in a folder that
    hold pictures, sorted; counts everything else."""
    _first(directory, Counter())  # raises the errors of a missing or an empty folder
    paths, others = folders.find(directory)
    left_out += others
    found = {}
    for path in paths:
        found.setdefault(_readable(os.path.relpath(os.path.dirname(path), directory)), []).append(
            path)
    left_out['outside of the folders of the classes'] += len(found.pop(os.curdir, ()))
    return dict(sorted(found.items()))


def _pictures(found, left_out):
    """The paths of a class's pictures, which `found` has, or which are in the folder `found`."""
    if not isinstance(found, str):
        return found
    paths, others = folders.find(found)
    if not paths:
        raise UserError(f'{found} has no image{folders.described(others)}: give it some (.jpg, '
                        '.png or any kind that Pillow reads) or remove the folder')
    left_out += others
    return paths


def _readable(name):
    """The name of a file with bytes that are not UTF-8 written out, as in 'caf\\xe9'."""
    return os.fsencode(name).decode(errors='backslashreplace')
