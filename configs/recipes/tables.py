"""The tables of the papers: their rows, columns and published numbers, as they are printed.

A number that a table does not have is '-'. configs/tables.py trains what is behind the numbers.
"""

from typing import Any, NamedTuple


class Row(NamedTuple):
    """A line of a table."""

    label: str  # as it is printed, with the number of its reference
    published: str | tuple[str, ...]  # the numbers of all columns, as they are printed
    # The recipe, such as 'cifar/nin'; or {setting of columns.py: recipe}, where the key '' stands
    # for all other settings. '' as a recipe: we have no such network.
    recipe: str | dict[str, str] = ''
    fields: dict[str, Any] = {}  # what the row changes in its recipe, {field: value}
    columns: dict[str, dict[str, Any]] = {}  # {setting: what only it changes}
    of: str = ''  # the row whose trainings have these numbers, too; '': its own
    measure: str = ''  # what it takes from an evaluation; '': what the column says
    remark: str = ''  # what a reader must know about it


class Table(NamedTuple):
    """A table of a paper. Its rows have short names, by which a command chooses them."""

    title: str
    source: str
    # {title: (name in columns.SETTINGS, what it takes from an evaluation: 'error', ...)}
    columns: dict[str, tuple[str, str]]
    rows: dict[str, Row]
    remark: str = ''
    ratio: tuple[str, ...] = ()  # a line below: its label, and the rows that it divides
    own: bool = False  # whether it is ours: it has no published numbers, but parameters and times


def _columns(*names, measure='error', **settings):
    return {name: (settings.get(name, name), measure) for name in names}


PLAIN = {'model.dropout': (0.0,) * 5, 'model.local_drop_path': 0.0, 'model.global_drop_path': 0.0}
CONSTANT = {'model.survival': 1.0}
NO_IMAGENET = 'its network for ImageNet is not here'
SEARCH = 'the result of a search over recipes, not a network of its own'
FULL_LAYER = ('published for a full layer in place of the mean; ours is the network of 7.60, on '
              'average 7.69 %')
LEARNED = 'networks with learned activations are not here'
TAUGHT = 'needs a teacher and two trainings, configs/cifar.py:fitnet4_hint and :fitnet4'
# The papers' own best networks, where a table of others does not say which it cites.
NIN, DSN, ALL, ELU = 'cifar/nin', 'cifar/dsn', 'cifar/allcnn_c', 'cifar/elu_net'
POOLING = 'cifar/generalized_pooling_tree'
RECURRENT = {'': 'cifar/recurrent_cnn160', 'SVHN': 'cifar/recurrent_cnn192'}
HIGHWAY, STOCHASTIC = 'cifar/highway19', 'cifar/resnet110_stochastic'
FRACTIONAL = {'C10++': 'cifar/fmp12_160', 'C100++': 'cifar/fmp12_64', 'C100+': 'cifar/fmp12_64'}
# Many tests of all images, only once, at the end.
FRACTIONAL_TESTS = {'C10++': {'model.tests': 100, 'eval_every': 0.0},
                    **{setting: {'model.tests': 12, 'eval_every': 0.0}
                       for setting in ('C100++', 'C100+')}}
WHITENED = {'whiten': True}  # as in the first tables of wide ResNets
# Batches of 64 gave the 4.69 % of ResNet-1001, in the last version of its paper 4.62 %; as many
# epochs as with batches of 128 are our choice.
HALF_BATCHES = {'batch_size': 64, 'steps': 128_000, 'drops': (64_000, 96_000),
                'eval_every': 781.0, 'checkpoint_every': 781.0}

