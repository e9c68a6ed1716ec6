"""The papers' recipes on CIFAR-10 (32 x 32 colour photographs, 10 classes, 50,000 + 10,000).

    python launch.py --config=configs/prepare.py:cifar10 --workdir=runs/prepare      (once)
    python launch.py --config=configs/cifar.py:resnet20 --workdir=runs/resnet20

PAPER below has the published test errors. configs/reproduce.py trains a recipe with several seeds
and prints the published errors beside its own. Expect ResNets and DenseNets to come within a few
tenths of a percent. No independent port has reached the paper's FractalNet (they report 6.4 % and
more on CIFAR-10+); its weight decay is not published. NIN and All-CNN see whitened images, as in
the papers (global contrast normalization and ZCA: whiten). No paper has errors of fractalnet40 or
of convnet, CS231n's first example.

CIFAR-100: --config.dataset=cifar100. Without augmentation: --config.flip=False --config.padding=0;
DenseNets then also --config.model.dropout=0.2. "++" (reflection): --config.padding_mode=reflect.
SVHN, for DenseNets, FractalNets and NIN: --config=configs/cifar.py:densenet_bc_l100_k12_svhn.
"""

from cnnjax.errors import UserError, suggest
from configs import base

# Names of data sets: "+" adds flips and translations, "++" fills their borders by reflection.
SETTINGS = ('cifar10+', 'cifar100+', 'cifar10', 'cifar100', 'svhn_cropped', 'cifar10++',
            'cifar100++')


def row(*errors, source, measured='', **others):
    """Published test errors in %, in the order of SETTINGS, where they are published."""
    def named(values):
        return {setting: value for setting, value in zip(SETTINGS, values, strict=False)
                if value is not None}

    return {'source': source, 'measured': measured, 'error': named(errors),
            **{f'{column}/error': named(values) for column, values in others.items()}}


HE = 'He et al. 2015, Table 6, https://arxiv.org/abs/1512.03385'
HUANG = 'Huang et al. 2016, Table 1, https://arxiv.org/abs/1603.09382'
PREACT = 'He et al. 2016, https://arxiv.org/abs/1603.05027'
XIE = 'Xie et al. 2016, Table 7, https://arxiv.org/abs/1611.05431'
DENSE = 'Huang et al. 2016, Table 2, https://arxiv.org/abs/1608.06993'
LARSSON = 'Larsson et al. 2016, Table 1, https://arxiv.org/abs/1605.07648'
LIN = 'Lin et al. 2013, Tables 1 and 2, https://arxiv.org/abs/1312.4400'
ALL = 'Springenberg et al. 2014, Table 3 without augmentation, https://arxiv.org/abs/1412.6806'
BEST_VALIDATION = 'at the epoch of the lowest validation error'
MEDIAN = 'median of 5 runs'
TEN = 'mean of 10 runs, of pre-activation bottlenecks with batches of 256'
X = None

