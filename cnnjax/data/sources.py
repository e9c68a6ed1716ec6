"""The data sources by name: digits, photographs, clips, a user's files and tensorflow-datasets."""

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from cnnjax import cluster
from cnnjax.data import (
    clips,
    coins,
    csv_files,
    digit_outlines,
    digit_scenes,
    digits,
    layouts,
    masks,
    npz_files,
    photos,
    picture_folders,
    splits,
    tags,
)
from cnnjax.data.class_folders import folder
from cnnjax.data.examples import Labelled, Missing, Source, counted
from cnnjax.errors import UserError

FROM_PYTHON = 'python'  # the name in a config for data that was given as a Source
OWN_TAGS = ('csv', 'npz')  # Other sets have tags if they have boxes.

# The sets that come with a library: {name: {target: the function from the split to the Source}}.
SHIPPED = {
    'digits': {'label': digits.load},
    'photos': {'label': photos.load, 'image': photos.whole},
    'digit_outlines': {'label': digit_outlines.load},
    'clips': {'label': clips.load},
    'clip_frames': {'label': functools.partial(clips.load, still=True)},
    'digit_scenes': {target: functools.partial(digit_scenes.load, target=target)
                     for target in ('mask', 'boxes')},
    'coins': {'mask': coins.load},
}


def load(dataset: str, split: str, data_dir: str | None = None, bad_images: str = 'error',
         target: str = 'label', mask_values: Sequence[int] = (), *, annotations: str = '',
         bad_boxes: str = 'error', shares: str = '', given: Mapping[str, str] | None = None,
         class_folders: str = 'first', separator: str = '|') -> Source:
    """The source `dataset`: a name in SHIPPED; 'folder' (see class_folders.py, with masks masks.py,
    with boxes layouts.py), 'csv' (csv_files.py) or 'npz' (npz_files.py) in `data_dir`; or a name of
    tensorflow-datasets, prepared in `data_dir` (default: the usual place of tensorflow-datasets).
    Prints one line about what was found; if there are masks, that line waits until they are read
    (see dataset.prepare).

    Args:
      target: the target of each image: 'label', 'tags', 'mask' or 'boxes'. A set with boxes has
        tags, too: the classes of its objects. With 'image' it needs none: a folder is then any
        folder of pictures (see picture_folders.py).
      mask_values: see masks.folder.
      annotations, bad_boxes: see layouts.folder, and csv_files.load for the first.
      shares, given: see splits.places; '' where the set is divided already.
      class_folders: see class_folders.py.
      separator: see csv_files.load.

    Raises:
      Missing: the data is not there; the message says how to get it.
      UserError: the data is not in the right form, or the set does not take these arguments.
    """
    if target == 'image' and target not in SHIPPED.get(dataset, ()) and dataset != 'folder':
        target = 'label'  # It does no harm.
    _check(dataset, data_dir, bad_images, target, mask_values)
    _check_boxes(dataset, target, annotations, bad_boxes)
    _check_own(dataset, target, shares, class_folders, separator)
    divided = {'shares': shares, 'given': given}
    if (target == 'tags' and dataset not in OWN_TAGS
            and 'boxes' in SHIPPED.get(dataset, ('boxes',))):
        source = load(dataset, split, data_dir, bad_images, 'boxes', annotations=annotations,
                      bad_boxes=bad_boxes, **divided)
        return source._replace(examples=tags.OfBoxes(source.examples, len(source.classes)))
    if dataset in SHIPPED:
        source = _of_target(dataset, SHIPPED[dataset], target)(split)
    elif dataset == 'folder':
        source = _of_target(dataset, {
            'label': functools.partial(folder, class_folders=class_folders),
            'image': picture_folders.load,
            'mask': functools.partial(masks.folder, mask_values=mask_values),
            'boxes': functools.partial(layouts.folder, annotations=annotations,
                                       bad_boxes=bad_boxes)}, target)(
                                           data_dir, split, bad_images, **divided)
    elif dataset == 'csv':
        source = csv_files.load(data_dir, split, bad_images, target=target, annotations=annotations,
                                separator=separator, **divided)
    elif dataset == 'npz':
        source = npz_files.load(data_dir, split, target=target, **divided)
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
    if bad_images != 'error' and dataset not in ('folder', 'csv'):
        raise UserError(f'bad_images={bad_images}: only of dataset=folder and dataset=csv are '
                        f'images left out, not of {dataset}; leave it out')
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
    if bad_boxes != 'error' and (target not in ('boxes', 'tags') or dataset in SHIPPED):
        raise UserError(f'bad_boxes={bad_boxes}: only boxes of dataset=folder and of '
                        'tensorflow-datasets may be bad; leave it out')
    if annotations and dataset != 'csv' and (dataset, target) not in (
            ('folder', 'boxes'), ('folder', 'tags')):
        raise UserError(f'annotations={annotations}: only boxes of dataset=folder and the table of '
                        'dataset=csv may be in a file with another name; leave it out')


def _check_own(dataset, target, shares, class_folders, separator):
    """Raises UserError if arguments of `load` for a user's own files do not fit the others."""
    if shares:
        splits.parse(shares)
        if dataset not in ('folder', 'csv', 'npz'):
            raise UserError(f"split='{shares}': only dataset=folder, csv and npz may come undivided"
                            '; of tensorflow-datasets take parts, as in '
                            "--config.train_split='train[:80%]'")
    if class_folders != 'first' and (dataset, target) != ('folder', 'label'):
        raise UserError(f'class_folders={class_folders}: only the classes of dataset=folder are '
                        'folders; leave it out')
    if separator != '|' and (dataset, target) != ('csv', 'tags'):
        raise UserError(f"label_separator='{separator}': only task=multilabel of dataset=csv "
                        'separates labels; leave it out')


def _of_target(dataset, functions, target):
    """The function that loads a set with this target; {target: function} are those it has."""
    if target not in functions:
        needed = 'boxes' if target == 'tags' else target
        having = [name for name, others in SHIPPED.items() if needed in others]
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
