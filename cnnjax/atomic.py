"""Files that are written whole or, where the writer is interrupted, not at all."""

import contextlib
import os
import re
from pathlib import Path

UNFINISHED = re.compile(r'\..+\.[0-9]+\.part')  # .NAME.PROCESS.part


@contextlib.contextmanager
def replacing(path):
    """Yields the path of an unfinished file beside `path`, which takes that name at the end.

    Folders are made. Where the block raises, nothing is left; where the process is killed, the
    unfinished file is, see `remove_unfinished`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f'.{path.name}.{os.getpid()}.part')
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(path, text):
    with replacing(path) as unfinished:
        unfinished.write_text(text, 'utf-8')


def remove_unfinished(directory, mark):
    """Deletes what killed writers left in a directory and below, where nobody else writes now. A
    folder below that holds a file named `mark` is left alone: others may be writing there."""
    for folder, folders, files in os.walk(directory):
        folders[:] = [name for name in folders
                      if not os.path.exists(os.path.join(folder, name, mark))]
        for name in filter(UNFINISHED.fullmatch, files):
            Path(folder, name).unlink(missing_ok=True)
