"""The one exception whose message is meant for the person at the terminal."""


class UserError(Exception):
    """Something the user can mend. The message is one line: what was seen, what was expected, what to do.

    The command prints it on stderr and exits with status 1.
    """
