"""Data sets prepared from tiny archives in the real formats, then read: all without TensorFlow."""

import gzip
import io
import pathlib
import pickle
import shlex
import shutil
import sys
import tarfile

import numpy as np
import pytest
import requests
import scipy.io
import tensorflow_datasets
from tensorflow_datasets.core.download import checksums

from cnnjax.data import tfds
from cnnjax.errors import UserError

SPLITS = {
    'cifar10': {'train': 10, 'test': 3},
    'cifar100': {'train': 9, 'test': 4},
    'svhn_cropped': {'train': 8, 'test': 5, 'extra': 12},
    'mnist': {'train': 11, 'test': 6},
}
CLASSES = {
    'cifar10': tuple(f'class{i}' for i in range(10)),
    'cifar100': tuple(f'fine{i}' for i in range(100)),
    'svhn_cropped': tuple('0123456789'),
    'mnist': tuple('0123456789'),
}


def draw(name, split):
    """The images and labels that the archives of a data set hold, in the archives' order."""
    count = SPLITS[name][split]
    generator = np.random.default_rng(count)
    shape = (count, 28, 28, 1) if name == 'mnist' else (count, 32, 32, 3)
    labels = generator.permutation(max(count, len(CLASSES[name])))[:count] % len(CLASSES[name])
    return generator.integers(256, size=shape, dtype=np.uint8), labels.astype(np.uint8)


def write_tar(path, files):
    with tarfile.open(path, 'w:gz') as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def cifar_rows(images, *labels):
    return np.column_stack([*labels, images.transpose(0, 3, 1, 2).reshape(len(images), -1)])


def write_cifar10(directory):
    batches = [*np.split(cifar_rows(*draw('cifar10', 'train')), 5),
               cifar_rows(*draw('cifar10', 'test'))]
    names = [*(f'data_batch_{i}.bin' for i in range(1, 6)), 'test_batch.bin']
    write_tar(directory / 'cifar-10-binary.tar.gz', {
        'cifar-10-batches-bin/batches.meta.txt': '\n'.join([*CLASSES['cifar10'], '\n']).encode(),
        'cifar-10-batches-bin/readme.html': b'<html>',
        **{f'cifar-10-batches-bin/{name}': batch.tobytes()
           for name, batch in zip(names, batches, strict=True)},
    })


def write_cifar100(directory):
    coarse = [f'coarse{i}' for i in range(20)]
    files = {'coarse_label_names.txt': '\n'.join(coarse).encode(),
             'fine_label_names.txt': '\n'.join(CLASSES['cifar100']).encode()}
    for split in SPLITS['cifar100']:
        images, labels = draw('cifar100', split)
        files[f'{split}.bin'] = cifar_rows(images, labels // 5, labels).tobytes()
    write_tar(directory / 'cifar-100-binary.tar.gz',
              {f'cifar-100-binary/{name}': data for name, data in files.items()})


def write_svhn_cropped(directory):
    for split in SPLITS['svhn_cropped']:
        images, labels = draw('svhn_cropped', split)
        scipy.io.savemat(directory / f'{split}_32x32.mat', {
            'X': np.moveaxis(images, 0, -1), 'y': np.where(labels == 0, 10, labels)[:, None]})


def write_mnist(directory):
    for split, prefix in (('train', 'train'), ('test', 't10k')):
        images, labels = draw('mnist', split)
        for kind, magic, data in (('images-idx3', 2051, images[..., 0]), ('labels-idx1', 2049, labels)):
            header = np.array([magic, *data.shape], '>i4').tobytes()
            path = directory / f'{prefix}-{kind}-ubyte.gz'
            path.write_bytes(gzip.compress(header + data.tobytes()))


WRITERS = {'cifar10': write_cifar10, 'cifar100': write_cifar100,
           'svhn_cropped': write_svhn_cropped, 'mnist': write_mnist}


@pytest.fixture(scope='module')
def archives(tmp_path_factory):
    """A directory with the archives of all data sets."""
    directory = tmp_path_factory.mktemp('archives')
    for write in WRITERS.values():
        write(directory)
    return directory


@pytest.fixture(scope='module')
def trusted(archives):
    """tfds takes the checksums of the tiny archives for those of the real ones."""
    with pytest.MonkeyPatch.context() as patch:
        for builder in tfds._BUILDERS.values():
            patch.setattr(builder, 'url_infos', {
                url: checksums.compute_url_info(archives / info.filename)
                for url, info in builder.url_infos.items()})
        yield


@pytest.fixture(scope='module')
def prepared(archives, trusted, tmp_path_factory):
    """A data_dir with all data sets, prepared."""
    directory = tmp_path_factory.mktemp('prepared')
    for name in SPLITS:
        tfds.prepare(name, directory, archives)
    return directory


@pytest.fixture
def offline(monkeypatch):
    """Every download fails, as without a network, but without tfds' minutes of retrying."""
    def get(self, url, **kwargs):
        raise requests.ConnectionError(f'cannot resolve {url}')
    monkeypatch.setattr(requests.Session, 'get', get)


@pytest.mark.parametrize(('name', 'split'), [(n, s) for n, splits in SPLITS.items() for s in splits])
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
    ('cifar10', 'train', (9, 2, 5, 8, 7, 3, 4, 6, 1, 0)),
    ('svhn_cropped', 'extra', (0,)),
])
def test_the_records_are_those_of_tfds_with_tensorflow(prepared, name, split, order):
    """Order and ids as tensorflow-datasets 4.9.10 wrote them with TensorFlow 2.21."""
    images, _ = draw(name, split)
    for example, index in zip(tfds.load(name, split, prepared).examples, order, strict=True):
        np.testing.assert_array_equal(example['image'], images[index])
    records = tensorflow_datasets.builder(name, data_dir=prepared).as_data_source(split)
    digits = {'cifar10': 5, 'svhn_cropped': 6}[name]
    assert [r['id'].decode() for r in records] == [f'{split}_{i:0{digits}}' for i in order]
