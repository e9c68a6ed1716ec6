"""A network on real scans of handwritten digits, with nothing to download.

    python launch.py --config=configs/quickstart.py --workdir=runs/quickstart
    python launch.py --config=configs/quickstart.py:fractalnet --workdir=runs/fractalnet

The argument is 'resnet' (default) or 'fractalnet'. This sweeps three learning rates with two seeds
each:

    python launch.py --config=configs/quickstart.py --sweep --workdir=runs/quickstart-sweep
"""

from configs import base

PAPER = {}  # No paper has test errors of these recipes.


def get_config(network='resnet'):
    config = base.get_config()
    config.dataset = 'digits'
    config.padding = 1
    config.batch_size = 64
    config.epochs = 40.0
    config.schedule = 'cosine'
    config.learning_rate = 0.1
    config.nesterov = True
    config.weight_decay = 5e-4
    config.report_every = 21
    config.eval_every = 2.0
    config.checkpoint_every = 0.0
    if network == 'resnet':
        config.model.name = 'resnet20'
    elif network == 'fractalnet':
        config.model.name = 'fractalnet20'
        config.model.widths = (16, 32, 64)
        config.model.dropout = (0.0, 0.0, 0.0)
        config.learning_rate = 0.02
    else:
        raise ValueError(f"the argument is 'resnet' or 'fractalnet', not '{network}'")
    return config


def sweep(network='resnet'):
    """The runs of --sweep, each as the fields that it changes."""
    usual = get_config(network).learning_rate
    for learning_rate in (usual / 2, usual, 2 * usual):
        for seed in (0, 1):
            yield {'learning_rate': learning_rate, 'seed': seed}
