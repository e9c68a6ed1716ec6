"""The data sources by name: digits, photographs, a user's folders and tensorflow-datasets."""

import collections
import functools
import os
from collections.abc import Sequence
from pathlib import Path

from cnnjax import cluster
from cnnjax.data import coins, digit_scenes, digits, folders, images, layouts, masks, photos
from cnnjax.data.examples import Files, Labelled, Missing, Source
from cnnjax.errors import UserError

FROM_PYTHON = 'python'  # the name in a config for data that was given as a Source

# The sets that come with a library: {name: {target: the function from the split to the Source}}.
SHIPPED = {
    'digits': {'label': digits.load},
    'photos': {'label': photos.load},
    'digit_scenes': {target: functools.partial(digit_scenes.load, target=target)
                     for target in ('mask', 'boxes')},
    'coins': {'mask': coins.load},
}


def load(dataset: str, split: str, data_dir: str | None = None, bad_images: str = 'error',
         target: str = 'label', mask_values: Sequence[int] = (), *, annotations: str = '',
         bad_boxes: str = 'error') -> Source:
    """The source `dataset`: a name in SHIPPED, 'folder' (data_dir/split/class/*.jpg; with masks
    see masks.py, with boxes layouts.py), or a name of tensorflow-datasets, prepared in `data_dir`
    (default: the usual place of tensorflow-datasets). Prints one line about what was found; if
    there are masks, that line waits until they are read (see dataset.prepare).

    Args:
      target: the target of each image: 'label', 'mask' or 'boxes'.
      mask_values: see masks.folder.
      annotations, bad_boxes: see layouts.folder.

    Raises:
      Missing: the data is not there; the message says how to get it.
      UserError: the data is not in the right form, or the set does not take these arguments.
    """
    _check(dataset, data_dir, bad_images, target, mask_values)
    _check_boxes(dataset, target, annotations, bad_boxes)
    if dataset in SHIPPED:
        source = _of_target(dataset, SHIPPED[dataset], target)(split)
    elif dataset == 'folder':
        masked = functools.partial(masks.folder, mask_values=mask_values)
        boxed = functools.partial(layouts.folder, annotations=annotations, bad_boxes=bad_boxes)
        source = _of_target(dataset, {'label': folder, 'mask': masked, 'boxes': boxed}, target)(
            data_dir, split, bad_images)
    else:
        from cnnjax.data import tfds  # here, because the import takes a second
        boxed = functools.partial(tfds.load_boxes, bad_boxes=bad_boxes)
        source = _of_target(
            dataset, {'label': tfds.load, 'mask': tfds.load_masks, 'boxes': boxed}, target)(
                dataset, split, data_dir)
    source = source._replace(about=source.about or counted(
        f'{dataset}, {split}', len(source.examples), len(source.classes)))
    if cluster.first() and target != 'mask':
        print(source.about, flush=True)
    return source


def _check(dataset, data_dir, bad_images, target, mask_values):
    """Raises UserError if arguments of `load` do not fit together."""
    if data_dir and dataset in SHIPPED:
        raise UserError(f'data_dir={data_dir}: {dataset} come with a library and are read from no '
                        'directory; leave it out, or name the data set that is there, as in '
                        '--config.dataset=folder')
    if bad_images != 'error' and dataset != 'folder':
        raise UserError(f'bad_images={bad_images}: only of dataset=folder are images left out, not '
                        f'of {dataset}; leave it out')
    if bad_images not in ('error', 'skip'):
        raise UserError(f"bad_images is 'error' or 'skip', not '{bad_images}'")
    if dataset == FROM_PYTHON:
        raise Missing('the data was given in Python, to train.train: give it there again, or name '
                      'a data set, as in --config.dataset=folder')
    if mask_values and (dataset, target) != ('folder', 'mask'):
        raise UserError(f'mask_values={tuple(mask_values)}: only masks of dataset=folder may have '
                        'other values than the numbers of their classes; leave it out')


def _check_boxes(dataset, target, annotations, bad_boxes):
    """Raises UserError if arguments of `load` for boxes do not fit the others."""
    if bad_boxes not in ('error', 'skip'):
        raise UserError(f"bad_boxes is 'error' or 'skip', not '{bad_boxes}'")
    if bad_boxes != 'error' and (target != 'boxes' or dataset in SHIPPED):
        raise UserError(f'bad_boxes={bad_boxes}: only boxes of dataset=folder and of '
                        'tensorflow-datasets may be bad; leave it out')
    if annotations and (dataset, target) != ('folder', 'boxes'):
        raise UserError(f'annotations={annotations}: only boxes of dataset=folder may be in a file '
                        'with another name; leave it out')


