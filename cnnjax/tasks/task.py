"""The interface between the trainer and what a network learns."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

# What a loss and an evaluation of a batch return, see Task.
LossAndMetrics = tuple[jax.Array, tuple[dict[str, jax.Array], Any]]
Observed = tuple[dict[str, jax.Array], dict[str, jax.Array]]


class Task(NamedTuple):
    """Pure functions of a batch of examples, {'image': float [N, H, W, C], and their targets}.

    They get the network as `apply(images, **arguments)`, with its variables. An evaluation's
    returns (outputs, taps); a training's (outputs, taps, new batch_stats), and may be called with
    images of its own making, or twice.
    """

    # (outputs, examples, classes): raises UserError where the shapes of a network's outputs and of
    # a batch of examples do not go together, or with the names of the classes.
    check: Callable[..., None]

    # (apply, examples, mean) -> (scalar, ({metric: scalar}, new batch_stats)): the loss of a
    # training, and what a report shows of it. `mean(values, weights=None)` is the mean over the
    # whole batch, whatever the number of devices: for values of which some do not count, a mean
    # of the devices' own means would be another.
    loss: Callable[..., LossAndMetrics]

    # (apply, examples) -> ({name: [N, ...]}, {name: [N, ...]}): what an evaluation sums over all
    # examples, and what it keeps of each.
    observe: Callable[..., Observed]

    # (sums, kept, count, classes) -> {name: number}: the results of an evaluation of `count`
    # examples, each of which is in the sums and in `kept`, {name: [count, ...]}, exactly once, in
    # their order. One is 'error', in [0, 1]: the lower, the better.
    results: Callable[..., dict[str, float]]
