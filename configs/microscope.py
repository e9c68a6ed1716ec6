"""A microscope: a site with a page for every unit of a network.

    python launch.py --config=configs/microscope.py --workdir=runs/microscope
    python launch.py --config=configs/microscope.py --config.source=runs/quickstart \\
        --config.dataset=digits --config.units_per_layer=0 --workdir=runs/quickstart-microscope

Writes index.html, which opens from disk and needs no server, and manifest.json with all its
numbers; cnnjax/microscope says what else. The page of a unit has the images that activate and
inhibit it most (Olah et al. 2017, https://distill.pub/2017/feature-visualization), its nine
strongest patches and their projections (Zeiler & Fergus 2013, https://arxiv.org/abs/1311.2901), and
its activations over the data set and by class. The pages can be read while the command runs; the
same command again makes the units that are missing.
"""

import ml_collections
from ml_collections.config_dict import placeholder


def get_config():
    config = ml_collections.ConfigDict()
    config.experiment = 'microscope'
    config.source = 'embedded'  # or a run's working directory, a weights file, a hub id
    config.checkpoint = 'best'  # of a run: 'best', 'latest' or the number of a step
    config.name = placeholder(str)  # the network's, where a file of weights does not say it
    config.layers = ''  # names that configs/summarize.py prints, 'relu2_2,fc8:12+40'; '': see
    #                     experiments.microscope.manifest.activations
    config.units_per_layer = 8  # the first ones of every layer; 0: all
    config.dataset = 'photos'  # of the patches: or digits, folder, a name of tensorflow-datasets
    config.data_dir = placeholder(str)  # of the data set
    config.bad_images = 'error'  # folder: an unreadable image is an 'error', or 'skip' it
    config.split = 'train'  # of the data set
    config.count = 2000  # how many images, spread over the set; 0: all
    config.steps = 128  # of every maximization
    config.learning_rate = 0.05  # of Adam
    config.rule = 'deconvnet'  # of the projections: or 'guided', 'gradient' (images/rules.py)
    config.chunk = 32  # units that are optimized, and saved, at once
    config.seed = 0  # of the noise where the images begin
    config.batch_size = 64  # images at a time, over all devices
    config.loader_threads = 16  # that decode images
    config.devices = 1  # how many of the local devices; 0: all
    return config
