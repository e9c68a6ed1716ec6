"""Learning-rate schedules and momentum SGD in the two orders that the papers used."""

import collections
import math
from collections.abc import Collection, Sequence

import jax
import jax.numpy as jnp
import optax

from cnnjax.errors import UserError


def learning_rate(base: float, steps: int, *, schedule: str = 'step', drops: Sequence[int] = (),
                  factor: float = 0.1, warmup: int = 0, warmup_shape: str = 'constant',
                  warmup_rate: float = 0.0) -> optax.Schedule:
    """The learning rate as a function of the step (0-based); all lengths are in steps.

    Args:
      base: the rate after the warm-up.
      steps: the length of the training; only 'cosine' depends on it.
      schedule: 'step' multiplies by `factor` from each of `drops` on; 'cosine' falls to 0 at
        `steps` (Loshchilov & Hutter 2016, https://arxiv.org/abs/1608.03983); 'constant'.
      warmup: the length of the warm-up; `warmup_shape` 'constant' holds `warmup_rate` (He et al.
        2015, section 4.2), 'linear' rises from it to `base` (Goyal et al. 2017).
    """
    if schedule == 'step':
        after = optax.piecewise_constant_schedule(
            base, {drop - warmup: math.prod([factor] * times)  # join_schedules restarts the count
                   for drop, times in collections.Counter(drops).items() if drop < steps})
    elif schedule == 'cosine':
        after = optax.cosine_decay_schedule(base, max(steps - warmup, 1))
    elif schedule == 'constant':
        after = optax.constant_schedule(base)
    else:
        raise UserError(f"schedule is 'step', 'cosine' or 'constant', not '{schedule}'")
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


def momentum_sgd(rate: float | optax.Schedule, *, momentum: float = 0.9, nesterov: bool = False,
                 weight_decay: float = 0.0, decay: str = 'all', order: str = 'torch',
                 bias_rate: float = 1.0, head_rate: float = 1.0,
                 head: Collection[str] = (),
                 clip_norm: float = 0.0) -> optax.GradientTransformation:
    """Momentum SGD with L2 weight decay; `rate` is a number or a schedule.

    Args:
      decay: the parameters that decay: 'all'; 'kernels' (no bias, no batch normalization); or
        'kernels_except_depthwise', without layers named so (MobileNet's have 9 weights a channel).
      order: 'torch', v = momentum v + g, w -= rate v; or 'caffe', v = momentum v + rate g,
        w -= v. They differ in the steps after the rate has changed.
      bias_rate: multiplies the learning rate of the biases (2 in Caffe's examples).
      head_rate: multiplies that of the layers `head`, paths of modules.
      clip_norm: scales a longer gradient of all parameters together down to this norm, before the
        decay is added (Pascanu et al. 2012, section 3.2, https://arxiv.org/abs/1211.5063); 0: none.
    """
    masks = {'all': None, 'kernels': _named('kernel'),
             'kernels_except_depthwise': _named('kernel', outside='depthwise')}
    if decay not in masks:
        raise UserError(f"decay is one of {', '.join(masks)}, not '{decay}'")
    parts = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    parts.append(optax.add_decayed_weights(weight_decay, masks[decay]))
    if bias_rate != 1:
        parts.append(optax.masked(optax.scale(bias_rate), _named('bias')))
    if head_rate != 1:
        parts.append(optax.masked(optax.scale(head_rate), _within(head)))
    if callable(schedule := rate):  # it divides the step, which must then be a float
        def rate(step):
            return schedule(step.astype(jnp.float32))

    trace, scale = optax.trace(momentum, nesterov), optax.scale_by_learning_rate(rate)
    if order not in ('torch', 'caffe'):
        raise UserError(f"order is 'torch' or 'caffe', not '{order}'")
    parts += [trace, scale] if order == 'torch' else [scale, trace]
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
