"""The papers' recipes on ImageNet (ILSVRC-2012, 1,000 classes, 1,281,167 + 50,000 photographs).

    python launch.py --config=configs/prepare.py:imagenet2012 --workdir=runs/prepare   (says how)
    python launch.py --config=configs/imagenet.py:resnet50 --workdir=runs/resnet50

PAPER below has the published validation errors and how they were measured: on one crop, ten crops
or whole pictures. A finished run measures its own in the same way. During the training the errors
are those of "one crop", the middle 224 x 224 pixels of a picture scaled to a shorter side of 256.
configs/reproduce.py trains a recipe with several seeds and prints the published errors beside its
own. The best errors of the papers are means over several scales: of ResNet, for example, with

    --config.crops=dense --config.test_scales=224,256,384,480,640

resnet50_2021 is torchvision's recipe of today for the same network. alexnet_ungrouped has no
published error; alexnet_tv, googlenet_bn, wide_resnet101_2 and vgg11_bn ... vgg19_bn are
torchvision's networks, not the papers'. ZFNet has 37.5 and 16.0 % with more maps in three layers,
--config.model.widths=96,256,512,1024,512. MobileNet's published error is 30.9 % at 192 pixels, 32.8
% at 160 and 35.6 % at 128. SqueezeNet's is 39.6 % with --config.model.bypass=simple and 41.2 % with
complex. inception_v1 is Google's GoogLeNet for TensorFlow, trained as googlenet is. On accelerators
add --config.dtype=bfloat16. The authors of VGG and ResNet lowered the rate when the error stalled:
--config.schedule=plateau does. These recipes lower it at fixed epochs, so that each run takes the
same time.
"""

from cnnjax.errors import UserError, suggest
from configs import base


def row(top1, top5, views, source, measured=''):
    """Published validation errors in %, where they are published; `views` are the fields of
    configs/base.py that measure like them, and `measured` says what else there is to know."""
    errors = {'error': top1, 'top5_error': top5}
    return {'source': source, 'views': views, 'measured': measured,
            **{name: {'imagenet2012+': value} for name, value in errors.items()
               if value is not None}}


IANDOLA = 'Iandola et al. 2016, Table 2, https://arxiv.org/abs/1602.07360'
SANDLER = 'Sandler et al. 2018, Table 4, https://arxiv.org/abs/1801.04381'
SLIM = 'https://github.com/tensorflow/models/tree/master/research/slim/nets/mobilenet'
RETHINKING = 'Szegedy et al. 2015, Table 3, https://arxiv.org/abs/1512.00567'
KRIZHEVSKY = 'Krizhevsky et al. 2012, Table 2'
SIMONYAN = 'Simonyan & Zisserman 2014, Table 3, https://arxiv.org/abs/1409.1556'
HE = 'He et al. 2015, Tables 2 and 3, https://arxiv.org/abs/1512.03385'
KAIMING = 'https://github.com/KaimingHe/deep-residual-networks'
XIE = 'Xie et al. 2016, Table 3, and https://github.com/facebookresearch/ResNeXt'
PREACT = 'He et al. 2016, Table 5, https://arxiv.org/abs/1603.05027'
HUANG = 'Huang et al. 2016, Table 3, https://arxiv.org/abs/1608.06993'
ZAGORUYKO = 'Zagoruyko & Komodakis 2016, Table 8, https://arxiv.org/abs/1605.07146'
HU = 'Hu et al. 2017, Table 2, https://arxiv.org/abs/1709.01507'
TRICKS = 'He T. et al. 2018, Table 5, https://arxiv.org/abs/1812.01187'
ZEILER = 'Zeiler & Fergus 2013, Table 2, https://arxiv.org/abs/1311.2901'
SZEGEDY = 'Szegedy et al. 2014, Table 3, https://arxiv.org/abs/1409.4842'
HOWARD = 'Howard et al. 2017, Tables 6 and 7, https://arxiv.org/abs/1704.04861'
TORCHVISION = 'https://pytorch.org/vision'
MODERN = ('https://pytorch.org/blog/how-to-train-state-of-the-art-models-using-torchvision-latest-'
          'primitives')
