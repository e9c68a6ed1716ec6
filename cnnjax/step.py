"""The state of a training and its two pure steps: one update, one batch of an evaluation."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from cnnjax import losses, transfer
from cnnjax.data.pipeline import MEMORY
from cnnjax.errors import UserError


class TrainState(NamedTuple):
    """All that a training changes; arrays only. Randomness is a function of the seed and `step`."""

    step: jax.Array  # int32 [], the updates done
    params: Any
    batch_stats: Any
    opt_state: Any


def create(net, tx, key, image_shape, frozen=frozenset()):
    """The state before the first step, for images [H, W, C]; the `frozen` layers (see transfer.py)
    have no optimizer state.

    Raises:
      UserError: the network has maps of scores (U-Net), or does not fit in memory.
    """
    # At its usual level LLVM works on the random numbers of a deep network for up to minutes. Where
    # this is traced (eval_shape), nothing compiles, and jit takes no options.
    compiles = jax.default_backend() == 'cpu' and not isinstance(key, jax.core.Tracer)
    fast = {'xla_backend_optimization_level': 1} if compiles else None

    @functools.partial(jax.jit, compiler_options=fast)
    def init(key):
        (logits, _), variables = net.init_with_output(key, jnp.zeros((1, *image_shape)),
                                                      train=False)
        if logits.ndim != 2:
            raise UserError(f'{type(net).__name__} has maps of scores {list(logits.shape[1:])}, '
                            'not one score per class: it cannot be trained to tell images apart')
        return variables

    size = sum(leaf.size for leaf in jax.tree.leaves(init.eval_shape(key)['params']))
    if 8 * size > MEMORY:  # float32, and what the optimizer remembers of each
        raise UserError(f'{type(net).__name__} has {size:,} parameters, more than the memory '
                        'holds: take fewer or narrower layers, or smaller images')
    variables = init(key)
    params = variables['params']
    return TrainState(jnp.zeros((), jnp.int32), params, variables.get('batch_stats', {}),
                      tx.init(transfer.split(params, frozen)[0]))


def train_step(state, data, batch, key, axis, *, net, tx, augment, smoothing=0.0, accumulate=1,
               frozen=frozenset()):
    """One update on one device's share of the batch: (new state, mean metrics of the batch).

    Args:
      data, batch: see `fetch`; `batch` also has 'position', int [B], each example's place in the
        global batch, which seeds its augmentation: the same on any number of devices.
      key: the run's; folded with `state.step`.
      axis: the mapped axis to reduce over, or None.
      augment: (key, positions, uint8 images) -> float images.
      accumulate: compute the gradient in that many micro-batches, one after the other.
      frozen: the layers that stay as they are; nothing is differentiated for them.
    """
    augment_key, shared_key, own_key = jax.random.split(jax.random.fold_in(key, state.step), 3)
    if axis is not None:  # dropout differs between devices; drop-path must not: all skip together
        own_key = jax.random.fold_in(own_key, lax.axis_index(axis))
    images, labels = fetch(data, batch)
    images = augment(augment_key, batch['position'], images)
    trainable, fixed = transfer.split(state.params, frozen)

    def loss(trainable, batch_stats, images, labels, i):
        with transfer.frozen_norms(frozen):
            (logits, taps), changed = net.apply(
                {'params': transfer.merge(trainable, fixed), 'batch_stats': batch_stats}, images,
                train=True, mutable=['batch_stats'],
                rngs={'dropout': jax.random.fold_in(own_key, i),
                      'drop_path': jax.random.fold_in(shared_key, i)})
        value = losses.cross_entropy(logits, labels, smoothing).mean()
        metrics = {'loss': value, 'error': losses.top_k_error(logits, labels).mean()}
        for name, weight in getattr(net, 'auxiliary', {}).items():  # not in the reported loss
            value += weight * losses.cross_entropy(taps[name], labels, smoothing).mean()
        return value, (changed.get('batch_stats', {}), metrics)

    gradient = jax.grad(loss, has_aux=True)

    def micro_batch(carry, inputs):
        batch_stats, total = carry
        grads, (batch_stats, metrics) = gradient(trainable, batch_stats, *inputs)
        return (batch_stats, jax.tree.map(jnp.add, total, (grads, metrics))), None

    if accumulate == 1:
        grads, (batch_stats, metrics) = gradient(trainable, state.batch_stats, images, labels, 0)
    else:
        chunks = jax.tree.map(lambda x: x.reshape(accumulate, -1, *x.shape[1:]), (images, labels))
        zeros = (jax.tree.map(jnp.zeros_like, trainable), {'loss': 0.0, 'error': 0.0})
        (batch_stats, total), _ = lax.scan(micro_batch, (state.batch_stats, zeros),
                                           (*chunks, jnp.arange(accumulate)))
        grads, metrics = jax.tree.map(lambda x: x / accumulate, total)
    # One reduction, of one tree, after the last micro-batch: the compiler sends it in few messages
    # (collectives.py). One device has none; its all-reduce would copy every gradient.
    if axis is not None and lax.axis_size(axis) > 1:
        grads, batch_stats, metrics = lax.pmean((grads, batch_stats, metrics), axis)
    updates, opt_state = tx.update(grads, state.opt_state, trainable)
    params = transfer.merge(optax.apply_updates(trainable, updates), fixed)
    # The mean over devices of equal statistics may differ from them in the last bit.
    batch_stats = transfer.merge(transfer.split(batch_stats, frozen)[0],
                                 transfer.split(state.batch_stats, frozen)[1])
    return TrainState(state.step + 1, params, batch_stats, opt_state), metrics


def train_steps(state, data, batches, key_and_count, axis, **arguments):
    """Several updates in one program, without a word from the host: (new state, metrics [S]).

    `batches` is as that of `train_step`, with a second axis of S steps; `key_and_count` is the key
    and how many of them to do, traced, so that one program serves any number up to S. The metrics
    of the others are 0.
    """
    key, count = key_and_count

    def body(i, carry):
        state, metrics = carry
        state, values = train_step(state, data, jax.tree.map(lambda x: x[:, i], batches), key,
                                   axis, **arguments)
        return state, jax.tree.map(lambda all, value: all.at[i].set(value), metrics, values)

    steps = batches['position'].shape[1]
    metrics = {name: jnp.zeros(steps) for name in ('loss', 'error')}
    return lax.fori_loop(0, count, body, (state, metrics))


def eval_step(variables, data, batch, key, axis, *, net, normalize):
    """Sums over the examples of one batch: ({}, {name: sum}).

    `batch` also has 'weight', float [B]: 1 for an example, 0 for padding. The names are 'count',
    'loss', 'error' and, above five classes, 'top5_error', then those of the network's subnetworks
    ('column3/error', ...), for networks that have any.
    """
    del key
    images, labels = fetch(data, batch)
    images, weight = normalize(images), batch['weight']
    sums = {'count': weight.sum()}
    for name, arguments in {'': {}, **getattr(net, 'subnetworks', {})}.items():
        logits, _ = net.apply(variables, images, train=False, **arguments)
        values = {'loss': losses.cross_entropy(logits, labels),
                  'error': losses.top_k_error(logits, labels)}
        if logits.shape[-1] > 5:
            values['top5_error'] = losses.top_k_error(logits, labels, 5)
        prefix = f'{name}/' if name else ''
        # where, not multiplication: a value of the padding, were it infinite, must not count
        sums |= {prefix + k: jnp.where(weight > 0, v, 0).sum() for k, v in values.items()}
    return {}, sums if axis is None else lax.psum(sums, axis)


def fetch(data, batch):
    """The examples of a batch: (images uint8 [B, H, W, C], labels int [B]).

    Either `batch` has them as 'image' and 'label', or it has their 'index' [B] in `data`, the whole
    set, which lives on the device.
    """
    if 'index' in batch:
        batch = {name: array[batch['index']] for name, array in data.items()}
    return batch['image'], batch['label']
