"""DeepDream: what a network sees in a picture is amplified.

    python launch.py --config=configs/dream.py --workdir=runs/dream
    python launch.py --config=configs/dream.py --workdir=runs/me --config.images=me.jpg
    python launch.py --config=configs/dream.py --workdir=runs/zoom --config.frames=20 \\
        --config.size=224
    python launch.py --config=configs/dream.py --workdir=runs/guided --config.kind=guided \\
        --config.guide=skimage:grass
    python launch.py --config=configs/dream.py:gordicaleksa --workdir=runs/vgg16 \\
        --config.source=timm/vgg16.tv_in1k --config.layers=relu4_3

Mordvintsev et al. 2015, https://github.com/google/deepdream. The argument is a preset: 'cnnjax',
'google', 'gordicaleksa', 'tensorflow' or 'neural-dream'. Presets set the ascent; the layer belongs
to the network, and where theirs has another than `embedded`, `--config.layers` names it. The first
two ascend alike, 'cnnjax' on one channel of a layer and 'google' on all of them, as the notebook.
Several pictures or layers have commas between them. Writes figures/dream.png, the last frame at
full size, the images on the way to snapshots/, and several frames to figures/dream.gif.
"""

import ml_collections


def get_config(preset='cnnjax'):
    if preset not in PRESETS:
        raise ValueError(f"there is no preset '{preset}'; there are {', '.join(PRESETS)}")
    config = ml_collections.ConfigDict()
    config.experiment = 'dream'
    config.source = 'embedded'  # or a run's working directory, a weights file, a hub id
    config.checkpoint = 'best'  # of a run: 'best', 'latest' or the number of a step
    config.name = ''  # of the network, where a weights file does not say it
    config.images = 'skimage:cat'  # paths, photographs of scikit-image, or 'noise'
    config.size = 512  # longer side of the pictures, in pixels
    config.layers = 'relu4_2:2'  # names of configs/summarize.py; ':12+40' are two of its channels
    config.weights = ()  # of the layers; (): 1 each
    config.kind = 'l2'  # half the sum of squared activations, 'mean' of activations, or 'guided'
    config.guide = ''  # picture whose activations are aimed at, with kind='guided'
    config.guide_size = 224  # its longer side, in pixels
    config.octaves = 4  # sizes of the picture, one after the other
    config.scale = 1.4  # between two sizes
    config.octaves_above = 0  # of the octaves, how many are larger than the picture
    config.carry = 'detail'  # what one octave leaves to the next: what it added, or its 'image'
    config.steps = 10  # per octave
    config.step = 1.5 / 255  # the learning rate; black to white is 1
    config.optimizer = 'sgd'  # or 'adam'
    config.normalize = 'mean_abs'  # the size that a gradient is divided by; 'std', 'l2' or '': none
    config.smooth = 0.0  # least standard deviation of filters over the gradient, pixels; 0: none
    config.jitter = 32  # largest random shift before a step, in pixels
    config.clip = True  # to [0, 1] after every step
    config.tile = 0  # side of the tiles that bound the memory, in pixels; 0: the picture at once
    config.relu = 'gradient'  # backward rule: also 'deconvnet', 'guided', 'redirected'
    config.pool = ''  # 'average' or 'max' in place of the network's max-pools; '': as it is
    config.frames = 1  # of an animation, each dreamed from the one before
    config.zoom = 0.05  # share of the picture that is cut off between frames
    config.rotate = 0.0  # degrees, anticlockwise, between frames
    config.translate = (0.0, 0.0)  # pixels down and right between frames
    config.animation = 'gif'  # or 'webp', 'apng': the suffix of the file
    config.seconds = 0.1  # per frame
    config.seed = 0  # of everything random
    config.report_every = 10  # steps between reports and snapshots
    config.update(PRESETS[preset])
    return config


ALL = {'layers': 'relu4_2'}  # its channels: the other systems maximise whole layers

PRESETS = {
    'cnnjax': {},  # the fields above
    # https://github.com/google/deepdream, dream.ipynb: the fields above, at 'inception_4c' of a
    # GoogLeNet ('inception_3b' for its guided dreams). A dream that is not clipped is shown there
    # with more contrast, and cut off here.
    'google': ALL,
    # https://github.com/gordicaleksa/pytorch-deepdream, deepdream.py, at 'relu4_3' of a VGG-16. Its
    # units are standard deviations of ImageNet's colours, here their mean. The filters mirror the
    # gradient at the borders of the image, there at those of the shifted image.
    'gordicaleksa': ALL | {
        'scale': 1.8, 'step': 0.09 * 0.226, 'normalize': 'std', 'smooth': 0.5, 'carry': 'image',
        'zoom': 1 - 1 / 1.04, 'rotate': 3.0, 'seconds': 1 / 30},
    # https://www.tensorflow.org/tutorials/generative/deepdream, its last function, at 'mixed3' and
    # 'mixed5' of an Inception v3. It shifts by up to 512 pixels and leaves out the gradient of its
    # last tiles, where ours is exact. Its sizes are cut to whole pixels, not rounded.
    'tensorflow': ALL | {
        'kind': 'mean', 'octaves': 5, 'octaves_above': 2, 'scale': 1.3, 'steps': 100,
        'step': 0.01 / 2, 'normalize': 'std', 'jitter': 512, 'carry': 'image'},
    # https://github.com/ProGamerGov/neural-dream, at 'inception_4d/3x3_reduce'. Its ten
    # iterations over all octaves are frames that do not move. Sizes are cut, not rounded.
    'neural-dream': ALL | {
        'octaves': 2, 'scale': 1 / 0.6, 'steps': 50, 'step': 1.5 / 256, 'optimizer': 'adam',
        'normalize': '', 'clip': False, 'carry': 'image', 'frames': 10, 'zoom': 0.0},
}
