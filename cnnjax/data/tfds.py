"""Reads TensorFlow Datasets (https://www.tensorflow.org/datasets) without TensorFlow."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from cnnjax.data import masks, objects, tfds_prepare, threads
from cnnjax.data.examples import Source
from cnnjax.data.geometry import IGNORE
from cnnjax.data.identity import Entry, file_sizes
from cnnjax.data.images import Picture
from cnnjax.data.objects import Ragged
from cnnjax.errors import UserError


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
    builder = tfds_prepare.prepared(name, data_dir)
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
    builder = tfds_prepare.prepared(name, data_dir)
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
    builder = tfds_prepare.prepared(name, data_dir)
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
    objects: Ragged | None = None  # the objects of each image
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
