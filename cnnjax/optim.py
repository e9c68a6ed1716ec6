"""Learning-rate schedules and optimizers; those with a velocity in the two orders of the papers."""

import collections
import math
from collections.abc import Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cnnjax import limits
from cnnjax.errors import UserError, suggest
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
          'layer_rates', 'clip_norm', 'max_norm')
# Those that are texts with a number for each of some layers, and the limits of these numbers.
OF_LAYERS = {'layer_rates': Number(0), 'max_norm': Number(above=0)}


def of_layers(field: str, text: str) -> dict[str, float]:
    """'h0: 0.9, y: 2' -> {'h0': 0.9, 'y': 2.0}; '0.9', for all layers, -> {'': 0.9}.

    Raises:
      UserError: it is not such a text, or a number is not within the limits of the field.
    """
    values = {}
    for part in filter(None, map(str.strip, text.split(','))):
        layer, _, number = map(str.strip, part.rpartition(':'))
        try:
            value = float(number)
        except ValueError:
            value = None
        if value is None or layer in values:
            raise UserError(f"{field}='{text}': give a number for all layers, or layers with a "
                            "number each, as in 'conv1: 0.5, fc: 2'")
        limits.check({field: value}, {field: OF_LAYERS[field]})
        values[layer] = value
    return values


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
           head_rate: float = 1.0, head: Collection[str] = (), layer_rates: str = '',
           clip_norm: float = 0.0, max_norm: str = '',
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
      layer_rates: multiplies that of some layers and what is inside them, see `of_layers`.
      clip_norm: scales a longer gradient of all parameters together down to this norm, before the
        decay is added (Pascanu et al. 2012, section 3.2, https://arxiv.org/abs/1211.5063); 0: none.
      max_norm: where an update makes the weights of a unit, the kernel of an output channel, longer
        than this, they are scaled down to it (Srebro & Shraibman 2005; Hinton et al. 2012, section
        2, https://arxiv.org/abs/1207.0580); see `of_layers`. '': none.
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
    parts += [optax.masked(optax.scale(value), _below('layer_rates', layer))
              for layer, value in of_layers('layer_rates', layer_rates).items()]
    if callable(schedule := rate):  # it divides the step, which must then be a float
        def rate(step):
            return schedule(step.astype(jnp.float32))

    scales = [*([factor] if factor else []), optax.scale_by_learning_rate(rate)]
    velocity = [] if optimizer == 'adamw' else [optax.trace(momentum, nesterov)]
    parts += velocity + scales if order == 'torch' else scales + velocity
    parts += [optax.masked(_at_most(value), _below('max_norm', layer, 'kernel'))
              for layer, value in of_layers('max_norm', max_norm).items()]
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


def _below(field, layer, name=None):
    """A mask: True for the parameters of a layer and of what is inside it, '' for all, if they have
    that name of their own. The mask raises UserError if there are none."""
    def mask(params):
        def inside(path, _):
            found = '/'.join(part.key for part in path)
            return (found.startswith(f'{layer}/' if layer else '')
                    and name in (None, path[-1].key))

        chosen = jax.tree_util.tree_map_with_path(inside, params)
        if not any(jax.tree.leaves(chosen)):
            layers = {'/'.join(part.key for part in path[:-1])
                      for path, _ in jax.tree.leaves_with_path(params)}
            raise UserError(f"{field}: there is no layer '{layer}' that learns"
                            f'{suggest(layer, sorted(layers))}')
        return chosen

    return mask


def _at_most(limit: float) -> optax.GradientTransformation:
    """Shortens updates so that no output channel's kernel gets a norm above the limit."""
    def shortened(update, kernel):
        new = kernel + update
        norm = jnp.sqrt((new ** 2).sum(range(new.ndim - 1), keepdims=True))
        return jnp.where(norm > limit, new * (limit / jnp.maximum(norm, limit)) - kernel, update)

    def update(updates: Any, params: Any) -> Any:
        return jax.tree.map(shortened, updates, params)

    return optax.stateless(update)
