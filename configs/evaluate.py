"""The test error of a trained network, over every example exactly once.

    python launch.py --config=configs/evaluate.py --config.source=runs/quickstart \\
        --workdir=runs/quickstart-evaluation

On another data set, classes are matched by name, in any order; the set may have only some of the
network's classes. Most published weights come without names, so name their classes:

    ... --config.source=timm/resnet50.tv_in1k --config.dataset=imagenet2012 \\
        --config.split=validation --config.classes=dataset

Several sources are an ensemble, whose probabilities are the mean of theirs. They have the same
classes, and each its own images:

    ... --config.source=runs/a,runs/b
"""

import ml_collections
from ml_collections.config_dict import placeholder


def get_config():
    config = ml_collections.ConfigDict()
    config.experiment = 'evaluate'
    config.source = 'runs/quickstart'  # the network: a run's workdir, a weights file or a hub id;
    #           several, with commas between them, are an ensemble
    config.name = placeholder(str)  # the network's name, if a weights file does not say it: 'vgg19'
    config.checkpoint = 'best'  # the checkpoint of a run: 'best', 'latest' or the number of a step
    config.split = placeholder(str)  # the split to evaluate on; None: the run's test_split;
    #           'all': a folder, csv or npz that has no splits
    config.dataset = placeholder(str)  # this and the next nine fields: None is the run's own
    config.data_dir = placeholder(str)  # where the data set is
    config.stream = placeholder(bool)  # True: decode as needed; False: hold the set in memory
    config.bad_images = placeholder(str)  # unreadable ones: 'error' stops, 'skip' omits them
    config.mask_values = placeholder(tuple)  # as in configs/base.py, of the folder given here
    config.bad_boxes = placeholder(str)  # boxes that cannot be used: 'error', or 'skip' omits them
    config.annotations = placeholder(str)  # as in configs/base.py, and so is the next
    config.proposals = placeholder(str)  # boxes that a Fast R-CNN classifies
    config.class_folders = placeholder(str)  # as in configs/base.py, and so is the next
    config.label_separator = placeholder(str)
    config.crops = placeholder(str)  # this and the next two as in configs/base.py: '1', '10',
    #           '10_whole' or 'dense'; None is the run's own
    config.test_scales = placeholder(tuple)  # several shorter sides, as in 256,384,512
    config.test_flip = placeholder(bool)  # whether the mirror images of pictures count, too
    # The names of the network's outputs, in order, if it has none or others than the data:
    # 'cat,dog', a text file with one name per line, or 'dataset' for the classes of the data set.
    config.classes = placeholder(str)
    config.batch_size = 500  # images at a time, over all devices
    config.devices = 0  # how many local devices to use; 0: all
    return config