ONE, TEN, TEN_WHOLE = {}, {'crops': '10'}, {'crops': '10_whole'}
WHOLE_256, WHOLE_384 = ({'crops': 'dense', 'test_scales': (side,), 'test_flip': True}
                        for side in (256, 384))
X = None

PAPER = {
    #                       top-1  top-5
    'alexnet':          row(40.7,  18.2,  TEN, KRIZHEVSKY),
    'alexnet_tv':       row(43.48, 20.93, ONE, TORCHVISION),
    'zfnet':            row(38.4,  16.5,  TEN, ZEILER),
    'vgg11':            row(29.6,  10.4,  WHOLE_256, SIMONYAN),
    'vgg11_lrn':        row(29.7,  10.5,  WHOLE_256, SIMONYAN),
    'vgg13':            row(28.7,  9.9,   WHOLE_256, SIMONYAN),
    'vgg16c':           row(27.3,  8.8,   WHOLE_384, SIMONYAN),
    'vgg16':            row(25.6,  8.1,   WHOLE_384, SIMONYAN),
    'vgg19':            row(25.5,  8.0,   WHOLE_384, SIMONYAN),
    'resnet18':         row(27.88, X,     TEN_WHOLE, HE,
                            'of the network with shortcut A'),
    'resnet34':         row(24.52, 7.46,  TEN_WHOLE, HE),
    'resnet50':         row(24.7,  7.8,   ONE, KAIMING),
    'resnet50_2021':    row(19.142, 4.566, ONE, MODERN, 'of 224 pixels from 232'),
    'resnet101':        row(23.6,  7.1,   ONE, KAIMING),
    'resnet152':        row(23.0,  6.7,   ONE, KAIMING),
    'resnet152_stochastic': row(21.98, X, ONE, 'Huang et al. 2016, Table 1, '
                                'https://arxiv.org/abs/1603.09382'),
    'resnet50d':        row(22.84, 6.48,  ONE, TRICKS),
    'seresnet50':       row(23.29, 6.62,  ONE, HU),
    'wide_resnet50_2':  row(21.9,  6.03,  ONE, ZAGORUYKO),
    'wide_resnet101_2': row(21.152, 5.716, ONE, TORCHVISION),
    'resnext50_32x4d':  row(22.2,  X,     ONE, XIE),
    'resnext101_32x4d': row(21.2,  X,     ONE, XIE),
    'resnext101_64x4d': row(20.4,  X,     ONE, XIE),
    'preact_resnet200': row(20.7,  5.3,   ONE, PREACT, 'of 320 pixels'),
    'densenet121':      row(25.02, 7.71,  ONE, HUANG),
    'densenet169':      row(23.80, 6.85,  ONE, HUANG),
    'densenet201':      row(22.58, 6.34,  ONE, HUANG),
    'densenet161':      row(22.2,  X,     ONE, 'https://github.com/liuzhuang13/DenseNet'),
    'googlenet':        row(X,     10.07, ONE, SZEGEDY),
    'googlenet_bn':     row(30.22, 10.47, ONE, TORCHVISION),
    'mobilenet_v1':     row(29.4,  X,     ONE, HOWARD),
    'mobilenet_v1_075': row(31.6,  X,     ONE, HOWARD),
    'mobilenet_v1_050': row(36.3,  X,     ONE, HOWARD),
    'mobilenet_v1_025': row(49.4,  X,     ONE, HOWARD),
    'mobilenet_v2':     row(28.0,  X,     ONE, SANDLER),
    'mobilenet_v2_140': row(25.3,  X,     ONE, SANDLER),
    'mobilenet_v2_050': row(34.6,  13.6,  ONE, SLIM),
    'squeezenet1_0':    row(42.5,  19.7,  ONE, IANDOLA),
    'inception_v3':     row(21.2,  5.6,   ONE, RETHINKING, 'of 299 pixels'),
    'fractalnet34':     row(24.12, 7.39,  TEN_WHOLE,
                            'Larsson et al. 2016, Table 2, https://arxiv.org/abs/1605.07648'),
    'yolo_v1_classifier': row(X,   12.0,  ONE,
                              'Redmon et al. 2015, section 2.2, https://arxiv.org/abs/1506.02640'),
}
RECIPES = (*PAPER, 'squeezenet1_1', 'inception_v1', 'alexnet_ungrouped', 'vgg11_bn', 'vgg13_bn',
           'vgg16c_bn', 'vgg16_bn', 'vgg19_bn')


