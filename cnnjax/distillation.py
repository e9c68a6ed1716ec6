"""Learning from a trained network, the teacher: from its probabilities of the classes
(distillation), or from the activations of one of its layers (hints).

Hinton et al. 2015, https://arxiv.org/abs/1503.02531; FitNets, Romero et al. 2014, section 2,
https://arxiv.org/abs/1412.6550.

The teacher's answers are one more target of each example; the steps in step.py add them.
The teacher sees the same augmented images, with its own normalization and as in an evaluation. Its
variables are an argument of the compiled program, no part of the state, and have no gradient.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cnnjax import cluster, data, layers, summary, trained
from cnnjax.errors import UserError, suggest
from cnnjax.tasks.hint import REGRESSOR
from cnnjax.tasks.training_loss import HINT, TAUGHT
from cnnjax.trained import Trained

ACTIVATIONS = ('none', 'relu', 'maxout')
LIMITS = {'hint_activation': ACTIVATIONS}
OF_HINTS = {'guided_layer': '', 'hint_layer': '', 'hint_activation': 'none'}
UNCHANGED = data.Normalization(np.zeros(1, np.float32), np.ones(1, np.float32))
MAXOUT = 2  # the linear pieces of a maxout regressor, as in the authors' code


def check(config: ConfigDict) -> None:
    """Raises UserError if the loss needs a teacher, or layers, that are not given, or the other way
    round."""
    terms = [part.rpartition('*')[2].strip() for part in config.loss.split('+')]
    if config.task == 'stylize':  # Its loss is always the teacher's, see perceptual.py.
        return
    if not config.teacher and {HINT, *TAUGHT} & {*terms}:
        raise UserError(f"loss='{config.loss}' needs a teacher: set teacher to a trained network, "
                        "such as a run's workdir")
    if config.teacher and not {HINT, *TAUGHT} & {*terms}:
        raise UserError(f"teacher='{config.teacher}': nothing is learned from it with loss='"
                        f"{config.loss}': add {' or '.join([*TAUGHT, HINT])} to the loss, as in "
                        "'cross_entropy+distillation', or leave it out")
    for field, default in OF_HINTS.items():
        if HINT not in terms and config[field] != default:
            raise UserError(f"{field}='{config[field]}' has an effect only with loss='{HINT}': "
                            'leave it out')
    if HINT in terms and not (config.guided_layer and config.hint_layer):
        raise UserError(f"loss='{HINT}' needs two layers: guided_layer, of the network that "
                        'learns, and hint_layer, of the teacher; configs/summarize.py prints their '
                        'names')
    if HINT in terms and config.init_from:
        raise UserError(f"loss='{HINT}' begins with new weights: leave init_from out")
    if config.distillation_fall and config.distillation_last > _factor(config):
        raise UserError(f'distillation_last={config.distillation_last} is more than the factor of '
                        f"distillation in loss='{config.loss}', which falls to it")


def _factor(config):
    """The factor of distillation in the loss."""
    parts = [part.rpartition('*') for part in config.loss.split('+')]
    return next(float(factor or 1) for factor, _, name in parts if name.strip() in TAUGHT)


def load(config: ConfigDict) -> tuple[Trained | None, ConfigDict]:
    """The teacher of a config, the same in all processes, and the config with its digest.

    Raises:
      UserError: it is not there, or is another one than the digest says.
    """
    if not config.teacher:
        return None, config
    teacher = trained.load(config.teacher)
    digest = trained.fingerprint(teacher)[:16]
    cluster.agree(teacher=digest)
    if config.teacher_digest not in ('', digest):
        raise UserError(f"teacher='{config.teacher}' has the digest {digest}, not teacher_digest="
                        f"'{config.teacher_digest}': it is another one")
    config = config.copy_and_resolve_references()
    config.teacher_digest = digest
    return teacher, config


class Teaching(NamedTuple):
    """What a training takes of its teacher. A call is (variables of the teacher, normalized
    examples, step) -> the examples with 'taught': in a stage of hints the teacher's map 'hint',
    float32 [N, ..., C]; otherwise its 'logits', float32 [N, K], and the 'share' of the factor of
    distillation that the step has, [N]."""

    teacher: Trained
    normalize: data.Normalization  # has made the examples; the teacher may have another
    hint_layer: str = ''
    fall: float = 0.0  # over how many steps the share falls linearly from 1
    last: float = 1.0  # the share after that

    @property
    def variables(self) -> Any:
        """Those of the teacher."""
        return self.teacher.variables

    def __call__(self, variables: Any, examples: Any, step: Any) -> dict[str, Any]:
        teacher, images = self.teacher._replace(variables=variables), examples['image']
        own: Any = self.normalize
        theirs: Any = teacher.normalize
        if all(map(_same, own, theirs)):
            teacher = teacher._replace(normalize=UNCHANGED)
        else:
            images = own.inverse(images)
        if self.hint_layer:
            taught = {'hint': teacher.taps(images)[self.hint_layer].astype(jnp.float32)}
        else:
            logits = teacher(images).astype(jnp.float32)
            done = jnp.minimum(step / max(self.fall, 1), 1) if self.fall else 0.0
            share = jnp.asarray(1 - (1 - self.last) * done, jnp.float32)
            taught = {'logits': logits, 'share': jnp.broadcast_to(share, logits.shape[:1])}
        return {**examples, 'taught': taught}


def _same(a, b):
    """Whether two fields of a Normalization agree up to the rounding of different machines."""
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and np.allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(a).max())


class Guided(nn.Module):
    """A network with a further tap, the regressor of the first stage of FitNets (section 2.2): a
    convolution without padding from the guided layer to a map of the hint's size, which it has by
    the size of its kernel. Its parameters are beside those of the network."""

    net: nn.Module
    layer: str
    features: int
    kernel: tuple[int, ...]
    activation: str = 'none'  # one of ACTIVATIONS; the paper: that of the hint's layer

    def setup(self) -> None:
        nn.share_scope(self, self.net)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[Any, layers.Taps]:
        outputs, taps = self.net(images, train=train)
        pieces = MAXOUT if self.activation == 'maxout' else 1
        x = nn.Conv(pieces * self.features, self.kernel, padding='VALID', name=REGRESSOR,
                    dtype=getattr(self.net, 'dtype', jnp.float32))(taps[self.layer])
        x = layers.relu(x) if self.activation == 'relu' else layers.maxout(x, pieces)
        return outputs, {**taps, REGRESSOR: x}


def teaching(config: ConfigDict, teacher: Trained, examples: Any, normalize: data.Normalization,
             classes: Sequence[str], steps_per_epoch: int) -> Teaching:
    """The Teaching of a config.

    Args:
      examples: the shapes of a batch of one augmented example.
      normalize: that of the examples.
      classes: the names of the classes of the data.

    Raises:
      UserError: the teacher does not fit the data, or has no such layer.
    """
    hint, where, image = config.hint_layer, f"teacher='{config.teacher}'", examples['image']
    first = 1.0 if hint else _factor(config)
    made = Teaching(teacher, normalize, hint, config.distillation_fall * (
        1 if config.steps else steps_per_epoch), config.distillation_last / first)
    if not hint and teacher.task != 'classify':
        raise UserError(f"{where} was trained for the task '{teacher.task}': distillation needs a "
                        'classifier')
    if not hint and teacher.classes != tuple(classes):
        ours, theirs = next((pair for pair in zip(classes, teacher.classes, strict=False)
                             if pair[0] != pair[1]), (len(classes), len(teacher.classes)))
        raise UserError(f'{where} has other classes than the data, {theirs!r} where the data has '
                        f'{ours!r}: distillation needs the same, in the same order')
    try:
        taps = teacher.tap_shapes(image.shape[1:])
        if hint in ('', *taps):
            jax.eval_shape(functools.partial(made, teacher.variables), examples, 0)
            return made
    except UserError as error:
        raise UserError(f'{where} cannot see these images: {error}') from error
    raise UserError(f"hint_layer='{hint}' is no layer of {where}{suggest(hint, taps)}; it has "
                    f'{", ".join(taps)}')


def guided(config: ConfigDict, net: nn.Module, teacher: Trained,
           image_shape: Sequence[int]) -> tuple[Guided, frozenset[str]]:
    """The network of a stage of hints, and its layers above the guided one, which do not learn.

    Raises:
      UserError: there is no such layer, or no convolution makes of its map one of the hint's size.
    """
    layer, hint = config.guided_layer, teacher.tap_shapes(image_shape)[config.hint_layer]
    rows = {row.name: row for row in summary.summarize(net, image_shape).rows}
    if layer not in rows or rows[layer].shape is None:
        raise UserError(f"guided_layer='{layer}' is no layer of this network: take a name that "
                        f'configs/summarize.py prints{suggest(layer, rows)}')
    own: Any = rows[layer].shape
    if (len(own), len(hint)) != (len(image_shape),) * 2 or any(
            n < m for n, m in zip(own[:-1], hint[:-1], strict=True)):
        sizes = ' and '.join(f'{name} has {" x ".join(map(str, shape))}' for name, shape in (
            (f"guided_layer='{layer}'", own), (f"hint_layer='{config.hint_layer}'", hint)))
        raise UserError(f'{sizes}: both must be maps, and the guided one at least as large as the '
                        'hint')
    kernel = tuple(n - m + 1 for n, m in zip(own[:-1], hint[:-1], strict=True))
    known = {name for row in rows.values() for name in row.depends}
    return (Guided(net, layer, hint[-1], kernel, config.hint_activation),
            frozenset(known - rows[layer].depends))
