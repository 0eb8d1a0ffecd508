"""What the function under check raised: in which call, in one line, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager


class CrashError(Exception):
    """The function under check raised; `stage` says in which call."""

    def __init__(self, stage: str, error: BaseException) -> None:
        self.stage = stage
        self.error = error
        text = str(error).strip()
        first = text.splitlines()[0].rstrip(".") if text else "(no message)"
        self.line = f"{type(error).__name__}: {first}"
        super().__init__(f"{stage}: {self.line}")


def outdated(crash: CrashError) -> str:
    """What to do, if code written for an older PyTorch or NumPy raised; else ""."""
    if "Legacy autograd function" in crash.line:
        return (
            "It is written for a PyTorch before 1.3: make forward and backward static methods "
            "whose first argument is ctx, keep on ctx what self kept, and call it by .apply"
        )
    removed = re.search(r"module '(torch|numpy)[\w.]*' has no attribute '(\w+)'", crash.line)
    if removed:
        library = {"torch": "PyTorch", "numpy": "NumPy"}[removed[1]]
        return f"The installed {library} has no such name: later versions remove some. Replace it"
    if "deprecated" in crash.line and "removed" in crash.line:
        return "The installed PyTorch has removed it: the error names what replaces it"
    return ""


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Turn whatever the function under check raises into a `CrashError` that names the call."""
    try:
        yield
    except CrashError:
        raise
    except Exception as error:  # anything at all: it is somebody else's code
        raise CrashError(name, error) from error
