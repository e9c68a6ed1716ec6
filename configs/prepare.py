"""Download a data set and prepare it for training, once; TensorFlow is not needed.

    python launch.py --config=configs/prepare.py:cifar10 --workdir=runs/prepare
    python launch.py --config=configs/prepare.py:svhn_cropped --workdir=runs/prepare

The argument is 'cifar10' (default), 'cifar100', 'svhn_cropped' or 'mnist'; for 'imagenet2012' it
prints the commands that do it. Without a network, download the archive elsewhere and add

    --config.manual_dir=the/directory/it/is/in
"""

import ml_collections
from ml_collections.config_dict import placeholder


def get_config(dataset='cifar10'):
    config = ml_collections.ConfigDict()
    config.experiment = 'prepare'
    config.dataset = dataset  # a name of tensorflow-datasets
    config.data_dir = placeholder(str)  # None: $TFDS_DATA_DIR or ~/tensorflow_datasets
    config.manual_dir = placeholder(str)  # archives downloaded by hand; None: download them
    return config
