"""Every network by name: `models.create('resnet50', num_classes=1000)`.

A network is a flax.linen module:

    variables = net.init(key, images, train=False)  # {'params': ..., 'batch_stats': ...}
    outputs, taps = net.apply(variables, images, train=False)  # logits [N, classes]; {name: array}

Images are float [N, H, W, C], already normalized. `taps` holds, in forward order, the outputs of
convolutions, activations, pools and blocks under the names of the parameters' path; under jit an
unused tap costs nothing. `net.clone(relu=..., pool=...)` swaps these without touching the weights.
`net.image_shape` is the paper's input [H, W, C].
"""

import dataclasses
import difflib

from cnnjax import layers
from cnnjax.errors import UserError
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
POOLS = {'max': layers.max_pool, 'average': layers.average_pool}  # what configs call them


def names():
    """The names of all variants, sorted. `create` also takes densenet_l40_k24 and the like."""
    return sorted(name for family in FAMILIES for name in family.TABLE)


def create(name, **fields):
    """The network `name` as a flax.linen module.

    `fields` override those of the variant: `num_classes=100` (default: the paper's),
    `dtype='bfloat16'` (of activations; parameters are float32), `shortcut='A'`, `dropout=0.2`,
    `pool='average'` (or 'max', or a function) ...; each module lists its own. A field that is None
    keeps the variant's value.

    Raises:
      UserError (a ValueError): an unknown name, field or pool; the message lists what there is.
    """
    family = next((family for family in FAMILIES if name in family.TABLE), densenet)
    row = family.TABLE.get(name) or densenet.row(name)
    if row is None:
        raise UserError(f"there is no network '{name}'{_suggest(name, names())}")
    own = dict(zip(family.COLUMNS, row, strict=True))
    fields = {field: value for field, value in fields.items() if value is not None}
    known = [field.name for field in dataclasses.fields(family.MODULE)
             if field.name not in ('parent', 'name')]
    for field in fields:
        if field not in known:
            raise UserError(f"{name} has no field '{field}'{_suggest(field, known)}; "
                            f'it has {", ".join(known)}')
    if isinstance(pool := fields.get('pool'), str):
        if pool not in POOLS:
            raise UserError(f"pool is 'max' or 'average', not '{pool}'")
        fields['pool'] = POOLS[pool]
    return family.MODULE(**own | fields)


def _suggest(word, words):
    close = difflib.get_close_matches(word, words, n=3, cutoff=0.5)
    return f'; did you mean {" or ".join(close)}?' if close else ''
