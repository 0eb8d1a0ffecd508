"""The dtype in which rounding is looked at."""

from __future__ import annotations

import torch
from torch import Tensor

from manual_bp.verify.case import Case, CrashError


def narrower(given: Case) -> Case | None:
    """The case in the inputs' own dtype; for float64 inputs in float32, where its range holds them comfortably."""
    if given.dtype != torch.float64:
        return given
    floats = [a for a in given.args if isinstance(a, Tensor) and a.is_floating_point()]
    sizes = torch.cat([a.reshape(-1).abs().cpu().double() for a in floats]) if floats else torch.ones(1)
    sizes = sizes[sizes > 0]
    if not bool(((sizes > 1e-6) & (sizes < 1e6)).all()):
        return None
    args = [a.float() if isinstance(a, Tensor) and a.is_floating_point() else a for a in given.args]
    low = Case(given.subject, args, given.checked, given.seed)
    try:
        low.prepare()
    except CrashError:
        return None
    return low if low.shapes == given.shapes else None
