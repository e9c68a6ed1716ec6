"""Published weights in, our own out: timm's and torchvision's tensor names, in safetensors files.

    weights.load('vgg19', 'timm/vgg19.tv_in1k')  # from the Hugging Face hub, once; then its cache
    weights.load('vgg19', 'vgg19-dcbb9e9d.pth')  # a file: .safetensors, or torch's .pth
    weights.save(trained.load('runs/vgg19'), 'vgg19.safetensors')  # opens in timm

A network that timm or torchvision computes alike is written with their names of its tensors, which
`COUNTERPARTS` derives from ours; any other one with our own, the parameters' path
('params/conv1/kernel'). tensors.py reads the files.
"""

import contextlib
import importlib.metadata
import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import traverse_util

from cnnjax import atomic, cluster, models, tensors, user_network
from cnnjax.data import Normalization
from cnnjax.errors import UserError
from cnnjax.models import resnet

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # torchvision's mean and std
LEAVES = {'kernel': 'weight', 'scale': 'weight', 'bias': 'bias', 'mean': 'running_mean',
          'var': 'running_var'}  # ours: torch's
OURS = ('params/', 'batch_stats/')  # how our own names of tensors begin
# Fields of configs/base.py by which pictures become the images of an evaluation, and their types.
EVALUATION = {'test_shorter_side': int, 'interpolation': str, 'border': int}
# torchvision's, of the files that say nothing: 256 pixels where the image has 224.
CROP = {'crop_pct': 0.875, 'interpolation': 'bilinear'}
# Arguments of timm's networks that change no function: the rest may (see `_beside`).
HARMLESS = {'num_classes', 'in_chans', 'img_size', 'drop_rate', 'drop_path_rate'}
# How to know Simonyan & Zisserman's own weights, made for Caffe, in whatever file: conv1_1's first
# biases, and the first corner of its first kernel in blue, green, red. Their images are 0..255 less
# the mean below (https://gist.github.com/ksimonyan/211839e770f7b538e2d8).
CAFFE = {'vgg16': ((0.73429835, 0.09340367, 0.06775674, 0.8862966),
                   (0.42947057, 0.55037946, 0.4800154)),
         'vgg19': ((0.7301776, 0.06493629, 0.03428847, 0.8260386),
                   (0.34119523, 0.46418372, 0.39416704))}
CAFFE_MEAN = (123.68, 116.779, 103.939)  # red, green, blue


class Weights(NamedTuple):
    """A network, its variables, and what its images and outputs are."""

    name: str  # as `models.create` takes it
    net: nn.Module
    variables: Any  # {'params': ..., 'batch_stats': ...}, numpy arrays
    normalize: Normalization  # uint8 or [0, 1] images [..., H, W, C] -> the network's input
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]  # [H, W, C]
    evaluation: dict[str, Any] = {}  # some of EVALUATION


class Counterpart(NamedTuple):
    """What a family's networks and layers are called in timm and torchvision.

    The rules are pairs (pattern, replacement) for our path of a layer; the first that matches the
    whole path counts, and a layer that none matches keeps its name.
    """

    networks: dict[str, str]  # our name: theirs
    rules: dict[str, Callable]  # library: network -> rules; `save` writes the first one's names
    head: str = 'fc'  # our last layer, as wide as there are classes
    flat: dict[str, str] = {}  # a full layer: the tap of the maps it flattens (in torch: C, H, W)
    convolutions: dict[str, tuple[str, ...]] = {}  # library: the full layers that are convolutions
    old: tuple[str, Any] = ('(?!)', '')  # (pattern, replacement): names in others' files
    extra: str = '(?!)'  # pattern of their tensors that the network may have no place for
    normalize: tuple = IMAGENET  # mean and std of their files that say none
    fields: dict[str, Any] = {}  # where their network departs from the paper's


def _vgg(*heads):
    def rules(net):
        result, index = list(zip(('fc6', 'fc7', 'fc8'), heads, strict=True)), 0
        for i, kernels in enumerate(net.groups, 1):
            for j in range(1, len(kernels) + 1):
                result += [(f'conv{i}_{j}', f'features.{index}'),
                           (f'bn{i}_{j}', f'features.{index + 1}')]
                index += 3 if net.batch_norm else 2  # torch counts the ReLUs and pools too
            index += 1
        return result
    return rules


def _block(match):
    """conv2_1/conv3 -> layer1.0.conv3: torch's first stage is the second row of the table."""
    layer = {'shortcut_conv': 'downsample.0', 'shortcut_bn': 'downsample.1'}.get(match[3], match[3])
    return f'layer{int(match[1]) - 1}.{int(match[2]) - 1}.{layer}'


