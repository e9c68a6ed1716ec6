"""Prepared data sets are read, without TensorFlow."""

import dataclasses
import io
import pickle
import shutil
import sys

import numpy as np
import pytest
import tensorflow_datasets
from PIL import Image

from cnnjax import train, trained
from cnnjax.data import Missing, differences, identity, load, tfds, tfds_builders
from cnnjax.errors import UserError
from configs import cifar
from tests.archives import CLASSES, SPLITS, draw


@pytest.mark.parametrize(('name', 'split'), [(n, s) for n in SPLITS for s in SPLITS[n]])
def test_every_image_and_its_label_arrive(prepared, name, split):
    source = tfds.load(name, split, prepared)
    images, labels = draw(name, split)
    assert source.classes == CLASSES[name]
    assert len(source.examples) == len(images)
    expected = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    for example in source.examples:
        assert set(example) == {'image', 'label'}
        assert example['image'].dtype == np.uint8
        assert example['image'].shape == images.shape[1:]
        assert type(example['label']) is int
        assert example['label'] == expected.pop(example['image'].tobytes())
    assert not expected
    assert 'tensorflow' not in sys.modules


@pytest.mark.parametrize(('name', 'split', 'order'), [
    ('cifar10', 'train', [6, 5, 4, 0, 8, 3, 1, 9, 7, 2]),
    ('svhn_cropped', 'extra', [10, 9, 0, 6, 1, 3, 7, 2, 4, 11, 5, 8]),
])
def test_the_order_is_that_of_tfds_with_tensorflow(prepared, name, split, order):
    """As tensorflow-datasets 4.9.10 with TensorFlow 2.21 wrote the very same archives."""
    images, _ = draw(name, split)
    examples = tfds.load(name, split, prepared).examples
    np.testing.assert_array_equal([e['image'] for e in examples], images[order])


def written(name, examples, directory):
    """A data set of tfds with these records, in its own format and with its own features."""
    parent, _, config = name.partition('/')

    class Builder(tfds_builders.parent(parent), skip_registration=True):
        __module__ = tfds_builders.parent(parent).__module__
        name = parent

        def _split_generators(self, dl_manager):
            return {'train': iter(enumerate(examples))}

    builder = Builder(data_dir=directory, config=config or None, file_format='array_record')
    builder.download_and_prepare()
    assert 'tensorflow' not in sys.modules


def encoded(image, kind, **options):
    Image.fromarray(image).save(file := io.BytesIO(), kind, **options)
    file.seek(0)
    return file


def pets(masks, **options):
    """Records with smooth pictures as large as the masks."""
    return [{
        'image': encoded(np.full((*mask.shape, 3), 10 * i, np.uint8), 'jpeg', **options),
        'label': i, 'species': 0, 'file_name': f'{i}.jpg',
        'segmentation_mask': encoded(mask, 'png'),
        'head_bbox': tensorflow_datasets.features.BBox(0.0, 0.0, 0.0, 0.0),
    } for i, mask in enumerate(masks)]


