"""Loads published weights and saves our own, with the tensor names of timm and torchvision.

    weights.load('vgg19', 'timm/vgg19.tv_in1k')  # from the Hugging Face hub, once; then its cache
    weights.load('vgg19', 'vgg19-dcbb9e9d.pth')  # a file: .safetensors, or torch's .pth
    weights.load('inception_v1', 'tensorflow_inception_graph.pb')  # or a frozen graph
    weights.save(trained.load('runs/vgg19'), 'vgg19.safetensors')  # opens in timm

If timm or torchvision has the same network, the file has their names of the tensors, which
counterparts.py derives from ours. Otherwise it has our own names, the paths of the parameters
('params/conv1/kernel'). tensors.py reads the files.
"""

import contextlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import traverse_util

from cnnjax import atomic, counterparts, limits, metadata, models, tensors, user_network
from cnnjax.data import Normalization
from cnnjax.errors import UserError
from cnnjax.models import resnet

OURS = ('params/', 'batch_stats/')  # The beginnings of our own tensor names.
NAMES = ('', 'timm', 'torchvision', 'lucent', 'cnnjax')  # the arguments of `save`
WHITENING = 'normalize/whitening'  # the tensor of data.Normalization


class Weights(NamedTuple):
    """A network, its variables, and a description of its images and outputs."""

    name: str  # as `models.create` takes it
    net: nn.Module
    variables: Any  # {'params': ..., 'batch_stats': ...}, numpy arrays
    normalize: Normalization  # uint8 or [0, 1] images [..., H, W, C] -> the network's input
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]  # [H, W, C]
    evaluation: dict[str, Any] = {}  # see metadata.EVALUATION


def is_weights(source: str | os.PathLike[str]) -> bool:
    """Whether `source` looks like a weights file or a hub id, and not like a run's directory."""
    source = str(source)
    return not os.path.isdir(source) and (
        source.startswith((tensors.HUB, 'timm/'))
        or Path(source).suffix in tensors.SUFFIXES)


def load(name: str | None, source: str | os.PathLike[str], others: Sequence[str] = (),
         **fields: Any) -> Weights:
    """The network `name` with published weights, or with weights that `save` wrote.

    Args:
      name: as `models.create` takes it; None: the network that the source names.
      source: a .safetensors file with timm's, torchvision's or our names of the tensors; a torch
        file (.pth, .pt, .bin; needs the extra 'torch'); or an id on the Hugging Face hub, such as
        'timm/vgg19.tv_in1k' (needs the extra 'hub'; downloaded once, offline from then on).
      others: names of other networks that the source may hold instead.
      fields: fields of `models.create` that replace those of the source. The number of classes is
        always the source's.

    The normalization, image shape, class names and evaluation crops come from the file if `save`
    wrote it, or from the config.json beside it on the hub. Otherwise they are torchvision's, with
    class names only for 21 classes of its networks for segmentation (VOC's) and for 90 of its
    detectors (COCO's). Simonyan & Zisserman's own VGG-16 and VGG-19 are recognized by their weights
    and get Caffe's normalization.

    Raises:
      UserError: the source does not exist; the file is damaged, or holds anything but tensors of
        finite numbers; or the tensors do not fit the network.
    """
    path = tensors.find(str(source))
    given, written = tensors.read(path)
    whitening = given.pop(WHITENING, None)
    ours = 'cnnjax' in written
    about = metadata.inside(written, path, len(given)) if ours else metadata.beside(path)
    name = _named(name, others, about, ours, given, path)
    counterpart = None if any(key.startswith(OURS) for key in given) else counterparts.find(name)
    if ours:
        fields = about['fields'] | fields
    elif counterpart:
        pattern, older = counterpart.older
        if any(re.fullmatch(pattern, key) for key in given):
            fields = older | fields
        fields = counterpart.fields | fields
    scan, fields = fields.get('scan'), _without_scan(fields)
    with _building(name, fields, path):
        net = models.create(name, **fields)
    classes = about.get('label_names')
    library, width = None, len(classes or ()) or net.num_classes
    if counterpart:
        given, library, found = _their_tensors(counterpart, net, given, path)
        width = found or width
    if fields.get('num_classes') not in (None, width):
        raise UserError(f'{path} has {width} classes, not num_classes={fields["num_classes"]}: '
                        'load it without that field, then replace the head')
    net = net.clone(num_classes=width)
    image_shape: Any = tuple(about.get('image_shape') or net.image_shape)
    with _building(name, fields, path):
        places = counterparts.places(net, image_shape, counterpart, library)
    variables = _variables(name, places, given, counterpart, path)
    mean, std = about.get('normalize') or (counterpart.normalize if counterpart else (0, 1))
    normalize = Normalization(np.asarray(mean, np.float32), np.asarray(std, np.float32), whitening)
    if caffes := counterparts.caffe(name, variables, path):
        variables, normalize = caffes
    if whitening is not None and not (whitening.dtype == np.float32
                                      and np.isfinite(whitening).all()):
        raise UserError(f'{path}: {WHITENING} holds other numbers than finite float32')
    _check_normalization(normalize, image_shape, path)
    if scan:
        net, variables = net.clone(scan=True), jax.tree.map(np.asarray, resnet.stack(variables))
    if classes is None and counterpart:
        classes = metadata.labels(path, counterpart.labels, width)
        if len(counterpart.classes) == width:
            classes = counterpart.classes
    if classes is not None and len(classes) != width:
        raise UserError(f'{path} has {width} classes and {len(classes)} names of them')
    evaluation = about.get('evaluation', {})
    if counterpart and not (ours or evaluation):
        evaluation = counterpart.evaluation or metadata.crop(metadata.CROP, image_shape)
    if hasattr(net, 'detections'):  # It says what the network is for, where the file does not.
        evaluation = {'task': 'detect', **evaluation}
    return Weights(name, net, variables, normalize, tuple(classes or map(str, range(width))),
                   image_shape, evaluation)


