"""A microscope: a site with a page for every unit of a network.

    python launch.py --config=configs/microscope.py --workdir=runs/microscope
    python launch.py --config=configs/microscope.py --config.source=runs/quickstart \\
        --config.dataset=digits --config.units_per_layer=0 --workdir=runs/quickstart-microscope

Writes index.html, which opens from disk and needs no server, and manifest.json with all its
numbers; experiments/microscope lists the other files. The page of a unit shows the images that
activate and inhibit it most, several that are made to differ (both Olah et al. 2017,
https://distill.pub/2017/feature-visualization), its nine strongest patches and their projections
(Zeiler & Fergus 2013, https://arxiv.org/abs/1311.2901), and its activations over the data set and
by class. Each layer also has a page with the activation atlas of the data set (Carter et al. 2019,
https://distill.pub/2019/activation-atlas) and the activation grid of a photograph (Olah et al.
2018, https://distill.pub/2018/building-blocks). The pages can be read while the command runs; the
same command again adds what is missing.
"""

import ml_collections
from ml_collections.config_dict import placeholder


def get_config():
    config = ml_collections.ConfigDict()
    config.experiment = 'microscope'
    config.source = 'embedded'  # 'embedded', a run's workdir, a weights file or a hub id
    config.checkpoint = 'best'  # the checkpoint of a run: 'best', 'latest' or the number of a step
    config.name = placeholder(str)  # the network's name, if a weights file does not say it: 'vgg19'
    config.layers = ''  # layers that configs/summarize.py prints, 'relu2_2,fc8:12+40'; '': ReLUs,
    #                     sums of residual blocks and the last layer
    config.units_per_layer = 8  # how many units of every layer, from the first on; 0: all
    config.dataset = 'photos'  # the data set of the patches, as in configs/base.py
    config.data_dir = placeholder(str)  # where the data set is
    config.bad_images = 'error'  # folder, unreadable pictures: 'error' stops, 'skip' omits them
    config.split = 'train'  # the split of the data set
    config.count = 2000  # how many images, evenly spread over the set; 0: all
    config.size = 64  # image side in pixels, or as many as the network needs
    config.steps = 96  # steps of each maximization
    config.learning_rate = 0.3  # Adam's learning rate at the first step
    config.facets = 3  # images of each unit that are made to differ; 0: none
    config.grid = 6  # the most rows and columns of the activation grid of a photograph; 0: none
    config.photograph = 'skimage:astronaut'  # its picture: a path, or 'skimage:NAME'
    config.atlas = 6  # rows and columns of every layer's activation atlas; 0: none
    config.rule = 'deconvnet'  # the projections' backward rule: also 'guided', 'gradient'
    config.chunk = 32  # how many units are optimized, and saved, at once
    config.seed = 0  # seeds the noise that the images start from
    config.batch_size = 64  # images at a time, over all devices
    config.loader_threads = 16  # threads that decode images
    config.devices = 1  # how many local devices to use; 0: all
    return config
