"""Learning-rate schedules and optimizers; those with a velocity in the two orders of the papers."""

import collections
import math
from collections.abc import Collection, Sequence

import jax
import jax.numpy as jnp
import optax

from cnnjax.errors import UserError
from cnnjax.limits import Number, Used

OPTIMIZERS = ('sgd', 'rmsprop', 'adamw')
SCHEDULES = ('step', 'cosine', 'linear', 'constant', 'plateau')
LIMITS = {
    'learning_rate': Number(0), 'drops': Number(0), 'drop_factor': Number(0, 1e300),
    'warmup': Number(0), 'warmup_rate': Number(0), 'optimizer': OPTIMIZERS,
    'momentum': Number(0, below=1), 'rmsprop_decay': Number(0, below=1),
    'rmsprop_epsilon': Number(above=0), 'adamw_beta2': Number(0, below=1),
    'adamw_epsilon': Number(above=0), 'weight_decay': Number(0), 'bias_rate': Number(0),
    'head_rate': Number(0), 'clip_norm': Number(0)}
USED = {
    'nesterov': Used('optimizer', ('sgd', 'rmsprop'), False),
    'order': Used('optimizer', ('sgd', 'rmsprop'), 'torch'),
    'rmsprop_decay': Used('optimizer', ('rmsprop',), 0.9),
    'rmsprop_epsilon': Used('optimizer', ('rmsprop',), 1.0),
    'adamw_beta2': Used('optimizer', ('adamw',), 0.999),
    'adamw_epsilon': Used('optimizer', ('adamw',), 1e-8)}
# The fields of a config that `create` takes.
FIELDS = ('optimizer', 'momentum', 'nesterov', 'order', 'rmsprop_decay', 'rmsprop_epsilon',
          'adamw_beta2', 'adamw_epsilon', 'weight_decay', 'decay', 'bias_rate', 'head_rate',
          'clip_norm')


def learning_rate(base: float, steps: int, *, schedule: str = 'step', drops: Sequence[int] = (),
                  factor: float = 0.1, warmup: int = 0, warmup_shape: str = 'constant',
                  warmup_rate: float = 0.0) -> optax.Schedule:
    """The learning rate as a function of the step (0-based); all lengths are in steps.

    Args:
      base: the rate after the warm-up.
      steps: the length of the training; only 'cosine' and 'linear' depend on it.
      schedule: 'step' multiplies by `factor` from each of `drops` on; 'cosine' falls to 0 at
        `steps` (Loshchilov & Hutter 2016, https://arxiv.org/abs/1608.03983), and 'linear' by the
        same amount in each step; 'constant' and 'plateau' stay, and what multiplies the rate after
        a plateau is no function of the step (see plateau.py).
      warmup: the length of the warm-up; `warmup_shape` 'constant' holds `warmup_rate` (He et al.
        2015, section 4.2), 'linear' rises from it to `base` (Goyal et al. 2017).
    """
    if schedule == 'step':
        after = optax.piecewise_constant_schedule(
            base, {drop - warmup: math.prod([factor] * times)  # join_schedules restarts the count
                   for drop, times in collections.Counter(drops).items() if drop < steps})
    elif schedule == 'cosine':
        after = optax.cosine_decay_schedule(base, max(steps - warmup, 1))
    elif schedule == 'linear':
        after = optax.linear_schedule(base, 0.0, max(steps - warmup, 1))
    elif schedule in SCHEDULES:
        after = optax.constant_schedule(base)
    else:
        raise UserError(f"schedule is one of {', '.join(SCHEDULES)}, not '{schedule}'")
    if not warmup:
        return after
    if warmup > steps:
        raise UserError(f'warmup: its {warmup} steps are more than the {steps} of the training; '
                        'shorten it, or take warmup=0')
    if warmup_shape == 'linear':
        before = optax.linear_schedule(warmup_rate, base, warmup)
    elif warmup_shape == 'constant':
        before = optax.constant_schedule(warmup_rate)
    else:
        raise UserError(f"warmup_shape is 'constant' or 'linear', not '{warmup_shape}'")
    return optax.join_schedules([before, after], [warmup])


