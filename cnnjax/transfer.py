"""Transfer learning: a trained network with a new head, some of its layers frozen.

Yosinski et al. 2014, "How transferable are features in deep neural networks?",
https://arxiv.org/abs/1411.1792: take the layers of a network trained on one task, replace the last
by one for the new classes, and train either all (fine-tuning) or only the upper layers.

A frozen layer is not differentiated, so the backward pass ends above it; it has no momentum and no
weight decay. Its batch normalization uses and keeps the statistics it came with: those of small new
batches would change features without any layer adapting to it (Keras does the same; torch users
call .eval()). Dropout works as in training.

A layer's name is the path of its module: 'conv1', 'conv2_1/bn1'.
"""

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from cnnjax import limits, models, summary, user_network
from cnnjax.errors import UserError, suggest
from cnnjax.models import resnet


def head(net: nn.Module, image_shape: Sequence[int]) -> frozenset[str]:
    """The layers whose parameters depend on the number of classes."""
    def shapes(net):
        image = jax.ShapeDtypeStruct((1, *image_shape), 'float32')
        params = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, train=False), image)
        return {path: array.shape for path, array in _flat(params['params']).items()}

    fewer = net.num_classes - 1 or 2  # LeNet-5 of 1998 has codes for ten classes at most.
    own, other = shapes(net), shapes(net.clone(num_classes=fewer))
    return frozenset(_layer(path) for path in own if own[path] != other[path])


def frozen_layers(net: nn.Module, freeze: str, image_shape: Sequence[int]) -> frozenset[str]:
    """The set of layers that `freeze` freezes.

    Args:
      freeze: '' for none, 'all' for all but the head, or layers, with commas between them, which
        are frozen with all layers that they depend on. The batch normalization after a convolution
        is a layer of its own: 'relu1' freezes it, 'conv1' does not.

    Raises:
      UserError: there is no such layer, or nothing is left to train.
    """
    if not freeze:
        return frozenset()
    rows = {row.name: row for row in summary.summarize(net, image_shape).rows}
    layers = {name for name, row in rows.items() if name in row.depends}
    learning = {name for name, row in rows.items() if row.params}
    frozen = set()
    for name in limits.names(freeze):
        if name == 'all':
            frozen |= layers - head(net, image_shape)
        elif name not in rows:
            raise UserError(f"freeze='{freeze}': '{name}' is no layer of this network: take 'all', "
                            'or names that configs/summarize.py prints'
                            f'{suggest(name, ["all", *rows])}')
        elif getattr(net, 'scan', False):
            raise UserError(f"freeze='{freeze}': with model.scan the repeated blocks' parameters "
                            "are one array, which cannot be frozen in part: set model.scan=False, "
                            "or freeze='all'")
        else:
            frozen |= rows[name].depends
    # Statistics without parameters (FractalNet's columns) freeze with the module they are in.
    for layer in layers - learning - frozen:
        module = layer.rpartition('/')[0] + '/'
        kin = {other for other in learning if other.startswith(module)}
        if kin and kin <= frozen:
            frozen.add(layer)
    if learning <= frozen:
        raise UserError(f"freeze='{freeze}' leaves nothing to train: name a lower layer, or 'all' "
                        'for all but the last')
    return frozenset(frozen)


def split(tree: Any, frozen: Collection[str]) -> tuple[Any, ...]:
    """(the trainable part, the frozen part) of params or batch_stats."""
    if not frozen:
        return tree, {}
    flat = _flat(tree)
    parts = [{path: value for path, value in flat.items() if (_layer(path) in frozen) == which}
             for which in (False, True)]
    return tuple(map(traverse_util.unflatten_dict, parts))


def merge(trainable: Any, fixed: Any) -> Any:
    """The inverse of `split`."""
    if not fixed:
        return trainable
    return traverse_util.unflatten_dict(_flat(trainable) | _flat(fixed))


def frozen_norms(frozen: Collection[str]) -> AbstractContextManager[None]:
    """A context in which the batch normalization of frozen layers is in inference mode."""
    def intercept(function, arguments, options, context):
        module = context.module
        if (isinstance(module, nn.BatchNorm) and context.method_name == '__call__'
                and '/'.join(module.path) in frozen):
            still = module.clone(parent=None, use_running_average=True)
            return still.apply(module.variables, *arguments, **options)
        return function(*arguments, **options)

    return nn.intercept_methods(intercept)


