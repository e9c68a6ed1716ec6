"""The state of a training and its two pure steps: one update, and one batch of an evaluation.

The task (see tasks/) knows what is learned: these steps never look at the targets of examples.
"""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from cnnjax import memory, parallel, transfer
from cnnjax.averages import Average
from cnnjax.errors import UserError
from cnnjax.tasks.task import Task, WholeBatch

Batch = Mapping[str, jax.Array]  # examples, or where they are in the whole set: see `fetch`


class TrainState(NamedTuple):
    """All that training changes; arrays only. Randomness depends only on the seed and `step`."""

    step: jax.Array  # int32 [], the number of updates so far
    params: Any
    batch_stats: Any
    opt_state: Any
    average: Any = {}  # the mean {'params', 'batch_stats'}, see averages.py; {}: there is none

    @property
    def variables(self) -> dict[str, Any]:
        """{'params', 'batch_stats'} for evaluations: the average, if there is one."""
        return self.average or {'params': self.params, 'batch_stats': self.batch_stats}


def create(net: nn.Module, tx: optax.GradientTransformation, key: jax.Array,
           image_shape: Sequence[int], frozen: Collection[str] = frozenset(),
           check: Callable[[jax.Array], None] = lambda outputs: None,
           averaging: bool = False) -> TrainState:
    """The state before the first step, for images [H, W, C]. Layers in `frozen` (see transfer.py)
    have no optimizer state. `check` is called with the traced outputs for one image. If it is to be
    `averaging`, the state has room for an average.

    Raises:
      UserError: the network does not fit in memory; or what `check` raises.
    """
    # At its usual level LLVM takes up to minutes to compile the random numbers of a deep network.
    # While this function is traced (eval_shape), nothing compiles and jit takes no options.
    compiles = jax.default_backend() == 'cpu' and not isinstance(key, jax.core.Tracer)
    fast = {'xla_backend_optimization_level': 1} if compiles else None

    @functools.partial(jax.jit, compiler_options=fast)
    def init(key):
        (outputs, _), variables = net.init_with_output(key, jnp.zeros((1, *image_shape)),
                                                       train=False)
        check(outputs)
        params, batch_stats = variables['params'], variables.get('batch_stats', {})
        average = {'params': params, 'batch_stats': batch_stats} if averaging else {}
        return TrainState(jnp.zeros((), jnp.int32), params, batch_stats,
                          tx.init(transfer.split(params, frozen)[0]),
                          jax.tree.map(jnp.zeros_like, average))

    size = sum(leaf.size for leaf in jax.tree.leaves(init.eval_shape(key).params))
    if 8 * size > memory.device():  # a float32 parameter and its momentum
        raise UserError(f'{type(net).__name__} has {size:,} parameters, more than the memory '
                        'holds: take fewer or narrower layers, or smaller images')
    return init(key)


