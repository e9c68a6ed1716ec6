"""Published weights in, our own out: timm's and torchvision's tensor names, in safetensors files.

    weights.load('vgg19', 'timm/vgg19.tv_in1k')  # from the Hugging Face hub, once; then its cache
    weights.load('vgg19', 'vgg19-dcbb9e9d.pth')  # a file: .safetensors, or torch's .pth
    weights.save('vgg19', variables, 'vgg19.safetensors', normalize, classes)  # opens in timm

A network that timm or torchvision has is written with their names of its tensors, which
`COUNTERPARTS` derives from ours; any other one with our own, the parameters' path
('params/conv1/kernel'). Nothing is unpickled: torch's files are read by its weights_only reader.
"""

import contextlib
import importlib.metadata
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util

from cnnjax import atomic, models
from cnnjax.data import Normalization
from cnnjax.errors import UserError
from cnnjax.models import resnet

SAFETENSORS, TORCH = '.safetensors', ('.pth', '.pt', '.bin', '.tar')  # suffixes
HUB = 'hf-hub:'  # timm's prefix of a hub id
WRAPPERS = ('state_dict', 'model')  # what training scripts call the tensors in their checkpoints
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # torchvision's mean and std
LEAVES = {'kernel': 'weight', 'scale': 'weight', 'bias': 'bias', 'mean': 'running_mean',
          'var': 'running_var'}  # ours: torch's


class Weights(NamedTuple):
    """A network, its variables, and what its images and outputs are."""

    name: str  # as `models.create` takes it
    net: nn.Module
    variables: Any  # {'params': ..., 'batch_stats': ...}, numpy arrays
    normalize: Normalization  # uint8 or [0, 1] images [..., H, W, C] -> the network's input
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]  # [H, W, C]


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
    old: tuple[str, str] = ('(?!)', '')  # (pattern, replacement): names in their older files
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
        head='fc8', flat={'fc6': 'pool5'}, convolutions={'timm': ('fc6', 'fc7')}),
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
        source.startswith((HUB, 'timm/')) or Path(source).suffix in (SAFETENSORS, *TORCH))


def load(name, source, **fields):
    """The network `name` with published weights, or with those that `save` wrote.

    Args:
      name: as `models.create` takes it; None: the network that the source says it is of.
      source: a .safetensors file with timm's, torchvision's or our names of the tensors; a torch
        file (.pth, .pt, .bin; needs the extra 'torch'); or an id on the Hugging Face hub, such as
        'timm/vgg19.tv_in1k' (needs the extra 'hub'; downloaded once, offline from then on).
      fields: those of `models.create`; the number of classes is the source's.

    The normalization, image shape and class names are the source's own: in the file when `save`
    wrote it, in the config.json that the hub has beside the file. Where there are none they are
    torchvision's, without class names.

    Raises:
      UserError: no such source; a file that is damaged or holds anything but tensors of finite
        numbers; tensors that do not fit the network.
    """
    path = _find(str(source))
    tensors, metadata = _read(path)
    ours = 'cnnjax' in metadata
    about = _about(metadata, path) if ours else _beside(path)
    name = name or _name(about.get('architecture'))
    if name is None:
        raise UserError(f"source='{source}' does not say which of our networks it is of "
                        f'(architecture: {about.get("architecture")}): give its name')
    counterpart = _counterpart(name)
    if ours and about.get('architecture') == name:
        fields = about['fields'] | fields
    elif counterpart and not ours:
        fields = counterpart.fields | fields
    scan, fields = fields.get('scan'), _without_scan(fields)

    with _building(name, fields, path):
        net = models.create(name, **fields)
    classes = about.get('label_names')
    library, width = None, len(classes or ()) or net.num_classes
    if counterpart:
        pattern, replacement = counterpart.old
        tensors = {re.sub(f'^{pattern}$', replacement, key.removeprefix('module.')): tensor
                   for key, tensor in tensors.items()}
        heads = {each: f'{_rename(counterpart.head, rules(net))}.weight'
                 for each, rules in counterpart.rules.items()}
        library = next((each for each in heads if heads[each] in tensors), next(iter(heads)))
        head = tensors.get(heads[library], np.zeros(()))
        width = len(head) if head.ndim else width
    if fields.get('num_classes') not in (None, width):
        raise UserError(f'{path} has {width} classes, not num_classes={fields["num_classes"]}: '
                        'load it without that field, then replace the head')
    net = net.clone(num_classes=width)
    image_shape = about.get('image_shape') or net.image_shape
    with _building(name, fields, path):
        places = _places(net, image_shape, counterpart, library)
    extra = rf'.*num_batches_tracked|{counterpart.extra}' if counterpart else '(?!)'
    tensors = {key: tensor for key, tensor in tensors.items()
               if key in places or not re.fullmatch(extra, key)}
    _check(name, {key: place.theirs for key, place in places.items()}, tensors, path,
           bool(counterpart))
    if broken := [key for key in places if not np.isfinite(np.asarray(tensors[key], np.float32))
                  .all()]:
        raise UserError(f'{path} holds numbers that are not finite (NaN or infinity), in '
                        f'{", ".join(broken[:5])}')
    variables = traverse_util.unflatten_dict({
        place.path: place.take(np.asarray(tensors[key], np.float32))
        for key, place in places.items()})
    if scan:
        net, variables = net.clone(scan=True), jax.tree.map(np.asarray, resnet.stack(variables))
    if classes is not None and len(classes) != width:
        raise UserError(f'{path} has {width} classes and {len(classes)} names of them')
    mean, std = about.get('normalize') or (counterpart.normalize if counterpart else (0, 1))
    return Weights(name, net, variables, Normalization(np.float32(mean), np.float32(std)),
                   tuple(classes or map(str, range(width))), tuple(image_shape))


