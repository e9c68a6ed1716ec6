"""A trained network for other programs: its weights, and a program that needs JAX alone.

    python launch.py --config=configs/export.py --config.source=runs/quickstart \\
        --workdir=exports/digits

It writes

    network.safetensors  the weights, with timm's or torchvision's names if either has the network
    network.jax_export   the network with its weights and normalization, as StableHLO
    network.json         the classes, the inputs and outputs, and how a picture becomes an image

then loads the files again and compares them with the network: on the first images of the run's test
set if it is there, on noise otherwise. What differs by more than rounding is not kept.
"""

import ml_collections
from ml_collections.config_dict import placeholder


def get_config():
    config = ml_collections.ConfigDict()
    config.experiment = 'export'
    config.source = 'runs/quickstart'  # the network: a run's workdir, a weights file or a hub id
    config.checkpoint = 'best'  # the checkpoint of a run: 'best', 'latest' or the number of a step
    config.name = placeholder(str)  # the network's name, if a weights file does not say it
    config.formats = 'safetensors,jax_export'  # the files that are written: both, or one of them

    # The weights.
    config.names = ''  # the library that names the weights: 'timm', 'torchvision' or 'cnnjax'; '':
    #           the first of these that has this network

    # The program.
    config.dtype = 'uint8'  # the type of its images; 'float32' are those from 0 to 1
    config.multiple = placeholder(int)  # height and width may be any multiples of so many pixels,
    #           from about half of the training's on; 1: any; 0: only the training's; None: of 32,
    #           or what else suits the network and the training's images
    config.platforms = 'cpu,cuda,tpu'  # the devices that can run it; there is 'rocm', too
    return config
