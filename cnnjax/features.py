"""Features of a data set: the activations of a trained network's layers for each image.

    stream = load(config, 'test', network, defaults)
    found = extractor(network, selection.entries(network, 'pool'), config)(stream, 'test')
    found['pool'], found['label']  # [N, features], [N]
"""

import math
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from cnnjax import data, dataset, memory, parallel, train
from cnnjax.data import loader
from cnnjax.errors import UserError
from cnnjax.images import objectives
from cnnjax.limits import Whole
from cnnjax.trained import Trained

LIMITS = {'batch_size': Whole(1), 'devices': Whole(),
          'loader_threads': loader.LIMITS['loader_threads']}


def load(config: ConfigDict, split: str, network: Trained,
         defaults: ConfigDict) -> data.Resident | data.Stream:
    """A Stream of the set config.dataset, whose images are cut as for an evaluation of the network.

    Args:
      config: has the fields dataset, data_dir, bad_images and loader_threads.
      defaults: the config of a training, as for Trained.training.

    Raises:
      UserError: the set is not there, or its images do not have the network's number of channels.
    """
    own = network.training(defaults)
    same = (own.dataset, own.data_dir) == (config.dataset, config.data_dir)
    train.check(own)
    with own.unlocked():
        own.update(dataset=config.dataset, bad_images=config.bad_images,
                   stream=True, loader_threads=config.loader_threads, loader_workers=0,
                   image_size=network.image_shape[0], test_image_size=0)
        own.data_dir = config.data_dir
    # The run's own files of boxes are those of another set only by chance.
    boxes = {'annotations': own.annotations, 'bad_boxes': own.bad_boxes} if same else {}
    stream = dataset.prepare(own, data.load_labelled(
        own.dataset, split, own.data_dir, own.bad_images, detector=own.task == 'detect', **boxes))
    if tuple(stream.image_shape) != tuple(network.image_shape):
        raise UserError(f'{config.dataset} has images of {tuple(stream.image_shape)}, the network '
                        f'was trained on {tuple(network.image_shape)}')
    return stream


def largest(network: Trained) -> int:
    """The size of an image's largest activation, about what an evaluation keeps in memory."""
    return max(map(math.prod, network.tap_shapes().values()))


def extractor(network: Trained, entries: Mapping[str, tuple[str, Sequence[int]]],
              config: ConfigDict) -> Callable[..., dict[str, np.ndarray]]:
    """A function (stream, title, images=False) -> {entry: [N, features], 'label': [N]} and, with
    `images`, 'image' [N, H, W, C]; it has every example once.

    Args:
      entries: {entry: (layer, channels)}, see selection.entries.
      config: has the fields pool (whether maps are averaged over their positions), devices and
        batch_size.
    """
    mesh = parallel.data_mesh(config.devices)

    def step(variables, _, batch, key, axis):
        del key, axis  # Nothing is random or summed over devices.
        taps = network._replace(variables=variables).taps(batch['image'])
        return {}, {entry: _features(objectives.select(layer, channels, taps[layer]), config.pool)
                    for entry, (layer, channels) in entries.items()}

    compute = parallel.parallelize(step, mesh, 'jit', donate=False)  # returns all devices' results
    variables = parallel.replicate(network.variables, mesh)

    def extract(stream, title, images=False):
        batch_size = mesh.size * math.ceil(min(config.batch_size, len(stream)) / mesh.size)
        _check_memory(network, entries, config, len(stream), batch_size, images)
        kept, parts = ('label', 'image') if images else ('label',), []
        with tqdm(total=len(stream), unit='image', desc=title, disable=None) as progress:
            for batch in stream.test_batches(batch_size):
                real = batch['weight'] > 0
                _, found = compute(variables, {}, batch, jax.random.key(0))
                parts.append({entry: np.asarray(value)[real] for entry, value in found.items()}
                             | {key: batch[key][real] for key in kept})
                progress.update(real.sum())
        found = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        assert len(found['label']) == len(stream), (
            f'{len(found["label"])} of {len(stream)} examples')
        for entry in entries:
            if broken := (~np.isfinite(found[entry]).all(-1)).sum():
                raise UserError(f"taps: '{entry}' is not finite for {broken} of {len(stream)} "
                                f"images of '{title}': check the network's weights, or take "
                                'another tap')
        return found

    return extract


def _features(activation, pool):
    """[N, ..., C] -> [N, features]"""
    if pool and activation.ndim > 2:
        activation = activation.mean(tuple(range(1, activation.ndim - 1)))
    return activation.reshape(len(activation), -1).astype('float32')


def _check_memory(network, entries, config, count, batch_size, images):
    """Raises UserError if a batch, or the features of `count` images, do not fit in memory."""
    shapes = network.tap_shapes()
    memory.check(batch_size * largest(network), batch_size=config.batch_size)
    size = images * math.prod(network.image_shape)
    for layer, channels in entries.values():
        *positions, own = shapes[layer]
        size += (len(channels) or own) * (1 if config.pool else math.prod(positions))
    memory.check(2 * count * size, memory.HOST, pool=config.pool, taps=','.join(entries))
