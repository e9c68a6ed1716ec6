"""Sources of examples, which give random access to each example."""

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from cnnjax.data import geometry, images, ranks
from cnnjax.data.identity import Entry, file_sizes, one_line, some
from cnnjax.errors import UserError

SHOWN = 6  # The most classes whose images a line counts one by one.


class Source(NamedTuple):
    """Images and their targets, with random access."""

    # examples[i] is {'image': uint8 [H, W, C]} with the targets: 'label', an int, or 'mask', or
    # 'boxes' with 'labels' (see geometry.py), or 'tags' (tags.py). The images may differ in size.
    # An image may be a sequence or a volume, with a 'label' or 'tags' (see ranks.py).
    examples: Sequence
    classes: tuple[str, ...]  # the names of the classes 0, 1, ...
    about: str = ''  # a line that says how many were found where, and what was left out
    # Encoded examples have an attribute `undecoded`: the same examples, each with a Picture (see
    # images.py) instead of an array, from which crops are cut faster. Examples in files have a
    # method `listing`, which lists them without reading the pictures (see identity.py). If each
    # example has a name, such as that of its file, they have an attribute `names`.


class Missing(UserError):
    """The data is not there at all."""


@dataclasses.dataclass(frozen=True)
class Files(Sequence):
    """Image files as examples, read when they are asked for."""

    paths: tuple[str, ...]  # not Paths, a million of which take seconds to send to a worker
    labels: tuple[int, ...]
    read: Callable[[str], Any] = images.read
    root: str = ''  # the directory that a listing's names are relative to

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: Any) -> Any:
        return {'image': self.read(self.paths[i]), 'label': self.labels[i]}

    @property
    def undecoded(self) -> 'Files':
        return dataclasses.replace(self, read=images.Picture)

    @property
    def names(self) -> list[str]:
        """The paths, relative to the root."""
        root = os.path.join(self.root, '')
        return [path.removeprefix(root) for path in self.paths]

    def listing(self) -> list[Entry]:
        """An Entry for each file."""
        sizes = file_sizes(self.paths).tolist()
        return [Entry(label, str(size), name)
                for name, label, size in zip(self.names, self.labels, sizes, strict=True)]


@dataclasses.dataclass(frozen=True)
class Arrays(Sequence):
    """Examples in arrays, such as {'image': [N, H, W, C], 'label': [N]}."""

    arrays: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.arrays['image'])

    def __getitem__(self, i: Any) -> Any:
        i = range(len(self))[i]  # turns -1 into the last, and raises the IndexError
        return {name: array[i] for name, array in self.arrays.items()}


TYPES = {'mask': np.uint8, 'tags': np.uint8, 'boxes': np.float32, 'labels': np.int32,
         'ignore': bool}


