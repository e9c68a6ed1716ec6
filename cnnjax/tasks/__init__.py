"""What a network learns: `tasks.create('classify', net)`, a Task.

A task is all that the one trainer (train.py, step.py) does not know: the targets of the examples,
the loss, and what an evaluation tells. Each has a file here, with

    TARGET      what an example of the data has beside its image: see data/geometry.py
    create(net, smoothing=0.0) -> Task
"""

from typing import Any

import flax.linen as nn

from cnnjax.errors import UserError, suggest
from cnnjax.tasks import classify, segment
from cnnjax.tasks.task import Task

TASKS = {'classify': classify, 'segment': segment}


def target(name: str) -> str:
    """What an example has beside its image for the task of that name: 'label' or 'mask'.

    Raises:
      UserError: there is no such task.
    """
    return _module(name).TARGET


def create(name: str, net: nn.Module, **options: Any) -> Task:
    """The Task of that name for a network, which may have heads of its own (see models).

    Raises:
      UserError: there is no such task.
    """
    return _module(name).create(net, **options)


def _module(name):
    if name not in TASKS:
        raise UserError(f"task is one of {', '.join(TASKS)}, not '{name}'{suggest(name, TASKS)}")
    return TASKS[name]
