"""The layers of a network: shapes, receptive fields, parameters and multiply-adds.

    python launch.py --config=configs/summarize.py:vgg16 --workdir=runs/vgg16-summary

The argument is a name of cnnjax.models.names(). Prints the table, and writes it as summary.txt and
summary.json, with a picture of the architecture in figures/architecture.png.
"""

import ml_collections

from configs import base


def get_config(name='resnet50'):
    config = ml_collections.ConfigDict()
    config.experiment = 'summarize'
    config.model = base.get_config().model  # the network's fields, as in configs/base.py
    config.model.name = name
    config.num_classes = 0  # the number of classes; 0: the paper's
    config.image_shape = ()  # height, width, channels; (): the paper's
    config.depth = 2  # levels of names in the table: 1 sums up each block; 0: all levels
    config.picture_depth = 1  # the same in the picture: 2 shows the branches of inception modules
    return config
