"""Boxes of objects: overlap, encoding, anchors, matching, sampling, non-maximum suppression.

A box is [..., 4]: its left, top, right and bottom sides in pixels from the image's left and upper
border. A box from 2 to 5 is 3 pixels wide: nowhere is there the "+1" of older code. Shapes are
static, so everything works under jit and vmap; fewer results than places leave places over, which
are marked. Boxes of zeros are padding: they overlap nothing.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax

Weights = tuple[float, float, float, float]

# The largest logarithm of how much wider or higher a decoded box is than its anchor, so that the
# exponential of no output is infinite. It is Detectron's and torchvision's.
LARGEST = math.log(1000 / 16)
# IoUs within this share of the largest count as equal to it.
ROUNDING = 1e-6


def area(boxes: jax.Array) -> jax.Array:
    """The areas [...] of boxes [..., 4]; 0 if the right side is left of the left one, or the bottom
    above the top."""
    return _area(*jnp.unstack(boxes, axis=-1))


def _area(left, top, right, bottom):
    return jnp.maximum(right - left, 0) * jnp.maximum(bottom - top, 0)


def iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Intersection over union of all pairs of boxes of a [..., M, 4] and b [..., N, 4]:
    [..., M, N]. It is 0 if neither has an area."""
    return _iou(*_pairs(a, b))


def intersection(a: jax.Array, b: jax.Array) -> jax.Array:
    """The common areas of all pairs of boxes of a [..., M, 4] and b [..., N, 4]: [..., M, N]."""
    return _common(*_pairs(a, b))


def _pairs(a, b):
    """The four sides of each, so that they broadcast."""
    return jnp.unstack(a[..., :, None, :], axis=-1), jnp.unstack(b[..., None, :, :], axis=-1)


def _common(a, b):
    nearer = jnp.maximum, jnp.maximum, jnp.minimum, jnp.minimum
    return _area(*(choose(*sides) for choose, *sides in zip(nearer, a, b, strict=True)))


def _iou(a, b):
    common = _common(a, b)
    union = _area(*a) + _area(*b) - common
    return common / jnp.maximum(union, jnp.finfo(union.dtype).tiny)


def _centred(boxes):
    """The centre x, y and the width and height of boxes."""
    left, top, right, bottom = jnp.unstack(boxes, axis=-1)
    width, height = right - left, bottom - top
    return left + 0.5 * width, top + 0.5 * height, width, height


def encode(boxes: jax.Array, anchors: jax.Array, weights: Weights = (1., 1., 1., 1.)) -> jax.Array:
    """The deltas [..., 4] that `decode` turns into the boxes [..., 4], from anchors [..., 4].

    t_x = (x - x_a) / w_a, t_y likewise, t_w = log(w / w_a), t_h likewise, times the weights; x and
    y are of the centre. Girshick et al. 2014, appendix C, https://arxiv.org/abs/1311.2524. Of a box
    or an anchor without area, as padding is, they are finite and mean nothing.
    """
    x, y, width, height = _centred(boxes)
    anchor_x, anchor_y, *sides = _centred(anchors)
    # Padding is replaced before the quotient and the logarithm, whose gradients would be infinite.
    wide, high = (jnp.where(side > 0, side, 1) for side in sides)
    width, height = (jnp.where(side > 0, side, whole)
                     for side, whole in ((width, wide), (height, high)))
    return jnp.stack([weights[0] * (x - anchor_x) / wide, weights[1] * (y - anchor_y) / high,
                      weights[2] * jnp.log(width / wide), weights[3] * jnp.log(height / high)], -1)


def decode(deltas: jax.Array, anchors: jax.Array, weights: Weights = (1., 1., 1., 1.),
           largest: float = LARGEST) -> jax.Array:
    """The boxes [..., 4] of deltas [..., 4] from anchors [..., 4]; see `encode`. No box is more
    than exp(`largest`) times as wide or high as its anchor."""
    x, y, width, height = _centred(anchors)
    t_x, t_y, t_w, t_h = (delta / weight for delta, weight in zip(
        jnp.unstack(deltas, axis=-1), weights, strict=True))
    x, y = x + t_x * width, y + t_y * height
    # Not jnp.minimum, whose gradient asks whether two computed values are equal.
    half_width, half_height = (0.5 * jnp.exp(jnp.where(t > largest, largest, t)) * side
                               for t, side in ((t_w, width), (t_h, height)))
    return jnp.stack([x - half_width, y - half_height, x + half_width, y + half_height], -1)


