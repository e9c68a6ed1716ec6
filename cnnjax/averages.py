"""Averages of the weights over a training. Evaluations, and the network that is loaded, use them.

    'polyak'  the mean of the weights after each step from a start on (Polyak & Juditsky 1992;
              https://epubs.siam.org/doi/10.1137/0330046)
    'ema'     an exponential moving average, as torchvision's ExponentialMovingAverage has it:
              https://github.com/pytorch/vision/blob/main/references/classification/utils.py

Both begin as a copy of the weights. How much a step counts depends on its number alone, so that a
resumed training has nothing to restore but the average.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

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
        return optax.incremental_update(values, average, share)
