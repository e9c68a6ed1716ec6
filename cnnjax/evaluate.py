"""The error of a network on a set, counting each example exactly once."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from cnnjax import data, dataset, limits, parallel, step, tasks
from cnnjax.errors import UserError
from cnnjax.tasks.task import Task
from cnnjax.trained import Trained


def evaluate(network: Trained, examples: data.Source | data.Resident | data.Stream, *,
             batch_size: int = 500, devices: int = 0) -> dict[str, Any]:
    """The results of a trained network on a set: {'count': ..., 'error': ..., ...}. Segmentations
    and detectors also have arrays, such as 'confusion' (see tasks/segment.py and tasks/detect.py).

    Args:
      network: a trained.Trained.
      examples: a data.Source with the network's classes in its order (see data.matched); pictures
        are cut as the run's config says. For a network without a config, a data.Resident or
        data.Stream.
      batch_size: images per step, over all devices.
      devices: how many local devices to use; 0: all.

    Raises:
      UserError: the examples do not have the targets of the network's task, or a data.Source is
        given for a network that has no config.
    """
    prepared: Any = examples
    if isinstance(examples, data.Source):
        if network.config is None:
            raise UserError('these weights are no run, whose config says how pictures become '
                            'images: give a data.Resident or a data.Stream, with its data.Crops')
        prepared = dataset.prepare(network.config, data.matched(examples, network.classes))
    dataset.check_target(network.task, prepared)
    if prepared.image_shape[-1] != network.image_shape[-1]:
        raise UserError(f'images of {prepared.image_shape}: the network was trained on '
                        f'{network.image_shape}')
    mesh = parallel.data_mesh(devices)
    task = tasks.create(network.task, network.net)
    run = evaluator(task, network.net, network.normalize, prepared, mesh, batch_size=batch_size)
    return run(parallel.replicate(network.variables, mesh))


def numbers(results: Mapping[str, Any]) -> dict[str, Any]:
    """The results without the arrays, which a report does not show."""
    return {name: value for name, value in results.items() if not np.ndim(value)}


def evaluator(task: Task, net: nn.Module, normalize: data.Normalization,
              examples: data.Resident | data.Stream, mesh: Mesh, *, batch_size: int,
              kind: str = 'shard_map') -> Callable[[Any], dict[str, Any]]:
    """A function from the variables, {'params', 'batch_stats'}, to the results: {'count': the
    number of examples, 'error': ..., and the other results of the task}.

    Args:
      task: a tasks.Task.
      examples: a data.Resident or data.Stream.
      batch_size: images per step, over all devices; rounded to a multiple of their number.
      kind: one of parallel.KINDS.

    Raises:
      UserError: the batch size is less than 1, or has more pixels than the devices can count.
    """
    if batch_size < 1:
        raise UserError(f'a batch of an evaluation has at least one image, not {batch_size}')
    batch_size = mesh.size * math.ceil(min(batch_size, len(examples)) / mesh.size)
    if (pixels := batch_size * math.prod(examples.image_shape[:2])) > limits.LARGEST_WHOLE:
        raise UserError(f'a batch of an evaluation has {pixels:,} pixels; the devices count to '
                        f'{limits.LARGEST_WHOLE:,}: take fewer images per batch')
    share = jax.process_index(), jax.process_count()
    compiled = parallel.parallelize(
        functools.partial(step.eval_step, task=task, net=net,
                          normalize=normalize.fitting(examples.image_shape)), mesh, kind,
        donate=False)
    resident = parallel.replicate(examples.data or {}, mesh)
    key = jax.random.key(0)  # unused: nothing is random

    def evaluate(variables):
        batches = []
        for batch in examples.test_batches(batch_size, share):
            batches.append(compiled(variables, resident, batch, key)[1])
            # While a batch is computed, the results of the one before come from the devices.
            batches[-2:-1] = jax.device_get(batches[-2:-1])
        batches[-1] = jax.device_get(batches[-1])
        sums = {name: sum(np.float64(batch[name]) for batch, _ in batches)
                for name in batches[0][0]}
        count = round(sums.pop('count'))
        assert count == len(examples), f'{count} examples evaluated of {len(examples)}'
        kept = {name: np.concatenate([batch[name][batch['weight'] > 0] for _, batch in batches])
                for name in batches[0][1] if name != 'weight'}
        assert all(len(values) == count for values in kept.values())
        return {'count': count, **task.results(sums, kept, count, examples.classes)}

    return evaluate
