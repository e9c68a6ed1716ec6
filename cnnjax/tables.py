"""Tables as text."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any


def aligned(rows: Sequence[Sequence[str]], left: int) -> list[list[str]]:
    """Rows of strings with every column as wide as its widest cell: the first `left` columns flush
    left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [[cell.ljust(width) if i < left else cell.rjust(width)
             for i, (cell, width) in enumerate(zip(row, widths, strict=True))] for row in rows]


def markdown(header: Sequence[Any], rows: Iterable[Sequence[Any]], left: int | None = None) -> str:
    """A table in Markdown, with a newline after every line.

    Args:
      header: the titles of the columns.
      rows: a cell for each column; what is not a string is shown as `str` shows it, and a line
        break as a space.
      left: for a file that people read as it is: the columns are aligned, this many flush left and
        the others flush right. None: each cell takes no more room than it needs.
    """
    lines = [[' '.join(str(cell).splitlines()).replace('|', r'\|') for cell in line]
             for line in (header, *rows)]
    lines.insert(1, ['---'] * len(header))
    if left is not None:
        lines = aligned(lines, left)
        lines[1] = [f'{":" * (i >= left):->{len(cell)}}' for i, cell in enumerate(lines[1])]
    return ''.join(f'| {" | ".join(line)} |\n' for line in lines)


def comma_separated(header: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    """A table as CSV. Bytes of file names that are not valid text are escaped."""
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows([header, *rows])
    return text.getvalue().encode(errors='backslashreplace').decode()
