"""Exports a trained network: its weights, and a program that needs JAX alone."""

import os
from pathlib import Path

import jax
import numpy as np

from cnnjax import data, dataset, export, limits, predict, trained, weights, workdir
from cnnjax.data.normalize import scaled
from cnnjax.errors import UserError
from configs import base

FORMATS = ('safetensors', 'jax_export')
LIMITS = {'formats': limits.Names(FORMATS), 'names': weights.NAMES, 'dtype': tuple(export.TYPES),
          'platforms': limits.Names(export.PLATFORMS)}
BATCHES = (1, 3)  # on which the program is compared with the network


def run(config, directory):
    """Writes network.safetensors, network.jax_export and network.json, each only if it agrees with
    the network.

    Raises UserError if the network cannot be exported so.
    """
    limits.check(config, LIMITS)
    if config.multiple is not None:
        limits.check(config, {'multiple': limits.Whole(0, 4096)})
    network = trained.load(config.source, config.checkpoint, config.name)
    directory, formats = Path(directory), limits.names(config.formats)
    workdir.write_config(directory, config)
    if 'safetensors' in formats:
        path = directory / 'network.safetensors'
        library = weights.save(network, path, config.names)
        compare_weights(path, network)
        print(f'{path}  {size(path)}, with the names of {library}; loaded again: the same numbers')
    if 'jax_export' in formats:
        made = export.export(network, dtype=config.dtype, multiple=config.multiple,
                             platforms=limits.names(config.platforms))
        images, what = examples(config, network)
        told = []
        path = export.save(made, directory / 'network', lambda loaded: told.extend(
            compare(loaded, network, images)))
        print(f'{path}  {size(path)}, takes {made.takes()}, for {config.platforms}\n'
              f'loaded again, on {what}: the largest difference from the network, as a share of '
              f'the largest output, is\n' + '\n'.join(told))


def size(path):
    return f'{path.stat().st_size / 1e6:,.1f} MB'


def compare_weights(path, network):
    """Raises UserError, and deletes the file, unless it has the network's variables."""
    loaded = trained.load(path, name=network.name)
    own, found = (jax.tree.leaves(each.variables) for each in (network, loaded))
    if not all(np.array_equal(a, b) for a, b in zip(own, found, strict=True)):
        path.unlink()
        raise UserError(f'{path}: loaded again, its numbers were not those of the network')


def examples(config, network):
    """(images [N, H, W, C], uint8, a text that says which): the first of the run's test set, as an
    evaluation shows them, or noise."""
    count, shape = max(BATCHES), tuple(network.image_shape)
    noise = np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)
    if config.dtype == 'float32':
        noise = noise.astype(np.float32) / np.float32(255)
    if network.config is None:
        return noise, 'noise'
    own = network.training(base.get_config())
    try:
        source = dataset.source(own, own.test_split, os.path.expanduser(config.source))
        first = data.subset(source, range(min(count, len(source.examples))))
        images = np.asarray(data.Resident(first, predict.crops(network)).data['image'])
    except (UserError, OSError):  # The pictures may be gone since the training.
        return noise, 'noise'
    if images.dtype != np.uint8 and config.dtype == 'uint8':
        raise UserError(f"dtype='uint8': {own.dataset} has floats; take dtype='float32'")
    if images.shape[1:] != shape:
        return noise, 'noise'
    return np.resize(images, (count, *shape)), f'the first of {own.data_dir or own.dataset}'


def compare(exported, network, images):
    """A line for each batch: its shape, and the largest difference. Raises UserError where that is
    more than rounding."""
    batches = [images[:count] for count in BATCHES]
    if sizes := exported.about['sizes']:
        height, width = (sizes['step'] * (least + i) + sizes['offset'][i]
                         for i, least in enumerate(sizes['least']))
        batches.append(np.resize(images, (2, height, width, images.shape[-1])))
    lines, inputs = [], exported.about['inputs']
    for batch in batches:
        if inputs['images']['type'] == 'float32':
            batch = np.asarray(scaled(batch))
        height, width = batch.shape[1:3]
        boxes = np.float32([[0, 0, width, height], [0, 0, width / 2, height / 2]])
        given = (batch, np.stack([boxes] * len(batch)))[:len(inputs)]
        lines.append(f'    {export.check(exported, network, *given):.1e}  {list(batch.shape)}')
    return lines
