"""Folders of pictures with boxes of the objects in them, in the form of COCO, PASCAL VOC or YOLO:

    root/annotations/instances_<split>.json   COCO; the pictures are in root/<split>/. Other places
                                              of both are in JSON and PICTURES; `annotations` names
                                              any other file
    root/ImageSets/Main/<split>.txt           PASCAL VOC, with Annotations/*.xml and JPEGImages/*.
                                              A split may be VOC2007/trainval+VOC2012/trainval
    root/<split>/images/*, root/<split>/labels/*.txt    YOLO, or xml files as of VOC. Other places
                                              are in PAIRS; the files may stand beside the pictures

YOLO's txt files need root/classes.txt with the names of the classes, one a line, or a data.yaml
with `names`. Those of COCO are in the file; xml files have any names, unless there is a
classes.txt. A picture without a txt or xml file, or with an empty one, has no objects; only VOC's
own folders must have a file for each.

An undivided set has no <split>/, or names its json file in `annotations`; `shares` divides it (see
splits.py).
"""

import functools
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from cnnjax.data import annotations, folders, images, masks, objects, splits, threads
from cnnjax.data.examples import Missing, Source
from cnnjax.data.identity import some
from cnnjax.data.objects import Boxed, Object
from cnnjax.errors import UserError

JSON = ('annotations/instances_{split}.json', 'annotations/{split}.json', '{split}.json',
        '{split}/_annotations.coco.json', '{split}/annotations.json')
PICTURES = ('{split}', '{split}/images', 'images/{split}', 'images', '.')  # folders for a json file
PAIRS = (('{split}/images', '{split}/labels'), ('{split}/images', '{split}/annotations'),
         ('images/{split}', 'labels/{split}'), ('images/{split}', 'annotations/{split}'),
         ('{split}', '{split}'))  # folders of pictures, and of their txt or xml files
CLASSES = ('classes.txt', 'data.yaml')


class Layout(NamedTuple):
    """Pictures, and how the objects in them are read."""

    pictures: list[str]  # paths
    file: Callable[[str], str]  # from a picture to the file of its objects
    read: Callable[[str, Sequence[int]], list[Object]]  # from a picture and its shape
    fields: tuple[str, ...]  # see objects.ragged
    classes: tuple[str, ...] = ()  # (): those of the objects
    left_out: Counter[str] = Counter()


def folder(root: str | os.PathLike[str] | None, split: str, bad_images: str = 'error', *,
           annotations: str = '', bad_boxes: str = 'error', shares: str = '',
           given: Mapping[str, str] | None = None) -> Source:
    """The pictures with boxes of a split; see the top of this file. All boxes are checked.

    Args:
      bad_images: with 'error' an unreadable file raises an error; 'skip' leaves such pictures out,
        and lists them.
      annotations: a json file of COCO, relative to `root`; '{split}' in it stands for the split.
      bad_boxes: with 'error' an object that cannot be used raises an error; 'skip' leaves such
        objects out, and counts them.
      shares, given: see splits.places; '': it is divided already.

    Raises:
      Missing: there is no such folder or file.
      UserError: it is not in one of the forms, or an object cannot be used.
    """
    if not root:
        raise UserError("dataset='folder' with boxes needs data_dir: the folder that holds the "
                        'pictures and their boxes, in the form of COCO, PASCAL VOC or YOLO')
    root = Path(os.path.expanduser(root))
    if not root.is_dir():
        raise Missing(f'data_dir={root}: this folder is not there')
    parts = ['.'] if shares else split.split('+')
    layouts = [recognized(root, part.strip(), annotations) for part in parts]
    if shares:
        layouts = [_divided(layout, root, split, shares, given) for layout in layouts]
    classes = layouts[0].classes
    if any(layout.classes != classes for layout in layouts):
        raise UserError(f'{root}: the parts of {split} have different classes')
    files, left_out = _files(layouts, split, bad_images)
    if not files:
        raise UserError(f'{root}: the split {split} has no image that can be read')
    found, flaws = _read(files, classes, bad_boxes)
    classes = classes or tuple(sorted({each.name for one in found for each in one}))
    fields = [name for name in layouts[0].fields if all(name in each.fields for each in layouts)]
    kept = objects.ragged(found, classes, fields)
    try:
        told = objects.described(kept, classes, flaws)
    except UserError as error:
        raise UserError(f'{root}, {split}: {error}') from None
    about = (f'{root}, {split}: {len(files):,} image{"s" * (len(files) != 1)} with {told}'
             + folders.described(left_out))
    return Source(Boxed(tuple(path for _, path in files), kept, str(root)), classes, about)


def _divided(layout, root, split, shares, given):
    """The Layout with only the pictures of a split."""
    names = [os.path.relpath(path, root) for path in layout.pictures]
    places = splits.places(names, None, shares, split, given)
    return layout._replace(pictures=[layout.pictures[i] for i in places])


def _files(layouts, split, bad_images):
    """(Layout, picture) of each picture, and a Counter of what is left out."""
    files = [(layout, path) for layout in layouts for path in layout.pictures]
    left_out = sum((layout.left_out for layout in layouts), Counter())
    if bad_images == 'skip':
        readable = folders.readable(files, lambda file: file[0].read(
            file[1], images.read(file[1]).shape), f'checking {split}')
        left_out['unreadable'] = len(files) - len(readable)
        files = readable
    return files, left_out


def _read(files, classes, bad_boxes):
    """The usable objects of the pictures, and how many are not; see objects.usable."""
    def read(i):
        layout, path = files[i]
        shape = images.upright_shape(path)
        return objects.checked(layout.read(path, shape), shape, classes)

    def name(i):
        layout, path = files[i]
        return layout.file(path)

    return objects.usable(threads.mapped(read, len(files), 'checking boxes'), name, bad_boxes)


