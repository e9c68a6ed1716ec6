"""The page of a layer with its activation atlas, and the activation grid of a photograph."""

import numpy as np
from tqdm import tqdm

from cnnjax import data, microscope
from cnnjax.data.images import read as read_image
from cnnjax.errors import UserError
from cnnjax.images import atlas, pictures, strongest, units

IMAGES = 500  # The most images of an atlas: more take t-SNE long, for each layer.
SIDE = 192  # the longer side of the photograph, in pixels
PHOTOGRAPH = 'images/photograph.png'


def make(site, manifest):
    """Makes what is missing of the pages of all layers; `manifest` says for each whether it has
    one, and is written anew after each."""
    if not (site.config.grid or site.config.atlas):
        return
    image = photograph(site)
    pictures.write(site.directory / PHOTOGRAPH, image)
    some = site.stream.subset(data.spread(len(site.stream), IMAGES))
    with tqdm(manifest['layers'], unit='layer', desc='atlases', disable=None) as layers:
        for layer in layers:
            if not complete(site, layer):
                microscope.write(site.directory, f'{layer["name"]}/maps',
                                 drawn(site, layer, image, some))
            layer['maps'] = any(asks(site, layer, kind) for kind in ('grid', 'atlas'))
            microscope.write(site.directory, 'manifest', manifest)


def asks(site, layer, kind):
    """Whether a layer has a picture of this kind: a grid takes positions."""
    return bool(site.config[kind]) and (kind == 'atlas' or len(layer['shape']) == 3)


def photograph(site):
    """The image [H, W, C] in [0, 1] whose activations the grids show; for networks of small images
    it is one of the set."""
    network = site.network
    if not units.photographs(network):
        return strongest.look_up(site.stream, [0])[0] / np.float32(255)
    image = pictures.read(site.config.photograph, SIDE)
    return pictures.fitted(image, network.fitting(image.shape[:2]), network.image_shape[-1])


def drawn(site, layer, image, stream):
    """Draws the atlas and the grid of a layer; returns what the page says of them. The images of
    both are made at once, since they share a program."""
    config, network, name = site.config, site.network, layer['name']
    kept, vectors, sheets = {}, [], {}  # {kind: (places, weights, shape)}
    if asks(site, layer, 'grid'):
        found = atlas.of_image(network, name, image, config.grid)
        vectors.append(found.vectors)
        sheets['grid'] = found[1:]
        kept['grid'] = {'shape': found.shape}
    if asks(site, layer, 'atlas'):
        found = atlas.of_set(network, name, stream, side=config.atlas, seed=config.seed,
                             batch_size=config.batch_size, devices=config.devices)
        vectors.append(found.directions)
        sheets['atlas'] = found.places, found.counts, (config.atlas, config.atlas)
        known = found.classes is not None and network.classes == site.stream.classes
        classes = found.classes.tolist() if known else [None] * len(found.counts)
        kept['atlas'] = {'shape': sheets['atlas'][-1], 'images': len(stream), 'cells': [
            [*place, count, label] for place, count, label in
            zip(found.places.tolist(), found.counts.tolist(), classes, strict=True)]}
    if not vectors:  # A layer without positions has no grid.
        return kept
    settings = units.Settings(config.steps, config.learning_rate, config.seed, site.chunk,
                              site.mesh)
    images = atlas.maximized(network, name, np.concatenate(vectors), settings)
    for (kind, sheet), own in zip(sheets.items(), np.split(images, [len(vectors[0])]),
                                  strict=False):
        pictures.write(path_of(site.directory, layer, kind), atlas.sheet(own, *sheet))
    return kept


def path_of(directory, layer, kind):
    return directory / 'images' / layer['name'] / f'{kind}.png'


def complete(site, layer):
    """Whether the page of a layer and its pictures are there; prints what is damaged."""
    kinds = [kind for kind in ('grid', 'atlas') if asks(site, layer, kind)]
    try:
        kept = microscope.read(site.directory, f'{layer["name"]}/maps')
        if kept is None:
            return False
        if not (isinstance(kept, dict) and set(kept) == set(kinds)):
            raise UserError(f'{layer["name"]}: what is kept of its atlas is damaged')
        for kind in kinds:
            read_image(path_of(site.directory, layer, kind))
    except UserError as error:
        print(f'{error}: the atlas and the grid of the layer are made anew', flush=True)
        return False
    return True
