"""What the units of a trained network look for, and where the network sees a class; see
configs/visualize.py.

Each part is a figure with its numbers in parts/NAME.json. A complete part is not computed again.
"""

import functools
import math
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from cnnjax import atomic, data, features, limits, memory, parallel, plots, summary, trained
from cnnjax.data.identity import array_digest
from cnnjax.data.images import read as read_image
from cnnjax.errors import UserError
from cnnjax.images import (
    activation_maps,
    attribution,
    attribution_figure,
    class_scores,
    faithfulness,
    patches,
    pictures,
    rules,
    selection,
    strongest,
    tiles,
    units,
)
from cnnjax.images.run import begin
from cnnjax.limits import Names, Number, Whole, names
from configs import base

COLUMNS = 8  # The columns in the figure of classes, two for each class.
DEPTH = 20  # The most layers in the figure of activations.
LIMITS = features.LIMITS | {
    'count': Whole(), 'units': Whole(1), 'patches': Whole(1), 'steps': Whole(1),
    'learning_rate': Number(above=0), 'size': Whole(), 'classes': Whole(), 'salient': Whole(),
    'map_size': Whole(1), 'channels': Whole(1), 'seed': limits.SEED,
    'rules': Names(tuple(rules.RULES), some=False)}


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
    whole = features.load(config, config.split, network, base.get_config())
    identity = data.identity(whole)
    stream = whole.subset(data.spread(len(whole), config.count))
    if config.patches > len(stream):
        raise UserError(f'patches={config.patches}: the data set has {len(stream)} images')
    images = given(config, network)
    truths = [None] * len(images)
    check_size(config, network, stream, layers)
    begin(directory, config, network, any(directory.glob('parts/*')))
    strong = strongest.search_once(
        directory / 'patches.npz', network, list(dict.fromkeys([*layers, *scores])), stream,
        identity, config.patches, batch_size=config.batch_size,
        mesh=parallel.data_mesh(config.devices))
    results = {'source': str(config.source), 'checkpoint': config.checkpoint,
               'dataset': config.dataset, 'split': config.split, 'images': len(stream)}

    part = functools.partial(kept_part, directory)
    results['filters'] = part('filters', lambda figure: filters(network, figure))
    rows = {row.name: row for row in
            summary.summarize(network.net, network.image_shape).rows}
    results['layers'] = {
        layer: part(safe(layer), lambda figure, layer=layer: unit_rows(
            config, network, stream, rows[layer], strong[layer], layers[layer], figure),
            identity.digest)
        for layer in layers}
    if config.classes:
        results['classes'] = part('classes', lambda figure: classes(
            config, network, stream, scores[0], strong[scores[0]], figure), identity.digest)
    if not images and config.salient:
        images, truths = recognized(config, network, stream, strong[scores[0]])
    if images:
        shown = ' '.join(array_digest(image) for _, image in images)
        if scores:
            results['saliency'] = part('saliency', lambda figure: saliency(
                config, network, images, truths, figure), shown)
        results['activations'] = part('activations', lambda figure: activations(
            config, network, images[0], figure), shown)
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
    if config.size:
        shape = (config.size, config.size, network.image_shape[-1])
        for layer in layers:
            units.check_size(network, layer, shape)
        memory.check(min(config.units, units.CHUNK) * tiles.activations(network, shape),
                     size=config.size)


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


def given(config, network):
    """The pictures that the config names, [(name, image [H, W, C] in [0, 1])]."""
    *size, channels = network.image_shape
    return [(Path(source.removeprefix(pictures.PREFIX)).stem,
             pictures.fitted(pictures.read(source), size, channels))
            for source in names(config.images)]


def recognized(config, network, stream, strong):
    """Images of the data set instead of pictures, [(name, image)], with their true classes: those
    with the highest score of some classes, evenly spread over all."""
    labels = data.spread(len(strong.images), config.salient)
    places = strong.images[labels, 0]
    images = strongest.look_up(stream, places) / np.float32(255)
    true = [int(stream.examples[int(place)]['label']) for place in places]
    return ([(called(network, label), image) for label, image in zip(labels, images, strict=True)],
            [stream.classes[label] if label >= 0 else None for label in true])


