"""Converts the lengths of a training, in epochs or in steps, to steps."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jax.typing import ArrayLike
from ml_collections import ConfigDict

from cnnjax import optim
from cnnjax.averages import Average
from cnnjax.errors import UserError
from cnnjax.limits import Number, Whole
from cnnjax.plateau import Plateau, scale

LIMITS = {'epochs': Number(0), 'steps': Whole(), 'report_every': Whole(), 'eval_every': Number(0),
          'checkpoint_every': Number(0), 'histograms': Whole()}
MOST = 2 ** 31 - 1  # The most steps that 32 bits can count.


class Plan(NamedTuple):
    """The lengths of a training in steps, its learning rates, and the number of evaluations between
    two histograms."""

    steps: int
    steps_per_epoch: int
    rate: Callable[[ArrayLike], Any]  # step -> learning rate
    report_every: int
    eval_every: int
    checkpoint_every: int
    histograms: int = 0
    average: Average | None = None  # None: no average of the weights is kept
    plateau: Plateau | None = None  # lowers the rate when the error stops falling
    patience: int = 0  # evaluations without a lower error that end the training; 0: none do

    def at(self, opt_state: Any) -> 'Plan':
        """The Plan with the learning rates that its `plateau` has led to, for the steps since."""
        if not self.plateau:
            return self
        factor = scale(opt_state)
        return self._replace(rate=lambda step: factor * self.rate(step))

    def due(self, done: int, every: int) -> bool:
        """Whether an event that is due `every` so many steps, and at the end, is due now."""
        return done == self.steps or (every > 0 and done % every == 0)

    def histograms_due(self, done: int) -> bool:
        """Whether the evaluation now is one with histograms of the weights."""
        return self.histograms > 0 and self.due(done, self.histograms * self.eval_every)

    def until_due(self, done: int) -> int:
        """The number of steps from `done` to the next report, evaluation, checkpoint or end."""
        return min([self.steps - done, *(
            every - done % every for every in (self.report_every, self.eval_every,
                                               self.checkpoint_every) if every > 0)])


def plan(config: ConfigDict, examples: int) -> Plan:
    """The Plan of a training on so many examples.

    Raises:
      UserError: a batch is larger than the set, or the training has no steps or too many.
    """
    per_epoch = examples // config.batch_size
    if not per_epoch:
        raise UserError(f'batch_size={config.batch_size} is more than the {examples} training '
                        'images: take a smaller one')

    def in_steps(length):
        return round(length if config.steps else length * per_epoch)

    steps = config.steps or in_steps(config.epochs)
    if steps < 1:
        raise UserError(f'epochs={config.epochs} and steps={config.steps}: nothing to train')
    if steps > MOST:
        raise UserError(f'epochs={config.epochs} are {steps:,} steps: take fewer')
    rate = optim.learning_rate(
        config.learning_rate, steps, schedule=config.schedule, factor=config.drop_factor,
        drops=tuple(map(in_steps, config.drops)), warmup=in_steps(config.warmup),
        warmup_shape=config.warmup_shape, warmup_rate=config.warmup_rate)
    every = {name: max(in_steps(config[name]), 1) if config[name] else 0
             for name in ('eval_every', 'checkpoint_every')}
    average = Average(config.average, in_steps(config.average_start), config.average_every,
                      config.average_decay) if config.average else None
    plateau = Plateau(config.drop_factor, config.plateau_patience, config.plateau_threshold,
                      in_steps(config.warmup)) if config.schedule == 'plateau' else None
    return Plan(steps, per_epoch, rate, config.report_every, **every,
                histograms=config.histograms, average=average, plateau=plateau,
                patience=config.patience)
