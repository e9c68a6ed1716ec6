"""What a trained network sees on pictures of any size.

    python launch.py --config=configs/predict.py --config.source=runs/segment \\
        --config.pictures=photos --workdir=runs/predictions

Writes, for each picture, masks/NAME.png with the number of a class in each pixel, shown in PASCAL
VOC's colours, and overlays/NAME.png, the picture under these colours; and predictions.csv with
the share of each class in each picture. Pictures that cannot be read are listed and left out.
"""

import ml_collections
from ml_collections.config_dict import placeholder


def get_config():
    config = ml_collections.ConfigDict()
    config.experiment = 'predict'
    config.source = 'runs/segment'  # the network: a run's workdir, a weights file or a hub id
    config.checkpoint = 'best'  # the checkpoint of a run: 'best', 'latest' or the number of a step
    config.name = placeholder(str)  # the network's name, if a weights file does not say it
    config.pictures = ''  # files, folders or patterns such as 'new/*.jpg', with commas between them
    config.opacity = 0.5  # the share of the colours in the overlays, from 0 to 1
    config.tile = 1024  # the largest side, in pixels, that the network sees at once
    return config