def _mobilenet(net):
    """block1 -> blocks.0.0: timm counts in stages, which begin with the stride."""
    rules, stage, index = [('conv1', 'conv_stem'), ('fc', 'classifier')], 0, 0
    for i, (stride, _) in enumerate(net.blocks, 1):
        stage, index = (stage + 1, 0) if stride == 2 else (stage, index)
        rules += [(f'block{i}/depthwise', f'blocks.{stage}.{index}.conv_dw'),
                  (f'block{i}/pointwise', f'blocks.{stage}.{index}.conv_pw'),
                  (rf'block{i}/bn(\d)', rf'blocks.{stage}.{index}.bn\1')]
        index += 1
    return rules


def _same(*names):
    return {name: name for name in names}


COUNTERPARTS = (
    Counterpart(
        networks=_same('vgg11', 'vgg11_bn', 'vgg13', 'vgg13_bn', 'vgg16', 'vgg16_bn', 'vgg19',
                       'vgg19_bn'),
        rules={'timm': _vgg('pre_logits.fc1', 'pre_logits.fc2', 'head.fc'),
               'torchvision': _vgg('classifier.0', 'classifier.3', 'classifier.6')},
        head='fc8', flat={'fc6': 'pool5'}, convolutions={'timm': ('fc6', 'fc7')},
        # The conversion of Caffe's for torch counts the full layers' dropouts otherwise.
        old=(r'classifier\.([14])\.(.*)',
             lambda match: f'classifier.{int(match[1]) - 1}.{match[2]}')),
    Counterpart(
        networks=_same('resnet18', 'resnet34', 'resnet50', 'resnet101', 'resnet152',
                       'resnext50_32x4d', 'resnext101_32x4d', 'resnext101_64x4d'),
        rules={'timm': lambda net: [(r'conv(\d+)_(\d+)/(\w+)', _block)]}),
    Counterpart(
        networks=_same('densenet121', 'densenet161', 'densenet169', 'densenet201'),
        rules={'timm': lambda net: [
            (r'conv0', r'features.conv0'),
            (r'bn0', r'features.norm0'),
            (r'block(\d+)_layer(\d+)/conv(\d)', r'features.denseblock\1.denselayer\2.conv\3'),
            (r'block(\d+)_layer(\d+)/bn(\d)', r'features.denseblock\1.denselayer\2.norm\3'),
            (r'transition(\d+)/conv', r'features.transition\1.conv'),
            (r'transition(\d+)/bn', r'features.transition\1.norm'),
            (r'bn', r'features.norm5'),
            (r'fc', r'classifier')]},
        # torchvision's published files still say norm.1, its networks norm1.
        old=(r'(.*\.denselayer\d+\.(?:norm|conv))\.(\d\..*)', r'\1\2')),
    Counterpart(
        networks={'alexnet_tv': 'alexnet'},
        rules={'torchvision': lambda net: [
            *((f'conv{i}', f'features.{index}') for i, index in enumerate((0, 3, 6, 8, 10), 1)),
            *((f'fc{i}', f'classifier.{index}') for i, index in enumerate((1, 4, 6), 6))]},
        head='fc8', flat={'fc6': 'average_pool'}),
    Counterpart(
        networks={'googlenet_bn': 'googlenet'},
        rules={'torchvision': lambda net: [
            (r'conv1', r'conv1.conv'), (r'bn1', r'conv1.bn'),
            (r'conv2_reduce', r'conv2.conv'), (r'bn2_reduce', r'conv2.bn'),
            (r'conv2', r'conv3.conv'), (r'bn2', r'conv3.bn'),
            *((rf'inception_(\w\w)/{layer}', rf'inception\1.branch{branch}.{theirs}')
              for branch, layer in (('1', '1x1'), ('2.0', '3x3_reduce'), ('2.1', '3x3'),
                                    ('3.0', '5x5_reduce'), ('3.1', '5x5'), ('4.1', 'pool_proj'))
              for layer, theirs in ((layer, 'conv'), (f'bn_{layer}', 'bn')))]},
        extra=r'aux[12]\..*', normalize=(0.5, 0.5)),  # its `transform_input` undoes the usual one
    Counterpart(
        networks={'mobilenet_v1': 'mobilenetv1_100', 'mobilenet_v1_075': 'mobilenetv1_075',
                  'mobilenet_v1_050': 'mobilenetv1_050', 'mobilenet_v1_025': 'mobilenetv1_025'},
        rules={'timm': _mobilenet},
        fields={'relu': nn.relu6}),
)


