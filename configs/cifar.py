"""The papers' recipes on CIFAR-10 (32 x 32 colour photographs, 10 classes, 50,000 + 10,000).

    python launch.py --config=configs/prepare.py:cifar10 --workdir=runs/prepare      (once)
    python launch.py --config=configs/cifar.py:resnet20 --workdir=runs/resnet20

PAPER below has the published test errors. configs/reproduce.py trains a recipe with several seeds
and prints the published errors beside its own. Expect ResNets and DenseNets to come within a few
tenths of a percent. No independent port has reached the paper's FractalNet (they report 6.4 % and
more on CIFAR-10+); its weight decay is not published. NIN and All-CNN see whitened images, as in
the papers (global contrast normalization and ZCA: whiten). No paper has errors of fractalnet40 or
of convnet, CS231n's first example. The paper's error of elu_net is that of three trainings with
ever more dropout: elu_net, then elu_net_finetune and elu_net_finetune2, which start from the
weights of the one before: --config.init_from=runs/elu_net. FitNets learn from a teacher, the
network maxout, in two stages: fitnet4_hint with --config.teacher=runs/maxout, then fitnet4 with
the same teacher and --config.init_from=runs/fitnet4_hint; fitnet4_plain does without.

CIFAR-100: --config.dataset=cifar100. Without augmentation: --config.flip=False --config.padding=0;
DenseNets then also --config.model.dropout=0.2. "++" (reflection): --config.padding_mode=reflect.
SVHN: --config=configs/cifar.py:densenet_bc_l100_k12_svhn. configs/tables.py trains whole tables of
the papers with these settings.
"""

from cnnjax.errors import UserError, suggest
from configs import base
from configs.recipes import cifar as recipes

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
WIDE = 'Zagoruyko & Komodakis 2016, Tables 5, 6 and 9, https://arxiv.org/abs/1605.07146'
XIE = 'Xie et al. 2016, Table 7, https://arxiv.org/abs/1611.05431'
DENSE = 'Huang et al. 2016, Table 2, https://arxiv.org/abs/1608.06993'
LARSSON = 'Larsson et al. 2016, Table 1, https://arxiv.org/abs/1605.07648'
LIN = 'Lin et al. 2013, Tables 1 and 2, https://arxiv.org/abs/1312.4400'
ALL = 'Springenberg et al. 2014, Table 3 without augmentation, https://arxiv.org/abs/1412.6806'
HIGHWAY = 'Srivastava et al. 2015, Tables 2 and 3, https://arxiv.org/abs/1507.06228'
CLEVERT = 'Clevert et al. 2015, https://arxiv.org/abs/1511.07289'
LIANG = 'Liang & Hu 2015, section 4, https://doi.org/10.1109/CVPR.2015.7298958'
LIAO = 'Liao & Carneiro 2015, https://arxiv.org/abs/1511.05635'
TARG = 'Targ et al. 2016, Tables 1 and 2, https://arxiv.org/abs/1603.08029'
GOODFELLOW = 'Goodfellow et al. 2013, Tables 3 to 6, https://arxiv.org/abs/1302.4389'
WAN = 'Wan et al. 2013, section 6, https://proceedings.mlr.press/v28/wan13.html'
SUPERVISED = 'Lee et al. 2014, section 4, https://arxiv.org/abs/1409.5185'
ROMERO = 'Romero et al. 2014, Tables 1 to 3, https://arxiv.org/abs/1412.6550'
MISHKIN = 'Mishkin & Matas 2015, https://arxiv.org/abs/1511.06422'
POOLING = 'Lee et al. 2016, Table 1, https://arxiv.org/abs/1509.08985'
THREE = 'mean of 3 runs'
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
    'resnet110_stochastic': row(5.25, 24.98, 11.66, 37.80, 1.75, source=HUANG,
                                measured=BEST_VALIDATION),
    'resnet1202_stochastic': row(4.91, source=HUANG, measured=BEST_VALIDATION),
    'preact_resnet110':     row(6.37, source=PREACT, measured=MEDIAN),
    'preact_resnet164':     row(5.46, 24.33, source=PREACT, measured=MEDIAN),
    'preact_resnet1001':    row(4.92, 22.71, source=PREACT, measured=MEDIAN + '; means '
                                '4.89 +- 0.14 on CIFAR-10+, 22.68 +- 0.22 on CIFAR-100+'),
    'wide_resnet40_4':      row(X, X, X, X,     X, 4.53, 21.18, source=WIDE, measured=MEDIAN),
    'wide_resnet16_8':      row(X, X, X, X,  1.54, 4.27, 20.43, source=WIDE, measured=MEDIAN
                                + ' on CIFAR; on SVHN a single run, with a dropout of 0.4'),
    'wide_resnet28_10':     row(X, X, X, X,     X, 4.00, 19.25, source=WIDE, measured=MEDIAN
                                + '; with a dropout of 0.3 3.89 and 18.85'),
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
    'highway19':            row(7.60, 32.24, source=HIGHWAY, measured='best of 5 runs; means '
                                '7.69 +- 0.12 on CIFAR-10+, 32.39 +- 0.15 on CIFAR-100+; with '
                                'a full layer instead of the mean 7.54, on average 7.72 +- 0.16'),
    'highway32':            row(8.80, source=HIGHWAY),
    'elu_net':              row(6.55, 24.28, source=CLEVERT + ', Table 1',
                                measured='after both fine-tunings'),
    'elu_net11':            row(   X, 28.75, source=CLEVERT + ', section 4.2',
                                measured='mean of 10 runs, +- 0.24'),
    'recurrent_cnn96':      row(7.37,  X,     9.31, 34.18, source=LIANG),
    'recurrent_cnn128':     row(7.24,  X,     8.98, 32.59, 1.87, source=LIANG),
    'recurrent_cnn160':     row(7.09,  X,     8.69, 31.75, 1.80, source=LIANG),
    'recurrent_cnn192':     row(   X,  X,        X,     X, 1.77, source=LIANG),
    'competitive_multiscale': row( X,  X,     6.87, 27.56, 1.76, source=LIAO),
    'rir18_wide':           row(5.01, 22.90, source=TARG),
    'maxout':               row(9.38,  X,    11.68, 38.57, 2.47, source=GOODFELLOW),
    'dropconnect':          row(9.32,  X,        X,     X, 1.94, source=WAN,
                                measured='12 networks vote on CIFAR-10, 5 on SVHN; one network: '
                                '11.10 +- 0.13 and 2.23 +- 0.04'),
    'fitnet3':              row(   X,  X,       X,    X, 2.42, source=ROMERO),
    'fitnet4':              row(8.39, 35.04, source=ROMERO),
    'fitnet4_plain':        row(6.06, 29.96, source=MISHKIN),
    'dsn':                  row(7.97,  X,     9.69, 34.57, 1.92, source=SUPERVISED),
    'generalized_pooling_mixed': row(6.62, X, 8.09, 33.51, 1.77, source=POOLING, measured=THREE),
    'generalized_pooling_gated': row(6.36, X, 7.90, 33.22, 1.74, source=POOLING, measured=THREE),
    'generalized_pooling_tree':  row(6.05, X, 7.62, 32.37, 1.69, source=POOLING, measured=THREE),
}
# The networks that have a recipe, beside any densenet_... and resnet..._stochastic.
RECIPES = (*PAPER, 'fractalnet40', 'fractalnet_slim5', 'fractalnet_slim10', 'fractalnet_slim20',
           'fractalnet_slim40', 'fractalnet_slim80', 'fractalnet_slim160', 'fmp12_160', 'fmp12_64',
           'convnet', 'elu_net_finetune', 'elu_net_finetune2', 'fitnet1', 'fitnet2',
           'fitnet1_hint', 'fitnet2_hint', 'fitnet3_hint', 'fitnet4_hint')

