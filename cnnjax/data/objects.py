"""The objects in pictures: the checks of their boxes, and one form for all data sets.

    boxes   float32 [M, 4]  left, top, right and bottom sides, in pixels from the picture's left and
                            upper border
    labels  int32 [M]       their classes, -1 for no object
    ignore  bool [M]        if the data set marks some (VOC's difficult ones, COCO's crowds): an
                            ignored object counts neither as found nor as missed
    area    float32 [M]     if the data set has it: the object's own pixels, which are fewer than
                            the box's

M is the largest number of objects in a picture of the set; pictures with fewer are padded.
"""

import dataclasses
import functools
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cnnjax.data import images
from cnnjax.data.identity import Entry, array_digest, file_sizes, some
from cnnjax.errors import UserError

# Sides may exceed the picture by so many pixels, because many programs round them; they are cut.
SLACK = 1
PADDING = {'labels': -1}  # All other arrays are padded with 0.
SHOWN = 3  # The most objects in an error message.


class Flaw(NamedTuple):
    """Why an object cannot be used."""

    kind: str  # for the counts of what is left out, such as 'without area'
    reason: str  # for error messages, such as 'the box 3, 4, 3, 9 has no area'


class Object(NamedTuple):
    """An object as a file describes it."""

    place: str  # where in the file it is, such as 'line 3'
    box: tuple[float, ...] = ()  # left, top, right, bottom, in pixels
    name: str = ''  # the name of its class
    ignore: bool = False
    area: float = 0.0
    flaw: Flaw | None = None  # if the file's own form is violated


def flaw(found: Object, shape: Sequence[int], classes: Sequence[str] = ()) -> Flaw | None:
    """What is wrong with an object in a picture [H, W, ...]; None if nothing is.

    `classes` are the names of all classes; (): any name will do.
    """
    if found.flaw:
        return found.flaw
    height, width = shape[:2]
    sides = ', '.join(f'{round(side, 2):g}' for side in found.box)
    box = f'the box {sides} (left, top, right, bottom)'
    if not all(map(math.isfinite, found.box)):
        return Flaw('not finite', f'{box} is not finite')
    if not found.name:
        return Flaw('of an unknown class', 'its class has no name')
    if classes and found.name not in classes:
        return Flaw('of an unknown class', f'{found.name!r} is no class; known are {some(classes)}')
    left, top, right, bottom = found.box
    if left >= right or top >= bottom:
        return Flaw('without area', f'{box} has no area')
    if min(left, top) < -SLACK or right > width + SLACK or bottom > height + SLACK:
        return Flaw('outside of the picture',
                    f'{box} is not inside the picture of {height} x {width} pixels')
    left, top, right, bottom = map(np.float32, _cut(found.box, shape))  # as they are kept
    if left >= right or top >= bottom:
        return Flaw('without area', f'{box} has no area in the picture')
    return None


def check(example: Mapping[str, Any], i: int) -> None:
    """Raises UserError unless the boxes of example i have the right form and are in its image."""
    boxes, labels = np.asarray(example['boxes']), np.asarray(example['labels'])
    shapes = {name: np.shape(example[name]) for name in ('boxes', 'labels', 'ignore', 'area')
              if name in example}
    if any(shape != (len(labels), 4)[:1 + (name == 'boxes')] for name, shape in shapes.items()):
        raise UserError(f'the example at position {i} has arrays of the shapes {shapes}: of M '
                        'objects boxes are [M, 4] and the others [M]')
    for j in np.flatnonzero(labels >= 0).tolist():
        found = Object(f'object {j}', tuple(boxes[j].tolist()), 'known')
        if wrong := flaw(found, example['image'].shape):
            raise UserError(f'object {j} in the image at position {i}: {wrong.reason}')


class Objects(NamedTuple):
    """The objects of one picture that can be used, and those that cannot."""

    usable: list[Object]  # with their boxes cut at the picture's border
    flawed: list[tuple[str, Flaw]]  # (place, Flaw)


def checked(found: Sequence[Object], shape: Sequence[int],
            classes: Sequence[str] = ()) -> Objects:
    """The Objects of a picture [H, W, ...]; for `classes` see `flaw`."""
    objects = Objects([], [])
    for each in found:
        if wrong := flaw(each, shape, classes):
            objects.flawed.append((each.place, wrong))
        else:
            objects.usable.append(each._replace(box=_cut(each.box, shape)))
    return objects


def _cut(box, shape):
    left, top, right, bottom = box
    return max(left, 0), max(top, 0), min(right, shape[1]), min(bottom, shape[0])


