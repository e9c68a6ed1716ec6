"""How far a map of where a network sees a class is true to the network: the deletion and insertion
scores of RISE (Petsiuk et al. 2018, section 4.3 and algorithm 1, https://arxiv.org/abs/1806.07421).

    deletion(network, images, classes, maps)  # [N], lower is better

A map that puts the pixels which the network uses first loses the class soon when these are deleted,
and finds it soon when they are inserted. Pixels that a map finds equally important come in a random
order. The images between are unlike those of the training: scattered pixels may destroy a class by
their noise alone. So compare scores with those of a random map, and fine maps with fine ones.
"""

import numpy as np
from jax.typing import ArrayLike
from scipy import ndimage

from cnnjax.errors import UserError
from cnnjax.images.class_scores import asked, behind
from cnnjax.trained import Trained


def deletion(network: Trained, images: ArrayLike, classes: ArrayLike, maps: ArrayLike, *,
             steps: int = 24, fill: ArrayLike | None = None) -> np.ndarray:
    """[N], the area under the class's probability against the share of the pixels that is deleted,
    the most important first.

    Args:
      maps: [N, H, W], larger where more important.
      steps: how many times pixels are deleted, equally many each time.
      fill: colour of deleted pixels, a number or [C]; None: the one that the network's
        normalization makes 0, as in the paper.
    """
    return _area(network, asked(network, images, classes), maps, steps,
                 network.normalize.color if fill is None else fill, inserted=False)


def insertion(network: Trained, images: ArrayLike, classes: ArrayLike, maps: ArrayLike, *,
              steps: int = 24, blur: float = 0.2) -> np.ndarray:
    """[N], the area under the class's probability against the share of the pixels that is inserted
    into the blurred image, the most important first; higher is better.

    Args:
      maps, steps: as for `deletion`.
      blur: the standard deviation of the Gaussian, in shorter sides of the image; large enough
        that the blurred image has lost the class.
    """
    question = asked(network, images, classes)
    if not blur > 0:
        raise UserError(f'blur={blur}: take more than 0')
    deviation = blur * min(question.images.shape[1:3])
    blurred = ndimage.gaussian_filter(question.images, (0, deviation, deviation, 0), mode='nearest')
    return _area(network, question, maps, steps, blurred, inserted=True)


def _area(network, question, maps, steps, others, inserted):
    maps = np.asarray(maps)
    if maps.shape != question.images.shape[:3] or not np.isfinite(maps).all():
        raise UserError(f'maps={list(maps.shape)}: give a finite map '
                        f'{list(question.images.shape[:3])}, one number for each pixel')
    if steps < 1:
        raise UserError(f'steps={steps}: take 1 or more')
    count = maps[0].size
    by_chance = np.random.default_rng(0).random(count)
    ranks = np.empty((len(maps), count), int)  # 0 is the most important pixel
    for rank, values in zip(ranks, maps.reshape(len(maps), -1), strict=True):
        rank[np.lexsort((by_chance, -values))] = np.arange(count)

    def masks(i, numbers):
        first = ranks[i] < np.round(numbers / steps * count)[:, None]
        return (first if inserted else ~first).reshape(-1, *maps.shape[1:])

    found = np.empty((len(maps), steps + 1))
    for i, numbers, _, scores in behind(network, question, steps + 1, masks, others):
        found[i, numbers] = scores
    return np.trapezoid(found, dx=1 / steps)
