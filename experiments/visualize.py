"""What the units of a trained network look for, and where it sees a class: see
configs/visualize.py.

Every part is a figure and its numbers, parts/NAME.json; one that is there as a whole is not
computed again.
"""

import math
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from cnnjax import atomic, data, parallel, plots, summary, trained
from cnnjax.data.identity import array_digest
from cnnjax.data.images import read as read_image
from cnnjax.errors import UserError, check_numbers
from cnnjax.images import attribution, patches, pictures, rules, units
from cnnjax.images.run import begin
from experiments import codes, fields

COLUMNS = 8  # of the figure of classes: two for each
DEPTH = 20  # layers in the figure of activations, at most
BRIGHT = 0.995  # quantile of a map that is drawn as the largest value, whatever the peaks
BLUE = np.float32([0.6, 0.74, 0.9])  # of lines between gray pictures
SHARP = 128  # pixels: smaller patches are enlarged to about that, each pixel a square


def run(config, directory):
    """Writes the figures of configs/visualize.py and results.json.

    Raises UserError where the images do not fit the network, for an unknown layer, unit, rule or
    picture, and for a value that makes no sense.
    """
    check(config)
    directory = Path(directory)
    network = trained.load(config.source, config.checkpoint, config.name)
    pictures.check_channels(network.image_shape[-1])
    layers, scores = chosen(config, network), last(config, network)
    stream = codes.load(config, config.split, network)
    identity = data.identity(stream)
    stream.examples = codes.Part(stream.examples, codes.spread(len(stream), config.count))
    if config.patches > len(stream):
        raise UserError(f'patches={config.patches}: the data set has {len(stream)} images')
    images = given(config, network)
    check_memory(config, network, stream, layers)
    begin(directory, config, network, any(directory.glob('parts/*')))
    strong = codes.strongest(config, directory / 'patches.npz', network,
                             list(dict.fromkeys([*layers, *scores])), stream, identity,
                             config.patches)
    results = {'source': str(config.source), 'checkpoint': config.checkpoint,
               'dataset': config.dataset, 'split': config.split, 'images': len(stream)}

    def part(name, make, made_from=''):
        """What `make(figure)` returns, or has returned for the same in a run before."""
        figure = directory / 'figures' / f'{name}.png'
        numbers = directory / 'parts' / f'{name}.json'
        found = finished(numbers, figure, made_from)
        if found is None:
            found = make(figure)
            atomic.write_json(numbers, {'made_from': made_from, 'numbers': found})
        print(f'{name}: {figure}', flush=True)
        return found

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
        images = recognized(config, network, stream, strong[scores[0]])
    if images:
        shown = ' '.join(array_digest(image) for _, image in images)
        results['saliency'] = part('saliency', lambda figure: saliency(
            config, network, images, figure), shown)
        results['activations'] = part('activations', lambda figure: activations(
            config, network, images[0], figure), shown)
    atomic.write_json(directory / 'results.json', results)
    print(f'results: {directory / "results.json"}')


def finished(numbers, figure, made_from):
    """The numbers of a part that is there as a whole, the figure and the images of units too; None
    where it is to be made, which is said where something of it is damaged, missing or of another
    set or picture."""
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


def check(config):
    """Raises UserError for values of the config that make no sense."""
    fields.check_minimum(config, count=0, units=1, patches=1, steps=1, size=0, classes=0, salient=0,
                         map_size=1, channels=1, seed=0, batch_size=1, loader_threads=1, devices=0)
    check_numbers(config, learning_rate=(0, 1e12))
    if not config.learning_rate:
        raise UserError('learning_rate=0: take a number above 0, such as 0.05')
    for rule in fields.names(config.rules):
        if rule not in rules.RULES:
            raise UserError(f"rules='{config.rules}': '{rule}' is none of "
                            f'{", ".join(rules.RULES)}')


def check_memory(config, network, stream, layers):
    """Raises UserError where the images that are made, or looked at, fill the memory or fit no
    layer."""
    fields.check_memory(min(config.batch_size, len(stream)) * codes.widest(network),
                        batch_size=config.batch_size)
    if sources := fields.names(config.images):
        try:
            sides = pictures.read(sources[0], config.map_size).shape[:2]
            found = fields.activations(network, (*sides, network.image_shape[-1]))
        except (ArithmeticError, TypeError, ValueError) as error:  # of the layer that fails first
            raise UserError(f'map_size={config.map_size} does not fit {sources[0]} or the network: '
                            f'{error}') from error
        fields.check_memory(found, map_size=config.map_size)
    if config.size:
        shape = (config.size, config.size, network.image_shape[-1])
        for layer in layers:
            units.check_size(network, layer, shape)
        fields.check_memory(min(config.units, units.CHUNK) * fields.activations(network, shape),
                            size=config.size)


