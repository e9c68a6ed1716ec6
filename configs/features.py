"""Features off the shelf: activations of a trained network, and a linear classifier on them.

    python launch.py --config=configs/features.py --config.source=runs/resnet50 \\
        --config.data_dir=photos --workdir=runs/photos-features

Sharif Razavian et al. 2014, "CNN Features off-the-shelf: an Astounding Baseline for Recognition",
https://arxiv.org/abs/1403.6382. Writes features.npz (`train/TAP` and `test/TAP` [N, features],
`train/label` and `test/label` [N], `classes`, `source`) and results.json.
"""

import ml_collections
from ml_collections.config_dict import placeholder


def get_config():
    config = ml_collections.ConfigDict()
    config.experiment = 'features'
    config.source = 'runs/quickstart'  # a run's workdir, 'embedded', a weights file or a hub id
    config.checkpoint = 'best'  # of a run: 'best', 'latest' or the number of a step
    config.name = placeholder(str)  # the network's, where a file of weights does not say it
    config.dataset = 'folder'  # of the images: digits, folder, or a name of tensorflow-datasets
    config.data_dir = placeholder(str)  # of the folder: train/<class>/*.jpg and test/<class>/*.jpg
    config.bad_images = 'error'  # folder: an unreadable image is an 'error', or 'skip' it
    config.train_split = 'train'  # what the classifier learns from
    config.test_split = 'test'  # what its error is measured on
    config.taps = ''  # names that configs/summarize.py prints, 'pool,conv4_6:1+5'; '': the last
    config.pool = True  # average maps over their pixels; False: keep every pixel as a feature
    config.batch_size = 64  # over all devices
    config.loader_threads = 16  # that decode images
    config.devices = 0  # how many of the local devices; 0: all
    config.inverse_regularization = 1.0  # C of the classifier: larger fits closer
    config.iterations = 1000  # of its solver, at most
    return config
