"""What a network makes of pictures: saliency and activations; and its first filters."""

import jax
import numpy as np
from tqdm import tqdm

from cnnjax import data, plots, summary, trained
from cnnjax.errors import UserError
from cnnjax.images import (
    activation_maps,
    attribution,
    attribution_figure,
    class_scores,
    faithfulness,
    patches,
    pictures,
    selection,
    strongest,
)
from cnnjax.limits import names

DEPTH = 20  # The most layers in the figure of activations.


def given(config, network):
    """The pictures that the config names, [(name, image [H, W, C] in [0, 1])]."""
    *size, channels = network.image_shape
    return [(pictures.stem(source),
             pictures.fitted(pictures.read(source), size, channels))
            for source in names(config.images)]


def recognized(config, network, stream, strong):
    """Images of the data set instead of pictures, [(name, image)], with their true classes: of some
    classes, evenly spread over all, the one that the network is surest of, among the images with
    the highest scores. One of another class is taken only if all of these are."""
    found, truths = [], []
    for label in data.spread(len(strong.images), config.salient):
        name, places = called(network, label), strong.images[label]
        true = [stream.examples[int(place)]['label'] for place in places]
        true = [stream.classes[own] if own >= 0 else None for own in true]
        images = strongest.look_up(stream, places) / np.float32(255)
        sure = class_scores.probabilities(network, images)[:, label]
        best = max(range(len(places)), key=lambda i: (true[i] == name, sure[i]))
        found.append((name, images[best]))
        truths.append(true[best])
    return found, truths


def called(network, label):
    return network.classes[label] if label < len(network.classes) else str(label)


def grid(cells, columns):
    """The cells in rows of `columns`."""
    return [cells[i:i + columns] for i in range(0, len(cells), columns)]


def filters(config, network, figure):
    """Draws the filters of the first convolution; gray is 0."""
    for row in summary.summarize(network.net, network.image_shape).rows:
        params = network.variables['params']
        for name in row.name.split('/'):
            params = params.get(name, {})
        kernel = params.get('kernel')
        if np.ndim(kernel) == 4 and kernel.shape[2] == network.image_shape[-1]:
            shown = patches.contrast(np.moveaxis(np.asarray(kernel), -1, 0))
            plots.gallery(grid([(str(i), image, None) for i, image in enumerate(shown)], 16),
                          figure, 0.5, title=f'{trained.called(network, config.source)}: '
                                             f'filters of {row.name}',
                          note='numbers: output channels. Gray is 0, and each filter has its own '
                               'scale.')
            return {'layer': row.name, 'shape': list(kernel.shape)}
    raise UserError('no convolution of the network sees the image: it has no filters to draw')


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


def large(config, network, image):
    """(name, image); a picture that the config names may be larger than training images."""
    name, image = image
    if sources := names(config.images):
        image = pictures.read(sources[0], config.map_size)
        image = pictures.fitted(image, image.shape[:2], network.image_shape[-1])
    return name, image


def activations(config, network, image, figure):
    """Draws an image, and the maps of the strongest channels of each layer."""
    name, image = large(config, network, image)
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
    plots.gallery(grid(cells, 4), figure, 1.9,
                  title=f'{trained.called(network, config.source)}: activations by {name}',
                  note='numbers: rows, columns and channels of the layer. Of these channels those '
                       'with the largest means are shown, each on its own scale.')
    return {'image': name, 'layers': list(maps)}