def get_config(network='resnet50'):
    if network not in RECIPES:
        raise UserError(f"no recipe for '{network}' on ImageNet: take {', '.join(RECIPES)}"
                        f'{suggest(network, RECIPES)}')
    config = base.get_config()
    config.dataset = 'imagenet2012'
    config.test_split = 'validation'
    config.model.name = network.removesuffix('_2021').removesuffix('_stochastic')
    config.stream = True
    config.loader_workers = 8
    config.image_size = 224
    config.test_shorter_side = 256
    config.mean = '0.485,0.456,0.406'
    config.std = '0.229,0.224,0.225'
    config.flip = True
    config.color = 0.1
    config.batch_size = 256
    if network.startswith('alexnet'):
        alexnet(config)
    elif network == 'zfnet':
        zfnet(config)
    elif network.startswith(('vgg', 'yolo')):
        vgg(config)
    elif network == 'resnet50_2021':
        modern(config)
    elif network == 'resnet50d':
        tricks(config)
    elif network == 'seresnet50':
        squeeze(config)
    elif network.startswith('wide_resnet'):
        wide_resnet(config)
    elif network == 'resnet152_stochastic':
        stochastic_depth(config)
    elif network.startswith(('resnet', 'preact_resnet')):
        resnet(config)
    elif network.startswith('resnext'):
        resnext(config)
    elif network.startswith('densenet'):
        densenet(config)
    elif network.startswith(('googlenet', 'inception_v1')):
        googlenet(config)
    elif network == 'inception_v3':
        inception_v3(config)
    elif network.startswith('mobilenet_v2'):
        mobilenet_v2(config)
    elif network.startswith('mobilenet'):
        mobilenet(config)
    elif network.startswith('squeezenet'):
        squeezenet(config)
    else:
        fractalnet(config)
    config.update(PAPER.get(network, {}).get('views', {}))
    return config


def alexnet(config):
    """Krizhevsky et al. 2012, sections 4 and 5: about 90 epochs and three drops; pictures of 256
    pixels, less their mean. The paper speaks of crops of 224 pixels, but its first layer needs the
    227 used here."""
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


def zfnet(config):
    """Zeiler & Fergus 2013, section 3: pictures less their mean, no changed colours, 70 epochs; the
    rate falls by hand when the error stalls, as AlexNet's. The weight decay and the three epochs of
    the drops are AlexNet's too. The paper also keeps the root mean square of a filter below 0.1,
    since the first filters dominate on its images of -128 ... 128; ours are of -0.5 ... 0.5."""
    alexnet(config)
    config.image_size = 224
    config.color = 0.0
    config.epochs = 70.0
    config.drops = (25, 45, 60)


def vgg(config):
    """Simonyan & Zisserman 2014, section 3.1: 74 epochs and three drops; the deeper networks see
    pictures scaled to 256 ... 512 pixels. The paper only subtracts the mean; we also divide by the
    standard deviation, because our initialization expects it (see models/vgg.py).

    YOLO v1's classifier is trained the same way, but on pictures of the range [-1, 1], as its
    detector is; its paper only tells that it took a week."""
    if config.model.name.startswith(('vgg16', 'vgg19')):
        config.shorter_side = (256, 512)
    elif config.model.name == 'yolo_v1_classifier':
        config.mean = config.std = '0.5,0.5,0.5'
    config.epochs = 74.0
    config.learning_rate = 0.01
    config.drops = (30, 50, 65)
    config.weight_decay = 5e-4
    config.order = 'caffe'


def resnet(config):
    """He et al. 2015, section 3.4, with the epochs and drops of facebookarchive/fb.resnet.torch.
    The first 1x1 convolution of a bottleneck has the stride, as in the paper (v1)."""
    config.shorter_side = (256, 480)
    config.epochs = 90.0
    config.learning_rate = 0.1
    config.drops = (30, 60)
    config.weight_decay = 1e-4
    config.order = 'caffe'
    config.model.stride_in = '1x1'


