"""A learning rate that falls when the error stops falling, as VGG and ResNet were trained.

Simonyan & Zisserman 2014, section 3.1, divided it by 10 when the accuracy on the validation set
stopped improving, and He et al. 2015, section 3.4, when the error reached a plateau. The rule is
optax's, https://optax.readthedocs.io/en/latest/api/contrib.html#reduce-on-plateau. It hears of the
error of each evaluation, and its state is part of the optimizer's, which checkpoints hold.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from ml_collections import ConfigDict
from optax.contrib import ReduceLROnPlateauState, reduce_on_plateau

from cnnjax.errors import UserError
from cnnjax.limits import Number, Used, Whole

LIMITS = {'plateau_patience': Whole(1), 'plateau_threshold': Number(above=0, below=1)}
USED = {'plateau_patience': Used('schedule', ('plateau',), 5),
        'plateau_threshold': Used('schedule', ('plateau',), 1e-4)}


class Plateau(NamedTuple):
    """When the rate falls, and how far. It is multiplied by `factor` after `patience` evaluations
    in a row whose error was not lower, by the share `threshold`, than the lowest before. Those of
    the first `warmup` steps do not count."""

    factor: float
    patience: int
    threshold: float
    warmup: int = 0

    @property
    def _rule(self):
        return reduce_on_plateau(self.factor, self.patience, self.threshold)

    @property
    def multiplier(self) -> optax.GradientTransformation:
        """Optax's transformation that multiplies by the product of the factors so far."""
        def update(updates, state, params=None):
            del params
            return jax.tree.map(lambda update: state.scale * update, updates), state

        return optax.GradientTransformation(self._rule.init, update)

    def after(self, opt_state: Any, done: int, error: float) -> Any:
        """The optimizer's state after an evaluation with this error, `done` steps into a training.
        """
        if done <= self.warmup:
            return opt_state

        def changed(part):
            if not _is_own(part):
                return part
            compiled = jax.jit(lambda part, error: self._rule.update((), part, value=error)[1],
                               out_shardings=part.scale.sharding)
            return compiled(part, np.float32(error))

        return jax.tree.map(changed, opt_state, is_leaf=_is_own)


def scale(opt_state: Any) -> float:
    """The product of the factors so far; 1 without a Plateau."""
    parts = [part for part in jax.tree.leaves(opt_state, is_leaf=_is_own) if _is_own(part)]
    return float(np.prod([jax.device_get(part.scale) for part in parts]))


def _is_own(part):
    return isinstance(part, ReduceLROnPlateauState)


def check(config: ConfigDict) -> None:
    """Raises UserError if the rate of a config would follow the error and cannot."""
    if config.schedule != 'plateau':
        return
    if not config.eval_every:
        raise UserError("schedule='plateau' follows the error of the evaluations, and eval_every=0 "
                        'has none before the end: set eval_every')
    if not 0 < config.drop_factor < 1:
        raise UserError(f"drop_factor={config.drop_factor}: with schedule='plateau' the rate falls "
                        'by a factor between 0 and 1')
