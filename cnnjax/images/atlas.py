"""What a layer makes of a photograph and of a whole data set, as images in a grid.

    found = of_set(network, 'relu4_2', stream, side=12)
    images = maximized(network, 'relu4_2', found.directions)
    picture = sheet(images, found.places, found.counts, (12, 12))
    found = of_image(network, 'relu4_2', image, 12)
    picture = sheet(maximized(network, 'relu4_2', found.vectors), *found[1:])

An activation grid has the image of the activation vector at each place of a photograph (Olah et al.
2018, "The Building Blocks of Interpretability", https://distill.pub/2018/building-blocks). An
activation atlas has those of averages over a data set: vectors that are similar are near each other
in the plane, and those in a cell of it are averaged (Carter et al. 2019,
https://distill.pub/2019/activation-atlas).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict
from numpy.typing import ArrayLike

from cnnjax import data, embedding, features
from cnnjax.errors import UserError
from cnnjax.images import objectives, units
from cnnjax.images.directions import COSINE_POWER, maximize
from cnnjax.images.pictures import resize
from cnnjax.trained import Trained

SIDE = 48  # pixels of a cell's image, or as many as the network needs
LEAST = 0.4  # The side of the smallest tile, as a share of its cell.
RIDGE = 0.3  # Share of the mean variance, added to a covariance that few images know badly.
OUTSIDE = 0.5  # The percentage of the points beyond each side of an atlas; they count in its rim.
WHITE = 1.0  # the colour between the tiles


class Grid(NamedTuple):
    """The activation vectors of an image, row by row."""

    vectors: np.ndarray  # float32 [N, C]; where the layer has more positions, means of neighbours
    places: np.ndarray  # int [N, 2], row and column
    lengths: np.ndarray  # float32 [N], those of the vectors
    shape: tuple[int, ...]  # (rows, columns)


class Atlas(NamedTuple):
    """The cells of an atlas that have activations, row by row; the first row is the highest."""

    places: np.ndarray  # int [N, 2], row and column
    vectors: np.ndarray  # float32 [N, C], the mean activation
    directions: np.ndarray  # float32 [N, C], `whitened`: what to maximize
    counts: np.ndarray  # int [N], how many activations it is of
    classes: np.ndarray | None  # int [N], the likeliest class of the images, by the network


def of_image(network: Trained, layer: str, image: np.ndarray, most: int) -> Grid:
    """The `Grid` of an image [H, W, C] in [0, 1], with at most `most` rows and columns.

    Raises:
      UserError: there is no such layer, or it has no positions.
    """
    import skimage.transform  # here, because the import takes time

    taps = jax.jit(network.taps)(image[None])
    objectives.missing([layer], taps)
    maps = np.asarray(taps[layer][0])
    if maps.ndim != 3:
        raise UserError(f"'{layer}' has no positions: a grid takes a layer of maps")
    share = min(1, most / max(maps.shape[:2]))
    shape = tuple(max(round(side * share), 1) for side in maps.shape[:2])
    vectors = np.float32(skimage.transform.resize_local_mean(maps, shape, channel_axis=-1))
    vectors = vectors.reshape(-1, maps.shape[-1])
    return Grid(vectors, np.indices(shape).reshape(2, -1).T,
                np.linalg.norm(vectors, axis=-1), shape)


def of_set(network: Trained, layer: str, stream: data.Stream, *, side: int,
           perplexity: float = 30.0, seed: int = 0, batch_size: int = 64,
           devices: int = 1) -> Atlas:
    """The `Atlas` of a data set in side x side cells: of each image, the activation at a random
    position, placed by t-SNE.

    Args:
      perplexity: of t-SNE; at most a third of the images.
      batch_size, devices: see features.extractor.

    Raises:
      UserError: there is no such layer, or its activations do not vary.
    """
    shapes = network.tap_shapes()
    objectives.missing([layer], shapes)
    entries = {layer: (layer, ())}
    if network.task not in ('detect', 'segment'):
        entries['scores'] = (list(shapes)[-1], ())
    config = ConfigDict({'pool': False, 'devices': devices, 'batch_size': batch_size})
    found = features.extractor(network, entries, config)(stream, 'atlas')
    codes = found[layer].reshape(len(stream), -1, shapes[layer][-1])
    codes = codes[np.arange(len(codes)), np.random.default_rng(seed).integers(
        codes.shape[1], size=len(codes))]
    if not np.ptp(codes, 0).any():
        raise UserError(f"'{layer}' is the same for every image: it has no atlas; take another "
                        'layer, or atlas=0')
    points = embedding.reduce(codes, perplexity=min(perplexity, len(codes) / 3), seed=seed).tsne
    probabilities = np.asarray(jax.nn.softmax(found['scores'])) if 'scores' in found else None
    return averaged(codes, cells(points, side), probabilities)


def cells(points: ArrayLike, side: int) -> np.ndarray:
    """[N, 2], the (row, column) among side x side cells of points [N, 2]; the second coordinate
    points up."""
    points = np.asarray(points)
    low, high = np.percentile(points, (OUTSIDE, 100 - OUTSIDE), 0)
    share = (points - low) / np.maximum(high - low, 1e-12)
    across, up = np.clip((side * share).astype(int), 0, side - 1).T
    return np.stack([side - 1 - up, across], 1)


def averaged(codes: np.ndarray, places: np.ndarray,
             probabilities: np.ndarray | None = None) -> Atlas:
    """The `Atlas` of codes [N, C] in these cells [N, 2], and of the probabilities [N, classes] of
    their images."""
    kept, number, counts = np.unique(places, axis=0, return_inverse=True, return_counts=True)
    member = (number.ravel() == np.arange(len(kept))[:, None]) / counts[:, None]
    classes = None if probabilities is None else (member @ probabilities).argmax(-1)
    vectors = (member @ codes).astype(np.float32)
    return Atlas(kept, vectors, whitened(vectors, codes), counts, classes)


def whitened(vectors: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Vectors [N, C] less the mean of the codes [M, C], by the inverse of their covariance: what is
    special about each, where raw means all point to what the channels have in common. (lucid's
    recipe for atlases; its covariance is not centred.) A ridge bounds what no code varies in."""
    center = codes.mean(0)
    covariance = np.cov(codes.T, bias=True).reshape(len(center), -1)
    ridge = RIDGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    solved = np.linalg.solve(covariance + ridge, (vectors - center).T)
    return solved.T.astype(np.float32)


