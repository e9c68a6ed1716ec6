"""The data of a run: the sets that its config names, and a description of the sets that it was
trained on, which is written once when the run begins.

    dataset.json        class names, image shape, mean and std; of each split the number of
                        examples, of all and of each class, and a digest (see data/identity.py)
    whitening.npy       the matrix of config.whiten; dataset.json has its digest
    dataset.listing.gz  split, label, size and name of every example, to name those that differ
    split.csv           of a set that config.split divides: the split of each example
"""

import gzip
import hashlib
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from cnnjax import atomic, cluster, data, tasks, workdir
from cnnjax.data import copies, masks, splits
from cnnjax.data.formats import Unreadable
from cnnjax.data.identity import some
from cnnjax.errors import UserError

# The fields of a config that its source depends on, besides the split.
FIELDS = ('task', 'dataset', 'data_dir', 'bad_images', 'mask_values', 'bad_boxes', 'annotations',
          'proposals', 'split', 'class_folders', 'label_separator')
FILE, LISTING, WHITENING = workdir.DATASET, 'dataset.listing.gz', 'whitening.npy'
ROUNDING = 1e-5  # How much the means of two machines may differ.


class Dataset(NamedTuple):
    """What dataset.json holds."""

    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]  # [H, W, C] of the training images
    normalize: data.Normalization
    splits: dict[str, data.Identity]  # of the sets of the run; {} in an older run
    whitening: str = ''  # the digest of the normalization's matrix, which may be lost


def source(config: ConfigDict, split: str, directory: str | Path | None = None) -> data.Source:
    """The data.Source of a split of config.dataset, with the targets of config.task. The run in
    `directory`, if there is one, keeps its own division of a set that config.split divides."""
    found = data.load(config.dataset, split, config.data_dir, config.bad_images,
                      tasks.target(config.task), config.mask_values,
                      annotations=config.annotations, bad_boxes=config.bad_boxes,
                      shares=config.split,
                      given=splits.read(directory) if directory and config.split else None,
                      class_folders=config.class_folders, separator=config.label_separator)
    if not config.proposals:
        return found
    if config.task != 'detect':
        raise UserError(f'proposals={config.proposals}: they are for task=detect, not for '
                        f'{config.task}')
    return data.proposed(found, config.proposals.replace('{split}', split))


def prepare(config: ConfigDict, source: data.Source,
            train: bool = False) -> data.Resident | data.Stream:
    """A data.Source resident or streamed, and cut, as the config says. If it has masks, all are
    checked, and one line tells what was found.

    Args:
      train: whether it is the training set.

    Raises:
      UserError: the pictures or the masks are not in the right form, or have no object at all.
    """
    cut = crops(config, train)
    try:
        prepared = (data.Stream(source, cut, config.loader_threads, config.loader_workers)
                    if config.stream else data.Resident(source, cut))
    except Unreadable as error:
        if config.dataset not in ('folder', 'csv'):
            raise
        raise UserError(f'{error}. Mend or remove it; --config.bad_images=skip leaves such '
                        'pictures out') from error
    if 'mask' in prepared.shapes:
        about = source.about or data.counted('given in Python', len(prepared), len(source.classes))
        try:
            shares = masks.described(prepared.pixels, source.classes, config.mask_values)
        except UserError as error:
            raise UserError(f'{about}: {error}') from None
        if cluster.first():
            print(f'{about}; pixels: {shares}', flush=True)
    if getattr(prepared, 'lost', 0) and cluster.first():
        print(f"fit='crop' keeps the middle of each picture and loses {prepared.lost:,} "
              f'object{"s" * (prepared.lost != 1)}', flush=True)
    if 'labels' in (arrays := prepared.data or {}) and (
            (arrays['labels'] < 0) | arrays.get('ignore', False)).all():
        raise UserError(f'{source.about or "the examples given in Python"}: their images have no '
                        'object that counts, so there is nothing to find')
    return prepared


def crops(config: ConfigDict, train: bool = False) -> data.Crops:
    """How pictures become images, in a training or in an evaluation, as the config says."""
    size = config.image_size if train else config.test_image_size or config.image_size
    return data.Crops(
        size, config.crop, config.shorter_side, config.crop_area, config.crop_aspect,
        test_shorter_side=config.test_shorter_side, border=config.border,
        interpolation=config.interpolation, border_mode=config.border_mode, fit=config.fit)


def val_split(config: ConfigDict) -> str:
    """The split that the evaluations during a training are of; '': the test set."""
    return config.val_split or ('val' if config.split.count('/') == 2 else '')


class Sets(NamedTuple):
    """The data of a run."""

    train: data.Resident | data.Stream
    test: data.Resident | data.Stream
    val: data.Resident | data.Stream | None  # None: without a validation set
    splits: dict[str, data.Identity]


