"""Trains a recipe with several seeds and compares with the errors that its paper published.

    python launch.py --config=configs/reproduce.py:cifar/resnet20 --workdir=runs/reproduce-resnet20
    python launch.py --config=configs/reproduce.py:quickstart --workdir=runs/reproduce-quickstart

The argument is a recipe, the name of a config file and its argument: cifar/densenet_l40_k12,
imagenet/resnet50, mnist/lenet5_1998, quickstart/fractalnet, segment/coins, detect/yolo. Any
field of the recipe can be changed, as in --config.recipe.dataset=cifar100; the table then shows the
paper's error on that data set, and lists what else was changed.

Every seed is a training of its own, in seed0, seed1, ... of the workdir. The same command again
resumes an interrupted run; with a larger --config.seeds it adds the missing ones. Writes
results.json and results.md.
"""

import ml_collections

from configs import cifar, detect, imagenet, mnist, quickstart, segment

FAMILIES = {'cifar': cifar, 'detect': detect, 'imagenet': imagenet, 'mnist': mnist,
            'quickstart': quickstart, 'segment': segment}


def get_config(recipe='cifar/resnet20'):
    family, _, argument = recipe.partition('/')
    if family not in FAMILIES:
        raise ValueError(f"no recipe '{recipe}': take one of {', '.join(FAMILIES)}, and its "
                         "argument, as in 'cifar/resnet20'")
    module = FAMILIES[family]
    config = ml_collections.ConfigDict()
    config.experiment = 'reproduce'
    config.name = recipe  # the recipe's name, before any of its fields were changed
    config.seeds = 5  # how many seeds, from recipe.seed on
    config.recipe = module.get_config(*filter(None, [argument]))  # every field of a training
    # The published errors: source, how they were measured (of ImageNet the fields of views, which
    # the recipe has, too), and {error: {setting: value in %}}.
    config.paper = ml_collections.ConfigDict(
        module.PAPER.get(argument.removesuffix('_svhn') or config.recipe.model.name, {}))
    return config
