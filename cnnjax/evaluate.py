"""The error of a network on a set, counting each example exactly once."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from cnnjax import data, dataset, limits, parallel, step, tasks, views
from cnnjax.errors import UserError
from cnnjax.network import Network
from cnnjax.tasks import classify
from cnnjax.tasks.task import Task


def evaluate(network: Network, examples: data.Source | data.Resident | data.Stream, *,
             batch_size: int = 500, devices: int = 0) -> dict[str, Any]:
    """The results of a trained network on a set: {'count': ..., 'error': ..., ...}. Segmentations
    and detectors also have arrays, such as 'confusion' (see tasks/segment.py and tasks/detect.py).
    If `network.evaluation` asks for several views of a picture (see views.py), its classes are
    those of their mean.

    Args:
      network: such as trained.load returns.
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
    if not views.Views.of(network.evaluation).single:
        return fused([network], [prepared], batch_size=batch_size, devices=devices)
    check_channels(network, prepared)
    mesh = parallel.data_mesh(devices)
    task = tasks.create(network.task, network.net)
    run = evaluator(task, network.net, network.normalize, prepared, mesh, batch_size=batch_size)
    return run(parallel.replicate(network.variables, mesh))


def check_channels(network: Network, examples: data.Resident | data.Stream) -> None:
    """Raises UserError unless the images have the network's number of channels."""
    own, theirs = network.image_shape, examples.image_shape
    if (len(own), own[-1]) != (len(theirs), theirs[-1]):
        raise UserError(f'images of {examples.image_shape}: the network was trained on '
                        f'{network.image_shape}')


def fused(networks: Sequence[Network], sets: Sequence[data.Resident | data.Stream], *,
          batch_size: int = 500, devices: int = 0) -> dict[str, Any]:
    """The results of an ensemble, whose probabilities are the mean of those of its networks (model
    fusion: Simonyan & Zisserman 2014, section 4.4), as `evaluate` gives those of one.

    Args:
      networks: classifiers with the same classes, in any order; the first says the order of the
        labels.
      sets: the same examples, for each network prepared in its own way.
      batch_size, devices: as of `evaluate`.

    Raises:
      UserError: the classes are not the same, or views do not fit a network.
    """
    classes, found = networks[0].classes, []
    if others := {network.task for network in networks} - {'classify'}:
        raise UserError(f'an ensemble, or several views of a picture, of {min(others)}: only the '
                        "probabilities of task='classify' are averaged")
    for network, examples in zip(networks, sets, strict=True):
        if sorted(network.classes) != sorted(classes):
            raise UserError(f'{network.name} has other classes than {networks[0].name}: '
                            f'{min(set(network.classes) ^ set(classes), default="one twice")}; an '
                            'ensemble has the same')
        order = np.array([network.classes.index(name) for name in classes])
        kept = log_probabilities(network, examples, batch_size=batch_size, devices=devices)
        found.append({name: values[:, order] if name != 'label' else values
                      for name, values in kept.items()})
    net: Any = networks[0].net if len(networks) == 1 else None
    known = {'': {}, **getattr(net, 'subnetworks', {})}
    scores: Any = {name: np.float32(views.mean([kept[f'scores/{name}'] for kept in found]))
              for name in known}

    def apply(places, **arguments):
        return scores[next(name for name, own in known.items() if own == arguments)][places], {}

    labels, count = found[0]['label'], len(sets[0])
    task = classify.create(net)
    sums, kept = jax.device_get(task.observe(apply, {'image': np.arange(count), 'label': labels}))
    return {'count': count, **task.results(
        {name: np.float64(values).sum(0) for name, values in sums.items()}, kept, count, classes)}


