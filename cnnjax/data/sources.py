"""Where labelled images come from: every source is random access to single examples."""

from collections.abc import Sequence
from typing import NamedTuple


class Source(NamedTuple):
    """Labelled images by random access."""

    examples: Sequence  # examples[i] -> {'image': uint8 [H, W, C], 'label': int}; sizes may differ
    classes: tuple[str, ...]  # the names of the labels 0, 1, ...
