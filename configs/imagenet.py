"""The papers' recipes on ImageNet (ILSVRC-2012, 1,000 classes, 1,281,167 + 50,000 photographs).

    python launch.py --config=configs/prepare.py:imagenet2012 --workdir=runs/prepare   (says how)
    python launch.py --config=configs/imagenet.py:resnet50 --workdir=runs/resnet50

Published validation error in %, top-1 / top-5, and how it was measured. `launch.py` reports the
middle 224 x 224 crop of the picture scaled to 256 pixels ("one crop"):

    argument       top-1 / top-5   measured on              source
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
    densenet121    25.02 /  7.71   one crop                 Huang et al. 2016, Table 3
    densenet169    23.80 /  6.85   one crop
    densenet201    22.58 /  6.34   one crop
    densenet161    22.2            one crop                 github.com/liuzhuang13/DenseNet

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
    if network.startswith('vgg'):
        vgg(config)
    elif network.startswith('resnet'):
        resnet(config)
    elif network.startswith('densenet'):
        densenet(config)
    else:
        raise ValueError(f"no recipe for '{network}' on ImageNet: vgg11 ... vgg19, resnet18 ... "
                         'resnet152, densenet121 ... densenet201')
    return config


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
