"""The image files in folders, and what of a folder is left out."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from cnnjax import cluster
from cnnjax.data import formats, threads
from cnnjax.errors import UserError

# What systems put beside the user's files, in lower case.
SYSTEM = frozenset(('thumbs.db', 'ehthumbs.db', 'desktop.ini', '__macosx', '@eadir',
                    '$recycle.bin', 'system volume information', 'lost+found'))
KINDS = 6  # kinds of files left out that a line names at most


def find(directory: str | os.PathLike[str]) -> tuple[list[str], Counter[str]]:
    """The images in and below a folder: their paths, in the order of their parts, and a Counter of
    what was left out.

    Links are followed, but no folder is read twice. A file without a suffix is an image where its
    first bytes are those of one.

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
    """Those that are looked at, the last one first; none where the folder was seen before."""
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
    """The sorted entries of a folder that are neither hidden nor the system's.

    Raises:
      UserError: it cannot be read.
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
    """Of an entry of os.scandir, whose own method fails on a link to itself."""
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def unusable(entry: os.DirEntry[str]) -> str | None:
    """Why a file is no image: its suffix, or that it has none; None for an image."""
    suffix = os.path.splitext(entry.name)[1].lower()
    if suffix in formats.SUFFIXES or not suffix and formats.is_image(entry.path):
        return None
    return suffix or 'without suffix'


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
    """'; left out: 3 without suffix, 2 .txt', or '' where nothing was."""
    named = [(reason, count) for reason, count in left_out.most_common() if count]
    if others := sum(count for _, count in named[KINDS:]):
        named = [*named[:KINDS], ('of other kinds', others)]
    text = ', '.join(f'{count:,} {reason}' for reason, count in named)
    # The names of files may hold bytes that are no text.
    return f'; left out: {text}'.encode(errors='backslashreplace').decode() if text else ''
