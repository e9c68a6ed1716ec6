"""Maps of scores, boxes of objects, and other styles, for pictures of any size.

    network = trained.load('runs/segment')
    predict.labels(network, 'photo.jpg')  # uint8 [H, W], the class of each pixel
    detector = trained.load('runs/detect')
    predict.detections(detector, 'photo.jpg')  # {'boxes': [D, 4], 'labels': [D], 'scores': [D]}
    painter = trained.load('runs/fast_style')
    predict.stylized(painter, 'photo.jpg')  # float32 [H, W, 3], the picture in another style

A detector sees a picture as in an evaluation. For maps of scores, one that takes only some sizes,
or gives scores only for the middle pixels, gets the picture with a border that mirrors it; a
picture larger than a tile is predicted tile by tile. The tiles overlap by as much as the network
sees around a pixel, so that their scores are those of the whole picture: the overlap-tile strategy
of Ronneberger et al. 2015, figure 2, for any network (https://arxiv.org/abs/1505.04597).
"""

import functools
import itertools
import math
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jax.typing import ArrayLike
from PIL import Image

from cnnjax import data, memory, models, summary
from cnnjax.data import images, ranks
from cnnjax.data.proposals import checked
from cnnjax.errors import UserError
from cnnjax.network import Network
from cnnjax.tasks import detect

TILE = 1024  # The largest side, in pixels, that a network sees at once.
Picture = str | os.PathLike[str] | ArrayLike


def labels(network: Network, picture: Picture, tile: int = TILE) -> np.ndarray:
    """The class with the highest score at each pixel, uint8 [H, W]; arguments as of `scores`."""
    return scores(network, picture, tile).argmax(-1).astype(np.uint8)


def scores(network: Network, picture: Picture, tile: int = TILE) -> np.ndarray:
    """The scores of each pixel of a picture, float32 [H, W, classes], before the softmax.

    If the pictures of the training were scaled to one size, so is this one, without a crop, and the
    scores are scaled back.

    Args:
      picture: a file; or an array [H, W, C], uint8 or floats in [0, 1].
      tile: the largest side, in pixels, that the network sees at once. A network whose every score
        depends on the whole picture sees it whole.

    Raises:
      UserError: the network has no maps of scores; the picture cannot be read, has another number
        of channels, or is too large for the memory.
    """
    if network.task == 'detect':
        raise UserError(f'{network.name or "the network"} was trained to detect: it has no maps of '
                        'scores; take `detections`')
    image = np.asarray(opened(network, picture))
    shape = image.shape[:2]
    memory.check(2 * len(network.classes) * shape[0] * shape[1], memory.HOST,
                 picture=f'{shape[0]} x {shape[1]} pixels')
    scaled = resized(image, scaled_shape(network, shape),
                     network.evaluation.get('interpolation', 'bilinear'))
    return resized(_maps(network, scaled, tile), shape, 'bilinear')


def detections(network: Network, picture: Picture,
               proposals: ArrayLike | None = None) -> dict[str, np.ndarray]:
    """The objects in a picture, by falling score: 'boxes' float32 [D, 4], left, top, right and
    bottom in pixels of the picture; 'labels' int32 [D]; and 'scores' float32 [D], from 0 to 1.

    The network sees the picture as an evaluation shows it: scaled, and cut or bordered. A network
    of two stages also has 'proposals', float32 [P, 4], the boxes that the second stage judged.

    Args:
      picture: a file; or an array [H, W, C], uint8 or floats in [0, 1], which are rounded to uint8.
      proposals: [P, 4], boxes of the picture in which there may be objects, for a network that
        finds none itself.

    Raises:
      UserError: the network finds no boxes; the picture cannot be read, has another number of
        channels, or is too large for the memory.
    """
    if network.task != 'detect':
        raise UserError(f'{network.name or "the network"} was trained to {network.task}: it finds '
                        "no boxes; take one of task='detect'")
    image: Any = opened(network, picture)
    if not isinstance(image, images.Picture):
        image = rounded(image)
    given = {} if proposals is None else {
        'proposals': checked(np.asarray(proposals), 'the array of proposals')}
    example = crops(network).center({'image': image, 'boxes': np.zeros((0, 4), np.float32),
                                     'labels': np.zeros(0, np.int32), **given})
    shape = example['image'].shape
    memory.check(2 * largest(network.net, shape), picture=f'{shape[0]} x {shape[1]} pixels')
    found = jax.device_get(_detected(
        network.net, tuple(network.image_shape), network.variables,
        network.normalize.fitting(shape), {name: value[None] for name, value in example.items()}))
    found = {name: values[0] for name, values in found.items()}
    there = found['labels'] >= 0
    detected = {name: found[name][there] for name in ('boxes', 'labels', 'scores')}
    if 'proposals' in found:
        real = (found['proposals'][:, 2:] > found['proposals'][:, :2]).all(-1)
        detected['proposals'] = found['proposals'][real]
    return detected