def clip(boxes: jax.Array, frame: jax.Array) -> jax.Array:
    """The parts of boxes [..., 4] within a frame [..., 4], itself a box: one for all of them, or
    one for all that have the same first indices."""
    frame = jnp.expand_dims(frame, range(frame.ndim - 1, boxes.ndim - 1))
    low, high = (jnp.concatenate([sides, sides], -1) for sides in (frame[..., :2], frame[..., 2:]))
    return jnp.clip(boxes, low, high)


def anchors(shapes: jax.Array, grid: tuple[int, int], stride: tuple[float, float]) -> jax.Array:
    """The anchors of a map: [rows * columns * A, 4], of place (y, x) and shape a in row
    (y * columns + x) * A + a.

    Args:
      shapes: [A, 4], the boxes of the map's first place.
      grid: the rows and columns of the map.
      stride: the pixels from one row to the next, and from one column to the next.
    """
    y, x = jnp.meshgrid(*(step * jnp.arange(count, dtype=jnp.float32)
                          for step, count in zip(stride, grid, strict=True)), indexing='ij')
    shifts = jnp.stack([x, y, x, y], -1)
    return (shifts[:, :, None] + jnp.asarray(shapes, jnp.float32)[None, None]).reshape(-1, 4)


def nms(boxes: jax.Array, scores: jax.Array, threshold: float, count: int,
        labels: jax.Array | None = None, form: str = 'auto') -> jax.Array:
    """Greedy non-maximum suppression: int32 [count], the indices of the boxes that stay, by falling
    score, then -1.

    Again and again the best box stays, and those go whose IoU with it is more than the threshold.
    Of equal scores the first is better. A score that is not finite means that there is no box.

    Args:
      boxes: [n, 4].
      scores: [n].
      labels: int [n]; boxes of different labels do not suppress each other. None: all are equal.
      form: 'picks' finds the boxes one by one: O(count n) time, O(n) memory. 'rounds' compares all
        pairs at once, and then repeats a short step a few times: O(n^2) time and memory, but few
        kernels on a GPU. 'auto' is 'picks' on CPUs and for more than 2^14 boxes, or a number of
        them that is symbolic.
    """
    scores = jnp.where(jnp.isfinite(scores), scores, -jnp.inf)
    if form == 'auto':
        few = isinstance(boxes.shape[0], int) and boxes.shape[0] <= 2 ** 14
        form = 'rounds' if few and jax.default_backend() != 'cpu' else 'picks'
    find = {'picks': _nms_by_picks, 'rounds': _nms_by_rounds}[form]
    labels = jnp.zeros(boxes.shape[0], int) if labels is None else jnp.asarray(labels)
    return find(*lax.stop_gradient((jnp.asarray(boxes), scores)), labels, threshold, count)


def take(array: jax.Array, kept: jax.Array, none: float = 0) -> jax.Array:
    """What an array [n, ...] has for the boxes that `nms` kept, [count, ...]; `none` where there
    are fewer."""
    there = lax.expand_dims(kept >= 0, range(1, array.ndim))
    return jnp.where(there, jnp.asarray(array)[kept], none)


def _nms_by_picks(boxes, scores, labels, threshold, count):
    sides, places = jnp.unstack(boxes, axis=-1), jnp.arange(boxes.shape[0], dtype=jnp.int32)

    def pick(state):
        done, _, scores, kept = state
        # These are the stored scores, so one of them equals the largest. Those below could be
        # computed twice, with other rounding. Two passes are faster than jnp.argmax.
        best = scores.max()
        index = jnp.where(scores >= best, places, boxes.shape[0]).min()
        found = best > -jnp.inf
        overlap = _iou([side[index] for side in sides], sides)
        gone = (overlap > threshold) & (labels == labels[index])
        gone |= places == index  # a box without area does not overlap itself
        return (done + 1, found, jnp.where(gone, -jnp.inf, scores),
                kept.at[done].set(jnp.where(found, index, -1)))

    state = 0, True, scores, jnp.full(count, -1, jnp.int32)
    return lax.while_loop(lambda state: (state[0] < count) & state[1], pick, state)[3]


