"""The first stage of a FitNet (Romero et al. 2014, equation 3, https://arxiv.org/abs/1412.6550): a
layer of the network learns to predict what a layer of its teacher makes of the images.

It looks at no target of the examples. distillation.py adds to the network the regressor, a tap of
which this is the name, and to the examples what the teacher says of them.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from cnnjax import losses
from cnnjax.tasks.task import LossAndMetrics, Observed, Task, WholeBatch

REGRESSOR = 'hint_regressor'


def create(factor: float = 1.0) -> Task:
    """The task whose loss is multiplied by the factor."""
    return Task(lambda outputs, examples, classes: None, functools.partial(loss, factor), observe,
                results)


def loss(factor: float, apply: Callable, examples: Mapping[str, Any],
         batch: WholeBatch) -> LossAndMetrics:
    """Half the squared distance of the regressor's map from the teacher's, and the metrics 'loss'
    and 'error', the share of the squared norm of the teacher's map that this is."""
    _, taps, batch_stats = apply(examples['image'])
    hint = examples['taught']['hint']
    off, whole = (batch.mean(losses.half_square(x)) for x in (taps[REGRESSOR] - hint, hint))
    return factor * off, ({'loss': factor * off, 'error': jnp.minimum(off / whole, 1)}, batch_stats)


def observe(apply: Callable, examples: Mapping[str, Any]) -> Observed:
    """The same half squares of each image, 'loss' and 'whole'; nothing is kept."""
    _, taps = apply(examples['image'])
    hint = examples['taught']['hint']
    return {'loss': losses.half_square(taps[REGRESSOR] - hint),
            'whole': losses.half_square(hint)}, {}


def results(sums: Mapping[str, np.ndarray], kept: Mapping[str, np.ndarray], count: int,
            classes: Sequence[str]) -> dict[str, Any]:
    """The mean 'loss', without the factor, and the 'error' over all examples, at most 1."""
    del kept, classes
    return {'loss': float(sums['loss'] / count),
            'error': float(min(sums['loss'] / sums['whole'], 1))}
