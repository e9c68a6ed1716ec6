"""Fields of a config that hold lists, choices and sizes; what does not fit is refused by name."""

from cnnjax.errors import UserError, check_numbers

LARGEST = 2 ** 32 - 1  # of every number: larger seeds would be cut off, larger sizes fit nowhere


def names(text):
    """'relu1_1, relu2_1' -> ('relu1_1', 'relu2_1')"""
    return tuple(name.strip() for name in text.split(',') if name.strip())


def check_choice(config, **choices):
    """Raises UserError unless each field has one of its values."""
    for field, known in choices.items():
        if config[field] not in known:
            raise UserError(f"{field}='{config[field]}' is none of {', '.join(map(repr, known))}")


def check_minimum(config, **least):
    """Raises UserError unless each field, or each of its numbers, is at least so large."""
    check_numbers(config, **{field: (minimum, LARGEST) for field, minimum in least.items()})


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
