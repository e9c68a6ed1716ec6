"""Copies of one picture in different splits, which make a test error too low."""

import collections
import hashlib
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

from cnnjax.data import threads
from cnnjax.data.examples import Source
from cnnjax.data.identity import file_sizes


def told(sources: Mapping[str, Source]) -> str:
    """A line about files of different splits with the same bytes; '' if there are none. Only files
    of one size are read."""
    splits = {path: split for split, source in sources.items()
              for path in getattr(source.examples, 'paths', ()) if isinstance(path, str)}
    alike = [path for group in _groups(splits, list(splits), file_sizes(list(splits)).tolist())
             for path in group]
    groups = _groups(splits, alike, threads.mapped(
        lambda i: _digest(alike[i]), len(alike), 'looking for copies'))
    if not groups:
        return ''
    first = groups[0]
    other = next(path for path in first if splits[path] != splits[first[0]])
    return (f'{len(groups):,} picture{"s" * (len(groups) != 1)} in more than one split, as '
            f'{first[0]} in {splits[first[0]]} and {other} in {splits[other]}, the same bytes: '
            'remove copies, or errors are too low')


def _digest(path):
    try:
        return hashlib.blake2b(Path(path).read_bytes()).digest()
    except OSError:  # The file is named when it is read as a picture.
        return path


def _groups(splits: Mapping[str, str], paths: Sequence[str],
            keys: Sequence[Hashable]) -> list[list[str]]:
    """The paths with equal keys that are in more than one split."""
    found = collections.defaultdict(list)
    for path, key in zip(paths, keys, strict=True):
        found[key].append(path)
    return [group for group in found.values() if len({splits[path] for path in group}) > 1]
