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
    config.source = 'runs/quickstart'  # 'embedded', a run's workdir, a weights file or a hub id
    config.checkpoint = 'best'  # the checkpoint of a run: 'best', 'latest' or the number of a step
    config.name = placeholder(str)  # the network's name, if a weights file does not say it: 'vgg19'
    config.dataset = 'folder'  # 'digits', 'folder', or a data set of tensorflow-datasets
    config.data_dir = placeholder(str)  # where the data is: train/CLASS/*.jpg, test/CLASS/*.jpg
    config.bad_images = 'error'  # folder, unreadable pictures: 'error' stops, 'skip' omits them
    config.train_split = 'train'  # the split that the classifier learns from
    config.test_split = 'test'  # the split that its error is measured on
    config.taps = ''  # layers that configs/summarize.py prints, 'pool,conv4_6:1+5'; '': the last
    config.pool = True  # average maps over their pixels; False: keep every pixel as a feature
    config.batch_size = 64  # images at a time, over all devices
    config.loader_threads = 16  # threads that decode images
    config.devices = 0  # how many local devices to use; 0: all
    config.inverse_regularization = 1.0  # the classifier's C; a larger one fits more closely
    config.iterations = 1000  # most iterations of the classifier's solver
    return config