def usable(found: Sequence[Objects], name: Callable[[int], str],
           bad_boxes: str) -> tuple[list[list[Object]], Counter[str]]:
    """The objects of each picture that can be used, and how many of each kind of Flaw cannot.

    Args:
      found: those of all pictures.
      name: what error messages call the objects' file, by the number of the picture.
      bad_boxes: 'error', or 'skip' to leave objects with flaws out.

    Raises:
      UserError: an object has a flaw, and bad_boxes is 'error'; it names the first few.
    """
    flawed = [(f'{name(i)}, {place}: {wrong.reason}', wrong.kind)
              for i, objects in enumerate(found) for place, wrong in objects.flawed]
    if flawed and bad_boxes == 'error':
        lines = [line for line, _ in flawed[:SHOWN]]
        lines += [f'and {len(flawed) - SHOWN:,} more objects'] * (len(flawed) > SHOWN)
        raise UserError('\n  '.join([
            'these objects cannot be used:', *lines,
            'Correct them, or leave all such objects out with --config.bad_boxes=skip']))
    return [objects.usable for objects in found], Counter(kind for _, kind in flawed)


@dataclasses.dataclass(frozen=True)
class Ragged:
    """Arrays [M, ...] of different lengths M, some for each picture, as dicts of arrays of one
    length, the longest. They are stored without padding."""

    arrays: Mapping[str, np.ndarray]  # the arrays of all pictures, one after the other
    starts: np.ndarray  # int [N + 1], where the arrays of each picture begin, and the end

    def rows(self, i: int) -> dict[str, np.ndarray]:
        """The arrays of picture i without padding."""
        first, last = self.starts[i:i + 2]
        return {name: array[first:last] for name, array in self.arrays.items()}

    @functools.cached_property
    def longest(self) -> int:
        """M, at least 1."""
        return max(int(np.diff(self.starts).max()), 1)

    def __getitem__(self, i: Any) -> dict[str, np.ndarray]:
        found = {}
        for name, array in self.rows(range(len(self.starts) - 1)[i]).items():
            shape = self.longest, *array.shape[1:]
            found[name] = np.full(shape, PADDING.get(name, 0), array.dtype)
            found[name][:len(array)] = array
        return found


def ragged(found: Sequence[Sequence[Object]], classes: Sequence[str],
           fields: Sequence[str]) -> Ragged:
    """The objects of all pictures. `fields` are those of 'ignore' and 'area' that the data set
    has."""
    numbers = {name: number for number, name in enumerate(classes)}
    rows = [each for objects in found for each in objects]
    arrays = {'boxes': np.array([each.box for each in rows], np.float32).reshape(-1, 4),
              'labels': np.array([numbers[each.name] for each in rows], np.int32),
              'ignore': np.array([each.ignore for each in rows], bool),
              'area': np.array([each.area for each in rows], np.float32)}
    return Ragged({name: array for name, array in arrays.items()
                   if name in ('boxes', 'labels', *fields)},
                  np.cumsum([0, *map(len, found)]))


def described(objects: Ragged, classes: Sequence[str], flaws: Counter[str]) -> str:
    """A text such as '9 objects of 2 classes; 1 image without objects; 2 objects ignored; objects
    left out: 1 without area; none of dog'.

    Raises:
      UserError: there is no object that counts.
    """
    labels = objects.arrays['labels']
    left_out = ', '.join(f'{count:,} {kind}' for kind, count in flaws.most_common())
    left_out = f'; objects left out: {left_out}' * bool(flaws)
    if not len(labels):
        raise UserError(f'no picture has an object that can be used{left_out}')
    ignored = int(objects.arrays.get('ignore', labels < 0).sum())
    if ignored == len(labels):
        raise UserError(f'all {ignored:,} objects are marked as difficult or as a crowd, and such '
                        f'do not count{left_out}')
    text = (f'{len(labels):,} object{"s" * (len(labels) != 1)} of {len(classes):,} '
            f'class{"es" * (len(classes) != 1)}')
    if empty := int((np.diff(objects.starts) == 0).sum()):
        text += f'; {empty:,} image{"s" * (empty != 1)} without objects'
    if ignored:
        text += f'; {ignored:,} object{"s" * (ignored != 1)} ignored'
    absent = [name for name, count in zip(classes, np.bincount(labels, minlength=len(classes)),
                                          strict=True) if not count]
    return text + left_out + (f'; none of {some(absent)}' if absent else '')


@dataclasses.dataclass(frozen=True)
class Boxed(Sequence):
    """Examples with objects, whose pictures are read from files when they are asked for."""

    paths: tuple[str, ...]
    objects: Ragged
    root: str  # the directory that a listing's names are relative to
    read: Callable[[str], Any] = images.read

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: Any) -> Any:
        return {'image': self.read(self.paths[i]), **self.objects[i]}

    @property
    def undecoded(self) -> 'Boxed':
        return dataclasses.replace(self, read=images.Picture)

    def listing(self) -> list[Entry]:
        """An Entry for each picture, with a checksum of its objects."""
        root, sizes = os.path.join(self.root, ''), file_sizes(self.paths).tolist()
        digests = [array_digest(np.frombuffer(b''.join(
            array.tobytes() for array in self.objects.rows(i).values()), np.uint8))
            for i in range(len(self))]
        return [Entry(None, f'{size} + {digest}', path.removeprefix(root))
                for path, size, digest in zip(self.paths, sizes, digests, strict=True)]
