"""Style transfer in one pass: a network that gives any photograph the style of a picture.

    python launch.py --config=configs/fast_style.py --workdir=runs/fast_style
    python launch.py --config=configs/predict.py --config.source=runs/fast_style \\
        --config.pictures=holiday --workdir=runs/holiday

Johnson, Alahi & Fei-Fei 2016, "Perceptual Losses for Real-Time Style Transfer and
Super-Resolution", https://arxiv.org/abs/1603.08155. The first command trains a narrow network on
the photographs of scikit-image and scikit-learn; nothing is downloaded. The second applies it to
pictures of any size, and to animations (GIF, WebP) frame by frame. `styles` is the picture, and
`teacher` the network that sees the style.

The argument `johnson` is the paper's training, of its network, by VGG-16, on a folder of
photographs such as COCO's:

    python launch.py --config=configs/fast_style.py:johnson --config.data_dir=coco \\
        --config.split=0.999/0.001 --config.styles=starry-night.jpg --workdir=runs/starry-night

It has the paper's layers, steps, batches and rate. Its weights are chosen for each style there, and
here for activations whose mean is 1.
"""

from cnnjax.errors import UserError
from configs import base

RECIPES = ('photos', 'johnson')


def get_config(recipe='photos'):
    if recipe not in RECIPES:
        raise UserError(f"no recipe '{recipe}': take {' or '.join(RECIPES)}")
    config = base.get_config()
    config.task = 'stylize'
    config.model.name = 'transformation_net'
    config.styles = 'skimage:immunohistochemistry'
    config.image_size = 256
    config.flip = True
    config.batch_size = 4
    config.optimizer = 'adamw'
    config.weight_decay = 0.0
    config.learning_rate = 1e-3
    if recipe == 'johnson':
        config.dataset = 'folder'
        config.stream = True
        config.mean = '0.485,0.456,0.406'
        config.std = '0.229,0.224,0.225'
        config.teacher = 'timm/vgg16.tv_in1k'
        config.content_layers = 'relu3_3'
        config.content_weight = 1.0
        config.style_layers = 'relu1_2,relu2_2,relu3_3,relu4_3'
        config.style_convention = 'gatys2016'
        config.style_weight = 100.0
        config.tv_weight = 1.0
        config.steps = 40_000
        config.schedule = 'constant'
        config.eval_every = 1000.0
        config.checkpoint_every = 1000.0
        return config
    config.dataset = 'photos'
    config.model.widths = (16, 32, 64)
    config.model.depth = 3
    config.model.residual = True
    config.teacher = 'embedded'
    config.style_size = 384
    config.tv_weight = 32.0
    config.crop_size = 96
    config.color_jitter = 0.4  # The photographs are few.
    config.steps = 700
    config.learning_rate = 2e-3
    config.warmup = 50.0  # With 3e-3 from the first step, parts of the images saturated for good.
    config.warmup_shape = 'linear'
    config.schedule = 'cosine'
    config.stability_weight = 100.0
    config.report_every = 50
    config.eval_every = 200.0
    config.checkpoint_every = 100.0
    return config
