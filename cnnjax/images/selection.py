"""Which layers of a network, and which of their channels, a text means: 'relu4_2:12+40,fc8'.

Where `shapes` is asked for, it is {layer: its shape [..., C]}, such as Trained.tap_shapes().
"""

import math
from collections.abc import Mapping, Sequence

from cnnjax import data, summary, transfer
from cnnjax.errors import UserError
from cnnjax.images import objectives
from cnnjax.limits import names
from cnnjax.trained import Trained


def layer(entry: str, shapes: Mapping[str, Sequence[int]],
          field: str = 'layers') -> tuple[str, tuple[int, ...]]:
    """'relu4_2:12+40', a layer with some of its channels -> ('relu4_2', (12, 40)); 'relu4_2', a
    layer with all of them -> ('relu4_2', ()).

    Raises:
      UserError: there is no such layer or channel, or one is named twice; `field` is the name of
        the text in the config.
    """
    name, colon, numbers = entry.partition(':')
    try:
        objectives.missing([name], shapes)
    except UserError as error:
        raise UserError(f'{field}: {error}') from None
    last = shapes[name][-1] - 1
    try:
        channels = tuple(int(number) for number in numbers.split('+')) if colon else ()
    except ValueError:
        some = '+'.join(map(str, sorted({0, last})))
        raise UserError(f"{field}: the channels of '{entry}' are no whole numbers; write "
                        f"'{name}:{some}'") from None
    for channel in channels:
        if not 0 <= channel <= last:
            raise UserError(f"{field}: '{name}' has the channels 0 to {last}, not {channel}")
    if len(set(channels)) < len(channels):
        raise UserError(f"{field}: '{entry}' names a channel twice")
    return name, channels


def layers(text: str, shapes: Mapping[str, Sequence[int]],
           field: str = 'layers') -> dict[str, tuple[int, ...]]:
    """'relu4_2:12+40,fc8' -> {'relu4_2': (12, 40), 'fc8': ()}, in this order.

    Raises:
      UserError: as `layer` does, or a layer is named twice.
    """
    found = [layer(entry, shapes, field) for entry in names(text)]
    seen = [name for name, _ in found]
    for name in seen:
        if seen.count(name) > 1:
            raise UserError(f"{field}: '{name}' is named twice; write its channels together, as in "
                            f"'{name}:0+1'")
    return dict(found)


def by_depth(text: str, shapes: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """{layer: channels} of the text, in forward order, () for all channels.

    'all' means every layer; '' the last layer of each size of the maps, without those inside of
    blocks.
    """
    if text == 'all':
        return dict.fromkeys(shapes, ())
    if named := layers(text, shapes):
        return {name: named[name] for name in shapes if name in named}
    outer = [name for name in shapes if '/' not in name]
    return {name: () for name, following in zip(outer, [*outer[1:], None], strict=True)
            if following is None or shapes[name][:-1] != shapes[following][:-1]}


def maps(rows: Mapping[str, summary.Row], shapes: Mapping[str, Sequence[int]],
         count: int) -> list[str]:
    """`count` layers of maps, spread over the network, or all of them where there are fewer: of a
    convolution and the ReLU behind it the ReLU, of a block its output.

    `rows` are {layer: its row in the summary}, in forward order.
    """
    consumers = {}
    for row in rows.values():
        for name in row.inputs:
            consumers.setdefault(name, []).append(row)
    found = []
    for name, row in rows.items():
        if name not in shapes or '/' in name or math.prod(shapes[name][:-1]) == 1:
            continue
        after = consumers.get(name, [])
        if len(after) == 1 and not after[0].params and after[0].shape == row.shape:
            continue
        found.append(name)
    return [found[i] for i in data.spread(len(found), count)]


def entries(network: Trained, text: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The layers of 'conv4_6,pool:3+5', {entry: (layer, channels)}, which may name a layer twice;
    '' means the last layer before the classifier."""
    rows = summary.summarize(network.net, network.image_shape).rows
    shapes = network.tap_shapes()
    if not names(text):
        head = transfer.head(network.net, network.image_shape)
        before = next(row for row in rows if row.name in head).inputs
        if not before:
            raise UserError("taps='': the classifier sees the image itself, no layer is before it; "
                            'name taps')
        text = before[0]
    return {entry: layer(entry, shapes, 'taps') for entry in names(text)}
