"""Losses and errors of predicted classes, of images or of pixels.

Every function returns one value per prediction: [N] for logits [N, K], [N, H, W] for maps of logits
[N, H, W, K].
"""

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


def top_k_error(logits: jax.Array | np.ndarray, labels: jax.Array | np.ndarray,
                k: int = 1) -> jax.Array:
    """1.0 where the label is not among the k largest of the logits [..., K], else 0.0: [...].

    Ties count as errors, so that a constant output is not rewarded; so do NaNs.
    """
    own = jnp.take_along_axis(logits, labels[..., None], -1)
    beaten_by = (~(logits < own)).sum(-1) - 1  # other classes that are at least as probable
    return (beaten_by >= k).astype(jnp.float32)