def save(name, variables, path, normalize=None, classes=None, image_shape=None, **fields):
    """Writes the variables of the network `name` to a .safetensors file, whole or not at all.

    Where timm has the network, the tensors have timm's names and layout and the file opens there
    (`timm.create_model('resnet50', num_classes=..., checkpoint_path=path)`); else torchvision's; of
    other networks our own. The rest goes into the file's metadata, as JSON.

    Args:
      variables: {'params': ..., 'batch_stats': ...}, of one device.
      path: the file; its name ends in .safetensors.
      normalize: the `Normalization` of the images; None: there is none.
      classes: the names of the classes; None: their numbers.
      image_shape: [H, W, C] that the network was made for; None: the paper's.
      fields: the fields of `models.create` that the network was made with, plain values.

    Raises:
      UserError: the variables do not fit that network; another suffix; a field that JSON lacks.
    """
    path = Path(path)
    if path.suffix != SAFETENSORS:
        raise UserError(f"path='{path}' must end in {SAFETENSORS}")
    fields = {key: value for key, value in fields.items() if value is not None}
    if fields.get('scan'):
        variables = resnet.unstack(variables)
    fields = _without_scan(fields)
    counterpart = _counterpart(name)
    given = {key: value for key, value in traverse_util.flatten_dict(variables).items()
             if key[0] in ('params', 'batch_stats')}
    net = models.create(name, **fields)
    library, width = None, len(classes or ()) or net.num_classes
    if counterpart:
        library = next(iter(counterpart.rules))
        head = given.get(('params', counterpart.head, 'kernel'))
        width = width if head is None else head.shape[-1]
    classes = tuple(classes or map(str, range(width)))
    if len(classes) != width:
        raise UserError(f'{name} has {width} outputs, classes has {len(classes)} names')
    image_shape = tuple(image_shape or net.image_shape)
    places = _places(net.clone(num_classes=width), image_shape, counterpart, library)
    _check(name, {'/'.join(place.path): place.shape for place in places.values()},
           {'/'.join(key): value for key, value in given.items()}, 'variables', bool(counterpart))

    tensors = {}
    for key, place in places.items():
        tensors[key] = place.give(np.asarray(given[place.path], np.float32))
        if counterpart and key.endswith('running_var'):  # torch counts the batches, and asks for it
            tensors[key.replace('running_var', 'num_batches_tracked')] = np.zeros((), np.int64)
    normalize = normalize or Normalization(np.float32([0]), np.float32([1]))
    height, width, channels = map(int, image_shape)
    about = {'architecture': name, 'fields': {key: value for key, value in fields.items()
                                              if key != 'num_classes'},
             'mean': np.float64(normalize.mean).tolist(), 'std': np.float64(normalize.std).tolist(),
             'input_size': (channels, height, width), 'label_names': classes}
    try:
        metadata = {key: json.dumps(value) for key, value in about.items()}
    except TypeError as error:
        raise UserError(f'fields={fields}: only plain values can be written ({error})') from None
    metadata |= {'format': 'pt', 'cnnjax': importlib.metadata.version('cnnjax')}
    with atomic.replacing(path) as unfinished:
        safetensors.numpy.save_file(tensors, unfinished, metadata)


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


def _check(name, expected, given, source, known):
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
        hint = '' if known else (f'. Neither timm nor torchvision has {name}: its tensors have our '
                                 'names, as cnnjax.weights.save writes them')
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


