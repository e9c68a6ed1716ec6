"""A static site with a page for every unit of a trained network; see configs/microscope.py."""

import math
from concurrent import futures
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cnnjax import data, features, limits, memory, microscope, parallel, summary, trained
from cnnjax.data.images import read as read_image
from cnnjax.errors import UserError
from cnnjax.images import directions, patches, pictures, selection, strongest, tiles, units
from cnnjax.images.rules import RULES, with_rule
from cnnjax.images.run import begin
from cnnjax.limits import Number, Whole
from configs import base
from experiments.microscope import manifest as pages
from experiments.microscope import maps
from experiments.microscope.manifest import Site, before

PATCHES = 9  # A unit's page shows its nine strongest patches, three by three.
LIMITS = features.LIMITS | {
    'rule': tuple(RULES), 'units_per_layer': Whole(), 'count': Whole(), 'size': Whole(1),
    'steps': Whole(1), 'learning_rate': Number(above=0), 'facets': Whole(0, 16),
    'grid': Whole(0, 64), 'atlas': Whole(0, 64), 'chunk': Whole(1), 'seed': limits.SEED}


def run(config, directory):
    """Writes the site, one chunk of units after the other; finished chunks are not made again.

    Raises UserError if the directory holds another site or one of another data set or network, or
    if a layer does not exist.
    """
    check(config)
    network = trained.load(config.source, config.checkpoint, config.name).of_images(
        'a microscope')
    with_rule(network.net, config.rule)  # raises an error if the network has not such ReLUs
    whole = summary.summarize(network.net, network.image_shape)
    rows = {row.name: row for row in whole.rows if row.shape is not None}
    taps = network.tap_shapes()
    chosen = selection.layers(config.layers, taps)
    # The head of a detector has layers that are no taps, since it sees regions.
    chosen = chosen or dict.fromkeys(pages.activations({name: rows[name] for name in taps}), ())
    whole_set = features.load(config, config.split, network, base.get_config())
    identity = data.identity(whole_set)
    stream = whole_set.subset(data.spread(len(whole_set), config.count))
    check_count(config, stream)
    mesh, directory = parallel.data_mesh(config.devices), Path(directory)
    chunk = mesh.size * math.ceil(config.chunk / mesh.size)
    for layer in chosen:
        shape = units.image_shape(network, layer, units.image_size(network, layer, config.size))
        memory.check(chunk * tiles.activations(network, shape), size=config.size)
    begin(directory, config, network, (directory / 'weights.json').exists())
    microscope.install(directory)
    found = strongest.search_once(
        directory / 'strongest.npz', network, tuple(chosen), stream, identity, PATCHES,
        batch_size=config.batch_size, mesh=mesh)
    site = Site(config, directory, network, rows, stream, mesh, chunk)
    manifest = pages.describe(site, whole, chosen)
    pages.write_classes(directory, manifest, found)
    records = {}  # {layer: {the place of the first unit of a chunk: the chunk's records}}
    for layer in manifest['layers']:
        name = layer['name']
        records[name] = saved(directory, layer, found[name], len(stream.classes), chunk)
        update(directory, layer, found[name], records[name])
    write_numbers(directory, manifest, records)
    print(f'open {directory / "index.html"}', flush=True)
    make(site, manifest, found, records)
    maps.make(site, manifest)
    write_numbers(directory, manifest, records)


def make(site, manifest, found, records):
    """Makes the chunks that `records` lacks; `found` are the strongest images of every layer."""
    made = sum(len(chunk) for chunks in records.values() for chunk in chunks.values())
    with tqdm(total=sum(layer['units'] for layer in manifest['layers']), unit='unit',
              initial=made, disable=None) as bar:
        for layer in manifest['layers']:
            name = layer['name']
            bar.set_description(name)
            left = [start for start in range(0, layer['units'], site.chunk)
                    if start not in records[name]]
            for start, images in optimized(site, layer, left):
                write_units(site, layer, found[name], start, images)
                records[name][start] = list(map(short, microscope.read(
                    site.directory, f'{name}/{start}')))
                update(site.directory, layer, found[name], records[name])
                microscope.write(site.directory, 'manifest', manifest)
                bar.update(len(records[name][start]))
            write_numbers(site.directory, manifest, records)


