"""Fields of a config that hold lists, choices and sizes; what does not fit is refused by name."""

import math

import jax

from cnnjax.data.pipeline import MEMORY
from cnnjax.errors import UserError, check_numbers

LARGEST = 2 ** 31 - 1  # of every number: those on the devices have 32 bits
# The fields that have other limits; the values of `report_every` steps are on the devices.
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
    if 4 * numbers > MEMORY:
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


def channels(entry, count):
    """The channels of 'relu4_2:12+40', a layer that has `count`: (12, 40); of 'relu4_2' ().

    Raises UserError unless they are numbers of its channels.
    """
    layer, _, numbers = entry.partition(':')
    try:
        found = tuple(int(number) for number in numbers.split('+') if numbers)
    except ValueError:
        raise UserError(f"layers: the channels of '{entry}' are no whole numbers; write "
                        f"'{layer}:0+{count - 1}'") from None
    for channel in found:
        if not 0 <= channel < count:
            raise UserError(f"layers: '{layer}' has the channels 0 to {count - 1}, not {channel}")
    return found
