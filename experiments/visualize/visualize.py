"""What the units of a trained network look for, and where the network sees a class; see
configs/visualize.py.

Each part is a figure with its numbers in parts/NAME.json. A complete part is not computed again.
"""

import functools
import math
from pathlib import Path

from cnnjax import atomic, data, features, limits, memory, parallel, summary, trained
from cnnjax.data.identity import array_digest
from cnnjax.data.images import read as read_image
from cnnjax.errors import UserError
from cnnjax.images import pictures, rules, selection, strongest, tiles, units
from cnnjax.images.run import begin
from cnnjax.limits import Names, Number, Whole, names
from configs import base
from experiments.visualize import maximized, one_layer, shown
from experiments.visualize.maximized import safe

LIMITS = features.LIMITS | {
    'count': Whole(), 'units': Whole(1), 'patches': Whole(1), 'steps': Whole(1),
    'class_steps': Whole(1), 'learning_rate': Number(above=0), 'size': Whole(),
    'classes': Whole(), 'salient': Whole(), 'map_size': Whole(1), 'channels': Whole(1),
    'seed': limits.SEED, 'rules': Names(tuple(rules.RULES), some=False)} | one_layer.LIMITS


def run(config, directory):
    """Writes the figures of configs/visualize.py and results.json.

    Raises UserError if the images do not fit the network, if a layer, unit, rule or picture is
    unknown, or if a value makes no sense.
    """
    limits.check(config, LIMITS)
    directory = Path(directory)
    network = trained.load(config.source, config.checkpoint, config.name).of_images(
        'a visualization')
    pictures.check_channels(network.image_shape[-1])
    if network.task == 'detect' and (config.classes or config.salient):
        raise UserError(f'classes={config.classes}, salient={config.salient}: a detector has no '
                        'scores of the classes of a whole image; set both to 0')
    for rule in names(config.rules):
        rules.with_rule(network.net, rule)  # raises an error if the network has not such ReLUs
    layers, scores = chosen(config, network), last(config, network)
    deep = one_layer.chosen(config, network)
    whole = features.load(config, config.split, network, base.get_config())
    identity = data.identity(whole)
    stream = whole.subset(data.spread(len(whole), config.count))
    if config.patches > len(stream):
        raise UserError(f'patches={config.patches}: the data set has {len(stream)} images')
    images = shown.given(config, network)
    truths = [None] * len(images)
    check_size(config, network, stream, layers)
    begin(directory, config, network, any(directory.glob('parts/*')))
    strong = strongest.search_once(
        directory / 'patches.npz', network, list(dict.fromkeys([*layers, *deep, *scores])), stream,
        identity, config.patches, batch_size=config.batch_size,
        mesh=parallel.data_mesh(config.devices))
    results = {'source': str(config.source), 'checkpoint': config.checkpoint,
               'dataset': config.dataset, 'split': config.split, 'images': len(stream)}

    part = functools.partial(kept_part, directory)
    results['filters'] = part('filters', lambda figure: shown.filters(
        config, network, figure))
    rows = {row.name: row for row in
            summary.summarize(network.net, network.image_shape).rows}
    results['layers'] = {
        layer: part(safe(layer), lambda figure, layer=layer: maximized.unit_rows(
            config, network, stream, rows[layer], strong[layer],
            maximized.picked(config, strong[layer], layers[layer]), figure), identity.digest)
        for layer in layers}
    if config.classes:
        results['classes'] = part('classes', lambda figure: maximized.classes(
            config, network, stream, scores[0], strong[scores[0]], figure), identity.digest)
    kinds = {'units': sum(results['layers'].values(), []), 'classes': results.get('classes', [])}
    results['exceeding'] = {what: maximized.exceeding(rows) / len(rows)
                            for what, rows in kinds.items() if rows}
    for what in results['exceeding']:
        print(maximized.count_of(what, kinds[what]), flush=True)
    if not images and config.salient:
        images, truths = shown.recognized(config, network, stream, strong[scores[0]])
    digests = ' '.join(array_digest(image) for _, image in images)
    for layer in deep:
        which = maximized.picked(config, strong[layer], layers.get(layer))
        for name, draw in one_layer.figures(config, network, layer, which, strong[layer], stream,
                                            images).items():
            results[name] = part(name, draw, f'{identity.digest} {digests}')
    if images:
        if scores:
            results['saliency'] = part('saliency', lambda figure: shown.saliency(
                config, network, images, truths, figure), digests)
        results['activations'] = part('activations', lambda figure: shown.activations(
            config, network, images[0], figure), digests)
    atomic.write_json(directory / 'results.json', results)
    print(f'results: {directory / "results.json"}')


def kept_part(directory, name, make, made_from=''):
    """The numbers that `make(figure)` returns, or that it returned in an earlier run."""
    figure = directory / 'figures' / f'{name}.png'
    numbers = directory / 'parts' / f'{name}.json'
    found = finished(numbers, figure, made_from)
    if found is None:
        found = make(figure)
        atomic.write_json(numbers, {'made_from': made_from, 'numbers': found})
    print(f'{name}: {figure}', flush=True)
    return found


def finished(numbers, figure, made_from):
    """The numbers of a part if its figure and its images of units are complete, else None. Prints
    what is damaged, missing or made from another set or picture."""
    try:
        saved = atomic.read_json(numbers)
        if saved is None:
            return None
        if not isinstance(saved, dict) or not saved.get('numbers'):
            raise UserError(f'{numbers} has no numbers')
        if saved.get('made_from') != made_from:
            raise UserError(f'{numbers} is of another data set or picture')
        rows = saved['numbers'] if isinstance(saved['numbers'], list) else []
        maximized = figure.parent.parent / 'maximized' / figure.stem
        for path in [figure, *(maximized / f'{row["unit"]}.png' for row in rows
                               if isinstance(row, dict) and 'unit' in row)]:
            read_image(path)
    except UserError as error:
        print(f'{error}: the part is made anew', flush=True)
        return None
    return saved['numbers']


def check_size(config, network, stream, layers):
    """Raises UserError if the images to make or show do not fit in memory or in the layers."""
    memory.check(min(config.batch_size, len(stream)) * features.largest(network),
                 batch_size=config.batch_size)
    if sources := names(config.images):
        try:
            sides = pictures.read(sources[0], config.map_size).shape[:2]
            found = tiles.activations(network, (*sides, network.image_shape[-1]))
        except (ArithmeticError, TypeError, ValueError) as error:  # A layer raises it.
            raise UserError(f'map_size={config.map_size} does not fit {sources[0]} or the network: '
                            f'{error}') from error
        memory.check(found, map_size=config.map_size)
    for layer, which in layers.items():
        shape = units.image_shape(network, layer, maximized.size(config, network, layer))
        units.check_size(network, layer, shape)
        memory.check(min(len(which or range(config.units)), units.CHUNK)
                     * tiles.activations(network, shape), size=config.size)


def chosen(config, network):
    """{layer: its units, or None if the config names none}, in the order of the config."""
    shapes = network.tap_shapes()
    found = {layer: list(channels) or None
             for layer, channels in selection.layers(config.layers, shapes).items()}
    if not found:
        found = {layer: None for layer in selection.by_depth('', shapes)
                 if len(shapes[layer]) == 3 and math.prod(shapes[layer][:2]) > 1}
    if not found:
        raise UserError('no layer has maps: name layers')
    return found


def last(config, network):
    """The layer of the class scores in a tuple; () if there is none, or it is not needed."""
    if network.task == 'detect' or not (config.classes or config.salient or config.images):
        return ()
    return (list(network.tap_shapes())[-1],)
