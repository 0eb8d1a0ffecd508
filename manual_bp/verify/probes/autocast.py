"""Under torch.autocast: a forward may get half precision where its backward does not expect it."""

from __future__ import annotations

import torch

from manual_bp.verify.case import Case
from manual_bp.verify.crash import CrashError
from manual_bp.verify.probes.result import Result


def autocast(given: Case) -> Result:
    """Run forward under autocast, and backward outside of it, as PyTorch advises.

    A backward that raises there is noted: not everybody means a Function for autocast.
    """
    result = Result()
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
            graph = given.graph()
    except CrashError as crash:
        return Result("refused", notes=[f"under torch.autocast the forward raises {crash.line}"])
    try:
        graph.gradients([torch.ones_like(o) for o in graph.outputs])
    except CrashError as crash:
        result.status = "the backward raises"
        result.notes.append(
            f"under torch.autocast the backward raises {crash.line}: decorate forward and backward "
            "with torch.amp.custom_fwd and custom_bwd"
        )
    return result
