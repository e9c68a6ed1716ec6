"""Prepares a data set of tensorflow-datasets, once for all runs.

https://www.tensorflow.org/datasets
"""

import shlex

import tensorflow_datasets

from cnnjax.data import SHIPPED, tfds_prepare
from cnnjax.errors import UserError

RECIPES = {'cifar10': ('cifar', 'resnet20'), 'imagenet2012': ('imagenet', 'resnet50'),
           'mnist': ('mnist', 'lenet5'), 'oxford_iiit_pet': ('segment', 'pets')}


def run(config, workdir):
    """Prints where the data is, the sizes of its splits and the command that trains on it."""
    del workdir  # The data goes to a place where every run finds it.
    if config.dataset in (*SHIPPED, 'folder', 'csv', 'npz'):
        raise UserError(f'dataset={config.dataset} needs no preparing: train on it')
    try:
        path = tfds_prepare.prepare(config.dataset, config.data_dir, config.manual_dir)
    except OSError as error:
        raise UserError(f'data_dir={config.data_dir}, manual_dir={config.manual_dir}: {error}'
                        ) from error
    splits = tensorflow_datasets.builder_from_directory(path).info.splits
    sizes = ', '.join(f'{name} {split.num_examples:,}' for name, split in splits.items())
    print(f'{config.dataset} is ready in {path}: {sizes} images. To train on it:')

    family, network = RECIPES.get(config.dataset, ('cifar', 'resnet20'))
    command = ['python', 'launch.py', f'--config=configs/{family}.py:{network}']
    if config.dataset not in RECIPES:
        command.append(f'--config.dataset={config.dataset}')
    if config.dataset == 'svhn_cropped':
        command.append('--config.flip=False')  # A mirrored digit is no digit.
    if config.data_dir:
        command.append(f'--config.data_dir={config.data_dir}')
    print(' ', shlex.join([*command, f'--workdir=runs/{network}']))
