"""Reads and prepares TensorFlow Datasets (https://www.tensorflow.org/datasets) without TensorFlow.
"""

import contextlib
import dataclasses
import io
import os
import pathlib
import shlex
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import requests
import tensorflow_datasets as tfds

from cnnjax.data import masks, objects, threads
from cnnjax.data.examples import Missing, Source
from cnnjax.data.geometry import IGNORE
from cnnjax.data.identity import Entry, file_sizes
from cnnjax.data.images import Picture
from cnnjax.data.objects import Ragged
from cnnjax.data.sources import SHIPPED
from cnnjax.data.tfds_builders import BUILDERS
from cnnjax.errors import UserError, suggest


class Masks(NamedTuple):
    """How a data set stores pictures with masks."""

    features: tuple[str, str]  # the names of the picture and the mask
    classes: tuple[str, ...]
    values: dict[int, int]  # {value in a mask: number of a class, or IGNORE}


# The pets' borders, the value 3, are what their annotators call 'not classified'. Cityscapes has
# 34 values (and 255, for -1), of which 19 count:
# https://github.com/mcordts/cityscapesScripts/blob/master/cityscapesscripts/helpers/labels.py
_CITYSCAPES = {
    7: 'road', 8: 'sidewalk', 11: 'building', 12: 'wall', 13: 'fence', 17: 'pole',
    19: 'traffic light', 20: 'traffic sign', 21: 'vegetation', 22: 'terrain', 23: 'sky',
    24: 'person', 25: 'rider', 26: 'car', 27: 'truck', 28: 'bus', 31: 'train', 32: 'motorcycle',
    33: 'bicycle',
}
MASKS = {
    'oxford_iiit_pet': Masks(('image', 'segmentation_mask'), ('background', 'pet'),
                             {1: 1, 2: 0, 3: IGNORE}),
    'cityscapes': Masks(('image_left', 'segmentation_label'), tuple(_CITYSCAPES.values()), {
        **dict.fromkeys((*range(34), 255), IGNORE),
        **{value: number for number, value in enumerate(_CITYSCAPES)}}),
}


def load(name: str, split: str, data_dir: str | None = None) -> Source:
    """The images of a prepared data set with their labels, in the fixed order of its files.

    Args:
        name: the data set, by its tfds name: 'cifar10', 'svhn_cropped', 'imagenet2012', ...
        split: in tfds' notation: 'train', 'train[:45000]', 'train+extra', ...
        data_dir: where tfds keeps its data sets; None is $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Raises:
        Missing: the data set is not prepared.
        UserError: an unknown data set or split; a set without labelled images; or one prepared in a
            format without random access.
    """
    builder = _found(name, data_dir)
    features = dict(builder.info.features)
    image = features.get('image')
    if not isinstance(image, tfds.features.Image) or not isinstance(
        features.get('label'), tfds.features.ClassLabel
    ):
        raise UserError(
            f"{name} has no 'image' with a 'label' to classify it by, only {sorted(features)}"
        )
    examples = _Examples(_records(builder, name, split, ('image',)), f'{name}, {split}',
                         _mode(name, image))
    return Source(examples, tuple(features['label'].names))


def load_masks(name: str, split: str, data_dir: str | None = None) -> Source:
    """The images of a prepared data set in MASKS with their masks; the rest as in `load`."""
    stored = MASKS.get(name.partition(':')[0].partition('/')[0])
    if stored is None:
        raise UserError(f'dataset={name}: of tensorflow-datasets, {" and ".join(MASKS)} have masks '
                        'that are known here; save those of others as a folder, and give it with '
                        '--config.dataset=folder')
    builder = _found(name, data_dir)
    features = dict(builder.info.features)
    if lacking := [each for each in stored.features if each not in features]:
        raise UserError(f'{builder.data_path} has no {" and no ".join(lacking)}, only '
                        f'{sorted(features)}: prepare another config of {name}')
    records = _records(builder, name, split, stored.features)
    mode = _mode(name, features[stored.features[0]])
    examples = _Examples(records, f'{name}, {split}', mode, stored.features, stored.values)
    return Source(examples, stored.classes)