def load_sets(config: ConfigDict, directory: str | Path, recorded: Dataset | None,
              sources: Mapping[str, data.Source] | None = None) -> Sets:
    """The Sets of a config, or of `sources`, {split: data.Source}; `recorded` is the Dataset of the
    run in `directory`, None if it has not begun.

    Raises:
      data.Missing: there is no data.
      UserError: it is not what the run was trained on, or not the same in all processes.
    """
    splits = config.train_split, *filter(None, [val_split(config)]), config.test_split
    try:
        if sources is None:
            began = directory if recorded else None
            sources = {split: source(config, split, began) for split in splits}
    except data.Missing:
        cluster.agree(data='missing')
        raise
    for split in splits:
        if not isinstance(sources.get(split), data.Source):
            raise UserError(f'sources has no data.Source for {split!r}: give one for each of '
                            f'{splits}')
        data.check_examples(sources[split].examples, split)
    identities = {split: data.identity(found) for split, found in sources.items()}
    cluster.agree(data={split: identity.summary() for split, identity in identities.items()})
    if recorded:
        check(directory, recorded, identities)
    elif config.split and cluster.first() and (told := copies.told(sources)):
        print(told, flush=True)
    learned, *tested = (sources[split] for split in splits)
    if 'labels' in learned.examples[0]:
        tested = [same_classes(learned, found, split)
                  for found, split in zip(tested, splits[1:], strict=True)]
    if config.weight_map and 'mask' in learned.examples[0]:
        learned = data.weighted(learned, config.weight_map, config.weight_map_sigma)
    train_set = prepare(config, learned, train=True)
    others = [prepare(config, found) for found in tested]
    for split, examples in zip(splits, (train_set, *others), strict=True):
        check_target(config.task, examples)
        if train_set.classes != examples.classes:
            raise UserError(f'{split} has other classes than the training set')
        if train_set.image_shape[-1] != examples.image_shape[-1]:
            raise UserError(f'the training set has images of {train_set.image_shape}, {split} of '
                            f'{examples.image_shape}: bring them to one number of channels')
    return Sets(train_set, others[-1], others[0] if others[1:] else None, identities)


def same_classes(learned: data.Source, tested: data.Source, split: str) -> data.Source:
    """The test set with the classes of the training set, matched by name: files of boxes may list
    other classes, or in another order.

    Raises:
      UserError: it has objects of a class that the training set does not have.
    """
    if unknown := set(tested.classes) - set(learned.classes):
        raise UserError(f'{split} has the class {min(unknown)}, which the training set does not '
                        f'have, only {some(learned.classes)}: rename it, remove its objects from '
                        f'{split}, or list it among the classes of the training set, too')
    return data.matched(tested, learned.classes)


def check_target(task: str, examples: data.Resident | data.Stream) -> None:
    """Raises UserError unless the examples have what the task of that name learns."""
    target = tasks.target(task)
    if target not in examples.shapes:
        learned = target if target in ('boxes', 'tags') else f'a {target}'
        raise UserError(f'task={task} learns from {learned} for each image, and the examples have '
                        f'only {", ".join(examples.shapes)}')


def write(directory: str | Path, splits: Mapping[str, data.Identity], image_shape: Sequence[int],
          normalize: data.Normalization) -> None:
    """Writes all files, dataset.json last.

    Args:
      splits: {split: Identity} of the training and the test set.
    """
    with (atomic.replacing(Path(directory) / LISTING) as unfinished,
          gzip.open(unfinished, 'wb', compresslevel=5) as file):
        for split, identity in splits.items():
            for line in identity.listing:
                file.write(f'{split}\t{line}\n'.encode(errors='surrogateescape'))
    classes = next(iter(splits.values())).classes
    whitening = {} if normalize.whitening is None else {
        'whitening': _write_whitening(directory, normalize.whitening)}
    atomic.write_json(Path(directory) / FILE, {
        'classes': classes, 'image_shape': image_shape,
        'mean': normalize.mean.tolist(), 'std': normalize.std.tolist(),
        'splits': {split: {name: value for name, value in identity.summary().items()
                           if name != 'classes'} for split, identity in splits.items()}}
        | whitening)


def _write_whitening(directory, matrix):
    with atomic.replacing(Path(directory) / WHITENING) as unfinished, unfinished.open('wb') as file:
        np.save(file, matrix)
    return _digest(matrix)


def _digest(matrix):
    return hashlib.sha256(np.ascontiguousarray(matrix).data).hexdigest()


def _whitening(directory, digest):
    """The matrix with this digest; None if it is lost or damaged."""
    try:
        matrix = np.load(Path(directory) / WHITENING, allow_pickle=False)
        return matrix if matrix.dtype == np.float32 and _digest(matrix) == digest else None
    except (OSError, EOFError, ValueError):
        return None


