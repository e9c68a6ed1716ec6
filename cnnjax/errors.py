"""The one exception that is the user's to mend, and the names near to one that is unknown."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user gave is wrong. The message names it and says what to do instead.

    `launch.py` prints the message alone, without a traceback.
    """


def suggest(word: str, words: Iterable[str]) -> str:
    """'; did you mean a or b?': those of the words that are nearest to `word`; '' where none is."""
    close = difflib.get_close_matches(word, words, n=3, cutoff=0.5)
    return f'; did you mean {" or ".join(close)}?' if close else ''
