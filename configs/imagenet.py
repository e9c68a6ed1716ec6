"""The papers' recipes on ImageNet (ILSVRC-2012, 1,000 classes, 1,281,167 + 50,000 photographs).

    python launch.py --config=configs/prepare.py:imagenet2012 --workdir=runs/prepare   (says how)
    python launch.py --config=configs/imagenet.py:resnet50 --workdir=runs/resnet50

Published validation error in %, top-1 / top-5, and how it was measured. `launch.py` reports the
middle 224 x 224 crop of the picture scaled to 256 pixels ("one crop"):

    argument       top-1 / top-5   measured on              source
    alexnet        40.7 / 18.2     10 crops                 Krizhevsky et al. 2012, Table 2
    vgg11          29.6 / 10.4     the whole picture, 256   Simonyan & Zisserman 2014, Table 3
    vgg11_lrn      29.7 / 10.5     the whole picture, 256
    vgg13          28.7 /  9.9     the whole picture, 256
    vgg16c         27.3 /  8.8     the whole picture, 384
    vgg16          25.6 /  8.1     the whole picture, 384
    vgg19          25.5 /  8.0     the whole picture, 384
    resnet18       27.88           10 crops, shortcut A     He et al. 2015, Tables 2 and 3
    resnet34       24.52 /  7.46   10 crops
    resnet50       24.7  /  7.8    one crop                 github.com/KaimingHe
    resnet101      23.6  /  7.1    one crop
    resnet152      23.0  /  6.7    one crop
    resnext50_32x4d  22.2          one crop                 Xie et al. 2016, Table 3 and
    resnext101_32x4d 21.2          one crop                 github.com/facebookresearch/ResNeXt
    resnext101_64x4d 20.4          one crop
    preact_resnet200 20.7 / 5.3    one crop of 320          He et al. 2016, Table 5
    densenet121    25.02 /  7.71   one crop                 Huang et al. 2016, Table 3
    densenet169    23.80 /  6.85   one crop
    densenet201    22.58 /  6.34   one crop
    densenet161    22.2            one crop                 github.com/liuzhuang13/DenseNet
    googlenet              10.07   one crop                 Szegedy et al. 2014, Table 3
    googlenet_bn   30.22 / 10.47   one crop                 torchvision
    mobilenet_v1   29.4            one crop                 Howard et al. 2017, Tables 6 and 7;
    mobilenet_v1_075 31.6, _050 36.3, _025 49.4             192 pixels 30.9, 160 32.8, 128 35.6
    fractalnet34   24.12 /  7.39   10 crops                 Larsson et al. 2016, Table 2

alexnet_ungrouped has no published error; alexnet_tv is torchvision's (43.48 / 20.93, one crop).
vgg11_bn ... vgg19_bn are torchvision's, not the paper's. On accelerators add
--config.dtype=bfloat16. Where VGG and ResNet lower the rate when the error stalls, these recipes
do so at fixed epochs.
"""

from configs import base


def get_config(network='resnet50'):
    config = base.get_config()
    config.dataset = 'imagenet2012'
    config.test_split = 'validation'
    config.model.name = network
    config.stream = True
    config.image_size = 224
    config.test_shorter_side = 256
    config.mean = '0.485,0.456,0.406'
    config.std = '0.229,0.224,0.225'
    config.flip = True
    config.color = 0.1
    config.batch_size = 256
    if network.startswith('alexnet'):
        alexnet(config)
    elif network.startswith('vgg'):
        vgg(config)
    elif network.startswith(('resnet', 'preact_resnet')):
        resnet(config)
    elif network.startswith('resnext'):
        resnet(config)
        config.order, config.model.stride_in = 'torch', '3x3'
    elif network.startswith('densenet'):
        densenet(config)
    elif network.startswith('googlenet'):
        googlenet(config)
    elif network.startswith('mobilenet'):
        mobilenet(config)
    elif network == 'fractalnet34':
        fractalnet(config)
    else:
        raise ValueError(f"no recipe for '{network}' on ImageNet: alexnet, vgg11 ... vgg19, "
                         'resnet18 ... resnet152, densenet121 ... densenet201, googlenet, '
                         'mobilenet_v1, fractalnet34')
    return config


