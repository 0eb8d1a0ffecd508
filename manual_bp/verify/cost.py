"""The time of one call, counted in operations: the same seed looks at the same elements anywhere.

Every tensor operation is counted with the elements it makes and, for products, its multiplications.
The constants turn counts into seconds of one present-day core. A call that does most of its work
outside of torch (NumPy, a loop in Python) is timed instead, and rounded to a power of 4.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

CALL, OPERATION, ELEMENT, MULTIPLICATION = 4e-5, 5e-6, 2e-9, 5e-11  # seconds each
HIDDEN = 20  # a call that takes this many times the counted seconds works outside of torch


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seconds = CALL

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = [
            t
            for t in (result if isinstance(result, tuple | list) else (result,))
            if isinstance(t, Tensor)
        ]
        elements = sum(t.numel() for t in made)
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


def estimate(call: Callable[[], object]) -> float:
    """Seconds that one call takes, the same on every machine and under every load."""
    counter = _Counter()
    try:
        with counter:
            call()
    except Exception:  # some of torch's own machinery refuses to be watched
        return max(CALL, _timed(call))
    seconds = _timed(call)
    return counter.seconds if seconds < HIDDEN * counter.seconds else seconds


def _timed(call: Callable[[], object]) -> float:
    taken = []
    for _ in range(3):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return float(4.0 ** round(math.log(max(min(taken), 1e-7), 4)))
