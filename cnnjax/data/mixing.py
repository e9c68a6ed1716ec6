"""Mixtures of two images of a batch and of their labels: mixup (Zhang et al. 2017, https://
arxiv.org/abs/1710.09412) and CutMix (Yun et al. 2019, https://arxiv.org/abs/1905.04899)."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# The draws of a batch have the key of this place; those of examples have the keys of their places.
BATCH = np.uint32(2 ** 32 - 1)


def mixed(key: jax.Array, examples: Mapping[str, jax.Array], axis: str | None = None, *,
          mixup: float = 0.0, cutmix: float = 0.0) -> Mapping[str, jax.Array]:
    """The examples of a device's share of the batch, each mixed with the one before it in the batch
    of all devices, the first with the last: with `mixup` above 0 the image is a weighted mean of
    both; with `cutmix` a rectangle of it shows the other image; with both, a batch is mixed in one
    of these ways, with equal chances. As in torchvision's references/classification/transforms.py,
    the whole batch has one weight, drawn from Beta(a, a), and one rectangle.

    The examples then also have 'other_label' [N] and 'share' float32 [N], the weight of their own
    label.

    Args:
      key: the same on all devices.
      examples: {'image': float [N, H, W, C], 'label': int [N], ...}.
      axis: the mapped axis, or None.
      mixup, cutmix: the parameter a of each; 0: none.
    """
    if not mixup and not cutmix:
        return examples
    keys = jax.random.split(jax.random.fold_in(key, BATCH), 3)
    own, other = (examples['image'], _before(examples['image'], axis))

    def blended():
        share = jax.random.beta(keys[0], mixup, mixup, dtype=np.float32)
        return share * own + (1 - share) * other, share

    def pasted():
        share = jax.random.beta(keys[0], cutmix, cutmix, dtype=np.float32)
        inside = _rectangle(keys[1], own.shape[1:3], share)
        return jnp.where(inside[None, ..., None], other, own), 1 - inside.mean()

    if mixup and cutmix:
        image, share = lax.cond(jax.random.bernoulli(keys[2]), blended, pasted)
    else:
        image, share = blended() if mixup else pasted()
    return {**examples, 'image': image, 'share': jnp.broadcast_to(share, len(own)),
            'other_label': _before(examples['label'], axis)}


def _before(values, axis):
    """The values [N, ...] of the example before each in the batch of all devices."""
    devices = 1 if axis is None else lax.axis_size(axis)
    last = values[-1:]
    if devices > 1:
        last = lax.ppermute(last, axis, [(i, (i + 1) % devices) for i in range(devices)])
    return jnp.concatenate([last, values[:-1]])


def _rectangle(key, shape, share):
    """Bool [H, W]: a rectangle about a random pixel that, uncut, has 1 - share of the area."""
    sides = np.array(shape, np.int32)
    middle = jax.random.randint(key, (2,), 0, sides, np.int32)
    half = (jnp.sqrt(1 - share) / 2 * sides.astype(np.float32)).astype(np.int32)
    inside = [(middle[i] - half[i] <= place) & (place < middle[i] + half[i])
              for i, place in enumerate(np.ogrid[:sides[0], :sides[1]])]
    return inside[0] & inside[1]
