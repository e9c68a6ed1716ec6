"""The columns of the papers' tables: the data set, and how much it is augmented.

'C10' and 'C100' are CIFAR-10 and CIFAR-100 as they are; '+' has translations and mirror images, and
'++' what the network's paper had beyond these.
"""

from typing import NamedTuple

from cnnjax.errors import UserError
from configs.recipes import cifar


class NoSetting(UserError):
    """The paper of a network has no training in this setting."""


class Data(NamedTuple):
    """A data set, by its name in a config."""

    examples: int  # how many the training has
    image_shape: tuple[int, int, int]
    classes: int


DATA = {'cifar10': Data(50_000, (32, 32, 3), 10), 'cifar100': Data(50_000, (32, 32, 3), 100),
        'svhn_cropped': Data(604_388, (32, 32, 3), 10), 'digits': Data(1_347, (8, 8, 1), 10),
        'imagenet2012': Data(1_281_167, (224, 224, 3), 1000)}
# {setting: (data set, augmentation)}
SETTINGS = {'C10': ('cifar10', ''), 'C10+': ('cifar10', '+'), 'C10++': ('cifar10', '++'),
            'C100': ('cifar100', ''), 'C100+': ('cifar100', '+'), 'C100++': ('cifar100', '++'),
            'SVHN': ('svhn_cropped', ''), 'ImageNet': ('imagenet2012', '+'),
            'digits': ('digits', '')}


def apply(config, setting):
    """Changes a network's recipe, with the data set and the augmentation that it has by itself, to
    the setting of a column.

    Raises:
      NoSetting: the paper of this network has no such augmentation.
    """
    dataset, augmentation = SETTINGS[setting]
    name = config.model.name
    if dataset == config.dataset == 'imagenet2012':
        return
    config.dataset = dataset
    if dataset == 'svhn_cropped':
        cifar.street_view(config)
    elif dataset == 'digits':  # A mirror image of a 2 is no digit.
        config.flip, config.padding = False, 0
    elif not augmentation:
        config.flip, config.padding = False, 0
        if config.crop_size:
            raise NoSetting(f'{name} sees random crops: its paper has no training without them')
        if name.startswith('densenet'):
            config.model.dropout = 0.2  # Huang et al. 2016, section 4.2
    else:
        if not config.padding and not config.crop_size:  # The recipe has no augmentation by itself.
            config.flip, config.padding = True, 4
        if augmentation == '++':
            heavy(config)
    if dataset == 'cifar100' and name == 'dsn':
        config.loss = 'cross_entropy'  # as in the authors' released solver


def heavy(config):
    """What the papers had beyond translations and mirror images.

    FractalNet fills the borders of translated images by reflection. All-CNN and fractional
    max-pooling name their distortions, but not how strong they are: these are our choice.
    """
    name = config.model.name
    if name.startswith('fractalnet'):
        config.padding_mode = 'reflect'
    elif name.startswith('allcnn'):
        large(config)
    elif name.startswith('fmp'):  # section 4.3: affine changes and shifts of colour
        config.padding, config.crop_size = 8, 48  # room for what turns; the canvas has 94 pixels
        config.scale, config.rotation = (0.8, 1.25), 15.0
        config.color = 0.1
    else:
        raise NoSetting(f"{name} has no '++': its paper has no more than translations and mirror "
                        'images')


def large(config):
    """All-CNN's "large" augmentation (Springenberg et al. 2014, section 3.3, after Graham): images
    of 126 x 126 pixels, which scale, turn and change their colours; too large to be whitened. The
    paper also trains a larger network of 2x2 convolutions on them; here it is the same one."""
    config.whiten = False
    config.image_size = 126
    config.padding = 20
    config.scale, config.rotation = (0.8, 1.25), 15.0
    config.color_jitter = 0.4
    config.color = 0.1