def inherit(config: ConfigDict, source: Any) -> ConfigDict:
    """`config` with its missing network, network fields and image size taken from `source`, a
    Trained or None, and with the absolute path of a user's own network."""
    config = config.copy_and_resolve_references()
    if config.model.name:
        with config.unlocked():
            config.model.name = user_network.located(config.model.name)
    model = {name: value for name, value in config.model.items() if value is not None}
    if source is None:
        if 'name' in model and config.image_size is not None:
            return config
        raise UserError('model.name and image_size are not given, and neither is init_from: give '
                        'the weights to start from, as in --config.init_from=embedded')
    with config.unlocked():
        if model.get('name', source.name) == source.name:
            config.model = type(config)({
                **config.model, 'name': source.name, **models.fields(source.name, source.net),
                **model})
        if config.image_size is None:  # Sequences and volumes stay as long as they are.
            config.image_size = source.image_shape[0] if len(source.image_shape) == 3 else 0
    return config


def check_network(net: nn.Module, source: Any, where: str) -> None:
    """Raises UserError if `net` differs from the network of `source` (a Trained from `where`) in a
    field that the weights depend on. The variables of another family do not fit anyway."""
    if type(net) is not type(source.net):
        return
    changed = [f'{field}={models.plain(field, theirs)!r} there, {models.plain(field, own)!r} here'
               for field in models.settings(net) if field not in models.FREE
               for own, theirs in [(getattr(net, field), getattr(source.net, field))]
               if own != theirs]
    if changed:
        # Fields come along only from a network of the same name.
        remedy = ('give those fields of model the values there' if hasattr(net, 'adopt') else
                  'leave out those fields of model, whose values then come along, and model.name, '
                  f"'{source.name}'")
        raise UserError(f"init_from='{where}' was trained as another network: "
                        f'{"; ".join(changed)}. Its weights depend on that: {remedy}')


def adopted(net: nn.Module, source: Any, where: str) -> Any:
    """`source`, a Trained from `where`, in the form for `net`: what `net.adopt` makes of it, if
    there is that (see models/__init__), and with its `scan`.

    Raises:
      UserError: `net` cannot start from such a network.
    """
    if hasattr(net, 'adopt'):
        found = net.adopt(source.net, source.variables)
        if found is None:
            raise UserError(f"init_from='{where}' holds a network of another kind, "
                            f'{source.name or type(source.net).__name__}: {type(net).__name__} '
                            f'starts from one like itself or like {net.adopts[0]}')
        source = source._replace(net=found[0], variables=found[1])
    scan, theirs = (getattr(of, 'scan', False) for of in (net, source.net))
    if scan == theirs:
        return source
    return source._replace(
        variables=(resnet.stack if scan else resnet.unstack)(source.variables))


def layers(variables: Any) -> frozenset[str]:
    """The layers that have variables, {'params', 'batch_stats'}."""
    return frozenset(_layer(path[1:]) for path in _flat(variables))


def carry_over(variables: Any, source: Any, new: Collection[str], where: str) -> dict[str, Any]:
    """Fresh variables, {'params', 'batch_stats'}, in which all layers but those in `new` are
    replaced by the layers of `source`, variables that came from `where`.

    Raises:
      UserError: they do not fit; the message lists what is missing, unexpected and mis-shaped.
    """
    fresh, theirs = _flat(variables), _flat(source)
    mine, kept = ({path for path in tree if _layer(path[1:]) not in new}
                  for tree in (fresh, theirs))
    wrong = [('missing there', mine - kept), ('unexpected', kept - mine), ('of another shape', {
        path for path in mine & kept if np.shape(fresh[path]) != np.shape(theirs[path])})]
    if any(paths for _, paths in wrong):
        lines = [f'  {len(paths)} {what}: ' + ', '.join('/'.join(path) + (
            f' {np.shape(theirs[path])} there, {np.shape(fresh[path])} here'
            if path in mine & kept else '')
            for path in sorted(paths, key=lambda path: (path[0] != 'params', path))[:4])
            + (' ...' if len(paths) > 4 else '') for what, paths in wrong if paths]
        raise UserError('\n'.join([
            f"init_from='{where}' does not fit the network:", *lines,
            'The same network is needed (its fields too), and, where full layers see the pixels, '
            'the same image_size']))
    return traverse_util.unflatten_dict(fresh | {path: theirs[path] for path in mine})


def check_images(normalize: Any, image_shape: Sequence[int], where: str) -> None:
    """Raises UserError if the normalization from `where` does not fit images [H, W, C]."""
    if not normalize.fits(image_shape):
        shape = np.broadcast_shapes(np.shape(normalize.mean), np.shape(normalize.std))
        raise UserError(f"init_from='{where}' normalizes images of {shape}, the data has "
                        f'{tuple(image_shape)}: set image_size, or take colour for colour')


def _flat(tree) -> dict[tuple[str, ...], Any]:
    return traverse_util.flatten_dict(tree)


def _layer(path):
    return '/'.join(path[:-1] or path)
