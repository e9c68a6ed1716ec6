"""Every network by name: `models.create('resnet50', num_classes=1000)`.

A network is a flax.linen module:

    variables = net.init(key, images, train=False)  # {'params': ..., 'batch_stats': ...}
    outputs, taps = net.apply(variables, images, train=False)  # logits [N, classes]; {name: array}

The name may also be that of a user's own module in a Python file, 'my_nets.py:MyNet': it trains,
resumes, loads and is looked at like ours if it keeps the contract.

The contract. A network must have:

- `__call__(images, train=False) -> (outputs, taps)`. `images` are float [N, H, W, C], already
  normalized; N may be symbolic (`jax.export`), H and W where the layers allow it. `outputs` are
  logits [N, classes], or maps of them [N, H', W', classes], or a detector's dict of arrays
  [N, ...]. `taps` is a dict {name: array [N, ...]} in forward order, of the outputs of
  convolutions, activations, pools and blocks, and of the logits last. A layer with parameters has
  the path of the parameters as its tap's name, 'conv2_1/conv1'; under jit an unused tap costs
  nothing.
- `num_classes: int`, a field: how many outputs there are. Everything that makes a network sets it;
  where nothing does, a user's module without a default has 10. Of the layers' shapes only those of
  the head may depend on it: transfer.py finds the head so.
- Fields that are numbers, strings, functions and tuples of these: they can be compared, hashed and,
  but for functions, written in a config. None stands for the field's default.
- Variables in the collections 'params' and 'batch_stats' alone: no other is saved.
- No random numbers but in training, from the rngs that the training step gives: 'dropout', which
  differs between devices, and 'drop_path', which is the same on all of them, so that all skip the
  same work. A network may use either, both or none.
- Batch normalization by `flax.linen.BatchNorm`, a subclass of it, or `layers.BatchNorm`: frozen
  layers are switched to inference by that type.

It may have, as a field, a property or an attribute of the class:

- `dtype`: 'float32', 'bfloat16' or 'float16', in which activations are computed; parameters are
  float32. Without it, a config with another dtype than 'float32' is refused.
- `image_shape: (H, W, C)`: the paper's images. Without it, whatever is not given other images (a
  summary) asks for `image_shape`.
- `relu: Callable`: the activation. If it is `layers.relu` or `flax.linen.relu6`, attributions and
  pictures may replace it by one with another backward rule (images/rules.py). And `pool: Callable`,
  the function of the max-pools, called like `layers.max_pool`, which may become an average. The
  weights stay, but those trained with one function may mean nothing with another. Without these
  fields, or with another activation, the other backward rules and pools are refused.
- `auxiliary: {tap: weight}`: taps that are logits in training; the loss adds their losses, so
  weighted. Without it there are none. These taps may be absent in evaluation.
- `fits(n) -> bool`: a method that tells whether images of n pixels on a side suit a network with
  maps of scores: it takes them, and its scores do not depend on where a larger picture was cut.
  Predictions (predict.py), dreams and styles bring pictures to such sizes. Without it, all do.
- `subnetworks: {name: arguments of __call__}`: what an evaluation reports beside the network
  itself, as 'name/error'. Without it, nothing.
- `scan: bool`: whether the blocks of a stage are one loop over stacked parameters, named as by
  `resnet.stack`. Files of weights hold them apart, and no layer of the loop can be frozen alone.
  Without it, False.
- `adopt(net, variables) -> (network, variables) or None`: what the trained network `net` and its
  variables are in a training that starts from them: a network of this one's class, and variables
  with this one's names. Layers without variables there stay as initialized. None: it cannot start
  from that. Without `adopt`, only from a network like itself.
- `adopts: (name, ...)`: the names of the networks, besides its own, that it adopts. If a file of
  weights does not say whose they are, they are looked for in it.

A detector finds objects (tasks/detect.py). Boxes are float32 [..., 4], their left, top, right and
bottom sides in pixels of the images it was given. It must have:

- `detections(outputs) -> {'boxes': [N, D, 4], 'labels': int32 [N, D], 'scores': float32 [N, D]}`:
  what was found in each image, by falling score. Where there are fewer than D detections, labels
  are -1 and scores 0. Classes are counted from 0: the background is none of them.
- `loss(apply, examples, batch) -> (value, ({'loss': value, and its parts}, batch_stats))`: the loss
  of the training, with which its other fields may have to do. `apply(images, **arguments)` is the
  network in training, (outputs, taps, batch_stats). `examples` has the images as 'image', 'boxes'
  [N, M, 4], 'labels' int32 [N, M], -1 for no object, 'keys' [N], a key of random numbers for each
  example, and, if the data know them, 'ignore' bool [N, M], the objects that are neither to be
  found nor a mistake, and others (see data/geometry.py). `batch`, a tasks.task.WholeBatch, has the
  mean over the images of all devices. A network that draws from the keys, not from rngs, learns the
  same on any number of devices.

It may have:

- `inputs: (name, ...)`: the examples' further entries that a call takes, as arguments by these
  names, where examples have them: 'frame' float32 [N, 4], the part of each image that is the
  picture and not its border, or 'proposals' float32 [N, P, 4], boxes where objects may be, 0 for
  none. A call must work without them. Without `inputs`, it gets images alone.
- `max_detections: int`, a field: D.
"""

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from cnnjax import layers, limits, user_network
from cnnjax.errors import UserError, suggest
from cnnjax.limits import Number, Whole
from cnnjax.models import densenet