def load_boxes(name: str, split: str, data_dir: str | None = None,
               bad_boxes: str = 'error') -> Source:
    """The images of a prepared data set with the boxes of its 'objects', all of which are checked;
    the rest as in `load`. VOC's difficult objects and COCO's crowds are ignored.

    Args:
      bad_boxes: with 'error' an object that cannot be used raises a UserError; 'skip' leaves such
        objects out, and counts them.
    """
    builder = _found(name, data_dir)
    features = dict(builder.info.features)
    stored = getattr(features.get('objects'), 'feature', None)
    stored = dict(stored) if isinstance(stored, tfds.features.FeaturesDict) else {}
    if not (isinstance(stored.get('bbox'), tfds.features.BBoxFeature) and 'image' in features
            and isinstance(stored.get('label'), tfds.features.ClassLabel)):
        raise UserError(f"{name} has no 'image' with 'objects' that have a 'bbox' and a 'label', "
                        f'only {sorted(features)}')
    mode, classes = _mode(name, features['image']), tuple(stored['label'].names)
    records = _records(builder, name, split, ('image',))
    # VOC counts pixels from 1; tfds divided its numbers by the size, and nothing else.
    first = 1 if builder.name == 'voc' else 0

    def read(i):
        record = records[i]
        # tfds takes the boxes for those of the pixels as they are stored.
        shape = Picture(record['image'], f'{name}, {split}: record {i}', mode, upright=False).shape
        return objects.checked(_objects(record['objects'], shape, classes, first), shape, classes)

    found, flaws = objects.usable(threads.mapped(read, len(records), 'checking boxes'),
                                  lambda i: f'{name}, {split}: record {i}', bad_boxes)
    fields = ['ignore'] * bool({'is_difficult', 'is_crowd'} & set(stored)) + ['area'] * (
        'area' in stored)
    kept = objects.ragged(found, classes, fields)
    about = f'{name}, {split}: {len(found):,} images with {objects.described(kept, classes, flaws)}'
    examples = _Examples(records, f'{name}, {split}', mode, ('image',), objects=kept)
    return Source(examples, classes, about)


def _objects(stored, shape, classes, first):
    """The Objects of a record of tfds, which has a list of each feature, [] if it has no objects;
    a box is the upper, left, lower and right side as shares of the picture's. `first` is the
    number of the first pixel."""
    height, width = shape[:2]
    boxes = np.asarray(stored['bbox'], np.float64).reshape(-1, 4)
    places = boxes[:, [1, 0, 3, 2]] * (width, height, width, height) - (first, first, 0, 0)
    columns = [stored.get(feature, [False] * len(boxes))
               for feature in ('label', 'is_difficult', 'is_crowd', 'area')]
    rows = zip(places.tolist(), *columns, strict=True)
    return [objects.Object(f'object {i}', tuple(box), classes[label], bool(hard or crowd), area)
            for i, (box, label, hard, crowd, area) in enumerate(rows, 1)]


def _found(name, data_dir) -> Any:
    """The builder of a prepared data set."""
    builder = _builder(name, data_dir, others=(*SHIPPED, 'folder'))
    if not builder.data_path.exists():
        raise Missing(
            f'{name} is not prepared: there is no {builder.data_path}. Prepare it, once, with\n'
            f'  {_prepare_command(name, data_dir)}'
        )
    return _prepared(builder, name)


def _mode(name, image):
    """Pillow's mode of the pictures in an image feature."""
    if image.np_dtype != np.uint8 or image.shape[-1] not in _MODES:
        raise UserError(
            f'{name} has images of {image.shape[-1]} channels of {image.np_dtype}, not 1 or 3 of '
            'uint8'
        )
    return _MODES[image.shape[-1]]