def stochastic_depth(config):
    """Huang et al. 2016, section 4: as He et al., with batches of 128, the linear rule to p_L = 0.5
    and 30 more epochs after the 90. That the rate falls once more between them is our choice."""
    resnet(config)
    config.batch_size = 128
    config.epochs = 120.0
    config.drops = (30, 60, 90)
    config.model.survival = 0.5


def modern(config):
    """torchvision's IMAGENET1K_V2, https://github.com/pytorch/vision/issues/3995
    #issuecomment-1013906621: 600 epochs on crops of 176 pixels, each picture four times in a batch,
    and the average of the weights. Its options are those of torchvision's references/classification
    on eight GPUs; there each GPU draws the mixture of its 128 images, here one is drawn for all."""
    config.crop = 'random_resized'
    config.image_size, config.test_image_size, config.test_shorter_side = 176, 224, 232
    config.color = 0.0
    config.auto_augment = 'trivial'
    config.random_erasing = 0.1
    config.mixup, config.cutmix = 0.2, 1.0
    config.repeats = 4
    config.label_smoothing = 0.1
    config.batch_size = 1024
    config.epochs = 600.0
    config.learning_rate = 0.5
    config.schedule = 'cosine'
    config.warmup, config.warmup_shape, config.warmup_rate = 5.0, 'linear', 0.005
    config.weight_decay = 2e-5
    config.decay = 'kernels'
    config.average = 'ema'
    config.average_start = config.warmup
    config.average_every = 32
    # Their train.py adapts the decay 0.99998 of a step to the 32 steps and the 600 epochs.
    config.average_decay = 1 - (1 - 0.99998) * config.batch_size * 32 / config.epochs
    config.model.stride_in = '3x3'


def resnext(config):
    """The authors' code, https://github.com/facebookresearch/ResNeXt (opts.lua, train.lua): 100
    epochs and Nesterov's momentum, with the crops and the colours of facebookarchive/
    fb.resnet.torch."""
    config.crop = 'random_resized'
    config.color_jitter = 0.4
    config.epochs = 100.0
    config.learning_rate = 0.1
    config.drops = (30, 60, 90)
    config.nesterov = True
    config.weight_decay = 1e-4
    config.model.stride_in = '3x3'


def wide_resnet(config):
    """Zagoruyko & Komodakis 2016, section 3: facebookarchive/fb.resnet.torch, whose options are a
    batch of 256, 90 epochs and a weight decay of 1e-4. torchvision trained wide_resnet101_2."""
    resnext(config)
    config.epochs = 90.0
    config.drops = (30, 60)


def squeeze(config):
    """Hu et al. 2017, section 4.1: batches of 1,024, 100 epochs, and a mean that is subtracted. The
    paper does not give the weight decay, nor changed colours: 1e-4 is ResNet's."""
    config.crop = 'random_resized'
    config.color = 0.0
    config.std = 'none'
    config.batch_size = 1024
    config.epochs = 100.0
    config.learning_rate = 0.6
    config.drops = (30, 60, 90)
    config.weight_decay = 1e-4
    config.model.stride_in = '1x1'


def tricks(config):
    """He T. et al. 2018, sections 2.1 and 3.1: 120 epochs with batches of 1,024, a rate of 0.4
    after five epochs of warm-up, and no decay of biases and normalizations. Two things are left
    out: there each branch begins as zero, by the scale of its last normalization, and colours
    change their hue."""
    config.crop = 'random_resized'
    config.color_jitter = 0.4
    config.batch_size = 1024
    config.epochs = 120.0
    config.learning_rate = 0.4
    config.drops = (30, 60, 90)
    config.warmup, config.warmup_shape, config.warmup_rate = 5.0, 'linear', 0.0
    config.nesterov = True
    config.weight_decay = 1e-4
    config.decay = 'kernels'


def densenet(config):
    """Huang et al. 2016, section 4.2, with the crops and the colours of facebookarchive/
    fb.resnet.torch."""
    config.crop = 'random_resized'
    config.color_jitter = 0.4
    config.epochs = 90.0
    config.learning_rate = 0.1
    config.drops = (30, 60)
    config.nesterov = True
    config.weight_decay = 1e-4


