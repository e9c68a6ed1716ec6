"""Your own photographs with a network that has already learned others: transfer learning.

    photos/train/cat/*.jpg  photos/train/dog/*.jpg  photos/test/cat/*.jpg  photos/test/dog/*.jpg

    python launch.py --config=configs/finetune.py:head --config.init_from=runs/resnet50 \\
        --config.data_dir=photos --workdir=runs/photos-head
    python launch.py --config=configs/finetune.py --config.init_from=runs/photos-head \\
        --config.data_dir=photos --workdir=runs/photos

The network, its fields, its normalization and the size of its images are those of `init_from`; a
field of model that says otherwise is refused where the weights depend on it. The last layer is new,
one output per folder, unless the classes are the same (the second command goes on with the last
layer of the first). The argument says what learns:

    all (default)   every layer, the last one ten times as fast
    head            the last layer only: the fewest photographs, the least time

Between the two, --config.freeze=conv4_6 freezes that layer and all below it; configs/summarize.py
prints the names. Frozen layers cost no backward pass, and their batch normalization keeps the
statistics it came with. With a few hundred photographs begin with `head`; other layers than the
last pay where the photographs are many, or unlike those the network was trained on.

Published weights, a hub id or a file, do as well; a torch file needs the network's name:

    ... --config.init_from=timm/resnet50.tv_in1k
    ... --config.init_from=resnet50-11ad3fa6.pth --config.model.name=resnet50

Large pictures: add --config.stream=True, and --config.shorter_side=256,320 for crops at random.
"""

from ml_collections.config_dict import placeholder

from configs import base


def get_config(learning='all'):
    config = base.get_config()
    config.dataset = 'folder'
    with config.ignore_type():
        config.model.name = placeholder(str)  # this and image_size: those of init_from
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
