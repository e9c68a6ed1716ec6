"""Fields of a config that hold lists, choices and sizes; what does not fit is refused by name."""

import math

import jax

from cnnjax import memory
from cnnjax.errors import UserError, check_numbers
from cnnjax.images import objectives

LARGEST = 2 ** 31 - 1  # the largest value of a field: numbers on the devices have 32 bits
# Fields with another limit. The values of `report_every` steps are kept on the devices.
LIMITS = {'seed': 2 ** 32 - 1, 'loader_threads': 1024, 'report_every': 2 ** 16}


def names(text):
    """'relu1_1, relu2_1' -> ('relu1_1', 'relu2_1')"""
    return tuple(name.strip() for name in text.split(',') if name.strip())


def check_choice(config, **choices):
    """Raises UserError unless each field has one of its values."""
    for field, known in choices.items():
        if config[field] not in known:
            raise UserError(f"{field}='{config[field]}' is none of {', '.join(map(repr, known))}")


def check_minimum(config, **least):
    """Raises UserError unless each field, or each of its numbers, is at least so large, and not
    larger than any can be."""
    check_numbers(config, **{field: (minimum, LIMITS.get(field, LARGEST))
                             for field, minimum in least.items()})


def check_whole(config, *names):
    """Raises UserError unless each field, or each of its numbers, is whole."""
    for field in names:
        given = config[field] if isinstance(config[field], (tuple, list)) else (config[field],)
        if any(number != int(number) for number in given):
            raise UserError(f'{field}={config[field]}: give whole numbers')


def check_memory(numbers, **given):
    """Raises UserError, naming the fields that are `given`, if so many float32 fill the memory."""
    if 4 * numbers > memory.device():
        named = ' with '.join(f'{field}={value}' for field, value in given.items())
        raise UserError(f'{named} takes {4 * numbers / 2 ** 30:,.1f} GiB, more than half of the '
                        'memory: take less')


def activations(network, shape, tile=0):
    """How many numbers all activations of an image [H, W, C] are, or of one of its tiles."""
    if tile:
        shape = (*(min(side, max(tile, own)) for side, own in
                   zip(shape[:2], network.image_shape[:2], strict=True)), shape[2])
    taps = jax.eval_shape(network.taps, jax.ShapeDtypeStruct((1, *shape), 'float32'))
    return sum(math.prod(tap.shape) for tap in taps.values())


def layer(entry, shapes, field='layers'):
    """'relu4_2:12+40', a layer with some of its channels -> ('relu4_2', (12, 40)); of 'relu4_2',
    which is all of them, ('relu4_2', ()).

    Raises UserError, naming the field, unless it is among `shapes`, {layer: its shape [..., C]},
    and has these channels.
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


def layers(text, shapes, field='layers'):
    """'relu4_2:12+40,fc8' -> {'relu4_2': (12, 40), 'fc8': ()}, in this order; see `layer`.

    Raises UserError also for a layer that is named twice.
    """
    found = [layer(entry, shapes, field) for entry in names(text)]
    seen = [name for name, _ in found]
    for name in seen:
        if seen.count(name) > 1:
            raise UserError(f"{field}: '{name}' is named twice; write its channels together, as in "
                            f"'{name}:0+1'")
    return dict(found)