def chosen(config, network):
    """{layer: its units, None: to be chosen}, in the order they are named in."""
    shapes = codes.tap_shapes(network, network.image_shape)
    found = {layer: list(channels) or None
             for layer, channels in fields.layers(config.layers, shapes).items()}
    if not found:
        found = {layer: None for layer in codes.by_depth('', shapes)
                 if len(shapes[layer]) == 3 and math.prod(shapes[layer][:2]) > 1}
    if not found:
        raise UserError('no layer has maps: name layers')
    return found


def last(config, network):
    """The layer of the classes' scores, as a tuple; () where it is not needed."""
    layer, shape = list(codes.tap_shapes(network, network.image_shape).items())[-1]
    if not (config.classes or config.salient or config.images):
        return ()
    if len(shape) != 1:
        raise UserError(f"the last layer '{layer}' has maps, not scores of classes: take "
                        "classes=0, salient=0 and images=''")
    return (layer,)


def given(config, network):
    """[(name, image [H, W, C] in [0, 1])] of the pictures that the config names."""
    *size, channels = network.image_shape
    return [(Path(source.removeprefix(pictures.PREFIX)).stem,
             codes.fitted(pictures.read(source), size, channels))
            for source in fields.names(config.images)]


def recognized(config, network, stream, strong):
    """The same of the data set: of classes spread over all, the image with the highest score."""
    labels = codes.spread(len(strong.images), config.salient)
    images = patches.look_up(stream, strong.images[labels, 0]) / np.float32(255)
    return [(called(network, label), image) for label, image in zip(labels, images, strict=True)]


def safe(layer):
    """The name of a layer as that of a file."""
    return layer.replace('/', '.')


def filters(network, figure):
    """Draws the filters of the first convolution, each around gray."""
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
    """Rows of so many cells."""
    return [cells[i:i + columns] for i in range(0, len(cells), columns)]