def maximized(network: Trained, layer: str, directions: np.ndarray,
              settings: units.Settings = units.DEFAULT,
              progress: Callable[[int], object] | None = None) -> np.ndarray:
    """The images [N, S, S, C] of directions [N, C] of a layer, for the cells of a grid or an atlas:
    `directions.maximize` of small images, which take half of the steps."""
    settings = settings._replace(steps=max(settings.steps // 2, 1))
    images, _ = maximize(network, layer, directions, settings, cosine_power=COSINE_POWER,
                         size=units.image_size(network, layer, SIDE), progress=progress)
    return images


def sheet(images: np.ndarray, places: ArrayLike, weights: ArrayLike,
          shape: Sequence[int]) -> np.ndarray:
    """One picture [2 * rows * H, 2 * columns * W, C] of images [N, H, W, C] at their places (row,
    column) [N, 2] in a grid of that shape (rows, columns). The area of an image is the share of its
    weight, of `weights` [N], in the largest, but its side at least LEAST of the cell's. Cells are
    twice as long as images, so that small ones keep their pixels."""
    height, width, channels = 2 * images.shape[1], 2 * images.shape[2], images.shape[3]
    canvas = np.full((shape[0] * height, shape[1] * width, channels), WHITE, np.float32)
    weights = np.asarray(weights, float)
    sides = np.sqrt(weights / max(weights.max(), 1e-12)).clip(LEAST)
    for (row, column), image, share in zip(np.asarray(places), images, np.ceil(8 * sides) / 8,
                                           strict=True):
        own = [max(round(share * side), 1) for side in (height, width)]
        top, left = (place * side + (side - part) // 2 for place, side, part in
                     zip((row, column), (height, width), own, strict=True))
        canvas[top:top + own[0], left:left + own[1]] = resize(image, own)
    return canvas
