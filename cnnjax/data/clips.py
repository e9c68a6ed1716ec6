"""Clips of windows that move over photographs: the class is the direction of the motion.

The photographs are those of photos.py, which come with two libraries, in gray and smaller. A third
of them is only for the test. What moves is real; the motion is not: it is a whole number of pixels
from frame to frame, one or two, up, down or not, and left, right or not. The middle frame lies
anywhere with equal chances, whatever the direction, so that no single frame tells it.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from cnnjax.data.examples import Source, counted
from cnnjax.data.identity import Entry, array_digest
from cnnjax.data.photos import NAMES, photograph
from cnnjax.errors import UserError

FRAMES, SIDE = 5, 16  # [FRAMES, SIDE, SIDE, 1] is the shape of a clip
HEIGHT = 128  # The shorter side of a photograph in pixels.
FASTEST = 2  # The most pixels from frame to frame, down and across.
BLANK = 12  # In a window whose middle frame has a smaller standard deviation little moves.
EXAMPLES = {'train': 2048, 'test': 512}
HELD_OUT = NAMES[2::3]  # The photographs of the test.
DOWN, ACROSS = ('up', '', 'down'), ('left', '', 'right')  # The content moves so.
DIRECTIONS = [(down, across) for down, across in itertools.product((-1, 0, 1), repeat=2)
              if down or across]
CLASSES = tuple(' '.join(filter(None, (DOWN[down + 1], ACROSS[across + 1])))
                for down, across in DIRECTIONS)


@dataclasses.dataclass(frozen=True)
class Clips(Sequence):
    """Clips, uint8 [FRAMES, SIDE, SIDE, 1], of which clip i is always the same; with `still` only
    the middle frame of each, an image."""

    photographs: tuple[np.ndarray, ...]
    split: str
    still: bool = False

    def __len__(self) -> int:
        return EXAMPLES[self.split]

    def __getitem__(self, i: Any) -> Any:
        i = range(len(self))[i]  # a range knows -1 and the IndexError
        rng, label = np.random.default_rng((list(EXAMPLES).index(self.split), i)), i % len(CLASSES)
        # The window moves against its content.
        step = -rng.integers(1, FASTEST + 1) * np.array(DIRECTIONS[label])
        reach = FASTEST * (FRAMES // 2)
        while True:
            photo = self.photographs[rng.integers(len(self.photographs))]
            middle = [rng.integers(reach, n - SIDE - reach + 1) for n in photo.shape]
            corners = middle + np.arange(-(FRAMES // 2), FRAMES // 2 + 1)[:, None] * step
            frames = np.stack([photo[top:top + SIDE, left:left + SIDE] for top, left in corners])
            if frames[FRAMES // 2].std() >= BLANK:
                frames = frames[..., None]
                return {'image': frames[FRAMES // 2] if self.still else frames, 'label': label}

    def listing(self) -> list[Entry]:
        """An Entry for each photograph; they determine all clips."""
        return [Entry(None, array_digest(photo), f'{self.split}/{i}')
                for i, photo in enumerate(self.photographs)]


def load(split: str, still: bool = False) -> Source:
    """The clips of a split or, with `still`, their middle frames."""
    if split not in EXAMPLES:
        raise UserError(f"clips has the splits 'train' and 'test', not '{split}'")
    names = [name for name in NAMES if (name in HELD_OUT) == (split == 'test')]
    clips = Clips(tuple(map(gray, names)), split, still)
    return Source(clips, CLASSES, counted(
        f'{"frames" if still else "clips"} of {len(names)} photographs, {split}', len(clips),
        len(CLASSES), kind='image' if still else 'volume'))


def gray(name: str) -> np.ndarray:
    """The photograph of that name, gray, its shorter side HEIGHT pixels: uint8 [H, W]."""
    picture = Image.fromarray(photograph(name)).convert('L')
    scale = HEIGHT / min(picture.size)
    return np.asarray(picture.resize([round(scale * side) for side in picture.size],
                                     Image.Resampling.BOX))
