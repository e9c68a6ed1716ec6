"""What the units of a trained network look for, and where it sees a class.

    python launch.py --config=configs/visualize.py --workdir=runs/visualize
    python launch.py --config=configs/visualize.py:digits --workdir=runs/visualize-digits
    python launch.py --config=configs/visualize.py --config.source=timm/vgg16.tv_in1k \\
        --config.dataset=folder --config.data_dir=photos --config.layers=relu5_1:17+200,relu5_3 \\
        --config.images=me.jpg --workdir=runs/vgg16

The argument is 'photos', the embedded network (default), or 'digits', that of the quickstart. The
strongest patches of a data set and their projections are those of Zeiler & Fergus 2013,
https://arxiv.org/abs/1311.2901, the images that excite units those of Olah et al. 2017,
https://distill.pub/2017/feature-visualization. Writes to figures/: filters.png, the first layer;
LAYER.png for every layer; classes.png; saliency.png; activations.png; and patches.npz (see
cnnjax/images/strongest.py), maximized/LAYER/UNIT.png and results.json. What an interrupted run has
finished is not computed again.
"""

import ml_collections
from ml_collections.config_dict import placeholder


def get_config(what='photos'):
    if what not in PRESETS:
        raise ValueError(f"the argument is {' or '.join(map(repr, PRESETS))}, not '{what}'")
    config = ml_collections.ConfigDict()
    config.experiment = 'visualize'
    config.source = 'embedded'  # or a run's working directory, a weights file, a hub id
    config.checkpoint = 'best'  # of a run: 'best', 'latest' or the number of a step
    config.name = placeholder(str)  # of the network, where a weights file does not say it
    config.dataset = 'photos'  # or digits, folder, or a name of tensorflow-datasets
    config.data_dir = placeholder(str)  # of the data set
    config.bad_images = 'error'  # folder: an unreadable image is an 'error', or 'skip' it
    config.split = 'test'  # of the data set
    config.count = 0  # how many of its images, spread over the set; 0: all
    config.layers = ''  # names that configs/summarize.py prints; ':12+40' are two of its units;
    #                     '': the last layer of every size of maps
    config.units = 6  # of a layer that names none, spread over those that are active
    config.patches = 9  # of a unit, its strongest
    config.rules = 'deconvnet,guided,gradient'  # of the patches' projections, see rules.py
    config.steps = 128  # of an image that excites a unit
    config.learning_rate = 0.05  # of its steps
    config.size = 0  # its side, in pixels; 0: twice the receptive field, as large as in training
    config.classes = 20  # shown, spread over all; 0: none
    # Of the saliency, and the first of the activations: paths, or photographs of scikit-image; '':
    # those of the data set that are seen best, of classes spread over all.
    config.images = 'skimage:astronaut,skimage:rocket,skimage:text'  # commas between them
    config.salient = 4  # how many of the data set; 0: no saliency and no activations
    config.map_size = 192  # longer side of the picture whose activations are drawn, in pixels; of
    #                     the data set it stays as it is
    config.channels = 16  # of each layer in the figure of activations, of the largest mean
    config.seed = 0  # of everything random
    config.batch_size = 64  # over all devices
    config.loader_threads = 16  # that decode images
    config.devices = 0  # how many of the local devices; 0: all
    config.update(PRESETS[what])
    return config


PRESETS = {
    'photos': {},
    'digits': {'source': 'runs/quickstart', 'dataset': 'digits', 'images': ''},
}
