"""Python files that the user names, a config or a network: run as modules, their mistakes told."""

import contextlib
import os
import sys
import traceback
import types
from collections.abc import Generator
from pathlib import Path

from cnnjax.errors import UserError


def load(path: str | os.PathLike[str]) -> types.ModuleType:
    """The module that the Python file at `path` makes. It is run anew by every call.

    Raises:
      UserError: the file cannot be read, or fails; names the line.
    """
    with blamed(path):
        found = types.ModuleType(str(path))
        found.__file__ = str(path)
        sys.modules[found.__name__] = found  # where dataclasses look for the names in annotations
        exec(compile(Path(path).read_bytes(), str(path), 'exec'), vars(found))
        return found


@contextlib.contextmanager
def blamed(path: str | os.PathLike[str]) -> Generator[None]:
    """A context in which errors are the fault of the Python file at `path`, which may raise any:
    each becomes a UserError 'mine.py, line 3: NameError: ...'."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
                 if frame.filename == str(path)]
        message = error.msg if isinstance(error, SyntaxError) else str(error)
        if isinstance(error, SyntaxError) and error.filename == str(path):
            lines = [error.lineno]
        where = f'{path}, line {lines[-1]}' if lines else str(path)
        raise UserError(f'{where}: {type(error).__name__}: {message}'.splitlines()[0]) from error
