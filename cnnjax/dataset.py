"""The sets of examples that a config names, and how their pictures become images."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from cnnjax import cluster, data, dataset_json, tasks
from cnnjax.data import copies, masks, ranks, splits
from cnnjax.data.formats import Unreadable
from cnnjax.data.identity import some
from cnnjax.errors import UserError

# The fields of a config that its source depends on, besides the split.
FIELDS = ('task', 'dataset', 'data_dir', 'bad_images', 'mask_values', 'bad_boxes', 'annotations',
          'proposals', 'split', 'class_folders', 'label_separator')


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
    ranks.check(config, prepared.image_shape)
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


def load_sets(config: ConfigDict, directory: str | Path, recorded: dataset_json.Dataset | None,
              sources: Mapping[str, data.Source] | None = None) -> Sets:
    """The Sets of a config, or of `sources`, {split: data.Source}; `recorded` is the
    dataset_json.Dataset of the run in `directory`, None if it has not begun.

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
        dataset_json.check(directory, recorded, identities)
    elif config.split and cluster.first() and (told := copies.told(sources)):
        print(told, flush=True)
    learned, *tested = (sources[split] for split in splits)
    if {'labels', 'tags'} & learned.examples[0].keys():
        tested = [same_classes(learned, found, split)
                  for found, split in zip(tested, splits[1:], strict=True)]
    if config.weight_map and 'mask' in learned.examples[0]:
        learned = data.weighted(learned, config.weight_map, config.weight_map_sigma)
    train_set = prepare(config, learned, train=True)
    others = [prepare(config, found) for found in tested]
    for split, examples in zip(splits, (train_set, *others), strict=True):
        check_target(config.task, examples)
        if train_set.classes != examples.classes:
            raise UserError(f'{split} has the classes {some(examples.classes)}, the training set '
                            f'{some(train_set.classes)}: give both the same in the same order')
        own, other = train_set.image_shape, examples.image_shape
        if (len(own), own[-1]) != (len(other), other[-1]):
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
