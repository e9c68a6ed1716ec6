"""Runs Python files of the user, a config or a network, as modules, and reports their mistakes."""

import contextlib
import os
import sys
import traceback
import types
from collections.abc import Generator
from pathlib import Path

from cnnjax.errors import UserError


def load(path: str | os.PathLike[str]) -> types.ModuleType:
    """The module in the Python file at `path`. Every call runs the file again.

    Raises:
      UserError: the file cannot be read or fails; the message names the line.
    """
    with blamed(path):
        found = types.ModuleType(str(path))
        found.__file__ = str(path)
        sys.modules[found.__name__] = found  # Dataclasses look up annotations there.
        exec(compile(Path(path).read_bytes(), str(path), 'exec'), vars(found))
        return found


@contextlib.contextmanager
def blamed(path: str | os.PathLike[str]) -> Generator[None]:
    """A context that blames all errors on the Python file at `path`: each becomes a UserError such
    as 'mine.py, line 3: NameError: ...'."""
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
