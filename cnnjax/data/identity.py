"""The identity of a data set: the names, sizes and labels of its examples, in order.

Results that refer to a set, such as positions in it, are saved with its identity, to be compared
when they are used again:

    kept = data.identity(stream).summary()  # a dict for a JSON file
    ...
    then = data.Identity.of_summary(kept)
    if changed := data.differences(then, data.identity(stream)):
        raise UserError('\\n  '.join([f'{path} is of another set:', *changed]))
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from cnnjax.errors import UserError

if TYPE_CHECKING:
    from cnnjax.data.examples import Source
    from cnnjax.data.pipeline import Resident, Stream

SHOWN = 3  # The most names in a line of differences.
THREADS = 16  # Threads that ask for file sizes, because network drives answer slowly.


class Entry(NamedTuple):
    """A line of a listing: one example, or a file with many."""

    label: int | None  # None: only reading the file would tell
    content: str  # a file's size in bytes, or the checksum of an array
    name: str

    def __str__(self):
        label = '' if self.label is None else self.label
        return one_line(f'{label}\t{self.content}\t{self.name}')


def one_line(name: str) -> str:
    """A name as it stands in a listing."""
    return name.replace('\n', '\\n')


class Identity(NamedTuple):
    """The identity of a set. Two sets are the same if their digests are equal."""

    classes: tuple[str, ...]
    examples: int
    counts: tuple[int, ...] | None  # examples of each class; None: labels are unknown
    digest: str  # a checksum of the classes, the number of examples and the listing
    listing: tuple[str, ...] = ()  # the lines of all entries; (): it was not kept

    def summary(self) -> dict[str, Any]:
        """A dict of all but the listing, for a JSON file."""
        return {name: value for name, value in self._asdict().items() if name != 'listing'}

    def with_listing(self, lines: Sequence[str]) -> 'Identity':
        """The same identity with these lines as its listing, if they match the digest; else without
        a listing."""
        same = _digest(self.classes, self.examples, lines) == self.digest
        return self._replace(listing=tuple(lines) if same else ())

    @classmethod
    def of_summary(cls, summary: Mapping[str, Any]) -> 'Identity':
        """The identity with that summary, which may come from a JSON file; it has no listing.

        Raises:
          UserError: the summary is damaged.
        """
        try:
            found = cls(tuple(map(str, summary['classes'])), int(summary['examples']),
                        summary['counts'] and tuple(map(int, summary['counts'])),
                        str(summary['digest']))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(f'the identity of a data set is damaged: {error!r}') from None
        return found


def identity(loaded: 'Source | Resident | Stream') -> Identity:
    """The Identity of a Source, Resident or Stream.

    No picture is decoded. Image files count by their names and sizes, data of tensorflow-datasets
    by its own files, and examples in memory, which have no names, by their pixels.

    Raises:
      UserError: a file was deleted since it was listed.
    """
    listing = getattr(loaded.examples, 'listing', None)
    found = listing() if listing else of_arrays(loaded.examples)
    lines = tuple(map(str, found))
    counts = None
    labels = [entry.label for entry in found if entry.label is not None]
    if len(labels) == len(found):
        counts = np.bincount(labels, minlength=len(loaded.classes))
        counts = tuple(counts.tolist())
    digest = _digest(loaded.classes, len(loaded.examples), lines)
    return Identity(loaded.classes, len(loaded.examples), counts, digest, lines)


def _digest(classes, examples, lines):
    digest = hashlib.blake2b(digest_size=16)
    for line in (*classes, str(examples), *lines):
        digest.update(line.encode(errors='surrogateescape') + b'\n')
    return digest.hexdigest()


def file_sizes(paths: Sequence[str | os.PathLike[str]]) -> np.ndarray:
    """An array of the sizes of files in bytes.

    Raises:
      UserError: a file was deleted.
    """
    sizes = np.empty(len(paths), np.int64)

    def measure(first):
        sizes[first::THREADS] = [os.path.getsize(path) for path in paths[first::THREADS]]

    try:
        with futures.ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(measure, range(THREADS)))
    except OSError as error:
        raise UserError(f'{error.filename} cannot be read: {error.strerror}') from error
    return sizes


def array_digest(array: ArrayLike) -> str:
    """A checksum of an array's values, shape and type."""
    array = np.asarray(array)
    header = f'{array.dtype.str} {array.shape} '.encode()
    return hashlib.blake2b(header + array.tobytes(), digest_size=8).hexdigest()


