"""Divides a set that has no splits of its own, as config.split says: '0.8/0.1/0.1'.

Each class is divided in these shares, in the order of checksums of its examples' names. So the
split depends on nothing but names and labels, and a picture that is added moves few others, if any.
A run keeps its own in FILE.
"""

import collections
import csv
import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from cnnjax import atomic
from cnnjax.data.identity import Identity, entries, one_line, some
from cnnjax.errors import UserError

NAMES = {1: ('all',), 2: ('train', 'test'), 3: ('train', 'val', 'test')}  # by the number of shares
FILE = 'split.csv'
ALL = 'all'  # the name of the undivided set


def parse(text: str) -> dict[str, Fraction]:
    """'0.8/0.1/0.1' -> {'train': 4/5, 'val': 1/10, 'test': 1/10}; '0.8/0.2' has no 'val', and
    '1' leaves 'all' in one.

    Raises:
      UserError: it is not up to three positive numbers whose sum is 1.
    """
    try:
        shares = [Fraction(part.strip()) for part in text.split('/')]
    except (ValueError, ZeroDivisionError):
        shares = []
    if len(shares) not in NAMES or min(shares) <= 0 or sum(shares) != 1:
        raise UserError(f"split='{text}': give the shares of train, val and test, whose sum is 1, "
                        "as in '0.8/0.1/0.1', or those of train and test, as in '0.8/0.2'")
    return dict(zip(NAMES[len(shares)], shares, strict=True))


def check(text: str, split: str) -> None:
    """Raises UserError unless `split` is one of those that a set is divided into."""
    if split not in (known := parse(text)) and split != ALL:
        raise UserError(f"split='{text}' divides the set into {', '.join(known)}; '{split}' is "
                        f"none of them, nor '{ALL}', the whole set")


def places(names: Sequence[str], labels: Sequence[str] | None, text: str, split: str,
           given: Mapping[str, str] | None = None) -> list[int]:
    """The places of the examples of a split, in order.

    Args:
      names: those of all examples, all different.
      labels: the name of each one's class; None: they are divided without regard to classes.
      text: config.split.
      split: 'train', 'val' or 'test', or 'all'.
      given: what `read` returns for a run that began before, which is kept; examples that have
        come since are in no split.

    Raises:
      UserError: see `check`; or a class has fewer examples than there are splits.
    """
    check(text, split)
    if given is None:
        found = divided(names, labels, text)
        return [i for i, name in enumerate(names) if split in (found[name], ALL)]
    return [i for i, name in enumerate(names) if split in (given.get(one_line(name)), ALL)]


def divided(names: Sequence[str], labels: Sequence[str] | None, text: str) -> dict[str, str]:
    """{name: its split}; see `places`."""
    shares = parse(text)
    classes = collections.defaultdict(list)
    for name, label in zip(names, labels or [''] * len(names), strict=True):
        classes[label].append(name)
    if labels is None and len(names) < len(shares):
        raise UserError(f"split='{text}' takes at least {len(shares)} pictures, and there are "
                        f'{len(names)}')
    if few := [f'{label} ({len(own)})' for label, own in classes.items() if len(own) < len(shares)]:
        raise UserError(f"split='{text}' takes at least {len(shares)} pictures of each class, and "
                        f'some have fewer: {some(few)}. Give them more, or leave them out')
    found = {}
    for own in classes.values():
        ends = np.cumsum(counts(len(own), list(shares.values())))
        ranked = sorted(own, key=_checksum)
        for (split, first), last in zip(zip(shares, [0, *ends], strict=False), ends, strict=True):
            found |= dict.fromkeys(ranked[first:last], split)
    return found


def counts(total: int, shares: Sequence[Fraction]) -> list[int]:
    """How many of `total` examples belong to each share: rounded, but at least 1."""
    found = [max(math.floor(share * total), 1) for share in shares]
    while (left := total - sum(found)):  # to the one that is furthest from its share
        change = 1 if left > 0 else -1
        place = max((i for i, count in enumerate(found) if count + change > 0),
                    key=lambda i: change * (shares[i] * total - found[i]))
        found[place] += change
    return found


def _checksum(name):
    return hashlib.blake2b(name.encode(errors='surrogateescape'), digest_size=16).digest()


def read(directory: str | os.PathLike[str]) -> dict[str, str] | None:
    """{name of an example, as in a listing: its split} of the run in `directory`; None if it has
    no FILE.

    Raises:
      UserError: the file is damaged.
    """
    path = Path(directory) / FILE
    try:
        with path.open(newline='', encoding='utf-8', errors='surrogateescape') as file:
            return {row['image']: row['split'] for row in csv.DictReader(file, strict=True)}
    except FileNotFoundError:
        return None
    except (OSError, KeyError, csv.Error) as error:
        raise UserError(f'{path} is damaged: {error!r}; delete it, and the set is divided as it '
                        'was at first') from None


def write(directory: str | os.PathLike[str], splits: Mapping[str, Identity]) -> None:
    """Writes FILE. Beside the pictures it can be read as dataset=csv, too."""
    rows = [(entry.name, *(() if entry.label is None else (found.classes[entry.label],)), split)
            for split, found in splits.items() for entry in entries(found)]
    header = ('image', *('label',) * (len(rows[0]) - 2), 'split')
    with (atomic.replacing(Path(directory) / FILE) as unfinished, unfinished.open(
            'w', newline='', encoding='utf-8', errors='surrogateescape') as file):
        csv.writer(file, lineterminator='\n').writerows([header, *rows])