def read(directory: str | Path, complete: bool = True) -> Dataset | None:
    """The Dataset of the run in `directory`, without the listings; None if there is no run. If
    dataset.json is lost, it is that of the newest checkpoint.

    Args:
      complete: False allows a lost matrix for whitening, which only the training set can replace.

    Raises:
      UserError: it is damaged.
    """
    path = Path(directory) / FILE
    values = atomic.read_json(path)
    if values is None:
        values = workdir.sealed(directory).get('dataset')
    if values is None:
        return None
    try:
        classes, image_shape = tuple(map(str, values['classes'])), tuple(values['image_shape'])
        mean, std = (np.asarray(values[name], np.float32) for name in ('mean', 'std'))
        digest = str(values.get('whitening', ''))
        normalize = data.Normalization(mean, std, _whitening(directory, digest) if digest else None)
        splits = {split: data.Identity.of_summary({**summary, 'classes': classes})
                  for split, summary in values.get('splits', {}).items()}
        if len(image_shape) != 3 or min(image_shape) < 1 or not normalize.fits(image_shape):
            raise ValueError(f'image_shape {image_shape}, mean {values["mean"]}')
        if not (np.isfinite(normalize.mean).all() and np.isfinite(normalize.std).all()
                and (normalize.std > 0).all()):
            raise ValueError(f'mean {values["mean"]}, std {values["std"]}')
    except Exception as error:  # A file may hold any value and raise any error.
        raise UserError(f'{path} is damaged, or of another version: {error!r}; delete it, '
                        'and the copy in the newest checkpoint takes its place') from None
    if digest and normalize.whitening is None and complete:
        raise UserError(f'{Path(directory) / WHITENING} is lost or damaged: start the training '
                        'again with its command, which computes it from the data, even if the run '
                        'is finished')
    return Dataset(classes, image_shape, normalize, splits, digest)


def of_run(directory: str | Path) -> Dataset | None:
    """The Dataset of the run in `directory`; None if it has no checkpoint yet. A lost dataset.json
    is written again."""
    checkpoints = (Path(directory) / 'checkpoints').glob('*')
    if not any(path.name.isdigit() for path in checkpoints):
        return None
    path, found = Path(directory) / FILE, read(directory, complete=False)
    if cluster.first() and not path.exists():
        if found:
            print(f'{path} was lost: it is restored from the newest checkpoint', flush=True)
            atomic.write_json(path, workdir.sealed(directory)['dataset'])
        else:
            print(f'{directory} has no {FILE}: whether its data is still the same cannot be told',
                  flush=True)
    return found


def check(directory: str | Path, recorded: Dataset, splits: Mapping[str, data.Identity]) -> None:
    """Raises UserError, with the differences, unless the run in `directory` was trained on these.

    Args:
      recorded: its Dataset.
      splits: {split: Identity} of today's sets; those that the run did not use are not compared.
    """
    if not recorded.splits and cluster.first():
        print(f'{directory}: its {FILE} is of an older version: of its data only the classes, mean '
              'and std can be compared', flush=True)
    lines, listings = [], {}
    for split, now in splits.items():
        then = recorded.splits.get(split)
        if then is None:
            if recorded.splits or recorded.classes == now.classes:
                continue
            then = data.Identity(recorded.classes, now.examples, counts=None, digest='')
        elif then.digest != now.digest:
            listings = listings or _listings(directory)
            then = then.with_listing(listings.get(split, ()))
        lines += [f'{split}: {line}' for line in data.differences(then, now)]
    _refuse(directory, lines)


def normalization(directory: str | Path, recorded: Dataset, image_shape: Sequence[int],
                  normalize: data.Normalization) -> data.Normalization:
    """The normalization of the run in `directory`. If its matrix for whitening was lost, it is
    today's, and written again.

    Raises:
      UserError: today's data has another one, or images of another shape.
    """
    then = recorded.normalize
    lost = recorded.whitening and then.whitening is None
    if tuple(image_shape) != recorded.image_shape:
        lines = [f'images of {recorded.image_shape} then, {tuple(image_shape)} now']
    elif lost and normalize.whitening is None:
        lines = ['whitened then, not now']
    else:
        if lost:
            then = then._replace(whitening=normalize.whitening)
        lines = [f'{name}: {_shown(old)} then, {_shown(new)} now'
                 for name, old, new in zip(then._fields, then, normalize, strict=True)
                 if not _alike(old, new)]
    _refuse(directory, lines)
    if lost and cluster.first():
        print(f'{Path(directory) / WHITENING} was lost or damaged: it is computed again from the '
              'data', flush=True)
        values = atomic.read_json(Path(directory) / FILE)
        digest = _write_whitening(directory, then.whitening)
        atomic.write_json(Path(directory) / FILE, {**values, 'whitening': digest})
    return then


def _alike(old, new):
    if old is None or new is None:
        return old is new
    return old.shape == new.shape and np.allclose(old, new, rtol=ROUNDING, atol=ROUNDING)


def _shown(array):
    if array is None:
        return 'none'
    return f'{np.mean(array):.6g} on average' if array.ndim > 1 else array.tolist()


def _refuse(directory, lines):
    if lines:
        raise UserError('\n  '.join([
            f'{directory}: this is not the data that its run was trained on:', *lines,
            'Restore it; train on this data in another workdir; or evaluate on it by data_dir']))


def _listings(directory):
    """{split: lines} of the listing, {} where it is missing or damaged."""
    found = {}
    try:
        with gzip.open(Path(directory) / LISTING) as file:
            for line in file:
                split, _, entry = line.decode(errors='surrogateescape').rstrip('\n').partition('\t')
                found.setdefault(split, []).append(entry)
    except (OSError, EOFError, zlib.error):
        return {}
    return found