def log_probabilities(network: Network, examples: data.Resident | data.Stream, *,
                      batch_size: int = 500, devices: int = 0) -> dict[str, np.ndarray]:
    """The 'label' of each example, where there is one, and the logarithms of its classes'
    probabilities, as views.task names them, averaged over the views of `network.evaluation`.

    Args:
      examples: the set as it is prepared for one crop; every view is cut from its pictures.
      batch_size: images of the network's size per step; where views are larger, fewer.
      devices: as of `evaluate`.

    Raises:
      UserError: these views cannot be cut from the pictures, or do not fit the network.
    """
    check_channels(network, examples)
    own, mesh = views.Views.of(network.evaluation), parallel.data_mesh(devices)
    if not own.single:
        network.of_images(views.described(network.evaluation))
    views.check(own, network.task, examples.crops)
    views.check_network(own, network.net, examples.crops, examples.image_shape[-1])
    task = views.task(own, network.net)
    variables = parallel.replicate(network.variables, mesh)
    usual = batch_size * math.prod(examples.image_shape[:2]) // (1 + own.mirrored)

    def one(prepared):
        share = usual // math.prod(prepared.image_shape[:2])
        run = evaluator(task, network.net, network.normalize, prepared, mesh,
                        batch_size=max(share, 1))
        return {name: values for name, values in run(variables).items() if name != 'count'}

    cuts = views.cuts(own, network.net, examples.crops, examples.image_shape[-1],
                      lambda: data.picture_shapes(examples))
    found = {}
    for groups in cuts:
        kept = [one(data.recut(examples, crops, places)) for places, crops in groups]
        seen = np.concatenate([np.arange(len(examples)) if places is None else places
                               for places, _ in groups])
        back = np.argsort(seen)
        assert np.array_equal(seen[back], np.arange(len(examples)))  # each exactly once
        each = {name: np.concatenate([values[name] for values in kept])[back] for name in kept[0]}
        # Views are added up one by one: all scores of many views would not fit the memory.
        found = {name: np.logaddexp(found[name], values) if name in found and name != 'label'
                 else values for name, values in each.items()}
    return {name: values if name == 'label' else values - math.log(len(cuts))
            for name, values in found.items()}


def numbers(results: Mapping[str, Any]) -> dict[str, Any]:
    """The results without the arrays, which a report does not show."""
    return {name: value for name, value in results.items() if not np.ndim(value)}


def evaluator(task: Task, net: nn.Module, normalize: data.Normalization,
              examples: data.Resident | data.Stream, mesh: Mesh, *, batch_size: int,
              kind: str = 'shard_map', teach: Any = None) -> Callable[[Any], dict[str, Any]]:
    """A function from the variables, {'params', 'batch_stats'}, to the results: {'count': the
    number of examples, 'error': ..., and the other results of the task}.

    Args:
      task: a tasks.Task.
      examples: a data.Resident or data.Stream.
      batch_size: images per step, over all devices; rounded to a multiple of their number.
      kind: one of parallel.KINDS.
      teach: the distillation.Teaching of a stage of hints, or the perceptual.Perception of
        task='stylize'; None: the results ask no teacher.

    Raises:
      UserError: the batch size is less than 1, or has more pixels than the devices can count.
    """
    if batch_size < 1:
        raise UserError(f'a batch of an evaluation has at least one image, not {batch_size}')
    batch_size = mesh.size * math.ceil(min(batch_size, len(examples)) / mesh.size)
    if (pixels := batch_size * math.prod(examples.image_shape[:-1])) > limits.LARGEST_WHOLE:
        raise UserError(f'a batch of an evaluation has {pixels:,} pixels; the devices count to '
                        f'{limits.LARGEST_WHOLE:,}: take fewer images per batch')
    share = jax.process_index(), jax.process_count()
    compiled = parallel.parallelize(
        functools.partial(step.eval_step, task=task, net=net,
                          normalize=normalize.fitting(examples.image_shape), teach=teach),
        mesh, kind, donate=False)
    resident = parallel.replicate(step.shared(
        examples.data, teach and teach.variables), mesh)
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
