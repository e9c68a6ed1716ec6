"""Checks the config of a training: the limits of its fields, and which of them go together."""

from ml_collections import ConfigDict

from cnnjax import (
    averages,
    data,
    dataset,
    distillation,
    early_stopping,
    limits,
    lsuv,
    models,
    optim,
    parallel,
    perceptual,
    plan,
    plateau,
    tasks,
    trackers,
    views,
)
from cnnjax.data import crops, loader, pipeline
from cnnjax.data.augment import LIMITS as AUGMENTATION
from cnnjax.data.augment import USED
from cnnjax.errors import UserError
from cnnjax.limits import Whole

LIMITS = {
    'seed': limits.SEED, 'mask_values': Whole(0, 255), 'class_folders': data.class_folders.KINDS,
    'whiten': (False, True), 'batch_size': Whole(1), 'accumulate': Whole(1),
    'steps_per_call': Whole(0, 2 ** 16), 'keep': Whole(1), 'eval_batch_size': Whole(1),
    'log': trackers.NAMES, 'profile': Whole(), 'parallel': parallel.KINDS,
    **crops.LIMITS, **loader.LIMITS, **pipeline.LIMITS, **AUGMENTATION, **plan.LIMITS,
    **optim.LIMITS, **averages.LIMITS, **plateau.LIMITS, **early_stopping.LIMITS, **views.LIMITS,
    **tasks.training_loss.LIMITS, **distillation.LIMITS,
    **perceptual.LIMITS, **lsuv.LIMITS}


def check(config: ConfigDict) -> None:
    """Raises UserError if `config` has a value that no training can have."""
    limits.check(config, {field: limit for field, limit in LIMITS.items()
                          if config[field] is not None})  # None: image_size is inherited
    limits.check_used(config, {**optim.USED, **averages.USED, **plateau.USED, **perceptual.USED,
                               **USED})
    for field in optim.OF_LAYERS:
        optim.of_layers(field, config[field])
    plateau.check(config)
    early_stopping.check(config)
    for field in ('mixup', 'cutmix'):
        if config[field] and config.task != 'classify':
            raise UserError(f"{field}={config[field]} mixes two images and their labels: it needs "
                            f"task='classify', not '{config.task}'")
    if config.auto_augment and tasks.target(config.task) in ('mask', 'boxes'):
        raise UserError(f"auto_augment='{config.auto_augment}' would move what is in an image, but "
                        f"not its masks or boxes: task='{config.task}' has rotation and scale")
    if config.model.name:  # None: it is inherited
        models.create(**config.model, dtype=config.dtype)  # fails before the data is loaded
    tasks.loss(config)
    distillation.check(config)
    perceptual.check(config)
    if config.init != 'network' and config.init_from:
        raise UserError(f"init='{config.init}' makes new weights, and init_from='"
                        f"{config.init_from}' has others: leave one out")
    if (judged := dataset.val_split(config)) in (config.train_split, config.test_split):
        raise UserError(f"val_split='{judged}' is also the training's or the test's: "
                        'give a third split, or leave it out')
    if config.split:
        data.splits.parse(config.split)
    if config.split and config.dataset == data.FROM_PYTHON:
        raise UserError(f"split='{config.split}': data that is given in Python is divided there, "
                        "into {'train': ..., 'val': ..., 'test': ...} with val_split='val'")