def of_arrays(examples: Sequence) -> list[Entry]:
    """An Entry for each example; masks and boxes count as content."""
    def entry(i, example):
        label, *others = (example.get('label'),
                          *(example[name] for name in sorted(example.keys() - {'label'})))
        content = ' '.join(map(array_digest, others))
        return Entry(None if label is None else int(label), content, f'example {i}')

    return [entry(i, example) for i, example in enumerate(examples)]


def differences(then: Identity, now: Identity) -> list[str]:
    """A few lines that say how the set `now` differs from the set `then`; none if it does not."""
    if then.digest == now.digest:
        return []
    lines = _of_classes(then, now) + _of_counts(then, now)
    if then.listing and now.listing:
        lines += _of_entries(then, now)
    return lines or ['the names, the sizes or the labels of its files are others']


def _of_classes(then, now):
    gone = [name for name in then.classes if name not in now.classes]
    new = [name for name in now.classes if name not in then.classes]
    lines, before, after = [], _members(then), _members(now)
    for name in list(gone):
        same = [other for other in new if before.get(name) and before[name] == after.get(other)]
        if same:
            lines.append(f"class '{name}' is now '{same[0]}', with the same examples")
            gone.remove(name)
            new.remove(same[0])
    lines += [f'classes {word}: {some(names)}'
              for word, names in (('missing', gone), ('added', new)) if names]
    if not lines and then.classes != now.classes:
        lines.append(f'classes in another order: {some(then.classes)} then, '
                     f'{some(now.classes)} now')
    return lines


def _of_counts(then, now):
    if then.counts is None or now.counts is None:
        return ([f'{then.examples} examples then, {now.examples} now']
                if then.examples != now.examples else [])
    before, after = (dict(zip(each.classes, each.counts, strict=True)) for each in (then, now))
    changed = [f'{name} {before[name]} then, {after[name]} now' for name in before
               if name in after and before[name] != after[name]]
    return [f'examples of a class: {some(changed, "; ")}'] if changed else []


def _of_entries(then, now):
    """The differences of single entries, in classes that both sets have."""
    shared = set(then.classes) & set(now.classes)
    before, after = ({entry.name: entry for entry in entries(each)
                      if entry.label is None or each.classes[entry.label] in shared}
                     for each in (then, now))
    both = [(before[name], after[name]) for name in before if name in after]
    found = {
        'missing': [name for name in before if name not in after],
        'added': [name for name in after if name not in before],
        'of another size or content': [f'{old.name} ({old.content} then, {new.content} now)'
                                       for old, new in both if old.content != new.content],
        'of another label': [
            f'{old.name} ({then.classes[old.label]} then, {now.classes[new.label]} now)'
            for old, new in both if None not in (old.label, new.label)
            and then.classes[old.label] != now.classes[new.label]]}
    lines = [f'{word}: {some(names)}' for word, names in found.items() if names]
    if not lines and then.classes == now.classes:
        lines.append('the same files in another order')
    return lines


def entries(identity: Identity) -> Iterator[Entry]:
    """The listing of an Identity, if it was kept."""
    for line in identity.listing:
        label, content, name = line.split('\t', 2)
        yield Entry(int(label) if label else None, content, name)


def _members(identity):
    """{class: the names of its files without that of the class}"""
    members = {}
    for entry in entries(identity):
        if entry.label is not None:
            name = identity.classes[entry.label]
            members.setdefault(name, set()).add((entry.name.removeprefix(name), entry.content))
    return members


def some(names: Sequence[str], separator: str = ', ') -> str:
    """The first few names and the number of the others, as a text."""
    shown = separator.join(names[:SHOWN])
    return shown + (f' and {len(names) - SHOWN} more' if len(names) > SHOWN else '')
