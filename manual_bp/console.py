"""How every command meets its terminal: closed, full, gone, or with an alphabet that has no σ."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import TextIO

from manual_bp.escape import escaped

GONE = 141  # as a shell says it of any program whose reader left, such as under `| head`
_LETTERS = "σδ∂⊙⁽²⁾█"


def run(work: Callable[[], int], prog: str) -> int:
    """Run a command, and return its exit status. What stops its output is one line, or none.

    1: stdout is full or fails; 130: Ctrl-C; 141: nobody reads on.
    """
    prepare()
    stdout = sys.stdout
    try:
        try:
            return work()
        finally:  # after --help too, which ends by SystemExit
            if not stdout.closed:
                stdout.flush()
    except BrokenPipeError:
        leave_stdout()
        return GONE
    except OSError as error:
        leave_stdout()
        where = "" if error.filename is None else f"{error.filename}: "
        say(f"{prog}: error: {where}{error.strerror or error}")
        return 1
    except KeyboardInterrupt:
        leave_stdout()
        say(f"{prog}: interrupted")
        return 130


def say(line: str) -> None:
    """Print a line on stderr, if stderr takes it; control characters are escaped."""
    with contextlib.suppress(OSError):
        print(escaped(line), file=sys.stderr, flush=True)


def leave_stdout() -> None:
    """Drop what is still to be written there, or the interpreter complains when it exits."""
    with contextlib.suppress(OSError):  # in a notebook it is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def kept(*, alone: bool) -> Iterator[TextIO]:
    """The stdout that there is now, which code that runs meanwhile can neither close nor replace.

    If `alone`, whatever that code, its libraries and its child processes print goes to stderr.
    """
    stdout = sys.stdout
    try:
        number = stdout.fileno()
    except OSError:  # in a notebook or a test it is no file
        with contextlib.redirect_stdout(sys.stderr if alone else stdout):
            yield stdout
        return
    stdout.flush()
    own = os.dup(number)
    if alone:
        os.dup2(sys.stderr.fileno(), number)
    with open(own, "w", encoding=stdout.encoding, errors=stdout.errors) as out:
        try:
            yield out
        finally:
            if alone:
                with contextlib.suppress(OSError, ValueError):  # that code may have closed it
                    stdout.flush()
                os.dup2(own, number)


def prepare() -> None:
    """Put nothing in the place of closed streams, and UTF-8 where σ cannot be written.

    Where stdout is closed, the next file that is opened would else become stdout.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            try:
                _LETTERS.encode(stream.encoding)
            except UnicodeEncodeError:
                stream.reconfigure(encoding="utf-8")
            stream.reconfigure(errors="backslashreplace")