def create(rate: float | optax.Schedule, *, optimizer: str = 'sgd', momentum: float = 0.9,
           nesterov: bool = False, order: str = 'torch', rmsprop_decay: float = 0.9,
           rmsprop_epsilon: float = 1.0, adamw_beta2: float = 0.999, adamw_epsilon: float = 1e-8,
           weight_decay: float = 0.0, decay: str = 'all', bias_rate: float = 1.0,
           head_rate: float = 1.0, head: Collection[str] = (), clip_norm: float = 0.0,
           factor: optax.GradientTransformation | None = None) -> optax.GradientTransformation:
    """An optimizer with weight decay; `rate` is a number or a schedule.

    Args:
      optimizer: 'sgd'; 'rmsprop', TensorFlow's: g / sqrt(s + epsilon) takes the place of the
        gradient g, where s, at first 1, is a moving average of g^2 (Tieleman & Hinton 2012,
        https://www.tensorflow.org/api_docs/python/tf/compat/v1/train/RMSPropOptimizer); or
        'adamw' (Loshchilov & Hutter 2017, https://arxiv.org/abs/1711.05101). Weight decay is added
        to the gradient, but AdamW, as torch has it, subtracts rate * decay * w on its own.
      momentum: the share of the velocity v that is kept; AdamW's beta1.
      nesterov: use Nesterov's momentum; not for AdamW.
      order: 'torch', v = momentum v + g, w -= rate v; or 'caffe', v = momentum v + rate g, w -= v,
        which is TensorFlow's too. They differ in the steps after the rate has changed. AdamW has
        no velocity and knows only 'torch'.
      rmsprop_decay, rmsprop_epsilon: the share of s that is kept, and epsilon.
      adamw_beta2, adamw_epsilon: the share of the mean of g^2 that is kept, and what is added to
        its root.
      decay: the parameters that decay: 'all'; 'kernels' (no bias, no batch normalization); or
        'kernels_except_depthwise', without layers named so (MobileNet's have 9 weights a channel).
      bias_rate: multiplies the learning rate of the biases (2 in Caffe's examples).
      head_rate: multiplies that of the layers `head`, paths of modules.
      clip_norm: scales a longer gradient of all parameters together down to this norm, before the
        decay is added (Pascanu et al. 2012, section 3.2, https://arxiv.org/abs/1211.5063); 0: none.
      factor: a further transformation that multiplies the rate (see plateau.py).
    """
    masks = {'all': None, 'kernels': _named('kernel'),
             'kernels_except_depthwise': _named('kernel', outside='depthwise')}
    for field, given, known in (('decay', decay, masks), ('order', order, ('torch', 'caffe')),
                                ('optimizer', optimizer, OPTIMIZERS)):
        if given not in known:
            raise UserError(f"{field} is one of {', '.join(known)}, not '{given}'")
    decayed = optax.add_decayed_weights(weight_decay, masks[decay])
    parts = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    parts += {'sgd': [decayed],
              'rmsprop': [decayed, optax.scale_by_rms(rmsprop_decay, rmsprop_epsilon, 1.0)],
              'adamw': [optax.scale_by_adam(momentum, adamw_beta2, adamw_epsilon), decayed],
              }[optimizer]
    if bias_rate != 1:
        parts.append(optax.masked(optax.scale(bias_rate), _named('bias')))
    if head_rate != 1:
        parts.append(optax.masked(optax.scale(head_rate), _within(head)))
    if callable(schedule := rate):  # it divides the step, which must then be a float
        def rate(step):
            return schedule(step.astype(jnp.float32))

    scales = [*([factor] if factor else []), optax.scale_by_learning_rate(rate)]
    velocity = [] if optimizer == 'adamw' else [optax.trace(momentum, nesterov)]
    parts += velocity + scales if order == 'torch' else scales + velocity
    return optax.chain(*parts)


def _named(name, outside=None):
    """A mask: True for the parameters whose own name is `name`, unless their layer's is `outside`.
    """
    return lambda params: jax.tree_util.tree_map_with_path(
        lambda path, _: path[-1].key == name and outside not in {part.key for part in path}, params)


def _within(layers):
    """A mask: True for the parameters of these layers."""
    return lambda params: jax.tree_util.tree_map_with_path(
        lambda path, _: '/'.join(part.key for part in path[:-1]) in layers, params)
