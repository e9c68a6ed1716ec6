"""DeepDream: amplifies what a network sees in a picture.

    python launch.py --config=configs/dream.py --workdir=runs/dream
    python launch.py --config=configs/dream.py --workdir=runs/me --config.images=me.jpg
    python launch.py --config=configs/dream.py --workdir=runs/zoom --config.frames=16 \\
        --config.size=224 --config.octaves=1 --config.steps=4
    python launch.py --config=configs/dream.py --workdir=runs/guided --config.kind=guided \\
        --config.guide=skimage:grass
    python launch.py --config=configs/dream.py:gordicaleksa --workdir=runs/vgg16 \\
        --config.source=timm/vgg16.tv_in1k --config.layers=relu4_3

Mordvintsev et al. 2015, https://github.com/google/deepdream. The argument is a preset: 'cnnjax',
'google', 'gordicaleksa', 'tensorflow' or 'neural-dream'. 'cnnjax', the default, is made for small
networks: each step sees the picture mirrored and turned, so that no direction is preferred, large
areas keep their colours, and several layers count alike. The others are the algorithms of those
systems. With another network than `embedded`, name the layers with `--config.layers`. Several
pictures or layers have commas between them. Writes the last frame at full size to
figures/dream.png, picture and dream side by side to figures/before_after.png and intermediate
images to snapshots/. If there are several frames, they are in frames/, and figures/dream.webp plays
them.
"""

import ml_collections


def get_config(preset='cnnjax'):
    if preset not in PRESETS:
        raise ValueError(f"there is no preset '{preset}'; there are {', '.join(PRESETS)}")
    config = ml_collections.ConfigDict()
    config.experiment = 'dream'
    config.source = 'embedded'  # 'embedded', a run's workdir, a weights file or a hub id
    config.checkpoint = 'best'  # the checkpoint of a run: 'best', 'latest' or the number of a step
    config.name = ''  # the network's name, if a weights file does not say it: 'vgg19'
    config.images = 'skimage:cat'  # paths, 'skimage:NAME' for those of scikit-image, or 'noise'
    config.size = 512  # longer side of the pictures, in pixels
    config.layers = 'relu5_3'  # names of configs/summarize.py; 'relu5_1:12+40' are two channels
    config.weights = ()  # a weight for each layer; (): 1 for each
    config.kind = 'log'  # the objective: 'l2', half the sum of squares; 'log', the logarithm of
    #                      their mean, so that all layers count alike; 'mean'; or 'guided'
    config.guide = ''  # with kind='guided', the picture whose activations guide the dream
    config.guide_size = 224  # longer side of the guide, in pixels
    config.octaves = 4  # how many sizes of the picture, from small to large
    config.scale = 1.4  # the ratio of one size to the one before
    config.octaves_above = 0  # how many of the octaves are larger than the picture
    config.carry = 'detail'  # what an octave passes on: the 'detail' that it added, or its 'image'
    config.steps = 10  # steps per octave
    config.step = 2 / 255  # the learning rate, where black to white is 1
    config.optimizer = 'sgd'  # 'sgd' or 'adam'
    config.normalize = 'mean_abs'  # divide the gradient by its 'mean_abs', 'std' or 'l2'; '': no
    config.bands = 3  # bands of detail, of 1, 2, 4, ... pixels, in which the gradient gets the same
    #                   size; what is coarser stays as it is; 0: no bands
    config.natural_colors = True  # change brightness most, as colours of photographs differ
    config.smooth = 0.0  # smallest sigma, in pixels, of Gaussians over the gradient; 0: none
    config.jitter = 32  # largest random shift before a step, in pixels
    config.flip = True  # mirror the picture at random before a step
    config.turns = True  # turn it by a random multiple of 90 degrees before a step
    config.clip = True  # clip the image to [0, 1] after every step
    config.tile = 0  # side of tiles, in pixels, which save memory; 0: the whole picture at once
    config.relu = 'gradient'  # backward rule: 'gradient', 'deconvnet', 'guided' or 'redirected'
    config.pool = ''  # 'average' or 'max' replaces the network's max-pools; '': as they are
    config.frames = 1  # frames of an animation; each starts from the one before
    config.zoom = 0.05  # share of the picture that is cut off between two frames
    config.rotate = 0.0  # degrees of rotation between two frames, anticlockwise
    config.translate = (0.0, 0.0)  # pixels moved down and right between two frames
    config.animation = 'webp'  # the format: 'gif', 'webp' or 'apng'
    config.seconds = 0.1  # seconds per frame
    config.seed = 0  # seeds all that is random
    config.report_every = 10  # steps between reports and snapshots
    config.update(PRESETS[preset])
    return config


# The notebook's algorithm, which the other systems vary.
NOTEBOOK = {
    'layers': 'relu4_2', 'kind': 'l2', 'octaves': 4, 'scale': 1.4, 'steps': 10, 'step': 1.5 / 255,
    'bands': 0, 'natural_colors': False, 'flip': False, 'turns': False}

PRESETS = {
    'cnnjax': {},  # the fields above
    # https://github.com/google/deepdream, dream.ipynb, at 'inception_4c' of a GoogLeNet
    # ('inception_3b' for its guided dreams). Without clipping, the notebook raises the contrast of
    # what it shows; we cut values off.
    'google': NOTEBOOK,
    # https://github.com/gordicaleksa/pytorch-deepdream, deepdream.py, at 'relu4_3' of a VGG-16. Its
    # steps are in standard deviations of each ImageNet colour, ours in their mean. Its filters
    # mirror the gradient at the borders of the shifted image, ours at those of the image.
    'gordicaleksa': NOTEBOOK | {
        'scale': 1.8, 'step': 0.09 * 0.226, 'normalize': 'std', 'smooth': 0.5, 'carry': 'image',
        'zoom': 1 - 1 / 1.04, 'rotate': 3.0, 'seconds': 1 / 30},
    # https://www.tensorflow.org/tutorials/generative/deepdream, its last function, at 'mixed3' and
    # 'mixed5' of an Inception v3. It shifts by up to 512 pixels and leaves out the gradient of its
    # last tiles, where ours is exact. It truncates sizes to whole pixels; we round them.
    'tensorflow': NOTEBOOK | {
        'kind': 'mean', 'octaves': 5, 'octaves_above': 2, 'scale': 1.3, 'steps': 100,
        'step': 0.01 / 2, 'normalize': 'std', 'jitter': 512, 'carry': 'image'},
    # https://github.com/ProGamerGov/neural-dream, at 'inception_4d/3x3_reduce'. Its ten iterations
    # over all octaves are frames without motion here. It truncates sizes; we round them.
    'neural-dream': NOTEBOOK | {
        'octaves': 2, 'scale': 1 / 0.6, 'steps': 50, 'step': 1.5 / 256, 'optimizer': 'adam',
        'normalize': '', 'clip': False, 'carry': 'image', 'frames': 10, 'zoom': 0.0},
}
