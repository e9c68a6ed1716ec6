"""Classes of pixels and boxes of objects over their picture, in PASCAL VOC's colours."""

import math
import os
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from cnnjax import atomic, fonts
from cnnjax.data import geometry

LEAST = 480  # The longer side, in pixels, below which a picture is enlarged for its boxes.

CAPTIONED = 160  # The same for its caption.


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


def boxes(image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, classes: Sequence[str], *,
          scores: np.ndarray | None = None, ignore: np.ndarray | None = None) -> np.ndarray:
    """A picture, uint8 [H, W, 1 or 3], with boxes of objects and their names: uint8 [H', W', 3].

    Small pictures are enlarged by a whole factor. Class i has the colour i + 1, since no class is a
    background. Names never leave the picture, and hide as little of each other as they can.

    Args:
      boxes: float [M, 4]: left, top, right and bottom in pixels of the image.
      labels: int [M], places in `classes`, the names; -1 is no object.
      scores: float [M], written behind the names. The highest are drawn on top.
      ignore: bool [M], which boxes count neither as right nor as wrong: they have the colour of
        pixels that do not count.
    """
    factor = math.ceil(LEAST / max(image.shape[:2]))
    picture = Image.fromarray(np.broadcast_to(image, (*image.shape[:2], 3)).repeat(
        factor, 0).repeat(factor, 1))
    brush, diagonal = ImageDraw.Draw(picture), math.hypot(*picture.size)
    size = max(15, round(diagonal / 32))
    order = np.flatnonzero(labels >= 0)
    if scores is not None:
        order = order[np.argsort(scores[order], kind='stable')]
    palette, drawn = colors().tolist(), []
    for i in order.tolist():
        counts = ignore is None or not ignore[i]
        color = tuple(palette[1 + labels[i] % (geometry.IGNORE - 1) if counts else geometry.IGNORE])
        edge = np.round(factor * boxes[i]).clip(0, 2 * picture.size).astype(int).tolist()
        text, font = _fitting(classes[labels[i]], '' if scores is None else f' {scores[i]:.2f}',
                              size, picture.size[0])
        drawn.append((text, font, edge, color))
        _frame(brush, edge, color, max(2, round(diagonal / 180)))
    taken = []
    for text, font, edge, color in reversed(drawn):
        extent = math.ceil(font.getlength(text) + size / 2), round(1.25 * size)
        left, top = _free(edge, extent, picture.size, taken)
        right, bottom = left + extent[0], top + extent[1]
        taken.append((left, top, right, bottom))
        brush.rectangle((left, top, right - 1, bottom - 1), fill=color)
        light = np.dot(color, (0.299, 0.587, 0.114)) > 150
        brush.text(((left + right) / 2, (top + bottom) / 2), text, 'black' if light else 'white',
                   font, 'mm')
    return np.asarray(picture)


def captioned(image: np.ndarray, text: str) -> np.ndarray:
    """A picture, uint8 [H, W, 1 or 3], with a line of text below it, cut if it is too long: uint8
    [H', W', 3]. Small pictures are enlarged by a whole factor."""
    factor = math.ceil(CAPTIONED / max(image.shape[:2]))
    picture = np.broadcast_to(image, (*image.shape[:2], 3)).repeat(factor, 0).repeat(factor, 1)
    return np.concatenate([picture, _line(text, picture.shape[1], picture.shape[1] // 12)])


def entitled(picture: np.ndarray, title: str) -> np.ndarray:
    """A picture, uint8 [H, W, 3], with a line of text above it, cut if it is too long."""
    return np.concatenate([_line(title, picture.shape[1]), picture])


def _line(text: str, width: int, size: int = 0) -> np.ndarray:
    """A text on white, uint8 [H, width, 3], in letters of that size, or the smallest ones."""
    text, font = _fitting(text, '', max(13, size), width)
    canvas = Image.new('RGB', (width, math.ceil(1.5 * font.size)), 'white')
    ImageDraw.Draw(canvas).text((width / 2, 0.7 * font.size), text, 'black', font, 'mm')
    return np.asarray(canvas)


def _frame(brush, edge, color, width):
    """Draws a box with lines of that width inside its edge, and white ones around them, which show
    dark colours on a dark picture."""
    left, top, right, bottom = edge
    right, bottom = max(left, right - 1), max(top, bottom - 1)
    brush.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline='white', width=width + 2)
    brush.rectangle((left, top, right, bottom), outline=color, width=width)


def _fitting(name: str, end: str, size: int, width: float) -> tuple[str, ImageFont.FreeTypeFont]:
    """The text name + end in one line, with the name cut until the text is not wider than a
    picture, and its font of that size. What the font lacks is spelled out."""
    file = fonts.file(name)
    font = ImageFont.truetype(file, size)
    name = fonts.spelled_out(' '.join(name.splitlines()), file)
    text = name + end
    while name and font.getlength(text) + font.size / 2 > width:
        name = name[:-1]
        text = f'{name}…{end}'
    return text, font


def _free(edge, extent, size, taken):
    """(left, top) of a text of that extent, (width, height), beside a box: where it hides the least
    of the places that are taken, and then where the picture's border moves it the least."""
    left, top, right, bottom = edge
    width, height = extent
    wanted = [(x, y) for y in (top - height, bottom, top, bottom - height)
              for x in (left, right - width)]
    places = [(max(0, min(x, size[0] - width)), max(0, min(y, size[1] - height)))
              for x, y in wanted]

    def hidden(x, y):
        return sum(max(0, min(x + width, other[2]) - max(x, other[0]))
                   * max(0, min(y + height, other[3]) - max(y, other[1])) for other in taken)

    return min(zip(places, wanted, strict=True),
               key=lambda pair: (hidden(*pair[0]), math.dist(*pair)))[0]


def write(path: str | os.PathLike[str], image: np.ndarray) -> None:
    """Writes a PNG file of a picture, uint8 [H, W, 3], or of classes, uint8 [H, W]. Viewers show
    the colours of the classes, and `np.asarray(PIL.Image.open(path))` has their numbers."""
    picture = Image.fromarray(image)
    if image.ndim == 2:
        picture.putpalette(colors().tobytes())
    with atomic.replacing(path) as unfinished:
        picture.save(unfinished, 'PNG')
