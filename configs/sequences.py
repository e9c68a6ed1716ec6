"""A one-dimensional ResNet on outlines of handwritten digits, with nothing to download.

    python launch.py --config=configs/sequences.py --workdir=runs/sequences

An example is a sequence of 64 points along the outline of a scan (cnnjax/data/digit_outlines.py).
The network is the ResNet-20 of images: the number of axes of the data makes its convolutions
one-dimensional.
"""

from configs import base

PAPER = {}  # No paper has test errors of this recipe.


def get_config():
    config = base.get_config()
    config.dataset = 'digit_outlines'
    config.model.name = 'resnet20'
    config.padding = 2  # steps by which the sequence is moved at most
    config.padding_mode = 'edge'
    config.batch_size = 64
    config.epochs = 40.0
    config.schedule = 'cosine'
    config.learning_rate = 0.1
    config.nesterov = True
    config.weight_decay = 5e-4
    config.report_every = 21
    config.eval_every = 2.0
    config.checkpoint_every = 0.0
    return config
