"""Maps of where a class is seen, from its probability when parts of the image are hidden; see
attribution.py for their arguments."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from cnnjax.errors import UserError
from cnnjax.images.class_scores import asked, behind
from cnnjax.trained import Trained


def occlusion(network: Trained, images: ArrayLike, classes: ArrayLike, *, size: int | None = None,
              stride: int | None = None, fill: ArrayLike = 0.5, chunk: int = 64,
              progress: Callable[[int], object] | None = None) -> np.ndarray:
    """How much the probability of the class falls when a square lies on the pixel: the mean over
    the squares that cover it (Zeiler & Fergus 2013, section 4.2, https://arxiv.org/abs/1311.2901,
    where the probability is drawn at the place of the square).

    Args:
      size: side of the squares, in pixels; None: a quarter of the image.
      stride: pixels between two squares; None: a quarter of their side.
      fill: their colour, a number or [C]; gray, as in the paper.
      chunk: squares at a time.
      progress: called with the number of squares of every chunk that is done (`bar.update`).
    """
    question = asked(network, images, classes)
    sides = question.images.shape[1:3]
    size = max(min(sides) // 4, 1) if size is None else size
    stride = max(size // 4, 1) if stride is None else stride
    if not (1 <= size <= min(sides) and 1 <= stride <= size):
        raise UserError(f'size={size}, stride={stride}: squares of 1 to {min(sides)} pixels, that '
                        'are not farther apart than their side')
    starts = [sorted({*range(0, side - size, stride), side - size}) for side in sides]
    corners = np.stack(np.meshgrid(*starts, indexing='ij'), -1).reshape(-1, 2)

    def outside(_, numbers):
        inside = [(corners[numbers, axis, None] <= np.arange(side))
                  & (np.arange(side) < corners[numbers, axis, None] + size)
                  for axis, side in enumerate(sides)]
        return ~(inside[0][:, :, None] & inside[1][:, None])

    def whole(_, numbers):
        return np.ones((len(numbers), *sides))

    seen = np.concatenate([scores for *_, scores in behind(network, question, 1, whole, fill)])
    covered, count = np.zeros((2, *question.images.shape[:3]), np.float32)
    for i, _, masks, scores in behind(network, question, len(corners), outside, fill, chunk=chunk):
        covered[i] += np.tensordot(scores, 1 - masks, 1)
        count[i] += (1 - masks).sum(0)
        if progress:
            progress(len(scores))
    return seen[:, None, None] - covered / count


def rise(network: Trained, images: ArrayLike, classes: ArrayLike, *, masks: int = 1000,
         cells: int = 7, share: float = 0.5, fill: ArrayLike | None = None, seed: int = 0,
         chunk: int = 64) -> np.ndarray:
    """The mean of the class's probability over the random masks that show the pixel: the sum over
    masks of probability * mask, divided by `masks` * `share` (RISE: Petsiuk et al. 2018, equation 6
    and section 3.2, https://arxiv.org/abs/1806.07421).

    Each mask is a grid of cells that are 1 or 0, one cell larger than the image on each axis,
    enlarged bilinearly and cut at a random place.

    Args:
      masks: how many; the paper takes 4000 to 8000 for images of 224 pixels.
      cells: of the grid, along each side of the image.
      share: the probability p that a cell is 1.
      fill: colour behind the masks, a number or [C]; None: the one that the network's normalization
        makes 0, as in the paper.
      seed: of the masks, which are the same for all images.
      chunk: masks at a time.
    """
    question = asked(network, images, classes)
    sides = question.images.shape[1:3]
    if masks < 1 or cells < 1 or not 0 < share < 1:
        raise UserError(f'masks={masks}, cells={cells}, share={share}: take 1 mask and 1 cell or '
                        'more, and a share between 0 and 1')
    total = np.zeros(question.images.shape[:3], np.float32)
    for i, _, drawn, scores in behind(
            network, question, masks,
            lambda _, numbers: _grids(jax.random.key(seed), numbers, sides, cells, share),
            network.normalize.color if fill is None else fill, chunk=chunk):
        total[i] += np.tensordot(scores, drawn, 1)
    return total / (masks * share)


@functools.partial(jax.jit, static_argnames=('sides', 'cells', 'share'))
def _grids(key, numbers, sides, cells, share):
    """RISE's masks of these numbers, [M, H, W]."""
    steps = [-(-side // cells) for side in sides]  # pixels of a cell

    def mask(number):
        shown, place = jax.random.split(jax.random.fold_in(key, number))
        grid = jax.random.bernoulli(shown, share, (cells + 1, cells + 1)).astype(jnp.float32)
        large = jax.image.resize(grid, [(cells + 1) * step for step in steps], 'linear')
        corner = jax.random.randint(place, (2,), 0, jnp.array(steps))
        return jax.lax.dynamic_slice(large, corner, sides)

    return jax.vmap(mask)(numbers)
