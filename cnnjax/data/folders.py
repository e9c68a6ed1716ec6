"""The image files in folders, and the files that are left out."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from cnnjax import cluster
from cnnjax.data import formats, threads
from cnnjax.errors import UserError

# Files that operating systems add to folders, in lower case.
SYSTEM = frozenset(('thumbs.db', 'ehthumbs.db', 'desktop.ini', '__macosx', '@eadir',
                    '$recycle.bin', 'system volume information', 'lost+found'))
KINDS = 6  # The most kinds of left-out files that a line names.


def find(directory: str | os.PathLike[str]) -> tuple[list[str], Counter[str]]:
    """The paths of the images in and below a folder, in the order of the parts of the paths, and a
    Counter of the files left out, by kind.

    Links are followed, but no folder is read twice. A file without a suffix is an image if its
    first bytes say so.

    Raises:
      UserError: a folder cannot be read.
    """
    paths, left_out, seen = [], Counter(), set()
    waiting = _entries(directory, seen, left_out)
    while waiting:
        entry = waiting.pop()
        if is_folder(entry):
            waiting += _entries(entry.path, seen, left_out)
        elif reason := unusable(entry):
            left_out[reason] += 1
        else:
            paths.append(entry.path)
    return paths, left_out


def _entries(directory, seen, left_out):
    """The entries to look at, in reverse order; none if the folder was seen before."""
    try:
        status = os.stat(directory)
    except OSError as error:
        raise UserError(f'{directory} cannot be read: {error.strerror}') from error
    place = status.st_dev, status.st_ino
    if place in seen:
        left_out['linked a second time'] += 1
        return []
    seen.add(place)
    return scan(directory, left_out)[::-1]


def scan(directory: str | os.PathLike[str],
         left_out: Counter[str]) -> list[os.DirEntry[str]]:
    """The sorted entries of a folder, without hidden files and those in SYSTEM.

    Raises:
      UserError: the folder cannot be read.
    """
    try:
        with os.scandir(directory) as entries:
            entries = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f'{directory} cannot be read: {error.strerror}') from error
    found = [entry for entry in entries
             if not entry.name.startswith('.') and entry.name.lower() not in SYSTEM]
    left_out['hidden or of the system'] += len(entries) - len(found)
    return found


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether the entry is a folder. Its own method fails on a link that points to itself."""
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def unusable(entry: os.DirEntry[str]) -> str | None:
    """The kind of a file that is no image, by its suffix; None for an image."""
    suffix = os.path.splitext(entry.name)[1].lower()
    if suffix in formats.SUFFIXES or not suffix and formats.is_image(entry.path):
        return None
    return suffix or 'without suffix'


def by_stem(paths: Sequence[str], directory: str | os.PathLike[str]) -> dict[str, str]:
    """{path relative to the directory, without its suffix: path}

    Raises:
      UserError: two paths differ only in their suffix.
    """
    found = {}
    for path in paths:
        name = os.path.splitext(os.path.relpath(path, directory))[0]
        if name in found:
            raise UserError(f'{found[name]} and {path} have one name but for the suffix: which of '
                            'them is meant by that name cannot be told; rename or remove one')
        found[name] = path
    return found


def readable(files: Sequence[Any], read: Callable[[Any], Any], title: str) -> list[Any]:
    """Those of the files that `read` reads without a UserError; each of the others is printed."""
    def error(i):
        try:
            read(files[i])
        except UserError as found:
            return found
        return None

    errors = threads.mapped(error, len(files), title)
    for found in filter(None, errors) if cluster.first() else ():
        print(f'skipped: {found}', flush=True)
    return [file for file, found in zip(files, errors, strict=True) if not found]


def described(left_out: Counter[str]) -> str:
    """A text such as '; left out: 3 without suffix, 2 .txt', or '' if nothing was left out."""
    named = [(reason, count) for reason, count in left_out.most_common() if count]
    if others := sum(count for _, count in named[KINDS:]):
        named = [*named[:KINDS], ('of other kinds', others)]
    text = ', '.join(f'{count:,} {reason}' for reason, count in named)
    # File names may hold bytes that are not valid text.
    return f'; left out: {text}'.encode(errors='backslashreplace').decode() if text else ''
