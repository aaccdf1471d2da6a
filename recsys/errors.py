"""The one error a user is meant to see."""


class UserError(Exception):
    """The user's input is wrong.

    The message is one line: the file, key or column, the value found there, and the fix. The
    command line prints it without a traceback and exits with code 2.
    """


class RunError(Exception):
    """A run cannot go on, for a reason that one line explains: exit code 1, no traceback."""


class RankError(RunError):
    """A `RunError` that this rank alone knows of: it prints it, though it is not the first."""