FRACTALNET_1 = Table(
    'FractalNet, Table 1: test error (%) on CIFAR-100, CIFAR-10 and SVHN',
    'Larsson et al. 2016, https://arxiv.org/abs/1605.07648',
    _columns('C100', 'C100+', 'C100++', 'C10', 'C10+', 'C10++', 'SVHN'),
    {
    'nin':               Row('Network in Network [21]',
                             '35.68     -     -  10.41  8.81     -  2.35', NIN),
    'generalized_pooling': Row('Generalized Pooling [17]',
                             '32.37     -     -   7.62  6.05     -  1.69', POOLING),
    'recurrent_cnn':     Row('Recurrent CNN [19]',
                             '31.75     -     -   8.69  7.09     -  1.77', RECURRENT),
    'competitive_multiscale': Row('Competitive Multi-scale [20]',
                             '27.56     -     -   6.87     -     -  1.76',
                             'cifar/competitive_multiscale'),
    'fitnet':            Row('FitNet [27]',
                             '-     35.04     -      -  8.39     -  2.42', remark=TAUGHT),
    'dsn':               Row('Deeply Supervised [18]',
                             '-     34.57     -   9.69  7.97     -  1.92', DSN),
    'allcnn':            Row('All-CNN [30]',
                             '-     33.71     -   9.08  7.25  4.41     -', ALL),
    'highway':           Row('Highway Network [31]',
                             '-     32.39     -      -  7.72     -     -', HIGHWAY,
                             remark=FULL_LAYER),
    'elu':               Row('ELU [2]',
                             '-     24.28     -      -  6.55     -     -', ELU,
                             remark='the paper fine-tunes twice; ours is the training before'),
    'scalable_bo':       Row('Scalable BO [29]',
                             '-         - 27.04      -     -  6.37  1.77', remark=SEARCH),
    'fractional':        Row('Fractional Max-Pooling [5]',
                             '-         - 26.32      -     -  3.47     -', FRACTIONAL,
                             columns=FRACTIONAL_TESTS,
                             remark='averages of 100 and 12 tests'),
    'fitresnet':         Row('FitResNet (LSUV) [23]',
                             '-     27.66     -      -  5.84     -     -',
                             remark='FitNet-4 with residual connections is not here'),
    'resnet110':         Row('ResNet [8]',
                             '-         -     -      -  6.61     -     -', 'cifar/resnet110'),
    'resnet110_constant': Row('ResNet (reported by [11])',
                             '44.76 27.22     -  13.63  6.41     -  2.01', STOCHASTIC, CONSTANT),
    'resnet110_stochastic': Row('ResNet: Stochastic Depth [11]',
                             '37.80 24.58     -  11.66  5.23     -  1.75', STOCHASTIC),
    'preact_resnet1001': Row('ResNet: Identity Mapping [9]',
                             '-     22.68     -      -  4.69     -     -',
                             'cifar/preact_resnet1001', columns={'C10+': HALF_BATCHES}),
    'rir18_wide':        Row('ResNet in ResNet [33]',
                             '-     22.90     -      -  5.01     -     -', 'cifar/rir18_wide'),
    'fractalnet20_plain': Row('FractalNet',
                             '35.34 23.30 22.85  10.18  5.22  5.11  2.01', 'cifar/fractalnet20',
                             PLAIN),
    'fractalnet20':      Row('FractalNet+dropout/drop-path',
                             '28.20 23.73 23.36   7.33  4.60  4.59  1.87', 'cifar/fractalnet20'),
    'deepest_column':    Row('↳ Deepest column alone',
                             '29.05 24.32 23.60   7.27  4.68  4.63  1.89', 'cifar/fractalnet20',
                             of='fractalnet20', measure='column3/error'),
    },
    'C10, C100: CIFAR-10, CIFAR-100; + with translations and mirror images, ++ with more '
    'substantial augmentation.')

STOCHASTIC_DEPTH_COLUMNS = {'CIFAR10+': 'C10+', 'CIFAR100+': 'C100+'}
IMAGENET_STOCHASTIC = {'': STOCHASTIC, 'ImageNet': 'imagenet/resnet152_stochastic'}
STOCHASTIC_DEPTH_1 = Table(
    'Stochastic depth, Table 1: test error (%)',
    'Huang et al. 2016, https://arxiv.org/abs/1603.09382',
    _columns('CIFAR10+', 'CIFAR100+', 'SVHN', 'ImageNet', **STOCHASTIC_DEPTH_COLUMNS),
    {
    'maxout':      Row('Maxout [21]',            '9.38     - 2.47     -',
                       'cifar/maxout'),
    'dropconnect': Row('DropConnect [20]',       '9.32     - 1.94     -', 'cifar/dropconnect'),
    'nin':         Row('Net in Net [24]',        '8.81     - 2.35     -', NIN),
    'dsn':         Row('Deeply Supervised [13]', '7.97     - 1.92 33.70',
                       {'': DSN, 'ImageNet': ''}, remark=NO_IMAGENET),
    'fractional':  Row('Frac. Pool [25]',        '-    27.62    -     -', FRACTIONAL,
                       columns=FRACTIONAL_TESTS,
                       remark='published with more than mirror images and translations'),
    'allcnn':      Row('All-CNN [6]',            '7.25     -    - 41.20',
                       {'': ALL, 'ImageNet': ''}, remark=NO_IMAGENET),
    'learning_activation': Row('Learning Activation [26]', '7.51 30.83 - -', remark=LEARNED),
    'recurrent_cnn': Row('R-CNN [27]',           '7.09     - 1.77     -', RECURRENT),
    'scalable_bo': Row('Scalable BO [28]',       '6.37 27.40 1.77     -', remark=SEARCH),
    'highway':     Row('Highway Network [29]',   '7.60 32.24    -     -', HIGHWAY),
    'generalized_pooling': Row('Gen. Pool [30]', '6.05     - 1.69 28.02',
                               {'': POOLING, 'ImageNet': ''}, remark=NO_IMAGENET),
    'resnet110_constant': Row('ResNet with constant depth', '6.41 27.76 1.80 21.78',
                              IMAGENET_STOCHASTIC, CONSTANT),
    'resnet110_stochastic': Row('ResNet with stochastic depth', '5.25 24.98 1.75 21.98',
                                IMAGENET_STOCHASTIC),
    },
    'ResNets have 110 layers, 152 on SVHN and ImageNet. The paper takes the test error at the '
    'epoch of the lowest validation error; ours is that of the last epoch.')

