"""A photograph of 24 ancient coins, which comes with scikit-image, with a mask of the coins.

Nobody drew the mask: it is computed by the watershed, as in an example of scikit-image, and so it
is wrong by a pixel here and there.
https://scikit-image.org/docs/stable/auto_examples/applications/plot_coins_segmentation.html
"""

import numpy as np

from cnnjax.data import geometry
from cnnjax.data.examples import Source, from_arrays, spread
from cnnjax.errors import UserError

SIDE = 96  # the side of a window in pixels
WINDOWS = {'train': (14, 11), 'test': (4, 2)}  # rows and columns of windows
LEAST = 200  # A region of fewer pixels is no coin.


def load(split: str) -> Source:
    """Windows of the photograph, uint8 [96, 96, 1]: 'train' has 154 of its right two thirds, about
    16 pixels apart, 'test' 8 of its left third. In the mask 1 is a coin.

    Where windows of the test overlap, each pixel counts in only one of them.
    """
    from skimage import data  # here, because the import takes time

    if split not in WINDOWS:
        raise UserError(f"coins has the splits 'train' and 'test', not '{split}'")
    picture = data.coins()
    third = picture.shape[1] // 3
    part = np.s_[:, third:] if split == 'train' else np.s_[:, :third]
    picture, mask = picture[part], (regions(picture) > 0)[part]
    rows, columns = (windows(size, count)
                     for size, count in zip(picture.shape, WINDOWS[split], strict=True))
    places = [(row, column) for row in rows for column in columns]
    images = np.stack([picture[row][:, column, None] for (row, _), (column, _) in places])
    masks = np.stack([mask[row][:, column] for (row, _), (column, _) in places]).astype(np.uint8)
    if split == 'test':
        counts = np.stack([row[:, None] & column[None] for (_, row), (_, column) in places])
        masks[~counts] = geometry.IGNORE
    return from_arrays(images, ('background', 'coin'), mask=masks)._replace(
        about=f'coins, {split}: {len(images)} images of 2 classes, with masks that are computed '
              '(watershed), not drawn by hand')


def regions(picture: np.ndarray) -> np.ndarray:
    """The number of the coin of each pixel, int [H, W], from 1 to 24; 0 is the background."""
    from scipy import ndimage
    from skimage import filters, measure, segmentation

    markers = np.where(picture < 30, 1, np.where(picture > 150, 2, 0))
    filled = ndimage.binary_fill_holes(
        segmentation.watershed(filters.sobel(picture), markers) == 2)
    labels = measure.label(filled)
    small = np.bincount(labels.ravel()) <= LEAST
    return measure.label(np.where(small[labels], 0, labels) > 0)


def windows(size: int, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The places of each of `count` evenly spread windows along a side of `size` pixels, int
    [SIDE], and whether they count there, bool [SIDE]: of the windows that share a place, the one
    whose middle is nearest."""
    places = spread(size - SIDE + 1, count)[:, None] + np.arange(SIDE)[None]
    middles = places.mean(1)
    owner = np.abs(np.arange(size)[:, None] - middles[None]).argmin(1)
    return [(here, owner[here] == i) for i, here in enumerate(places)]
