"""Losses and errors of predicted classes, of images or of pixels; the loss of boxes.

The losses of single predictions and the errors are one value per prediction: [N] for logits [N, K],
[N, H, W] for maps of logits [N, H, W, K]. Losses of regions compare whole maps of logits with their
masks and are one value per image, [N]. Several things go by the names "focal" and "Dice" (per class
or not, sigmoid or softmax, per image or per batch); the docstrings say which are here.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax


def cross_entropy(logits: jax.Array | np.ndarray, labels: jax.Array | np.ndarray,
                  smoothing: float = 0.0) -> jax.Array:
    """Softmax cross-entropy in float32: logits [..., K], labels int [...] -> [...]. A label outside
    the K classes has the loss 0.

    `smoothing` is the share of the target that is spread evenly over all classes (Szegedy et al.
    2015, section 7, https://arxiv.org/abs/1512.00567).
    """
    targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=jnp.float32)
    targets = optax.smooth_labels(targets, smoothing)
    return optax.softmax_cross_entropy(logits.astype(jnp.float32), targets)


def focal(logits: jax.Array | np.ndarray, labels: jax.Array | np.ndarray,
          gamma: float = 2.0) -> jax.Array:
    """The focal loss -(1 - p)^gamma log p in float32, where p is the softmax probability of the
    label: logits [..., K], labels int [...] -> [...]. With gamma 0 it is the cross-entropy.

    Lin et al. 2017, https://arxiv.org/abs/1708.02002, have it for two classes, with a sigmoid.
    """
    logits = logits.astype(jnp.float32)
    own = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    # Where p rounds to 1, 1 - p would be 0, and the gradient of its power infinite or not a number.
    # The logarithm of the other classes' probability is exact, and its gradient finite.
    others = jnp.where(own, jnp.finfo(jnp.float32).min, logits)
    log_rest = jax.nn.logsumexp(others, -1) - jax.nn.logsumexp(logits, -1)
    return jnp.exp(gamma * log_rest) * cross_entropy(logits, labels)


def binary_cross_entropy(logits: jax.Array | np.ndarray, tags: jax.Array | np.ndarray,
                         smoothing: float = 0.0,
                         positive: jax.Array | np.ndarray | float = 1.0) -> jax.Array:
    """The cross-entropy of each class on its own, with a sigmoid, in float32: logits [..., K],
    tags [..., K] of 0 and 1 -> [..., K].

    Args:
      smoothing: a tag of 1 becomes 1 - smoothing / 2, one of 0 smoothing / 2.
      positive: multiplies the loss of the tags of 1, as pos_weight of PyTorch's BCEWithLogitsLoss;
        a number, or one for each class.
    """
    logits = jnp.asarray(logits, jnp.float32)
    targets = (1 - smoothing) * tags.astype(jnp.float32) + smoothing / 2
    return -(jnp.asarray(positive, jnp.float32) * targets * jax.nn.log_sigmoid(logits)
             + (1 - targets) * jax.nn.log_sigmoid(-logits))


def binary_focal(logits: jax.Array | np.ndarray, tags: jax.Array | np.ndarray,
                 gamma: float = 2.0,
                 positive: jax.Array | np.ndarray | float = 1.0) -> jax.Array:
    """The focal loss of each class on its own, with a sigmoid, in float32 (Lin et al. 2017,
    equation 4, https://arxiv.org/abs/1708.02002). For the shapes see binary_cross_entropy."""
    signed = jnp.where(tags > 0, 1, -1) * logits.astype(jnp.float32)
    # The logarithm of 1 - p is exact, and its power has a finite gradient, where p rounds to 1.
    weight = jnp.exp(gamma * jax.nn.log_sigmoid(-signed))
    return weight * binary_cross_entropy(logits, tags, positive=positive)


def squared_hinge(logits: jax.Array | np.ndarray, labels: jax.Array | np.ndarray) -> jax.Array:
    """The squared hinge loss of one support vector machine for each class, which tells it from all
    others, summed over the classes, in float32: logits [..., K], labels int [...] -> [...].

    Tang 2013, equations 4 and 10 without the decay, https://arxiv.org/abs/1306.0239.
    """
    own = jax.nn.one_hot(labels, logits.shape[-1], dtype=jnp.float32)
    return binary_squared_hinge(logits, own).sum(-1)


def binary_squared_hinge(logits: jax.Array | np.ndarray, tags: jax.Array | np.ndarray,
                         positive: jax.Array | np.ndarray | float = 1.0) -> jax.Array:
    """The squared hinge loss max(0, 1 - x)^2 of each class on its own, in float32, where x is the
    logit for a tag of 1 and its negative for one of 0. For the arguments see
    binary_cross_entropy."""
    signed = jnp.where(tags > 0, 1, -1) * logits.astype(jnp.float32)
    weights = jnp.where(tags > 0, jnp.asarray(positive, jnp.float32), 1)
    return weights * jax.nn.relu(1 - signed) ** 2


def dice(logits: jax.Array, labels: jax.Array, counts: jax.Array | None = None, *,
         squared: bool = False, smoothing: float = 1.0, background: bool = False,
         absent: bool = False,
         total: Callable[[jax.Array], jax.Array] = lambda sums: sums) -> jax.Array:
    """The mean over the classes of their soft Dice losses (see `dice_of_classes`): [N].

    An image without any class to average over has the loss 0 and no gradient. With the defaults
    this is an image of background alone, whose wrong foreground is not punished: add
    `cross_entropy`, or take `absent`.

    Args:
      logits, labels, counts, squared, smoothing, total: see `dice_of_classes`.
      background: whether class 0 is one of the classes.
      absent: whether classes that are not in the labels are, as in MONAI. In
        segmentation_models.pytorch they have the loss 0, but count in the mean.
    """
    values, present = dice_of_classes(logits, labels, counts, squared=squared,
                                      smoothing=smoothing, total=total)
    first = 0 if background else 1
    values, taken = values[..., first:], (present | absent)[..., first:]
    return jnp.where(taken, values, 0).sum(-1) / jnp.maximum(taken.sum(-1), 1).astype(values.dtype)


def dice_of_classes(
        logits: jax.Array, labels: jax.Array, counts: jax.Array | None = None, *,
        squared: bool = False, smoothing: float = 1.0,
        total: Callable[[jax.Array], jax.Array] = lambda sums: sums,
) -> tuple[jax.Array, jax.Array]:
    """The soft Dice loss of each class in float32, [N, K], and whether it is in the labels.

    It is 1 - (2 sum(p t) + smoothing) / (sum(p) + sum(t) + smoothing), where p is the softmax
    probability of the class, t is 1 at its pixels and 0 at others, and the sums are over an image.

    Args:
      logits: [N, H, W, K].
      labels: int [N, H, W].
      counts: bool [N, H, W], the pixels that take part in the sums; None: all.
      squared: divide by sum(p^2) + sum(t^2), as in V-Net (Milletari et al. 2016, section 3,
        https://arxiv.org/abs/1606.04797).
      total: applied to the sums of the images, [N, K]. For the loss of a whole batch, [K], it adds
        them up (see tasks/task.py, WholeBatch.total).
    """
    truth = jax.nn.one_hot(labels, logits.shape[-1], dtype=jnp.float32)
    found = jax.nn.softmax(logits.astype(jnp.float32))
    if counts is not None:
        truth, found = (jnp.where(counts[..., None], each, 0) for each in (truth, found))
    overlap, in_truth, in_found = (total(each.sum((1, 2))) for each in (
        found * truth, truth, found ** 2 if squared else found))
    size = in_found + in_truth + smoothing
    # Without smoothing, both parts of the fraction are 0 for a class that is nowhere.
    values = 1 - (2 * overlap + smoothing) / jnp.where(size > 0, size, 1)
    return values, in_truth > 0


def smooth_l1(x: jax.Array | np.ndarray, beta: float = 1.0) -> jax.Array:
    """Smooth L1 of each difference x in float32 at least: x^2 / (2 beta) where |x| < beta, |x| -
    beta / 2 elsewhere. Girshick 2015, equation 3, https://arxiv.org/abs/1504.08083, has beta 1.
    Caffe's sigma is 1 / sqrt(beta). beta is above 0."""
    x = jnp.asarray(x).astype(jnp.promote_types(x.dtype, jnp.float32))
    # Not optax's huber_loss, whose gradient asks whether two computed values are equal.
    return jnp.where(jnp.abs(x) < beta, 0.5 / beta * x ** 2, jnp.abs(x) - 0.5 * beta)


def top_k_error(logits: jax.Array | np.ndarray, labels: jax.Array | np.ndarray,
                k: int = 1) -> jax.Array:
    """1.0 where the label is not among the k largest of the logits [..., K], else 0.0: [...].

    Ties count as errors, so that a constant output is not rewarded; so do NaNs.
    """
    own = jnp.take_along_axis(logits, labels[..., None], -1)
    beaten_by = (~(logits < own)).sum(-1) - 1  # other classes that are at least as probable
    return (beaten_by >= k).astype(jnp.float32)
