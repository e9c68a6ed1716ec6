"""What a trained network sees on pictures: their classes, masks or boxes, in tables and a page."""

import collections
import contextlib
import glob
import os
from pathlib import Path, PurePath
from urllib.parse import quote

from cnnjax import atomic, limits, page, predict, trained, user_network, views, workdir
from cnnjax.data import folders, npz_files, ranks
from cnnjax.errors import UserError
from cnnjax.images import pictures
from experiments.predict import boxes, classes, masks, stylized
from experiments.predict.found import PICTURED

LIMITS = {'pictures': limits.Names(), 'top': limits.Whole(1), 'batch_size': limits.Whole(1),
          'devices': limits.Whole(), 'opacity': limits.Number(0, 1),
          'tile': limits.Whole(1, pictures.LARGEST), 'score': limits.Number(0, 1),
          'draw': (False, True), 'write_proposals': (False, True)}
JSON, PAGE = 'predictions.json', 'predictions.html'
TABLES = 'predictions.csv', 'detections.json', 'coco.json'
WRITTEN = ('mask', 'picture', 'thumbnail')  # fields of a record that are files


def run(config, directory):
    """Writes a picture of each prediction, and tables and a page of all.

    Raises UserError if the config does not fit the network, or if there is no picture, or none that
    can be read.
    """
    limits.check(config, LIMITS)
    arrays = npz_files.unlabelled(config.pictures) if config.pictures.endswith('.npz') else None
    shown = ({path: path for path in find(config.pictures)} if arrays is None else
             {f'{config.pictures}/{i}': array for i, array in enumerate(arrays)})
    network = trained.load(config.source, config.checkpoint, config.name)
    check(config, network, arrays)
    given = {field: config[field] for field in views.LIMITS if config[field] is not None}
    network = network._replace(evaluation=network.evaluation | given)
    views.check(views.Views.of(network.evaluation), network.task, predict.crops(network))
    kind = {'segment': masks, 'detect': boxes, 'stylize': stylized}.get(network.task, classes)
    # What cannot be done is refused before anything is written.
    predictor = kind.predictor(config, network, shown)
    directory = Path(directory)
    names = pictures.distinct(Path(path).stem for path in shown)
    workdir.write_config(directory, config)
    clear(directory)
    found = predictor(directory, names)
    seen = [one for one in found if not one.error]
    if not seen:
        raise UserError(f'no picture of {len(shown)} has a prediction: {found[0].error}')
    write(config, directory, network, found)
    skipped = len(found) - len(seen)
    print(f'predicted: {len(seen):,}, skipped: {skipped:,}; see {PAGE if config.draw else JSON} '
          f'in {directory}')


def check(config, network, arrays):
    """Raises UserError unless the network takes what is given, `arrays` or, if None, files."""
    kind, own = ranks.name(network.image_shape), list(network.image_shape)
    if arrays is not None and network.task in predict.OTHERS:
        raise UserError(f"pictures='{config.pictures}': examples in an .npz file are classified, "
                        f'and {network.name} was trained to {network.task}: give picture files')
    if arrays is None and kind != 'image':
        raise UserError(f"pictures='{config.pictures}': {network.name} was trained on {kind}s "
                        f'{own}: give an .npz file of {kind}s')
    if arrays is not None and (list(arrays.shape[1:]) != own if kind != 'image' else
                               arrays.ndim != 4 or arrays.shape[-1] != own[-1]):
        raise UserError(f"pictures='{config.pictures}' has {ranks.name(arrays.shape[1:])}s "
                        f'{list(arrays.shape[1:])}, and {network.name} was trained on {kind}s '
                        f'{own}')


def clear(directory):
    """Removes the tables of an earlier run and the files that its predictions.json lists."""
    with contextlib.suppress(UserError, AttributeError, KeyError, TypeError):
        known = atomic.read_json(directory / JSON) or {'predictions': []}
        for record in known['predictions']:
            for field in WRITTEN:
                place = PurePath(record.get(field, ''))
                if len(place.parts) == 2 and '..' not in place.parts:
                    (directory / place).unlink(missing_ok=True)
    for name in (JSON, PAGE, *TABLES):
        (directory / name).unlink(missing_ok=True)


def write(config, directory, network, found):
    """Writes predictions.json and, if pictures are drawn, the page."""
    seen, unread = ([one for one in found if bool(one.error) == bad] for bad in (False, True))
    atomic.write_json(directory / JSON, {
        'source': str(config.source), 'task': network.task, 'classes': network.classes,
        'predictions': [{'name': one.name, 'file': one.path, **one.record} for one in seen],
        'skipped': [{'file': one.path, 'error': str(one.error)} for one in unread]}, None)
    if not config.draw:
        return
    name = user_network.short(network.name) or type(network.net).__name__
    first = collections.Counter(one.rows[0][0] for one in seen if one.rows)
    parts = [page.facts({'pictures': f'{len(seen):,}', 'skipped': f'{len(unread):,}'}),
             page.cards([card(one) for one in seen[:PICTURED]])]
    if len(seen) > PICTURED:
        parts.append(page.remark(f'These are the first {PICTURED:,}; predictions.csv has all.'))
    if first and len(seen) > 1:
        parts.append(page.section('Pictures by their first class', page.table(
            ('class', 'pictures', 'share'), [(label, count, page.Share(count / len(seen)))
                                             for label, count in first.most_common()])))
    if unread:
        parts.append(page.section('Skipped', page.table(
            ('picture', 'reason'), [(one.path, one.error) for one in unread])))
    atomic.write_text(directory / PAGE, page.whole(
        f'{name}: predictions', *parts, lead=f'{config.source}, checkpoint: {config.checkpoint}'))


def card(one):
    """The page.Card of a Found. Its picture leads to the drawn one, or else to the file,
    if it is one."""
    thumbnail = quote(os.fsencode(one.record['thumbnail']))
    whole = (quote(os.fsencode(one.record['picture'])) if 'picture' in one.record else
             Path(one.path).absolute().as_uri() if os.path.isfile(one.path) else thumbnail)
    return page.Card(whole, thumbnail, one.path, one.rows)


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
