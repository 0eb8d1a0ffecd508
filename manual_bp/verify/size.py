"""Calls that are too large to look at: the same call with smaller dimensions, where it takes them.

All dimensions of one size, in any argument, are cut together, the largest first. A cut holds if the
function still runs and every output dimension is as it was or has the new size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from manual_bp.verify.case import Case
from manual_bp.verify.crash import CrashError
from manual_bp.verify.subject import Subject

LIMIT = 400_000  # elements of the arguments and outputs: a check holds about 1 kB for each
AIM = 20_000  # elements that a cut call has at most, if the function takes that


def elements(args: Sequence[Any], outputs: Sequence[torch.Size]) -> int:
    """How many numbers a call takes and gives."""
    given = sum(a.numel() for a in args if isinstance(a, Tensor))
    return given + sum(shape.numel() for shape in outputs)


def smaller(case: Case) -> tuple[Subject | None, str]:
    """The subject with AIM elements, at most LIMIT, or None, and what was cut in words."""
    args, shapes, cut = list(case.subject.args), case.shapes, []
    sizes = sorted({s for a in args if isinstance(a, Tensor) for s in a.shape if s > 4})
    while elements(args, shapes) > AIM and sizes:
        size = sizes.pop()
        for first_only in (False, True):
            new = size
            while new > 4 and elements(args, shapes) > AIM:
                tried = [_cut(a, new, max(3, new // 4), first_only) for a in args]
                one = Case(case.subject, tried, case.checked, case.seed)
                try:
                    one.prepare()
                except CrashError:
                    break
                if not _fits(shapes, one.shapes, new, max(3, new // 4)):
                    break
                args, shapes, new = tried, one.shapes, max(3, new // 4)
            if new != size:
                cut.append(f"{size} to {new}")
                break
    if elements(args, shapes) > LIMIT:
        return None, ""
    return replace(case.subject, args=tuple(args)), ", ".join(cut)


def _cut(a: Any, old: int, new: int, first_only: bool) -> Any:
    if not isinstance(a, Tensor):
        return a
    place = tuple(
        slice(0, new) if size == old and (d == 0 or not first_only) else slice(None)
        for d, size in enumerate(a.shape)
    )
    return a.detach()[place].clone().requires_grad_(a.requires_grad)


def _fits(before: Sequence[torch.Size], after: Sequence[torch.Size], old: int, new: int) -> bool:
    return len(before) == len(after) and all(
        len(b) == len(a) and all(y in (x, new) for x, y in zip(b, a, strict=True))
        for b, a in zip(before, after, strict=True)
    )
