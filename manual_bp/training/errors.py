"""The exceptions whose message is meant for the person at the terminal."""

from pathlib import Path

from manual_bp.escape import escaped


class UserError(Exception):
    """Something the user can mend. The message is one line: what was seen, what was expected, what
    to do.

    The command prints it on stderr and exits with status 1. Control characters, which names from
    outside may hold, are escaped; line ends too, unless the message is a `table`.
    """

    def __init__(self, message: str, *, table: bool = False) -> None:
        lines = message.split("\n") if table else [message]
        super().__init__("\n".join(map(escaped, lines)))


class UsageError(UserError):
    """Flags that contradict each other: exit status 2, as after any other wrong usage."""


def taken(path: Path) -> UserError:
    """A run of this name is there."""
    return UserError(
        f"{path} exists already: choose another --run-name, or continue that run with "
        f"--resume {path}"
    )
