"""The site's data about a network, its layers and the classes."""

import importlib.metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from cnnjax import data, diagram, microscope, trained, user_network, workdir
from cnnjax.images import strongest, units

LARGEST = 112  # The longest side of a patch on its page, in pixels.
FACET = 48  # the side of each facet of a unit, in pixels, or as many as the network needs
SMALL = 64  # Pictures with sides of up to 64 pixels are written without loss.
OF_A_CLASS = 8  # The most units of a layer on the page of a class.
LEAST = 0.1  # The standard deviations by which these units must stand out.


class Site(NamedTuple):
    """The parts that a site is made from."""

    config: Any
    directory: Path
    network: trained.Trained
    rows: dict[str, Any]  # {layer: its row in the summary}, in forward order
    stream: data.Stream
    mesh: Any  # the devices
    chunk: int  # units that are made at once


def activations(rows):
    """The layers shown by default: the ReLUs, the sums of residual blocks, and the last layer. If a
    network has no ReLUs, its convolutions and the last layer."""
    names = [name for name, row in rows.items() if name.split('/')[-1].startswith('relu')
             or len(row.inputs) > 1 and any(rows[tap].shape == row.shape for tap in row.inputs)]
    names = names or [name for name, row in rows.items() if row.multiply_adds]
    return tuple(dict.fromkeys([*names, list(rows)[-1]]))


def before(network, rows, name):
    """The layer before the ReLU `name`, and for each unit 1, or -1 if a normalization between the
    two changes its sign; None if `name` is no ReLU.

    A unit's image is made there, because behind the ReLU an image that inhibits a unit has no
    gradient. Up to a factor and a constant, the two layers have the same mean over positions.
    """
    row = rows[name]
    if row.multiply_adds or len(row.inputs) != 1 or not name.split('/')[-1].startswith('relu'):
        return None
    source, signs = rows[row.inputs[0]], np.ones(row.shape[-1])
    if source.shape != row.shape:
        return None
    for owner in row.depends - source.depends:
        params = network.variables['params']
        for part in owner.split('/'):
            params = params.get(part, {})
        if set(params) - {'scale', 'bias'}:
            return None
        signs = signs * np.where(np.asarray(params.get('scale', 1)) < 0, -1, 1)
    return source.name, signs


def describe(site, whole, chosen):
    """The manifest, which describes the network and its layers. `chosen` are the layers, {name:
    channels}, with () for the first channels; `whole` is the summary of the network."""
    config, _, network, rows, stream, _, chunk = site
    sources = {name: before(network, rows, name) for name in chosen}
    hidden = {source[0] for source in sources.values() if source} - set(chosen)
    kinds = {}
    for name, row in rows.items():
        inside = any(other.startswith(f'{name}/') for other in rows)
        origin = rows[row.inputs[0]].stride if row.inputs else (1.0,) * len(row.stride or ())
        kinds[name] = 'block' if inside else diagram.kind_of(row, origin)
    kinds |= {name: kinds[source[0]] for name, source in sources.items() if source}
    shown = [name for name, row in rows.items() if name in chosen or not (
        name in hidden or row.params and not row.multiply_adds  # a normalization
        or len(row.inputs) == 1 and row.shape == rows[row.inputs[0]].shape and not row.params)]
    some = strongest.look_up(stream, range(min(32, len(stream))))
    lowest = jax.jit(lambda images: {name: tap.min() for name, tap in network.taps(images).items()
                                     if name in chosen})(some)

    def place(name):
        row = rows[name]
        return {'name': name, 'shape': row.shape, 'size': row.size, 'stride': row.stride,
                'kind': kinds[name]}

    def layer(name):
        row, (target, _) = rows[name], sources[name] or (name, None)
        side = units.image_size(network, target, config.size)
        patch = [min(size, n) for size, n in zip(row.size, network.image_shape, strict=False)]
        scale = min(1, LARGEST / max(patch))
        patch = [max(round(scale * n), 1) for n in patch]
        channels = sorted(chosen[name]) or range(row.shape[-1])[:config.units_per_layer or None]
        return place(name) | {
            'channels': list(channels), 'units': len(channels), 'done': 0,
            'target': target, 'side': side, 'patch': patch, 'facets': config.facets,
            'facet': units.image_size(network, name, FACET), 'maps': False,
            'suffix': 'png' if max(*side, *patch) <= SMALL else 'jpg',
            'negative': bool(sources[name]) or bool(lowest[name] < 0),
            'output': (name == list(rows)[-1] and network.classes == stream.classes
                       and network.task != 'detect')}

    return {
        'network': user_network.short(network.name) or whole.name,
        'source': config.source,
        'checkpoint': config.checkpoint, 'fingerprint': trained.fingerprint(network),
        'image_shape': network.image_shape, 'parameters': whole.params,
        'multiply_adds': whole.multiply_adds, 'classes': stream.classes,
        'dataset': config.dataset, 'split': config.split, 'images': len(stream),
        'rule': config.rule, 'chunk': chunk,
        'rows': [place(name) for name in shown], 'layers': [layer(name) for name in chosen],
        'versions': {name: importlib.metadata.version(name) for name in workdir.PACKAGES},
        'config': dict(config)}


def write_classes(directory, manifest, found):
    """Writes, for each class and layer, the units that stand out most on the class's images."""
    scores = {}
    channels = {layer['name']: layer['channels'] for layer in manifest['layers']}
    for layer in manifest['layers']:
        means = found[layer['name']].class_means[:, layer['channels']].astype(float)
        present = np.isfinite(means).any(1)
        center, spread = means[present].mean(0), means[present].std(0)
        scores[layer['name']] = np.where(
            present[:, None], (means - center) / np.where(spread > 0, spread, np.inf), 0)
    for index in range(len(manifest['classes'])):
        microscope.write(directory, f'classes/{index}', {
            name: [(channels[name][i], float(each[index, i]))
                   for i in np.argsort(-each[index], kind='stable')[:OF_A_CLASS]
                   if each[index, i] >= LEAST] for name, each in scores.items()})


def overview(statistics, channels):
    """The data about units for the page of a layer; `best` is the class that excites them most."""
    means = statistics.class_means[:, channels]
    known = np.isfinite(means).any(0)
    best = np.where(np.isnan(means), -np.inf, means).argmax(0)
    return {'maximum': statistics.maximum[channels], 'mean': statistics.mean[channels],
            'active': statistics.active[channels],
            'best': [int(i) if ok else None for i, ok in zip(best, known, strict=True)]}