# The modules of this folder, one for each paper: a new file in it is a new family.
FAMILIES = tuple(importlib.import_module(f'{__name__}.{found.name}')
                 for found in pkgutil.iter_modules(__path__))
# The names that configs and files of weights give to functions that are fields of a network.
POOLS = {'max': layers.max_pool, 'average': layers.average_pool, 'blur': layers.blur_pool}
RELUS = {'relu': layers.relu, 'relu6': nn.relu6, 'elu': nn.elu}
FUNCTIONS = {'pool': POOLS, 'relu': RELUS}
# Fields that the trained weights do not depend on: they say how a training computes and
# regularizes, and what an evaluation averages. `survival` is not among them: an evaluation under
# stochastic depth scales the branches by it.
FREE = frozenset({'num_classes', 'dtype', 'dropout', 'dropout_layers', 'input_dropout',
                  'local_drop_path', 'global_drop_path', 'auxiliary_weight', 'scan', 'remat',
                  'tests', 'inference', 'resolution', 'rpn_outside', 'rpn_count', 'rpn_share',
                  'rpn_iou', 'rpn_beta', 'rpn_lambda', 'rpn_normalizer', 'rpn_before',
                  'rpn_after', 'rpn_nms', 'smallest', 'roi_count',
                  'roi_share', 'roi_iou', 'roi_least', 'roi_beta', 'learns', 'nms',
                  'score_threshold', 'max_detections', 'coordinates_weight', 'no_object_weight',
                  'loss_scale'})

