"""Arrays in an .npz file:

    x_train, y_train, x_test, y_test           Keras's names; also x_val, y_val
    train_images, train_labels, test_images... MedMNIST's
    images, labels                             or x, y: a set that `shares` divides (see splits.py)

Images are uint8 [N, H, W] or [N, H, W, C]. Floats [N, T, C] are sequences, and uint8 or floats
[N, D, H, W, C] volumes. Labels are whole numbers from 0 or texts, [N] or [N, 1],
or several of 0 and 1, [N, classes], for task=multilabel. `classes`, if there, has their names.
"""

import contextlib
import dataclasses
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.data import ranks, splits, tags
from cnnjax.data.examples import Arrays, Missing, Source, by_class, counted, from_arrays
from cnnjax.data.identity import Entry, of_arrays
from cnnjax.errors import UserError

DIVIDED = (('x_{}', 'y_{}'), ('{}_images', '{}_labels'))
WHOLE = (('images', 'labels'), ('x', 'y'))


@dataclasses.dataclass(frozen=True)
class Part(Arrays):
    """Arrays of some examples of a file, whose names are their places there."""

    places: tuple[int, ...] = ()

    @property
    def names(self) -> list[str]:
        return list(map(str, self.places))

    def listing(self) -> list[Entry]:
        """An Entry for each example."""
        return [entry._replace(name=name)
                for entry, name in zip(of_arrays(self), self.names, strict=True)]


def load(data_dir: str | os.PathLike[str] | None, split: str, *, target: str = 'label',
         shares: str = '', given: Mapping[str, str] | None = None) -> Source:
    """The images of a split with their labels, or with tags (see tags.py).

    Args:
      data_dir: the file.
      target: 'label' or 'tags'.
      shares, given: see splits.places; '': the file has arrays for each split.

    Raises:
      Missing: the file is not there.
      UserError: it is not in one of the forms.
    """
    if not data_dir:
        raise UserError("dataset='npz' needs data_dir: the file, as in data.npz")
    file = Path(os.path.expanduser(data_dir))
    with _opened(file) as arrays:
        images, labels = _pair(file, arrays, split, shares)
        learned = labels
        if not shares and 'classes' not in arrays:
            learned = _pair(file, arrays, 'train', shares)[1]
        names = _array(arrays, 'classes') if 'classes' in arrays else None
    return _source(file, split, images, labels, learned, names, target, shares, given)


def unlabelled(path: str | os.PathLike[str]) -> np.ndarray:
    """The images, sequences or volumes in a file: its array 'x' or 'images', or its only one.

    Raises:
      Missing: the file is not there.
      UserError: it is not in one of the forms.
    """
    file = Path(os.path.expanduser(path))
    with _opened(file) as arrays:
        names = [name for name, _ in WHOLE if name in arrays][:1] or list(arrays)
        images = _with_channels(_array(arrays, names[0])) if len(names) == 1 else None
    if images is None:
        raise UserError(f"{file} has the arrays {', '.join(names)}: rename that of the examples "
                        'to x')
    if not images.size or not ranks.is_example(images.dtype, images.ndim - 1):
        raise UserError(f'{file}: {ranks.FORMS}, not {images.dtype} {list(images.shape)}')
    return images if images.dtype == np.uint8 else images.astype(np.float32)


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """The arrays in a file."""
    try:
        if not zipfile.is_zipfile(file) and file.exists():
            raise ValueError('it is no zip file')
        with np.load(file, allow_pickle=False) as arrays:
            yield arrays
    except FileNotFoundError:
        raise Missing(f'{file} is not there') from None
    except UserError:
        raise
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(f'{file} is no .npz file of arrays without objects: {error}') from None


def _with_channels(images):
    """Gray images [N, H, W] as [N, H, W, 1]; floats of three axes are sequences."""
    return images[..., None] if images.ndim == 3 and images.dtype == np.uint8 else images


def _pair(file, arrays, split, shares):
    """The images and the labels of a split, or of the whole set."""
    forms = WHOLE if shares else DIVIDED
    for pair in forms:
        names = [name.format(split) for name in pair]
        if all(name in arrays for name in names):
            images, labels = (_array(arrays, name) for name in names)
            return images, labels[:, 0] if labels.shape[1:] == (1,) else labels
    needed = ' or '.join(', '.join(pair).format(*[split] * 2) for pair in forms)
    hint = ('divide them with --config.split=0.8/0.1/0.1' if not shares and any(
        name in arrays for pair in WHOLE for name in pair) else
        'leave split out' if shares else 'rename them')
    raise UserError(f'{file} has the arrays {", ".join(arrays)}, not {needed}: {hint}')


def _array(arrays, name):
    array = arrays[name]
    return np.char.decode(array, 'utf-8') if array.dtype.kind == 'S' else array


def _source(file, split, images, labels, learned, names, target, shares, given):
    if labels.ndim != (2 if target == 'tags' else 1):
        raise UserError(f'{file} has labels of the shape {list(labels.shape)}: ' + (
            'task=multilabel learns a 1 or a 0 for each image and class, [N, classes]' if
            target == 'tags' else 'a class for each image is [N] or [N, 1]; task=multilabel learns '
            'several'))
    images = _with_channels(images)
    if images.ndim == 3 and images.shape[1] == images.shape[2]:
        raise UserError(f'{file}: {images.dtype} {list(images.shape)} are most likely gray images: '
                        'images are uint8, not divided by 255. To sequences that are as long as '
                        'they have channels add a step')
    texts = np.unique(learned) if labels.dtype.kind == 'U' else None
    if names is not None:
        classes = [str(name) for name in names]
    elif texts is not None:
        classes = [str(name) for name in texts]
    else:
        whole = learned.size and learned.dtype.kind in 'iu'  # from_arrays refuses others
        count = labels.shape[1] if target == 'tags' else int(learned.max()) + 1 if whole else 1
        classes = [str(number) for number in range(count)]
    if texts is not None:
        numbers = {name: number for number, name in enumerate(classes)}
        if unknown := sorted(set(map(str, np.unique(labels))) - set(numbers)):
            raise UserError(f"{file}: the split '{split}' has the class {unknown[0]}, which is not "
                            'among the others')
        labels = np.array([numbers[str(name)] for name in labels])
    try:
        source = from_arrays(images, classes, **{target: labels})
        if target == 'label' and not 0 <= labels.min() <= labels.max() < len(classes):
            raise UserError(f'the labels have numbers from {labels.min()} to {labels.max()}, and '
                            f'there are {len(classes)} classes, counted from 0')
        if shares:
            known = [classes[label] for label in labels] if target == 'label' else None
            places = splits.places(list(map(str, range(len(images)))), known, shares, split, given)
            every: Any = source.examples
            part = Part({name: array[places] for name, array in every.arrays.items()},
                        tuple(places))
            source, labels = source._replace(examples=part), labels[places]
    except UserError as error:
        raise UserError(f'{file}, {split}: {error}') from None
    kind = ranks.name(images.shape[1:])
    about = (tags.described(f'{file}, {split}', labels, classes, kind) if target == 'tags' else
             counted(f'{file}, {split}', len(labels), len(set(labels.tolist())),
                     by_class(labels.tolist(), classes), kind))
    return source._replace(about=about)