def _of_target(dataset, functions, target):
    """The function that loads a set with this target; {target: function} are those it has."""
    if target not in functions:
        having = [name for name, others in SHIPPED.items() if target in others]
        having += ['folder', 'some of tensorflow-datasets']
        hint = ' (config.task=segment learns masks)' if 'mask' in functions else ''
        raise UserError(f'dataset={dataset} has no {target} for each image, only a '
                        f'{" or ".join(functions)}{hint}; these data sets do: {", ".join(having)}')
    return functions[target]


def load_labelled(dataset: str, split: str, data_dir: str | None = None,
                  bad_images: str = 'error', *, detector: bool = False, annotations: str = '',
                  bad_boxes: str = 'error') -> Source:
    """The source `dataset` with the label of each image, for a look at a network: of a set that has
    only masks, they are those of examples.Labelled, and so they are for a detector of a set that
    may have boxes, whose last class is 'no object'. Arguments and errors as of `load`."""
    if detector and 'boxes' in SHIPPED.get(dataset, ('boxes',)):
        source = load(dataset, split, data_dir, bad_images, 'boxes', annotations=annotations,
                      bad_boxes=bad_boxes)
        return source._replace(examples=Labelled(source.examples, len(source.classes)),
                               classes=(*source.classes, 'no object'))
    named = Path(os.path.expanduser(data_dir or '')) / 'classes.txt'
    masked = (dataset == 'folder' and data_dir and named.is_file()
              or 'label' not in SHIPPED.get(dataset, ('label',)))
    source = load(dataset, split, data_dir, bad_images, 'mask' if masked else 'label')
    return source._replace(examples=Labelled(source.examples)) if masked else source


def load_if_named(dataset: str, split: str, data_dir: str | None) -> Source | None:
    """The source `dataset` as of load_labelled; None if it is '', when the images come from
    elsewhere.

    Raises:
      UserError: a `data_dir` without a data set; or as in `load`.
    """
    if data_dir and not dataset:
        raise UserError(f'data_dir={data_dir} is that of a data set: give dataset too, as in '
                        '--config.dataset=folder')
    return load_labelled(dataset, split, data_dir) if dataset else None


def counted(where: str | Path, examples: int, classes: int) -> str:
    """A text such as 'photos/train: 1,200 images of 10 classes'."""
    return (f'{where}: {examples:,} image{"s" * (examples != 1)} of {classes:,} '
            f'class{"es" * (classes != 1)}')


def folder(root: str | os.PathLike[str] | None, split: str, bad_images: str = 'error') -> Source:
    """Pictures in root/split/<class>/; the classes are the folders of root/train, sorted.

    `bad_images`: with 'error' an unreadable file raises an error later, when it is read; 'skip'
    reads every file once now, and leaves out and lists those that cannot be read.

    Raises:
      UserError: a folder is missing or empty, or there is a class that root/train does not have.
    """
    if not root:
        raise UserError("dataset='folder' needs data_dir: the folder that holds "
                        'train/<class>/*.jpg and test/<class>/*.jpg')
    root = Path(os.path.expanduser(root))
    left_out = {name: collections.Counter() for name in ('train', split)}
    directories = {name: _classes(root / name, left_out[name]) for name in left_out}
    classes = tuple(directories['train'])
    for target, task in (('masks', 'segment'), ('labels', 'detect')):
        if classes == ('images', target):
            raise UserError(f'{root / "train"} has the folders images and {target}. To learn the '
                            f'{target}, set config.task={task}; if these are two classes, rename '
                            'one')
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
        found = folders.readable(files, lambda file: images.read(file[0]), f'checking {split}')
        left_out['unreadable'] = len(files) - len(found)
        files = found
        if not files:
            raise UserError(f'{root / split}: none of its images can be read')
    paths, labels = zip(*files, strict=True)
    about = counted(root / split, len(files), len(set(labels))) + folders.described(left_out)
    return Source(Files(paths, labels, root=str(root / split)), classes, about)


def _classes(directory, left_out):
    """The folders in a folder, {name: path}, sorted by name; counts everything else."""
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
    """The name of a file with bytes that are not UTF-8 written out, as in 'caf\\xe9'."""
    return os.fsencode(name).decode(errors='backslashreplace')
