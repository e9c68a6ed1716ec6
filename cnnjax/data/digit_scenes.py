"""Scenes of up to three handwritten digits on a photograph, with the mask and the box of each.

The digits are the scans of digits.py, the photographs those of photos.py, and both are split:
no scan and no photograph of the test is ever seen in training. The scenes are composed here; the
masks and boxes are the ink of the scans, so they are exact.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from cnnjax.data import digits, images, photos
from cnnjax.data.examples import Source
from cnnjax.data.identity import Entry, array_digest
from cnnjax.errors import UserError

SIDE = 64  # the side of a scene in pixels
DIGITS = 12, 32  # the smallest and the largest side of a scan in a scene, in pixels
MOST = 3  # the most digits in a scene
IN_BOX, IN_MASK = 0.3, 0.5  # Ink above these is in a digit's box, and in its mask.
CONTRAST = 90  # the least distance of a digit's colour from that of its background, in levels
OVERLAP = 0.1  # the largest part of the smaller of two boxes that the other may cover
TRIALS = 20  # A digit that found no free place in so many trials is left out.
EXAMPLES = {'train': 4000, 'test': 500}
TEXT = ('page', 'text')  # These photographs show printed text, whose digits would have no mask.


@dataclasses.dataclass(frozen=True)
class Scenes(Sequence):
    """Scenes that are composed when they are asked for; scene i is always the same."""

    split: str
    targets: tuple[str, ...]  # Names among 'mask', 'boxes' and 'labels'.
    scans: Sequence[dict[str, Any]]  # examples of digits.py
    photographs: dict[str, np.ndarray]  # {name: uint8 [H, W, 3]}

    def __len__(self) -> int:
        return EXAMPLES[self.split]

    def __getitem__(self, i: Any) -> Any:
        i = range(len(self))[i]  # a range knows -1 and the IndexError
        rng = np.random.default_rng((list(EXAMPLES).index(self.split), i))
        photograph = self.photographs[rng.choice(list(self.photographs))]
        scene = background(photograph, rng).astype(np.float32)
        mask = np.zeros((SIDE, SIDE), np.uint8)
        boxes = np.zeros((MOST, 4), np.float32)
        labels = np.full(MOST, -1, np.int32)
        count = 0
        for _ in range(rng.integers(1, MOST + 1)):
            scan = self.scans[int(rng.integers(len(self.scans)))]
            if placed := place(scan['image'], boxes[:count], rng):
                ink, boxes[count] = placed
                labels[count] = scan['label']
                count += 1
                draw(scene, ink, rng)
                mask[ink > IN_MASK] = 1
        found = {'mask': mask, 'boxes': boxes, 'labels': labels}
        return {'image': np.round(scene).astype(np.uint8),
                **{name: found[name] for name in self.targets}}

    def listing(self) -> list[Entry]:
        """An Entry for each photograph and one for all scans, which determine all scenes."""
        scans = np.stack([scan['image'] for scan in self.scans])
        return [Entry(None, array_digest(pixels), f'{self.split}/{name}')
                for name, pixels in {**self.photographs, 'digits': scans}.items()]


def background(photograph: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random square of a photograph, scaled to uint8 [SIDE, SIDE, 3]; its side is log-uniform
    between SIDE and the photograph's own."""
    height, width, _ = photograph.shape
    side = round(np.exp(rng.uniform(*np.log((SIDE, min(height, width))))))
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    return images.cut(photograph[top:top + side, left:left + side], (0, 0, side, side), SIDE)


def place(scan: np.ndarray, others: np.ndarray,
          rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
    """The ink of a scan at a random size and place in a scene, from 0 to 1, and its box.

    Args:
      scan: uint8 [8, 8, 1].
      others: the boxes [M, 4] that it may hardly overlap.

    Returns:
      (float32 [SIDE, SIDE], float32 [4]); None if no place is free.
    """
    for _ in range(TRIALS):
        side = int(rng.integers(DIGITS[0], DIGITS[1] + 1))
        left, top = rng.integers(SIDE - side + 1, size=2)
        scaled = Image.fromarray(scan[..., 0] / np.float32(255)).resize(
            (side, side), Image.Resampling.BICUBIC)
        ink = np.zeros((SIDE, SIDE), np.float32)
        ink[top:top + side, left:left + side] = np.asarray(scaled).clip(0, 1)
        rows, columns = np.nonzero(ink > IN_BOX)
        box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float32)
        if (covered(box, others) <= OVERLAP).all():
            return ink, box
    return None


def covered(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The area that a box [4] shares with each of the others [M, 4], as a share of the smaller of
    the two."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    areas = [np.prod(each[..., 2:] - each[..., :2], -1) for each in (box, others)]
    return np.prod((high - low).clip(0), -1) / np.minimum(*areas)


def draw(scene: np.ndarray, ink: np.ndarray, rng: np.random.Generator) -> None:
    """Paints ink [SIDE, SIDE] on a scene [SIDE, SIDE, 3], in a random colour that differs from the
    mean of what is under it."""
    mean = scene[ink > IN_BOX].mean(0)
    while True:
        colour = rng.integers(256, size=3).astype(np.float32)
        if np.linalg.norm(colour - mean) >= CONTRAST:
            break
    scene += ink[..., None] * (colour - scene)


def load(split: str, target: str) -> Source:
    """4,000 scenes in 'train' and 500 in 'test', uint8 [64, 64, 3].

    With the target 'mask', 1 is a digit and 0 none. With 'boxes', each scene has 'boxes' [3, 4]
    and 'labels' [3], the digits; see geometry.py.
    """
    if split not in EXAMPLES:
        raise UserError(f"digit_scenes has the splits 'train' and 'test', not '{split}'")
    names = sorted(set(photos.NAMES) - set(TEXT))
    tested = names[2::3]  # every third in the order of the alphabet
    names = tested if split == 'test' else [name for name in names if name not in tested]
    scans = digits.load(split)
    targets, classes = {'mask': (('mask',), ('background', 'digit')),
                        'boxes': (('boxes', 'labels'), scans.classes)}[target]
    photographs = {name: photos.photograph(name) for name in names}
    return Source(Scenes(split, targets, scans.examples, photographs), classes)