DTYPES = ('float32', 'bfloat16', 'float16')
WIDEST = 2 ** 16
LIMITS = dict.fromkeys(('width', 'widths', 'hidden', 'growth', 'stem_width', 'base_width',
                        'cardinality', 'tests'), Whole(1, WIDEST)) | dict.fromkeys(
    ('dropout', 'input_dropout'), Number(0, below=1)) | dict.fromkeys(
    ('survival', 'local_drop_path', 'global_drop_path'), Number(0, 1)) | {
    'drop_connect': Number(0, below=1), 'inference': ('gaussian', 'mean'),
    'pieces': Whole(1, 256), 'levels': Whole(1, 8),
    'num_classes': Whole(1, 2 ** 24), 'columns': Whole(1, 8), 'stem': Whole(0, 333),
    'reduction': Whole(0, WIDEST), 'fires': Whole(1, WIDEST), 'canvas': Whole(1, 4096),
    'blocks': Whole(1, 4096), 'layers_per_block': Whole(1, 4096), 'depth': Whole(1, 32),
    'last_pool': Whole(1, 31), 'largest': Whole(1, 31),
    'resolution': Whole(1, 8192), 'width_multiplier': Number(0, 64),
    'auxiliary_weight': Number(0, 1e6), 'norm': ('none', 'batch', 'frozen', 'instance'),
    'dilated': Whole(), 'skips': Whole(0, 2), 'skip_scales': Number(0),
    'dropout_layers': ('last', 'all'), 'iterations': Whole(0, 64),
    'pooling': ('max', 'align', 'warp'), 'pooled': Whole(1, 64), 'rpn_width': Whole(1, WIDEST),
    'anchor_ratios': Number(above=0, some=True), 'anchor_rule': ('caffe', 'torchvision'),
    'rpn_scores': ('softmax', 'sigmoid'), 'rpn_lambda': Number(0),
    'rpn_normalizer': ('sampled', 'locations'), 'learns': ('both', 'rpn', 'head'),
    'given': (False, True),
    'anchor_sizes': Number(above=0, some=True), 'smallest': Number(0), 'epsilon': Number(0),
    'max_detections': Whole(1, 10_000), 'head': ('fc', 'conv'), 'cells': Whole(1, 256),
    'predictors': Whole(1, 256), 'local': Whole(0, WIDEST), 'coordinates_weight': Number(0),
    'no_object_weight': Number(0), 'loss_scale': Number(0),
    'bypass': ('none', 'simple', 'complex'), 'padding': ('symmetric', 'same'),
    'rpn_iou': Number(0, 1, count=2)} | dict.fromkeys(
    ('rpn_count', 'roi_count'), Whole(1, WIDEST)) | dict.fromkeys(
    ('rpn_before', 'rpn_after'), Whole(1, count=2)) | dict.fromkeys(
    ('rpn_share', 'rpn_nms', 'roi_share', 'roi_iou', 'roi_least', 'nms',
     'score_threshold'), Number(0, 1)) | dict.fromkeys(('rpn_beta', 'roi_beta'), Number(above=0))


def with_pool(net: nn.Module, name: str) -> nn.Module:
    """The network with the pool of that name in POOLS in place of its max-pools; weights stay.

    Raises:
      UserError: a network that has none.
    """
    if not hasattr(net, 'pool'):
        raise UserError(f"pool='{name}': {type(net).__name__} has no max-pools to replace; take "
                        "pool=''")
    return net.clone(pool=POOLS[name])


def fits(net: nn.Module) -> Callable[[int], bool]:
    """The network's rule `fits` for the sides of images, see the top of this file."""
    return getattr(net, 'fits', lambda n: True)


def names() -> list[str]:
    """The names of all variants, sorted. `create` also takes densenet_l40_k24 and the like."""
    return sorted(name for family in FAMILIES for name in family.TABLE)


def create(name: str, **fields: Any) -> nn.Module:
    """The network `name` as a flax.linen module: one of `names`, or the class of a Python file, as
    in 'my_nets.py:MyNet' (see `cnnjax.user_network`).

    `fields` override those of the variant: `num_classes=100` (default: the paper's),
    `dtype='bfloat16'` (of activations; parameters are float32), `shortcut='A'`, `dropout=0.2`,
    `pool='average'`, `relu='relu6'` (a name of POOLS or RELUS, or a function) ...; each module
    lists its own. A field that is None keeps the variant's value.

    Raises:
      UserError (a ValueError): an unknown name, field, pool or type; the message lists what there
        is. A value that no network has: a negative width, a dropout of 1. A field without a value;
        a Python file that is not there, that fails or breaks the contract.
    """
    module, row = _variant(name)
    fields = {field: value for field, value in fields.items() if value is not None}
    known = settings(module)
    if 'dtype' not in known and fields.get('dtype') == 'float32':  # the default of all networks
        del fields['dtype']
    for field in fields:
        if field not in known:
            raise UserError(f"{name} has no field '{field}'{suggest(field, known)}; "
                            f'it has {", ".join(known)}')
    for field, functions in FUNCTIONS.items():
        if isinstance(given := fields.get(field), str):
            if given not in functions:
                raise UserError(f"{field} is {' or '.join(map(repr, functions))}, not '{given}'")
            fields[field] = functions[given]
    own = _values(module, row)
    if 'num_classes' not in own:  # a user's network has no paper to say it
        fields.setdefault('num_classes', 10)
    if missing := [field for field in known if field not in own | fields]:
        raise UserError(f'{name}: give {", ".join(missing)}, which has no value of its own')
    ours = not user_network.is_named(name)
    for field, value in fields.items():
        if ours or field in ('num_classes', 'dtype'):
            _check(name, field, value, own.get(field))
    net = module(**row | fields)
    for parts in ('blocks', 'groups', 'sizes') if ours else ():  # each of them has a width
        count = len(getattr(net, parts, ()))
        if count and hasattr(net, 'widths') and len(net.widths) != count:
            raise UserError(f'{name}: {len(net.widths)} widths for {count} {parts}')
    if ours and hasattr(net, 'check_fields'):
        net.check_fields(name)
    return net


