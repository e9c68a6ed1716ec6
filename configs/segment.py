"""Segmentation: the class of each pixel.

    python launch.py --config=configs/segment.py --workdir=runs/segment
    python launch.py --config=configs/predict.py --config.source=runs/segment \\
        --config.pictures=photo.jpg --workdir=runs/prediction

The argument is the recipe:

    scenes (default)  a small U-Net finds scans of digits in photographs; nothing is downloaded
    coins             one picture of coins; its left third is the test
    folder            pictures and masks of your own, --config.data_dir=scenes:
                          scenes/classes.txt          a class a line, the first that of 0
                          scenes/train/images/a.jpg   scenes/train/masks/a.png   and so on
                          scenes/test/images/b.jpg    scenes/test/masks/b.png
    pets              the Oxford-IIIT pets of tensorflow-datasets: pet or background
    unet2015          U-Net's own recipe, for pictures of 512 x 512 such as those of the ISBI
                      challenge, in such a folder
    fcn32s            FCN-32s on PASCAL VOC in such a folder, from VGG-16's weights,
                      --config.init_from=vgg16.pth; then fcn16s from the run of fcn32s, and fcn8s
                      from that of fcn16s

Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597; Long et al. 2014,
https://arxiv.org/abs/1411.4038, with https://github.com/shelhamer/fcn.berkeleyvision.org.
"""

from cnnjax.errors import UserError, suggest
from configs import base

# Published errors in %.
PAPER = {network: {'source': 'https://github.com/shelhamer/fcn.berkeleyvision.org',
                   'measured': '1 - mean IoU on seg11valid of PASCAL VOC',
                   'error': {'folder': error}}
         for network, error in (('fcn32s', 36.4), ('fcn16s', 35.0), ('fcn8s', 34.5))}
RECIPES = ('scenes', 'coins', 'folder', 'pets', 'unet2015', 'fcn32s', 'fcn16s', 'fcn8s')


def get_config(recipe='scenes'):
    if recipe not in RECIPES:
        raise UserError(f"no recipe for '{recipe}' in segmentation: take {', '.join(RECIPES)}"
                        f'{suggest(recipe, RECIPES)}')
    config = base.get_config()
    config.task = 'segment'
    if recipe == 'unet2015':
        unet2015(config)
    elif recipe.startswith('fcn'):
        fcn(config, recipe)
    else:
        small_unet(config)
        {'scenes': scenes, 'coins': coins, 'folder': folder, 'pets': pets}[recipe](config)
    return config


def small_unet(config):
    """A U-Net with 1/8 of the channels and with batch normalization, which is not the paper's:
    without it, hundreds of steps pass before the network finds any object."""
    config.model.name = 'unet_padded'
    config.model.widths = (8, 16, 32, 64)
    config.model.norm = 'batch'
    config.model.dropout = 0.0
    config.loss = 'cross_entropy+dice'
    config.batch_size = 16
    config.learning_rate = 0.1
    config.schedule = 'cosine'
    config.warmup = 0.2
    config.warmup_shape = 'linear'
    config.nesterov = True
    config.decay = 'kernels'
    config.flip = True
    config.report_every = 25
    config.eval_batch_size = 100
    config.checkpoint_every = 0.0


def scenes(config):
    config.dataset = 'digit_scenes'
    config.flip = False  # A mirrored digit is another shape.
    config.epochs = 3.0
    config.eval_every = 1.0


def coins(config):
    config.dataset = 'coins'
    config.flip_vertical = True
    config.rotation = 45.0
    config.scale = (0.8, 1.25)
    config.padding_mode = 'reflect'
    config.color_jitter = 0.4  # The picture is darker on one side.
    config.batch_size = 8
    config.epochs = 8.0


def folder(config):
    config.dataset = 'folder'
    config.image_size = 256
    config.scale = (0.8, 1.25)
    config.rotation = 15.0
    config.padding_mode = 'reflect'
    config.model.widths = (16, 32, 64, 128, 256)
    config.batch_size = 8
    config.learning_rate = 0.05
    config.epochs = 60.0
    config.warmup = 1.0


def pets(config):
    folder(config)
    config.dataset = 'oxford_iiit_pet'
    config.image_size = 160
    config.batch_size = 32
    config.epochs = 30.0


def unet2015(config):
    """Section 3: one tile of 572 x 572 a step, a momentum of 0.99, elastic deformations, a weight
    map that puts 10 on the narrow gaps between cells. The paper names no learning rate, no length
    and no weight of the classes; here the rate and the length are our choice."""
    config.dataset = 'folder'
    config.model.name = 'unet'
    config.border = 94  # 512 + 2 * 94 = 700 pixels in, 516 out: all pixels of the picture
    config.border_mode = 'reflect'
    config.crop_size = 572
    config.padding_mode = 'reflect'
    config.flip = True
    config.flip_vertical = True
    config.rotation = 180.0
    config.elastic = 10.0
    config.color_jitter = 0.2
    config.loss_denominator = 'pixels'
    config.weight_map = 10.0
    config.weight_map_sigma = 5.0
    config.batch_size = 1
    config.eval_batch_size = 1
    config.momentum = 0.99
    config.learning_rate = 1e-3
    config.schedule = 'constant'
    config.weight_decay = 0.0
    config.steps = 40_000
    config.eval_every = 1000.0
    config.checkpoint_every = 0.0


def fcn(config, network):
    """The authors' "heavy" training: one picture a step, a momentum of 0.99, the loss summed over
    all pixels, no augmentation. They feed each picture as it is; here all must have one shape, so
    it stands in the middle of a square, whose other pixels mirror it and count nowhere."""
    rates = {'fcn32s': 1e-10, 'fcn16s': 1e-12, 'fcn8s': 1e-14}
    config.dataset = 'folder'
    config.image_size = 500  # the longest side of a picture of PASCAL VOC
    config.fit = 'pad'
    config.border_mode = 'reflect'
    config.stream = True
    config.model.name = network
    config.loss_denominator = 'images'
    config.batch_size = 1
    config.eval_batch_size = 1
    config.momentum = 0.99
    config.order = 'caffe'
    config.decay = 'kernels'
    config.learning_rate = rates[network]
    config.bias_rate = 2.0
    config.schedule = 'constant'
    config.weight_decay = 5e-4
    config.steps = 100_000
    config.eval_every = 4000.0
    config.checkpoint_every = 0.0