def train_step(state: TrainState, data: Batch, batch: Batch, key: jax.Array, axis: str | None, *,
               task: Task, net: nn.Module, tx: optax.GradientTransformation,
               augment: Callable[..., Batch], mix: Callable[..., Batch] | None = None,
               teach: Callable[..., Batch] | None = None,
               accumulate: int = 1, frozen: Collection[str] = frozenset(),
               average: Average | None = None) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update on one device's share of the batch: (new state, mean metrics of the batch).

    Args:
      data, batch: see `fetch`. `batch` also has 'position', int [B], each example's place in the
        global batch. It seeds the augmentation, which is thus the same on any number of devices,
        and the key of the example: the task's loss finds them as examples['keys'], [B].
      key: the key of the run; it is folded with `state.step`.
      axis: the mapped axis to reduce over, or None.
      task: a tasks.Task, whose loss is differentiated.
      augment: (key, positions, examples with uint8 images) -> examples with float images.
      mix: (key, examples, axis) -> examples, each mixed with another of the batch; None: none is.
      teach: (variables, examples, step) -> examples with what a teacher says of them. Its variables
        are data['teacher']; they do not change, and the task finds them as examples['teacher'].
        None: there is none.
      accumulate: the number of micro-batches in which the gradient is computed.
      frozen: layers that do not change; no gradient is computed for them.
      average: the averages.Average that the state holds, None if it holds none.
    """
    augment_key, shared_key, own_key, example_key = keys(key, state.step)
    if axis is not None:  # Dropout differs between devices; drop-path is the same on all.
        own_key = jax.random.fold_in(own_key, lax.axis_index(axis))
    examples = augment(augment_key, batch['position'], fetch(data, batch))
    if mix is not None:
        examples = mix(augment_key, examples, axis)
    if teach is not None:
        examples = teach(data['teacher'], examples, state.step)
    examples = {**examples, 'keys': jax.vmap(functools.partial(jax.random.fold_in, example_key))(
        batch['position'])}
    trainable, fixed = transfer.split(state.params, frozen)

    def loss(trainable, batch_stats, examples, i):
        def apply(images, **arguments):
            with transfer.frozen_norms(frozen):
                (outputs, taps), changed = net.apply(
                    {'params': transfer.merge(trainable, fixed), 'batch_stats': batch_stats},
                    images, train=True, mutable=['batch_stats'], **arguments,
                    rngs={'dropout': jax.random.fold_in(own_key, i),
                          'drop_path': jax.random.fold_in(shared_key, i)})
            return outputs, taps, changed.get('batch_stats', {})

        return task.loss(apply, {**examples, **_teacher(data)}, WholeBatch(axis))

    gradient = functools.partial(jax.grad(loss, has_aux=True), trainable)
    grads, (metrics, batch_stats) = _accumulated(gradient, state.batch_stats, examples, accumulate)
    # One reduction of one tree, after the last micro-batch, needs few messages (collectives.py). A
    # single device needs none: an all-reduce would only copy every gradient.
    if axis is not None and lax.axis_size(axis) > 1:
        grads, batch_stats, metrics = parallel.mean((grads, batch_stats, metrics), axis)
    updates, opt_state = tx.update(grads, state.opt_state, trainable)
    params = transfer.merge(optax.apply_updates(trainable, updates), fixed)
    # The mean over devices may change the last bit of the frozen statistics: restore them.
    batch_stats = transfer.merge(transfer.split(batch_stats, frozen)[0],
                                 transfer.split(state.batch_stats, frozen)[1])
    state = TrainState(state.step + 1, params, batch_stats, opt_state, state.average)
    if average:
        state = state._replace(average=average.update(
            state.average, {'params': params, 'batch_stats': batch_stats}, state.step))
    return state, metrics


def keys(key: jax.Array, step: jax.Array | int) -> jax.Array:
    """The keys of the update after `step` updates: that of the augmentation, one that all devices
    share, one that becomes another on each device, and one that becomes another for each example.
    """
    return jax.random.split(jax.random.fold_in(key, step), 4)


def _accumulated(gradient, batch_stats, examples, count):
    """The mean of gradient(batch_stats, examples, i) over `count` parts of the examples."""
    if count == 1:
        return gradient(batch_stats, examples, 0)

    def micro_batch(carry, inputs):
        batch_stats, total = carry
        grads, (metrics, batch_stats) = gradient(batch_stats, *inputs)
        return (batch_stats, jax.tree.map(jnp.add, total, (grads, metrics))), None

    # Every count-th example belongs to one part, whatever the number of devices.
    parts = jax.tree.map(lambda x: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1), examples)
    first = jax.tree.map(lambda x: x[0], parts)
    grads, (metrics, _) = jax.eval_shape(gradient, batch_stats, first, 0)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (grads, metrics))
    (batch_stats, total), _ = lax.scan(micro_batch, (batch_stats, zeros),
                                       (parts, jnp.arange(count)))
    grads, metrics = jax.tree.map(lambda x: x / count, total)
    return grads, (metrics, batch_stats)


def train_steps(state: TrainState, data: Batch, batches: Batch,
                key_and_count: tuple[jax.Array, jax.Array], axis: str | None,
                **arguments: Any) -> tuple[TrainState, dict[str, jax.Array]]:
    """Several updates in one program, without the host: (new state, metrics [S]).

    `batches` is like `batch` of `train_step`, with a second axis of S steps. `key_and_count` is the
    key and the number of steps to do, which is traced, so that one program serves any number up to
    S. Metrics of the steps that are not done are 0.
    """
    key, count = key_and_count

    def one(state, i):
        batch = jax.tree.map(lambda x: x[:, i], batches)
        return train_step(state, data, batch, key, axis, **arguments)

    def body(i, carry):
        state, metrics = carry
        state, values = one(state, i)
        return state, jax.tree.map(lambda all, value: all.at[i].set(value), metrics, values)

    steps = batches['position'].shape[1]
    metrics = jax.tree.map(lambda x: jnp.zeros((steps, *x.shape), x.dtype),
                           jax.eval_shape(one, state, 0)[1])
    return lax.fori_loop(0, count, body, (state, metrics))


def eval_step(variables: Mapping[str, Any], data: Batch, batch: Batch, key: jax.Array,
              axis: str | None, *, task: Task, net: nn.Module,
              normalize: Callable[[jax.Array], jax.Array],
              teach: Callable[..., Batch] | None = None) -> tuple[dict, tuple[dict, dict]]:
    """What the task observes in one batch: ({}, (sums, kept)).

    `batch` also has 'weight', float [B]: 1 for an example, 0 for padding. `sums` are the task's
    values summed over the examples of all devices, and their number 'count'. `kept` are values of
    each example of the global batch, in order, with its 'weight'.
    """
    del key
    examples, weight = fetch(data, batch), batch['weight']
    examples = {**examples, 'image': normalize(examples['image'])}
    if teach is not None:
        examples = teach(data['teacher'], examples, 0)
    values, kept = task.observe(functools.partial(net.apply, variables, train=False),
                                {**examples, **_teacher(data)})

    def total(x):  # Multiplication would let an infinite value of the padding count.
        return jnp.where((weight > 0).reshape(-1, *(1,) * (x.ndim - 1)), x, 0).sum(0)

    sums = {'count': weight.sum(), **jax.tree.map(total, values)}
    kept = kept and {**kept, 'weight': weight}
    if axis is not None:
        sums, kept = lax.psum(sums, axis), lax.all_gather(kept, axis, tiled=True)
    return {}, (sums, kept)


def shared(data: Mapping[str, Any] | None, teacher: Any = None) -> dict[str, Any]:
    """The `data` of both steps: a set that is on the device, and the variables of a teacher."""
    return {**(data or {}), **({'teacher': teacher} if teacher else {})}


def _teacher(data):
    """The variables of a teacher as an entry of the examples, if there is one."""
    return {name: data[name] for name in ('teacher',) if name in data}


def fetch(data: Batch, batch: Batch) -> dict[str, jax.Array]:
    """The examples of a batch, {'image': uint8 [B, H, W, C], and each target [B, ...]}.

    Either `batch` holds them, or it holds their 'index' [B] in `data`, the whole set on the device,
    beside which `data` may hold the variables of a 'teacher'.
    """
    if 'index' in batch:
        return {name: array[batch['index']] for name, array in data.items() if name != 'teacher'}
    return {name: array for name, array in batch.items() if name not in ('position', 'weight')}