PAPER = {
    #                           C10+  C100+    C10   C100  SVHN  C10++ C100++
    'resnet20':             row(8.75, source=HE),
    'resnet32':             row(7.51, source=HE),
    'resnet44':             row(7.17, source=HE),
    'resnet56':             row(6.97, source=HE),
    'resnet110':            row(6.61, source=HE,
                                measured='mean of 5 runs, +- 0.16; the best of them 6.43'),
    'resnet1202':           row(7.93, source=HE),
    'resnet110_stochastic': row(5.25, 24.98, 11.66, 37.80, source=HUANG, measured=BEST_VALIDATION),
    'resnet1202_stochastic': row(4.91, source=HUANG, measured=BEST_VALIDATION),
    'preact_resnet110':     row(6.37, source=PREACT, measured=MEDIAN),
    'preact_resnet164':     row(5.46, 24.33, source=PREACT, measured=MEDIAN),
    'preact_resnet1001':    row(4.92, 22.71, source=PREACT, measured=MEDIAN + '; means '
                                '4.89 +- 0.14 on CIFAR-10+, 22.68 +- 0.22 on CIFAR-100+'),
    'resnext29_8x64d':      row(3.65, 17.77, source=XIE, measured=TEN),
    'resnext29_16x64d':     row(3.58, 17.31, source=XIE, measured=TEN),
    'densenet_l40_k12':     row(5.24, 24.42,  7.00, 27.55, 1.79, source=DENSE),
    'densenet_l100_k12':    row(4.10, 20.20,  5.77, 23.79, 1.67, source=DENSE),
    'densenet_l100_k24':    row(3.74, 19.25,  5.83, 23.42, 1.59, source=DENSE),
    'densenet_bc_l100_k12': row(4.51, 22.27,  5.92, 24.15, 1.76, source=DENSE),
    'densenet_bc_l250_k24': row(3.62, 17.60,  5.19, 19.64, 1.74, source=DENSE),
    'densenet_bc_l190_k40': row(3.46, 17.18, source=DENSE),
    'fractalnet20':         row(4.60, 23.73,  7.33, 28.20, 1.87, 4.59, 23.36, source=LARSSON,
                        column3=(4.68, 24.32,  7.27, 29.05, 1.89, 4.63, 23.60)),
    'nin':                  row(8.81,  X,    10.41, 35.68, 2.35, source=LIN),
    'allcnn_a':             row(   X,  X,    10.30, source=ALL),
    'allcnn_a_base':        row(   X,  X,    12.47, source=ALL),
    'allcnn_a_strided':     row(   X,  X,    13.46, source=ALL),
    'allcnn_a_convpool':    row(   X,  X,    10.21, source=ALL),
    'allcnn_b':             row(   X,  X,     9.10, source=ALL),
    'allcnn_b_base':        row(   X,  X,    10.20, source=ALL),
    'allcnn_b_strided':     row(   X,  X,    10.98, source=ALL),
    'allcnn_b_convpool':    row(   X,  X,     9.33, source=ALL),
    'allcnn_c':             row(7.25, 33.71,  9.08, source=ALL),
    'allcnn_c_base':        row(   X,  X,     9.74, source=ALL),
    'allcnn_c_strided':     row(   X,  X,    10.19, source=ALL),
    'allcnn_c_convpool':    row(   X,  X,     9.31, source=ALL),
}
# The networks that have a recipe, beside any densenet_... and resnet..._stochastic.
RECIPES = (*PAPER, 'fractalnet40', 'fractalnet_slim5', 'fractalnet_slim10', 'fractalnet_slim20',
           'fractalnet_slim40', 'fractalnet_slim80', 'fractalnet_slim160', 'convnet')


def get_config(network='resnet20'):
    config = base.get_config()
    config.dataset = 'cifar10'
    network, svhn = network.removesuffix('_svhn'), network.endswith('_svhn')
    known = network.removesuffix('_stochastic' if network.startswith('resnet') else '') in RECIPES
    if not (known or network.startswith('densenet_')):
        raise UserError(f"no recipe for '{network}' on CIFAR: take {', '.join(RECIPES)}, another "
                        f'densenet_... or resnet..._stochastic{suggest(network, RECIPES)}')
    config.model.name = network.removesuffix('_stochastic')
    config.flip = True
    config.padding = 4
    config.eval_every = 1.0
    if network.startswith('resnet') and network.endswith('_stochastic'):
        stochastic_depth(config)
    elif network.startswith(('resnet', 'preact_resnet')):
        resnet(config)
    elif network.startswith('resnext29'):
        resnext(config)
    elif network.startswith('densenet'):
        densenet(config)
    elif network.startswith('fractalnet'):
        fractalnet(config)
    elif network == 'nin':
        nin(config)
    elif network.startswith('allcnn'):
        allcnn(config)
    else:
        convnet(config)
    if svhn:
        street_view(config)
    return config


def street_view(config):
    """SVHN has 604,388 images and is not augmented. DenseNet only divides them by 255, uses dropout
    and trains for 40 epochs (section 4.2). FractalNet trains for 20 (section 4.1), and its rate
    falls as on CIFAR. NIN's paper gives no length; its local contrast normalization is left out."""
    config.dataset, config.train_split = 'svhn_cropped', 'train+extra'
    config.flip, config.padding, config.whiten = False, 0, False
    if config.model.name.startswith('densenet'):
        config.mean, config.std = '0', '1'
        config.model.dropout = 0.2
        config.epochs = 40.0
        config.drops = (20, 30)
    elif config.model.name.startswith('fractalnet'):
        config.epochs = 20.0
        config.drops = (10, 15, 17.5, 18.75)
    elif config.model.name != 'nin':
        raise ValueError(f"no recipe for '{config.model.name}' on SVHN: densenet_..., fractalnet20 "
                         'or nin')


