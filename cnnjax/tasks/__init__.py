"""Tasks, what a network can learn: `tasks.create('classify', net)` is a Task.

A task knows all that the trainer (train.py, step.py) does not: the targets of the examples, the
loss and the results of an evaluation. Each task is a file here, with

    TARGET      the name of the target that an example has (see data/geometry.py)
    create(net, chosen=CROSS_ENTROPY) -> Task, which learns with the chosen TrainingLoss, or with
                the loss of a detector; that of stylize.py takes what its teacher is asked
"""

import flax.linen as nn
from ml_collections import ConfigDict

from cnnjax.errors import UserError, suggest
from cnnjax.tasks import classify, detect, hint, multilabel, segment, stylize, training_loss
from cnnjax.tasks.task import Task
from cnnjax.tasks.training_loss import CROSS_ENTROPY, TrainingLoss

TASKS = {'classify': classify, 'multilabel': multilabel, 'segment': segment, 'detect': detect,
         'stylize': stylize}


def target(name: str) -> str:
    """The target of the examples for the task of that name: 'label', 'tags', 'mask' or 'boxes',
    or 'image', if there is no other.

    Raises:
      UserError: there is no such task.
    """
    return _module(name).TARGET


def loss(config: ConfigDict, classes: int | None = None) -> TrainingLoss:
    """The TrainingLoss that a config chooses, for that number of classes, if it is known.

    Raises:
      UserError: there is no such task or loss, or the task cannot learn with it.
    """
    return training_loss.of_config(config, target(config.task), classes)


def create(name: str, net: nn.Module, chosen: TrainingLoss = CROSS_ENTROPY) -> Task:
    """The Task of that name for a network; some networks have auxiliary heads (see models). An
    evaluation needs no `chosen` loss: it reports the mean cross-entropy, whatever the training's
    loss was, so that runs with different losses can be compared. With loss='hint' it is the same
    task for all of them, hint.py.

    Raises:
      UserError: there is no such task.
    """
    if chosen.terms[0][0] == training_loss.HINT:
        return hint.create(chosen.terms[0][1])
    if name == 'stylize':
        return stylize.create()
    return _module(name).create(net, chosen)


def _module(name):
    if name not in TASKS:
        raise UserError(f"task is one of {', '.join(TASKS)}, not '{name}'{suggest(name, TASKS)}")
    return TASKS[name]