STOCHASTIC_DEPTH_2 = Table(
    'Stochastic depth, Table 2: training time',
    'Huang et al. 2016, https://arxiv.org/abs/1603.09382',
    _columns('CIFAR10+', 'CIFAR100+', 'SVHN', measure='seconds', **STOCHASTIC_DEPTH_COLUMNS),
    {
    'resnet110_constant': Row('Constant Depth', ('20h 42m', '20h 51m', '33h 43m'), STOCHASTIC,
                              CONSTANT),
    'resnet110_stochastic': Row('Stochastic Depth', ('15h 7m', '15h 20m', '25h 33m'),
                                STOCHASTIC),
    },
    'Ours is the time of the steps, without compilation, evaluations and checkpoints, on the '
    'devices of the run; the paper\'s is that of a GPU of 2016. The ratio compares them.',
    ratio=('Stochastic / Constant', 'resnet110_stochastic', 'resnet110_constant'))

RESNET_6 = Table(
    'ResNet, Table 6: classification error (%) on the CIFAR-10 test set',
    'He et al. 2015, https://arxiv.org/abs/1512.03385',
    {'error (%)': ('C10+', 'error')},
    {
    'maxout':     Row('Maxout [10]',               '9.38', 'cifar/maxout'),
    'nin':        Row('NIN [25]',                  '8.81', NIN),
    'dsn':        Row('DSN [24]',                  '8.22', DSN),
    'fitnet':     Row('FitNet [35], 19 layers',    '8.39', remark=TAUGHT),
    'highway19':  Row('Highway [42, 43], 19 layers', '7.54', 'cifar/highway19',
                      remark=f'the best of several runs, 7.72 ± 0.16; {FULL_LAYER}'),
    'highway32':  Row('Highway [42, 43], 32 layers', '8.80', 'cifar/highway32'),
    'resnet20':   Row('ResNet, 20 layers',         '8.75', 'cifar/resnet20'),
    'resnet32':   Row('ResNet, 32 layers',         '7.51', 'cifar/resnet32'),
    'resnet44':   Row('ResNet, 44 layers',         '7.17', 'cifar/resnet44'),
    'resnet56':   Row('ResNet, 56 layers',         '6.97', 'cifar/resnet56'),
    'resnet110':  Row('ResNet, 110 layers',        '6.43', 'cifar/resnet110',
                      remark='the best of 5 runs, 6.61 ± 0.16'),
    'resnet1202': Row('ResNet, 1202 layers',       '7.93', 'cifar/resnet1202'),
    },
    'All with translations and mirror images.')