def _records(builder, name, split, encoded) -> Any:
    """The records of a split, in which the features `encoded` are bytes of image files."""
    try:
        # tfds shuffled the records by the hash of their keys when it wrote them; their order in
        # the files is the order here, the same on every machine.
        return builder.as_data_source(
            split, decoders=dict.fromkeys(encoded, tfds.decode.SkipDecoding()))
    except (ValueError, NotImplementedError) as error:  # NotImplementedError: a slice of 'all'
        sizes = ', '.join(f'{s.name} ({s.num_examples})' for s in builder.info.splits.values())
        raise UserError(
            f'{name} has no split {split!r}. It has {sizes}; '
            "slices and sums of them work too, such as 'train[:90%]' or 'train+test'"
        ) from error


_MODES = {1: 'L', 3: 'RGB'}


@dataclasses.dataclass(frozen=True, repr=False)
class _Examples(Sequence):
    """The images of a tfds data source with their labels or masks; Pillow decodes the images, as it
    does image files."""

    records: Any  # a sequence that also has dataset_info and split
    name: str
    mode: str
    features: tuple[str, ...] = ('image', 'label')  # the names of the image and its target
    values: dict[int, int] | None = None  # see Masks; None: the target is a label or `objects`
    objects: Ragged | None = None  # those of each image
    decoded: bool = True

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: Any) -> Any:
        index = range(len(self))[index]  # turns -1 into the last, and raises the IndexError
        name = f'{self.name}: record {index}'
        try:
            record = self.records[index]
            image, *target = (record[feature] for feature in self.features)
        except Exception as error:  # The format, protobuf and tfds raise many kinds.
            raise UserError(f'{name} cannot be read: {error}') from error
        # tfds takes the pixels of a mask as they are stored, and so those of its picture.
        picture = Picture(image, name, self.mode, upright=self.features[1:] == ('label',))
        if self.objects is not None:
            found = self.objects[index]
        elif self.values is None:
            found = {'label': int(target[0])}
        else:
            mask = f'the mask of {name}'
            found = {'mask': masks.numbered(masks.read(target[0], mask), self.values,
                                            picture.shape, mask)}
        return {'image': np.asarray(picture) if self.decoded else picture, **found}

    @property
    def undecoded(self):
        return dataclasses.replace(self, decoded=False)

    def listing(self):
        """An Entry for each file, or part of one, without labels: only the records have them."""
        info = self.records.dataset_info
        parts = info.splits[self.records.split].file_instructions
        sizes = file_sizes([part.filename for part in parts]).tolist()
        return [
            Entry(None, str(size), f'{info.full_name}/{os.path.basename(part.filename)}'
                  f'[{part.skip}:{part.skip + part.take}]')
            for part, size in zip(parts, sizes, strict=True)
        ]


def prepare(
    name: str, data_dir: str | None = None, manual_dir: str | None = None
) -> pathlib.Path:
    """Downloads a data set and writes it in tfds' own layout, unless it is already there.

    Args:
        name: 'cifar10', 'cifar100', 'svhn_cropped' or 'mnist'.
        data_dir: where tfds keeps its data sets; None is $TFDS_DATA_DIR or ~/tensorflow_datasets.
        manual_dir: the directory with the archives that the user downloaded, under their own
            names; None downloads them.

    Returns:
        The directory of the prepared data set.

    Raises:
        UserError: the data set is unknown, can be prepared only with TensorFlow (the message has
            the commands), or is there in a format without random access; a download failed; or an
            archive is missing or has a wrong checksum.
    """
    builder = _builder(name, data_dir)
    path = pathlib.Path(builder.data_path)
    if path.exists():
        _prepared(builder, name)
        return path
    manual = pathlib.Path(os.path.expanduser(manual_dir)) if manual_dir else None
    if name not in BUILDERS:
        raise UserError(_tensorflow_commands(name, builder.data_dir_root, manual,
                                             builder.MANUAL_DOWNLOAD_INSTRUCTIONS))

    builder = BUILDERS[name](data_dir=builder.data_dir_root, file_format='array_record')
    if manual:
        archives = {url: manual / info.filename for url, info in builder.url_infos.items()}
        missing = [f'{archive}, from {url}' for url, archive in archives.items()
                   if not archive.exists()]
        if missing:
            raise UserError('\n  '.join([f'to prepare {name}, these are missing:', *missing]))
    config = tfds.download.DownloadConfig(manual_dir=manual, try_download_gcs=False)
    try:
        builder.download_and_prepare(download_config=config)
    except tfds.core.download.download_manager.NonMatchingChecksumError as error:
        what, _, _ = str(error).partition('\nTo debug')
        raise UserError(f'{what}\nDelete that file and download it again') from error
    except (requests.RequestException, tfds.core.download.DownloadError) as error:
        urls = '\n  '.join(builder.url_infos)
        raise UserError(
            f'the download of {name} failed: {error}\n'
            f'Where there is a network, download\n  {urls}\n'
            'put the files into a directory, and give that directory as --config.manual_dir='
        ) from error
    return path


