"""Outlines of handwritten digits, as sequences [64, 2].

The outline of a scan of digits.py is the longest line of half its brightest level; it is a closed
curve around the ink, which begins at its uppermost point. A step of the sequence has a point's row
and column, in quarters of the scan, from its middle. The lines inside, of 0, 6, 8 and 9, are not
there: the outline tells less than the scan.
"""

import numpy as np

from cnnjax.data import digits
from cnnjax.data.examples import Source, by_class, counted, from_arrays

LENGTH = 64  # How many points a sequence has, at equal distances along the curve.


def load(split: str) -> Source:
    """The outlines of the scans of a split of digits.py."""
    scans = digits.load(split)
    sequences = np.stack([outline(example['image'][..., 0]) for example in scans.examples])
    labels = [example['label'] for example in scans.examples]
    return from_arrays(sequences, scans.classes, label=labels)._replace(about=counted(
        f'digit_outlines, {split}', len(labels), len(scans.classes),
        by_class(labels, scans.classes), 'sequence'))


def outline(scan: np.ndarray) -> np.ndarray:
    """The sequence, float32 [LENGTH, 2], of a scan uint8 [H, W]."""
    from skimage import measure  # here, because the import takes time

    curve = max(measure.find_contours(np.pad(scan / 255, 1), scan.max() / 510), key=len)[:-1]
    curve = np.roll(curve, -np.lexsort(curve.T[::-1])[0], 0)
    closed = np.concatenate([curve, curve[:1]])
    along = np.cumsum([0, *np.linalg.norm(np.diff(closed, axis=0), axis=1)])
    places = np.arange(LENGTH) / LENGTH * along[-1]
    points = np.stack([np.interp(places, along, values) for values in closed.T], 1)
    middle = (np.array(scan.shape) + 1) / 2  # with the border of one pixel
    return ((points - middle) / (np.array(scan.shape) / 4)).astype(np.float32)
