"""Codes of a data set: what the layers of a trained network make of each of its images."""

import difflib
import math

import jax
import numpy as np
from tqdm import tqdm

from cnnjax import parallel, summary, train, transfer
from cnnjax.errors import UserError
from configs import base
from experiments import fields


def chosen(network, taps):
    """The names of the taps 'conv4_6,pool' or, if none, of the last before the classifier."""
    rows = summary.summarize(network.net, network.image_shape).rows
    head = transfer.head(network.net, network.image_shape)
    known = [row.name for row in rows if row.shape is not None]
    if not taps:
        last = next(i for i, row in enumerate(rows) if row.name in head)
        return rows[last].inputs[:1]
    taps = fields.names(taps)
    for tap in taps:
        if tap not in known:
            close = difflib.get_close_matches(tap, known, n=3, cutoff=0.5)
            raise UserError(f"taps: the network has no '{tap}'"
                            + (f'; did you mean {" or ".join(close)}?' if close else ''))
    return taps


def load(config, split, network):
    """The images, decoded when needed, cut as for an evaluation of the network."""
    own = (network.config or base.get_config()).copy_and_resolve_references()
    with own.unlocked():
        own.update(dataset=config.dataset, bad_images=config.bad_images, stream=True,
                   loader_threads=config.loader_threads, image_size=network.image_shape[0])
        own.data_dir = config.data_dir
    stream = train.load(own, split)
    if tuple(stream.image_shape) != tuple(network.image_shape):
        raise UserError(f'{config.dataset} has images of {tuple(stream.image_shape)}, the network '
                        f'was trained on {tuple(network.image_shape)}')
    return stream


def feature(activation, pool):
    """[N, ..., C] -> [N, features]"""
    if pool and activation.ndim > 2:
        activation = activation.mean(tuple(range(1, activation.ndim - 1)))
    return activation.reshape(len(activation), -1).astype('float32')


def extractor(network, taps, config):
    """A function (stream, title, images=False) -> {tap: [N, features], 'label': [N]} and, if asked
    for, 'image' [N, H, W, C]: every example once. Reads pool, devices and batch_size."""
    mesh = parallel.data_mesh(config.devices)
    batch_size = mesh.size * math.ceil(config.batch_size / mesh.size)

    def step(variables, _, batch, key, axis):
        del key, axis  # nothing is random, nothing is summed over devices
        activations = network._replace(variables=variables).taps(batch['image'])
        return {}, {tap: feature(activations[tap], config.pool) for tap in taps}

    compute = parallel.parallelize(step, mesh, 'jit', donate=False)  # results of all devices
    variables = parallel.replicate(network.variables, mesh)

    def extract(stream, title, images=False):
        kept, parts = ('label', 'image') if images else ('label',), []
        with tqdm(total=len(stream), unit='image', desc=title, disable=None) as progress:
            for batch in stream.test_batches(batch_size):
                real = batch['weight'] > 0
                _, found = compute(variables, {}, batch, jax.random.key(0))
                parts.append({tap: np.asarray(value)[real] for tap, value in found.items()}
                             | {key: batch[key][real] for key in kept})
                progress.update(real.sum())
        found = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        assert len(found['label']) == len(stream), (
            f'{len(found["label"])} of {len(stream)} examples')
        return found

    return extract