def safe(layer):
    """The name of a layer as a valid file name."""
    return layer.replace('/', '.')


def filters(network, figure):
    """Draws the filters of the first convolution; gray is 0."""
    for row in summary.summarize(network.net, network.image_shape).rows:
        params = network.variables['params']
        for name in row.name.split('/'):
            params = params.get(name, {})
        kernel = params.get('kernel')
        if np.ndim(kernel) == 4 and kernel.shape[2] == network.image_shape[-1]:
            shown = patches.contrast(np.moveaxis(np.asarray(kernel), -1, 0))
            plots.gallery(grid([(str(i), image, None) for i, image in enumerate(shown)], 16),
                          figure, 0.5)
            return {'layer': row.name, 'shape': list(kernel.shape)}
    raise UserError('no convolution of the network sees the image: it has no filters to draw')


def grid(cells, columns):
    """The cells in rows of `columns`."""
    return [cells[i:i + columns] for i in range(0, len(cells), columns)]


def unit_rows(config, network, stream, row, strong, chosen, figure):
    """Draws a row for each unit: the image that excites it most, its patches and their
    projections."""
    layer = row.name
    if chosen is None:
        alive = np.flatnonzero(strong.active > 0)
        chosen = alive[data.spread(len(alive), config.units)].tolist() or [0]
    mesh = parallel.data_mesh(config.devices)
    maximized = maximize(config, network, layer, chosen, layer)
    for unit, image in zip(chosen, maximized.images, strict=True):
        pictures.write(figure.parent.parent / 'maximized' / safe(layer) / f'{unit}.png', image)
    count = strong.scores.shape[1]
    images = strongest.look_up(stream, strong.images[chosen].ravel())
    numbers, places = np.repeat(chosen, count), strong.positions[chosen].reshape(-1, 2)
    causes = {rule: patches.contrast(patches.project(
        network, layer, images, numbers, places, rule, mesh=mesh))
        for rule in tqdm(names(config.rules), unit='rule', desc=f'{layer}: projections',
                         disable=None)}
    drawn, numbers = [], []
    for i, unit in enumerate(chosen):
        own = slice(i * count, (i + 1) * count)

        def cut(images, own=own):
            return pictures.mosaic([patches.cut(image, row, place)
                           for image, place in zip(images[own], places[own], strict=True)])

        scores = strong.scores[unit]
        drawn.append([(f'{layer}, unit {unit}: {maximized.scores[i]:.3g}', maximized.images[i],
                       None),
                      (f'strongest patches: {scores[0]:.3g} to {scores[-1]:.3g}', cut(images),
                       None),
                      *((f'by {rule}', cut(found), None) for rule, found in causes.items())])
        numbers.append({
            'unit': int(unit), 'maximized': float(maximized.scores[i]),
            'health': maximized.health[i], 'strongest': scores.tolist(),
            'images': strong.images[unit].tolist(), 'positions': strong.positions[unit].tolist(),
            'mean': float(strong.mean[unit]), 'deviation': float(strong.deviation[unit]),
            'active': float(strong.active[unit])})
        if maximized.health[i]:
            print(f'{layer}, unit {unit}: {maximized.health[i]}', flush=True)
    plots.gallery(drawn, figure, 1.9)
    return numbers


def maximize(config, network, layer, chosen, title):
    """`units.maximize` with a progress bar."""
    *sides, _ = network.image_shape
    full = layer == list(network.tap_shapes())[-1] or len(network.tap_shapes()[layer]) == 1
    with tqdm(total=len(chosen), unit='unit', desc=f'{title}: images', disable=None) as bar:
        return units.maximize(
            network, layer, chosen, steps=config.steps, learning_rate=config.learning_rate,
            size=tuple(sides) if full else config.size or None, seed=config.seed,
            mesh=parallel.data_mesh(config.devices), progress=bar.update)


