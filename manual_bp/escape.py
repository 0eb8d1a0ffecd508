"""Text from outside, such as a file's name, as a terminal may show it: one line, no commands."""

from __future__ import annotations


def escaped(text: object) -> str:
    """`text` with its control characters, line ends and lone surrogates written as escapes.

    A name may hold what moves the cursor, changes colours or turns the direction of writing.

        >>> escaped("a\\x1b[2Jb")
        'a\\\\x1b[2Jb'
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text)
    )