def is_weights(source):
    """Whether `source` reads as a file of weights or a hub id, not as a run's directory."""
    source = str(source)
    return not os.path.isdir(source) and (
        source.startswith((tensors.HUB, 'timm/'))
        or Path(source).suffix in (tensors.SAFETENSORS, *tensors.TORCH))


def load(name, source, **fields):
    """The network `name` with published weights, or with those that `save` wrote.

    Args:
      name: as `models.create` takes it; None: the network that the source says it is of.
      source: a .safetensors file with timm's, torchvision's or our names of the tensors; a torch
        file (.pth, .pt, .bin; needs the extra 'torch'); or an id on the Hugging Face hub, such as
        'timm/vgg19.tv_in1k' (needs the extra 'hub'; downloaded once, offline from then on).
      fields: those of `models.create`, in place of the source's; the number of classes is the
        source's.

    The normalization, image shape, class names and the crops of an evaluation are the source's own:
    in the file when `save` wrote it, in the config.json that the hub has beside the file. Where
    there are none they are torchvision's, without class names. Simonyan & Zisserman's own VGG-16
    and VGG-19 are known by their numbers, and get Caffe's.

    Raises:
      UserError: no such source; a file that is damaged or holds anything but tensors of finite
        numbers; tensors that do not fit the network; another network's.
    """
    path = tensors.find(str(source))
    given, metadata = tensors.read(path)
    ours = 'cnnjax' in metadata
    about = _about(metadata, path, len(given)) if ours else _beside(path)
    name = _named(name, about, ours, path)
    counterpart = _counterpart(name) if not any(key.startswith(OURS) for key in given) else None
    if ours:
        fields = about['fields'] | fields
    elif counterpart:
        fields = counterpart.fields | fields
    scan, fields = fields.get('scan'), _without_scan(fields)

    with _building(name, fields, path):
        net = models.create(name, **fields)
    classes = about.get('label_names')
    library, width = None, len(classes or ()) or net.num_classes
    if counterpart:
        pattern, replacement = counterpart.old
        given = {re.sub(f'^{pattern}$', replacement, key): tensor
                 for key, tensor in tensors.bare(given, path).items()}
        heads = {each: f'{_rename(counterpart.head, rules(net))}.weight'
                 for each, rules in counterpart.rules.items()}
        library = next((each for each in heads if heads[each] in given), next(iter(heads)))
        head = given.get(heads[library], np.zeros(()))
        width = len(head) if head.ndim else width
    if fields.get('num_classes') not in (None, width):
        raise UserError(f'{path} has {width} classes, not num_classes={fields["num_classes"]}: '
                        'load it without that field, then replace the head')
    net = net.clone(num_classes=width)
    image_shape = tuple(about.get('image_shape') or net.image_shape)
    with _building(name, fields, path):
        places = _places(net, image_shape, counterpart, library)
    extra = rf'.*num_batches_tracked|{counterpart.extra}' if counterpart else '(?!)'
    given = {key: tensor for key, tensor in given.items()
             if key in places or not re.fullmatch(extra, key)}
    _check(name, {key: place.theirs for key, place in places.items()}, given, path)
    if broken := [key for key in places if not np.isfinite(np.asarray(given[key], np.float32))
                  .all()]:
        raise UserError(f'{path} holds numbers that are not finite (NaN or infinity), in '
                        f'{", ".join(broken[:5])}')
    variables = traverse_util.unflatten_dict({
        place.path: place.take(np.asarray(given[key], np.float32))
        for key, place in places.items()})
    mean, std = about.get('normalize') or (counterpart.normalize if counterpart else (0, 1))
    normalize = Normalization(np.float32(mean), np.float32(std))
    if found := _caffe(name, variables, path):
        variables, normalize = found
    _check_normalization(normalize, image_shape, path)
    if scan:
        net, variables = net.clone(scan=True), jax.tree.map(np.asarray, resnet.stack(variables))
    if classes is not None and len(classes) != width:
        raise UserError(f'{path} has {width} classes and {len(classes)} names of them')
    evaluation = about.get('evaluation', {})
    if counterpart and not (ours or evaluation):
        evaluation = _crop(CROP, image_shape)
    return Weights(name, net, variables, normalize, tuple(classes or map(str, range(width))),
                   image_shape, evaluation)


