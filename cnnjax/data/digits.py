"""Scans of handwritten digits, 8 x 8 gray, which come with scikit-learn.

Alpaydin & Kaynak 1998, https://archive.ics.uci.edu/dataset/80; their authors license them under
CC BY 4.0.
"""

from pathlib import Path

import numpy as np

from cnnjax.data.examples import Source
from cnnjax.errors import UserError

SPLITS = {'train': slice(1347), 'test': slice(1347, None)}  # The places of the 1,797 scans.


def load(split: str) -> Source:
    """1,347 scans in 'train', 450 in 'test', always the same ones, each digit in the same
    proportion.

    digits.npz has them in the order of scikit-learn's stratified split, so that training starts
    without importing scikit-learn.
    """
    if split not in SPLITS:
        raise UserError(f"digits has the splits 'train' and 'test', not '{split}'")
    with np.load(Path(__file__).with_name('digits.npz')) as arrays:
        images, labels = (arrays[name][SPLITS[split]] for name in ('image', 'label'))
    images = np.round(images * (255 / 16)).astype(np.uint8)[..., None]  # levels from 0 to 16
    return Source([{'image': image, 'label': int(label)}
                   for image, label in zip(images, labels, strict=True)], tuple('0123456789'))
