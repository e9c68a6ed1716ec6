"""Translation, measured layer by layer: what moves with the picture, and what stays.

    python launch.py --config=configs/equivariance.py --workdir=runs/equivariance
    python launch.py --config=configs/equivariance.py --config.source=runs/quickstart \\
        --config.dataset=digits --workdir=runs/equivariance-digits

Equivariance compares f(shift x) with shift f(x) at each layer, away from the border. Invariance is
how often the most likely class survives a shift, and how similar the codes stay. One more figure
shows what max-pooling keeps of edges that move. Writes results.json, and equivariance.png and
pooling.png to figures/.
"""

import ml_collections
from ml_collections.config_dict import placeholder


def get_config():
    config = ml_collections.ConfigDict()
    config.experiment = 'equivariance'
    config.source = 'embedded'  # 'embedded', a run's workdir, a weights file or a hub id
    config.checkpoint = 'best'  # the checkpoint of a run: 'best', 'latest' or the number of a step
    config.name = placeholder(str)  # the network's name, if a weights file does not say it: 'vgg19'
    config.image = 'skimage:astronaut'  # a path, or 'skimage:NAME' for a picture of scikit-image
    config.size = 256  # side, in pixels, of the window on the picture that is shifted
    config.shifts = (1, 2, 3, 4, 7, 8, 16, 31, 32)  # shifts of the window down and right, in pixels
    config.layers = ''  # layers that configs/summarize.py prints, 'conv1_1:0+5,pool1' (':0+5': two
    #                     channels of it); '': all layers with maps
    config.farthest = 8  # largest shift, in pixels, at which classes and codes are compared
    config.count = 64  # how many images are classified: windows, or images of the data set
    config.dataset = ''  # '': classify windows; or images of 'digits', 'photos', 'folder' or a data
    #                      set of tensorflow-datasets, whose edges fill what shifts uncover
    config.data_dir = placeholder(str)  # where the data set is
    config.split = 'test'  # the split of the data set
    config.pool_size = 8  # side of the pooling windows in pixels, and their stride
    config.seed = 0  # seeds the windows' places
    config.batch_size = 64  # images that are classified at a time
    return config