def classes(config, network, stream, layer, strong, figure):
    """Draws two images for each of some classes, evenly spread over all: the image made for its
    score, and the image of the data set with the highest score."""
    chosen = data.spread(len(strong.images), config.classes)
    maximized = maximize(config, network, layer, chosen, 'classes')
    probabilities = class_scores.probabilities(network, maximized.images)
    images = strongest.look_up(stream, strong.images[chosen, 0]) / np.float32(255)
    cells, numbers = [], []
    for i, label in enumerate(chosen):
        name, score, best = called(network, label), maximized.scores[i], strong.scores[label, 0]
        cells += [(f'{name[:14]}: {score:.3g}', maximized.images[i], None),
                  (f'strongest: {best:.3g}', images[i], None)]
        numbers.append({'class': name, 'maximized': float(score),
                        'probability': float(probabilities[i, label]),
                        'health': maximized.health[i], 'strongest': float(best),
                        'image': int(strong.images[label, 0])})
    plots.gallery(grid(cells, min(COLUMNS, len(cells))), figure, 1.1)
    return numbers


def called(network, label):
    return network.classes[label] if label < len(network.classes) else str(label)


def saliency(config, network, images, truths, figure):
    """Draws where the network sees the most likely class of each image, by each method, and how far
    the methods can be trusted: their deletion and insertion scores."""
    names, images = zip(*images, strict=True)
    images = np.stack(images)
    probabilities = class_scores.probabilities(network, images)
    labels = probabilities.argmax(-1)
    if network.task == 'segment':  # Class 0, the background in most sets, is nearly everywhere.
        labels = probabilities[:, 1:].argmax(-1) + 1
    maps, scores = {}, {'deletion': {}, 'insertion': {}}
    with tqdm(attribution.METHODS.items(), unit='method', desc='saliency', disable=None) as bar:
        for method, function in bar:
            options = {'seed': config.seed} if method in attribution.SEEDED else {}
            maps[method] = function(network, images, labels, **options)
            for score, found in scores.items():
                found[method] = getattr(faithfulness, score)(network, images, labels, maps[method])
    rows, numbers = [], []
    for i, (name, label, truth) in enumerate(zip(names, labels, truths, strict=True)):
        own = {score: {method: float(values[i]) for method, values in found.items()}
               for score, found in scores.items()}
        row = {'class': called(network, label), 'probability': float(probabilities[i, label]),
               'true_class': truth}
        rows.append(attribution_figure.Row(images[i], *row.values(), {
            method: found[i] for method, found in maps.items()}, **own))
        numbers.append({'image': name, **row, **own})
    attribution_figure.draw(rows, figure, about(config, network, names))
    return numbers


def about(config, network, names):
    """Of which network, images and layer the figure of saliency is, in a line."""
    known = [network.name, network.config and f'checkpoint {config.checkpoint}']
    known = ', '.join(filter(None, known))
    images = ', '.join(names) if config.images else f'{config.dataset}, {config.split} set'
    layer = activation_maps.last_maps(network, network.image_shape)
    sides = ' x '.join(map(str, network.tap_shapes()[layer][:2]))
    return (f'network: {config.source}{known and f" ({known})"}     images: {images}     '
            f'layer of the CAMs: {layer}, {sides} positions')


def activations(config, network, image, figure):
    """Draws an image, and the maps of the strongest channels of each layer."""
    name, image = image
    sources = names(config.images)
    if sources:  # The picture may be larger than training images.
        image = pictures.read(sources[0], config.map_size)
        image = pictures.fitted(image, image.shape[:2], network.image_shape[-1])
    taps = jax.device_get(jax.jit(network.taps)(image[None]))
    rows = {row.name: row for row in summary.summarize(network.net, network.image_shape).rows}
    shapes = {layer: tap.shape[1:] for layer, tap in taps.items()}
    maps = {layer: taps[layer][0] for layer in selection.maps(rows, shapes, DEPTH)}
    cells = [(name, image, None)]
    for layer, found in maps.items():
        order = np.argsort(-found.mean((0, 1)), kind='stable')[:config.channels]
        shown = found[..., order]
        low = np.minimum(shown.min((0, 1)), 0)
        high = np.quantile(shown, attribution_figure.BRIGHT, (0, 1))
        shown = np.clip((shown - low) / np.maximum(high - low, 1e-12), 0, 1)  # Each has its scale.
        title = f'{layer}: {" x ".join(map(str, found.shape))}'
        cells.append((title, pictures.mosaic(list(np.moveaxis(shown, -1, 0)[..., None])), None))
    plots.gallery(grid(cells, 4), figure, 1.9)
    return {'image': name, 'layers': list(maps)}


