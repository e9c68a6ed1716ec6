"""Limits of the fields of a config: a table beside the code that they protect, and one check.

    LIMITS = {'steps': Whole(1), 'learning_rate': Number(above=0), 'optimizer': ('adam', 'sgd'),
              'layers': Names()}
    limits.check(config, LIMITS)
"""

import numbers
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from cnnjax.errors import UserError

if TYPE_CHECKING:
    from ml_collections import ConfigDict

LARGEST = 1e12  # The largest value for fields without a limit of their own; larger ones overflow.
LARGEST_WHOLE = 2 ** 31 - 1  # Whole numbers on the devices have 32 bits.


class Number(NamedTuple):
    """A field that is a number, or a tuple of numbers, each within these limits."""

    least: float = -LARGEST  # included, as is `most`
    most: float = LARGEST
    above: float | None = None  # excluded, as is `below`
    below: float | None = None
    some: bool = False  # whether a tuple needs at least one number
    count: int | None = None  # how many numbers a tuple has


class Whole(NamedTuple):
    """A field that is a whole number, or a tuple of them, each within these limits."""

    least: int = 0
    most: int = LARGEST_WHOLE
    some: bool = False
    count: int | None = None


class Names(NamedTuple):
    """A field that is a text of names with commas between them."""

    known: tuple[str, ...] = ()  # the allowed names; (): any
    some: bool = True  # whether the text needs at least one name


class Used(NamedTuple):
    """A field that is used only where another one has certain values."""

    field: str  # the other field
    values: tuple[Any, ...]
    default: Any  # the value of the unused field


SEED = Whole(0, 2 ** 32 - 1)


def names(text: str) -> tuple[str, ...]:
    """'relu1_1, relu2_1' -> ('relu1_1', 'relu2_1')"""
    return tuple(name.strip() for name in text.split(',') if name.strip())


def check(config: 'Mapping[str, Any] | ConfigDict',
          limits: Mapping[str, Number | Whole | Names | tuple]) -> None:
    """Checks the fields of `config`, a config or another mapping.

    Args:
      limits: {field: a Number, Whole, Names or a tuple of all allowed values}.

    Raises:
      UserError: a field is not within its limits; the message says what it may be.
    """
    for field, limit in limits.items():
        given = config[field]
        if isinstance(limit, Names):
            _check_names(field, given, limit)
        elif not isinstance(limit, (Number, Whole)):
            if given not in limit:
                raise UserError(f'{field}={given!r} is none of {", ".join(map(repr, limit))}')
        elif not isinstance(given, (tuple, list)):
            _check_number(field, given, given, limit)
        elif limit.some and not given:
            raise UserError(f'{field}={given!r} is empty: give at least one')
        elif limit.count not in (None, len(given)):
            raise UserError(f'{field}={given!r}: give {limit.count} numbers')
        else:
            for value in given:
                _check_number(field, given, value, limit)


def check_used(config: 'Mapping[str, Any] | ConfigDict', options: Mapping[str, Used]) -> None:
    """Checks that the fields of `options` that are not used have their default.

    Raises:
      UserError: one has another value, which would have no effect.
    """
    for name, (field, values, default) in options.items():
        if config[field] not in values and config[name] != default:
            raise UserError(f'{name}={config[name]!r} has an effect only with {field}='
                            f"{' or '.join(map(repr, values))}, and {field} is {config[field]!r}: "
                            f'set {name}={default!r}')


def _check_names(field, given, limit):
    found = names(given)
    if limit.some and not found:
        raise UserError(f'{field}={given!r} is empty: give at least one')
    for name in found if limit.known else ():
        if name not in limit.known:
            raise UserError(f'{field}={given!r}: {name!r} is none of {", ".join(limit.known)}')


def _check_number(field, given, value, limit):
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise UserError(f'{field}={given!r}: {value!r} is no number')
    if isinstance(limit, Whole):
        if not isinstance(value, numbers.Integral):
            raise UserError(f'{field}={given}: give whole numbers')
    elif limit.above is not None and not value > limit.above:
        raise UserError(f'{field}={given}: take a number above {limit.above}')
    elif limit.below is not None and not value < limit.below:
        raise UserError(f'{field}={given}: take a number below {limit.below}')
    if not value >= limit.least:  # NaN too
        raise UserError(f'{field}={given}: take {limit.least} or a larger number')
    if value > limit.most:
        raise UserError(f'{field}={given}: take {limit.most} or a smaller number')
