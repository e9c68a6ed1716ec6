"""Your own photographs: one folder per class.

    photos/cat/*.jpg  photos/dog/*.jpg

    python launch.py --config=configs/folder.py --config.data_dir=photos \\
        --config.split=0.8/0.1/0.1 --workdir=runs/photos

This divides each class into a training, a validation and a test set. If the folders are divided
already, as photos/train/cat/*.jpg and photos/test/cat/*.jpg are, leave `split` out. docs/data.md
has the other forms: tables of labels, several classes in a picture, and arrays.

A picture may have any format that Pillow reads, but for drawings (PDF, PostScript), films and
scientific data. Folders inside the folder of a class and links are followed. One line says how many
pictures were found, and which files were left out.

By default every picture is scaled and cut to 64 x 64 pixels once and kept in memory, and a
ResNet-20 is trained from random weights. For a larger network on larger pictures, which are
decoded as needed and cropped at random, add

    ... --config.model.name=resnet50 --config.image_size=224 --config.test_shorter_side=256 \\
        --config.stream=True --config.mean=0.485,0.456,0.406 --config.std=0.229,0.224,0.225

With many cores, --config.loader_workers=8 decodes in eight processes.
"""

from configs import base


def get_config():
    config = base.get_config()
    config.dataset = 'folder'
    config.image_size = 64
    config.flip = True
    config.padding = 8
    config.padding_mode = 'reflect'
    config.batch_size = 32
    config.epochs = 60.0
    config.learning_rate = 0.05
    config.schedule = 'cosine'
    config.nesterov = True
    config.weight_decay = 5e-4
    config.report_every = 20
    return config