def opened(network: Network, picture: Picture) -> images.Picture | np.ndarray:
    """The picture in a file, upright, with the network's channels, RGB or gray; or an array
    [H, W, C].

    Raises:
      UserError: it cannot be read, or the network takes other images.
    """
    if isinstance(picture, (str, os.PathLike)):
        network.of_images(f'the picture {picture}')
        modes = {1: 'L', 3: 'RGB'}
        if (channels := network.image_shape[-1]) not in modes:
            raise UserError(f'the network takes images of {channels} channels, a picture has 1 or '
                            '3')
        return images.Picture(picture, mode=modes[channels])
    if np.ndim(picture) != len(network.image_shape):
        taken = ranks.axes(network.image_shape).removeprefix('N, ')
        raise UserError(f'a picture of shape {list(np.shape(picture))}: the network takes '
                        f'[{taken}]')
    return np.asarray(network.checked(np.asarray(picture)[None])[0])


def stylized(network: Network, picture: Picture) -> np.ndarray:
    """A picture in the style that the network has learned, at its own size, float32 [H, W, C] in
    [0, 1].

    Args:
      picture: a file; or an array [H, W, C], uint8 or floats in [0, 1].

    Raises:
      UserError: the network makes no pictures; the picture cannot be read, has another number of
        channels, or is too large for the memory.
    """
    if network.task != 'stylize':
        raise UserError(f'{network.name or "the network"} was trained to {network.task}: it makes '
                        "no pictures; take one of task='stylize'")
    image = np.asarray(opened(network, picture))
    memory.check(2 * largest(network.net, image.shape),
                 picture=f'{image.shape[0]} x {image.shape[1]} pixels')
    return np.asarray(_apply(network.net, network.variables,
                             network.normalize.fitting(image.shape), image[None])[0])


# What other networks than classifiers give for a picture, by their task.
OTHERS: dict[str, Callable[..., Any]] = {'segment': labels, 'detect': detections,
                                         'stylize': stylized}


def crops(network: Network) -> data.Crops:
    """How an evaluation brings pictures to the images of a network, as far as it is known. Weights
    that do not tell the size classify images of that of `image_shape`."""
    known = {name: value for name, value in network.evaluation.items()
             if name in ('test_shorter_side', 'border', 'interpolation', 'border_mode', 'fit')}
    usual = network.image_shape[0] if network.task not in OTHERS else 0
    return data.Crops(network.evaluation.get('image_size', usual), **known)


def scaled_shape(network: Network, shape: Sequence[int]) -> tuple[int, int]:
    """(height, width) that a picture of this shape is scaled to before the network sees it: that of
    an evaluation before the crop (see data.Crops), or its own if pictures were not scaled."""
    evaluation = network.evaluation
    size = evaluation.get('image_size')  # Published weights may not tell it.
    side = evaluation.get('test_shorter_side') or size
    fit = evaluation.get('fit', 'crop')
    if not side or size == 0 or fit == 'pad':
        return shape[0], shape[1]
    if size and fit == 'stretch':
        return size, size
    if size and fit == 'letterbox':
        return images.letterbox_shape(shape, side, size)
    scale = side / (min(shape[:2]) + 2 * evaluation.get('border', 0))
    return max(round(shape[0] * scale), 1), max(round(shape[1] * scale), 1)


def rounded(image: np.ndarray) -> np.ndarray:
    """A picture as uint8."""
    return image if image.dtype == np.uint8 else np.round(255 * image.clip(0, 1)).astype(np.uint8)


def resized(image: np.ndarray, shape: Sequence[int], interpolation: str) -> np.ndarray:
    """[H, W, C], uint8 or floats, scaled to `shape` by a filter of images.FILTERS."""
    if image.shape[:2] == tuple(shape):
        return image
    height, width = shape
    kind = np.uint8 if image.dtype == np.uint8 else np.float32
    planes = map(Image.fromarray, np.moveaxis(image, -1, 0).astype(kind, 'C'))
    return np.stack([np.asarray(plane.resize((width, height), images.FILTERS[interpolation]))
                     for plane in planes], -1)


class Window(NamedTuple):
    """How a network looks at a square image of `side` pixels. It has scores of all pixels but
    `margin` at each edge. Those at least `context` pixels from the edge of the scores see no
    padding: they are the same in a larger image. They move with the image by steps of `grid`."""

    side: int
    margin: int
    context: int
    grid: int
    numbers: float  # The size of the largest activation, per pixel of the image.


