"""Proposals: boxes of each picture in which there may be an object, from a file.

Fast R-CNN classifies such boxes; programs like selective search find them. The file is an .npz of
one array [P, 4] for each picture: left, top, right and bottom sides, in pixels of the picture from
its left and upper border. The name of an array is that of the picture's file, without its folder
and with or without its suffix; or all are in the order of the examples, as numpy names them, arr_0,
arr_1, ...
"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.data.examples import Missing, Source
from cnnjax.data.identity import Entry, array_digest
from cnnjax.data.objects import SLACK, Ragged
from cnnjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Proposed(Sequence):
    """Examples, to each of which its 'proposals', float32 [P, 4], are added."""

    examples: Sequence
    proposals: Ragged

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, i: Any) -> Any:
        i = range(len(self))[i]  # a range knows -1 and the IndexError
        example, boxes = self.examples[i], self.proposals.rows(i)['proposals']
        height, width = example['image'].shape[:2]
        if (boxes < -SLACK).any() or (boxes > np.array([width, height] * 2) + SLACK).any():
            raise UserError(f'a proposal for the picture at position {i} exceeds its {height} x '
                            f'{width} pixels: they are left, top, right, bottom')
        return {**example, **self.proposals[i]}

    @property
    def undecoded(self) -> 'Proposed':
        return dataclasses.replace(
            self, examples=getattr(self.examples, 'undecoded', self.examples))

    @property
    def listing(self) -> Any:
        """The same as that of the examples, with an Entry for all proposals."""
        listing = getattr(self.examples, 'listing', None)
        content = array_digest(self.proposals.arrays['proposals'])
        return listing and (lambda: [*listing(), Entry(None, content, 'proposals')])


def proposed(source: Source, path: str | os.PathLike[str]) -> Source:
    """The source with the proposals in a file.

    Raises:
      Missing: the file is not there.
      UserError: it cannot be read, has no proposals for a picture, or has wrong ones.
    """
    path = Path(os.path.expanduser(path))
    if not path.is_file():
        raise Missing(f'proposals={path}: this file is not there')
    try:
        with np.load(path, allow_pickle=False) as file:
            names = _names(source, set(file.files), path)
            arrays = [checked(file[name], f'{path}: {name}') for name in names]
    except UserError:
        raise
    except Exception as error:  # A damaged file raises many kinds.
        raise UserError(f'{path} is no readable .npz file of arrays: {error}') from None
    kept = Ragged({'proposals': np.concatenate(arrays)}, np.cumsum([0, *map(len, arrays)]))
    return source._replace(examples=Proposed(source.examples, kept))


def _names(source, given, path):
    """The name of each example's array."""
    count = len(source.examples)
    if 'arr_0' in given:
        if len(given) != count:
            raise UserError(f'{path} has {len(given)} arrays for {count} pictures: give one each')
        return [f'arr_{i}' for i in range(count)]
    files = getattr(source.examples, 'paths', None)
    if files is None:
        raise UserError(f'{path}: these pictures have no names; save an array for each of them in '
                        'their order, with numpy.savez(path, *arrays)')
    names = [Path(file).name if Path(file).name in given else Path(file).stem for file in files]
    if missing := [name for name in names if name not in given]:
        raise UserError(f'{path} has no array for {len(missing)} of {count} pictures, such as '
                        f'{missing[0]}')
    if len(set(names)) < count:
        raise UserError(f'{path}: several pictures have one name; save an array for each of the '
                        f'{count} in their order, with numpy.savez(path, *arrays)')
    return names


def checked(boxes: np.ndarray, what: str) -> np.ndarray:
    """The boxes [P, 4] as float32. Raises UserError, which begins with `what`, if they are none."""
    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.dtype.kind not in 'iuf':
        raise UserError(f'{what} is {boxes.dtype} {list(boxes.shape)}, not numbers [P, 4]')
    with np.errstate(over='ignore'):
        boxes = boxes.astype(np.float32)
    wrong = ~(np.isfinite(boxes).all(-1) & (boxes[:, :2] < boxes[:, 2:]).all(-1))
    if wrong.any():
        raise UserError(f'{what} has the box {boxes[wrong][0].tolist()}: left comes before right '
                        'and top before bottom, and all are finite')
    return boxes
