"""Tiny archives of data sets in the real formats, for tensorflow-datasets."""

import contextlib
import gzip
import io
import tarfile

import numpy as np
import pytest
import scipy.io
from tensorflow_datasets.core.download import checksums

from cnnjax.data import tfds_builders

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
        for kind, magic, data in (('images-idx3', 2051, images[..., 0]),
                                  ('labels-idx1', 2049, labels)):
            header = np.array([magic, *data.shape], '>i4').tobytes()
            path = directory / f'{prefix}-{kind}-ubyte.gz'
            path.write_bytes(gzip.compress(header + data.tobytes()))


WRITERS = {'cifar10': write_cifar10, 'cifar100': write_cifar100,
           'svhn_cropped': write_svhn_cropped, 'mnist': write_mnist}


@contextlib.contextmanager
def trusted(archives):
    """tfds takes the checksums of the tiny archives for those of the real ones."""
    with pytest.MonkeyPatch.context() as patch:
        for builder in tfds_builders.BUILDERS.values():
            patch.setattr(builder, 'url_infos', {
                url: checksums.compute_url_info(archives / info.filename)
                for url, info in builder.url_infos.items()})
        yield
