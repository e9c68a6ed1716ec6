"""The one exception that is the user's to mend, the test of numbers that raises it, near names."""

import difflib
import numbers


class UserError(ValueError):
    """Something the user gave is wrong. The message names it and says what to do instead.

    `launch.py` prints the message alone, without a traceback.
    """


def check_numbers(values, **limits):
    """Raises UserError unless each field of the mapping `values`, or each of its numbers, is within
    its limits, field=(least, most), both included: nothing that is no number, NaN or beyond."""
    for field, (least, most) in limits.items():
        given = values[field]
        for value in given if isinstance(given, (tuple, list)) else (given,):
            if not isinstance(value, numbers.Real) or isinstance(value, bool):
                raise UserError(f'{field}={given!r}: {value!r} is no number')
            if not value >= least:  # NaN too
                raise UserError(f'{field}={given}: take {least} or a larger number')
            if value > most:
                raise UserError(f'{field}={given}: take {most} or a smaller number')


def suggest(word, words):
    """'; did you mean a or b?': those of the words that are nearest to `word`; '' where none is."""
    close = difflib.get_close_matches(word, words, n=3, cutoff=0.5)
    return f'; did you mean {" or ".join(close)}?' if close else ''
