"""Tasks, what a network can learn: `tasks.create('classify', net)` is a Task.

A task knows all that the trainer (train.py, step.py) does not: the targets of the examples, the
loss and the results of an evaluation. Each task is a file here, with

    TARGET      the name of the target that an example has (see data/geometry.py)
    create(net, smoothing=0.0) -> Task
"""

from typing import Any

import flax.linen as nn

from cnnjax.errors import UserError, suggest
from cnnjax.tasks import classify, segment
from cnnjax.tasks.task import Task

TASKS = {'classify': classify, 'segment': segment}


def target(name: str) -> str:
    """The target of the examples for the task of that name: 'label' or 'mask'.

    Raises:
      UserError: there is no such task.
    """
    return _module(name).TARGET


def create(name: str, net: nn.Module, **options: Any) -> Task:
    """The Task of that name for a network; some networks have auxiliary heads (see models).

    Raises:
      UserError: there is no such task.
    """
    return _module(name).create(net, **options)


def _module(name):
    if name not in TASKS:
        raise UserError(f"task is one of {', '.join(TASKS)}, not '{name}'{suggest(name, TASKS)}")
    return TASKS[name]
