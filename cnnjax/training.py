"""The parts of a training that a config describes: network, task, optimizer, augmentation, plan."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.errors import FlaxError
from ml_collections import ConfigDict

from cnnjax import data, distillation, models, optim, perceptual, step, tasks, trained, transfer
from cnnjax.data import ranks
from cnnjax.data.augment import FIELDS
from cnnjax.errors import UserError
from cnnjax.plan import Plan, plan
from cnnjax.step import TrainState
from cnnjax.tasks import stylize
from cnnjax.tasks.task import Task


class Training(NamedTuple):
    """The parts of a training that a config describes; all but `plan` are pure functions."""

    net: Any  # a flax.linen module
    task: Task
    tx: Any  # optax's transformation of gradients
    augment: Callable  # (key, positions, examples) -> examples; see data.augment
    mix: Callable  # (key, examples, axis) -> examples; see data.mixed
    plan: Plan
    shapes: dict[str, Any]  # a batch of one augmented example: {'image', and each target}, [1, ...]
    classes: tuple[str, ...]
    frozen: frozenset = frozenset()  # layers that do not change
    head: frozenset = frozenset()  # layers that depend on the number of classes
    accumulate: int = 1
    # None: there is no teacher.
    teach: distillation.Teaching | perceptual.Perception | None = None

    def init(self, key: jax.Array) -> TrainState:
        """The step.TrainState before the first step."""
        return step.create(self.net, self.tx, key, self.shapes['image'].shape[1:], self.frozen,
                           lambda outputs: self.task.check(outputs, self.shapes, self.classes),
                           averaging=self.plan.average is not None)

    def check_evaluation(self, shapes: dict[str, Any]) -> None:
        """Raises UserError unless the network can be evaluated on a batch of one example of these
        shapes, whose images may have another size than those of the training."""
        images, own = shapes['image'].shape, self.shapes['image'].shape
        if images == own:
            return
        state = jax.eval_shape(self.init, jax.random.key(0))
        variables = {'params': state.params, 'batch_stats': state.batch_stats}
        try:
            outputs, _ = jax.eval_shape(functools.partial(self.net.apply, train=False), variables,
                                        jax.ShapeDtypeStruct(images, np.float32))
        except (FlaxError, ValueError, TypeError, ZeroDivisionError) as error:
            reason = f': {error}' if isinstance(error, UserError) else ''
            theirs, ours = (' x '.join(map(str, shape[1:-1])) for shape in (images, own))
            raise UserError(f'the test images have {theirs} pixels, which the '
                            f'network, trained on {ours}, cannot take{reason}. Bring '
                            'them to another size, with image_size or border') from error
        self.task.check(outputs, shapes, self.classes)

    def step(self, *arguments: Any, **options: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        """step.train_step with these parts: (state, data, batch, key, axis) -> (state, metrics)."""
        return step.train_step(*arguments, **self._parts(), **options)

    def steps(self, *arguments: Any, **options: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        """step.train_steps with these parts: many updates in one program."""
        return step.train_steps(*arguments, **self._parts(), **options)

    def _parts(self):
        return {'task': self.task, 'net': self.net, 'tx': self.tx, 'augment': self.augment,
                'mix': self.mix, 'accumulate': self.accumulate, 'frozen': self.frozen,
                'average': self.plan.average, 'teach': self.teach}


def build(config: ConfigDict, classes: Sequence[str], shapes: dict[str, Any],
          normalize: data.Normalization, examples: int,
          source: trained.Trained | None = None, *,
          teacher: trained.Trained | None = None) -> Training:
    """The Training that a config describes (see configs/base.py).

    Args:
      classes: the names of the classes.
      shapes: a batch of one example, {'image': uint8 [1, H, W, C], and each target [1, ...]}, as
        arrays or jax.ShapeDtypeStructs.
      normalize: a data.Normalization.
      examples: the number of training examples in an epoch.
      source: the trained.Trained of config.init_from, if that is set.
      teacher: that of config.teacher, if that is set.

    Raises:
      UserError: a field does not fit the other fields or the data.
    """
    net = models.create(**config.model, num_classes=len(classes), dtype=config.dtype)
    augment = functools.partial(data.augment, normalize=normalize, **{
        field: config[field] for field in FIELDS})
    mix = functools.partial(data.mixed, mixup=config.mixup, cutmix=config.cutmix)
    # Tracing finds what does not fit the images, before anything is written.
    shapes = jax.eval_shape(augment, jax.random.key(0), np.zeros(1, np.int32), shapes)
    image_shape = shapes['image'].shape[1:]
    if len(image_shape) != 3:
        _check_rank(net, config.model.name, image_shape)
    if source:
        transfer.check_network(net, transfer.adopted(net, source, config.init_from),
                               config.init_from)
    frozen = transfer.frozen_layers(net, config.freeze, image_shape)
    if frozen and not source:
        raise UserError(f"freeze='{config.freeze}' would freeze random weights: give init_from")
    head = frozenset()
    if source or config.head_rate != 1:
        head = transfer.head(net, image_shape)
    lengths = plan(config, examples)
    teach = None
    if teacher and config.task == 'stylize':
        teach = perceptual.perception(config, teacher, shapes, normalize)
    elif teacher:
        teach = distillation.teaching(config, teacher, shapes, normalize, classes,
                                      lengths.steps_per_epoch)
    if teacher and config.hint_layer:
        net, frozen = distillation.guided(config, net, teacher, image_shape)
    tx = optim.create(lengths.rate, head=head,
                      factor=lengths.plateau.multiplier if lengths.plateau else None,
                      **{field: config[field] for field in optim.FIELDS})
    task = tasks.create(config.task, net, tasks.loss(config, len(classes)))
    if isinstance(teach, perceptual.Perception):
        task = stylize.create(teach.judge, normalize.std.reshape(1, 1, -1),
                              perceptual.stability(config))
    return Training(net, task, tx, augment, mix, lengths, shapes, tuple(classes), frozen, head,
                    config.accumulate, teach)


def _check_rank(net, name, shape):
    """Raises UserError unless the network takes sequences or volumes of that shape."""
    images, reason = jax.ShapeDtypeStruct((2, *shape), np.float32), 'it mixes the examples'
    try:
        (outputs, _), _ = jax.eval_shape(functools.partial(net.init_with_output, train=False),
                                         jax.random.key(0), images)
        if all(output.shape[:1] == (2,) for output in jax.tree.leaves(outputs)):
            return
    except (FlaxError, ValueError, TypeError, IndexError, ZeroDivisionError) as error:
        reason = str(error).splitlines()[0]
    raise UserError(f'{name} does not take {ranks.name(shape)}s {list(shape)}: {reason}')
