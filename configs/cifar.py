"""The papers' recipes on CIFAR-10 (32 x 32 colour photographs, 10 classes, 50,000 + 10,000).

    python launch.py --config=configs/prepare.py:cifar10 --workdir=runs/prepare      (once)
    python launch.py --config=configs/cifar.py:resnet20 --workdir=runs/resnet20

Test error in %, as published, with flips and translations ("+"), on one crop:

    argument               CIFAR-10   CIFAR-100   parameters   source
    resnet20                   8.75                 0.27 M     He et al. 2015, Table 6
    resnet32                   7.51                 0.46 M
    resnet44                   7.17                 0.66 M
    resnet56                   6.97                 0.85 M
    resnet110      6.61 +- 0.16 (best 6.43)         1.7 M
    resnet1202                 7.93                19.4 M
    resnet110_stochastic       5.25      24.98      1.7 M      Huang et al. 2016, Table 1: resnet110
    resnet1202_stochastic      4.91                19.4 M      with stochastic depth (and so on)
    preact_resnet110           6.37                 1.7 M      He et al. 2016, medians of 5 runs
    preact_resnet164           5.46      24.33      1.7 M
    preact_resnet1001          4.92      22.71     10.3 M
    resnext29_8x64d            3.65      17.77     34.4 M      Xie et al. 2016, Table 7
    resnext29_16x64d           3.58      17.31     68.2 M
    densenet_l40_k12           5.24      24.42      1.0 M      Huang et al. 2016, Table 2
    densenet_l100_k12          4.10      20.20      7.0 M
    densenet_l100_k24          3.74      19.25     27.2 M
    densenet_bc_l100_k12       4.51      22.27      0.8 M
    densenet_bc_l250_k24       3.62      17.60     15.3 M
    densenet_bc_l190_k40       3.46      17.18     25.6 M
    fractalnet20               4.60      23.73     33.7 M      Larsson et al. 2016, Table 1
      its deepest column       4.68      24.32     20.4 M
    fractalnet40               (not in the table)  76.1 M
    nin                        8.81                 0.97 M     Lin et al. 2013, Tables 1 and 2
    allcnn_c                   7.25      33.71      1.4 M      Springenberg et al. 2014
    convnet                    (a first example)    0.03 M     CS231n

Without augmentation on CIFAR-10: nin 10.41 (35.68 on CIFAR-100) and, in Table 3 of the All-CNN
paper, for its networks and their forms (allcnn_a, allcnn_a_base, allcnn_a_strided, ...):

    argument     (none)    _base   _strided   _convpool
    allcnn_a      10.30    12.47      13.46       10.21
    allcnn_b       9.10    10.20      10.98        9.33
    allcnn_c       9.08     9.74      10.19        9.31

Expect the ResNets and DenseNets within a few tenths of these. The FractalNet row is the one that
independent ports have not reached (they report 6.4 % and more); its weight decay is not published.
NIN and All-CNN saw whitened images (global contrast normalization and ZCA), which these recipes
do not make.

CIFAR-100: --config.dataset=cifar100. Without augmentation: --config.flip=False --config.padding=0;
DenseNets then also --config.model.dropout=0.2. "++" (reflection): --config.padding_mode=reflect.
SVHN: --config.dataset=svhn_cropped --config.train_split=train+extra --config.flip=False
--config.padding=0 and --config.epochs=40 --config.drops=20,30 (DenseNet).
"""

from configs import base


def get_config(network='resnet20'):
    config = base.get_config()
    config.dataset = 'cifar10'
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
    elif network == 'convnet':
        convnet(config)
    else:
        raise ValueError(f"no recipe for '{network}' on CIFAR: resnet20 ... resnet1202, "
                         'resnet110_stochastic, preact_resnet110 ..., resnext29_8x64d, '
                         'fractalnet20, fractalnet40, densenet_l40_k12 ... densenet_bc_l100_k12, '
                         'nin, allcnn_a ... allcnn_c_convpool, convnet')
    return config


def resnet(config):
    """He et al. 2015, section 4.2: 64,000 iterations; the mean image is subtracted."""
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
    at the epoch of the lowest validation error (--config.train_split='train[:45000]')."""
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
    """Xie et al. 2016, section 5.3; batch as recommended in github.com/facebookresearch/ResNeXt."""
    config.batch_size = 128
    config.epochs = 300.0
    config.learning_rate = 0.1
    config.drops = (150, 225)
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

    Biases learn twice as fast and do not decay, as in the authors' Caffe network. Their weight
    decay is not known; 1e-4 is that of a solver published for it by others.
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
    """Lin et al. 2013, section 4.1: the rate falls twice to a tenth, when the training stalls. The
    paper gives no rate, decay or length; these are ours."""
    config.batch_size = 128
    config.epochs = 250.0
    config.learning_rate = 0.05
    config.drops = (150, 200)
    config.weight_decay = 1e-4
    config.order = 'caffe'


def allcnn(config):
    """Springenberg et al. 2014, section 3.1: translations of up to 5 pixels. The paper chooses each
    network's rate among 0.25, 0.1, 0.05 and 0.01; the size of its batches is not stated."""
    config.padding = 5
    config.batch_size = 128
    config.epochs = 350.0
    config.learning_rate = 0.05
    config.drops = (200, 250, 300)
    config.weight_decay = 1e-3
    config.order = 'caffe'


def convnet(config):
    """The example has no recipe; this one is short."""
    config.epochs = 20.0
    config.learning_rate = 0.01
    config.drops = (15,)
