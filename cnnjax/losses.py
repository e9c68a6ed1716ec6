"""Losses and errors of scores of classes, of images or of each of their pixels.

Every function returns one value per prediction: [N] of logits [N, K], [N, H, W] of maps of logits
[N, H, W, K].
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax


def cross_entropy(logits: jax.Array | np.ndarray, labels: jax.Array | np.ndarray,
                  smoothing: float = 0.0) -> jax.Array:
    """Softmax cross-entropy in float32: logits [..., K], labels int [...] -> [...]. A label that is
    no class has the loss 0.

    `smoothing` moves that much of the target's mass to the uniform distribution (Szegedy et al.
    2015, section 7, https://arxiv.org/abs/1512.00567).
    """
    targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=jnp.float32)
    targets = optax.smooth_labels(targets, smoothing)
    return optax.softmax_cross_entropy(logits.astype(jnp.float32), targets)


def top_k_error(logits: jax.Array | np.ndarray, labels: jax.Array | np.ndarray,
                k: int = 1) -> jax.Array:
    """1.0 where the label is not among the k largest logits [..., K], else 0.0: [...].

    Ties count against the network: a constant output is not rewarded. So do NaN.
    """
    own = jnp.take_along_axis(logits, labels[..., None], -1)
    beaten_by = (~(logits < own)).sum(-1) - 1  # classes at least as probable, less itself
    return (beaten_by >= k).astype(jnp.float32)
