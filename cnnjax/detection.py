"""What a two-stage detector does with boxes: its proposals and detections, and what it learns.

Ren et al. 2015, sections 3.1.2 and 3.1.3, https://arxiv.org/abs/1506.01497; Girshick 2015, section
2.3, https://arxiv.org/abs/1504.08083.

All functions are for one image, under vmap. Losses are sums over what was sampled, divided by the
number that is asked for, so the loss of an image does not depend on the others of the batch.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax import boxes, losses

HEAD_WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # the weights of the head's deltas, see boxes.encode
LEAST_SIDE = 0.01  # Detections without this width and height, in pixels, are none (torchvision).


class Truth(NamedTuple):
    """The objects of an image, M of them with padding."""

    boxes: jax.Array  # [M, 4], 0 where there is no object to learn
    labels: jax.Array  # int32 [M], -1 where there is none
    ignored: jax.Array  # [M, 4], the boxes of objects that are neither learned nor background


class Sampling(NamedTuple):
    """How many boxes are sampled for a loss, and which are objects and which background."""

    count: int
    share: float  # the largest share of objects among them
    # An object overlaps the truth by an IoU of at least `high`, background by less than `low`, but
    # by at least `least`.
    low: float
    high: float
    least: float = 0.0
    low_quality: bool = False  # see boxes.match


def truth(examples: Mapping[str, jax.Array]) -> Truth:
    """The Truth of a batch, [N, ...], from its 'boxes', 'labels' and, if there are any, 'ignore'.
    """
    found, labels = examples['boxes'], examples['labels']
    ignore = examples.get('ignore', jnp.zeros(labels.shape, bool)) & (labels >= 0)
    learned = ~ignore & (labels >= 0)
    return Truth(jnp.where(learned[..., None], found, 0), jnp.where(learned, labels, -1),
                 jnp.where(ignore[..., None], found, 0))


def assign(candidates: jax.Array, truth: Truth, rules: Sampling,
           usable: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    """The truth of each of the candidates [n, 4]: int32 [n], the index of an object, -1 for
    background or -2 for neither; and its largest IoU [n].

    Candidates that are not `usable`, bool [n], are neither, and so is background that lies to at
    least `high` inside an ignored object, by the share of its own area.
    """
    usable = boxes.area(candidates) > 0 if usable is None else usable
    overlaps = jnp.where(usable[None], boxes.iou(truth.boxes, candidates), 0)
    matched, most = boxes.match(overlaps, rules.low, rules.high, rules.low_quality)
    shared = boxes.intersection(truth.ignored, candidates)
    inside = (shared >= rules.high * boxes.area(candidates)[None]).any(0) & (matched == -1)
    return jnp.where(usable & ~inside, matched, -2), most


def sample(key: jax.Array, candidates: jax.Array, truth: Truth, rules: Sampling,
           usable: jax.Array | None = None
           ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Draws objects and background of the candidates [n, 4], see `boxes.sample`: (indices [count],
    whether each is an object, whether each is used, the truth of each)."""
    matched, overlap = assign(candidates, truth, rules, usable)
    background = (matched == -1) & (overlap >= rules.least)
    indices, positive, used = boxes.sample(key, matched >= 0, background, rules.count,
                                           int(rules.share * rules.count))
    return indices, positive, used, matched[indices]


