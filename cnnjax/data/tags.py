"""Examples with 'tags', uint8 [classes]: 1 for each class that the image shows, which may be none
or many."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from cnnjax.data.examples import Files, counted, names
from cnnjax.data.identity import Entry, array_digest, file_sizes


@dataclasses.dataclass(frozen=True)
class TaggedFiles(Files):
    """Image files whose `labels` are tags, uint8 [N, classes]."""

    labels: Any

    def __getitem__(self, i: Any) -> Any:
        return {'image': self.read(self.paths[i]), 'tags': self.tags[i]}

    @property
    def tags(self) -> np.ndarray:
        return self.labels

    def listing(self) -> list[Entry]:
        """An Entry for each file, with a checksum of its tags."""
        sizes = file_sizes(self.paths).tolist()
        return [Entry(None, f'{size} + {array_digest(tags)}', name)
                for name, size, tags in zip(self.names, sizes, self.labels, strict=True)]


@dataclasses.dataclass(frozen=True)
class OfBoxes(Sequence):
    """Examples with boxes as examples with tags: the classes of the objects that count."""

    examples: Sequence
    classes: int

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, i: Any) -> Any:
        example = self.examples[i]
        labels = np.asarray(example['labels'])
        counts = (labels >= 0) & ~np.asarray(example.get('ignore', False))
        tags = np.zeros(self.classes, np.uint8)
        tags[labels[counts]] = 1
        return {'image': example['image'], 'tags': tags}

    @property
    def undecoded(self) -> 'OfBoxes':
        return dataclasses.replace(
            self, examples=getattr(self.examples, 'undecoded', self.examples))

    @property
    def names(self) -> Sequence[str] | None:
        return names(self.examples)

    @property
    def listing(self) -> Any:
        """The same as that of the examples."""
        return getattr(self.examples, 'listing', None)


def described(where: str, tags: np.ndarray, classes: Sequence[str], kind: str = 'image') -> str:
    """A text such as 'photos.csv, train: 9 images of 2 classes (cat 5, dog 6), 2 of them without
    any', of tags [N, classes]; for `kind` see examples.counted."""
    numbers = tags.sum(0, dtype=int).tolist()
    seen = {name: count for name, count in zip(classes, numbers, strict=True) if count}
    none = int((tags.sum(1) == 0).sum())
    return counted(where, len(tags), len(seen), seen, kind) + (
        f', {none:,} of them without any' * (none > 0))
