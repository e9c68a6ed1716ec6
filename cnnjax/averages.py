"""Averages of the weights over a training. Evaluations, and the network that is loaded, use them.

    'polyak'  the mean of the weights after each step from a start on (Polyak & Juditsky 1992;
              https://epubs.siam.org/doi/10.1137/0330046)
    'ema'     an exponential moving average, as torchvision's ExponentialMovingAverage has it:
              https://github.com/pytorch/vision/blob/main/references/classification/utils.py

Both begin as a copy of the weights. The running statistics of batch normalization are averaged with
them, as torchvision does: those of the last steps do not fit averaged weights, while averaged ones
fit them as well as running statistics fit the weights of a training (tests/test_averages.py).
Estimating them anew on the training set (Izmailov et al. 2018, section 3.2,
https://arxiv.org/abs/1803.05407) would take a pass over it before each evaluation. How much a step
counts depends on its number alone, so that a resumed training restores nothing but the average.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cnnjax.limits import Number, Used, Whole

KINDS = ('polyak', 'ema')
LIMITS = {'average': ('', *KINDS), 'average_start': Number(0), 'average_every': Whole(1),
          'average_decay': Number(0, below=1)}
USED = {'average_start': Used('average', KINDS, 0.0), 'average_every': Used('average', KINDS, 1),
        'average_decay': Used('average', ('ema',), 0.999)}


class Average(NamedTuple):
    """An average of the weights after each `every`-th step, from the one after `start` steps on."""

    kind: str
    start: int = 0
    every: int = 1
    decay: float = 0.999  # the share of the old average that 'ema' keeps

    def update(self, average: Any, values: Any, done: jax.Array) -> Any:
        """The average with the `values` after `done` steps. Until its first values are due it is a
        copy of the newest."""
        count = done // self.every - self.start // self.every  # how many values, with these
        share = (1 / jnp.maximum(count, 1).astype(jnp.float32) if self.kind == 'polyak' else
                 jnp.where(count > 1, jnp.float32(1 - self.decay), jnp.float32(1)))
        share = jnp.where((count > 0) & (done % self.every > 0), jnp.float32(0), share)
        # Both a copy and the average of equal values, such as those of frozen layers, are exact.
        return jax.tree.map(lambda old, new: jnp.where(share == 1, new, old + share * (new - old)),
                            average, values)