def propose(objectness: jax.Array, deltas: jax.Array, anchors: jax.Array, frame: jax.Array, *,
            sizes: Sequence[int], before: int, after: int, smallest: float, threshold: float
            ) -> tuple[jax.Array, jax.Array]:
    """The proposals of an RPN: (boxes [P, 4], best first, and their scores [P]); both are 0 where
    there are fewer.

    Args:
      objectness, deltas, anchors, frame: [A], [A, 4], [A, 4], [4].
      sizes: how many of the anchors each map has.
      before, after: how many boxes of each map are decoded, and how many of all are left by
        non-maximum suppression, which treats each map by itself.
      smallest: the least width and height of a proposal.
      threshold: the IoU above which one suppresses another.
    """
    objectness = jnp.where(jnp.isfinite(objectness), objectness, -jnp.inf)  # top_k prefers NaN
    ends = list(itertools.accumulate(sizes, initial=0))
    best = [lax.top_k(objectness[start:end], min(before, end - start))[1] + start
            for start, end in itertools.pairwise(ends)]
    maps = jnp.concatenate([jnp.full(len(own), i) for i, own in enumerate(best)])
    best = jnp.concatenate(best)
    found = boxes.clip(boxes.decode(deltas[best], anchors[best]), frame)
    scores = jnp.where(_large(found, smallest), objectness[best], -jnp.inf)
    kept = boxes.nms(found, scores, threshold, min(after, len(best)), maps)
    return boxes.take(found, kept), boxes.take(jax.nn.sigmoid(scores), kept)


def detect(logits: jax.Array, deltas: jax.Array, regions: jax.Array, frame: jax.Array, *,
           least: float, threshold: float, count: int) -> dict[str, jax.Array]:
    """The detections of a head, by falling score: 'boxes' [count, 4], 'labels' int32 [count] and
    'scores' [count]; the label is -1 and the rest 0 where there are fewer.

    Args:
      logits, deltas, regions, frame: [R, 1 + classes], [R, 1 + classes, 4], [R, 4], [4].
      least: detections have a higher score, the softmax's.
      threshold: the IoU above which one suppresses another of its class.
    """
    scores = jax.nn.softmax(logits)[:, 1:]
    labels = jnp.tile(jnp.arange(scores.shape[1], dtype=jnp.int32), regions.shape[0])
    regions = regions.repeat(scores.shape[1], 0)
    found = boxes.decode(deltas[:, 1:].reshape(-1, 4), regions, HEAD_WEIGHTS)
    found, scores = boxes.clip(found, frame), scores.ravel()
    good = (scores > least) & _large(found, LEAST_SIDE) & (boxes.area(regions) > 0)
    kept = boxes.nms(found, jnp.where(good, scores, -jnp.inf), threshold, count, labels)
    return {'boxes': boxes.take(found, kept), 'labels': boxes.take(labels, kept, -1),
            'scores': boxes.take(scores, kept)}


def _large(found, smallest):
    """Whether boxes are at least so wide and so high."""
    return (found[..., 2:] - found[..., :2] >= smallest).all(-1)


def proposal_losses(key: jax.Array, outputs: Mapping[str, jax.Array], truth: Truth, *,
                    rules: Sampling, beta: float, outside: bool) -> dict[str, jax.Array]:
    """The two terms of the loss of an RPN (equation 1), with lambda 1 and N_reg = N_cls:

    L({p_i}, {t_i}) = 1 / N_cls sum L_cls(p_i, p_i*) + lambda / N_reg sum p_i* L_reg(t_i, t_i*)

    The sums are over the sampled anchors, N_cls is `rules.count`.

    Args:
      outputs: 'objectness' [A], the logits of p; 'rpn_deltas' [A, 4], t; 'anchors' [A, 4]; 'frame'.
      beta: see losses.smooth_l1.
      outside: whether anchors that leave the frame take part.

    Returns:
      {'rpn_class_loss': the first term, 'rpn_box_loss': the second}.
    """
    anchors, frame = outputs['anchors'], outputs['frame'][None]
    usable = ((anchors[:, :2] >= frame[:, :2]) & (anchors[:, 2:] <= frame[:, 2:])).all(-1) | outside
    indices, positive, used, matched = sample(key, anchors, truth, rules, usable)
    objectness = outputs['objectness'][indices]
    # A sigmoid is a softmax whose other logit is 0.
    wrong = _cross_entropy(jnp.stack([jnp.zeros_like(objectness), objectness], -1),
                           positive.astype(jnp.int32))
    targets = boxes.encode(truth.boxes[matched], anchors[indices])
    distance = losses.smooth_l1(outputs['rpn_deltas'][indices] - targets, beta).sum(-1)
    return {'rpn_class_loss': jnp.where(used, wrong, 0).sum() / rules.count,
            'rpn_box_loss': jnp.where(positive, distance, 0).sum() / rules.count}


