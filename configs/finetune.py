"""Transfer learning: a network that was trained on other pictures learns your photographs.

    photos/train/cat/*.jpg  photos/train/dog/*.jpg  photos/test/cat/*.jpg  photos/test/dog/*.jpg

    python launch.py --config=configs/finetune.py:head --config.init_from=runs/resnet50 \\
        --config.data_dir=photos --workdir=runs/photos-head
    python launch.py --config=configs/finetune.py --config.init_from=runs/photos-head \\
        --config.data_dir=photos --workdir=runs/photos

The network, its fields, its normalization and its image size are those of `init_from`. A model
field that contradicts the weights is an error. The last layer is new, with one output per folder,
unless the classes are the same: the second command keeps the last layer of the first. The argument
says which layers learn:

    all (default)   every layer, the last one ten times as fast
    head            the last layer only: the fewest photographs, the least time

Between the two, --config.freeze=conv4_6 freezes that layer and all layers below it; the names are
those that configs/summarize.py prints. Frozen layers have no backward pass, and their batch
normalization keeps its statistics. With a few hundred photographs begin with `head`. Training more
layers pays if you have many photographs, or if they differ from those that the network knows.

Published weights work too, by hub id or from a file; a torch file needs the network's name:

    ... --config.init_from=timm/resnet50.tv_in1k
    ... --config.init_from=resnet50-11ad3fa6.pth --config.model.name=resnet50

For large pictures add --config.stream=True, and --config.shorter_side=256,320 for random crops.
"""

from ml_collections.config_dict import placeholder

from configs import base


def get_config(learning='all'):
    config = base.get_config()
    config.dataset = 'folder'
    with config.ignore_type():
        config.model.name = placeholder(str)  # None: that of init_from; so is image_size
        config.image_size = placeholder(int)
    config.flip = True
    config.batch_size = 32
    config.epochs = 30.0
    config.learning_rate = 0.005
    config.schedule = 'cosine'
    config.nesterov = True
    config.weight_decay = 1e-4
    config.report_every = 20
    if learning == 'all':
        config.head_rate = 10.0
    elif learning == 'head':
        config.freeze = 'all'
        config.learning_rate = 0.05
    else:
        raise ValueError(f"the argument is 'all' or 'head', not '{learning}'")
    return config
