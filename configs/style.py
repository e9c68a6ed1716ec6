"""Style transfer: the content of one picture in the style of another.

    python launch.py --config=configs/style.py --workdir=runs/style
    python launch.py --config=configs/style.py:johnson --config.source=timm/vgg19.tv_in1k \\
        --config.content=me.jpg --config.styles=starry-night.jpg --workdir=runs/me

Gatys, Ecker & Bethge 2016, "Image Style Transfer Using Convolutional Neural Networks",
https://doi.org/10.1109/CVPR.2016.265. The argument is a preset, the name of a system: it sets the
layers, weights, conventions and optimizer that belong together. Each system was made for certain
weights of VGG-19; `activations` makes the terms of the loss about as large in any network. Presets
follow the code of their systems, `gatys2016` the paper, except for two fields. All start from the
content, because few networks keep as much of it in relu4_2 as VGG-19, which finds it in noise;
`--config.init=noise` starts there, with `--config.noise=0.25` for gatys2016, 0.001 for johnson and
neural-style-pt, and 0.256 for anishathalye. And all have `padding='edge'`, as crowsonkb has: zeros
beside the maps, which the others have (`--config.padding=zero`), wash the border out.
"""

import ml_collections

ADAM = {'optimizer': 'adam', 'bound': 'none', 'average': 0.0, 'carry': False,
        'activations': 'caffe', 'content_layers': 'relu4_2', 'content_convention': 'mean',
        'style_layer_weights': (), 'sizes': (512,), 'steps': (1000,)}
LBFGS = ADAM | {'optimizer': 'lbfgs'}
TORCH = LBFGS | {'memory': 100}  # Torch7 calls it nCorrection, torch history_size.
EQUAL = (1.0,) * 5  # Weights of 1 sum over the layers; () would take their mean.

PRESETS = {
    'cnnjax': {},  # the defaults below, for any network
    'gatys2016': LBFGS | {  # figure 3: alpha / beta = 1e-3; a VGG whose activations have mean 1
        'content_weight': 1.0, 'content_convention': 'gatys2016', 'style_weight': 1e3,
        'style_convention': 'gatys2016', 'tv_weight': 0.0, 'pool': 'average',
        'activations': 'relative'},
    'johnson': TORCH | {  # https://github.com/jcjohnson/neural-style
        'content_weight': 5.0, 'style_weight': 100.0, 'style_convention': 'neural-style',
        'style_layer_weights': EQUAL, 'tv_weight': 1e-3, 'tv_form': 'johnson',
        'pixel_range': 255.0},
    'neural-style-pt': TORCH | {  # https://github.com/ProGamerGov/neural-style-pt
        'content_weight': 5.0, 'style_weight': 100.0, 'style_convention': 'neural-style',
        'style_layer_weights': EQUAL, 'tv_weight': 1e-3, 'tv_form': 'neural-style-pt',
        'pixel_range': 255.0},
    'anishathalye': ADAM | {  # https://github.com/anishathalye/neural-style; keeps the best image
        'content_weight': 5.0, 'style_weight': 500.0, 'style_convention': 'anishathalye',
        'tv_weight': 100.0, 'tv_form': 'anishathalye', 'pixel_range': 255.0,
        'learning_rate': 10.0, 'beta2': 0.999, 'side': 'width'},
    'crowsonkb': ADAM | {  # https://github.com/crowsonkb/style-transfer-pytorch
        'content_weight': 0.015, 'style_weight': 1.0, 'style_convention': 'wasserstein',
        'style_layer_weights': (256 / 341, 64 / 341, 16 / 341, 4 / 341, 1 / 341),
        'tv_weight': 2.0, 'tv_form': 'crowsonkb', 'bound': 'clip', 'average': 0.99, 'carry': True,
        'activations': 'torchvision', 'sizes': (128, 181, 256, 362, 512),
        'steps': (1000, 500)},
    'gordicaleksa': TORCH | {  # https://github.com/gordicaleksa/pytorch-neural-style-transfer
        'content_weight': 1e5, 'style_weight': 3e4, 'style_convention': 'gordicaleksa',
        'tv_weight': 1.0, 'tv_form': 'gordicaleksa', 'pixel_range': 255.0, 'side': 'height',
        'sizes': (400,), 'activations': 'levels'},
    'gordicaleksa-adam': ADAM | {  # its weights for Adam from the content image
        'content_weight': 1e5, 'style_weight': 1e5, 'style_convention': 'gordicaleksa',
        'tv_weight': 0.1, 'tv_form': 'gordicaleksa', 'pixel_range': 255.0, 'learning_rate': 10.0,
        'beta2': 0.999, 'side': 'height', 'sizes': (400,), 'steps': (3000,),
        'activations': 'levels'},
    'gatys-notebook': TORCH | {  # https://github.com/leongatys/PytorchNeuralStyleTransfer
        'content_weight': 1.0, 'style_weight': 1e3, 'style_convention': 'gatys-notebook',
        'style_layer_weights': EQUAL, 'tv_weight': 0.0, 'pixel_range': 255.0, 'side': 'shorter',
        'sizes': (512, 800), 'steps': (500, 200)},
    'tensorflow': ADAM | {  # https://www.tensorflow.org/tutorials/generative/style_transfer
        'content_layers': 'relu5_2', 'content_weight': 1e4, 'style_weight': 1e-2,
        'style_convention': 'tensorflow', 'tv_weight': 30.0, 'tv_form': 'tensorflow',
        'bound': 'clip', 'learning_rate': 0.02, 'beta1': 0.99, 'beta2': 0.999, 'epsilon': 0.1},
}