def test_pets_have_masks_and_labels(tmp_path, capsys):
    """1 is the pet, 2 the background, and 3, the border, is ignored; the sizes differ."""
    masks = [np.uint8([[2, 2, 3], [2, 3, 1]]), np.uint8([[1, 2], [3, 1], [2, 3], [1, 1]])]
    written('oxford_iiit_pet', pets(masks), tmp_path)
    source = load('oxford_iiit_pet', 'train', str(tmp_path), target='mask')
    assert source.classes == ('background', 'pet')
    for examples in (source.examples, source.examples.undecoded):
        found = {int(np.asarray(example['image']).mean()) // 10: example for example in examples}
        assert sorted(found) == [0, 1]
        for i, mask in enumerate(masks):
            assert np.asarray(found[i]['image']).shape == (*mask.shape, 3)
            np.testing.assert_array_equal(found[i]['mask'], np.uint8([255, 1, 0, 255])[mask])
    labels = load('oxford_iiit_pet', 'train', str(tmp_path))
    assert sorted(example['label'] for example in labels.examples) == [0, 1]
    assert len(labels.classes) == 37
    assert 'tensorflow' not in sys.modules


def test_a_picture_with_a_mask_is_not_turned(tmp_path):
    """tfds and the masks know nothing of EXIF; without a mask it would be turned."""
    exif = Image.Exif()
    exif[0x0112] = 6
    written('oxford_iiit_pet', pets([np.uint8([[2, 1, 1]])], exif=exif), tmp_path)
    masked = load('oxford_iiit_pet', 'train', str(tmp_path), target='mask').examples
    for examples in (masked, masked.undecoded):
        assert np.asarray(examples[0]['image']).shape == (1, 3, 3)
    assert load('oxford_iiit_pet', 'train', str(tmp_path)).examples[0]['image'].shape == (
        3, 1, 3)


@pytest.mark.parametrize(('mask', 'message'), [
    ([[2, 4]], r'the mask of oxford_iiit_pet, train: record 0 has a pixel of the value 4'),
    ([[0, 1]], r'record 0 has a pixel of the value 0: those of the classes are 2, 1\.')])
def test_a_mask_with_another_value_is_named(tmp_path, mask, message):
    written('oxford_iiit_pet', pets([np.uint8(mask)]), tmp_path)
    with pytest.raises(UserError, match=message):
        load('oxford_iiit_pet', 'train', str(tmp_path), target='mask').examples[0]


def test_cityscapes_has_19_classes(tmp_path):
    """Golden values of Cityscapes' own table: the trainId of each id from 0 to 33, and of -1."""
    train_ids = [255] * 7 + [0, 1, 255, 255, 2, 3, 4, 255, 255, 255, 5, 255, 6, 7, 8, 9, 10, 11,
                             12, 13, 14, 15, 255, 255, 16, 17, 18, 255]
    mask = np.resize(np.uint8([*range(34), 255]), (1024, 2048))
    image = np.zeros((1024, 2048, 3), np.uint8)
    written('cityscapes', [{
        'image_id': 'bonn_0', 'image_left': encoded(image, 'png'),
        'segmentation_label': encoded(mask, 'png')}], tmp_path)
    source = load('cityscapes', 'train', str(tmp_path), target='mask')
    assert len(source.classes) == 19
    assert (source.classes[0], source.classes[9], source.classes[18]) == ('road', 'terrain',
                                                                          'bicycle')
    example = source.examples[0]
    np.testing.assert_array_equal(example['mask'].ravel()[:35], train_ids)
    np.testing.assert_array_equal(example['image'], image)


def voc(objects, shape=(40, 60), **options):
    """Records of pictures with (xmin, ymin, xmax, ymax, label, difficult) of VOC's objects."""
    height, width = shape
    return [{
        'image': encoded(np.full((*shape, 3), 10 * i, np.uint8), 'jpeg', **options),
        'image/filename': f'{i}.jpg', 'labels': [], 'labels_no_difficult': [],
        'objects': [{'bbox': tensorflow_datasets.features.BBox(
                         top / height, left / width, bottom / height, right / width),
                     'label': label, 'is_difficult': hard, 'is_truncated': False, 'pose': 0}
                    for left, top, right, bottom, label, hard in own],
    } for i, own in enumerate(objects)]


def by_picture(source):
    """The examples by their pictures' level of gray."""
    return {int(np.asarray(example['image']).mean().round()) // 10: example
            for example in source.examples}


def test_voc_has_boxes(tmp_path, capsys):
    """Its pixels are counted from 1. A picture without objects has an empty list."""
    written('voc/2007', voc([[(1, 1, 60, 40, 3, False), (11, 6, 20, 30, 19, True)], [],
                             [(2, 2, 2, 9, 0, False)]]), tmp_path)
    source = load('voc/2007', 'train', str(tmp_path), target='boxes')
    assert len(source.classes) == 20
    assert source.classes[3] == 'boat'
    for found in (by_picture(source), by_picture(source._replace(
            examples=source.examples.undecoded))):
        assert sorted(found) == [0, 1, 2]
        assert found[0]['labels'].tolist() == [3, 19]
        assert found[0]['ignore'].tolist() == [False, True]
        np.testing.assert_allclose(found[0]['boxes'], [(0, 0, 60, 40), (10, 5, 20, 30)], atol=1e-4)
        assert found[1]['labels'].tolist() == [-1, -1]
        assert not found[1]['boxes'].any()
        np.testing.assert_allclose(found[2]['boxes'][0], (1, 1, 2, 9), atol=1e-4)
        assert {name: array.dtype.name for name, array in found[0].items() if name != 'image'} == {
            'boxes': 'float32', 'labels': 'int32', 'ignore': 'bool'}
    assert capsys.readouterr().out.endswith(
        'voc/2007, train: 3 images with 3 objects of 20 classes; 1 image without objects; 1 object '
        'ignored; none of bicycle, bird, bottle and 14 more\n')
    assert identity(source).examples == 3
    version = tensorflow_datasets.builder('voc/2007').version
    for name in ('voc', f'voc:{version}'):
        again = by_picture(load(name, 'train', str(tmp_path), target='boxes'))
        np.testing.assert_array_equal(again[0]['boxes'], by_picture(source)[0]['boxes'])
    assert 'tensorflow' not in sys.modules


def test_a_picture_with_boxes_is_not_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    written('voc/2007', voc([[(1, 1, 60, 40, 3, False)]], exif=exif), tmp_path)
    example = load('voc/2007', 'train', str(tmp_path), target='boxes').examples[0]
    assert example['image'].shape == (40, 60, 3)
    np.testing.assert_allclose(example['boxes'], [(0, 0, 60, 40)], atol=1e-4)


def coco(directory):
    """A prepared set with COCO's features, whose code in tfds needs TensorFlow."""
    features = tensorflow_datasets.features

    class Coco(tensorflow_datasets.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tensorflow_datasets.core.Version('1.1.0')
        name = 'coco'
        BUILDER_CONFIGS = [tensorflow_datasets.core.BuilderConfig(name='2017')]

        def _info(self):
            objects = {'id': np.int64, 'area': np.int64, 'bbox': features.BBoxFeature(),
                       'label': features.ClassLabel(names=['person', 'bicycle', 'car']),
                       'is_crowd': np.bool_}
            stored = {'image': features.Image(encoding_format='jpeg'), 'image/id': np.int64,
                      'image/filename': features.Text(), 'objects': features.Sequence(objects)}
            return tensorflow_datasets.core.DatasetInfo(
                builder=self, features=features.FeaturesDict(stored))

        def _split_generators(self, dl_manager):
            return {'validation': self._generate_examples()}

        def _generate_examples(self):
            first = (0.0, 0.5, 0.25, 1.0, 2, True), (0.1, 0.1, 0.2, 0.2, 0, False)
            for i, own in enumerate([first, [], [(0.5, 0.5, 0.5, 0.75, 1, False)]]):
                yield i, {
                    'image': encoded(np.full((40, 60, 3), 10 * i, np.uint8), 'jpeg'),
                    'image/filename': f'{i}.jpg', 'image/id': i,
                    'objects': [{'id': j, 'area': 7, 'bbox': features.BBox(*sides), 'label': label,
                                 'is_crowd': crowd}
                                for j, (*sides, label, crowd) in enumerate(own)]}

    Coco(data_dir=directory, config='2017', file_format='array_record').download_and_prepare()


def test_coco_is_read_from_its_directory(tmp_path, capsys):
    """Its code does not even start without TensorFlow."""
    with pytest.raises(Missing, match='there is no .*/coco/2017: to prepare coco/2017, but not to '
                                      "read it, tfds needs TensorFlow(?s:.*)builder.'coco/2017'"):
        load('coco/2017', 'validation', str(tmp_path), target='boxes')
    coco(tmp_path)
    with pytest.raises(UserError, match='record 1, object 1: the box 30, 20, 45, 20 .* no area'):
        load('coco/2017', 'validation', str(tmp_path), target='boxes')
    source = load('coco/2017', 'validation', str(tmp_path), target='boxes', bad_boxes='skip')
    found = by_picture(source)
    assert source.classes == ('person', 'bicycle', 'car')
    np.testing.assert_allclose(found[0]['boxes'], [(30, 0, 60, 10), (6, 4, 12, 8)], atol=1e-4)
    assert found[0]['labels'].tolist() == [2, 0]
    assert found[0]['ignore'].tolist() == [True, False]
    assert found[0]['area'].tolist() == [7, 7]
    assert found[1]['labels'].tolist() == found[2]['labels'].tolist() == [-1, -1]
    assert ('2 images without objects; 1 object ignored; objects left out: 1 without area; none of '
            'bicycle\n') in capsys.readouterr().out
    with pytest.raises(UserError, match="coco/2017 has no 'image' with a 'label'"):
        load('coco/2017', 'validation', str(tmp_path))


def test_sets_without_boxes_say_so(prepared):
    with pytest.raises(UserError, match="cifar10 has no 'image' with 'objects' that have a 'bbox'"):
        load('cifar10', 'train', str(prepared), target='boxes')


def test_sets_without_masks_are_told_from_those_that_have_them(tmp_path):
    with pytest.raises(UserError, match='dataset=voc: of tensorflow-datasets, oxford_iiit_pet and '
                                        'cityscapes have masks'):
        load('voc', 'train', str(tmp_path), target='mask')
    with pytest.raises(Missing, match='cityscapes is not prepared: .*semantic_segmentation'):
        load('cityscapes', 'train', str(tmp_path), target='mask')


def test_splits_are_cut_and_added(prepared):
    def labels(split):
        return [e['label'] for e in tfds.load('svhn_cropped', split, prepared).examples]
    assert labels('train[:5]') + labels('train[5:]') == labels('train')
    assert labels('train+extra') == labels('train') + labels('extra')
    assert len(labels('train[:50%]')) == 4


def test_an_unreadable_record_is_named(prepared):
    examples = tfds.load('cifar10', 'train[2:]', prepared).examples
    for record, message in (({'image': b'GIF89a', 'label': 0}, 'is not a readable image: '),
                            ({}, 'cannot be read: ')):
        damaged = dataclasses.replace(examples, records=[examples.records[0], record])
        for reader in (damaged, damaged.undecoded):
            np.testing.assert_array_equal(reader[0]['image'], examples[0]['image'])
            with pytest.raises(UserError, match=rf'cifar10, train\[2:\]: record 1 {message}'):
                np.asarray(reader[1]['image'])


def test_a_set_is_told_by_its_files(prepared, tmp_path):
    """Of which a split may be a part; their records are not read."""
    def told(split, data_dir=prepared):
        return identity(tfds.load('svhn_cropped', split, data_dir))

    then = told('train[2:]+extra')
    assert (then.examples, then.counts) == (18, None)
    assert told('train[2:]+extra') == then
    line, missing, added = differences(then, told('train'))
    assert line == '18 examples then, 8 now'
    assert 'svhn_cropped/3.1.0/svhn_cropped-train.array_record-00000-of-00001[2:8]' in missing
    assert '[0:8]' in added
    shutil.copytree(prepared / 'svhn_cropped', tmp_path / 'svhn_cropped')
    assert told('train[2:]+extra', tmp_path) == then
    with next(tmp_path.rglob('*extra.array_record*')).open('ab') as file:
        file.write(b'x')
    line, = differences(then, told('train[2:]+extra', tmp_path))
    assert 'of another size or content: svhn_cropped/3.1.0/svhn_cropped-extra' in line


def test_examples_are_a_sequence_that_processes_can_share(prepared):
    examples = tfds.load('cifar10', 'train', prepared).examples
    assert examples[-1]['label'] == list(examples)[9]['label']
    with pytest.raises(IndexError):
        examples[10]
    copy = pickle.loads(pickle.dumps(examples))
    np.testing.assert_array_equal(copy[3]['image'], examples[3]['image'])


def test_the_home_directory_is_expanded(prepared, monkeypatch):
    """No shell does that in --config.data_dir=~/data."""
    monkeypatch.setenv('HOME', str(prepared.parent))
    examples = tfds.load('mnist', 'test', f'~/{prepared.name}').examples
    assert len(examples) == SPLITS['mnist']['test']


@pytest.mark.parametrize('split', ['validation', 'train[:oops]', 'train[10:]', 'all[:3]', ''])
def test_unknown_split(prepared, split):
    with pytest.raises(UserError, match=r'It has train \(10\), test \(3\);'):
        tfds.load('cifar10', split, prepared)


def test_no_labels(prepared, tmp_path):
    directory = shutil.copytree(prepared / 'mnist' / '3.0.1', tmp_path / 'mnist' / '3.0.1')
    features = directory / 'features.json'
    features.write_text(features.read_text().replace('"label"', '"digit"'))
    with pytest.raises(UserError, match=r"only \['digit', 'image'\]"):
        tfds.load('mnist', 'train', tmp_path)


def test_the_recipe_trains_on_a_prepared_set(prepared, tmp_path):
    config = cifar.get_config('resnet20')
    config.data_dir = str(prepared)
    config.model.widths = (4, 4, 4)
    config.steps, config.batch_size, config.eval_every = 2, 4, 0.0
    row = train.train(config, tmp_path)
    assert row['step'] == 2
    assert 0 <= row['test/error'] <= 1
    assert trained.load(tmp_path).classes == CLASSES['cifar10']
    assert trained.load(tmp_path).normalize.mean.shape == (32, 32, 3)
