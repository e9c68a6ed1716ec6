"""More of one layer: facets of its units, pairs of them, the grid of a picture and the atlas of the
data set."""

import itertools
from functools import partial

import numpy as np
from tqdm import tqdm

from cnnjax import plots, trained
from cnnjax.errors import UserError
from cnnjax.images import activation_maps, atlas, directions, objectives, pictures
from cnnjax.images.units import joined
from cnnjax.limits import Whole
from experiments.visualize import shown
from experiments.visualize.maximized import ACTIVATIONS, heading, settings

LIMITS = {'facets': Whole(0, 16), 'pairs': Whole(), 'grid': Whole(0, 64), 'atlas': Whole(0, 64)}
STEPS = 5  # The images from one unit to another, the units included.


def chosen(config, network):
    """The layer that is shown in more ways, in a tuple; () if none of them is asked for.

    Raises UserError if it is not in the network, or if a unit is to have a single facet.
    """
    if config.facets == 1:
        raise UserError('facets=1: several images of a unit are its facets; take 2 or more, or 0')
    if not (config.facets or config.pairs or config.grid or config.atlas):
        return ()
    shapes = network.tap_shapes()
    if config.layer:
        objectives.missing([config.layer], shapes)
    return (config.layer or activation_maps.last_maps(network, network.image_shape),)


def figures(config, network, layer, units, strong, stream, images):
    """{name: the function that draws a figure to a file and returns its numbers}."""
    own = config, network, layer
    found = {'facets': partial(facets, *own, units, strong),
             'pairs': partial(pairs, *own, units, strong),
             'grid': partial(grid, *own, images), 'atlas': partial(atlas_of, *own, stream)}
    lacking = {'pairs': len(units) < 2, 'grid': not images, 'atlas': len(stream) < 4}
    return {name: draw for name, draw in found.items()
            if config[name] and not lacking.get(name)}


def facets(config, network, layer, units, strong, figure):
    """Draws several images of each unit, made together to differ."""
    own, parts = settings(config), []
    with tqdm(total=len(units), unit='unit', desc=f'{layer}: facets', disable=None) as bar:
        for part in directions.facets(
                network, layer, units, own._replace(chunk=max(own.chunk // config.facets, 1)),
                count=config.facets):
            parts.append(part)
            bar.update(len(part.images))
    found = joined(parts)
    for unit, images in zip(units, found.images, strict=True):
        pictures.write(figure.parent.parent / 'maximized' / 'facets' / f'{unit}.png',
                       pictures.mosaic(images))
    rows = [[(f'unit {unit}: {score:.3g}', image, None)
             for image, score in zip(images, scores, strict=True)]
            for unit, images, scores in zip(units, found.images, found.scores, strict=True)]
    plots.gallery(rows, figure, 1.5, title=f'{heading(config, network)}\n{layer}: facets of units',
                  note=ACTIVATIONS)
    return [{'unit': int(unit), 'facets': scores.tolist(), 'health': health,
             'strongest': float(strong.maximum[unit])}
            for unit, scores, health in zip(units, found.scores, found.health, strict=True)]


def pairs(config, network, layer, units, strong, figure):
    """Draws rows of images from one unit to another; the middle one is made for both."""
    chosen = list(itertools.pairwise(units))[:config.pairs]
    channels = network.tap_shapes()[layer][-1]
    wanted = np.concatenate([directions.path(channels, pair, strong.maximum[list(pair)], STEPS)
                             for pair in chosen])
    with tqdm(total=len(wanted), unit='image', desc=f'{layer}: pairs', disable=None) as bar:
        images, health = directions.maximize(network, layer, wanted, settings(config),
                                             progress=bar.update)
    rows = []
    for i, (one, other) in enumerate(chosen):
        texts = [f'unit {one}', *[f'{share:.0%} unit {other}' for share in
                                  np.linspace(0, 1, STEPS)[1:-1]], f'unit {other}']
        texts[STEPS // 2] = f'{one} and {other}'
        rows.append([(text, image, None) for text, image in
                     zip(texts, images[STEPS * i:STEPS * (i + 1)], strict=True)])
    plots.gallery(rows, figure, 1.5, title=f'{heading(config, network)}\n{layer}: '
                                           'from one unit to another')
    return [{'units': [int(unit) for unit in pair], 'health': health[STEPS * i:STEPS * (i + 1)]}
            for i, pair in enumerate(chosen)]


def grid(config, network, layer, images, figure):
    """Draws a picture, and the image of its activations at each place."""
    name, image = shown.large(config, network, images[0])
    found = atlas.of_image(network, layer, image, config.grid)
    canvas = drawn(config, network, layer, found.vectors, found.places, found.lengths, found.shape,
                   'grid')
    size = ' x '.join(map(str, found.shape))
    plots.gallery([[(name, image, None), (f'{size} activation vectors', canvas, None)]], figure,
                  4.5, title=f'{trained.called(network, config.source)}, {layer}: activation grid',
                  note='The area of an image is the length of its vector.')
    return {'image': name, 'layer': layer, 'shape': found.shape}


def atlas_of(config, network, layer, stream, figure):
    """Draws the atlas of the data set, with the classes of its cells."""
    found = atlas.of_set(network, layer, stream, side=config.atlas, seed=config.seed,
                         batch_size=config.batch_size, devices=config.devices)
    shape = (config.atlas, config.atlas)
    canvas = drawn(config, network, layer, found.directions, found.places, found.counts, shape,
                   'atlas')
    labels = [shown.called(network, label)
              for label in (() if found.classes is None else found.classes)]
    plots.labelled(canvas, found.places, labels, shape, figure, f'{heading(config, network)}\n'
                   f'{layer}: activation atlas of {len(stream):,} images', note=(
                       'The area of an image is the number of activations of which it shows the '
                       'mean'
                       + ', its text the class that the network sees in them' * bool(labels) + '.'))
    return {'layer': layer, 'places': found.places.tolist(), 'counts': found.counts.tolist(),
            'classes': labels}


def drawn(config, network, layer, vectors, places, weights, shape, title):
    """The sheet of the images of vectors, made with a progress bar."""
    with tqdm(total=len(vectors), unit='image', desc=f'{layer}: {title}', disable=None) as bar:
        images = atlas.maximized(network, layer, vectors, settings(config), bar.update)
    return atlas.sheet(images, places, weights, shape)
