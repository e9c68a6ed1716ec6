"""The errors of a network over every example of a set, each exactly once."""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from cnnjax import data, dataset, parallel, step, tasks
from cnnjax.errors import UserError
from cnnjax.tasks.task import Task
from cnnjax.trained import Trained


def evaluate(network: Trained, examples: data.Source | data.Resident | data.Stream, *,
             batch_size: int = 500, devices: int = 0) -> dict[str, float]:
    """The results of a trained network on a set: {'count': ..., 'error': ..., ...}.

    Args:
      network: a trained.Trained.
      examples: a data.Source, which is cut as the run's config says, its classes in the order of
        the network's (see data.matched); of a network that has no config a data.Resident or
        data.Stream.
      batch_size: images of a step, on all devices together.
      devices: how many of the local devices; 0: all.
    """
    prepared: Any = examples
    if network.config is not None and isinstance(examples, data.Source):
        prepared = dataset.prepare(network.config, data.matched(examples, network.classes))
    mesh = parallel.data_mesh(devices)
    task = tasks.create(network.task, network.net)
    run = evaluator(task, network.net, network.normalize, prepared, mesh, batch_size=batch_size)
    return run(parallel.replicate(network.variables, mesh))


def evaluator(task: Task, net: nn.Module, normalize: data.Normalization,
              examples: data.Resident | data.Stream, mesh: Mesh, *, batch_size: int,
              kind: str = 'shard_map') -> Callable[[Any], dict[str, float]]:
    """A function of the variables {'params', 'batch_stats'} -> {'count': the number of examples,
    'error': ..., and the other results of the task, numbers}.

    Args:
      task: a tasks.Task.
      examples: a data.Resident or data.Stream.
      batch_size: images of a step, on all devices together; made a multiple of their number.
      kind: one of parallel.KINDS.

    Raises:
      UserError: a batch without an image.
    """
    if batch_size < 1:
        raise UserError(f'a batch of an evaluation has at least one image, not {batch_size}')
    batch_size = mesh.size * math.ceil(min(batch_size, len(examples)) / mesh.size)
    share = jax.process_index(), jax.process_count()
    compiled = parallel.parallelize(
        functools.partial(step.eval_step, task=task, net=net, normalize=normalize), mesh, kind,
        donate=False)
    resident = parallel.replicate(examples.data or {}, mesh)
    key = jax.random.key(0)  # nothing is random

    def evaluate(variables):
        batches = jax.device_get([compiled(variables, resident, batch, key)[1]
                                  for batch in examples.test_batches(batch_size, share)])
        sums = {name: sum(np.float64(batch[name]) for batch, _ in batches)
                for name in batches[0][0]}
        count = round(sums.pop('count'))
        assert count == len(examples), f'{count} examples evaluated of {len(examples)}'
        kept = {name: np.concatenate([batch[name][batch['weight'] > 0] for _, batch in batches])
                for name in batches[0][1] if name != 'weight'}
        return {'count': count, **task.results(sums, kept, count, examples.classes)}

    return evaluate
