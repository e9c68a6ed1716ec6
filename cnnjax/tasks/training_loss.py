"""The loss that a config asks for: a weighted sum of those in losses.py."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from cnnjax import losses
from cnnjax.errors import UserError, suggest
from cnnjax.limits import Number
from cnnjax.tasks.task import WholeBatch

# Losses of single predictions, of images or of pixels.
PREDICTIONS = ('cross_entropy', 'focal', 'squared_hinge')
REGIONS = ('dice',)  # losses of whole maps of predictions
TAUGHT = ('distillation',)  # losses that compare a classifier with its teacher, see distillation.py
HINT = 'hint'  # the loss of a stage of its own, see hint.py
LIMITS = {
    'label_smoothing': Number(0, 1), 'class_weights': Number(0), 'balanced': (False, True),
    'weight_map': Number(0), 'weight_map_sigma': Number(1e-3),
    'loss_denominator': ('weights', 'pixels', 'images'), 'focal_gamma': Number(0),
    'dice_sums': ('image', 'batch'), 'dice_smoothing': Number(0), 'dice_squared': (False, True),
    'dice_background': (False, True), 'dice_absent': (False, True),
    'temperature': Number(above=0), 'distillation_fall': Number(0),
    'distillation_last': Number(0)}

# The losses that each option changes.
CHANGED = {
    'label_smoothing': ('cross_entropy',), 'class_weights': PREDICTIONS, 'balanced': PREDICTIONS,
    'weight_map': PREDICTIONS, 'loss_denominator': PREDICTIONS, 'focal_gamma': ('focal',),
    **dict.fromkeys(
        ('dice_sums', 'dice_smoothing', 'dice_squared', 'dice_background', 'dice_absent'), REGIONS),
    **dict.fromkeys(('temperature', 'distillation_fall', 'distillation_last'), TAUGHT)}


class TrainingLoss(NamedTuple):
    """A weighted sum of losses with their options, by the names of configs/base.py.

    A call is the loss of a batch, []; it is differentiable.
    """

    terms: tuple[tuple[str, float], ...] = (('cross_entropy', 1.0),)  # (name, factor)
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()
    loss_denominator: str = 'weights'
    focal_gamma: float = 2.0
    dice_sums: str = 'image'
    dice_smoothing: float = 1.0
    dice_squared: bool = False
    dice_background: bool = False
    dice_absent: bool = False
    temperature: float = 3.0

    def __call__(self, batch: WholeBatch, logits: jax.Array, labels: jax.Array,
                 counts: jax.Array | None = None, extra: jax.Array | None = None,
                 taught: Mapping[str, jax.Array] | None = None) -> jax.Array:
        """The loss of a device's share of a batch, see task.WholeBatch.

        Args:
          logits: [N, K] or [N, H, W, K].
          labels: int [N] or [N, H, W].
          counts: bool, like the labels, whether each prediction counts; None: all do.
          extra: float32, like the labels, added to the weight of each prediction; None: 0.
          taught: what a teacher says of the images, see distillation.Teaching; None: there is none.
        """
        def term(name):
            if name == 'distillation' and taught:
                value = batch.mean(losses.distillation(logits, taught['logits'], self.temperature))
                return taught['share'][0] * value  # the share is the same in the whole batch
            if name == 'dice':
                total = {'image': lambda sums: sums, 'batch': batch.total}[self.dice_sums]
                return batch.mean(losses.dice(
                    logits, labels, counts, squared=self.dice_squared,
                    smoothing=self.dice_smoothing, background=self.dice_background,
                    absent=self.dice_absent, total=total))
            values = {'cross_entropy': partial(losses.cross_entropy,
                                               smoothing=self.label_smoothing),
                      'focal': partial(losses.focal, gamma=self.focal_gamma),
                      'squared_hinge': losses.squared_hinge}[name](logits, labels)
            return self._mean(batch, values, self._weights(labels, extra), counts)

        value: Any = sum(factor * term(name) for name, factor in self.terms)
        return value

    def of_tags(self, batch: WholeBatch, logits: jax.Array, tags: jax.Array) -> jax.Array:
        """The loss of a device's share of a batch whose images have tags; class_weights multiply
        the loss of the tags that are 1.

        Args:
          logits: [N, K].
          tags: 0 or 1, [N, K].
        """
        positive = (jnp.asarray(self.class_weights, jnp.float32)[None] if self.class_weights
                    else 1.0)

        def term(name):
            values = {'cross_entropy': partial(losses.binary_cross_entropy,
                                               smoothing=self.label_smoothing),
                      'focal': partial(losses.binary_focal, gamma=self.focal_gamma),
                      'squared_hinge': losses.binary_squared_hinge}[name](
                          logits, tags, positive=positive)
            return batch.mean(values.mean(-1))

        value: Any = sum(factor * term(name) for name, factor in self.terms)
        return value

    def _weights(self, labels, extra):
        """The weight of each prediction; None: all are 1."""
        if not self.class_weights:
            return None if extra is None else 1 + extra
        weights = jnp.asarray(self.class_weights, jnp.float32)[labels]
        return weights if extra is None else weights + extra

    def _mean(self, batch, values, weights, counts):
        """The sum of the weighted values that count, divided as `loss_denominator` says."""
        if weights is not None and self.loss_denominator == 'weights':
            counts = weights if counts is None else jnp.where(counts, weights, 0)
        elif weights is not None:
            values = weights * values
        if self.loss_denominator == 'images' and counts is not None:
            values, counts = jnp.where(counts, values, 0).sum((1, 2)), None
        return batch.mean(values, counts)


CROSS_ENTROPY = TrainingLoss()


def of_config(config: ConfigDict, target: str, classes: int | None = None) -> TrainingLoss:
    """The TrainingLoss of a config, for a task with that target (see tasks.target) and, if they are
    known, that number of classes.

    Raises:
      UserError: a field does not fit the others, the target or the classes.
    """
    defaults = {'loss': 'cross_entropy', 'weight_map': 0.0, 'balanced': False,
                'distillation_fall': 0.0, 'distillation_last': 1.0,
                **CROSS_ENTROPY._asdict()}
    owners = {'boxes': 'a detector has a loss of its own, which fields of model change',
              'image': "task='stylize' has a loss of its own"}
    if target in owners:
        for field in ('loss', *CHANGED):
            if config[field] != defaults[field]:
                raise UserError(f'{field}={config[field]}: {owners[target]}: leave {field} out')
        return CROSS_ENTROPY
    terms = _terms(config.loss, (*PREDICTIONS, HINT, *{'mask': REGIONS, 'label': TAUGHT}.get(
        target, ())))
    names = dict(terms)
    for field, wanted in CHANGED.items():
        if config[field] != defaults[field] and not names.keys() & set(wanted):
            raise UserError(f'{field}={config[field]} changes {" and ".join(wanted)}, which '
                            f"loss='{config.loss}' does not have: leave it out")
    if config.class_weights and not any(config.class_weights):
        raise UserError(f'class_weights={config.class_weights}: at least one must be above 0')
    if config.class_weights and classes not in (None, len(config.class_weights)):
        raise UserError(f'class_weights has {len(config.class_weights)} numbers for {classes} '
                        'classes: give one to each')
    if target == 'tags' and config.loss_denominator != 'weights':
        raise UserError(f'loss_denominator={config.loss_denominator}: task=multilabel averages the '
                        'loss over images and classes, and multiplies that of the tags of a class '
                        'by its class_weights: leave it out')
    if config.balanced and config.class_weights:
        raise UserError(f'class_weights={config.class_weights} and balanced=True: leave one out')
    if config.weight_map and target != 'mask':
        raise UserError(f"weight_map={config.weight_map} weighs the pixels of masks: it needs "
                        "task='segment'")
    return TrainingLoss(terms, **{name: config[name] for name in TrainingLoss._fields[1:]})


def _terms(text, allowed):
    """'cross_entropy+0.5*dice' -> (('cross_entropy', 1.0), ('dice', 0.5))"""
    terms = {}
    for part in text.split('+'):
        factor, _, name = (piece.strip() for piece in part.rpartition('*'))
        if name not in allowed:
            if name in TAUGHT:
                raise UserError(f"loss='{text}': {name} compares the classes of images: it needs "
                                "task='classify'")
            if name in REGIONS:
                raise UserError(f"loss='{text}': {name} compares masks: it needs task='segment'")
            raise UserError(f"loss='{text}': '{name}' is none of {', '.join(allowed)}"
                            + suggest(name, allowed))
        try:
            terms[name] = float(factor or 1) if name not in terms else 0
        except ValueError:
            terms[name] = 0
        if not 0 < terms[name] < math.inf:
            raise UserError(f"loss='{text}': give each loss once, with a positive factor, as in "
                            "'cross_entropy+0.5*dice'")
    if HINT in terms and len(terms) > 1:
        raise UserError(f"loss='{text}': {HINT} is the loss of a first stage, and stands alone; a "
                        'second stage begins with its weights, as init_from')
    return tuple(terms.items())
