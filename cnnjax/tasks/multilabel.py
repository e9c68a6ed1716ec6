"""Multi-label classification: which classes an image shows, none or many, learned from its tags."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import losses
from cnnjax.errors import UserError
from cnnjax.tasks import classify
from cnnjax.tasks.task import LossAndMetrics, Observed, Task, WholeBatch
from cnnjax.tasks.training_loss import CROSS_ENTROPY, TrainingLoss

TARGET = 'tags'
LEAST = 0.5  # A class with at least this probability is predicted.


def create(net: nn.Module, chosen: TrainingLoss = CROSS_ENTROPY) -> Task:
    """The task for networks with logits [N, classes], whose sigmoids are the probabilities of the
    classes. The losses of `auxiliary` heads, {tap: weight}, are added if the network has any."""
    return Task(classify.check, functools.partial(loss, chosen, getattr(net, 'auxiliary', {})),
                observe, results, predict)


def loss(chosen: TrainingLoss, auxiliary: Mapping[str, float], apply: Callable,
         examples: Mapping[str, jax.Array], batch: WholeBatch) -> LossAndMetrics:
    """The chosen loss with that of the auxiliary heads, and the metrics 'loss' and 'tag_error', the
    share of the tags that is wrong, which leave the heads out."""
    tags = examples['tags']
    logits, taps, batch_stats = apply(examples['image'])
    value = chosen.of_tags(batch, logits, tags)
    metrics = {'loss': value, 'tag_error': batch.mean(_wrong(logits, tags).mean(-1))}
    for name, weight in auxiliary.items():
        value += weight * chosen.of_tags(batch, taps[name], tags)
    return value, (metrics, batch_stats)


def observe(apply: Callable, examples: Mapping[str, jax.Array]) -> Observed:
    """The 'loss' of each image, the mean over its tags, and its 'tag_error'. Its 'probabilities',
    float32 [N, classes], and its 'tags' are kept."""
    logits, _ = apply(examples['image'])
    tags = examples['tags']
    return {'loss': losses.binary_cross_entropy(logits, tags).mean(-1),
            'tag_error': _wrong(logits, tags).mean(-1)}, {**predict(logits), 'tags': tags}


def results(sums: Mapping[str, np.ndarray], kept: Mapping[str, np.ndarray], count: int,
            classes: Sequence[str]) -> dict[str, Any]:
    """The results of all images together.

    'ap' is the mean of 'ap/<class>', the average precision when the images are ranked by the
    probability of the class, as sklearn.metrics.average_precision_score defines it, and 'error' is
    1 - ap. Predictions are the classes whose probability is at least LEAST: 'micro_f1' is the F1 of
    all of them together, 'macro_f1' the mean over the classes, 'exact_match' the share of the
    images whose tags are all right, and 'tag_error' the share of the tags that is wrong. 'absent'
    is how many classes no image has; they have no average precision, and are in no mean. 'loss' is
    the mean binary cross-entropy. Arrays are the 'probabilities' and the 'tags', [count, classes];
    a probability that is not a number ranks last.

    Raises:
      UserError: no image has any class.
    """
    from sklearn import metrics  # here, because the import takes a second

    tags, probabilities = kept['tags'], np.nan_to_num(kept['probabilities'])
    seen = np.flatnonzero(tags.any(0)).tolist()
    if not seen:
        raise UserError('no image has any of the classes: there is nothing to measure')
    precisions = [float(metrics.average_precision_score(tags[:, i], probabilities[:, i]))
                  for i in seen]
    found = probabilities >= LEAST
    # Not f1_score, which takes a single class for one of two.
    right, either = (found & (tags > 0)).sum(0)[seen], (found + tags).sum(0, dtype=int)[seen]
    f1 = {'micro_f1': float(2 * right.sum() / either.sum()),
          'macro_f1': float((2 * right / either).mean())}
    mean = float(np.mean(precisions))
    return {**{name: float(total / count) for name, total in sums.items()},
            'error': 1 - mean, 'ap': mean, **f1,
            'exact_match': float((found == tags).all(1).mean()),
            **{f'ap/{classes[i]}': value for i, value in zip(seen, precisions, strict=True)},
            'absent': len(classes) - len(seen), **kept}


def predict(outputs: jax.Array) -> dict[str, jax.Array]:
    """The 'probabilities' of the classes, float32 [N, classes]: the sigmoids of the logits."""
    return {'probabilities': jax.nn.sigmoid(outputs.astype(jnp.float32))}


def _wrong(logits, tags):
    return ((logits >= 0) != (tags > 0)).astype(jnp.float32)
