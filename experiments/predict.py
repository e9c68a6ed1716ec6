"""What a trained network sees on pictures: masks, overlays and the share of each class."""

import glob
import os
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cnnjax import atomic, cluster, limits, overlays, predict, tables, trained, workdir
from cnnjax.data import folders
from cnnjax.errors import UserError
from cnnjax.images import pictures

LIMITS = {'pictures': limits.Names(), 'opacity': limits.Number(0, 1),
          'tile': limits.Whole(1, pictures.LARGEST)}


def run(config, directory):
    """Writes masks/NAME.png and overlays/NAME.png for every picture, and predictions.csv.

    Raises UserError if the network has no maps of scores, or if there is no picture, or none that
    can be read.
    """
    limits.check(config, LIMITS)
    paths = find(config.pictures)
    network = trained.load(config.source, config.checkpoint, config.name)
    # What cannot be done is refused before anything is written.
    predict.window(network.net, network.image_shape, config.tile)
    if not cluster.first():
        return
    directory = Path(directory)
    workdir.write_config(directory, config)
    table, skipped = [], []
    names = pictures.distinct(Path(path).stem for path in paths)
    bar = tqdm(list(zip(names, paths, strict=True)), unit='picture', disable=None)
    for name, path in bar:
        try:
            image = predict.read(network, path)
            labels = predict.labels(network, image, config.tile)
        except UserError as error:
            skipped.append(error)
            bar.write(f'skipped: {error}')
            continue
        overlays.write(directory / 'masks' / f'{name}.png', labels)
        overlays.write(directory / 'overlays' / f'{name}.png',
                       overlays.overlay(image, labels, config.opacity))
        shares = np.bincount(labels.ravel(), minlength=len(network.classes)) / labels.size
        table.append([name, path, *labels.shape, *(f'{share:.6f}' for share in shares)])
    if not table:
        raise UserError(f'no picture of {len(paths)} has a prediction: {skipped[0]}')
    atomic.write_text(directory / 'predictions.csv', tables.comma_separated(
        ['name', 'file', 'height', 'width', *network.classes], table))
    print(f'predicted: {len(table):,}, skipped: {len(skipped):,}; see masks, overlays and '
          f'predictions.csv in {directory}')


def find(text):
    """The paths of the pictures that a text names: files, folders and patterns, with commas."""
    found = []
    for name in [text] if os.path.exists(text) else limits.names(text):
        path = os.path.expanduser(name)
        if os.path.isdir(path):
            paths, left_out = folders.find(path)
            print(f'{path}: {len(paths):,} picture{"s" * (len(paths) != 1)}'
                  f'{folders.described(left_out)}')
        elif os.path.exists(path):
            paths = [path]
        else:
            paths = sorted(filter(os.path.isfile, glob.glob(path, recursive=True)))
        if not paths:
            raise UserError(f"pictures='{name}' names no picture: give files, folders or patterns "
                            "such as 'new/*.jpg'")
        found += paths
    return list(dict.fromkeys(found))
