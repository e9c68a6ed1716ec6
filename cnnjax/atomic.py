"""Files that are written whole or, if the writer is interrupted, not at all."""

import contextlib
import json
import os
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

from cnnjax.errors import UserError

UNFINISHED = re.compile(r'\..+\.[0-9]+\.part')  # .NAME.PROCESS.part
PathLike = str | os.PathLike[str]


@contextlib.contextmanager
def replacing(path: PathLike) -> Generator[Path]:
    """Yields the path of an unfinished file beside `path`, which is renamed to `path` at the end.

    Folders are made. If the block raises an error, the unfinished file is deleted; if the process
    is killed, it is left for `remove_unfinished`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f'.{path.name}.{os.getpid()}.part')
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(path: PathLike, text: str) -> None:
    with replacing(path) as unfinished:
        unfinished.write_text(text, 'utf-8')


# JSON is Unicode, but names of files are bytes. Python shows a byte that is no character as half of
# a surrogate pair, which most readers of JSON refuse, so it is written as a text such as \udce9.
HALVES = r'[\ud800-\udfff]|\\(?=u(?:005c|d[89a-f][0-9a-f]{2}))'


def _encoded(text):
    return re.sub(HALVES, lambda half: f'\\u{ord(half[0]):04x}', text)


def _decoded(text):
    return re.sub(r'\\u(005c|d[89a-f][0-9a-f]{2})', lambda half: chr(int(half[1], 16)), text)


def _strings(value, change):
    """A JSON value in which `change` is applied to all strings."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {_strings(name, change): _strings(v, change) for name, v in value.items()}
    return [_strings(v, change) for v in value] if isinstance(value, (list, tuple)) else value


def write_json(path: PathLike, value: Any, indent: int | None = 1) -> None:
    """Writes the whole JSON file or, when interrupted, nothing."""
    with replacing(path) as unfinished, unfinished.open('w') as file:
        file.write(json.dumps(_strings(value, _encoded), indent=indent) + '\n')
        file.flush()
        os.fsync(file.fileno())


def read_json(path: PathLike) -> Any:
    """The value of a JSON file; None if the file does not exist.

    Raises:
      UserError: the file is damaged.
    """
    path = Path(path)
    try:
        return _strings(json.loads(path.read_text()), _decoded)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f'{path} is not a readable JSON file: {error}') from error


def remove_unfinished(directory: PathLike, mark: str) -> None:
    """Deletes the unfinished files of killed writers in and below a directory in which nobody else
    writes now. A folder below that has a file named `mark` is skipped: others may write there."""
    for folder, folders, files in os.walk(directory):
        folders[:] = [name for name in folders
                      if not os.path.exists(os.path.join(folder, name, mark))]
        for name in filter(UNFINISHED.fullmatch, files):
            Path(folder, name).unlink(missing_ok=True)