def check(config):
    """Raises UserError if a value of the config makes no sense."""
    limits.check(config, LIMITS)
    if 0 < config.count < PATCHES:
        raise UserError(f'count={config.count}: a unit has {PATCHES} strongest images; take at '
                        'least so many')
    if config.facets == 1:
        raise UserError('facets=1: several images of a unit are its facets; take 2 or more, or 0')
    if config.grid:
        pictures.read(config.photograph)  # raises an error if there is none


def check_count(config, stream):
    """Raises UserError if the set has fewer images than a unit shows."""
    if len(stream) < PATCHES:
        raise UserError(f"split='{config.split}' of dataset='{config.dataset}' has {len(stream)} "
                        f'images, of which a unit shows its {PATCHES} strongest: take a larger set')


def saved(directory, layer, statistics, classes, chunk):
    """The records of the chunks that are complete with all pictures, {place of the first unit: the
    chunk's records}. Prints what is damaged or missing in the others."""
    found = {}
    for start in range(0, layer['units'], chunk):
        channels = layer['channels'][start:start + chunk]
        try:
            records = microscope.read(directory, f'{layer["name"]}/{start}')
            if records is None:
                continue
            check_records(directory, layer, records, [of_the_set(statistics, channel)
                                                      for channel in channels], classes)
        except UserError as error:
            print(f'{error}: units {channels[0]} to {channels[-1]} are made anew', flush=True)
            continue
        found[start] = list(map(short, records))
    return found


def check_records(directory, layer, records, expected, classes):
    """Raises UserError unless the records of a chunk are as `write_units` writes them, agree with
    those `expected` from the data set, and have all their pictures."""
    kinds = ('positive', 'negative') if layer['negative'] else ('positive',)

    def sound(record, known):
        return (isinstance(record, dict)
                and all(record.get(field) == value for field, value in known.items())
                and isinstance(labels := record.get('labels'), list) and len(labels) == PATCHES
                and all(label in range(classes) for label in labels)
                and isinstance(health := record.get('health'), dict) and set(health) == set(kinds)
                and all(isinstance(record.get(kind), int | float | None) for kind in kinds)
                and len(record.get('facets') or ()) == layer['facets'])

    if not (isinstance(records, list) and len(records) == len(expected)
            and all(map(sound, records, expected))):
        raise UserError(f'{layer["name"]}: the numbers that are kept of it are damaged')
    sizes = dict.fromkeys(kinds, layer['side']) | dict.fromkeys(
        ('patches', 'projections'), [3 * side for side in layer['patch']])
    if layer['facets']:
        height, width = layer['facet']
        sizes['facets'] = [height, layer['facets'] * width]
    wanted = [(picture_of(directory, layer, known['unit'], kind), size)
              for known in expected for kind, size in sizes.items()]

    def check_picture(path, size):
        height, width, _ = read_image(path).shape
        if [height, width] != list(size):
            raise UserError(f'{path} has {height} x {width} pixels, not {size[0]} x {size[1]}')

    with futures.ThreadPoolExecutor() as pool:
        list(pool.map(check_picture, *zip(*wanted, strict=True)))


def picture_of(directory, layer, unit, kind):
    return directory / 'images' / layer['name'] / f'{unit}-{kind}.{layer["suffix"]}'


def of_the_set(statistics, unit):
    """The part of a unit's record that comes from the data set."""
    return microscope.plain({
        'unit': unit, 'scores': statistics.scores[unit], 'images': statistics.images[unit],
        'mean': statistics.mean[unit], 'deviation': statistics.deviation[unit],
        'active': statistics.active[unit], 'classes': statistics.class_means[:, unit]})


def update(directory, layer, statistics, chunks):
    """Counts the finished units of a layer, up to the first missing chunk, and writes the data for
    the layer's page. `chunks` are {place of the first unit: records}."""
    layer['done'] = len(leading(chunks))
    if layer['done']:
        channels = layer['channels'][:layer['done']]
        microscope.write(directory, f'{layer["name"]}/units', pages.overview(statistics, channels))


def write_numbers(directory, manifest, records):
    """Writes the manifest and the finished `records`, {layer: {place: records}}."""
    microscope.write_manifest(directory, manifest, {
        name: leading(chunks) for name, chunks in records.items()})


