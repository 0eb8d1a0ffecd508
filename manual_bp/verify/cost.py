"""The time of one call, counted in operations: the same seed looks at the same elements anywhere.

Every tensor operation is counted with the elements it makes and, for products, its multiplications.
Lines of Python are counted too. One that calls no operation counts the elements of the arguments:
it may call NumPy. The constants turn counts into seconds of one present-day core. No clock is read.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

CALL, OPERATION, ELEMENT, MULTIPLICATION = 4e-5, 5e-6, 2e-9, 5e-11  # seconds each
LINE = 1e-7  # of Python
NOT_COUNTED = tuple(os.path.dirname(file) + os.sep for file in (torch.__file__, __file__))


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seconds, self.operations = CALL, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = [
            t
            for t in (result if isinstance(result, tuple | list) else (result,))
            if isinstance(t, Tensor)
        ]
        elements = sum(t.numel() for t in made)
        self.operations += 1
        self.seconds += OPERATION + ELEMENT * elements
        given = [a for a in args if isinstance(a, Tensor) and a.dim() >= 2]
        name = func.overloadpacket.__name__
        if "mm" in name and len(given) >= 2:
            self.seconds += MULTIPLICATION * elements * given[-2].shape[-1]
        elif "convolution" in name and len(given) >= 2:
            weight = given[-1]
            self.seconds += MULTIPLICATION * elements * weight.numel() / max(1, weight.shape[0])
        elif "linalg" in name and given:
            self.seconds += 10 * MULTIPLICATION * given[0].numel() * given[0].shape[-1]
        return result


def estimate(call: Callable[[], object], elements: int = 0) -> float:
    """Seconds that one call takes, the same on every machine and under every load.

    Args:
        call: is made three times.
        elements: of the arguments; NumPy, or an extension, is taken to look at each.
    """
    call()  # what a first call imports and keeps must not be counted
    counter = _Counter()
    collecting = gc.isenabled()
    gc.disable()  # a finaliser that happens to run is not of this call
    try:
        with counter:
            call()
        counted = counter.seconds
    except Exception:  # some of torch's own machinery refuses to be watched
        counted = CALL
    finally:
        if collecting:
            gc.enable()
    # each line of the function's own code may do work outside of torch
    lines = _lines(call)
    outside = max(0, lines - counter.operations)
    return counted + LINE * lines + ELEMENT * elements * outside


def iterates(call: Callable[[float], object]) -> bool:
    """Whether a call takes another number of operations for other values: to a tolerance, say.

    Args:
        call: is given a factor for its arguments.
    """
    counts = []
    for factor in (1.0, 1.1, 0.9, 1.5, 0.5, 4.0, 0.1):
        counter = _Counter()
        try:
            with counter:
                call(factor)
        except Exception:  # outside of its domain, or not to be watched
            continue
        counts.append(counter.operations)
    return len(set(counts)) > 1


def _lines(call: Callable[[], object]) -> int:
    """How many lines of Python one call runs, torch's and this package's left out."""
    count = 0

    def entered(frame: Any, event: str, argument: Any) -> Any:
        return None if frame.f_code.co_filename.startswith(NOT_COUNTED) else within

    def within(frame: Any, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return within

    before, collecting = sys.gettrace(), gc.isenabled()
    gc.disable()
    sys.settrace(entered)
    try:
        call()
    finally:
        sys.settrace(before)
        if collecting:
            gc.enable()
    return count
