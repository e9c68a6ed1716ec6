"""Inversion: what each layer of a network still knows about a picture.

    python launch.py --config=configs/invert.py --workdir=runs/invert
    python launch.py --config=configs/invert.py:mahendran2016 --config.source=vgg16.safetensors \\
        --config.images=photos --config.restarts=4 --workdir=runs/invert-vgg16
    python launch.py --config=configs/invert.py --config.source=runs/quickstart \\
        --config.dataset=digits --config.count=8 --workdir=runs/invert-digits

The argument is a preset, whose fields can be overridden:

'adam'           default; ours, for small networks and few steps
'mahendran2015'  Mahendran & Vedaldi 2015, https://arxiv.org/abs/1412.0035, with the constants of
                 https://github.com/aravindhm/deep-goggle
'mahendran2016'  Mahendran & Vedaldi 2016, https://arxiv.org/abs/1512.02017, with the constants of
                 https://github.com/aravindhm/nnpreimage

Writes figures/inversions.png and reconstructions/LAYER/NAME.png. results.json and results.md have
the error of every layer, its standard error over the images, and whether the class survives.
"""

import ml_collections
from ml_collections.config_dict import placeholder


def get_config(preset='adam'):
    config = ml_collections.ConfigDict()
    config.experiment = 'invert'
    config.source = 'embedded'  # 'embedded', a run's workdir, a weights file or a hub id
    config.checkpoint = 'best'  # the checkpoint of a run: 'best', 'latest' or the number of a step
    config.name = ''  # the network's name, if a weights file does not say it: 'vgg19'
    config.layers = ''  # layers, such as 'relu1_1,relu3_1:12+40' (two channels of it), or 'all';
    #                     '': the last layer of every size of maps
    config.images = 'skimage:astronaut,skimage:coffee,skimage:cat'  # paths, 'skimage:NAME', a
    #                                                                 folder
    config.dataset = ''  # take the images from 'digits', 'photos', 'folder' or a data set of
    #                      tensorflow-datasets instead
    config.data_dir = placeholder(str)  # where the data set is
    config.split = 'test'  # the split of the data set
    config.count = 4  # how many images of a folder or data set, evenly spread over it; 0: all
    config.size = 0  # side of the square cut from the middle; 0: the network's image size
    config.restarts = 2  # starts from different noise; the result of lowest loss is kept
    config.seed = 0  # seeds all that is random
    config.report_every = 50  # steps between two rows of metrics, snapshots and checkpoints
    config.devices = 0  # how many local devices to use, at most; 0: all
    config.match = 'l2'  # the loss that compares codes: 'l2', 'l1' or 'inner'
    # A weight is a tuple: its values serve equal parts of the network's depth, from the first
    # layers to the last. Penalties apply to levels from 0 to 255 less the network's mean.
    config.match_weight = (1.0,)  # weight of the code's error, divided by its squared norm
    config.tv_weight = (0.0,)  # weight of the total variation
    config.tv_beta = 2.0  # exponent of the total variation
    config.alpha_weight = (0.0,)  # weight of the alpha-norm
    config.alpha = 6.0  # exponent of the alpha-norm
    config.penalties = 'nnpreimage'  # means over pixels; or 'deep-goggle', sums over 2 sigma^2
    config.sigma = 27098.11571533  # norm of a typical photograph less the mean, at 227 x 227 x 3
    config.bound = 0.0  # largest norm of a pixel's colour less the mean, in levels; 0: none
    config.parametrization = 'pixels'  # 'pixels' in [0, 1]; 'levels' less the mean; 'sigma': levels
    #                                    divided by a photograph's norm; or 'fourier': coefficients
    config.deviation = 0.01  # standard deviation of the first noise of 'fourier' and 'pixels'
    config.optimizer = 'adam'  # 'adam', 'momentum' or 'adagrad'
    config.momentum = 0.9  # decay of 'momentum', and of the squares that 'adagrad' sums
    config.steps = (150, 50)  # the steps of each stage; each starts with a fresh optimizer
    config.learning_rate = (0.05, 0.01)  # the rate of each stage
    config.jitter = 0.0  # largest shift as a share of the layer's stride; none in the last stage

    if preset == 'mahendran2015':
        config.penalties = 'deep-goggle'
        config.tv_weight = (1.0, 10.0, 100.0)
        config.alpha_weight = (8e-10,)
        config.parametrization = 'sigma'
        config.optimizer = 'momentum'
        config.steps = (100, 200, 100)
        config.learning_rate = (0.004, 0.0004, 0.00004)
    elif preset == 'mahendran2016':
        # The authors' code tries all four weights at every layer. We let the weight fall with
        # depth, just as their total variation of 2015 rises.
        config.match_weight = (300.0, 100.0, 20.0, 1.0)
        config.tv_weight = ((6.5 / 80) ** 2,)
        config.alpha_weight = (80.0 ** -6,)
        config.bound = 160.0
        config.parametrization = 'levels'
        config.optimizer = 'adagrad'
        config.steps = (300, 50)
        config.learning_rate = (0.05 * 80 ** 2 / 6, 0.005 * 80 ** 2 / 6)  # in levels of a pixel
        config.jitter = 0.25
    elif preset == 'adam':
        config.tv_weight = (1e-6, 3e-6, 2e-5)
    else:
        raise ValueError("the argument is 'adam', 'mahendran2015' or 'mahendran2016', not "
                         f"'{preset}'")
    return config