def recognized(root: Path, split: str, named: str = '') -> Layout:
    """The Layout of a split, by what is there; `named` is the json file that the user named.

    Raises:
      Missing, UserError: see `folder`.
    """
    candidates = [root / os.path.expanduser(name.replace('{split}', split))
                  for name in ((named,) if named else JSON)]
    if file := next((path for path in candidates if path.is_file()), None):
        return _coco(root, split, file)
    if named:
        raise Missing(f'annotations={named}: {candidates[0]} is not there')
    own, name = root / os.path.dirname(split), os.path.basename(split)
    if (own / 'JPEGImages').is_dir() and (own / 'Annotations').is_dir():
        return _voc(root, own, name)
    for pair in PAIRS:
        pictures, boxes = (root / name.replace('{split}', split) for name in pair)
        if pictures.is_dir() and boxes.is_dir():
            return _pairs(root, pictures, boxes)
    raise Missing(
        f'{root} has no boxes of the split {split!r} in a form that is known here. For COCO it '
        f'needs annotations/instances_{split}.json; for PASCAL VOC Annotations, JPEGImages and '
        f'ImageSets/Main/{split}.txt; for YOLO classes.txt, {split}/images and {split}/labels. '
        'Another json file is named by --config.annotations, and another split by '
        '--config.train_split and --config.test_split')


def _coco(root, split, file):
    read = annotations.coco(file)
    if not read.objects:
        raise UserError(f'{file} lists no images')
    directories = [root / name.replace('{split}', split) for name in PICTURES] + [file.parent]
    first = list(read.objects)[:100]  # Some may be lost.
    directory = next((each for each in directories
                      if any((each / name).is_file() for name in first)), None)
    if directory is None:
        raise Missing(f'{file} lists {len(read.objects)} pictures; the first, '
                      f'{", ".join(first[:1])}, is in none of '
                      f'{", ".join(dict.fromkeys(map(str, directories)))}')
    names = {os.path.join(directory, name): name for name in read.objects}

    def found(path, shape):
        name = names[path]
        annotations.check_shape(file, read.shapes[name], shape, name)
        return read.objects[name]

    return Layout(list(names), lambda path: str(file), found, ('ignore', 'area'),
                  tuple(read.category_ids), Counter({'in unlisted pictures': read.strangers}))


def _voc(root, own, name):
    file = own / 'ImageSets' / 'Main' / f'{name}.txt'
    try:
        lines = file.read_text().splitlines()
    except (OSError, ValueError) as error:
        raise Missing(f'{file}, which names the pictures of the split, cannot be read: '
                      f'{error}') from None
    pictures = folders.by_stem(folders.find(own / 'JPEGImages')[0], own / 'JPEGImages')
    lines = [line.strip() for line in lines if line.strip()]
    names = [line if line in pictures else line.split()[0] for line in lines]
    if missing := [each for each in names if each not in pictures]:
        raise UserError(f'{file} names {missing[0]}, which is not in {own / "JPEGImages"}')

    def boxes(path):
        return own / 'Annotations' / f'{Path(path).stem}.xml'

    return Layout([pictures[each] for each in names], lambda path: str(boxes(path)),
                  lambda path, shape: annotations.voc(boxes(path), shape), ('ignore',),
                  _classes([root, own]))


def _pairs(root, pictures, boxes):
    """Pictures in one folder and txt or xml files in another, which may be the same."""
    paths, left_out = folders.find(pictures)
    stems = folders.by_stem(paths, pictures)
    found = {kind: folders.by_stem([str(path) for path in boxes.rglob(f'*{kind}')
                                    if path.name not in CLASSES], boxes)
             for kind in ('.txt', '.xml')}
    kinds = [kind for kind in found if found[kind].keys() & stems.keys()]
    if len(kinds) != 1:
        raise UserError(f'{boxes} has {"both txt and xml files" if kinds else "no txt or xml file"}'
                        f' of the pictures in {pictures}: give each a file of one kind')
    of_picture = {path: found[kinds[0]].get(stem, '') for stem, path in stems.items()}
    left_out.pop(kinds[0], None)
    left_out[f'{kinds[0]} without a picture'] = len(found[kinds[0]].keys() - stems.keys())
    classes = _classes([root, boxes])
    if kinds == ['.txt'] and not classes:
        raise Missing(f'{root / "classes.txt"} is not there: it names the classes, one a line, in '
                      'the order of their numbers in the txt files, from 0')
    read = annotations.voc if kinds == ['.xml'] else functools.partial(
        annotations.yolo, classes=classes)
    return Layout(paths, lambda path: of_picture[path], lambda path, shape: (
        read(Path(of_picture[path]), shape) if of_picture[path] else []),
        ('ignore',) * (kinds == ['.xml']), classes, left_out)


def _classes(directories):
    """The names in the first file of CLASSES in one of these folders; () if there is none."""
    file = next((path for directory in directories for name in CLASSES
                 if (path := directory / name).is_file()), None)
    if file is None:
        return ()
    if file.suffix == '.txt':
        return masks.read_classes(file, 1, None)
    try:
        names = yaml.safe_load(file.read_text(encoding='utf-8'))['names']
        if isinstance(names, dict):  # {number: name}
            names = [names[number] for number in range(len(names))]
        if not (isinstance(names, list) and names):
            raise TypeError(f'it is {names!r}')
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise UserError(f'{file} has no list of names: {error!r}') from None
    names = tuple(str(name).strip() for name in names)
    if '' in names or len(set(names)) < len(names):
        raise UserError(f'{file}: each class needs a name of its own, not {some(names)}')
    return names