def get_config(preset='cnnjax'):
    config = ml_collections.ConfigDict()
    config.experiment = 'style'
    config.seed = 0  # the seed of the noise
    config.source = 'embedded'  # 'embedded', a run's workdir, a weights file or a hub id
    config.checkpoint = 'best'  # the checkpoint of a run: 'best', 'latest' or the number of a step
    config.name = ''  # the network's name, if a weights file does not say it: 'vgg19'
    config.padding = 'edge'  # around maps: their outermost pixels, 'edge', or 'zero'
    config.pool = ''  # 'max' or 'average' replaces the network's own pools; '': as they are

    # Pictures are paths with commas between them, or 'skimage:NAME' for those of scikit-image.
    config.content = 'skimage:astronaut'  # pictures that get the style; equal sizes share a batch;
    #           '': none, for a texture of the styles alone
    config.aspect = 1.0  # texture: its width / height
    config.tileable = False  # texture: True makes it fit itself on opposite sides, without a seam
    config.styles = 'skimage:immunohistochemistry'  # styles to mix, or one for each mask
    config.style_weights = ()  # a share for each style; (): equal shares
    config.style_scale = 1.0  # size of the styles; 1: their side is as long as the content's
    config.content_masks = ''  # regions of the content, each a picture that is white in the region
    config.style_masks = ''  # for each content mask, the region of its style to take
    config.color = 'style'  # the colours: 'style', or the content's by 'luminance' or 'match'
    config.sizes = (128, 256, 384)  # lengths in pixels of the side named below, from coarse to fine
    config.side = 'longer'  # the side of these lengths: 'longer', 'shorter', 'height' or 'width'
    config.steps = (100, 60, 40)  # steps at each size; the last number counts for all further sizes
    config.bits = 8  # bits of each channel of the result: 8 (PNG) or 16 (TIFF)

    # The loss is content_weight * content + style_weight * style + tv_weight * variation.
    config.content_layers = 'relu2_2'  # layers that configs/summarize.py prints, with commas
    config.content_layer_weights = ()  # one for each layer; (): equal, with the sum 1
    config.style_layers = 'relu1_1,relu2_1,relu3_1,relu4_1,relu5_1'  # the same for the style
    config.style_layer_weights = ()  # the same for the style
    config.content_weight = 2.0  # how much the content counts
    config.style_weight = 10.0  # how much the style counts
    config.tv_weight = 8.0  # how much the total variation counts; a larger one smooths more
    config.content_convention = 'mean'  # one of cnnjax.images.neural_style.CONTENT
    config.style_convention = 'wasserstein'  # or one of cnnjax.images.neural_style.GRAM
    config.tv_form = 'crowsonkb'  # one of cnnjax.images.regularizers.FORMS
    config.pixel_range = 1.0  # the value of white in learning_rate, noise and tv_weight
    # How activations are scaled. 'own': not at all. 'relative': divided by their layer's mean on
    # the styles. 'caffe': as large as those of VGG-19 with Caffe's weights, whose images are levels
    # from 0 to 255 less a mean. 'torchvision': as large as those of torchvision's weights, whose
    # images are in [0, 1] less a mean, over a standard deviation. 'levels': as large as they become
    # if the network itself gets levels (see experiments/style.py).
    config.activations = 'relative'  # the scale of the network's activations, see above

    # The optimization.
    config.optimizer = 'adam'  # 'adam', or 'lbfgs', which needs bound 'none' or 'sigmoid'
    config.learning_rate = 0.02  # Adam's learning rate
    config.beta1 = 0.9  # Adam's decay of the mean of gradients
    config.beta2 = 0.99  # Adam's decay of the mean of their squares
    config.epsilon = 1e-8  # Adam's epsilon, which avoids a division by 0
    config.memory = 10  # lbfgs: how many pairs of vectors it remembers, each as large as two images
    config.init = 'content'  # the first image: 'content', 'noise', 'style' or a picture
    config.noise = 0.0  # standard deviation of the noise, alone or added to the first image
    config.bound = 'clip'  # 'clip' to [0, 1] after each step; 'sigmoid'; 'none': clip at the end
    config.average = 0.97  # decay of the running mean of images that is the result; 0: the last
    config.carry = True  # keep Adam's moments, resized, from one size to the next
    config.tile = 0  # side of tiles, in pixels, that save memory; 0: the whole image at once
    config.report_every = 25  # steps between reports, snapshots and checkpoints

    if preset not in PRESETS:
        raise ValueError(f"the argument is a preset: {', '.join(PRESETS)}; not '{preset}'")
    config.update(PRESETS[preset])
    return config