def unit_rows(config, network, stream, row, strong, chosen, figure):
    """Draws a row for each unit: what excites it most, its patches, and their projections."""
    layer = row.name
    if chosen is None:
        alive = np.flatnonzero(strong.active > 0)
        chosen = alive[codes.spread(len(alive), config.units)].tolist() or [0]
    mesh = parallel.data_mesh(config.devices)
    maximized = maximize(config, network, layer, chosen, layer)
    for unit, image in zip(chosen, maximized.images, strict=True):
        pictures.write(figure.parent.parent / 'maximized' / safe(layer) / f'{unit}.png', image)
    count = strong.scores.shape[1]
    images = patches.look_up(stream, strong.images[chosen].ravel())
    numbers, places = np.repeat(chosen, count), strong.positions[chosen].reshape(-1, 2)
    causes = {rule: patches.contrast(patches.project(
        network, layer, images, numbers, places, rule, mesh=mesh))
        for rule in tqdm(fields.names(config.rules), unit='rule', desc=f'{layer}: projections',
                         disable=None)}
    drawn, numbers = [], []
    for i, unit in enumerate(chosen):
        own = slice(i * count, (i + 1) * count)

        def cut(images, own=own):
            return mosaic([patches.cut(image, row, place)
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
    """`units.maximize`, with a bar."""
    *sides, _ = network.image_shape
    full = len(codes.tap_shapes(network, network.image_shape)[layer]) == 1
    with tqdm(total=len(chosen), unit='unit', desc=f'{title}: images', disable=None) as bar:
        return units.maximize(
            network, layer, chosen, steps=config.steps, learning_rate=config.learning_rate,
            size=tuple(sides) if full else config.size or None, seed=config.seed,
            mesh=parallel.data_mesh(config.devices), progress=bar.update)


def mosaic(images):
    """Pictures of one shape in rows and columns: [H, W, 3], with lines between them."""
    height, width, channels = images[0].shape
    zoom, gap = max(1, SHARP // max(height, width)), 4
    rows = math.ceil(len(images) / (columns := math.ceil(math.sqrt(len(images)))))
    line = 1.0 if channels == 3 else BLUE
    step = height * zoom + gap, width * zoom + gap
    canvas = np.ones((rows * step[0] - gap, columns * step[1] - gap, 3), np.float32) * line
    for i, image in enumerate(images):
        top, left = i // columns * step[0], i % columns * step[1]
        canvas[top:top + height * zoom, left:left + width * zoom] = np.repeat(
            np.repeat(image, zoom, 0), zoom, 1)
    return canvas


def classes(config, network, stream, layer, strong, figure):
    """Draws, for classes spread over all, the image made to be one, and the one of the data set
    with the highest score."""
    chosen = codes.spread(len(strong.images), config.classes)
    maximized = maximize(config, network, layer, chosen, 'classes')
    probabilities = np.asarray(jax.nn.softmax(network(maximized.images)))
    images = patches.look_up(stream, strong.images[chosen, 0]) / np.float32(255)
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


def saliency(config, network, images, figure):
    """Draws where the network sees the most likely class of each image, by every method."""
    names, images = zip(*images, strict=True)
    images = np.stack(images)
    probabilities = np.asarray(jax.nn.softmax(network(images)))
    labels = probabilities.argmax(-1)
    maps = {}
    with tqdm(attribution.METHODS.items(), unit='method', desc='saliency', disable=None) as bar:
        for method, function in bar:
            options = {'seed': config.seed} if method == 'SmoothGrad' else {}
            maps[method] = function(network, images, labels, **options)
    rows, numbers = [], []
    for i, (name, label) in enumerate(zip(names, labels, strict=True)):
        found, sure = called(network, label), probabilities[i, label]
        rows.append([(f'{found[:18]}: {sure:.0%}', images[i], None),
                     *((method, colored(method, found[i], images[i]), None)
                       for method, found in maps.items())])
        numbers.append({'image': name, 'class': found, 'probability': float(sure)})
    plots.gallery(rows, figure, 1.3)
    return numbers


def colored(method, values, image):
    """A map [H, W] as a picture: of what has a sign, around white, red speaks for the class and
    blue against it; Grad-CAM, which has few positions, lies on the image."""
    from matplotlib import colormaps

    if (values < 0).any() or method in ('integrated gradients', 'occlusion'):
        largest = np.quantile(np.abs(values), BRIGHT) or 1
        return colormaps['RdBu_r'](np.clip(0.5 + values / (2 * largest), 0, 1))[..., :3]
    values = np.clip(values / (np.quantile(values, BRIGHT) or 1), 0, 1)
    if method == 'Grad-CAM':
        gray = image.mean(-1, keepdims=True)
        return 0.45 * gray + 0.55 * colormaps['turbo'](values)[..., :3]
    return values


def activations(config, network, image, figure):
    """Draws an image, and the maps of its strongest channels layer by layer."""
    name, image = image
    sources = fields.names(config.images)
    if sources:  # maps may be larger than in training
        image = pictures.read(sources[0], config.map_size)
        image = codes.fitted(image, image.shape[:2], network.image_shape[-1])
    taps = jax.device_get(jax.jit(network.taps)(image[None]))
    rows = {row.name: row for row in summary.summarize(network.net, network.image_shape).rows}
    maps = {layer: taps[layer][0] for layer in depth(rows, taps)}
    cells = [(name, image, None)]
    for layer, found in maps.items():
        order = np.argsort(-found.mean((0, 1)), kind='stable')[:config.channels]
        shown = found[..., order]
        low, high = np.minimum(shown.min((0, 1)), 0), np.quantile(shown, BRIGHT, (0, 1))
        shown = np.clip((shown - low) / np.maximum(high - low, 1e-12), 0, 1)  # each by its own
        title = f'{layer}: {" x ".join(map(str, found.shape))}'
        cells.append((title, mosaic(list(np.moveaxis(shown, -1, 0)[..., None])), None))
    plots.gallery(grid(cells, 4), figure, 1.9)
    return {'image': name, 'layers': list(maps)}


def depth(rows, taps):
    """The layers of maps whose activations are drawn: of a convolution and the ReLU behind it, the
    ReLU; of a deep network some, spread over it."""
    consumers = {}
    for row in rows.values():
        for name in row.inputs:
            consumers.setdefault(name, []).append(row)
    found = []
    for name, row in rows.items():
        if name not in taps or '/' in name or math.prod(taps[name].shape[1:-1]) == 1:
            continue
        after = consumers.get(name, [])
        if len(after) == 1 and not after[0].params and after[0].shape == row.shape:
            continue
        found.append(name)
    return [found[i] for i in codes.spread(len(found), DEPTH)]
