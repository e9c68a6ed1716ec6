"""Every network by name: `models.create('resnet50', num_classes=1000)`.

A network is a flax.linen module:

    variables = net.init(key, images, train=False)  # {'params': ..., 'batch_stats': ...}
    outputs, taps = net.apply(variables, images, train=False)  # logits [N, classes]; {name: array}

Images are float [N, H, W, C], already normalized. `taps` holds, in forward order, the outputs of
convolutions, activations, pools and blocks under the names of the parameters' path; under jit an
unused tap costs nothing. `net.clone(relu=..., pool=...)` swaps these without touching the weights
(but weights that were trained with one may mean nothing with another).
`net.image_shape` is the paper's input [H, W, C].
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import layers, limits
from cnnjax.errors import UserError, suggest
from cnnjax.limits import Number, Whole
from cnnjax.models import (
    alexnet,
    allcnn,
    convnet,
    densenet,
    fractalnet,
    fractional,
    googlenet,
    lenet,
    mobilenet,
    nin,
    preact_resnet,
    resnet,
    unet,
    vgg,
)

FAMILIES = (
    convnet, lenet, alexnet, nin, allcnn, vgg, resnet, preact_resnet, densenet, fractalnet,
    googlenet, mobilenet, unet, fractional,
)
# What configs and files of weights call the functions that are fields of a network.
POOLS = {'max': layers.max_pool, 'average': layers.average_pool}
RELUS = {'relu': layers.relu, 'relu6': nn.relu6}
FUNCTIONS = {'pool': POOLS, 'relu': RELUS}
# Fields that the trained weights do not depend on: they say how a training computes and
# regularizes, and what an evaluation averages. `survival` is none of them: stochastic depth scales
# the branches by it.
FREE = frozenset({'num_classes', 'dtype', 'dropout', 'input_dropout', 'local_drop_path',
                  'global_drop_path', 'auxiliary_weight', 'scan', 'remat', 'tests', 'resolution'})

DTYPES = ('float32', 'bfloat16', 'float16')
WIDEST = 2 ** 16
LIMITS = dict.fromkeys(('width', 'widths', 'hidden', 'growth', 'stem_width', 'base_width',
                        'cardinality', 'tests'), Whole(1, WIDEST)) | dict.fromkeys(
    ('dropout', 'input_dropout'), Number(0, below=1)) | dict.fromkeys(
    ('survival', 'local_drop_path', 'global_drop_path'), Number(0, 1)) | {
    'num_classes': Whole(1, 2 ** 24), 'columns': Whole(1, 8), 'stem': Whole(0, 31),
    'canvas': Whole(1, 4096), 'blocks': Whole(1, 4096), 'layers_per_block': Whole(1, 4096),
    'depth': Whole(1, 32), 'last_pool': Whole(1, 31), 'largest': Whole(1, 31),
    'resolution': Whole(1, 8192), 'width_multiplier': Number(0, 64),
    'auxiliary_weight': Number(0, 1e6)}


def with_pool(net, name):
    """The network with the pool of that name in POOLS in place of its max-pools; weights stay.

    Raises:
      UserError: a network that has none.
    """
    if not hasattr(net, 'pool'):
        raise UserError(f"pool='{name}': {type(net).__name__} has no max-pools to replace; take "
                        "pool=''")
    return net.clone(pool=POOLS[name])


def names():
    """The names of all variants, sorted. `create` also takes densenet_l40_k24 and the like."""
    return sorted(name for family in FAMILIES for name in family.TABLE)


def create(name, **fields):
    """The network `name` as a flax.linen module.

    `fields` override those of the variant: `num_classes=100` (default: the paper's),
    `dtype='bfloat16'` (of activations; parameters are float32), `shortcut='A'`, `dropout=0.2`,
    `pool='average'`, `relu='relu6'` (a name of POOLS or RELUS, or a function) ...; each module
    lists its own. A field that is None keeps the variant's value.

    Raises:
      UserError (a ValueError): an unknown name, field, pool or type; the message lists what there
        is. A value that no network has: a negative width, a dropout of 1.
    """
    family = next((family for family in FAMILIES if name in family.TABLE), densenet)
    row = family.TABLE.get(name) or densenet.row(name)
    if row is None:
        near = suggest(name, names()) or '; models.names() lists them all'
        raise UserError(f"there is no network '{name}'{near}")
    own = dict(zip(family.COLUMNS, row, strict=True))
    fields = {field: value for field, value in fields.items() if value is not None}
    known = settings(family.MODULE)
    for field in fields:
        if field not in known:
            raise UserError(f"{name} has no field '{field}'{suggest(field, known)}; "
                            f'it has {", ".join(known)}')
    for field, functions in FUNCTIONS.items():
        if isinstance(given := fields.get(field), str):
            if given not in functions:
                raise UserError(f"{field} is {' or '.join(map(repr, functions))}, not '{given}'")
            fields[field] = functions[given]
    net, variant = family.MODULE(**own | fields), family.MODULE(**own)
    for field, value in fields.items():
        _check(name, field, value, getattr(variant, field))
    for parts in ('blocks', 'groups', 'sizes'):  # each has a width
        count = len(getattr(net, parts, ()))
        if count and hasattr(net, 'widths') and len(net.widths) != count:
            raise UserError(f'{name}: {len(net.widths)} widths for {count} {parts}')
    return net


def fields(name, net):
    """The fields with which `create(name, **fields)` gives the network `net`, {field: plain value}:
    those in which it differs from the variant, but for the number of classes and the type.

    Raises:
      UserError: `net` is of another family, or holds a function that has no name here.
    """
    own, found = create(name), {}
    if type(net) is not type(own):
        raise UserError(f'{name} is a {type(own).__name__}, not a {type(net).__name__}')
    for field in settings(net):
        value = getattr(net, field)
        if field in ('num_classes', 'dtype') or value == getattr(own, field):
            continue
        found[field] = plain(field, value)
        if callable(found[field]):
            raise UserError(f'{name}: its {field} is {value}, which has no name that could be '
                            'written down; those in models.FUNCTIONS have one')
    return found


def plain(field, value):
    """The value of a field, or the name of a function in FUNCTIONS."""
    return next((key for key, function in FUNCTIONS.get(field, {}).items() if function is value),
                value)


def settings(net):
    """The names of the fields of a network, or of its class."""
    return [field.name for field in dataclasses.fields(net) if field.name not in ('parent', 'name')]


def _check(name, field, value, own):
    """Raises UserError unless a field of the network `name`, where it is `own`, takes `value`."""
    if field == 'dtype':
        known = (*DTYPES, 'float64') if jax.config.jax_enable_x64 else DTYPES
        given = value if isinstance(value, str) else jnp.dtype(value).name
        if given not in known:
            raise UserError(f'dtype is one of {", ".join(known)}, not {given!r}')
    if field not in LIMITS:
        return
    several = isinstance(value, (tuple, list))
    if several != isinstance(own, tuple):
        raise UserError(f'{name}: {field}={value!r}: take something like {own!r}')
    if not value and field == 'widths':
        raise UserError(f'{name}: {field}={value!r}: take something like {own!r}')
    if several and own and isinstance(own[0], tuple):  # as in Network in Network
        for part in value:
            _check(name, field, part, own[0])
        return
    try:
        limits.check({field: value}, {field: LIMITS[field]})
    except UserError as error:
        raise UserError(f'{name}: {error}') from None