def googlenet(config):
    """Szegedy et al. 2014, sections 5 and 6, for the crops and for the rate, which falls by 4 %
    every 8 epochs; the rest is Caffe's replica (BVLC/caffe, models/bvlc_googlenet). As in the paper
    the final network is the mean of the iterates (section 6). The paper does not say which: here it
    is those of the second half, as Rakhlin et al. 2012 (https://arxiv.org/abs/1109.5647) show that
    the first ones do harm, and every 100th, as float32 cannot add up millions. googlenet_bn is
    trained as densenet is."""
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
    config.average = 'polyak'
    config.average_start = 125.0
    config.average_every = 100


def mobilenet(config):
    """Howard et al. 2017, section 3: RMSprop "similar to Inception V3" (asynchronous there). Rate,
    its fall by 6 % every two epochs, decay, epsilon and the 100 epochs are Inception V3's (Szegedy
    et al. 2015, section 8, https://arxiv.org/abs/1512.00567); the batch is MobileNetV2's, which
    kept MobileNet's rate (Sandler et al. 2018, section 6.1, https://arxiv.org/abs/1801.04381);
    momentum and weight decay, which leaves out depthwise kernels, are those of the authors'
    TF-slim code (tensorflow/models, research/slim). With an epsilon of 1, which is far above the
    squares of most gradients, RMSprop is nearly momentum SGD. For the resolution multiplier give
    --config.image_size=192, 160 or 128, and --config.test_shorter_side in proportion."""
    config.crop = 'random_resized'
    config.color = 0.0  # "less regularization and data augmentation", section 3
    config.optimizer = 'rmsprop'
    config.rmsprop_decay = 0.9
    config.rmsprop_epsilon = 1.0
    config.order = 'caffe'  # TensorFlow's too
    config.batch_size = 96
    config.epochs = 100.0
    config.learning_rate = 0.045
    config.drops = tuple(range(2, 100, 2))
    config.drop_factor = 0.94
    config.weight_decay = 4e-5
    config.decay = 'kernels_except_depthwise'


def mobilenet_v2(config):
    """Sandler et al. 2018, section 6.1: as MobileNet, but the rate falls by 2 % every epoch. The
    paper does not tell how many there are; MobileNet's 100 would end at 13 % of the first rate, so
    that our choice is 300. The batch of 96 is that of each of its 16 GPUs, which worked
    asynchronously."""
    mobilenet(config)
    config.epochs = 300.0
    config.drops = tuple(range(1, 300))
    config.drop_factor = 0.98


def inception_v3(config):
    """Szegedy et al. 2015, section 8, and 7 for the label smoothing: 50 replicas, each with batches
    of 32, are one batch here, and the final network is a running average of the weights. Weight
    decay, the average's decay of a step, images in [-1, 1] and their crops are the authors' code
    (tensorflow/models, research/slim); the changes of colour are AlexNet's, our choice."""
    config.image_size, config.test_shorter_side = 299, 342
    config.mean = config.std = '0.5,0.5,0.5'
    config.crop = 'random_resized'
    config.crop_area = (0.05, 1.0)
    config.label_smoothing = 0.1
    config.optimizer = 'rmsprop'
    config.rmsprop_decay = 0.9
    config.rmsprop_epsilon = 1.0
    config.order = 'caffe'  # TensorFlow's too
    config.clip_norm = 2.0
    config.batch_size = 32 * 50
    config.epochs = 100.0
    config.learning_rate = 0.045
    config.drops = tuple(range(2, 100, 2))
    config.drop_factor = 0.94
    config.weight_decay = 4e-5
    config.decay = 'kernels'
    config.average = 'ema'
    config.average_decay = 0.9999


def squeezenet(config):
    """Iandola et al. 2016, section 4, and the authors' release for Caffe (forresti/SqueezeNet):
    170,000 steps of 512 pictures, a rate that falls linearly, and crops of 227 pixels, less the
    mean. The error of squeezenet1_1 is not published; the release says that it is no larger."""
    config.image_size = 227
    config.std = 'none'
    config.color = 0.0
    config.batch_size = 512
    config.epochs = 68.0
    config.learning_rate = 0.04
    config.schedule = 'linear'
    config.weight_decay = 2e-4
    config.order = 'caffe'


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
