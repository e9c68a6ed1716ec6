"""Folders of pictures with masks, which tell the class of each pixel:

    root/classes.txt              the names of the classes, one a line, the first that of 0
    root/<split>/images/a.jpg     pictures, in folders of any depth
    root/<split>/masks/a.png      their masks, with the same names but for the suffix

A mask has as many pixels as its picture, which must be stored upright: a picture with an EXIF
orientation is refused. Each pixel is the number of a class or geometry.IGNORE, as a gray level or,
as in PASCAL VOC, an index into a palette.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.data import folders, formats, geometry, images
from cnnjax.data.examples import Missing, Source
from cnnjax.data.identity import Entry, file_sizes
from cnnjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Masked(Sequence):
    """Examples that are read from files of pictures and masks when they are asked for."""

    paths: tuple[tuple[str, str], ...]  # (picture's path, mask's path)
    root: str  # the directory that a listing's names are relative to
    read: Callable[[str], Any] = images.read

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: Any) -> Any:
        picture, mask = self.paths[i]
        if (turned := images.orientation(picture)) != 1:
            raise UserError(f'{picture} has the EXIF orientation {turned}, and whether its mask is '
                            'turned as well cannot be told: save both upright')
        return {'image': self.read(picture), 'mask': read(mask)}

    @property
    def undecoded(self) -> 'Masked':
        return dataclasses.replace(self, read=images.Picture)

    def listing(self) -> list[Entry]:
        """An Entry for each picture with its mask."""
        root = os.path.join(self.root, '')
        sizes = [file_sizes(paths).tolist() for paths in zip(*self.paths, strict=True)]
        return [Entry(None, f'{size} + {of_mask}', picture.removeprefix(root))
                for (picture, _), size, of_mask in zip(self.paths, *sizes, strict=True)]


def read(path: str | os.PathLike[str]) -> np.ndarray:
    """The mask in a file, uint8 [H, W].

    Raises:
      UserError: the mask cannot be read, or its pixels are colours and not classes.
    """
    with formats.reading(str(path)), open(formats.regular(path), 'rb') as file:
        image = formats.open_(file)
        image.load()
    if image.mode not in ('1', 'L', 'P'):
        raise UserError(f'{path} has the mode {image.mode}: a mask is gray or has a palette, with '
                        "the number of a class, from 0 to 255, in each pixel (Pillow's modes L, P)")
    return np.asarray(image).astype(np.uint8)


def folder(root: str | os.PathLike[str] | None, split: str, bad_images: str = 'error') -> Source:
    """The pictures with masks of root/split; see the top of this file.

    `bad_images`: with 'error' an unreadable file raises an error later, when it is read; 'skip'
    reads every file once now, and leaves out and lists those that cannot be read.

    Raises:
      UserError: a folder or classes.txt is missing, or a picture has no mask.
    """
    if not root:
        raise UserError("dataset='folder' with masks needs data_dir: the folder that holds "
                        'classes.txt, train/images, train/masks, test/images and test/masks')
    root = Path(os.path.expanduser(root))
    classes = read_classes(root / 'classes.txt')
    directories = {name: root / split / name for name in ('images', 'masks')}
    for directory in directories.values():
        if not directory.is_dir():
            raise Missing(f'{directory} is not there: data_dir must hold classes.txt, and '
                          'images/ and masks/ in train/ and test/')
    pictures, left_out = folders.find(directories['images'])
    found = _without_suffix(folders.find(directories['masks'])[0], directories['masks'])
    paths = []
    for name, picture in _without_suffix(pictures, directories['images']).items():
        if name not in found:
            raise UserError(f'{picture} has no mask: {directories["masks"] / name}.png is not '
                            'there')
        paths.append((picture, found.pop(name)))
    left_out['masks without a picture'] = len(found)
    if bad_images == 'skip':
        readable = folders.readable(paths, lambda pair: (images.read(pair[0]), read(pair[1])),
                                    f'checking {split}')
        left_out['unreadable'] = len(paths) - len(readable)
        paths = readable
    if not paths:
        raise UserError(f'{directories["images"]} has no image that can be read')
    about = (f'{root / split}: {len(paths):,} image{"s" * (len(paths) != 1)} with masks of '
             f'{len(classes)} classes' + folders.described(left_out))
    return Source(Masked(tuple(paths), str(directories['images'])), classes, about)


def read_classes(path: Path) -> tuple[str, ...]:
    """The names in classes.txt.

    Raises:
      Missing: the file does not exist.
      UserError: the file cannot be read, or names a class twice.
    """
    try:
        names = tuple(line.strip() for line in path.read_text().splitlines() if line.strip())
    except FileNotFoundError:
        raise Missing(f'{path} is not there: it names the classes, one a line, in the order of '
                      'their numbers in the masks, from 0') from None
    except (OSError, ValueError) as error:
        raise UserError(f'{path} is not a readable text file: {error}') from None
    if len(set(names)) != len(names) or not 2 <= len(names) <= geometry.IGNORE:
        raise UserError(f'{path} has {len(set(names))} different names in {len(names)} lines: give '
                        f'each class its own, from 2 to {geometry.IGNORE} of them')
    return names


def _without_suffix(paths, directory):
    """{path relative to the directory, without its suffix: path}"""
    found = {}
    for path in paths:
        name = os.path.splitext(os.path.relpath(path, directory))[0]
        if name in found:
            raise UserError(f'{found[name]} and {path} have one name but for the suffix: which '
                            'belongs to which mask cannot be told; rename or remove one')
        found[name] = path
    return found
