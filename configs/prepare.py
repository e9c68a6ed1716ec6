"""Downloads a data set and prepares it for training, without TensorFlow.

    python launch.py --config=configs/prepare.py:cifar10 --workdir=runs/prepare
    python launch.py --config=configs/prepare.py:svhn_cropped --workdir=runs/prepare

The argument is 'cifar10' (default), 'cifar100', 'svhn_cropped' or 'mnist'; 'imagenet2012' prints
the commands that prepare it. On a machine without internet, add the directory of an archive that
was downloaded elsewhere:

    --config.manual_dir=the/directory/it/is/in
"""

import ml_collections
from ml_collections.config_dict import placeholder


def get_config(dataset='cifar10'):
    config = ml_collections.ConfigDict()
    config.experiment = 'prepare'
    config.dataset = dataset  # a data set's name in tensorflow-datasets
    config.data_dir = placeholder(str)  # target; None: $TFDS_DATA_DIR or ~/tensorflow_datasets
    config.manual_dir = placeholder(str)  # where downloaded archives are; None: download
    return config