def resnet(config):
    """He et al. 2015, section 4.2: 64,000 steps on images less the mean image."""
    config.mean, config.std = 'pixel', 'none'
    config.batch_size = 128
    config.steps = 64_000
    config.learning_rate = 0.1
    config.drops = (32_000, 48_000)
    config.weight_decay = 1e-4
    config.order = 'caffe'
    config.eval_every = config.checkpoint_every = 390.0  # steps: an epoch
    if config.model.name not in ('resnet20', 'resnet32', 'resnet44', 'resnet56'):
        config.warmup = 400.0  # the paper: until the training error is below 80 %
        config.warmup_rate = 0.01
    if config.model.name in ('resnet1202', 'preact_resnet1001'):
        config.model.scan = config.model.remat = True


def stochastic_depth(config):
    """Huang et al. 2016, section 4: the linear rule to p_L = 0.5. The paper reports the test error
    at the epoch of the lowest validation error (--config.train_split='train[:45000]' and
    --config.val_split='train[45000:]')."""
    config.mean, config.std = 'pixel', 'scalar'
    config.batch_size = 128
    config.epochs = 500.0
    config.learning_rate = 0.1
    config.drops = (250, 375)
    config.nesterov = True
    config.weight_decay = 1e-4
    config.model.survival = 0.5
    if config.model.name == 'resnet1202':
        config.epochs = 300.0
        config.drops = (150, 225)
        config.warmup = 10.0
        config.warmup_rate = 0.01
        config.model.scan = config.model.remat = True


def resnext(config):
    """Xie et al. 2016, section 5.3; batch and Nesterov's momentum as in the authors' code,
    https://github.com/facebookresearch/ResNeXt."""
    config.batch_size = 128
    config.epochs = 300.0
    config.learning_rate = 0.1
    config.drops = (150, 225)
    config.nesterov = True
    config.weight_decay = 5e-4


def densenet(config):
    """Huang et al. 2016, section 4.2."""
    config.batch_size = 64
    config.epochs = 300.0
    config.learning_rate = 0.1
    config.drops = (150, 225)
    config.nesterov = True
    config.weight_decay = 1e-4


def fractalnet(config):
    """Larsson et al. 2016, section 4.1: the rate falls whenever the epochs left have halved.

    Biases learn twice as fast and do not decay, as in the authors' Caffe network. The authors'
    weight decay is not known; 1e-4 is from a solver file that others published.
    """
    config.mean, config.std = 'pixel', 'none'
    config.batch_size = 100
    config.epochs = 400.0
    config.learning_rate = 0.02
    config.drops = (200, 300, 350, 375)
    config.weight_decay = 1e-4
    config.decay = 'kernels'
    config.bias_rate = 2.0
    config.order = 'caffe'


def nin(config):
    """Lin et al. 2013, sections 4.1 and 4.2: images whitened as Maxout's; the rate falls to a tenth
    twice, when the training stalls. The paper gives no rate, decay or length; ours are a choice."""
    config.whiten = True
    config.batch_size = 128
    config.epochs = 250.0
    config.learning_rate = 0.05
    config.drops = (150, 200)
    config.weight_decay = 1e-4
    config.order = 'caffe'


def allcnn(config):
    """Springenberg et al. 2014, section 3.1: whitened images, and translations of up to 5 pixels,
    which fill the borders with their mean. The paper chooses each network's rate among 0.25, 0.1,
    0.05 and 0.01; the size of its batches is not stated."""
    config.whiten = True
    config.padding = 5
    config.batch_size = 128
    config.epochs = 350.0
    config.learning_rate = 0.05
    config.drops = (200, 250, 300)
    config.weight_decay = 1e-3
    config.order = 'caffe'


def convnet(config):
    """CS231n publishes no recipe; this short one is ours."""
    config.epochs = 20.0
    config.learning_rate = 0.01
    config.drops = (15,)
