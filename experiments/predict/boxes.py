"""Boxes of objects in pictures: pictures of them, tables, and files in COCO's form."""

import os
from pathlib import Path, PurePath

import jax
import numpy as np

from cnnjax import (
    atomic,
    counterparts,
    data,
    limits,
    models,
    overlays,
    page,
    predict,
    tables,
)
from cnnjax.data import annotations, examples, layouts
from cnnjax.errors import UserError
from experiments.predict.found import Found, each, thumbnail

NO_CLASS = 'N/A'  # the name of the outputs of torchvision's detectors that belong to no class


def predictor(config, network, paths):
    """A function from (directory, names) to the Founds of the pictures; it writes all files but
    the page. Raises UserError if the config does not fit the network."""
    network = network._replace(net=suppressing(network.net, config.iou))
    proposals, ids = given(config, network, paths), coco_ids(config, network, paths)

    def run(directory, names):
        found = each(names, paths, lambda name, path: boxed(
            config, network, directory, name, path, proposals.get(path)))
        seen = [one for one in found if not one.error]
        if seen:
            write_detections(directory, network.classes, seen, ids)
        if seen and config.write_proposals:
            write_proposals(directory, seen)
        return found

    return run


def boxed(config, network, directory, name, path, proposals):
    """A Found with the objects of a picture, which is written with their boxes."""
    found = predict.detections(network, path, proposals)
    sure = found['scores'] >= config.score
    found |= {key: found[key][sure] for key in ('boxes', 'labels', 'scores')}
    image = np.asarray(predict.opened(network, path))
    record = {'height': image.shape[0], 'width': image.shape[1], 'objects': [
        {'class': network.classes[label], 'score': score, 'box': box} for box, label, score in zip(
            *(found[key].tolist() for key in ('boxes', 'labels', 'scores')), strict=True)]}
    if config.draw:
        drawn = overlays.boxes(image, found['boxes'], found['labels'], network.classes,
                               scores=found['scores'])
        record |= {'picture': f'boxes/{name}.png', 'thumbnail': thumbnail(directory, name, drawn)}
        overlays.write(directory / record['picture'], drawn)
    return Found(name, path, record, found, [
        (one['class'], page.Share(one['score'])) for one in record['objects']])


def write_detections(directory, classes, found, ids):
    """Writes predictions.csv, with a row for each detection, and COCO's files."""
    of_pictures, of_classes = ids
    rows, results = [], []
    for one in found:
        for box, label, score in zip(*(one.values[key].tolist() for key in (
                'boxes', 'labels', 'scores')), strict=True):
            left, top, right, bottom = box
            rows.append([one.name, one.path, classes[label], f'{score:.4f}',
                         *(f'{x:.2f}' for x in box)])
            results.append({
                'image_id': of_pictures[one.path], 'category_id': of_classes[label],
                'bbox': [left, top, right - left, bottom - top], 'score': score})
    atomic.write_text(directory / 'predictions.csv', tables.comma_separated(
        ['name', 'file', 'class', 'score', 'left', 'top', 'right', 'bottom'], rows))
    atomic.write_json(directory / 'detections.json', results, None)
    atomic.write_json(directory / 'coco.json', {
        'images': [{'id': of_pictures[one.path], 'file_name': PurePath(one.path).name,
                    'width': one.record['width'], 'height': one.record['height']}
                   for one in found],
        'categories': [{'id': key, 'name': name} for key, name in zip(
            of_classes, classes, strict=True) if name != NO_CLASS],
        'annotations': [{'id': i, **result, 'area': result['bbox'][2] * result['bbox'][3],
                         'iscrowd': 0} for i, result in enumerate(results, 1)]}, None)


def write_proposals(directory, found):
    """Writes proposals.npz, as data/proposals.py reads it."""
    with atomic.replacing(directory / 'proposals.npz') as unfinished, unfinished.open(
            'wb') as file:
        # With a suffix no name is that of an argument of numpy's, such as 'file'.
        np.savez_compressed(file, **{one.name + PurePath(one.path).suffix: one.values['proposals']
                                     for one in found})


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