def _their_tensors(counterpart, net, given, path):
    """(the tensors by their current names, the library whose names they are, the number of classes
    or None if it is unknown)"""
    pattern, replacement = counterpart.old
    given = {re.sub(f'^{pattern}$', replacement, key): tensor
             for key, tensor in tensors.bare(given, path).items()}
    heads = counterparts.heads(counterpart, net)
    library = next((each for each in heads if heads[each] in given), next(iter(heads)))
    head = given.get(heads[library], np.zeros(()))
    return given, library, len(head) - counterpart.background if head.ndim else None


def _variables(name, places, given, counterpart, path):
    """The network's variables, made of the tensors `given`."""
    extra = rf'.*num_batches_tracked|{counterpart.extra}' if counterpart else '(?!)'
    given = {key: tensor for key, tensor in given.items()
             if key in places or not re.fullmatch(extra, key)}
    _check(name, {key: place.theirs for key, place in places.items()}, given, path)
    if broken := [key for key in places if not np.isfinite(np.asarray(given[key], np.float32))
                  .all()]:
        raise UserError(f'{path} holds numbers that are not finite (NaN or infinity), in '
                        f'{", ".join(broken[:5])}')
    return traverse_util.unflatten_dict({
        place.path: place.take(np.asarray(given[key], np.float32))
        for key, place in places.items()})


