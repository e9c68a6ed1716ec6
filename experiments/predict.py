"""What a trained network sees on pictures: masks and the share of each class, or boxes."""

import glob
import os
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from cnnjax import (
    atomic,
    cluster,
    counterparts,
    data,
    limits,
    models,
    overlays,
    predict,
    tables,
    trained,
    workdir,
)
from cnnjax.data import annotations, examples, folders, layouts
from cnnjax.errors import UserError
from cnnjax.images import pictures

LIMITS = {'pictures': limits.Names(), 'opacity': limits.Number(0, 1),
          'tile': limits.Whole(1, pictures.LARGEST), 'score': limits.Number(0, 1),
          'write_proposals': (False, True)}
NO_CLASS = 'N/A'  # the name of the outputs of torchvision's detectors that belong to no class


class Found(NamedTuple):
    """What was found in a picture."""

    name: str  # the name of the files that are written
    path: str
    shape: tuple[int, ...]  # (height, width)
    values: Any  # the share of each class, or the detections


def run(config, directory):
    """Writes a picture of each prediction, and tables of all.

    Raises UserError if the network has neither maps of scores nor boxes, or if there is no picture,
    or none that can be read.
    """
    limits.check(config, LIMITS)
    paths = find(config.pictures)
    network = trained.load(config.source, config.checkpoint, config.name)
    boxes = network.task == 'detect'
    # What cannot be done is refused before anything is written.
    if boxes:
        network = network._replace(net=suppressing(network.net, config.iou))
        proposals = given(config, network, paths)
        ids = coco_ids(config, network, paths)
    else:
        predict.window(network.net, network.image_shape, config.tile)
    if not cluster.first():
        return
    directory = Path(directory)
    workdir.write_config(directory, config)
    found, skipped = [], []
    names = pictures.distinct(Path(path).stem for path in paths)
    bar = tqdm(list(zip(names, paths, strict=True)), unit='picture', disable=None)
    for name, path in bar:
        try:
            found.append(boxed(config, network, directory, name, path, proposals.get(path))
                         if boxes else masked(config, network, directory, name, path))
        except UserError as error:
            skipped.append(error)
            bar.write(f'skipped: {error}')
    if not found:
        raise UserError(f'no picture of {len(paths)} has a prediction: {skipped[0]}')
    if boxes:
        written = write_detections(directory, network.classes, found, ids)
        if config.write_proposals:
            write_proposals(directory, found)
            written = f'proposals.npz, {written}'
    else:
        written = write_shares(directory, network.classes, found)
    print(f'predicted: {len(found):,}, skipped: {len(skipped):,}; see {written} in {directory}')


def masked(config, network, directory, name, path):
    """Writes the mask and the overlay of a picture: a Found with the share of each class."""
    image = np.asarray(predict.opened(network, path))
    labels = predict.labels(network, image, config.tile)
    overlays.write(directory / 'masks' / f'{name}.png', labels)
    overlays.write(directory / 'overlays' / f'{name}.png',
                   overlays.overlay(image, labels, config.opacity))
    shares = np.bincount(labels.ravel(), minlength=len(network.classes)) / labels.size
    return Found(name, path, labels.shape, shares)


def write_shares(directory, classes, found):
    """Writes predictions.csv with a row for each picture, and says what was written."""
    atomic.write_text(directory / 'predictions.csv', tables.comma_separated(
        ['name', 'file', 'height', 'width', *classes],
        ([name, path, *shape, *(f'{share:.6f}' for share in shares)]
         for name, path, shape, shares in found)))
    return 'masks, overlays and predictions.csv'


def boxed(config, network, directory, name, path, proposals):
    """Writes a picture with the boxes of what was found in it: a Found with the detections."""
    found = predict.detections(network, path, proposals)
    sure = found['scores'] >= config.score
    found |= {key: found[key][sure] for key in ('boxes', 'labels', 'scores')}
    image = np.asarray(predict.opened(network, path))
    overlays.write(directory / 'boxes' / f'{name}.png', overlays.boxes(
        image, found['boxes'], found['labels'], network.classes, scores=found['scores']))
    return Found(name, path, image.shape[:2], found)


