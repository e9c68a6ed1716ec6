"""Where labelled images come from: every source is random access to single examples."""

import collections
import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cnnjax import cluster
from cnnjax.data import folders, images, photos, threads
from cnnjax.data.identity import Entry, file_sizes, some
from cnnjax.errors import UserError


class Source(NamedTuple):
    """Labelled images by random access."""

    examples: Sequence  # examples[i] -> {'image': uint8 [H, W, C], 'label': int}; sizes may differ
    classes: tuple[str, ...]  # the names of the labels 0, 1, ...
    about: str = ''  # one line: how many were found where, and what was left out
    # Examples that are encoded have an attribute `undecoded`, the same examples with a Picture (see
    # images.py) each in place of the array: crops are cut from it in less time. Examples that are
    # read from files have a method `listing`, which names these without reading them (identity.py).


class Missing(UserError):
    """The data is not there at all."""


def load(dataset, split, data_dir=None, bad_images='error'):
    """The source `dataset`: 'digits', 'photos' (see photos.py), 'folder'
    (data_dir/split/class/*.jpg), or a name of tensorflow-datasets, prepared in `data_dir` (default:
    the usual place of tensorflow-datasets). Prints one line about what was found.

    Raises:
      Missing: it is not there, with the remedy.
      UserError: it is not as it must be, or does not use what is given.
    """
    if data_dir and dataset in ('digits', 'photos'):
        raise UserError(f'data_dir={data_dir}: {dataset} come with a library and are read from no '
                        'directory; leave it out, or name the data set that is there, as in '
                        '--config.dataset=folder')
    if bad_images != 'error' and dataset != 'folder':
        raise UserError(f'bad_images={bad_images}: only of dataset=folder are images left out, not '
                        f'of {dataset}; leave it out')
    if dataset == 'digits':
        source = digits(split)
    elif dataset == 'photos':
        source = Source(*photos.load(split))
    elif dataset == 'folder':
        source = folder(data_dir, split, bad_images)
    else:
        from cnnjax.data import tfds  # here, because it takes a second that others need not pay
        source = tfds.load(dataset, split, data_dir)
    if cluster.first():
        print(source.about or counted(f'{dataset}, {split}', len(source.examples),
                                      len(source.classes)), flush=True)
    return source


def load_if_named(dataset, split, data_dir):
    """The source `dataset`; None where it is '', for those who take other images then.

    Raises:
      UserError: a `data_dir` without a data set; or as `load` does.
    """
    if data_dir and not dataset:
        raise UserError(f'data_dir={data_dir} is that of a data set: give dataset too, as in '
                        '--config.dataset=folder')
    return load(dataset, split, data_dir) if dataset else None


def counted(where, examples, classes):
    """'photos/train: 1,200 images of 10 classes'"""
    return (f'{where}: {examples:,} image{"s" * (examples != 1)} of {classes:,} '
            f'class{"es" * (classes != 1)}')


def digits(split):
    """scikit-learn's 1,797 scans of handwritten digits, 8 x 8 gray (Alpaydin & Kaynak 1998,
    https://archive.ics.uci.edu/dataset/80): 1,347 in 'train', 450 in 'test', always the same ones,
    each digit in the same proportion."""
    from sklearn import datasets, model_selection  # here: two seconds that others need not pay

    if split not in ('train', 'test'):
        raise UserError(f"digits has the splits 'train' and 'test', not '{split}'")
    scans = datasets.load_digits()
    train, test = model_selection.train_test_split(
        np.arange(len(scans.target)), test_size=450, stratify=scans.target, random_state=0)
    examples = [{'image': np.round(scans.images[i] * (255 / 16)).astype(np.uint8)[..., None],
                 'label': int(scans.target[i])} for i in (train if split == 'train' else test)]
    return Source(examples, tuple(map(str, scans.target_names)))


@dataclasses.dataclass(frozen=True)
class Files(Sequence):
    """Image files as examples, read when they are asked for."""

    paths: tuple[str, ...]  # not pathlib's: a million take seconds to send to a worker process
    labels: tuple[int, ...]
    read: Callable = images.read
    root: str = ''  # the beginning of the paths that a listing's names leave out

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        return {'image': self.read(self.paths[i]), 'label': self.labels[i]}

    @property
    def undecoded(self):
        return dataclasses.replace(self, read=images.Picture)

    def listing(self):
        """An Entry of every file."""
        root = os.path.join(self.root, '')
        sizes = file_sizes(self.paths).tolist()
        return [Entry(label, str(size), path.removeprefix(root))
                for path, label, size in zip(self.paths, self.labels, sizes, strict=True)]


