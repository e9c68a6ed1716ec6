"""Narrow and shallow versions of the networks, and one short training for all of them, on the
digits of scikit-learn. No paper has them: sizes and lengths are our choice."""

from configs import base

WIDTHS = (8, 16, 32)
# {name: (network, its fields, learning rate)}. Networks without batch normalization take smaller
# rates than the others.
NARROW = {
    'nin': ('nin', {'widths': ((16, 16, 16), (24, 24, 24), (32, 32))}, 0.02),
    'allcnn': ('allcnn_c', {'widths': (16, 32)}, 0.02),
    'fractional': ('fmp6_32', {'depth': 4, 'width': 12, 'canvas': 36}, 0.02),
    'vgg11': ('vgg11', {'widths': (8, 16, 24, 32, 32), 'hidden': (64,)}, 0.02),
    'vgg11_bn': ('vgg11_bn', {'widths': (8, 16, 24, 32, 32), 'hidden': (64,)}, 0.05),
    'googlenet': ('googlenet_bn', {'inceptions': (
        ('3a', 8, 8, 12, 4, 8, 4), ('4a', 12, 12, 16, 4, 8, 8), ('5a', 16, 16, 24, 4, 8, 8)),
        'auxiliary_weight': 0.0}, 0.05),
    'mobilenet': ('mobilenet_v1', {'blocks': ((1, 32), (2, 64), (1, 64)), 'stem_width': 16}, 0.05),
    'resnet20': ('resnet20', {'widths': WIDTHS, 'blocks': (2, 2, 2)}, 0.1),
    'resnet_stochastic': ('resnet20', {'widths': WIDTHS, 'blocks': (2, 2, 2), 'survival': 0.5},
                          0.1),
    'preact_resnet': ('preact_resnet110', {'widths': WIDTHS, 'blocks': (2, 2, 2)}, 0.1),
    'densenet': ('densenet_l22_k8', {}, 0.1),
    'fractalnet_plain': ('fractalnet20', {
        'widths': WIDTHS, 'dropout': (0.0,) * 3, 'local_drop_path': 0.0, 'global_drop_path': 0.0},
        0.02),
    'fractalnet': ('fractalnet20', {'widths': WIDTHS, 'dropout': (0.0,) * 3}, 0.02),
}


def get_config(name):
    """The recipe of one of NARROW: the digits scaled to 32 x 32 pixels, 20 epochs and a cosine."""
    config = base.get_config()
    config.model.name, fields, config.learning_rate = NARROW[name]
    config.model.update(fields)
    config.image_size = 32
    config.batch_size = 64
    config.epochs = 20.0
    config.schedule = 'cosine'
    config.nesterov = True
    config.weight_decay = 5e-4
    config.clip_norm = 5.0
    config.report_every = 21
    config.eval_every = 0.0
    config.checkpoint_every = 0.0
    return config