def from_arrays(images: ArrayLike, classes: Sequence[str], **targets: ArrayLike) -> Source:
    """A source of arrays: `from_arrays(images, ('cat', 'dog'), label=labels)`.

    Args:
      images: uint8 [N, H, W, C]; or sequences, floats [N, T, C]; or volumes [N, D, H, W, C], uint8
        or floats. uint8 stands for numbers from 0 to 1, floats for what they are.
      classes: the names of the classes 0, 1, ...
      targets: an array for each target, by its name: `label`, int [N]; `tags`, of 0 and 1,
        [N, classes] (see tags.py); `mask`, uint8 [N, H, W]; or `boxes`, [N, M, 4], with
        `labels`, int [N, M], and perhaps `ignore`, bool [N, M] (see objects.py).

    Raises:
      UserError: an array has another type or shape, or there is not one target for each image.
    """
    images = np.asarray(images)
    if not ranks.is_example(images.dtype, images.ndim - 1) or not len(images):
        hint = '; gray images are images[..., None]' * (images.ndim == 3)
        raise UserError(f'{ranks.FORMS}, not {images.dtype} {list(images.shape)}{hint}')
    if images.dtype != np.uint8:
        if not np.isfinite(images).all():
            raise UserError('the examples hold numbers that are not finite (NaN or infinity)')
        images = images.astype(np.float32)
    arrays = {'image': images}
    if images.ndim != 4 and (others := targets.keys() - {'label', 'tags'}):
        raise UserError(f"{ranks.name(images.shape[1:])}s have a 'label' or 'tags', not "
                        f"'{min(others)}'")
    objects = len(images), *np.shape(targets.get('boxes', ()))[1:2]  # [N, M]
    shape = {'label': images.shape[:1], 'mask': images.shape[:3], 'boxes': (*objects, 4),
             'labels': objects, 'ignore': objects, 'tags': (len(images), len(classes))}
    if unknown := targets.keys() - shape.keys():
        raise UserError("a target is a 'label', 'tags', a 'mask', or 'boxes' with 'labels', not "
                        f"'{min(unknown)}'")
    if ('boxes' in targets) != ('labels' in targets):
        raise UserError("'boxes' [N, M, 4] come with 'labels' [N, M]; the class of a whole image "
                        "is its 'label'")
    for name, given in targets.items():
        array = np.asarray(given)
        if array.shape != shape[name]:
            raise UserError(f'{name} has the shape {list(array.shape)}: with images of '
                            f'{list(images.shape)} it must be {list(shape[name])}')
        if name not in ('boxes', 'ignore') and not np.issubdtype(array.dtype, np.integer):
            raise UserError(f'{name} is an array of {array.dtype}: classes are whole numbers')
        if name == 'tags' and not np.isin(array, (0, 1)).all():
            raise UserError('tags are 1 for the classes that an image shows and 0 for the others, '
                            f'not {array.min()} to {array.max()}')
        if name == 'mask' and not 0 <= array.min() <= array.max() <= geometry.IGNORE:
            raise UserError(f'the masks have numbers from {array.min()} to {array.max()}: classes '
                            f'are counted from 0, and {geometry.IGNORE} is none')
        if name == 'mask' and len(classes) > geometry.IGNORE:
            raise UserError(f'{len(classes)} classes: masks have at most {geometry.IGNORE}')
        arrays[name] = array.astype(TYPES.get(name, array.dtype))
    return Source(Arrays(arrays), tuple(map(str, classes)))


def counted(where: str | os.PathLike[str], examples: int, classes: int,
            counts: Mapping[str, int] | None = None, kind: str = 'image') -> str:
    """A text such as 'photos/train: 1,200 images of 2 classes (cat 800, dog 400)'; for `counts` see
    by_class, for `kind` ranks.name."""
    text = (f'{where}: {examples:,} {kind}{"s" * (examples != 1)} of {classes:,} '
            f'class{"es" * (classes != 1)}')
    if counts and len(counts) > SHOWN:
        text += f' ({min(counts.values()):,} to {max(counts.values()):,} of each)'
    elif counts:
        shown = ', '.join(f'{one_line(name)} {count:,}' for name, count in counts.items())
        text += f' ({shown})'
    return text


def by_class(labels: Iterable[int], classes: Sequence[str]) -> dict[str, int]:
    """{class: how many examples it has} of the classes that have any."""
    return {classes[label]: count for label, count in sorted(Counter(labels).items())}


def check_examples(examples: Sequence, split: str) -> None:
    """Raises UserError unless the first of the examples is one; later ones must be like it."""
    if not len(examples):
        raise UserError(f'the set {split!r} has no examples')
    first = examples[0]
    image: Any = first.get('image') if isinstance(first, dict) else None
    if not ranks.is_example(getattr(image, 'dtype', None), np.ndim(image)):
        raise UserError(f"an example of {split!r} is no dict with 'image', uint8 [H, W, C], and "
                        f'its targets: {type(first).__name__} of '
                        f'{sorted(first) if isinstance(first, dict) else first!r}'[:300])
    if 'label' in first and np.ndim(first['label']):
        raise UserError(f'an example of {split!r} has the label {first["label"]!r}: give a number')


def names(examples: Sequence) -> Sequence[str] | None:
    """The name of each of a source's examples, or None if they have no names."""
    return getattr(examples, 'names', None)


@dataclasses.dataclass(frozen=True)
class Subset(Sequence):
    """Some of the examples of a source. It has no `undecoded` (see Source): a whole decoded picture
    shows the very pixels from which a crop was computed."""

    examples: Sequence
    places: Sequence[int] | np.ndarray  # where these examples are in the source

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, i: Any) -> Any:
        return self.examples[int(self.places[i])]

    @property
    def names(self) -> list[str] | None:
        known = names(self.examples)
        return None if known is None else [known[int(place)] for place in self.places]


