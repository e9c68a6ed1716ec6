"""Classification: which class an image shows, learned from its label."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax import losses
from cnnjax.errors import UserError
from cnnjax.tasks.task import LossAndMetrics, Observed, Task, WholeBatch, check_scores
from cnnjax.tasks.training_loss import CROSS_ENTROPY, TrainingLoss

TARGET = 'label'
TOP = 5  # How many classes of an image are kept, the most probable ones.
BINS = 15  # the bars of a reliability diagram
LARGEST = 2000  # The most classes of a confusion matrix; beyond, it would be huge and nearly empty.


def create(net: nn.Module, chosen: TrainingLoss = CROSS_ENTROPY) -> Task:
    """The task for networks with logits [N, classes].

    The losses of `auxiliary` heads, {tap: weight}, are added if the network has any. Its
    `subnetworks`, {name: arguments of a call}, are evaluated too.
    """
    return Task(check, functools.partial(loss, chosen, getattr(net, 'auxiliary', {})),
                functools.partial(observe, getattr(net, 'subnetworks', {})), results, predict)


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
    taught: Any = examples.get('taught')

    def judged(logits):
        value = chosen(batch, logits, labels, taught=taught)
        if 'share' not in examples:
            return value
        share = examples['share'][0]  # the same in the whole batch
        other = chosen(batch, logits, examples['other_label'], taught=taught)
        return share * value + (1 - share) * other

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
    the subnetworks ('column3/error', ...).

    Kept of each image are its 'label', whether the answer is 'wrong', the 'top' classes, int32
    [N, 5], with their 'probabilities', float32 [N, 5], and that of its label, 'true_probability'.
    """
    sums, kept, labels = {}, {}, examples['label']
    for name, arguments in {'': {}, **subnetworks}.items():
        logits, _ = apply(examples['image'], **arguments)
        values = {'loss': losses.cross_entropy(logits, labels),
                  'error': losses.top_k_error(logits, labels)}
        if logits.shape[-1] > 5:
            values['top5_error'] = losses.top_k_error(logits, labels, 5)
        sums |= {f'{name}/{key}' if name else key: value for key, value in values.items()}
        if not name:
            probabilities = predict(logits)['probabilities']
            highest, top = lax.top_k(probabilities, min(TOP, logits.shape[-1]))
            kept = {'label': labels, 'wrong': values['error'] > 0, 'top': top,
                    'probabilities': highest, 'true_probability': jnp.take_along_axis(
                        probabilities, labels[:, None], -1)[:, 0]}
    return sums, kept


def results(sums: Mapping[str, np.ndarray], kept: Mapping[str, np.ndarray], count: int,
            classes: Sequence[str]) -> dict[str, Any]:
    """The means over all examples, and 'ece', the expected calibration error. Arrays are what
    `observe` keeps, the 'calibration' (see `calibration`) and, unless there are very many classes,
    their 'confusion' matrix, int64 [classes, classes] with the truth in rows."""
    bins, size = calibration(kept['probabilities'][:, 0], ~kept['wrong']), len(classes)
    found = {name: float(total / count) for name, total in sums.items()}
    found |= {'ece': calibration_error(bins), **kept, 'calibration': bins}
    if size <= LARGEST:
        places = size * kept['label'].astype(np.int64) + kept['top'][:, 0]
        found['confusion'] = np.bincount(places, minlength=size * size).reshape(size, size)
    return found


def predict(outputs: jax.Array) -> dict[str, jax.Array]:
    """The 'probabilities' of the classes, float32 [N, classes]: the softmax of the logits."""
    return {'probabilities': jax.nn.softmax(outputs.astype(jnp.float32))}


def calibration(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> np.ndarray:
    """How often answers are right, by how sure they are: float64 [bins, 3], in each of the bins
    (0, 1/bins], (1/bins, 2/bins], ... the number of answers, their mean confidence and the share
    that is right; both are 0 in an empty bin.

    Guo et al. 2017, section 2, https://arxiv.org/abs/1706.04599.

    Args:
      confidence: float [N], the probabilities of the answers.
      right: bool [N].
    """
    confidence = np.asarray(confidence, np.float64)
    place = np.clip(np.ceil(confidence * bins) - 1, 0, bins - 1).astype(int)
    counts, sums, hits = (np.bincount(place, weights, bins)
                          for weights in (None, confidence, np.asarray(right, np.float64)))
    filled = np.maximum(counts, 1)
    return np.stack([counts, sums / filled, hits / filled], 1)


def calibration_error(bins: np.ndarray) -> float:
    """The expected calibration error of a `calibration`: by how much confidence and accuracy
    differ, averaged over all answers (Guo et al. 2017, equation 3)."""
    counts, confidence, accuracy = bins.T
    return float((counts * abs(accuracy - confidence)).sum() / counts.sum())