def save(network: Any, path: str | os.PathLike[str], names: str = '',
         dtype: str = 'float32') -> str:
    """Writes a trained network to a .safetensors file, whole or not at all. Returns whose names the
    tensors have: 'timm', 'torchvision' or 'cnnjax'.

    If timm's network of that name computes the same, the tensors have timm's names and layout, and
    timm can open the file: `timm.create_model('resnet50', num_classes=..., checkpoint_path=path)`.
    Otherwise they have torchvision's names if its network computes the same, else our own; if only
    a field makes the difference, a line says so. All else that `load` returns is in the file's
    metadata, as JSON.

    Args:
      network: a `Weights`, or a `cnnjax.trained.Trained`.
      path: the file; its name ends in .safetensors.
      names: one of NAMES: whose names the tensors get instead.
      dtype: 'float16' halves the file; `load` makes float32 of it again.

    Raises:
      UserError: the variables do not fit the network; the suffix is another one; the network or a
        function in its fields has no name; it has no counterpart with such `names`; or a number is
        too large for `dtype`.
    """
    limits.check({'names': names, 'dtype': dtype},
                 {'names': NAMES, 'dtype': ('float32', 'float16')})
    path, name, net, variables = Path(path), network.name, network.net, network.variables
    if path.suffix != tensors.SAFETENSORS:
        raise UserError(f"path='{path}' must end in {tensors.SAFETENSORS}")
    if not name:
        raise UserError("the network has no name: give it the one that models.create takes, "
                        "network._replace(name='resnet20')")
    fields = _without_scan(models.fields(name, net))
    if getattr(net, 'scan', False):
        net, variables = net.clone(scan=False), resnet.unstack(variables)
    classes = tuple(network.classes or map(str, range(net.num_classes)))
    if len(classes) != net.num_classes:
        raise UserError(f'{name} has {net.num_classes} outputs, classes has {len(classes)} names')
    _check_normalization(network.normalize, network.image_shape, name)
    counterpart = counterparts.find(name) if names != 'cnnjax' else None
    if counterpart and (other := _differences(name, net, counterpart, network.image_shape)):
        print(f"{path}: {next(iter(counterpart.rules))}'s {counterpart.networks[name]} is another "
              f'network than this {name} ({other}), so the tensors have our own names: cnnjax '
              'opens the file, and no other library', flush=True)
        counterpart = None
    if network.normalize.whitening is not None:  # No other library would whiten the images.
        counterpart = None
    rules = counterpart.rules if counterpart else {'cnnjax': None}
    library = names or next(iter(rules))
    if library not in rules:
        raise UserError(f"names='{names}': {names} has no network that computes the same; take "
                        f"names='', which gives {next(iter(rules))}'s")
    places = counterparts.places(net, network.image_shape, counterpart, library)
    given = {key: value for key, value in traverse_util.flatten_dict(variables).items()
             if key[0] in ('params', 'batch_stats')}
    _check(name, {'/'.join(place.path): place.shape for place in places.values()},
           {'/'.join(key): value for key, value in given.items()}, 'variables')

    written = {}
    for key, place in places.items():
        written[key] = place.give(np.asarray(given[place.path], np.float32))
        if np.abs(written[key]).max(initial=0) > np.finfo(dtype).max:
            raise UserError(f"dtype='{dtype}': {key} has numbers that are too large for it; take "
                            "dtype='float32'")
        written[key] = written[key].astype(dtype)
        if counterpart and key.endswith('running_var'):  # torch counts the batches, and asks for it
            written[key.replace('running_var', 'num_batches_tracked')] = np.zeros((), np.int64)
    if network.normalize.whitening is not None:
        written[WHITENING] = np.asarray(network.normalize.whitening)
    with atomic.replacing(path) as unfinished:
        safetensors.numpy.save_file(
            written, unfinished, metadata.to_write(network, fields, classes))
    return library


def _differences(name, net, counterpart, image_shape):
    """A text of the fields that make `net` compute something else than the library's network of
    that name with tensors of the same shapes, which a file could not show; '' if there are none."""
    theirs, found = models.create(name, **counterpart.fields), []
    shapes = _shapes(net, image_shape)
    for field in models.settings(net):
        own, other = getattr(net, field), getattr(theirs, field)
        if field in models.FREE or own == other:
            continue
        # The library refuses a file whose tensors are missing or of another shape, and fields that
        # do not fit together make no network.
        with contextlib.suppress(Exception):
            if _shapes(net.clone(**{field: other}), image_shape) == shapes:
                own, other = (models.plain(field, value) for value in (own, other))
                found.append(f'{field}={own!r} here, {other!r} there')
    return '; '.join(found)


def _shapes(net, image_shape):
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    return jax.eval_shape(net.init, jax.random.key(0), images)


