"""DeepDream: amplifies what a network sees in a picture.

    python launch.py --config=configs/dream.py --workdir=runs/dream
    python launch.py --config=configs/dream.py --workdir=runs/me --config.images=me.jpg
    python launch.py --config=configs/dream.py --workdir=runs/zoom --config.frames=20 \\
        --config.size=224
    python launch.py --config=configs/dream.py --workdir=runs/guided --config.kind=guided \\
        --config.guide=skimage:grass
    python launch.py --config=configs/dream.py:gordicaleksa --workdir=runs/vgg16 \\
        --config.source=timm/vgg16.tv_in1k --config.layers=relu4_3

Mordvintsev et al. 2015, https://github.com/google/deepdream. The argument is a preset: 'cnnjax',
'google', 'gordicaleksa', 'tensorflow' or 'neural-dream'. Presets set the ascent; with another
network than `embedded`, name the layer with `--config.layers`. The first two presets ascend alike:
'cnnjax' on one channel of a layer, 'google' on all of them, as the notebook does. Several pictures
or layers have commas between them. Writes the last frame at full size to figures/dream.png, the
intermediate images to snapshots/ and, if there are several frames, figures/dream.gif.
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
    config.layers = 'relu4_2:2'  # names of configs/summarize.py; ':12+40' are two of its channels
    config.weights = ()  # a weight for each layer; (): 1 for each
    config.kind = 'l2'  # the objective: 'l2', half the sum of squares; 'mean'; or 'guided'
    config.guide = ''  # with kind='guided', the picture whose activations guide the dream
    config.guide_size = 224  # longer side of the guide, in pixels
    config.octaves = 4  # how many sizes of the picture, from small to large
    config.scale = 1.4  # the ratio of one size to the one before
    config.octaves_above = 0  # how many of the octaves are larger than the picture
    config.carry = 'detail'  # what an octave passes on: the 'detail' that it added, or its 'image'
    config.steps = 10  # steps per octave
    config.step = 1.5 / 255  # the learning rate, where black to white is 1
    config.optimizer = 'sgd'  # 'sgd' or 'adam'
    config.normalize = 'mean_abs'  # divide the gradient by its 'mean_abs', 'std' or 'l2'; '': no
    config.smooth = 0.0  # smallest sigma, in pixels, of Gaussians over the gradient; 0: none
    config.jitter = 32  # largest random shift before a step, in pixels
    config.clip = True  # clip the image to [0, 1] after every step
    config.tile = 0  # side of tiles, in pixels, which save memory; 0: the whole picture at once
    config.relu = 'gradient'  # backward rule: 'gradient', 'deconvnet', 'guided' or 'redirected'
    config.pool = ''  # 'average' or 'max' replaces the network's max-pools; '': as they are
    config.frames = 1  # frames of an animation; each starts from the one before
    config.zoom = 0.05  # share of the picture that is cut off between two frames
    config.rotate = 0.0  # degrees of rotation between two frames, anticlockwise
    config.translate = (0.0, 0.0)  # pixels moved down and right between two frames
    config.animation = 'gif'  # the format: 'gif', 'webp' or 'apng'
    config.seconds = 0.1  # seconds per frame
    config.seed = 0  # seeds all that is random
    config.report_every = 10  # steps between reports and snapshots
    config.update(PRESETS[preset])
    return config


ALL = {'layers': 'relu4_2'}  # all of its channels: the other systems maximise whole layers

PRESETS = {
    'cnnjax': {},  # the fields above
    # https://github.com/google/deepdream, dream.ipynb: the fields above, at 'inception_4c' of a
    # GoogLeNet ('inception_3b' for its guided dreams). Without clipping, the notebook raises the
    # contrast of what it shows; we cut values off.
    'google': ALL,
    # https://github.com/gordicaleksa/pytorch-deepdream, deepdream.py, at 'relu4_3' of a VGG-16. Its
    # steps are in standard deviations of each ImageNet colour, ours in their mean. Its filters
    # mirror the gradient at the borders of the shifted image, ours at those of the image.
    'gordicaleksa': ALL | {
        'scale': 1.8, 'step': 0.09 * 0.226, 'normalize': 'std', 'smooth': 0.5, 'carry': 'image',
        'zoom': 1 - 1 / 1.04, 'rotate': 3.0, 'seconds': 1 / 30},
    # https://www.tensorflow.org/tutorials/generative/deepdream, its last function, at 'mixed3' and
    # 'mixed5' of an Inception v3. It shifts by up to 512 pixels and leaves out the gradient of its
    # last tiles, where ours is exact. It truncates sizes to whole pixels; we round them.
    'tensorflow': ALL | {
        'kind': 'mean', 'octaves': 5, 'octaves_above': 2, 'scale': 1.3, 'steps': 100,
        'step': 0.01 / 2, 'normalize': 'std', 'jitter': 512, 'carry': 'image'},
    # https://github.com/ProGamerGov/neural-dream, at 'inception_4d/3x3_reduce'. Its ten iterations
    # over all octaves are frames without motion here. It truncates sizes; we round them.
    'neural-dream': ALL | {
        'octaves': 2, 'scale': 1 / 0.6, 'steps': 50, 'step': 1.5 / 256, 'optimizer': 'adam',
        'normalize': '', 'clip': False, 'carry': 'image', 'frames': 10, 'zoom': 0.0},
}
