"""Classification: which class an image shows, learned from its label."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import losses
from cnnjax.errors import UserError
from cnnjax.tasks.task import LossAndMetrics, Observed, Task, WholeBatch, check_scores
from cnnjax.tasks.training_loss import CROSS_ENTROPY, TrainingLoss

TARGET = 'label'


def create(net: nn.Module, chosen: TrainingLoss = CROSS_ENTROPY) -> Task:
    """The task for networks with logits [N, classes].

    The losses of `auxiliary` heads, {tap: weight}, are added if the network has any. Its
    `subnetworks`, {name: arguments of a call}, are evaluated too.
    """
    return Task(check, functools.partial(loss, chosen, getattr(net, 'auxiliary', {})),
                functools.partial(observe, getattr(net, 'subnetworks', {})), results)


def check(outputs: jax.Array, examples: Mapping[str, Any], classes: Sequence[str]) -> None:
    """Raises UserError unless the network has one score for each class."""
    del examples
    check_scores(outputs)
    if outputs.ndim != 2:
        raise UserError(f'the network has maps of scores {list(outputs.shape[1:])}, not one score '
                        "per class: it cannot be trained to tell images apart; take task='segment'")
    if outputs.shape[-1] != len(classes):
        raise UserError(f'the network has {outputs.shape[-1]} outputs for {len(classes)} classes: '
                        'its last layer needs num_classes of them')


def loss(chosen: TrainingLoss, auxiliary: Mapping[str, float], apply: Callable,
         examples: Mapping[str, jax.Array], batch: WholeBatch) -> LossAndMetrics:
    """The chosen loss with that of the auxiliary heads, and the metrics 'loss' and 'error', which
    leave the heads out.

    Where each image is mixed with another (see data.mixed), the loss is the weighted mean of the
    losses of both labels, and the error that of the label with the larger weight.
    """
    labels = most = examples['label']
    logits, taps, batch_stats = apply(examples['image'])

    def judged(logits):
        value = chosen(batch, logits, labels)
        if 'share' not in examples:
            return value
        share = examples['share'][0]  # the same in the whole batch
        return share * value + (1 - share) * chosen(batch, logits, examples['other_label'])

    if 'share' in examples:
        most = jnp.where(examples['share'] < 0.5, examples['other_label'], labels)
    value = judged(logits)
    metrics = {'loss': value, 'error': batch.mean(losses.top_k_error(logits, most))}
    for name, weight in auxiliary.items():
        value += weight * judged(taps[name])
    return value, (metrics, batch_stats)


def observe(subnetworks: Mapping[str, Mapping[str, Any]], apply: Callable,
            examples: Mapping[str, jax.Array]) -> Observed:
    """'loss', 'error' and, with more than five classes, 'top5_error' of each image; then those of
    the subnetworks ('column3/error', ...)."""
    sums, labels = {}, examples['label']
    for name, arguments in {'': {}, **subnetworks}.items():
        logits, _ = apply(examples['image'], **arguments)
        values = {'loss': losses.cross_entropy(logits, labels),
                  'error': losses.top_k_error(logits, labels)}
        if logits.shape[-1] > 5:
            values['top5_error'] = losses.top_k_error(logits, labels, 5)
        sums |= {f'{name}/{key}' if name else key: value for key, value in values.items()}
    return sums, {}


def results(sums: Mapping[str, np.ndarray], kept: Mapping[str, np.ndarray], count: int,
            classes: Sequence[str]) -> dict[str, float]:
    """The means over all examples."""
    del kept, classes
    return {name: float(total / count) for name, total in sums.items()}