def write_detections(directory, classes, found, ids):
    """Writes predictions.csv, with a row for each detection, and COCO's files, and says what was
    written."""
    of_pictures, of_classes = ids
    rows, results = [], []
    for name, path, _, values in found:
        for box, label, score in zip(*(values[key].tolist() for key in (
                'boxes', 'labels', 'scores')), strict=True):
            left, top, right, bottom = box
            rows.append([name, path, classes[label], f'{score:.4f}', *(f'{x:.2f}' for x in box)])
            results.append({
                'image_id': of_pictures[path], 'category_id': of_classes[label],
                'bbox': [left, top, right - left, bottom - top], 'score': score})
    atomic.write_text(directory / 'predictions.csv', tables.comma_separated(
        ['name', 'file', 'class', 'score', 'left', 'top', 'right', 'bottom'], rows))
    atomic.write_json(directory / 'detections.json', results, None)
    atomic.write_json(directory / 'coco.json', {
        'images': [{'id': of_pictures[path], 'file_name': PurePath(path).name, 'width': shape[1],
                    'height': shape[0]} for _, path, shape, _ in found],
        'categories': [{'id': key, 'name': name} for key, name in zip(
            of_classes, classes, strict=True) if name != NO_CLASS],
        'annotations': [{'id': i, **result, 'area': result['bbox'][2] * result['bbox'][3],
                         'iscrowd': 0} for i, result in enumerate(results, 1)]}, None)
    return 'boxes, predictions.csv, detections.json and coco.json'


def write_proposals(directory, found):
    """Writes proposals.npz, as data/proposals.py reads it."""
    with atomic.replacing(directory / 'proposals.npz') as unfinished, unfinished.open(
            'wb') as file:
        # With a suffix no name is that of an argument of numpy's, such as 'file'.
        np.savez_compressed(file, **{name + PurePath(path).suffix: values['proposals']
                                     for name, path, _, values in found})


def given(config, network, paths):
    """{path: the proposals in config.proposals}, for a network that finds none itself."""
    outputs = jax.eval_shape(network, jax.ShapeDtypeStruct((1, *network.image_shape), 'float32'))
    if config.write_proposals and 'proposals' not in outputs:
        raise UserError(f'write_proposals=True: {network.name} makes no proposals')
    takes = 'proposals' in getattr(network.net, 'inputs', ())
    if takes != bool(config.proposals):
        raise UserError(f"proposals='{config.proposals}': {network.name} " + (
            'judges boxes and finds none itself: give an .npz file of them' if takes else
            'finds its own: leave the file out'))
    if not takes:
        return {}
    files = examples.Files(tuple(paths), (0,) * len(paths))
    found = data.proposed(data.Source(files, ()), config.proposals).examples.proposals
    return {path: found[i]['proposals'] for i, path in enumerate(paths)}


def suppressing(net, iou):
    """The network with another IoU for its non-maximum suppression; None: its own."""
    if iou is None:
        return net
    limits.check({'iou': iou}, {'iou': limits.Number(0, 1)})
    if 'nms' not in models.settings(net):
        raise UserError(f'iou={iou}: {type(net).__name__} has no field nms: leave it out')
    return net.clone(nms=iou)


def coco_ids(config, network, paths):
    """({path: id of the picture}, [id of each class]): those of the COCO file that the config
    names, or of the file that the network was trained on. What that does not have is numbered:
    classes as COCO's are, if they are these, and pictures by their names, if they are numbers, or
    else both from 1 on."""
    of_pictures, of_classes = numbered(paths), [*range(1, len(network.classes) + 1)]
    if set(network.classes) == set(counterparts.COCO) - {NO_CLASS}:
        of_classes = [counterparts.COCO.index(name) + 1 for name in network.classes]
    if file := config.annotations or trained_on(network):
        known = annotations.coco(Path(os.path.expanduser(file)))
        named = {path: identified(path, known.image_ids) for path in paths}
        missing = [path for path in paths if named[path] is None]
        unknown = [name for name in network.classes
                   if name not in known.category_ids and name != NO_CLASS]
        if config.annotations and (missing or unknown):
            raise UserError(f'annotations={file} has no id for {(missing + unknown)[0]}')
        of_pictures = of_pictures if missing else named
        of_classes = of_classes if unknown else [known.category_ids.get(name)
                                                 for name in network.classes]
    return of_pictures, of_classes


def numbered(paths):
    """{path: the number that is the picture's name}, or their places where not all have one."""
    stems = [PurePath(path).stem for path in paths]
    numbers = [int(stem) for stem in stems if stem.isascii() and stem.isdecimal()]
    if len(set(numbers)) < len(paths) or 0 in numbers:
        numbers = range(1, len(paths) + 1)
    return dict(zip(paths, numbers, strict=True))


def identified(path, ids):
    """The id of a picture by its name in a file, which may begin with names of folders; or None."""
    parts = PurePath(path).parts
    names = ('/'.join(parts[i:]) for i in range(len(parts)))
    return next((ids[name] for name in names if name in ids), None)


def trained_on(network):
    """The file in COCO's form that a run was trained on, if it is there; otherwise None."""
    own = network.config
    if own is None or own.dataset != 'folder' or not own.data_dir:
        return None
    root = Path(os.path.expanduser(own.data_dir))
    names = (own.annotations,) if own.annotations else layouts.JSON
    files = [root / name.replace('{split}', split) for name in names
             for split in (own.test_split, own.train_split)]
    return next((file for file in files if file.is_file()), None)


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
