"""A static site with a page for every unit of a trained network; see configs/microscope.py."""

import importlib.metadata
import math
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from cnnjax import diagram, microscope, parallel, summary, trained, workdir
from cnnjax.errors import UserError, check_numbers
from cnnjax.images import objectives, patches, pictures, units
from cnnjax.images.rules import RULES
from cnnjax.images.run import begin, fingerprint
from experiments import codes, fields

PATCHES = 9  # of a unit, three by three
LARGEST = 112  # pixels of the side of a patch on its page
SMALL = 64  # pixels up to which pictures are written without loss
OF_A_CLASS = 8  # units of a layer on the page of a class, at most
LEAST = 0.1  # standard deviations by which they stand out


def run(config, directory):
    """Writes the site, one chunk of units after the other; what is there is not made again.

    Raises UserError where the directory holds another site, or a layer does not exist.
    """
    check(config)
    network = trained.load(config.source, config.checkpoint, config.name)
    whole = summary.summarize(network.net, network.image_shape)
    rows = {row.name: row for row in whole.rows if row.shape is not None}
    names = fields.names(config.layers) or activations(rows)
    objectives.missing(names, rows)
    stream = codes.load(config, config.split, network)
    stream.examples = codes.Part(stream.examples, codes.spread(len(stream), config.count))
    mesh, directory = parallel.data_mesh(config.devices), Path(directory)
    chunk = mesh.size * math.ceil(config.chunk / mesh.size)
    begin(directory, config, network, (directory / 'weights.json').exists())
    microscope.install(directory)
    found = strongest(config, directory, network, names, stream, mesh)
    manifest = describe(config, network, whole, rows, names, stream, chunk)
    write_classes(directory, manifest, found)
    records = {}
    for layer in manifest['layers']:
        records[layer['name']] = saved(directory, layer, chunk)
        layer['done'] = len(records[layer['name']])
    microscope.write_manifest(directory, manifest, records)
    print(f'open {directory / "index.html"}', flush=True)
    with tqdm(total=sum(layer['units'] for layer in manifest['layers']), unit='unit',
              initial=sum(layer['done'] for layer in manifest['layers']), disable=None) as bar:
        for layer in manifest['layers']:
            name = layer['name']
            bar.set_description(name)
            for some, images in optimized(config, network, rows, layer, chunk, mesh):
                made = write_units(config, directory, network, rows[name], layer, found[name],
                                   stream, mesh, some, images)
                records[name] += map(short, made)
                layer['done'] = len(records[name])
                microscope.write(directory, f'{name}/units', overview(found[name], layer['done']))
                microscope.write(directory, 'manifest', manifest)
                bar.update(len(some))
            microscope.write_manifest(directory, manifest, records)


def check(config):
    """Raises UserError for values of the config that make no sense."""
    fields.check_choice(config, rule=tuple(RULES))
    fields.check_minimum(config, units_per_layer=0, count=0, steps=1, chunk=1, seed=0,
                         batch_size=1, loader_threads=1, devices=0)
    check_numbers(config, learning_rate=(0, 1e12))
    if not config.learning_rate:
        raise UserError(f'learning_rate={config.learning_rate}: take a number above 0')
    if 0 < config.count < PATCHES:
        raise UserError(f'count={config.count}: a unit has {PATCHES} strongest images; take at '
                        'least so many')


def activations(rows):
    """The layers shown by default: the ReLUs, the sums of residual blocks, and the last layer; of a
    network without ReLUs, the convolutions and the last layer."""
    names = [name for name, row in rows.items() if name.split('/')[-1].startswith('relu')
             or len(row.inputs) > 1 and any(rows[tap].shape == row.shape for tap in row.inputs)]
    names = names or [name for name, row in rows.items() if row.multiply_adds]
    return tuple(dict.fromkeys([*names, list(rows)[-1]]))


def strongest(config, directory, network, names, stream, mesh):
    """{layer: Units}, of the pass over the data set or, made before, of strongest.npz."""
    path = directory / 'strongest.npz'
    if not path.exists():
        with tqdm(total=len(stream), unit='image', desc=config.dataset, disable=None) as bar:
            patches.save(path, patches.strongest(network, names, stream, PATCHES,
                                                 config.batch_size, mesh, bar.update))
    return patches.load(path)


