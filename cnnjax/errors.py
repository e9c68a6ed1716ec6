"""The one exception that is the user's to mend."""


class UserError(ValueError):
    """Something the user gave is wrong. The message names it and says what to do instead.

    `launch.py` prints the message alone, without a traceback.
    """
