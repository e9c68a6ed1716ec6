"""Classes of pixels in colours, as PASCAL VOC has them, over their picture or as a palette PNG."""

import os

import numpy as np
from PIL import Image
from scipy import ndimage

from cnnjax import atomic
from cnnjax.data import geometry


def colors() -> np.ndarray:
    """PASCAL VOC's colours of the classes 0 to 255, uint8 [256, 3]: 0 is black, 1 (128, 0, 0), and
    255, which stands for no class, (224, 224, 192).

    Three by three, the bits of a class from the lowest on are the bits of its red, green and blue
    from the highest on (VOClabelcolormap.m of the development kit,
    http://host.robots.ox.ac.uk/pascal/VOC/voc2012).
    """
    classes = np.arange(256)[:, None]
    found = np.zeros((256, 3), int)
    for i in range(8):
        found |= (classes >> 3 * i + np.arange(3) & 1) << 7 - i
    return found.astype(np.uint8)


def overlay(image: np.ndarray, labels: np.ndarray, alpha: float = 0.5) -> np.ndarray:
    """A picture, uint8 [H, W, 1 or 3], with the colours of its pixels' classes: uint8 [H, W, 3].

    Class 0, whose colour is black, leaves the picture as it is: it is the background in most sets.
    Its pixels next to another class are white, since the colours of the first classes are dark.
    Ignored pixels are striped, and hide the picture.

    Args:
      labels: uint8 [H, W], the class of each pixel, or geometry.IGNORE.
      alpha: the share of the colours, from 0 to 1.
    """
    painted = np.broadcast_to(image, (*labels.shape, 3)).astype(float)
    palette, shown = colors(), (labels != 0) & (labels != geometry.IGNORE)
    painted[shown] = (1 - alpha) * painted[shown] + alpha * palette[labels[shown]]
    painted[ndimage.binary_dilation(shown) & (labels == 0)] = 255
    rows, columns = np.nonzero(labels == geometry.IGNORE)
    dark = (rows + columns) // 2 % 2 == 1
    painted[rows, columns] = palette[geometry.IGNORE] / np.where(dark, 2, 1)[:, None]
    return np.round(painted).astype(np.uint8)


def write(path: str | os.PathLike[str], image: np.ndarray) -> None:
    """Writes a PNG file of a picture, uint8 [H, W, 3], or of classes, uint8 [H, W]. Viewers show
    the colours of the classes, and `np.asarray(PIL.Image.open(path))` has their numbers."""
    picture = Image.fromarray(image)
    if image.ndim == 2:
        picture.putpalette(colors().tobytes())
    with atomic.replacing(path) as unfinished:
        picture.save(unfinished, 'PNG')
