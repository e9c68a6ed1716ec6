"""Folders of pictures with masks, which tell the class of each pixel:

    root/classes.txt              the names of the classes, one a line, the first that of 0
    root/<split>/images/a.jpg     pictures, in folders of any depth
    root/<split>/masks/a.png      their masks, with the same names but for the suffix

A mask has as many pixels as its picture, and both must be stored upright: files that an EXIF
orientation turns are refused. Each pixel is the number of a class or geometry.IGNORE, as a gray
level or, as in PASCAL VOC, an index into a palette. Masks with other numbers are read if
`mask_values` lists those of the classes. If `shares` divides the set (see splits.py), both folders
are in root.
"""

import collections
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags

from cnnjax.data import folders, formats, geometry, images, splits
from cnnjax.data.examples import Missing, Source
from cnnjax.data.identity import Entry, file_sizes, some
from cnnjax.errors import UserError

EXACT = ('PNG', 'TIFF', 'BMP')  # Other formats may change or renumber pixels.
TURNED = range(2, 9)  # the EXIF orientations that are not upright
SHOWN = 6  # The most classes of which a line tells the share of the pixels.


@dataclasses.dataclass(frozen=True)
class Masked(Sequence):
    """Examples that are read from files of pictures and masks when they are asked for."""

    paths: tuple[tuple[str, str], ...]  # (picture's path, mask's path)
    root: str  # the directory that a listing's names are relative to
    classes: Mapping[int, int]  # {value in the files: number of a class, or IGNORE}
    read: Callable[[str], Any] = images.read

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: Any) -> Any:
        picture, mask = self.paths[i]
        if (turned := images.orientation(picture)) in TURNED:
            raise UserError(f'{picture} has the EXIF orientation {turned}, and whether its mask is '
                            'turned as well cannot be told: save both upright')
        image = self.read(picture)
        return {'image': image, 'mask': numbered(read(mask), self.classes, image.shape, mask)}

    @property
    def undecoded(self) -> 'Masked':
        return dataclasses.replace(self, read=images.Picture)

    def listing(self) -> list[Entry]:
        """An Entry for each picture with its mask."""
        root = os.path.join(self.root, '')
        sizes = [file_sizes(paths).tolist() for paths in zip(*self.paths, strict=True)]
        return [Entry(None, f'{size} + {of_mask}', picture.removeprefix(root))
                for (picture, _), size, of_mask in zip(self.paths, *sizes, strict=True)]


def read(file: str | os.PathLike[str] | bytes, name: str | None = None) -> np.ndarray:
    """The numbers in a mask, uint8 [H, W].

    Args:
      file: a path, or the bytes of a file.
      name: its name in error messages; None: the path.

    Raises:
      UserError: the mask cannot be read or is stored turned, its format does not keep each pixel,
        the file holds several pictures, or its pixels are colours or larger numbers.
    """
    name = name or str(file)
    with formats.reading(name), formats.opened(file) as stream:
        image = formats.open_(stream)
        if image.format not in EXACT:
            raise UserError(f'{name} is a {image.format} file, and such do not keep the number of '
                            'each pixel: save masks as PNG')
        if (count := getattr(image, 'n_frames', 1)) > 1:
            raise UserError(f'{name} holds {count} pictures: give each a file of its own')
        layout = image.tile[0].args  # begins with Pillow's name for the layout of the pixels
        image.load()
        turned = image.getexif().get(ExifTags.Base.Orientation, 1)
    if turned in TURNED:
        raise UserError(f'{name} has the EXIF orientation {turned}: save it upright')
    if image.mode not in ('1', 'L', 'P', 'I;16', 'I;16B'):
        raise UserError(f'{name} has the mode {image.mode}: a mask is gray or has a palette, with '
                        'the number of a class, from 0 to 255, in each pixel')
    values = np.asarray(image)
    if values.max() > 255:
        raise UserError(f'{name} has a pixel of the value {values.max()}: the values of a mask are '
                        'at most 255')
    # Pillow scales the levels of gray files of 2 and 4 bits up to 255.
    layout = layout[0] if isinstance(layout, tuple) else layout
    return values.astype(np.uint8) // {'L;2': 85, 'L;4': 17}.get(str(layout), 1)


def numbered(values: np.ndarray, classes: Mapping[int, int], shape: Sequence[int],
             name: str) -> np.ndarray:
    """The mask of an image, uint8 [H, W], whose pixels are numbers of classes or IGNORE.

    Args:
      values: the numbers in a file, uint8 [H, W].
      classes: {value: number of a class, or IGNORE}.
      shape: that of the image.
      name: the mask's name in error messages.

    Raises:
      UserError: the mask has another size than the image, or a value that is not in `classes`.
    """
    if values.shape != tuple(shape[:2]):
        raise UserError(f'{name} has {values.shape[0]} x {values.shape[1]} pixels, its picture '
                        f'{shape[0]} x {shape[1]}: a mask has a class for each pixel')
    table = np.full(256, -1, np.int16)
    table[list(classes)] = list(classes.values())
    mask = table[values]
    if (mask < 0).any():
        known = some([str(value) for value in sorted(classes, key=classes.__getitem__)
                      if classes[value] != geometry.IGNORE])
        raise UserError(f'{name} has a pixel of the value {values[mask < 0][0]}: those of the '
                        f'classes are {known}. If a folder has other values, list that of each '
                        'class in its order: --config.mask_values=0,255 is that of two classes')
    return mask.astype(np.uint8)