def save(network, path):
    """Writes a trained network to a .safetensors file, whole or not at all.

    Where timm's network of that name computes the same, the tensors have timm's names and layout
    and the file opens there (`timm.create_model('resnet50', num_classes=..., checkpoint_path=path)`
    ); else where torchvision's does, its names; of other networks our own, and where only a field
    keeps it from being theirs, a line says so. All else that `load` gives back goes into the file's
    metadata, as JSON.

    Args:
      network: a `Weights`, or a `cnnjax.trained.Trained`.
      path: the file; its name ends in .safetensors.

    Raises:
      UserError: the variables do not fit the network; another suffix; a network without a name, or
        with a function that has none.
    """
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
    counterpart = _counterpart(name)
    if counterpart and (other := _differences(name, net, counterpart, network.image_shape)):
        print(f"{path}: {next(iter(counterpart.rules))}'s {counterpart.networks[name]} is another "
              f'network than this {name} ({other}), so the tensors have our own names: cnnjax '
              'opens the file, and no other library', flush=True)
        counterpart = None
    places = _places(net, network.image_shape, counterpart,
                     next(iter(counterpart.rules)) if counterpart else None)
    given = {key: value for key, value in traverse_util.flatten_dict(variables).items()
             if key[0] in ('params', 'batch_stats')}
    _check(name, {'/'.join(place.path): place.shape for place in places.values()},
           {'/'.join(key): value for key, value in given.items()}, 'variables')

    written = {}
    for key, place in places.items():
        written[key] = place.give(np.asarray(given[place.path], np.float32))
        if counterpart and key.endswith('running_var'):  # torch counts the batches, and asks for it
            written[key.replace('running_var', 'num_batches_tracked')] = np.zeros((), np.int64)
    height, width, channels = map(int, network.image_shape)
    metadata = {key: json.dumps(value) for key, value in {
        'architecture': user_network.short(name), 'fields': fields,
        'evaluation': network.evaluation,
        'mean': np.float64(network.normalize.mean).tolist(),
        'std': np.float64(network.normalize.std).tolist(),
        'input_size': (channels, height, width), 'label_names': classes}.items()}
    metadata |= {'format': 'pt', 'cnnjax': importlib.metadata.version('cnnjax')}
    with atomic.replacing(path) as unfinished:
        safetensors.numpy.save_file(written, unfinished, metadata)


def _differences(name, net, counterpart, image_shape):
    """In words, the fields by which `net` computes something else than their network of that name
    although its tensors have the same shapes, so that their file could not say it; '' if none."""
    theirs, found = models.create(name, **counterpart.fields), []
    shapes = _shapes(net, image_shape)
    for field in models.settings(net):
        own, other = getattr(net, field), getattr(theirs, field)
        if field in models.FREE or own == other:
            continue
        # Tensors that are missing or of another shape they would not load; nor are there tensors
        # for fields that do not go together.
        with contextlib.suppress(Exception):
            if _shapes(net.clone(**{field: other}), image_shape) == shapes:
                own, other = (models.plain(field, value) for value in (own, other))
                found.append(f'{field}={own!r} here, {other!r} there')
    return '; '.join(found)


def _shapes(net, image_shape):
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    return jax.eval_shape(net.init, jax.random.key(0), images)


def _named(name, about, ours, path):
    """Our name of the network whose weights `path` holds: `name`, unless it is None or another than
    the file or the config.json beside it says."""
    said = about.get('architecture')
    found = said if ours else _name(said)
    if found and user_network.is_named(found):  # no file says which Python is run, only the user
        if not name or not user_network.is_named(name):
            raise UserError(f"{path} holds a network of the user's own, {found}: give the place of "
                            f"that file and its class, as in name='{found}'")
        return user_network.located(name)
    if name is None and found is None:
        raise UserError(f'{path} does not say which of our networks it is of (architecture: '
                        f'{said}): give its name, as name or, in a training, as model.name')
    if name is not None and said is not None and found != name:
        raise UserError(f"{path} holds a '{said}', not a '{name}', as is said "
                        + ('in it' if ours else 'in the config.json beside it; if both compute the '
                           'same, move the file away from there'))
    return name or found