def _builder(name, data_dir, others=()) -> Any:
    data_dir = data_dir and os.path.expanduser(data_dir)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # The import complains at length.
            builder = tfds.builder(name, data_dir=data_dir)
    except ImportError:
        return _without_code(name, data_dir or tfds.core.constants.DATA_DIR)
    except (ValueError, AssertionError) as error:  # the latter for an unknown version
        known = [*others, *BUILDERS, 'imagenet2012']
        hint = suggest(name, known) or f'; try {", ".join(known)}'
        raise UserError(f'tensorflow-datasets has no {name!r}{hint}') from error
    if str(builder.data_dir).startswith('~'):
        raise UserError(f'data_dir={data_dir}: this user has no home directory; give a path '
                        'without ~, as in --config.data_dir=data')
    return builder


def _without_code(name, data_dir):
    """The builder of a prepared data set whose code needs TensorFlow, such as coco/2017."""
    found = [path.parent for path in pathlib.Path(data_dir, name).glob('*/dataset_info.json')]
    if not found:
        raise Missing(f'there is no {data_dir}/{name}: '
                      + _tensorflow_commands(name, pathlib.Path(data_dir), None))
    return tfds.builder_from_directory(max(found, key=lambda path: tfds.core.Version(path.name)))


def _prepare_command(name, data_dir):
    override = f' --config.data_dir={shlex.quote(str(data_dir))}' if data_dir else ''
    return f'python launch.py --config=configs/prepare.py:{name} --workdir=runs/prepare{override}'


def _prepared(builder, name) -> Any:
    # A builder made from the directory also finds a format that `tfds convert_format` added.
    prepared = tfds.builder_from_directory(builder.data_path)
    formats = prepared.info.available_file_formats()
    if not formats & tfds.core.FileFormat.with_random_access():
        # It cannot be prepared in place, because tfds takes an existing directory for finished.
        other = f'{builder.data_dir_root}_array_record'
        raise UserError(
            f'{builder.data_path} has the format {prepared.info.file_format.value}, which has no '
            'random access. Prepare it again in a second directory, the first can stay, with\n'
            f'  {_prepare_command(name, other)}\n'
            'and give the same --config.data_dir to what reads it'
        )
    return prepared


def _tensorflow_commands(name, data_dir, manual_dir, instructions=None):
    manual_dir = os.path.abspath(manual_dir or data_dir / 'downloads' / 'manual')
    data_dir = os.path.abspath(data_dir)
    packages = ['tensorflow-datasets', 'tensorflow-cpu', 'importlib_resources', 'pillow']
    script = (
        'python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{name}', data_dir={data_dir!r}, file_format='array_record')"
        '.download_and_prepare(download_config='
        f'tfds.download.DownloadConfig(manual_dir={manual_dir!r}))"'
    )
    message = (
        f'to prepare {name}, but not to read it, tfds needs TensorFlow. Run, once,\n'
        f'  python -m venv /tmp/tfds && /tmp/tfds/bin/pip install {" ".join(packages)}\n'
        f'  /tmp/tfds/bin/{script}\n'
        'or, with uv,\n'
        f'  uv run --no-project --python 3.11 {" ".join(f"--with {p}" for p in packages)} {script}'
    )
    if instructions:
        says = ' '.join(instructions.split())
        message += f'\ntfds says: "{says}" Here, manual_dir is {manual_dir}'
    return message
