"""What the units of a trained network look for, and where the network sees a class.

    python launch.py --config=configs/visualize.py --workdir=runs/visualize
    python launch.py --config=configs/visualize.py:digits --workdir=runs/visualize-digits
    python launch.py --config=configs/visualize.py --config.source=timm/vgg16.tv_in1k \\
        --config.dataset=folder --config.data_dir=photos --config.layers=relu5_1:17+200,relu5_3 \\
        --config.images=me.jpg --workdir=runs/vgg16

The argument is 'photos' (default), which takes the embedded network, or 'digits', which takes that
of the quickstart. The strongest patches of a data set and their projections follow Zeiler & Fergus
2013, https://arxiv.org/abs/1311.2901; the images that excite units, their facets and pairs of them
Olah et al. 2017, https://distill.pub/2017/feature-visualization; the activation grid of a picture
Olah et al. 2018, https://distill.pub/2018/building-blocks; the activation atlas of a data set
Carter et al. 2019, https://distill.pub/2019/activation-atlas; the maps of where a class is seen the
papers that cnnjax/images/attribution.py names. Writes filters.png (the first layer), LAYER.png for
every layer, facets.png, pairs.png, grid.png, atlas.png, classes.png, saliency.png and
activations.png to figures/; also patches.npz (see cnnjax/images/strongest.py),
maximized/LAYER/UNIT.png and results.json. The same command again computes only what is missing.
"""

import ml_collections
from ml_collections.config_dict import placeholder


def get_config(what='photos'):
    if what not in PRESETS:
        raise ValueError(f"the argument is {' or '.join(map(repr, PRESETS))}, not '{what}'")
    config = ml_collections.ConfigDict()
    config.experiment = 'visualize'
    config.source = 'embedded'  # 'embedded', a run's workdir, a weights file or a hub id
    config.checkpoint = 'best'  # the checkpoint of a run: 'best', 'latest' or the number of a step
    config.name = placeholder(str)  # the network's name, if a weights file does not say it: 'vgg19'
    config.dataset = 'photos'  # 'digits', 'photos', 'folder', or a data set of tensorflow-datasets
    config.data_dir = placeholder(str)  # where the data set is
    config.bad_images = 'error'  # folder, unreadable pictures: 'error' stops, 'skip' omits them
    config.split = 'test'  # the split of the data set
    config.count = 0  # how many images, evenly spread over the set; 0: all
    config.layers = ''  # layers that configs/summarize.py prints; ':12+40' names two of its units;
    #                     '': the last layer of every size of maps
    config.units = 6  # units of each layer that names none, spread over the active ones
    config.patches = 9  # how many of a unit's strongest patches
    config.rules = 'deconvnet,guided,gradient'  # backward rules of the projections
    config.steps = 96  # steps of each image that excites a unit
    config.class_steps = 512  # the same for classes, some of which look for plain colours
    config.learning_rate = 0.3  # Adam's learning rate at the first step
    config.size = 0  # image side in pixels; 0: 128, or as many as the network needs
    # One layer is shown in more ways. A 0 leaves a figure out.
    config.layer = ''  # the layer of facets, pairs, grid and atlas; '': the last maps
    config.facets = 4  # images of each of its units, made to differ
    config.pairs = 3  # pairs of its units, with images from one to the other
    config.grid = 8  # the most rows and columns of the activation grid of the first picture
    config.atlas = 10  # rows and columns of the activation atlas of the data set
    config.classes = 20  # how many classes, evenly spread over all; 0: none
    # Saliency is drawn for all of these pictures, activations for the first: paths, or
    # 'skimage:NAME'. '': those of the data set that the network is surest of, from several classes.
    config.images = 'skimage:astronaut,skimage:rocket,skimage:text'  # pictures, with commas
    config.salient = 4  # how many pictures of the data set; 0: no saliency and no activations
    config.map_size = 192  # longer side, in pixels, of the picture that activations.png shows
    config.channels = 16  # channels of each layer in activations.png, those of the largest mean
    config.seed = 0  # seeds all that is random
    config.batch_size = 64  # images at a time, over all devices
    config.loader_threads = 16  # threads that decode images
    config.devices = 0  # how many local devices to use; 0: all
    config.update(PRESETS[what])
    return config


PRESETS = {
    'photos': {},
    'digits': {'source': 'runs/quickstart', 'dataset': 'digits', 'images': ''},
}