def _caffe(name, variables, path):
    """(variables, normalization) where these are Simonyan & Zisserman's own weights in Caffe's
    convention, with the kernels turned to red, green, blue; None where they are not."""
    if name not in CAFFE:
        return None
    biases, corner = CAFFE[name]
    layer = variables['params']['conv1_1']
    bias, kernel = layer['bias'], layer['kernel']
    if len(bias) < 4 or not np.allclose(bias[:4], biases, atol=1e-5):
        return None
    blue_first, red_first = (np.allclose(kernel[0, 0, :, 0], order, atol=1e-5)
                             for order in (corner, corner[::-1]))
    if not (blue_first or red_first):  # rescaled since, for other images
        return None
    if cluster.first():
        print(f"{path} holds Caffe's {name}: its images are 0..255 less the mean"
              + (', in blue, green, red, and its first kernels are turned around' if blue_first
                 else '') + '; they are normalized so, not as torchvision does', flush=True)
    if blue_first:
        kernel = np.ascontiguousarray(kernel[:, :, ::-1])
    params = variables['params'] | {'conv1_1': {'kernel': kernel, 'bias': bias}}
    return variables | {'params': params}, Normalization(
        np.float32(CAFFE_MEAN) / np.float32(255), np.full(3, 1 / 255, np.float32))


def _check_normalization(normalize, image_shape, path):
    """Raises UserError unless the normalization is of images [H, W, C]."""
    if not normalize.fits(image_shape):
        raise UserError(f'{path}: its images are {tuple(image_shape)}, but its mean and std are of '
                        f'{np.shape(normalize.mean)} and {np.shape(normalize.std)}: give one '
                        'number, or one per channel (in the config.json beside the file, or in its '
                        'metadata)')


def layout(name, image_shape=None, **fields):
    """What `save` writes: {name of a tensor: shape}, in the order of our layers."""
    net, counterpart = models.create(name, **_without_scan(fields)), _counterpart(name)
    places = _places(net, image_shape or net.image_shape, counterpart,
                     next(iter(counterpart.rules)) if counterpart else None)
    shapes = {}
    for key, place in places.items():
        shapes[key] = place.theirs
        if counterpart and key.endswith('running_var'):  # torch counts the batches, and asks for it
            shapes[key.replace('running_var', 'num_batches_tracked')] = ()
    return shapes


@contextlib.contextmanager
def _building(name, fields, path):
    """What goes wrong is the fault of the file `path`, in which any value may stand."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f'{path}: {name} cannot be built with {fields}: {error!r}') from None


class _Place(NamedTuple):
    """Where a tensor goes: our path and shape, their shape; `kernel`: our shape as a convolution's
    [H, W, I, O], None for what is no kernel."""

    path: tuple[str, ...]
    shape: tuple[int, ...]
    kernel: tuple[int, ...] | None
    theirs: tuple[int, ...]

    def give(self, array):
        """Ours -> theirs."""
        if self.kernel is not None:
            array = np.moveaxis(array.reshape(self.kernel), (-1, -2), (0, 1))
        return np.ascontiguousarray(array.reshape(self.theirs))

    def take(self, array):
        """Theirs -> ours."""
        if self.kernel is not None:
            array = array.reshape(self.kernel[:-3:-1] + self.kernel[:-2])
            array = np.moveaxis(array, (0, 1), (-1, -2))
        return np.ascontiguousarray(array.reshape(self.shape))


def _places(net, image_shape, counterpart, library):
    """{name of a tensor in the file: its place in our tree}."""
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    (_, taps), variables = jax.eval_shape(net.init_with_output, jax.random.key(0), images)
    rules = counterpart.rules[library](net) if counterpart else ()
    places = {}
    for path, leaf in traverse_util.flatten_dict(variables).items():
        if not counterpart:
            places['/'.join(path)] = _Place(path, leaf.shape, None, leaf.shape)
            continue
        layer, kernel, theirs = '/'.join(path[1:-1]), None, leaf.shape
        if path[-1] == 'kernel':
            kernel = leaf.shape if leaf.ndim > 2 else (1, 1, *leaf.shape)
            if layer in counterpart.flat:
                kernel = (*taps[counterpart.flat[layer]].shape[1:], leaf.shape[-1])
            theirs = kernel[:-3:-1] + kernel[:-2]
            if leaf.ndim == 2 and layer not in counterpart.convolutions.get(library, ()):
                theirs = leaf.shape[::-1]
        key = f'{_rename(layer, rules)}.{LEAVES[path[-1]]}'
        places[key] = _Place(path, leaf.shape, kernel, theirs)
    return places


def _rename(layer, rules):
    for pattern, replacement in rules:
        if match := re.fullmatch(pattern, layer):
            return replacement(match) if callable(replacement) else match.expand(replacement)
    return layer.replace('/', '.')


def _check(name, expected, given, source):
    """Raises UserError unless the tensors are those expected, in name and shape."""
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
        hint = '' if _counterpart(name) else (
            f'. Neither timm nor torchvision has {name}: its tensors have our names, as '
            'cnnjax.weights.save writes them')
        raise UserError(f'{source} does not fit {name} ({len(expected)} tensors): '
                        f'{"; ".join(problems)}{hint}')


def _counterpart(name):
    return next((counterpart for counterpart in COUNTERPARTS if name in counterpart.networks), None)


def _name(architecture):
    """Our name of the network that we or timm call `architecture`; None for one we do not have."""
    theirs = {value: key for counterpart in COUNTERPARTS
              for key, value in counterpart.networks.items()}
    bare = str(architecture).split('.')[0]  # timm's tag, as in resnet50.a1_in1k, says how trained
    return theirs.get(bare, architecture if bare in models.names() else None)


def _without_scan(fields):
    """Scan changes the tree of the variables only; files have the usual one."""
    return {key: value for key, value in fields.items() if key != 'scan'}


def _beside(path):
    """What the hub's config.json beside a file says of it; {} if there is none."""
    path = path.with_name('config.json')
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text())
        config = config | config.get('pretrained_cfg', {})
        changed = set(config.get('model_args') or {}) - HARMLESS
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f'{path} is damaged: {error}') from None
    if config.get('global_pool') not in (None, 'avg'):
        changed.add(f'global_pool={config["global_pool"]}')
    if changed:
        raise UserError(f'{path}: {", ".join(sorted(map(str, changed)))} makes another network of '
                        f"timm's {config.get('architecture')} than we have")
    return _parse(config, path)


