"""The builders of tensorflow-datasets without the steps that need TensorFlow: unpacking archives,
and encoding arrays as PNG (Pillow encodes a PIL image).

Keys, order, features and versions are tfds' own. Each class takes the name of its parent's module,
where tfds finds its checksums; the files it writes name that module.
"""

import gzip
import tarfile
from typing import Any

import numpy as np
import scipy.io
import tensorflow_datasets as tfds
from PIL import Image


def parent(name: str) -> Any:
    """The builder of tfds, whose methods its own annotations do not tell."""
    return tfds.builder_cls(name)


class _Cifar:
    info: Any
    _cifar_info: Any

    def _split_generators(self, dl_manager):
        info = self._cifar_info
        with tarfile.open(dl_manager.download(info.url)) as archive:
            files = {
                member.name.removeprefix(info.prefix): file.read()
                for member in archive
                if (file := archive.extractfile(member))
            }
        for key, file in zip(info.label_keys, info.label_files, strict=True):
            self.info.features[key].names = files[file].decode().split()
        return {
            split: self._generate_examples(split, b''.join(files[file] for file in batches))
            for split, batches in (('train', info.train_files), ('test', info.test_files))
        }

    def _generate_examples(self, split, data):
        keys = self._cifar_info.label_keys
        rows = np.frombuffer(data, np.uint8).reshape(-1, len(keys) + 3 * 32 * 32)
        for index, row in enumerate(rows):
            labels, pixels = np.split(row, [len(keys)])
            image = pixels.reshape(3, 32, 32).transpose(1, 2, 0)
            yield index, {
                'id': f'{split}_{index:05d}',
                'image': Image.fromarray(image),
                **dict(zip(keys, labels.tolist(), strict=True)),
            }


class Cifar10(_Cifar, parent('cifar10'), skip_registration=True):
    __module__ = parent('cifar10').__module__


class Cifar100(_Cifar, parent('cifar100'), skip_registration=True):
    __module__ = parent('cifar100').__module__


class SvhnCropped(parent('svhn_cropped'), skip_registration=True):
    __module__ = parent('svhn_cropped').__module__

    def _generate_examples(self, split_prefix, filepath):
        data = scipy.io.loadmat(filepath)
        images = np.moveaxis(data['X'], -1, 0)
        for index, (image, label) in enumerate(zip(images, data['y'].flat, strict=True)):
            yield index, {
                'id': f'{split_prefix}{index:06d}',
                'image': Image.fromarray(image),
                'label': int(label) % 10,  # The file has 10 for the digit 0.
            }


class MNIST(parent('mnist'), skip_registration=True):
    __module__ = parent('mnist').__module__

    def _split_generators(self, dl_manager):
        dl_manager.download_and_extract = dl_manager.download  # The archives are unpacked below.
        return super()._split_generators(dl_manager)

    def _generate_examples(self, num_examples, data_path, label_path):
        pixels, labels = (gzip.decompress(path.read_bytes()) for path in (data_path, label_path))
        images = np.frombuffer(pixels, np.uint8, offset=16).reshape(-1, 28, 28)
        for index, (image, label) in enumerate(zip(images, labels[8:], strict=True)):
            yield index, {'image': Image.fromarray(image), 'label': label}


BUILDERS = {cls.name: cls for cls in (Cifar10, Cifar100, SvhnCropped, MNIST)}