def choose(key: jax.Array, proposals: jax.Array, truth: Truth, rules: Sampling) -> jax.Array:
    """The regions [count, 4] that the head learns from: drawn from the proposals [P, 4] and the
    true boxes, so that there are always objects. Zeros where there are too few."""
    candidates = jnp.concatenate([proposals, truth.boxes.astype(proposals.dtype)])
    indices, _, used, _ = sample(key, candidates, truth, rules)
    return jnp.where(used[:, None], candidates[indices], 0)


def region_losses(outputs: Mapping[str, jax.Array], truth: Truth, *, rules: Sampling,
                  beta: float) -> dict[str, jax.Array]:
    """The loss of the head for the regions of `choose`: means over `rules.count` regions.

    Args:
      outputs: 'regions' [R, 4], 'logits' [R, 1 + classes], those of background first, and 'deltas'
        [R, 1 + classes, 4].
      beta: see losses.smooth_l1.

    Returns:
      {'class_loss': softmax cross-entropy, 'box_loss': smooth L1 of the true class's boxes}.
    """
    logits, regions = outputs['logits'], outputs['regions']
    matched, _ = assign(regions, truth, rules)
    found = matched >= 0
    labels = jnp.where(found, truth.labels[matched] + 1, 0)
    wrong = _cross_entropy(logits, labels)
    own = jnp.take_along_axis(outputs['deltas'], labels[:, None, None], 1)[:, 0]
    targets = boxes.encode(truth.boxes[matched], regions, HEAD_WEIGHTS)
    distance = losses.smooth_l1(own - targets, beta).sum(-1)
    used = boxes.area(regions) > 0
    return {'class_loss': jnp.where(used, wrong, 0).sum() / rules.count,
            'box_loss': jnp.where(found, distance, 0).sum() / rules.count}


def _cross_entropy(logits, labels):
    """The softmax cross-entropy [n] of logits [n, K]. It is not optax's, whose gradient asks which
    logit equals the largest."""
    logits -= lax.stop_gradient(logits).max(-1, keepdims=True)
    own = jnp.take_along_axis(logits, labels[:, None], -1)[:, 0]
    return jnp.log(jnp.exp(logits).sum(-1)) - own


def within(frame: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Whether the pixels of images of that shape are in their frames [N, 4]: [N, H, W, 1]."""
    y, x = (jnp.arange(n, dtype=frame.dtype) + 0.5 for n in shape[1:3])
    left, top, right, bottom = (side[:, None] for side in jnp.unstack(frame, axis=-1))
    rows = (y[None] > top) & (y[None] < bottom)
    columns = (x[None] > left) & (x[None] < right)
    return (rows[:, :, None] & columns[:, None])[..., None]


def anchor_shapes(rule: str, sizes: Sequence[float], ratios: Sequence[float], stride: int
                  ) -> jax.Array:
    """The anchors of a map's first place, [ratios * sizes, 4]; see `boxes.anchors`.

    Args:
      rule: 'caffe' rounds the sides of the anchor that is as large as a place, multiplies them, and
        centres them in the place, as py-faster-rcnn does. 'torchvision' rounds half the sides and
        centres them on the corner of the place.
      sizes: the square roots of the areas.
      ratios: height / width.
      stride: the side of a place in pixels.
    """
    found = []
    for ratio, size in itertools.product(ratios, sizes):
        if rule == 'caffe':
            width = np.round(stride / ratio ** 0.5)
            half = size / stride / 2 * np.array([width, np.round(width * ratio)])
            found.append([*(stride / 2 - half), *(stride / 2 + half)])
        else:
            half = np.round(size / 2 * np.array([ratio ** -0.5, ratio ** 0.5]))
            found.append([*-half, *half])
    return jnp.array(found, jnp.float32)
