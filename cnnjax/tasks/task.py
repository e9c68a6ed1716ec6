"""The interface between the trainer and a task."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.errors import UserError

# The results of a loss and of an evaluation of a batch, see Task.
LossAndMetrics = tuple[jax.Array, tuple[dict[str, jax.Array], Any]]
Observed = tuple[dict[str, jax.Array], dict[str, jax.Array]]


class WholeBatch(NamedTuple):
    """Means and sums over the batch of all devices, or over each of its micro-batches, for a loss
    that each device computes of its share, and whose gradients are then averaged over the devices.
    Both are differentiable."""

    axis: str | None = None  # the mapped axis, or None

    def mean(self, values: jax.Array, weights: jax.Array | None = None) -> jax.Array:
        """The weighted mean of the values of all devices, []. Each device gets another number; the
        mean of these numbers is the weighted mean."""
        if weights is None:
            return values.mean()
        weights = lax.stop_gradient(weights).astype(values.dtype)
        total = weights.sum() if self.axis is None else lax.pmean(weights.sum(), self.axis)
        # Multiplication alone would let an infinite value with the weight 0 count.
        return (jnp.where(weights != 0, values, 0) * weights).sum() / jnp.maximum(total, 1e-12)

    def total(self, values: jax.Array) -> jax.Array:
        """The sum over the examples of all devices: [N, ...] -> [...]."""
        total = values.sum(0)
        return total if self.axis is None else lax.psum(total, self.axis)


def check_scores(outputs: Any) -> None:
    """Raises UserError if these outputs are no array of scores but a detector's."""
    if isinstance(outputs, Mapping):
        raise UserError("the network finds boxes: it is a detector; take task='detect'")


class Task(NamedTuple):
    """Pure functions of a batch of examples, {'image': float [N, H, W, C], and the targets}; in
    training they also have 'keys' [N], a key of random numbers for each. With a teacher they also
    have what it says of them, 'taught', and its variables, 'teacher' (see step.py).

    They get the network with its variables as `apply(images, **arguments)`. In an evaluation it
    returns (outputs, taps); in training (outputs, taps, new batch_stats). A task may call it twice,
    or with other images.
    """

    # (outputs, examples, classes): raises UserError if the shapes of the network's outputs do not
    # fit a batch of examples or the names of the classes.
    check: Callable[..., None]

    # (apply, examples, batch) -> (scalar, ({metric: scalar}, new batch_stats)): the training loss,
    # and the metrics of a report, of which 'loss' is one. What is averaged or added up over the
    # batch goes through `batch`, a WholeBatch.
    loss: Callable[..., LossAndMetrics]

    # (apply, examples) -> ({name: [N, ...]}, {name: [N, ...]}): the values that an evaluation sums
    # over all examples, and those that it keeps for each example.
    observe: Callable[..., Observed]

    # (sums, kept, count, classes) -> {name: number or array}: the results of an evaluation of
    # `count` examples. Each example is in `sums` and in `kept`, {name: [count, ...]}, exactly once
    # and in order. The result 'error' is in [0, 1], lower is better. Only numbers are reported.
    results: Callable[..., dict[str, Any]]

    # (outputs) -> {target: [N, ...]}: what the outputs of the network say of the images; of whole
    # images their 'probabilities', float32 [N, classes], which predictions show. And
    # (example, classes) -> a picture, uint8 [H', W', 3], of one example with its true or its
    # predicted targets, whose image is uint8 [H, W, C]. None: a run draws no examples.
    predict: Callable[..., dict[str, jax.Array]] | None = None
    draw: Callable[..., Any] | None = None
