"""The test error of a trained network, over every example exactly once.

    python launch.py --config=configs/evaluate.py --config.source=runs/quickstart \\
        --workdir=runs/quickstart-evaluation
"""

import ml_collections
from ml_collections.config_dict import placeholder


def get_config():
    config = ml_collections.ConfigDict()
    config.experiment = 'evaluate'
    config.source = 'runs/quickstart'  # working directory of a run, weights' file or hub id
    config.name = placeholder(str)  # the network's, where a file of weights does not say it
    config.checkpoint = 'best'  # 'best', 'latest' or the number of a step
    config.split = placeholder(str)  # None: the run's test_split
    config.dataset = placeholder(str)  # this and the next three: None is the run's own
    config.data_dir = placeholder(str)  # where the data set is
    config.stream = placeholder(bool)  # decode as needed; False: hold the set in memory
    config.bad_images = placeholder(str)  # 'error' at an unreadable one, or 'skip' it
    config.batch_size = 500  # images at a time, over all devices
    config.devices = 0  # how many of the local devices; 0: all
    return config