def before(network, rows, name):
    """The tap behind which `name` is a ReLU, and for each unit 1, or -1 where a normalization
    between the two turns it round; None if it is no ReLU.

    A unit's image is made there: behind the ReLU, what inhibits a unit has no gradient. Up to a
    factor and a constant, the two have the same mean over positions.
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


def describe(config, network, whole, rows, names, stream, chunk):
    """The manifest: what the pages say of the network and of its layers."""
    sources = {name: before(network, rows, name) for name in names}
    hidden = {source[0] for source in sources.values() if source} - set(names)
    kinds = {}
    for name, row in rows.items():
        inside = any(other.startswith(f'{name}/') for other in rows)
        origin = rows[row.inputs[0]].stride if row.inputs else (1.0,) * len(row.stride or ())
        kinds[name] = 'block' if inside else diagram.kind_of(row, origin)
    kinds |= {name: kinds[source[0]] for name, source in sources.items() if source}
    shown = [name for name, row in rows.items() if name in names or not (
        name in hidden or row.params and not row.multiply_adds  # a normalization
        or len(row.inputs) == 1 and row.shape == rows[row.inputs[0]].shape and not row.params)]
    some = patches.look_up(stream, range(min(32, len(stream))))
    lowest = jax.jit(lambda images: {name: tap.min() for name, tap in network.taps(images).items()
                                     if name in names})(some)

    def place(name):
        row = rows[name]
        return {'name': name, 'shape': row.shape, 'size': row.size, 'stride': row.stride,
                'kind': kinds[name]}

    def layer(name):
        row, (target, _) = rows[name], sources[name] or (name, None)
        side = units.image_size(network, target)
        patch = [min(size, n) for size, n in zip(row.size, network.image_shape, strict=False)]
        scale = min(1, LARGEST / max(patch))
        patch = [max(round(scale * n), 1) for n in patch]
        return place(name) | {
            'units': min(config.units_per_layer or math.inf, row.shape[-1]), 'done': 0,
            'target': target, 'side': side, 'patch': patch,
            'suffix': 'png' if max(*side, *patch) <= SMALL else 'jpg',
            'negative': bool(sources[name]) or bool(lowest[name] < 0),
            'output': name == list(rows)[-1] and network.classes == stream.classes}

    return {
        'network': config.name or (network.config.model.name if network.config else whole.name),
        'source': config.source,
        'checkpoint': config.checkpoint, 'fingerprint': fingerprint(network.variables),
        'image_shape': network.image_shape, 'parameters': whole.params,
        'multiply_adds': whole.multiply_adds, 'classes': stream.classes,
        'dataset': config.dataset, 'split': config.split, 'images': len(stream),
        'rule': config.rule, 'chunk': chunk,
        'rows': [place(name) for name in shown], 'layers': [layer(name) for name in names],
        'versions': {name: importlib.metadata.version(name) for name in workdir.PACKAGES},
        'config': dict(config)}


def saved(directory, layer, chunk):
    """The records of the units that are finished, in their order."""
    records = []
    for start in range(0, layer['units'], chunk):
        made = microscope.read(directory, f'{layer["name"]}/{start}')
        if made is None:
            break
        records += map(short, made)
    return records


def short(record):
    """A record of manifest.json: all but the classes, which would be most of it."""
    return {name: value for name, value in record.items() if name != 'classes'}


def overview(statistics, done):
    """What the page of a layer needs of its first units; `best` is the class that excites most."""
    means = statistics.class_means[:, :done]
    known = np.isfinite(means).any(0)
    best = np.where(np.isnan(means), -np.inf, means).argmax(0)
    return {'maximum': statistics.maximum[:done], 'mean': statistics.mean[:done],
            'active': statistics.active[:done],
            'best': [int(i) if ok else None for i, ok in zip(best, known, strict=True)]}


def write_classes(directory, manifest, found):
    """For every class and layer the units that stand out most on its images."""
    scores = {}
    for layer in manifest['layers']:
        means = found[layer['name']].class_means[:, :layer['units']].astype(float)
        present = np.isfinite(means).any(1)
        center, spread = means[present].mean(0), means[present].std(0)
        scores[layer['name']] = np.where(
            present[:, None], (means - center) / np.where(spread > 0, spread, np.inf), 0)
    for index in range(len(manifest['classes'])):
        microscope.write(directory, f'classes/{index}', {
            name: [(int(unit), float(each[index, unit]))
                   for unit in np.argsort(-each[index], kind='stable')[:OF_A_CLASS]
                   if each[index, unit] >= LEAST] for name, each in scores.items()})


def optimized(config, network, rows, layer, chunk, mesh):
    """Yields chunk after chunk of the layer's units that are left, with the `Maximized` of each
    kind: 'positive' and, where there are any, 'negative'."""
    source = before(network, rows, layer['name'])
    signs = source[1] if source else np.ones(layer['shape'][-1])
    kinds = {'positive': 1} | ({'negative': -1} if layer['negative'] else {})
    rest = np.arange(layer['done'], layer['units'])
    # The two are made in turn, so that a chunk is finished as a whole.
    runs = [units.each(network, layer['target'], rest, size=tuple(layer['side']),
                       steps=config.steps, learning_rate=config.learning_rate, sign=sign,
                       chunk=chunk, seed=config.seed, mesh=mesh)
            for sign in kinds.values()] if len(rest) else []
    for start, images in zip(range(0, len(rest), chunk), zip(*runs, strict=True),
                             strict=False):
        some = rest[start:start + chunk]
        yield some, {kind: turned(images, signs[some], i) for i, kind in enumerate(kinds)}


def turned(images, signs, i):
    """The i-th of two `Maximized`; of the units whose sign is -1 the other one."""
    if len(images) == 1:
        return images[0]
    one, other = images[i], images[1 - i]
    turn = signs < 0
    return one._replace(
        images=np.where(turn[:, None, None, None], other.images, one.images),
        scores=np.where(turn, other.scores, one.scores),
        health=[b if t else a for a, b, t in zip(one.health, other.health, turn, strict=True)])


def write_units(config, directory, network, row, layer, statistics, stream, mesh, some, images):
    """Writes the pictures of the units `some` and, last, their records, which it returns."""
    def write(unit, kind, picture):
        path = directory / 'images' / layer['name'] / f'{unit}-{kind}.{layer["suffix"]}'
        pictures.write(path, picture)

    places = statistics.images[some]
    chosen, back = np.unique(places, return_inverse=True)
    photographs, positions = patches.look_up(stream, chosen)[back.ravel()], statistics.positions
    labels = [stream.examples[int(place)]['label'] for place in chosen]
    causes = patches.contrast(patches.project(
        network, row.name, photographs, np.repeat(some, PATCHES),
        positions[some].reshape(-1, 2), config.rule, config.batch_size, mesh))
    records = []
    for i, unit in enumerate(some.tolist()):
        for kind, made in images.items():
            write(unit, kind, made.images[i])
        for kind, whole in (('patches', photographs), ('projections', causes)):
            write(unit, kind, sheet([patches.cut(image, row, position) for image, position in zip(
                whole[PATCHES * i:PATCHES * (i + 1)], positions[unit], strict=True)],
                layer['patch']))
        records.append({
            'unit': unit, 'positive': images['positive'].scores[i],
            'negative': images['negative'].scores[i] if 'negative' in images else None,
            'health': {kind: made.health[i] for kind, made in images.items()},
            'scores': statistics.scores[unit], 'images': places[i],
            'labels': [int(labels[k]) for k in back.reshape(places.shape)[i]],
            'mean': statistics.mean[unit], 'deviation': statistics.deviation[unit],
            'active': statistics.active[unit], 'classes': statistics.class_means[:, unit]})
    records = microscope.plain(records)
    microscope.write(directory, f'{layer["name"]}/{some[0]}', records)
    return records


def sheet(found, size):
    """Nine pictures [H, W, C], row by row, as one of three times the `size` (height, width)."""
    stacked = np.concatenate(found, -1)  # side by side, scaling would mix their borders
    height, width, channels = (*size, found[0].shape[-1])
    return pictures.resize(stacked, tuple(size)).reshape(
        height, width, 3, 3, channels).transpose(2, 0, 3, 1, 4).reshape(
            3 * height, 3 * width, channels)
