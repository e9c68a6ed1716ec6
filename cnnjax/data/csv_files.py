"""A table of pictures and what they show, in a .csv file with a header:

    image,label,split         one class for each picture; its name is any text
    image,labels              any number of classes, as in 'cat|dog' (task=multilabel)
    image,cat,dog             the same with a column for each class, which has 1 or 0

The first column may also be called path, file or filename, the second class or tags, in the
singular or the plural. The column split is there if the set is divided into splits; if it is not,
`shares` divides it (see splits.py). Paths are relative to the file's folder.
"""

import csv
import io
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cnnjax.data import folders, images, splits
from cnnjax.data.examples import Files, Missing, Source, by_class, counted
from cnnjax.data.identity import some
from cnnjax.data.tags import TaggedFiles, described
from cnnjax.errors import UserError

IMAGE = {'image', 'path', 'file', 'filename', 'file_name'}
LABEL = {'label', 'labels', 'class', 'classes', 'tag', 'tags'}
SPLIT = 'split'
DELIMITERS = ',;\t'
SEPARATOR = '|'  # the usual one between the classes of a picture


class Row(NamedTuple):
    """A line of a file."""

    line: int
    path: str
    classes: tuple[str, ...]
    split: str


class Table(NamedTuple):
    """The contents of a file."""

    file: Path
    rows: list[Row]
    classes: tuple[str, ...]
    divided: bool  # whether there is a column split


def load(data_dir: str | os.PathLike[str] | None, split: str, bad_images: str = 'error', *,
         target: str = 'label', annotations: str = '', separator: str = '|', shares: str = '',
         given: Mapping[str, str] | None = None) -> Source:
    """The pictures of a split with a label, or with tags (see tags.py).

    Args:
      data_dir: the file or, if `annotations` names the file, the folder that paths are relative to.
        '{split}' in the name of the file stands for the split, and a file is one split.
      bad_images: with 'error' an unreadable picture raises an error later, when it is read; 'skip'
        reads every picture once now, and leaves out and lists those that cannot be read.
      target: 'label' or 'tags'.
      separator: between the classes of a picture.
      shares, given: see splits.places; '': the file has a column split.

    Raises:
      Missing: the file is not there.
      UserError: it is not in one of the forms, or a picture is not there.
    """
    file, root, single = _located(data_dir, annotations)
    tagged = separator if target == 'tags' else None
    table = read(_named(file, split), root, tagged)
    classes = read(_named(file, 'train'), root, tagged).classes if single else table.classes
    if unknown := sorted(set(table.classes) - set(classes)):
        raise UserError(f'{table.file} has classes that {_named(file, "train")} does not have: '
                        f'{some(unknown)}')
    rows, left_out = _rows(table, root, split, shares, given, single), Counter()
    if bad_images == 'skip':
        readable = folders.readable(rows, lambda row: images.read(row.path), f'checking {split}')
        left_out['unreadable'] = len(rows) - len(readable)
        rows = readable
    elif gone := [row for row in rows if not os.path.isfile(row.path)]:
        others = f', nor {len(gone) - 1} more' * (len(gone) > 1)
        raise UserError(f'{table.file}, line {gone[0].line}: {gone[0].path} is not there{others}. '
                        'Paths are relative to the folder of the file; of others give it as '
                        'data_dir, and the file as annotations')
    if not rows:
        raise UserError(f'{table.file}, {split}: none of its images can be read')
    where = f'{table.file}, {split}' if not single else str(table.file)
    numbers = {name: number for number, name in enumerate(classes)}
    shown = [[numbers[name] for name in row.classes] for row in rows]
    found = (_labelled if target == 'label' else _tagged)(rows, shown, classes, str(root), where)
    return found._replace(about=found.about + folders.described(left_out))


def _labelled(rows, shown, classes, root, where):
    labels = tuple(label for label, in shown)
    return Source(Files(tuple(row.path for row in rows), labels, root=root), classes,
                  counted(where, len(rows), len(set(labels)), by_class(labels, classes)))


def _tagged(rows, shown, classes, root, where):
    tags = np.zeros((len(rows), len(classes)), np.uint8)
    for own, labels in zip(tags, shown, strict=True):
        own[labels] = 1
    return Source(TaggedFiles(tuple(row.path for row in rows), tags, root=root), classes,
                  described(where, tags, classes))


def _located(data_dir, annotations):
    """(the file's path, the folder that its paths are relative to, whether it is one split)."""
    if not data_dir:
        raise UserError("dataset='csv' needs data_dir: the file, as in labels.csv; or the folder "
                        'of the pictures, and the file as annotations')
    directory = Path(os.path.expanduser(data_dir))
    file = directory / os.path.expanduser(annotations) if annotations else directory
    if os.path.isdir(file):
        raise UserError(f'{file} is a folder: data_dir is the file, as in {file / "labels.csv"}, '
                        'or annotations names it')
    return file, directory if annotations else file.parent, '{split}' in str(file)


def _named(file, split):
    return Path(str(file).replace('{split}', split))