@functools.lru_cache
def window(net: nn.Module, image_shape: tuple[int, int, int], tile: int) -> Window:
    """The Window of a network for the largest side up to `tile` that fits it, or the smallest.

    Args:
      image_shape: [H, W, C] of images that the network takes.

    Raises:
      UserError: the network has no maps of scores.
    """
    def outputs(image):
        return net.init_with_output(jax.random.key(0), image, train=False)[0][0]

    shape = jax.eval_shape(outputs, jax.ShapeDtypeStruct((1, *image_shape), np.float32)).shape
    if len(shape) != 4:
        raise UserError(f'the network has one score per class, {list(shape[1:])}, no maps of '
                        "scores: it cannot tell pixels apart; take one of task='segment'")
    fits = models.fits(net)
    side = next(filter(fits, itertools.chain(range(tile, 0, -1), itertools.count(tile))))
    rows: Any = [row for row in summary.summarize(net, (side, side, image_shape[-1])).rows
                 if row.seen]
    extent = rows[-1].seen[0]
    count = len(extent.low)  # one score where all see the same
    context = side if count == 1 else max((extent.low < 0).sum(), (extent.high >= side).sum())
    return Window(side, (side - rows[-1].shape[0]) // 2, int(context), summary.grid(rows),
                  max(math.prod(row.shape) for row in rows) / side ** 2)


def _tiles(n, own):
    """Where the tiles of an image of n pixels start and stop, and which of its scores are theirs:
    [(start, stop, first, last)]; a tile may have more scores on both sides."""
    step = (own.side - 2 * (own.margin + own.context)) // own.grid * own.grid
    if n <= own.side or step < 1:
        return [(0, n, 0, n - 2 * own.margin)]
    last = -(-(n - own.side) // own.grid) * own.grid
    starts = [*range(0, last, step), last]
    return [(start, min(start + own.side, n), start and start + own.context,
             n - 2 * own.margin if start == last
             else start + own.side - 2 * own.margin - own.context) for start in starts]


@functools.lru_cache
def largest(net: nn.Module, shape: tuple[int, int, int]) -> int:
    """The size of the largest activation of a network for an image [H, W, C]."""
    def taps(image):
        return net.init_with_output(jax.random.key(0), image, train=False)[0][1]

    return max(tap.size for tap in jax.tree.leaves(
        jax.eval_shape(taps, jax.ShapeDtypeStruct((1, *shape), np.float32))))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _detected(net, image_shape, variables, normalize, examples):
    """What an evaluation keeps of examples, and the proposals, all in pixels of the pictures."""
    network, outputs = Network(net, variables, normalize, (), image_shape, None), {}

    def apply(images, **inputs):
        outputs.update(network(images, **inputs))
        return outputs, {}

    _, kept = detect.observe(net, apply, examples)
    return {**kept, **{name: detect.on_the_picture(outputs[name], examples)
                       for name in ('proposals',) if name in outputs}}


@functools.partial(jax.jit, static_argnums=0)
def _apply(net, variables, normalize, images):
    return Network(net, variables, normalize, (), images.shape[1:], None)(images)


def _maps(network, image, tile):
    """The scores [H, W, classes] of an image [H, W, C], as the network sees it."""
    own, fits = window(network.net, network.image_shape, tile), models.fits(network.net)
    sides = [next(filter(fits, itertools.count(side + 2 * own.margin)))
             for side in image.shape[:2]]
    borders = [(own.margin, n - side - own.margin)
               for n, side in zip(sides, image.shape, strict=False)]
    bordered = np.pad(image, (*borders, (0, 0)), 'reflect')
    rows, columns = (_tiles(n, own) for n in sides)
    memory.check(2 * own.numbers * (rows[0][1] - rows[0][0]) * (columns[0][1] - columns[0][0]),
                 picture=f'{image.shape[0]} x {image.shape[1]} pixels')
    normalize = network.normalize.fitting(bordered.shape)
    normalize.check_pointwise('tiles')
    mean = np.broadcast_to(normalize.mean, bordered.shape)
    found = np.empty((*(n - 2 * own.margin for n in sides), len(network.classes)), np.float32)
    for (top, bottom, *height), (left, right, *width) in itertools.product(rows, columns):
        place = np.s_[top:bottom, left:right]
        part = _apply(network.net, network.variables, normalize._replace(mean=mean[place]),
                      bordered[place][None])[0]
        found[slice(*height), slice(*width)] = part[height[0] - top:height[1] - top,
                                                    width[0] - left:width[1] - left]
    return found[:image.shape[0], :image.shape[1]]