def described(pixels: np.ndarray, classes: Sequence[str], mask_values: Sequence[int] = ()) -> str:
    """A text such as 'background 93.6 %, digit 6.4 %', which also names classes without pixels.

    Args:
      pixels: how many pixels of all masks are of the class 0, 1, ..., int [256].
      classes: the names of the classes.
      mask_values: those that the user gave.

    Raises:
      UserError: all pixels are ignored; or only some are, and all others are of one class, as if
        255 had been the value of another class.
    """
    counts = collections.Counter(dict(zip(classes, pixels.tolist(), strict=False)))
    found, ignored = [name for name, count in counts.most_common() if count], geometry.IGNORE
    if not found:
        raise UserError(f'every pixel of the masks is {ignored}, which is ignored: nothing is left '
                        'to learn or to measure')
    if len(found) == 1 and pixels[ignored] and not mask_values:
        raise UserError(f'every pixel of the masks is {found[0]} or {ignored}, which is ignored. '
                        f'If {ignored} stands for a class, renumber it, or list the values of all '
                        "classes of a folder in the classes' order, as in "
                        f'--config.mask_values=0,{ignored}; if not, list those of the others, as '
                        'in --config.mask_values=0,1')
    shares = [f'{name} {100 * counts[name] / pixels.sum():.3g} %' for name in found[:SHOWN]]
    shares += [f'{len(found) - SHOWN} other classes'] * (len(found) > SHOWN)
    if pixels[ignored]:
        shares.append(f'{100 * pixels[ignored] / pixels.sum():.3g} % ignored')
    absent = [name for name in classes if not counts[name]]
    return ', '.join(shares) + (f'; none of {some(absent)}' if absent else '')


def folder(root: str | os.PathLike[str] | None, split: str, bad_images: str = 'error',
           mask_values: Sequence[int] = (), *, shares: str = '',
           given: Mapping[str, str] | None = None) -> Source:
    """The pictures with masks of a split; see the top of this file.

    Args:
      bad_images: with 'error' an unreadable file raises an error later, when it is read; 'skip'
        reads every file once now, and leaves out and lists those that cannot be read.
      mask_values: the value of each class in the masks, if these are not 0, 1, ...
      shares, given: see splits.places; '': each split has a folder.

    Raises:
      UserError: a folder or classes.txt is missing, a picture has no mask, or mask_values has not
        one value for each class.
    """
    if not root:
        raise UserError("dataset='folder' with masks needs data_dir: the folder that holds "
                        'classes.txt, train/images, train/masks, test/images and test/masks')
    root = Path(os.path.expanduser(root))
    if not root.is_dir():
        raise Missing(f'data_dir={root}: this folder is not there')
    classes = read_classes(root / 'classes.txt')
    values = mask_values or range(len(classes))
    if not len(set(values) & set(range(256))) == len(values) == len(classes):
        raise UserError(f'mask_values={tuple(values)}: {root / "classes.txt"} has {len(classes)} '
                        'classes; give a value from 0 to 255 for each, in their order')
    here, where = (root, f'{root}, {split}') if shares else (root / split, root / split)
    paths, left_out = _pairs(here)
    if shares:
        names = [os.path.relpath(picture, here / 'images') for picture, _ in paths]
        paths = [paths[i] for i in splits.places(names, None, shares, split, given)]
    if bad_images == 'skip':
        readable = folders.readable(paths, lambda pair: (images.read(pair[0]), read(pair[1])),
                                    f'checking {split}')
        left_out['unreadable'] = len(paths) - len(readable)
        paths = readable
    if not paths:
        raise UserError(f'{here / "images"} has no image that can be read')
    about = (f'{where}: {len(paths):,} image{"s" * (len(paths) != 1)} with masks of '
             f'{len(classes)} classes' + folders.described(left_out))
    numbers = {geometry.IGNORE: geometry.IGNORE} | {value: i for i, value in enumerate(values)}
    return Source(Masked(tuple(paths), str(here / 'images'), numbers), classes, about)


def _pairs(directory):
    """The paths of each picture and its mask, and a Counter of the files left out, by kind."""
    directories = {name: directory / name for name in ('images', 'masks')}
    for here in directories.values():
        if not here.is_dir():
            raise Missing(f'{here} is not there: data_dir must hold classes.txt, and images/ and '
                          'masks/ in train/ and test/, or without these two folders, and is then '
                          'divided by --config.split=0.8/0.1/0.1')
    pictures, left_out = folders.find(directories['images'])
    found = folders.by_stem(folders.find(directories['masks'])[0], directories['masks'])
    pairs = []
    for name, picture in folders.by_stem(pictures, directories['images']).items():
        if name not in found:
            raise UserError(f'{picture} has no mask: {directories["masks"] / name}.png is not '
                            'there')
        pairs.append((picture, found.pop(name)))
    left_out['masks without a picture'] = len(found)
    return pairs, left_out


def read_classes(path: Path, least: int = 2,
                 most: int | None = geometry.IGNORE) -> tuple[str, ...]:
    """The names in classes.txt, of which there must be so many.

    Raises:
      Missing: the file does not exist.
      UserError: the file cannot be read, or names a class twice.
    """
    try:
        names = tuple(line.strip() for line in
                      path.read_text(encoding='utf-8-sig').splitlines() if line.strip())
    except FileNotFoundError:
        raise Missing(f'{path} is not there: it names the classes, one a line, in the order of '
                      'their numbers in the masks, from 0') from None
    except (OSError, ValueError) as error:
        raise UserError(f'{path} is not a readable text file: {error}') from None
    if len(set(names)) != len(names) or not least <= len(names) <= (most or len(names)):
        raise UserError(f'{path} has {len(set(names))} different names in {len(names)} lines: give '
                        f'each class its own, from {least} to {most or "any number"} of them')
    return names