def leading(chunks):
    """The records of {place: records} in one list, up to the first chunk that is missing."""
    records = []
    while len(records) in chunks:
        records += chunks[len(records)]
    return records


def short(record):
    """The record of a unit in manifest.json, without its classes, which would be most of it."""
    return {name: value for name, value in record.items() if name != 'classes'}


def optimized(site, layer, left):
    """Makes the chunks whose first units have the places `left`, and yields (place, {kind:
    Maximized}) for one after the other. The kinds are 'positive' and, if possible, 'negative', and
    'facets', if asked for."""
    config, _, network, rows, _, mesh, chunk = site
    source = before(network, rows, layer['name'])
    signs = source[1] if source else np.ones(layer['shape'][-1])
    kinds = {'positive': 1} | ({'negative': -1} if layer['negative'] else {})
    parts = [np.array(layer['channels'][start:start + chunk]) for start in left]
    if not parts:
        return
    # All chunks have the same size, so that they share a program and a resumed run makes the same
    # images.
    wanted = np.concatenate([np.resize(part, min(chunk, layer['units'])) for part in parts])
    # The kinds are made in turn, so that a whole chunk is finished at a time.
    settings = units.Settings(config.steps, config.learning_rate, config.seed, chunk, mesh)
    runs = [units.each(network, layer['target'], wanted, settings, size=tuple(layer['side']),
                       sign=sign) for sign in kinds.values()]
    if layer['facets']:
        runs.append(directions.facets(
            network, layer['name'], wanted, settings, count=layer['facets'],
            size=tuple(layer['facet'])))
    for start, part, whole in zip(left, parts, zip(*runs, strict=True), strict=True):
        made = [units.Maximized(*(values[:len(part)] for values in each)) for each in whole]
        found = {kind: turned(made[:len(kinds)], signs[part], i) for i, kind in enumerate(kinds)}
        yield start, found | ({'facets': made[-1]} if layer['facets'] else {})


def turned(images, signs, i):
    """The i-th of two `Maximized`, but with the other's values for units whose sign is -1."""
    if len(images) == 1:
        return images[0]
    one, other = images[i], images[1 - i]
    turn = signs < 0
    return one._replace(
        images=np.where(turn[:, None, None, None], other.images, one.images),
        scores=np.where(turn, other.scores, one.scores),
        health=[b if t else a for a, b, t in zip(one.health, other.health, turn, strict=True)])


def write_units(site, layer, statistics, start, images):
    """Writes the pictures of the chunk that begins at unit `start`, and finally its records."""
    config, directory, network, rows, stream, mesh, _ = site
    row = rows[layer['name']]
    some = np.array(layer['channels'][start:start + len(images['positive'].images)])

    def write(unit, kind, picture):
        pictures.write(picture_of(directory, layer, unit, kind), picture)

    places = statistics.images[some]
    chosen, back = np.unique(places, return_inverse=True)
    photographs, positions = strongest.look_up(stream, chosen)[back.ravel()], statistics.positions
    labels = [stream.examples[int(place)]['label'] for place in chosen]
    causes = patches.contrast(patches.project(
        network, row.name, photographs, np.repeat(some, PATCHES),
        positions[some].reshape(-1, 2), config.rule, chunk=config.batch_size, mesh=mesh))
    records = []
    facets = images.pop('facets', None)
    for i, unit in enumerate(some.tolist()):
        for kind, made in images.items():
            write(unit, kind, made.images[i])
        if facets:
            write(unit, 'facets', np.concatenate(facets.images[i], 1))  # side by side
        for kind, whole in (('patches', photographs), ('projections', causes)):
            own = zip(whole[PATCHES * i:PATCHES * (i + 1)], positions[unit], strict=True)
            write(unit, kind, patches.sheet(
                [patches.cut(image, row, position) for image, position in own], layer['patch']))
        records.append(of_the_set(statistics, unit) | {
            'positive': images['positive'].scores[i],
            'negative': images['negative'].scores[i] if 'negative' in images else None,
            'facets': facets.scores[i] if facets else None,
            'health': {kind: made.health[i] for kind, made in images.items()},
            'labels': [int(labels[k]) for k in back.reshape(places.shape)[i]]})
    microscope.write(directory, f'{layer["name"]}/{start}', records)