DENSENET_2 = Table(
    'DenseNet, Table 2: error rates (%) on CIFAR and SVHN',
    'Huang et al. 2016, https://arxiv.org/abs/1608.06993',
    _columns('C10', 'C10+', 'C100', 'C100+', 'SVHN'),
    {
    'nin':         Row('Network in Network [22]',        '10.41 8.81 35.68     - 2.35', NIN),
    'allcnn':      Row('All-CNN [32]',                    '9.08 7.25     - 33.71    -', ALL),
    'dsn':         Row('Deeply Supervised Net [20]',      '9.69 7.97     - 34.57 1.92', DSN),
    'highway':     Row('Highway Network [34]',               '- 7.72     - 32.39    -', HIGHWAY,
                       remark=FULL_LAYER),
    'fractalnet20_plain': Row('FractalNet [17], 21 layers', '10.18 5.22 35.34 23.30 2.01',
                              'cifar/fractalnet20', PLAIN),
    'fractalnet20': Row('↳ with Dropout/Drop-path',       '7.33 4.60 28.20 23.73 1.87',
                        'cifar/fractalnet20'),
    'resnet110':   Row('ResNet [11], 110 layers',            '- 6.61     -     -    -',
                       'cifar/resnet110'),
    'resnet110_constant': Row('ResNet (reported by [13]), 110 layers',
                              '13.63 6.41 44.74 27.22 2.01', STOCHASTIC, CONSTANT),
    'resnet110_stochastic': Row('ResNet with Stochastic Depth [13], 110 layers',
                                '11.66 5.23 37.80 24.58 1.75', STOCHASTIC),
    'resnet1202_stochastic': Row('↳ 1202 layers',            '- 4.91     -     -    -',
                                 'cifar/resnet1202_stochastic'),
    'wide_resnet16_8': Row('Wide ResNet [42], 16 layers',    '- 4.81     - 22.07    -',
                           'cifar/wide_resnet16_8', WHITENED),
    'wide_resnet28_10': Row('↳ 28 layers',                   '- 4.17     - 20.50    -',
                            'cifar/wide_resnet28_10', WHITENED),
    'wide_resnet16_4': Row('↳ with Dropout, 16 layers',      '-    -     -     - 1.64',
                           'cifar/wide_resnet16_8', {'model.widths': (64, 128, 256)}),
    'preact_resnet164': Row('ResNet (pre-activation) [12], 164 layers',
                            '11.26 5.46 35.58 24.33    -', 'cifar/preact_resnet164'),
    'preact_resnet1001': Row('↳ 1001 layers',             '10.56 4.62 33.47 22.71    -',
                             'cifar/preact_resnet1001', columns={'C10+': HALF_BATCHES}),
    'densenet_l40_k12': Row('DenseNet (k = 12), 40 layers',  '7.00 5.24 27.55 24.42 1.79',
                            'cifar/densenet_l40_k12'),
    'densenet_l100_k12': Row('DenseNet (k = 12), 100 layers', '5.77 4.10 23.79 20.20 1.67',
                             'cifar/densenet_l100_k12'),
    'densenet_l100_k24': Row('DenseNet (k = 24), 100 layers', '5.83 3.74 23.42 19.25 1.59',
                             'cifar/densenet_l100_k24'),
    'densenet_bc_l100_k12': Row('DenseNet-BC (k = 12), 100 layers', '5.92 4.51 24.15 22.27 1.76',
                                'cifar/densenet_bc_l100_k12'),
    'densenet_bc_l250_k24': Row('DenseNet-BC (k = 24), 250 layers', '5.19 3.62 19.64 17.60 1.74',
                                'cifar/densenet_bc_l250_k24'),
    'densenet_bc_l190_k40': Row('DenseNet-BC (k = 40), 190 layers', '-    3.46     - 17.18    -',
                                'cifar/densenet_bc_l190_k40'),
    },
    'C10, C100: CIFAR-10, CIFAR-100; + with translations and mirror images. The errors of '
    'pre-activation ResNets without augmentation are DenseNet\'s own runs.')


def _vgg(label, train, test, top1, top5, name):
    """A row of VGG's Table 3: the side of its training's pictures, one or a range, and of its
    test's."""
    scales = {'shorter_side': train, 'test_scales': (test,)}
    shown = f'[{train[0]};{train[1]}]' if train[0] != train[1] else train[0]
    return Row(f'{label}, S = {shown}, Q = {test}', f'{top1} {top5}', f'imagenet/{name}', scales)