def alexnet(config):
    """Krizhevsky et al. 2012, sections 4 and 5: about 90 epochs, three drops; pictures of 256
    pixels, of which only the mean is subtracted. Its crops of 224 pixels are 227 here, as its first
    layer needs."""
    if config.model.name == 'alexnet_tv':
        config.image_size = 224
    else:
        config.image_size = 227
        config.std = 'none'
    config.batch_size = 128
    config.epochs = 90.0
    config.learning_rate = 0.01
    config.drops = (30, 60, 80)
    config.weight_decay = 5e-4
    config.order = 'caffe'


def vgg(config):
    """Simonyan & Zisserman 2014, section 3.1: 74 epochs, three drops; the deeper nets see pictures
    scaled to 256 ... 512 pixels. The paper only subtracts the mean; unit variance is for its later
    initialization (see models/vgg.py)."""
    if config.model.name.startswith(('vgg16', 'vgg19')):
        config.shorter_side = (256, 512)
    config.epochs = 74.0
    config.learning_rate = 0.01
    config.drops = (30, 50, 65)
    config.weight_decay = 5e-4
    config.order = 'caffe'


def resnet(config):
    """He et al. 2015, section 3.4; epochs and drops as in facebookarchive/fb.resnet.torch. The
    stride is in the first 1x1 convolution of a bottleneck, as in the paper (v1)."""
    config.shorter_side = (256, 480)
    config.epochs = 90.0
    config.learning_rate = 0.1
    config.drops = (30, 60)
    config.weight_decay = 1e-4
    config.order = 'caffe'
    config.model.stride_in = '1x1'


def densenet(config):
    """Huang et al. 2016, section 4.2, with the crops of facebookarchive/fb.resnet.torch."""
    config.crop = 'random_resized'
    config.epochs = 90.0
    config.learning_rate = 0.1
    config.drops = (30, 60)
    config.nesterov = True
    config.weight_decay = 1e-4


def googlenet(config):
    """Szegedy et al. 2014, sections 5 and 6: the crops and the rate's fall by 4 % every 8 epochs;
    the rest as in Caffe's replica (BVLC/caffe, models/bvlc_googlenet). googlenet_bn is trained as
    densenet is."""
    if config.model.name == 'googlenet_bn':
        densenet(config)
        return
    config.crop = 'random_resized'
    config.std = 'none'
    config.batch_size = 32
    config.epochs = 250.0
    config.learning_rate = 0.01
    config.drops = tuple(range(8, 250, 8))
    config.drop_factor = 0.96
    config.weight_decay = 2e-4
    config.decay = 'kernels'
    config.bias_rate = 2.0
    config.order = 'caffe'


def mobilenet(config):
    """Not the paper's asynchronous RMSprop: momentum SGD, with the weight decay of the authors'
    TF-slim code. For the resolution multiplier, --config.image_size=192, 160 or 128 (and
    --config.test_shorter_side in proportion)."""
    config.crop = 'random_resized'
    config.color = 0.0  # "less regularization and data augmentation", section 3
    config.epochs = 90.0
    config.learning_rate = 0.1
    config.drops = (30, 60, 80)
    config.weight_decay = 4e-5
    config.decay = 'kernels'


def fractalnet(config):
    """Larsson et al. 2016, section 4.2: 70 epochs; the weight decay is not published."""
    config.shorter_side = (256, 480)
    config.batch_size = 32
    config.epochs = 70.0
    config.learning_rate = 0.001
    config.drops = (50, 65)
    config.weight_decay = 1e-4
    config.decay = 'kernels'
    config.bias_rate = 2.0
    config.order = 'caffe'