def subset(source: Source, index: Sequence[int] | np.ndarray) -> Source:
    """The source with only the examples at the places `index`, in that order."""
    return source._replace(examples=Subset(source.examples, index))


def spread(total: int, count: int) -> np.ndarray:
    """`count` of `total` places, evenly spread; all if `count` is 0 or larger than `total`."""
    return np.linspace(0, total - 1, min(count or total, total)).round().astype(int)


# The targets that are numbers of classes, and the numbers in them that stand for none.
NO_CLASS = {'label': (), 'mask': (geometry.IGNORE,), 'labels': (-1,)}


def check_classes(i: int, target: str, values: np.ndarray, classes: int) -> None:
    """Raises UserError unless a target of example i has numbers of so many classes."""
    wrong = ((values < 0) | (values >= classes)) & ~np.isin(values, NO_CLASS[target])
    if wrong.any():
        what = {'label': 'the label of the image', 'mask': 'the mask of the image',
                'labels': 'an object in the image'}[target]
        raise UserError(f'{what} at position {i} has the class {values[wrong].flat[0]}: the '
                        f'{classes} classes are counted from 0')


@dataclasses.dataclass(frozen=True)
class Labelled(Sequence):
    """Examples with a label instead of their mask or boxes.

    Of a mask it is the class of most of its pixels. Class 0, the background in most sets, counts
    only where there is no other. Of boxes it is the class of the largest, or `none`, the number of
    a further class, if there is no object.
    """

    examples: Sequence
    none: int = 0

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, i: Any) -> Any:
        example = self.examples[i]
        if 'boxes' in example:
            sides = example['boxes'][:, 2:] - example['boxes'][:, :2]
            areas = np.where(example['labels'] < 0, -1, sides.prod(-1))
            largest = example['labels'][areas.argmax()] if areas.size else -1
            return {'image': example['image'], 'label': self.none if largest < 0 else int(largest)}
        counts = np.bincount(np.ravel(example['mask']), minlength=2)[1:geometry.IGNORE]
        return {'image': example['image'], 'label': int(counts.argmax()) + 1 if counts.any() else 0}

    @property
    def undecoded(self) -> 'Labelled':
        return dataclasses.replace(
            self, examples=getattr(self.examples, 'undecoded', self.examples))


@dataclasses.dataclass(frozen=True)
class Relabelled(Sequence):
    """Examples whose labels, masks or tags are renumbered."""

    examples: Sequence
    labels: tuple[int, ...]  # the new number of each old class
    classes: int  # how many there are now

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, i: Any) -> Any:
        example = self.examples[i]
        renumbered = {}
        for target in NO_CLASS.keys() & example.keys():
            values = np.asarray(example[target])
            check_classes(i, target, values, len(self.labels))
            known = ~np.isin(values, NO_CLASS[target])
            found = np.asarray(self.labels)[np.where(known, values, 0)]
            renumbered[target] = np.where(known, found, values).astype(values.dtype)
        if 'tags' in example:
            renumbered['tags'] = np.zeros(self.classes, np.uint8)
            renumbered['tags'][list(self.labels)] = example['tags']
        return {**example, **renumbered}

    @property
    def names(self) -> Sequence[str] | None:
        return names(self.examples)

    @property
    def undecoded(self) -> 'Relabelled':
        return dataclasses.replace(
            self, examples=getattr(self.examples, 'undecoded', self.examples))


def matched(source: Source, classes: Sequence[str]) -> Source:
    """The source with its labels renumbered to those of a network with these `classes`, by name.

    Raises:
      UserError: the network lacks a class of the source; the message says which.
    """
    if tuple(source.classes) == tuple(classes):
        return source
    places = {name: label for label, name in enumerate(classes) if classes.count(name) == 1}
    if unknown := [name for name in source.classes if name not in places]:
        raise UserError(f'the network does not know, or has twice, {some(unknown)}, of the '
                        f'{len(source.classes)} classes of the data; its own {len(classes)} are '
                        f'{some(classes)}')
    labels = tuple(places[name] for name in source.classes)
    return source._replace(examples=Relabelled(source.examples, labels, len(classes)),
                           classes=tuple(classes))
