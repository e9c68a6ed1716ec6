"""The exception for mistakes of the user, and suggestions for an unknown name."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user gave is wrong. The message names it and says what to do instead.

    `launch.py` prints the message alone, without a traceback.
    """


def suggest(word: str, words: Iterable[str]) -> str:
    """A text '; did you mean a or b?' of the words nearest to `word`; '' if none is near."""
    close = difflib.get_close_matches(word, words, n=3, cutoff=0.5)
    return f'; did you mean {" or ".join(close)}?' if close else ''