def _nms_by_rounds(boxes, scores, labels, threshold, count):
    scores, order = lax.top_k(scores, boxes.shape[0])
    boxes, labels = boxes[order], labels[order]
    suppresses = jnp.triu((iou(boxes, boxes) > threshold) & (labels[:, None] == labels[None]), 1)

    def keep(state):
        """The boxes that no kept one suppresses. Each round settles at least the first box that
        was not yet settled."""
        return state[1], exists & ~(suppresses & state[1][:, None]).any(0)

    exists = scores > -jnp.inf
    _, kept = lax.while_loop(lambda state: (state[0] != state[1]).any(), keep,
                             keep((exists, exists)))
    places = jnp.nonzero(kept, size=count, fill_value=-1)[0]
    return jnp.where(places < 0, -1, order[places])


def match(overlaps: jax.Array, low: float, high: float, low_quality: bool = False
          ) -> tuple[jax.Array, jax.Array]:
    """The truth that each anchor is matched with, int32 [N], and how much the anchor overlaps the
    truth that it overlaps most, [N].

    An anchor is matched with the truth that it overlaps most, the first of several, if by at least
    `high`: that is the truth's index. If by less than `low`, it is background: -1. Otherwise it is
    neither: -2. With `low_quality`, an anchor that no other beats in its overlap with some truth is
    matched too, though also with the truth that *it* overlaps most, as in torchvision and
    py-faster-rcnn. A truth that no anchor overlaps matches none.

    Args:
      overlaps: [M, N], IoUs of truths and anchors; 0 or less where the truth is padding.
    """
    overlaps = lax.stop_gradient(jnp.asarray(overlaps))
    if not len(overlaps):  # a data set without any object
        overlaps = jnp.zeros((1, overlaps.shape[1]), overlaps.dtype)

    def look(truth, state):
        most, own, chosen = state
        overlap = overlaps[truth]
        better = overlap > most
        # Within a program the compiler may compute the overlaps twice, with other rounding, so that
        # none would equal the largest.
        chosen |= (overlap > 0) & (overlap >= (1 - ROUNDING) * overlap.max())
        return jnp.where(better, overlap, most), jnp.where(better, truth, own), chosen

    # Truth by truth is many times faster on a CPU than jnp.argmax over their axis.
    size = overlaps.shape[1]
    state = jnp.zeros(size, overlaps.dtype), jnp.zeros(size, jnp.int32), jnp.zeros(size, bool)
    most, own, chosen = lax.fori_loop(0, len(overlaps), look, state)
    matched = jnp.where(most < low, -1, jnp.where(most < high, -2, own))
    return jnp.where(chosen & low_quality, own, matched), most


def sample(key: jax.Array, positive: jax.Array, negative: jax.Array, count: int, most: int
           ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draws at most `most` positives, and negatives until there are `count`.

    Args:
      positive, negative: bool [n]; nothing is both.

    Returns:
      The int32 indices [count], whether each is a positive, and whether each is used. Positives
      come first, then negatives, then places that are not used because there were too few.
    """
    scores, places = jax.random.uniform(key, positive.shape), jnp.arange(count)
    size = min(count, len(positive))
    # The largest of random scores are a random choice; to find them is faster than to sort all.
    (_, positives), (_, negatives) = (lax.top_k(jnp.where(mask, scores, -1), size)
                                      for mask in (positive, negative))
    taken = jnp.minimum(positive.sum(), most)
    of_positives = places < taken
    indices = jnp.where(of_positives, positives[jnp.minimum(places, size - 1)],
                        negatives[jnp.clip(places - taken, 0, size - 1)])
    return indices, of_positives, places < taken + negative.sum()
