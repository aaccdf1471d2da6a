"""The one error a user is meant to see."""


class UserError(Exception):
    """The user's input is wrong.

    The message is one line: the file, key or column, the value found there, and the fix. The
    command line prints it without a traceback and exits with code 2.
    """
