"""Style transfer: the content of one picture in the style of another.

    python launch.py --config=configs/style.py --workdir=runs/style
    python launch.py --config=configs/style.py:johnson --config.source=timm/vgg19.tv_in1k \\
        --config.content=me.jpg --config.styles=starry-night.jpg --workdir=runs/me

Gatys, Ecker & Bethge 2016, "Image Style Transfer Using Convolutional Neural Networks",
https://doi.org/10.1109/CVPR.2016.265. The argument is a preset, the name of a system: it sets the
layers, weights, conventions, optimizer and first image that belong together. Each system was made
for certain weights of VGG-19; `activations` makes the terms of the loss about as large in any
network. The source of each preset is the system's code, that of `gatys2016` the paper.
"""

import ml_collections

ADAM = {'optimizer': 'adam', 'bound': 'none', 'average': 0.0, 'carry': False,
        'activations': 'caffe', 'content_layers': 'relu4_2', 'content_convention': 'mean',
        'style_layer_weights': (), 'sizes': (512,), 'steps': (1000,)}
LBFGS = ADAM | {'optimizer': 'lbfgs'}
TORCH = LBFGS | {'memory': 100}  # Torch7's nCorrection, torch's history_size
EQUAL = (1.0,) * 5  # the sum over layers, not their mean

PRESETS = {
    'cnnjax': {},  # the fields below: for any network
    'gatys2016': LBFGS | {  # figure 3: alpha / beta = 1e-3; a VGG whose activations have mean 1
        'content_weight': 1.0, 'content_convention': 'gatys2016', 'style_weight': 1e3,
        'style_convention': 'gatys2016', 'tv_weight': 0.0, 'init': 'noise', 'noise': 0.25,
        'pool': 'average', 'activations': 'relative'},
    'johnson': TORCH | {  # https://github.com/jcjohnson/neural-style
        'content_weight': 5.0, 'style_weight': 100.0, 'style_convention': 'neural-style',
        'style_layer_weights': EQUAL, 'tv_weight': 1e-3, 'tv_form': 'johnson', 'init': 'noise',
        'noise': 0.001, 'pixel_range': 255.0},
    'neural-style-pt': TORCH | {  # https://github.com/ProGamerGov/neural-style-pt
        'content_weight': 5.0, 'style_weight': 100.0, 'style_convention': 'neural-style',
        'style_layer_weights': EQUAL, 'tv_weight': 1e-3, 'tv_form': 'neural-style-pt',
        'init': 'noise', 'noise': 0.001, 'pixel_range': 255.0},
    'anishathalye': ADAM | {  # https://github.com/anishathalye/neural-style; keeps the best image
        'content_weight': 5.0, 'style_weight': 500.0, 'style_convention': 'anishathalye',
        'tv_weight': 100.0, 'tv_form': 'anishathalye', 'init': 'noise', 'noise': 0.256,
        'pixel_range': 255.0, 'learning_rate': 10.0, 'beta2': 0.999, 'side': 'width'},
    'crowsonkb': ADAM | {  # https://github.com/crowsonkb/style-transfer-pytorch; conv1_1 replicates
        'content_weight': 0.015, 'style_weight': 1.0, 'style_convention': 'wasserstein',
        'style_layer_weights': (256 / 341, 64 / 341, 16 / 341, 4 / 341, 1 / 341),
        'tv_weight': 2.0, 'tv_form': 'crowsonkb', 'bound': 'clip', 'average': 0.99, 'carry': True,
        'activations': 'torchvision', 'sizes': (128, 181, 256, 362, 512), 'steps': (1000, 500)},
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
    config.source = 'embedded'  # network: 'embedded', a run's workdir, a weights file, a hub id
    config.checkpoint = 'best'  # a run's: 'best', 'latest' or the number of a step
    config.name = ''  # the network's name, where a weights file does not say it: 'vgg19'
    config.pool = ''  # 'max' or 'average' in place of the network's own pools; '': as they are

    # Pictures: paths, with commas between them, or 'skimage:NAME' for those of scikit-image.
    config.content = 'skimage:astronaut'  # pictures that get the style; equal sizes share a batch
    config.styles = 'skimage:immunohistochemistry'  # styles to mix, or one for each mask
    config.style_weights = ()  # shares of the styles; (): equal
    config.style_scale = 1.0  # how large the styles are; 1: their side as long as the content's
    config.content_masks = ''  # regions of the content, white where they are
    config.style_masks = ''  # the region of the style that each of them takes its style from
    config.color = 'style'  # 'luminance': the content's colours; 'match': give them to the style
    config.sizes = (128, 256)  # pixels of the side below, from coarse to fine
    config.side = 'longer'  # the side that has these sizes: also 'shorter', 'height' or 'width'
    config.steps = (150, 100)  # steps at each size; the last number counts for all further sizes
    config.bits = 8  # bits of each channel of the result: 8 (PNG) or 16 (TIFF)

    # What is minimised: content_weight * content + style_weight * style + tv_weight * variation.
    config.content_layers = 'relu3_3'  # names that configs/summarize.py prints, with commas
    config.content_layer_weights = ()  # one for each layer; (): equal, with the sum 1
    config.style_layers = 'relu1_1,relu2_1,relu3_1,relu4_1,relu5_1'  # likewise
    config.style_layer_weights = (0.5, 0.2, 0.1, 0.1, 0.1)  # likewise
    config.content_weight = 1.0  # how much the content counts
    config.style_weight = 10.0  # how much the style counts
    config.tv_weight = 8.0  # how much the total variation counts, which smooths
    config.content_convention = 'mean'  # one of cnnjax.images.neural_style.CONTENT
    config.style_convention = 'wasserstein'  # this, or one of cnnjax.images.neural_style.GRAM
    config.tv_form = 'crowsonkb'  # one of cnnjax.images.regularizers.FORMS
    config.pixel_range = 1.0  # white, in the units of learning_rate, noise and tv_weight
    # 'own': as they are. 'relative': divided by their layer's mean on the styles. 'caffe': as those
    # of Caffe's weights, for levels of 0 to 255 less a mean. 'torchvision': as those of
    # torchvision's, for [0, 1] less a mean, over a standard deviation. 'levels': as they become
    # when the network itself is given levels (see experiments/style.py).
    config.activations = 'relative'  # how large the network's activations count, see above

    # How.
    config.optimizer = 'adam'  # or 'lbfgs', which needs bound 'none' or 'sigmoid'
    config.learning_rate = 0.02  # Adam's
    config.beta1 = 0.9  # Adam's decay of the mean of gradients
    config.beta2 = 0.99  # Adam's decay of the mean of their squares
    config.epsilon = 1e-8  # Adam's
    config.memory = 10  # lbfgs: pairs of vectors it remembers, each two images large
    config.init = 'content'  # the first image: also 'noise', 'style' or a picture
    config.noise = 0.0  # standard deviation of the noise, alone or added to the first image
    config.bound = 'clip'  # clip to [0, 1] after each step; 'sigmoid'; 'none': clip at the end
    config.average = 0.97  # decay of the mean of all images that is the result; 0: the last one
    config.carry = True  # keep Adam's moments, resized, from one size to the next
    config.tile = 0  # pixels: gradients in tiles of this side, exact, for large pictures
    config.report_every = 25  # steps between reports, snapshots and checkpoints

    if preset not in PRESETS:
        raise ValueError(f"the argument is a preset: {', '.join(PRESETS)}; not '{preset}'")
    config.update(PRESETS[preset])
    return config
