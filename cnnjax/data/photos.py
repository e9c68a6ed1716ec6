"""A data set of 20 photographs that come with two libraries, cut into many classes, or whole.

As in Dosovitskiy et al. 2014, section 2 (https://arxiv.org/abs/1406.6909), a class is a place in a
photograph; its examples are crops around it, with random position, scale and colours. A network
needs many classes to learn rich features.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cnnjax.data.examples import Source
from cnnjax.data.identity import Entry, array_digest
from cnnjax.errors import UserError

NAMES = ('astronaut', 'brick', 'camera', 'cell', 'chelsea', 'clock', 'coffee', 'coins', 'grass',
         'gravel', 'hubble_deep_field', 'immunohistochemistry', 'moon', 'page', 'retina', 'rocket',
         'stereo_motorcycle', 'text',  # the last two are scikit-learn's, the others scikit-image's
         'china', 'flower')
CELL, ROWS = 150, 3  # A cell is about CELL pixels high, but a photograph has at most ROWS rows of
#                      cells, because the small details of the largest photographs are blurred.
HELD_OUT = 1 / 3  # The lowest part of each cell is only for the test.
SMALLEST = 0.3  # The smallest side of a crop, as a share of the cell's height.
BLANK = 12  # A cell whose pixels have a smaller standard deviation is left out, such as clear sky.
EXAMPLES = {'train': 64, 'test': 8}  # The number of examples of each class.
TESTED = ('astronaut', 'chelsea', 'coffee', 'china')  # whole photographs, only for the test


class Cell(NamedTuple):
    """A class: a part of a photograph, uint8 [H, W, 3]."""

    name: str
    pixels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Patches(Sequence):
    """Random square crops of cells, uint8 [side, side, 3]; crop i is always the same."""

    cells: tuple[Cell, ...]
    split: str

    def __len__(self) -> int:
        return EXAMPLES[self.split] * len(self.cells)

    def __getitem__(self, i: Any) -> Any:
        i = range(len(self))[i]  # a range knows -1 and the IndexError
        rng = np.random.default_rng((list(EXAMPLES).index(self.split), i))
        label = i % len(self.cells)
        pixels = self.cells[label].pixels
        height = len(pixels)
        border = height - round(HELD_OUT * height)
        pixels = pixels[:border] if self.split == 'train' else pixels[border:]
        # The side is log-uniform.
        side = round(np.exp(rng.uniform(*np.log((SMALLEST * height, min(pixels.shape[:2]))))))
        top, left = (rng.integers(size - side + 1) for size in pixels.shape[:2])
        crop = pixels[top:top + side, left:left + side]
        return {'image': recolor(crop, rng), 'label': label}

    def listing(self) -> list[Entry]:
        """An Entry for each cell, which determines all of its crops."""
        return [Entry(None, array_digest(cell.pixels), f'{self.split}/{cell.name}')
                for cell in self.cells]


def recolor(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An image, uint8 [H, W, 3], with random changes of brightness, contrast, saturation and colour
    balance. They are small, so that it still pays for features to tell colours apart."""
    image = image / 255
    gray = image.mean(-1, keepdims=True)
    image = gray + rng.uniform(0.6, 1.3) * (image - gray)
    image = image * rng.uniform(0.9, 1.1, 3)
    image = 0.5 + rng.uniform(0.75, 1.25) * (image - 0.5) + rng.uniform(-0.1, 0.1)
    return np.round(255 * image.clip(0, 1)).astype(np.uint8)


def photograph(name: str) -> np.ndarray:
    """The photograph of that name in NAMES, uint8 [H, W, 3]."""
    if name in ('china', 'flower'):
        from sklearn import datasets  # here, because the import takes time
        return datasets.load_sample_image(f'{name}.jpg')
    from skimage import data
    image = getattr(data, name)()
    if name == 'stereo_motorcycle':
        image = image[0]  # the left one
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, -1)


@dataclasses.dataclass(frozen=True)
class Whole(Sequence):
    """Photographs as they are; all have one label."""

    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: Any) -> Any:
        return {'image': photograph(self.names[i]), 'label': 0}


def whole(split: str) -> Source:
    """The photographs as they are, without classes to learn: 16 for the training, four to test."""
    _check(split)
    names = tuple(name for name in NAMES if (name in TESTED) == (split == 'test'))
    return Source(Whole(names), ('photograph',), f'photos, {split}: {len(names)} photographs')


def load(split: str) -> Source:
    """The crops of 20 photographs, 18 of scikit-image and two of scikit-learn, in about 180
    classes.

    Crops of 'train' and 'test' share no pixel: they are cut from the upper two thirds and from the
    lower third of the same cells. Neighbouring cells of a texture (brick, grass, ...) look almost
    the same, so the test error cannot become 0.
    """
    _check(split)
    cells = tuple(cell for name in NAMES for cell in grid(name, photograph(name))
                  if cell.pixels.std() > BLANK)
    return Source(Patches(cells, split), tuple(cell.name for cell in cells))


def _check(split):
    if split not in EXAMPLES:
        raise UserError(f"photos has the splits 'train' and 'test', not '{split}'")


def grid(name: str, image: np.ndarray) -> list[Cell]:
    """The nearly square cells of a photograph, uint8 [H, W, 3]."""
    height, width = image.shape[:2]
    rows = min(max(round(height / CELL), 1), ROWS)
    columns = round(width * rows / height)
    return [Cell(f'{name}_{i}_{j}', cell)
            for i, row in enumerate(np.array_split(image, rows), 1)
            for j, cell in enumerate(np.array_split(row, columns, axis=1), 1)]
