"""Translation: what moves with the picture, and what stays. The lecture's demonstrations, measured.

    python launch.py --config=configs/equivariance.py --workdir=runs/equivariance
    python launch.py --config=configs/equivariance.py --config.source=runs/quickstart \\
        --config.dataset=digits --workdir=runs/equivariance-digits

Equivariance, layer by layer: f(shift x) against shift f(x), away from the border. Invariance: how
often the most likely class survives a shift, and how alike the codes stay. Classical kernels on a
photograph, by the layer that networks are made of, and what max-pooling keeps. Writes results.json
and figures/equivariance.png, kernels.png and pooling.png.
"""

import ml_collections
from ml_collections.config_dict import placeholder


def get_config():
    config = ml_collections.ConfigDict()
    config.experiment = 'equivariance'
    config.source = 'embedded'  # or a run's working directory, a weights file, a hub id
    config.checkpoint = 'best'  # of a run: 'best', 'latest' or the number of a step
    config.name = placeholder(str)  # the network's, where a file of weights does not say it
    config.image = 'skimage:astronaut'  # a path, or a photograph of scikit-image
    config.size = 256  # side of the window on the picture whose activations are compared, pixels
    config.shifts = (1, 2, 3, 4, 7, 8, 16, 31, 32)  # of the window, down and right, in pixels
    config.layers = ''  # names that configs/summarize.py prints, 'conv1_1:0+5,pool1'; '': all with
    #                     maps; ':0+5' are two channels of it
    config.farthest = 8  # the classes and codes of images are compared up to this shift, in pixels
    config.count = 64  # how many images are classified: windows on the picture, or of the data set
    config.dataset = ''  # classify images of digits, photos, folder or a name of
    #                      tensorflow-datasets instead, their edges repeated where shifts uncover
    config.data_dir = placeholder(str)  # of the data set
    config.split = 'test'  # of the data set
    config.pool_size = 8  # side of the windows that are pooled, and the pixels between them
    config.seed = 0  # of the places of the windows
    config.batch_size = 64  # of the images that are classified
    return config
