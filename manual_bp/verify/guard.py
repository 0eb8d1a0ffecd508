"""A crash of the interpreter loses nothing: the work runs in a child that tells how far it is.

The child is forked before torch is imported, when there is nothing that a fork could break.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable

Tell = Callable[[str, str], None]  # the report so far, and what begins now


def guarded(work: Callable[[Tell], int]) -> int:
    """Run `work` in a child and return its status; if a signal ends it, print what it last told.

    Where there is no fork, or torch is there already, it runs here.
    """
    if not hasattr(os, "fork") or "torch" in sys.modules:
        return work(lambda report, probe: None)
    sys.stdout.flush()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        status = 2
        try:
            status = work(lambda report, probe: _write(writing, f"{probe}\n{report}"))
            sys.stdout.flush()
        except SystemExit as leaving:
            status = leaving.code if isinstance(leaving.code, int) else 2
        except BaseException:  # of the checker: as Python would show it
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writing)
    told = _read(reading)
    _, ended = os.waitpid(child, 0)
    if os.WIFEXITED(ended):
        return os.WEXITSTATUS(ended)
    name = signal.Signals(os.WTERMSIG(ended)).name
    probe, _, report = told[-1].partition("\n") if told else ("the first call", "", "")
    if report:
        print(report)
    print(f"\n  crash  the whole process\n    it is ended by {name} in: {probe}", flush=True)
    return 1


def _write(pipe: int, text: str) -> None:
    content = text.encode()
    os.write(pipe, len(content).to_bytes(8, "big") + content)


def _read(pipe: int) -> list[str]:
    """All that was told, until the child has ended."""
    with os.fdopen(pipe, "rb") as source:
        told = []
        while head := source.read(8):
            told.append(source.read(int.from_bytes(head, "big")).decode())
    return told