S256, S384, RANGE = (256, 256), (384, 384), (256, 512)
VGG_3 = Table(
    'VGG, Table 3: error (%) on the validation set of ImageNet, at a single test scale',
    'Simonyan & Zisserman 2014, https://arxiv.org/abs/1409.1556',
    {'top-1 val. error (%)': ('ImageNet', 'error'),
     'top-5 val. error (%)': ('ImageNet', 'top5_error')},
    {
    'a':       _vgg('A',     S256,  256, 29.6, 10.4, 'vgg11'),
    'a_lrn':   _vgg('A-LRN', S256,  256, 29.7, 10.5, 'vgg11_lrn'),
    'b':       _vgg('B',     S256,  256, 28.7, 9.9,  'vgg13'),
    'c_256':   _vgg('C',     S256,  256, 28.1, 9.4,  'vgg16c'),
    'c_384':   _vgg('C',     S384,  384, 28.1, 9.3,  'vgg16c'),
    'c_range': _vgg('C',     RANGE, 384, 27.3, 8.8,  'vgg16c'),
    'd_256':   _vgg('D',     S256,  256, 27.0, 8.8,  'vgg16'),
    'd_384':   _vgg('D',     S384,  384, 26.8, 8.7,  'vgg16'),
    'd_range': _vgg('D',     RANGE, 384, 25.6, 8.1,  'vgg16'),
    'e_256':   _vgg('E',     S256,  256, 27.3, 9.0,  'vgg19'),
    'e_384':   _vgg('E',     S384,  384, 26.9, 8.7,  'vgg19'),
    'e_range': _vgg('E',     RANGE, 384, 25.5, 8.0,  'vgg19'),
    },
    'S is the shorter side of the pictures in training, Q in the test.')

ALLCNN = Table(
    'All-CNN, Table 3: test error (%) on CIFAR-10 without augmentation',
    'Springenberg et al. 2014, https://arxiv.org/abs/1412.6806',
    _columns('error rate', **{'error rate': 'C10'}),
    {f'allcnn_{letter}{ending}': Row(form.format(letter.upper()), value,
                                     f'cifar/allcnn_{letter}{ending}')
     for letter, values in (('a', '12.47 13.46 10.21 10.30'), ('b', '10.20 10.98 9.33 9.10'),
                            ('c', '9.74 10.19 9.31 9.08'))
     for (ending, form), value in zip((
         ('_base', 'Model {}'), ('_strided', 'Strided-CNN-{}'), ('_convpool', 'ConvPool-CNN-{}'),
         ('', 'ALL-CNN-{}')), values.split(), strict=True)})

_ROWS = {'lenet5': 'LeNet-5', 'alexnet': 'AlexNet', 'maxout': 'Maxout',
         'dropconnect': 'DropConnect', 'nin': 'Network in Network',
         'generalized_pooling': 'Generalized Pooling', 'recurrent_cnn': 'Recurrent CNN',
         'competitive': 'Competitive Multi-scale', 'fitnet': 'FitNet (LSUV, no teacher)',
         'dsn': 'Deeply Supervised', 'allcnn': 'All-CNN-C', 'highway': 'Highway Network',
         'elu_net': 'ELU', 'fractional': 'Fractional Max-Pooling', 'vgg11': 'VGG-11',
         'vgg11_bn': 'VGG-11 with batch normalization', 'googlenet': 'GoogLeNet',
         'inception_v3': 'Inception v3', 'squeezenet': 'SqueezeNet', 'mobilenet': 'MobileNet',
         'mobilenet_v2': 'MobileNet v2', 'resnet20': 'ResNet',
         'seresnet': 'Squeeze-and-Excitation ResNet',
         'resnet_stochastic': 'ResNet: Stochastic Depth',
         'preact_resnet': 'ResNet: Identity Mapping', 'rir': 'ResNet in ResNet',
         'wide_resnet': 'Wide ResNet', 'densenet': 'DenseNet', 'fractalnet_plain': 'FractalNet',
         'fractalnet': 'FractalNet+drop-path'}
DIGITS = Table(
    'Narrow networks on the digits of scikit-learn: test error (%)',
    'configs/recipes/digits.py', _columns('digits'),
    {**{name: Row(label, '-', f'digits/{name}') for name, label in _ROWS.items()},
     'deepest_column': Row('↳ Deepest column alone', '-', 'digits/fractalnet', of='fractalnet',
                           measure='column3/error')},
    'The networks are narrow and shallow versions of those of the papers, trained on 1,347 '
    'images, for 20 epochs, with rates chosen by hand; one of the 450 test images is 0.22 points. '
    'That they learn can be seen here, but not which is the best. Most networks without batch '
    'normalization start from the weights of LSUV.',
    own=True)

TABLES = {'fractalnet1': FRACTALNET_1, 'stochastic_depth1': STOCHASTIC_DEPTH_1,
          'stochastic_depth2': STOCHASTIC_DEPTH_2, 'resnet6': RESNET_6, 'densenet2': DENSENET_2,
          'vgg3': VGG_3, 'allcnn': ALLCNN, 'digits': DIGITS}