def _rows(table, root, split, shares, given, single):
    """The rows of a split."""
    if single or table.divided:
        if shares:
            raise UserError(f"split='{shares}': {table.file} is divided already, "
                            + ('each file is a split' if single else 'by its column split')
                            + ': leave split out')
        rows = [row for row in table.rows if single or row.split == split]
        if not rows:
            raise UserError(f"{table.file} has no row of the split '{split}', only of "
                            f'{some(sorted({row.split for row in table.rows}))}: name them, as in '
                            '--config.train_split=training --config.test_split=holdout')
        return rows
    if not shares:
        raise UserError(f'{table.file} has no column split: add one that says train or test, or '
                        'divide it, as in --config.split=0.8/0.1/0.1')
    names = Files(tuple(row.path for row in table.rows), (), root=str(root)).names
    alone = all(len(row.classes) == 1 for row in table.rows)  # otherwise no class is divided alone
    labels = [row.classes[0] for row in table.rows] if alone else None
    return [table.rows[i] for i in splits.places(names, labels, shares, split, given)]


def read(file: Path, root: Path, separator: str | None = None) -> Table:
    """The Table in a file.

    Args:
      root: the folder that its paths are relative to.
      separator: between the classes of a picture; None: each has one.

    Raises:
      Missing, UserError: see `load`.
    """
    try:
        text = file.read_text(encoding='utf-8-sig')
    except FileNotFoundError:
        raise Missing(f'{file} is not there') from None
    except (OSError, ValueError) as error:
        raise UserError(f'{file} is not a readable text file: {error}') from None
    first = text.partition('\n')[0]
    lines = csv.reader(io.StringIO(text), delimiter=max(DELIMITERS, key=first.count), strict=True)
    try:
        header = [name.strip() for name in next(lines, [])]
        columns = _columns(file, header, separator is not None)
        rows = [_row(file, root, lines.line_num, cells, columns, separator)
                for cells in lines if any(map(str.strip, cells))]
    except csv.Error as error:
        raise UserError(f'{file}, line {lines.line_num}: {error}') from None
    if not rows:
        raise UserError(f'{file} has no row below its header')
    seen = {}
    for row in rows:
        if (other := seen.setdefault(row.path, row)) is not row:
            raise UserError(f'{file}, line {row.line}: {row.path} is in line {other.line}, too: '
                            'give each picture one line; task=multilabel learns several classes')
    named = columns.classes.values() or {name for row in rows for name in row.classes}
    return Table(file, rows, _sorted(named) if not columns.classes else tuple(named),
                 columns.split is not None)


class Columns(NamedTuple):
    """The places of the columns in a line."""

    count: int
    image: int
    label: int | None  # None: there is one for each class
    split: int | None
    classes: dict[int, str]
    plural: bool  # whether the label's column is called labels, classes or tags


def _columns(file, header, several):
    places = {}
    for place, name in enumerate(header):
        for kind, names in (('image', IMAGE), ('label', LABEL), ('split', {SPLIT})):
            if name.lower() in names:
                if kind in places:
                    raise UserError(f'{file}: its columns {header[places[kind]]} and {name} are '
                                    f'both the {kind}: rename one')
                places[kind] = place
    others = {place: name for place, name in enumerate(header) if place not in places.values()}
    needed = 'label, or one for each class' if several else 'label'
    if 'image' not in places or not ('label' in places or several and others):
        hint = '; task=multilabel learns one column for each class' if (
            'image' in places and len(others) > 1) else ''
        raise UserError(f'{file}: its first line has the columns {some(header)}. It needs one that '
                        f'is called image (or path, file) and one called {needed}{hint}')
    label = places.get('label')
    classes = others if label is None else {}
    if '' in classes.values() or len(set(classes.values())) < len(classes):
        raise UserError(f'{file}: each column needs a name of its own, not {some(header)}')
    plural = label is not None and header[label].lower() in ('labels', 'classes', 'tags')
    return Columns(len(header), places['image'], label, places.get('split'), classes, plural)


def _row(file, root, line, cells, columns, separator):
    cells = [cell.strip() for cell in cells]
    if len(cells) != columns.count:
        raise UserError(f'{file}, line {line}: it has {len(cells)} columns, the first line '
                        f'{columns.count}')
    if not cells[columns.image]:
        raise UserError(f'{file}, line {line}: it names no picture')
    if columns.label is None:
        found = tuple(name for place, name in columns.classes.items()
                      if _shown(file, line, name, cells[place]))
    elif separator is None:
        found = (cells[columns.label],)
        if not found[0]:
            raise UserError(f'{file}, line {line}: {cells[columns.image]} has no label')
        if columns.plural and SEPARATOR in found[0]:
            raise UserError(f"{file}, line {line}: '{found[0]}' are several classes: "
                            '--config.task=multilabel learns them; if it is the name of one, call '
                            'the column label')
    else:
        parts = cells[columns.label].split(separator)
        found = tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))
    path = os.path.normpath(root / os.path.expanduser(cells[columns.image]))
    return Row(line, path, found, '' if columns.split is None else cells[columns.split])


def _shown(file, line, name, cell):
    """Whether a cell says that the picture shows a class."""
    if cell not in ('0', '1', '0.0', '1.0'):
        raise UserError(f"{file}, line {line}: the column {name} has '{cell}', and a class has 1 "
                        'or 0. For columns that are no classes, write all classes into one column '
                        "labels, as in 'cat|dog', or remove them")
    return float(cell) == 1


def _sorted(names):
    """Numbers in their order, other names in that of the alphabet."""
    return tuple(sorted(names, key=int if all(name.isdecimal() for name in names) else None))
