"""Narrow and shallow versions of the networks, and one short training for all of them, on the
digits of scikit-learn. No paper has them: sizes and lengths are our choice."""

from configs import base

WIDTHS = (8, 16, 32)
MLPCONV = ((16, 12, 12), (16, 16, 16), (16, 16))  # Network in Network's
# {name: (network, its fields, learning rate)}. The rates, and where dropout is left out, are chosen
# by hand, so that each network learns.
NARROW = {
    'lenet5': ('lenet5', {}, 0.05),
    'alexnet': ('alexnet', {'widths': (16, 24, 32, 32, 24), 'hidden': (64, 64), 'dropout': 0.0},
                0.02),
    'inception_v3': ('inception_v3', {'width_multiplier': 1 / 16, 'mixed': ('5b', '6a', '6b'),
                                      'auxiliary_weight': 0.0}, 0.1),
    'nin': ('nin', {'widths': MLPCONV, 'dropout': 0.0}, 0.02),
    'maxout': ('maxout', {'widths': (12, 16, 16), 'hidden': (24,), 'input_dropout': 0.0,
                          'dropout': 0.0}, 0.01),
    'dropconnect': ('dropconnect', {'widths': (16, 16, 16, 16), 'hidden': (32,), 'tests': 10},
                    0.02),
    'dsn': ('dsn', {'widths': MLPCONV, 'dropout': 0.0}, 0.01),
    'generalized_pooling': ('generalized_pooling_tree', {'widths': MLPCONV, 'dropout': 0.0}, 0.01),
    'competitive': ('competitive_multiscale', {'widths': MLPCONV, 'dropout': 0.0}, 0.05),
    'fitnet': ('fitnet4', {'widths': ((8,) * 4, (12,) * 4, (16,) * 3), 'hidden': (24,),
                           'pieces': (2, 2)}, 0.005),
    'highway': ('highway19', {'widths': (8, 12, 16)}, 0.1),
    'elu_net': ('elu_net', {'widths': ((16,), (16, 24), (24, 32)), 'sizes': ((3,), (1, 3), (1, 3)),
                            'dropout': (0.0, 0.0, 0.0)}, 0.02),
    'squeezenet': ('squeezenet1_1', {'stem_width': 16, 'fires': ((8, 16), (16, 32)),
                                     'pools': (1, 2), 'dropout': 0.0}, 0.01),
    'mobilenet_v2': ('mobilenet_v2', {'blocks': ((1, 8, 1, 1), (4, 16, 1, 2), (4, 24, 1, 2)),
                                      'stem_width': 16, 'last_width': 64}, 0.05),
    'seresnet': ('resnet20', {'widths': WIDTHS, 'blocks': (2, 2, 2), 'reduction': 4}, 0.1),
    'recurrent_cnn': ('recurrent_cnn96', {'width': 24, 'iterations': 2, 'dropout': 0.0}, 0.02),
    'allcnn': ('allcnn_c', {'widths': (16, 32), 'input_dropout': 0.0}, 0.05),
    'fractional': ('fmp6_32', {'depth': 3, 'width': 16, 'canvas': 24}, 0.05),
    'vgg11': ('vgg11', {'widths': (8, 16, 24, 32, 32), 'hidden': (64,)}, 0.05),
    'vgg11_bn': ('vgg11_bn', {'widths': (8, 16, 24, 32, 32), 'hidden': (64,)}, 0.05),
    'googlenet': ('googlenet_bn', {'inceptions': (
        ('3a', 8, 8, 12, 4, 8, 4), ('4a', 12, 12, 16, 4, 8, 8), ('5a', 16, 16, 24, 4, 8, 8)),
        'auxiliary_weight': 0.0}, 0.05),
    'mobilenet': ('mobilenet_v1', {'blocks': ((1, 32), (2, 64), (1, 64)), 'stem_width': 16}, 0.05),
    'resnet20': ('resnet20', {'widths': WIDTHS, 'blocks': (2, 2, 2)}, 0.1),
    'resnet_stochastic': ('resnet20', {'widths': WIDTHS, 'blocks': (2, 2, 2), 'survival': 0.5},
                          0.1),
    'preact_resnet': ('preact_resnet110', {'widths': WIDTHS, 'blocks': (2, 2, 2)}, 0.1),
    'rir': ('rir18_wide', {'widths': (8, 16), 'blocks': (1, 1)}, 0.1),
    'wide_resnet': ('wide_resnet16_8', {'widths': (16, 32, 64), 'blocks': (1, 1, 1)}, 0.1),
    'densenet': ('densenet_l22_k8', {}, 0.1),
    'fractalnet_plain': ('fractalnet20', {
        'widths': WIDTHS, 'dropout': (0.0,) * 3, 'local_drop_path': 0.0, 'global_drop_path': 0.0},
        0.02),
    'fractalnet': ('fractalnet20', {'widths': WIDTHS, 'dropout': (0.0,) * 3}, 0.02),
}

# These networks without batch normalization start from LSUV's weights (cnnjax/lsuv.py): with their
# own, which are made for the papers' widths, some of the narrow ones do not learn.
LSUV = ('alexnet', 'nin', 'maxout', 'dropconnect', 'dsn', 'generalized_pooling', 'fitnet',
        'elu_net', 'squeezenet', 'allcnn', 'vgg11', 'fractional', 'recurrent_cnn')
# {name: side of the images}, where 16 pixels would be halved too often.
SIDES = {'lenet5': 32, 'vgg11': 32, 'vgg11_bn': 32, 'googlenet': 32, 'squeezenet': 32,
         'alexnet': 67, 'inception_v3': 75}


def get_config(name):
    """The recipe of one of NARROW: the digits scaled to 16 x 16 pixels, or to more where a network
    needs them, 20 epochs and a cosine."""
    config = base.get_config()
    config.model.name, fields, config.learning_rate = NARROW[name]
    config.model.update(fields)
    config.image_size = SIDES.get(name, 16)
    config.init = 'lsuv' if name in LSUV else 'network'
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
