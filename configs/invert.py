"""Images from their codes: what each layer of a network still knows of a picture.

    python launch.py --config=configs/invert.py --workdir=runs/invert
    python launch.py --config=configs/invert.py:mahendran2016 --config.source=vgg16.safetensors \\
        --config.images=photos --config.restarts=4 --workdir=runs/invert-vgg16
    python launch.py --config=configs/invert.py --config.source=runs/quickstart \\
        --config.dataset=digits --config.count=8 --workdir=runs/invert-digits

The argument is a preset, of whose values each can be overridden:

'adam'           default; ours, for small networks and few steps
'mahendran2015'  Mahendran & Vedaldi 2015, https://arxiv.org/abs/1412.0035, with the constants of
                 https://github.com/aravindhm/deep-goggle
'mahendran2016'  Mahendran & Vedaldi 2016, https://arxiv.org/abs/1512.02017, with the constants of
                 https://github.com/aravindhm/nnpreimage

Writes figures/inversions.png, reconstructions/LAYER/NAME.png, and results.json and results.md: the
error of every layer, its standard error over the images, and whether the class survives.
"""

import ml_collections
from ml_collections.config_dict import placeholder


def get_config(preset='adam'):
    config = ml_collections.ConfigDict()
    config.experiment = 'invert'
    config.source = 'embedded'  # or the working directory of a run, weights' file or hub id
    config.checkpoint = 'best'  # of a run: 'best', 'latest' or the number of a step
    config.name = ''  # the network's, where a file of weights does not say it
    config.layers = ''  # 'relu1_1,relu3_1', ':12+40' are two channels; '': the last of every size
    #                     of map; 'all'
    config.images = 'skimage:astronaut,skimage:coffee,skimage:cat'  # pictures, or a folder of them
    config.dataset = ''  # take the images from digits, photos, folder or a name of
    #                      tensorflow-datasets instead
    config.data_dir = placeholder(str)  # of the data set
    config.split = 'test'  # of the data set
    config.count = 4  # how many images of a folder or data set, spread over it; 0: all
    config.size = 0  # side of the square that is cut from the middle; 0: the network's own size
    config.restarts = 2  # from different noise, for every image; the one of lowest loss is kept
    config.seed = 0  # of everything random
    config.report_every = 50  # steps between two lines of metrics, snapshots and checkpoints
    config.devices = 0  # at most so many of the local devices; 0: all
    config.match = 'l2'  # how codes are compared: 'l2', 'l1' or 'inner'
    # Weights are tuples: the first for the first layers, the last for the last, in equal parts of
    # the network's depth. Penalties are of levels 0 to 255 less the network's mean.
    config.match_weight = (1.0,)  # of the code's error, divided by its squared norm
    config.tv_weight = (0.0,)  # of total variation
    config.tv_beta = 2.0  # its exponent
    config.alpha_weight = (0.0,)  # of the alpha-norm
    config.alpha = 6.0  # its exponent
    config.penalties = 'nnpreimage'  # means over pixels; 'deep-goggle': sums over 2 sigma^2
    config.sigma = 27098.11571533  # norm of a photograph less the mean at 227 x 227 x 3
    config.bound = 0.0  # largest norm of a pixel's colour less the mean, in levels; 0: none
    config.parametrization = 'pixels'  # in [0, 1]; 'levels' less the mean; 'sigma': these divided
    #                                    by a photograph's norm; or 'fourier': coefficients
    config.deviation = 0.01  # of the noise that 'fourier' and 'pixels' start with
    config.optimizer = 'adam'  # 'momentum' or 'adagrad'
    config.momentum = 0.9  # of 'momentum' and 'adagrad', which also forgets by it
    config.steps = (150, 50)  # of every stage; each starts with a fresh optimizer
    config.learning_rate = (0.05, 0.01)  # of every stage
    config.jitter = 0.0  # share of the layer's stride by which images move, but in the last stage

    if preset == 'mahendran2015':
        config.penalties = 'deep-goggle'
        config.tv_weight = (1.0, 10.0, 100.0)
        config.alpha_weight = (8e-10,)
        config.parametrization = 'sigma'
        config.optimizer = 'momentum'
        config.steps = (100, 200, 100)
        config.learning_rate = (0.004, 0.0004, 0.00004)
    elif preset == 'mahendran2016':
        # Their code runs all four at every layer; falling with depth, as their TV of 2015 rises.
        config.match_weight = (300.0, 100.0, 20.0, 1.0)
        config.tv_weight = ((6.5 / 80) ** 2,)
        config.alpha_weight = (80.0 ** -6,)
        config.bound = 160.0
        config.parametrization = 'levels'
        config.optimizer = 'adagrad'
        config.steps = (300, 50)
        config.learning_rate = (0.05 * 80 ** 2 / 6, 0.005 * 80 ** 2 / 6)  # of a pixel
        config.jitter = 0.25
    elif preset == 'adam':
        config.tv_weight = (1e-6, 3e-6, 2e-5)
    else:
        raise ValueError("the argument is 'adam', 'mahendran2015' or 'mahendran2016', not "
                         f"'{preset}'")
    return config