def _find(source):
    """The path of the file that `source` means, fetched from the hub if that is where it is."""
    path = Path(source)
    if os.path.isfile(path):  # unlike the method, False for a name that is too long
        return path
    match = re.fullmatch(rf'(?:{HUB})?([\w.-]+/[\w.-]+)(?:@([\w.-]+))?', source)
    if not match or os.path.exists(path) or path.suffix in (SAFETENSORS, *TORCH):
        raise UserError(f"source='{source}': no such file, and not an id on the Hugging Face hub "
                        "such as 'timm/vgg19.tv_in1k'")
    _fetch(*match.groups(), 'config.json')
    return _fetch(*match.groups(), 'model.safetensors')


def _fetch(repository, revision, file):
    """The path of a file of a hub repository in the cache, downloaded if it is not there."""
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(f"source='{repository}' is on the Hugging Face hub: pip install "
                        "'cnnjax[hub]', or download its model.safetensors and give that "
                        'path') from None
    for cached in (True, False):  # what is there is taken without asking the network
        try:
            return Path(huggingface_hub.hf_hub_download(repository, file, revision=revision,
                                                        local_files_only=cached))
        except Exception as error:  # the library's, the network's and the disk's are many
            reason = str(error).strip().partition('\n')[0]
    raise UserError(
        f"source='{repository}': the hub's file {file} is neither cached nor to be had ({reason}) "
        f'On a machine that reaches the hub, download '
        f'https://huggingface.co/{repository}/resolve/{revision or "main"}/model.safetensors and '
        'config.json into one folder; bring it here and give the path of model.safetensors')


def _read(path):
    """The tensors of a file, {name: numpy array}, and its metadata, {name: str}."""
    if path.suffix in TORCH:
        return _read_torch(path), {}
    if path.suffix != SAFETENSORS:
        raise UserError(f'{path}: weights are read from {SAFETENSORS} and {", ".join(TORCH)} files')
    try:
        with safetensors.safe_open(path, 'numpy') as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (safetensors.SafetensorError, OSError, TypeError, AttributeError) as error:
        raise UserError(f'{path} is damaged or no safetensors file, and was not loaded: '
                        f'{error}') from None


def _read_torch(path):
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{path} is a torch file: pip install 'cnnjax[torch]', or convert it where torch is: "
            'safetensors.torch.save_file(torch.load(path, weights_only=True), '
            "'weights.safetensors')") from None
    try:
        tensors = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # whatever the damage makes of it; torch's text advises to trust it
        raise UserError(f'{path} is damaged or holds more than tensors, and was not loaded '
                        f'({type(error).__name__})') from None
    for wrapper in WRAPPERS:
        if isinstance(tensors, dict) and isinstance(tensors.get(wrapper), dict):
            tensors = tensors[wrapper]
    if not isinstance(tensors, dict) or not all(
            isinstance(key, str) and torch.is_tensor(value) for key, value in tensors.items()):
        raise UserError(f'{path} does not hold named tensors (a state_dict), as weights do')
    try:
        return {key: (tensor.float() if tensor.is_floating_point() else tensor)
                .detach().resolve_conj().resolve_neg().numpy() for key, tensor in tensors.items()}
    except (RuntimeError, TypeError) as error:  # sparse ones, or those without data
        raise UserError(f'{path} holds tensors that are no plain arrays: {error}') from None


def _beside(path):
    """What the hub's config.json beside a file says of it; {} if there is none."""
    path = path.with_name('config.json')
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text())
        config = config | config.get('pretrained_cfg', {})
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f'{path} is damaged: {error}') from None
    return _parse(config, path)


def _about(metadata, path):
    """What `save` wrote into the metadata."""
    try:
        about = {key: json.loads(metadata[key]) for key in
                 ('architecture', 'fields', 'mean', 'std', 'input_size', 'label_names')}
        fields = {key: tuple(value) if isinstance(value, list) else value
                  for key, value in about['fields'].items()}
    except (KeyError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f'{path}: its metadata are damaged: {error!r}') from None
    return _parse(about, path) | {'fields': fields}


def _parse(values, path):
    """{'architecture', 'label_names', 'image_shape', 'normalize'}, those that `values` has."""
    about = {key: values[key] for key in ('architecture', 'label_names') if values.get(key)}
    try:
        if 'input_size' in values:
            channels, height, width = map(int, values['input_size'])
            if min(channels, height, width) < 1:
                raise ValueError(f'input_size {values["input_size"]}')
            about['image_shape'] = (height, width, channels)
        if 'mean' in values:
            mean, std = np.float32(values['mean']), np.float32(values['std'])
            if not (np.isfinite(mean).all() and (std > 0).all()):
                raise ValueError(f'mean {mean}, std {std}')
            about['normalize'] = mean, std
        about['label_names'] = tuple(map(str, about.get('label_names', ()))) or None
    except (KeyError, OverflowError, ValueError, TypeError) as error:
        raise UserError(f'{path}: the normalization or input size beside or in it is damaged: '
                        f'{error!r}') from None
    return about