def _about(metadata, path, count):
    """What `save` wrote into the metadata of a file of so many tensors."""
    try:
        about = {key: json.loads(metadata[key]) for key in
                 ('architecture', 'fields', 'mean', 'std', 'input_size', 'label_names')}
        evaluation = json.loads(metadata.get('evaluation', '{}'))
        fields = {key: _tuples(value) for key, value in about['fields'].items()}
        repeated = [fields.get(key, ()) for key in ('blocks', 'layers_per_block')]
        layers = len(jax.tree.leaves(fields)) + sum(
            number for numbers in repeated if isinstance(numbers, tuple) for number in numbers
            if isinstance(number, int))
        if layers > 8 * count + 64:  # building them would take forever
            raise ValueError(f'the fields {fields} make more layers than it has tensors')
        if not all(isinstance(evaluation[field], EVALUATION[field]) for field in evaluation):
            raise ValueError(f'evaluation {evaluation}')
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f'{path}: its metadata are damaged: {error!r}') from None
    return _parse(about, path) | {'fields': fields, 'evaluation': evaluation}


def _tuples(value):
    """JSON has lists where the fields are tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _crop(values, image_shape):
    """The fields EVALUATION that mean timm's crop_pct and interpolation
    (https://github.com/huggingface/pytorch-image-models/blob/main/timm/data/transforms_factory.py).
    """
    share = float(values['crop_pct'])
    if not 0 < share <= 1:
        raise ValueError(f'crop_pct {share}')
    return {'test_shorter_side': math.floor(image_shape[0] / share),
            'interpolation': str(values.get('interpolation') or 'bicubic')}


def _parse(values, path):
    """{'architecture', 'label_names', 'image_shape', 'normalize', 'evaluation'}, those that
    `values` has."""
    about = {key: values[key] for key in ('architecture', 'label_names') if values.get(key)}
    try:
        if not isinstance(about.get('architecture', ''), str):
            raise ValueError(f'architecture {about["architecture"]}')
        if 'input_size' in values:
            channels, height, width = map(int, values['input_size'])
            if min(channels, height, width) < 1:
                raise ValueError(f'input_size {values["input_size"]}')
            about['image_shape'] = (height, width, channels)
            if values.get('crop_pct'):
                about['evaluation'] = _crop(values, about['image_shape'])
        if 'mean' in values:
            mean, std = np.float32(values['mean']), np.float32(values['std'])
            if not (np.isfinite(mean).all() and (std > 0).all()):
                raise ValueError(f'mean {mean}, std {std}')
            about['normalize'] = mean, std
        about['label_names'] = tuple(map(str, about.get('label_names', ()))) or None
    except (KeyError, OverflowError, ValueError, TypeError) as error:
        raise UserError(f'{path}: what it says of the network and its images is damaged: '
                        f'{error!r}') from None
    return about