def _named(name, others, about, ours, given, path) -> str:
    """Our name of the network whose weights `path` holds: that in the file or in the config.json
    beside it, which must be `name`, if that is not None, or one of `others`. If neither says it,
    the first of these whose last layer is among the tensors `given`, and whose batch normalization
    is there or not as in VGG's variants."""
    said = about.get('architecture')
    found: Any = said if ours else counterparts.our_name(said)
    if found and user_network.is_named(found):  # Only the user may choose the Python to run.
        if not name or not user_network.is_named(name):
            raise UserError(f"{path} holds a network of the user's own, {found}: give the place of "
                            f"that file and its class, as in name='{found}'")
        return user_network.located(name)
    if name is None and found is None:
        raise UserError(f'{path} does not say which of our networks it is of (architecture: '
                        f'{said}): give its name, as name or, in a training, as model.name')
    if name is not None and said is not None and found not in (name, *others):
        raise UserError(f"{path} holds a '{said}', not a '{name}', as is said "
                        + ('in it' if ours else 'in the config.json beside it; if both compute the '
                           'same, move the file away from there'))
    if found is None and others:
        bare = tensors.bare(given, path).keys()
        norms = any(key.endswith('.running_mean') for key in bare)
        nets = {each: models.create(each) for each in (name, *others)}
        found = next((each for each, net in nets.items() if (theirs := counterparts.find(each))
                      and bare & counterparts.heads(theirs, net).values()
                      and getattr(net, 'batch_norm', norms) == norms), None)
    return found or name


def _check_normalization(normalize, image_shape, path):
    """Raises UserError unless the normalization fits images [H, W, C]."""
    if not normalize.fits(image_shape):
        raise UserError(f'{path}: its images are {tuple(image_shape)}, but its mean and std are of '
                        f'{np.shape(normalize.mean)} and {np.shape(normalize.std)}: give one '
                        'number, or one per channel (in the config.json beside the file, or in its '
                        'metadata)')


def layout(name: str, image_shape: Sequence[int] | None = None,
           **fields: Any) -> dict[str, tuple[int, ...]]:
    """What `save` writes: {name of a tensor: shape}, in the order of our layers."""
    net, counterpart = models.create(name, **_without_scan(fields)), counterparts.find(name)
    places = counterparts.places(net, image_shape or net.image_shape, counterpart)
    shapes = {}
    for key, place in places.items():
        shapes[key] = place.theirs
        if counterpart and key.endswith('running_var'):  # torch counts the batches, and asks for it
            shapes[key.replace('running_var', 'num_batches_tracked')] = ()
    return shapes


@contextlib.contextmanager
def _building(name, fields, path):
    """A context that blames errors on the file `path`, which may hold any value."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f'{path}: {name} cannot be built with {fields}: {error!r}') from None


def _check(name, expected, given, source):
    """Raises UserError unless the tensors have the expected names and shapes."""
    wrong = [f'{key} {tuple(given[key].shape)} for {tuple(shape)}'
             if jnp.issubdtype(given[key].dtype, jnp.floating) else f'{key} {given[key].dtype}'
             for key, shape in expected.items() if key in given and (
                 tuple(given[key].shape) != tuple(shape)
                 or not jnp.issubdtype(given[key].dtype, jnp.floating))]
    lists = {'missing': [key for key in expected if key not in given],
             'unexpected': [key for key in given if key not in expected], 'mis-shaped': wrong}
    problems = [f'{len(keys)} {kind}: {", ".join(keys[:5])}{", ..." if len(keys) > 5 else ""}'
                for kind, keys in lists.items() if keys]
    if problems:
        hint = '' if counterparts.find(name) else (
            f'. Neither timm nor torchvision has {name}: its tensors have our names, as '
            'cnnjax.weights.save writes them')
        raise UserError(f'{source} does not fit {name} ({len(expected)} tensors): '
                        f'{"; ".join(problems)}{hint}')


def _without_scan(fields):
    """The fields without `scan`, which changes only the tree of the variables: files have the usual
    tree."""
    return {key: value for key, value in fields.items() if key != 'scan'}
