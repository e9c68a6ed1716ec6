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
    densenet_l40_k12           5.24      24.42      1.0 M      Huang et al. 2016, Table 2
    densenet_l100_k12          4.10      20.20      7.0 M
    densenet_l100_k24          3.74      19.25     27.2 M
    densenet_bc_l100_k12       4.51      22.27      0.8 M
    densenet_bc_l250_k24       3.62      17.60     15.3 M
    densenet_bc_l190_k40       3.46      17.18     25.6 M
    fractalnet20               4.60      23.73     33.7 M      Larsson et al. 2016, Table 1
      its deepest column       4.68      24.32     20.4 M
    fractalnet40               (not in the table)  76.1 M

Expect the ResNets and DenseNets within a few tenths of these. The FractalNet row is the one that
independent ports have not reached (they report 6.4 % and more); its weight decay is not published.

CIFAR-100: --config.dataset=cifar100. Without augmentation: --config.flip=False --config.padding=0;
DenseNets then also --config.model.dropout=0.2. "++" (reflection): --config.padding_mode=reflect.
SVHN: --config.dataset=svhn_cropped --config.train_split=train+extra --config.flip=False
--config.padding=0 and --config.epochs=40 --config.drops=20,30 (DenseNet).
"""

from configs import base


def get_config(network='resnet20'):
    config = base.get_config()
    config.dataset = 'cifar10'
    config.model.name = network
    config.flip = True
    config.padding = 4
    config.eval_every = 1.0
    if network.startswith('resnet'):
        resnet(config)
    elif network.startswith('densenet'):
        densenet(config)
    elif network.startswith('fractalnet'):
        fractalnet(config)
    else:
        raise ValueError(f"no recipe for '{network}' on CIFAR: resnet20 ... resnet110, "
                         'fractalnet20, fractalnet40, densenet_l40_k12 ... densenet_bc_l100_k12')
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
    if config.model.name == 'resnet110':  # the paper: until the training error is below 80 %
        config.warmup = 400.0
        config.warmup_rate = 0.01


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
