"""Masks of pictures, their overlays, and the share of each class."""

import numpy as np

from cnnjax import atomic, overlays, page, predict, tables
from experiments.predict.found import Found, each, thumbnail


def predictor(config, network, paths):
    """A function from (directory, names) to the Founds of the pictures; it writes all files but
    the page. Raises UserError if the network has no maps of scores."""
    predict.window(network.net, network.image_shape, config.tile)

    def run(directory, names):
        found = each(names, paths, lambda name, path: masked(
            config, network, directory, name, path))
        if seen := [one for one in found if not one.error]:
            write_shares(directory, network.classes, seen)
        return found

    return run


def masked(config, network, directory, name, path):
    """A Found with the share of each class in a picture, whose mask is written and, if it is to be
    drawn, its overlay."""
    image = np.asarray(predict.opened(network, path))
    labels = predict.labels(network, image, config.tile)
    shares = np.bincount(labels.ravel(), minlength=len(network.classes)) / labels.size
    record = {'height': labels.shape[0], 'width': labels.shape[1], 'mask': f'masks/{name}.png',
              'shares': dict(zip(network.classes, shares.tolist(), strict=True))}
    overlays.write(directory / record['mask'], labels)
    if config.draw:
        drawn = overlays.overlay(image, labels, config.opacity)
        record |= {'picture': f'overlays/{name}.png',
                   'thumbnail': thumbnail(directory, name, drawn)}
        overlays.write(directory / record['picture'], drawn)
    order = np.argsort(-shares, stable=True).tolist()
    return Found(name, path, record, shares, [
        (network.classes[i], page.Share(shares[i])) for i in order if shares[i] > 0])


def write_shares(directory, classes, found):
    """Writes predictions.csv with a row for each picture."""
    atomic.write_text(directory / 'predictions.csv', tables.comma_separated(
        ['name', 'file', 'height', 'width', *classes],
        ([one.name, one.path, one.record['height'], one.record['width'],
          *(f'{share:.6f}' for share in one.values)] for one in found)))