def _variant(name):
    """The class of the network `name`, and the fields that its row of the paper's table sets."""
    if user_network.is_named(name):
        return user_network.load(name), {}
    family = next((family for family in FAMILIES if name in family.TABLE), densenet)
    row = family.TABLE.get(name) or densenet.row(name)
    if row is None:
        near = suggest(name, names()) or '; models.names() lists them all'
        raise UserError(f"there is no network '{name}'{near}")
    return family.MODULE, dict(zip(family.COLUMNS, row, strict=True))


def _values(module, row):
    """{field: value} of a variant, without the fields that have no value until one is given."""
    values = {}
    for field in dataclasses.fields(module):
        if field.default is not dataclasses.MISSING:
            values[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            values[field.name] = field.default_factory()
    return values | row


def fields(name: str, net: nn.Module) -> dict[str, Any]:
    """The fields with which `create(name, **fields)` gives the network `net`, {field: plain value}:
    those in which it differs from the variant, but for the number of classes and the type.

    Raises:
      UserError: `net` is of another family, or holds a function that has no name here.
    """
    (module, row), found = _variant(name), {}
    if type(net) is not module:
        raise UserError(f'{name} is a {module.__name__}, not a {type(net).__name__}')
    own = _values(module, row)
    for field in settings(net):
        value = getattr(net, field)
        if field in ('num_classes', 'dtype') or (field in own and value == own[field]):
            continue
        found[field] = plain(field, value)
        if callable(found[field]):
            raise UserError(f'{name}: its {field} is {value}, which has no name that could be '
                            'written down; those in models.FUNCTIONS have one')
    return found


def plain(field: str, value: Any) -> Any:
    """The value of a field, or the name of a function in FUNCTIONS."""
    return next((key for key, function in FUNCTIONS.get(field, {}).items() if function is value),
                value)


def settings(net: nn.Module | type[nn.Module]) -> list[str]:
    """The names of the fields of a network, or of its class."""
    return [field.name for field in dataclasses.fields(net) if field.name not in ('parent', 'name')]


def _check(name, field, value, own):
    """Raises UserError unless a field of the network `name`, where it is `own`, takes `value`."""
    if field == 'dtype':
        known = (*DTYPES, 'float64') if jnp.result_type(float) == 'float64' else DTYPES
        given = value if isinstance(value, str) else jnp.dtype(value).name
        if given not in known:
            raise UserError(f'dtype is one of {", ".join(known)}, not {given!r}')
    if field not in LIMITS:
        return
    several = isinstance(value, (tuple, list))
    nested = isinstance(own, tuple) and own and isinstance(own[0], tuple)
    of_another_form = several != isinstance(own, tuple) or (
        nested and not all(isinstance(part, (tuple, list)) and (
            field not in ('blocks', 'fires') or len(part) == len(own[0])) for part in value))
    if of_another_form or not value and field in ('widths', 'anchor_sizes', 'anchor_ratios'):
        raise UserError(f'{name}: {field}={value!r}: take something like {own!r}')
    if nested:  # Network in Network's widths
        for part in value:
            _check(name, field, part, own[0])
        return
    try:
        limits.check({field: value}, {field: LIMITS[field]})
    except UserError as error:
        raise UserError(f'{name}: {error}') from None