def folder(root, split, bad_images='error'):
    """Pictures in root/split/<class>/; the classes are the folders of root/train, sorted.

    `bad_images`: 'error' leaves an unreadable file to be named when it is read; 'skip' reads every
    file once now, and leaves out and lists those that cannot be read.

    Raises:
      UserError: a missing or empty folder, or a class that root/train does not have.
    """
    if not root:
        raise UserError("dataset='folder' needs data_dir: the folder that holds "
                        'train/<class>/*.jpg and test/<class>/*.jpg')
    if bad_images not in ('error', 'skip'):
        raise UserError(f"bad_images is 'error' or 'skip', not '{bad_images}'")
    root = Path(os.path.expanduser(root))
    left_out = {name: collections.Counter() for name in ('train', split)}
    directories = {name: _classes(root / name, left_out[name]) for name in left_out}
    classes = tuple(directories['train'])
    if unknown := sorted(set(directories[split]) - set(classes)):
        raise UserError(f'{root / split} has classes that {root / "train"} does not '
                        f'have: {", ".join(unknown)}')
    files, left_out = [], left_out[split]
    for label, name in enumerate(classes):
        if name not in directories[split]:
            continue
        paths, others = folders.find(directories[split][name])
        if not paths:
            raise UserError(f'{directories[split][name]} has no image'
                            f'{folders.described(others)}: give it some (.jpg, .png or any kind '
                            'that Pillow reads) or remove the folder')
        files += [(path, label) for path in paths]
        left_out += others
    if bad_images == 'skip':
        errors = threads.mapped(lambda i: _error(files[i][0]), len(files), f'checking {split}')
        for error in filter(None, errors) if cluster.first() else ():
            print(f'skipped: {error}', flush=True)
        files = [file for file, error in zip(files, errors, strict=True) if not error]
        left_out['unreadable'] = len(errors) - len(files)
        if not files:
            raise UserError(f'{root / split}: none of its images can be read')
    paths, labels = zip(*files, strict=True)
    about = counted(root / split, len(files), len(set(labels))) + folders.described(left_out)
    return Source(Files(paths, labels, root=str(root / split)), classes, about)


@dataclasses.dataclass(frozen=True)
class Relabelled(Sequence):
    """Examples with other labels."""

    examples: Sequence
    labels: tuple[int, ...]  # the new label of each old one

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, i):
        example = self.examples[i]
        return {**example, 'label': self.labels[example['label']]}

    @property
    def undecoded(self):
        return dataclasses.replace(
            self, examples=getattr(self.examples, 'undecoded', self.examples))


@dataclasses.dataclass(frozen=True)
class Subset(Sequence):
    """Some of other examples. They are decoded as a whole (see Source): so that what is computed of
    a crop is computed of the same pixels that are shown of the image."""

    examples: Sequence
    index: Sequence  # the places of those that it has

    def __len__(self):
        return len(self.index)

    def __getitem__(self, i):
        return self.examples[int(self.index[i])]


def subset(source, index):
    """The source with only the examples at the places `index`, in this order."""
    return source._replace(examples=Subset(source.examples, index))


def spread(total, count):
    """`count` of `total` places, evenly spread; all of them for a count of 0, or of more."""
    return np.linspace(0, total - 1, min(count or total, total)).round().astype(int)


def matched(source, classes):
    """The source with its labels as a network with these `classes` counts them, by name.

    Raises:
      UserError: a class that is none of them; shows which.
    """
    if tuple(source.classes) == tuple(classes):
        return source
    places = {name: label for label, name in enumerate(classes) if classes.count(name) == 1}
    if unknown := [name for name in source.classes if name not in places]:
        raise UserError(f'the network does not know, or has twice, {some(unknown)}, of the '
                        f'{len(source.classes)} classes of the data; its own {len(classes)} are '
                        f'{some(classes)}')
    labels = tuple(places[name] for name in source.classes)
    return source._replace(examples=Relabelled(source.examples, labels), classes=tuple(classes))


def _classes(directory, left_out):
    """The folders in a folder, {name: path}, sorted by name; counts what else is there."""
    try:
        entries = folders.scan(directory, left_out)
    except UserError as error:
        kind = Missing if isinstance(error.__cause__, FileNotFoundError) else UserError
        raise kind(f'{error}: data_dir must hold train/<class>/*.jpg and '
                   'test/<class>/*.jpg') from error
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


def _readable(name):
    """The name of a file; bytes in it that are not UTF-8 are spelled out: 'caf\\xe9'."""
    return os.fsencode(name).decode(errors='backslashreplace')


def _error(path):
    try:
        images.read(path)
    except UserError as error:
        return error
    return None