# The recipe of a network is that of the longest of these names with which its own begins.
FAMILIES = {
    'resnet': recipes.resnet,
    'preact_resnet': recipes.resnet,
    'stochastic_depth': recipes.stochastic_depth,  # resnet..._stochastic
    'wide_resnet': recipes.wide_resnet,
    'resnext29': recipes.resnext,
    'densenet': recipes.densenet,
    'fractalnet': recipes.fractalnet,
    'nin': recipes.nin,
    'allcnn': recipes.allcnn,
    'fmp12': recipes.fractional,
    'convnet': recipes.convnet,
    'highway': recipes.highway,
    'elu_net': recipes.elu_net,
    'elu_net11': recipes.elu_net11,
    'elu_net_finetune': recipes.elu_net_finetune,
    'elu_net_finetune2': recipes.elu_net_finetune2,
    'recurrent_cnn': recipes.recurrent_cnn,
    'competitive': recipes.competitive,
    'rir': recipes.rir,
    'maxout': recipes.maxout,
    'dropconnect': recipes.dropconnect,
    'dsn': recipes.dsn,
    'generalized_pooling': recipes.generalized_pooling,
    'fitnet': recipes.fitnet,
}


def get_config(network='resnet20'):
    config = base.get_config()
    config.dataset = 'cifar10'
    network, svhn = network.removesuffix('_svhn'), network.endswith('_svhn')
    known = network.removesuffix('_stochastic' if network.startswith('resnet') else '') in RECIPES
    if not (known or network.startswith('densenet_')):
        raise UserError(f"no recipe for '{network}' on CIFAR: take {', '.join(RECIPES)}, another "
                        f'densenet_... or resnet..._stochastic{suggest(network, RECIPES)}')
    config.model.name = network
    for ending in ('_stochastic', '_finetune', '_finetune2', '_hint', '_plain'):
        config.model.name = config.model.name.removesuffix(ending)
    config.flip = True
    config.padding = 4
    config.eval_every = 1.0
    recipe = 'stochastic_depth' if network.endswith('_stochastic') else max(
        (family for family in FAMILIES if network.startswith(family)), key=len)
    FAMILIES[recipe](config)
    if network.startswith('fitnet'):
        recipes.STAGES[network.partition('_')[2]](config)
    if svhn:
        recipes.street_view(config)
    return config
