"""Folders of pictures without classes:

    root/<split>/**/*.jpg    a set that is divided into splits
    root/**/*.jpg            one that is not, which `shares` divides (see splits.py)
"""

import os
from collections.abc import Mapping
from pathlib import Path

from cnnjax.data import folders, images, splits
from cnnjax.data.examples import Files, Missing, Source
from cnnjax.errors import UserError


def load(root: str | os.PathLike[str] | None, split: str, bad_images: str = 'error', *,
         shares: str = '', given: Mapping[str, str] | None = None) -> Source:
    """The pictures of a split, in a folder and the folders inside it; all have one label.

    Args:
      bad_images: 'skip' reads every file once now, and leaves out those that cannot be read.
      shares, given: see splits.places; '': each split has a folder.

    Raises:
      Missing: the folder is not there.
      UserError: it has no pictures, or too few to be divided.
    """
    if not root:
        raise UserError("dataset='folder' needs data_dir: a folder of pictures, which "
                        '--config.split=0.9/0.1 divides, or one with the folders train and test')
    root = Path(os.path.expanduser(root))
    where = root if shares else root / split
    if not where.is_dir():
        raise Missing(f'there is no folder {where}' + ('' if shares else (
            f': {root} must have the folders train and test; --config.split=0.9/0.1 divides the '
            'pictures of one folder')))
    paths, left_out = folders.find(where)
    if shares:
        names = [os.path.relpath(path, root) for path in paths]
        kept = splits.places(names, None, shares, split, given)
        paths = [paths[i] for i in kept]
    if bad_images == 'skip':
        paths = folders.readable(paths, images.read, f'checking {split}')
    if not paths:
        raise UserError(f'{where}: there is no picture{folders.described(left_out)}')
    return Source(Files(tuple(paths), (0,) * len(paths), root=str(where)), ('picture',),
                  f'{where}, {split}: {len(paths):,} pictures{folders.described(left_out)}')
