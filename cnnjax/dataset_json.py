"""What a run was trained on, which is written once when the run begins.

    dataset.json        class names, image shape, mean and std; of each split the number of
                        examples, of all and of each class, and a digest (see data/identity.py)
    whitening.npy       the matrix of config.whiten; dataset.json has its digest
    dataset.listing.gz  split, label, size and name of every example, to name those that differ
    split.csv           of a set that config.split divides: the split of each example; see
                        data/splits.py
"""

import gzip
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cnnjax import atomic, cluster, data, workdir
from cnnjax.data import ranks, whitening
from cnnjax.errors import UserError

FILE, LISTING = workdir.DATASET, 'dataset.listing.gz'
ROUNDING = 1e-5  # How much the means of two machines may differ.


class Dataset(NamedTuple):
    """What dataset.json holds."""

    classes: tuple[str, ...]
    image_shape: tuple[int, ...]  # [H, W, C] of the training images; see data/ranks.py
    normalize: data.Normalization
    splits: dict[str, data.Identity]  # one for each set of the run; {} in an older run
    whitening: str = ''  # the digest of the normalization's matrix, which may be lost


def write(directory: str | Path, splits: Mapping[str, data.Identity], image_shape: Sequence[int],
          normalize: data.Normalization) -> None:
    """Writes all files, dataset.json last.

    Args:
      splits: {split: Identity} of the sets of the run.
    """
    with (atomic.replacing(Path(directory) / LISTING) as unfinished,
          gzip.open(unfinished, 'wb', compresslevel=5) as file):
        for split, identity in splits.items():
            for line in identity.listing:
                file.write(f'{split}\t{line}\n'.encode(errors='surrogateescape'))
    classes = next(iter(splits.values())).classes
    digest = {} if normalize.whitening is None else {
        'whitening': whitening.write(directory, normalize.whitening)}
    atomic.write_json(Path(directory) / FILE, {
        'classes': classes, 'image_shape': image_shape,
        'mean': normalize.mean.tolist(), 'std': normalize.std.tolist(),
        'splits': {split: {name: value for name, value in identity.summary().items()
                           if name != 'classes'} for split, identity in splits.items()}}
        | digest)


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
        normalize = data.Normalization(mean, std,
                                       whitening.read(directory, digest) if digest else None)
        splits = {split: data.Identity.of_summary({**summary, 'classes': classes})
                  for split, summary in values.get('splits', {}).items()}
        if (len(image_shape) not in ranks.NAMES or min(image_shape) < 1
                or not normalize.fits(image_shape)):
            raise ValueError(f'image_shape {image_shape}, mean {values["mean"]}')
        if not (np.isfinite(normalize.mean).all() and np.isfinite(normalize.std).all()
                and (normalize.std > 0).all()):
            raise ValueError(f'mean {values["mean"]}, std {values["std"]}')
    except Exception as error:  # A file may hold any value and raise any error.
        raise UserError(f'{path} is damaged, or of another version: {error!r}; delete it, '
                        'and the copy in the newest checkpoint takes its place') from None
    if digest and normalize.whitening is None and complete:
        raise UserError(f'{Path(directory) / whitening.FILE} is lost or damaged: start the '
                        'training again with its command, which computes it from the data, even if '
                        'the run is finished')
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
    if lost and then.whitening is not None and cluster.first():
        print(f'{Path(directory) / whitening.FILE} was lost or damaged: it is computed again from '
              'the data', flush=True)
        values = atomic.read_json(Path(directory) / FILE)
        digest = whitening.write(directory, then.whitening)
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
