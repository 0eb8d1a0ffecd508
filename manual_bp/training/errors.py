"""The exceptions whose message is meant for the person at the terminal."""


class UserError(Exception):
    """Something the user can mend. The message is one line: what was seen, what was expected, what
    to do.

    The command prints it on stderr and exits with status 1.
    """


class UsageError(UserError):
    """Flags that contradict each other: exit status 2, as after any other wrong usage."""
