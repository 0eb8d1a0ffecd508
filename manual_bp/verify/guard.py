"""A crash of the interpreter loses nothing: the work runs in a child that tells how far it is.

The child is forked before torch is imported, when there is nothing that a fork could break. Its
exit status counts only if the child says that the work was done: the checked code may end it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from manual_bp import console

Tell = Callable[[str, str], None]  # the report so far, and what begins now
_DONE = 0  # the length of the message that the work was done


def guarded(work: Callable[[Tell], int], crashed: Callable[[str, str], int], prog: str) -> int:
    """Run `work` in a child and return its status.

    If the checked code ends the child, `crashed` is given the report so far and what happened, and
    its status is returned. Where there is no fork, or torch is there already, `work` runs here.

    Raises:
        KeyboardInterrupt: Ctrl-C, here or in the child.
    """
    if not hasattr(os, "fork") or "torch" in sys.modules:
        return _here(work, crashed)
    sys.stdout.flush()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        _child(work, writing, prog)
    os.close(writing)

    def terminated(*_: object) -> NoReturn:
        sys.exit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, terminated)
    try:
        told, done = _read(reading)
        _, ended = os.waitpid(child, 0)
    except BaseException:  # Ctrl-C and SIGTERM: nothing is left behind
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    status = os.waitstatus_to_exitcode(ended)
    if done and status >= 0:
        return status
    if status == 130:
        raise KeyboardInterrupt
    probe, _, report = told.partition("\n")
    how = f"is ended by {_name(-status)}" if status < 0 else f"ends with exit status {status}"
    return crashed(report, f"{how} in: {probe or 'the first call'}")


def _here(work: Callable[[Tell], int], crashed: Callable[[str, str], int]) -> int:
    told = ["", "the first call"]

    def tell(report: str, probe: str) -> None:
        told[:] = report, probe

    try:
        return work(tell)
    except SystemExit as leaving:
        return crashed(told[0], f"ends with exit status {leaving.code or 0} in: {told[1]}")


def _child(work: Callable[[Tell], int], writing: int, prog: str) -> NoReturn:
    def quiet() -> int:
        try:
            return work(lambda report, probe: _write(writing, f"{probe}\n{report}"))
        except KeyboardInterrupt:
            os._exit(130)  # the parent says so

    status = 2
    try:
        status = console.run(quiet, prog)
        _write(writing, "")
    except SystemExit as leaving:  # of the checked code
        status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except Exception:  # of the checker: as Python would show it
        traceback.print_exc()
        _write(writing, "")
    finally:
        os._exit(status & 255)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _write(pipe: int, text: str) -> None:
    content = text.encode("utf-8", "backslashreplace")
    os.write(pipe, len(content).to_bytes(8, "big") + content)


def _read(pipe: int) -> tuple[str, bool]:
    """What was told last, and whether the work was done; until that, or until the child ends."""
    told = ""
    with os.fdopen(pipe, "rb") as source:
        while head := source.read(8):
            length = int.from_bytes(head, "big")
            if length == _DONE:
                return told, True
            told = source.read(length).decode()
    return told, False
