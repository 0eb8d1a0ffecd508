"""Calls that are too large to look at: the same call with smaller dimensions, where it takes them.

All dimensions of one size, in any argument, are cut together, the largest first. A cut holds if the
function still runs and no output dimension grows. A call that is too large to be made is never
made: the first cuts are then taken unseen.
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


def elements(args: Sequence[Any], outputs: Sequence[torch.Size] = ()) -> int:
    """How many numbers a call takes and gives."""
    given = sum(a.numel() for a in args if isinstance(a, Tensor))
    return given + sum(shape.numel() for shape in outputs)


def smaller(
    subject: Subject, checked: Sequence[int], seed: int, shapes: Sequence[torch.Size] | None
) -> tuple[Subject | None, str]:
    """The subject with AIM elements, at most LIMIT, or None, and what was cut in words.

    Args:
        subject: its inputs are cut, not the parameters of a module.
        checked: the positions of the arguments to differentiate by.
        seed: of its random numbers.
        shapes: of the outputs, or None if the call is too large to be made.
    """
    args, cut, count = list(subject.args), [], subject.inputs
    sizes = sorted({s for a in args[:count] if isinstance(a, Tensor) for s in a.shape if s > 4})
    while elements(args[:count], shapes or ()) > AIM and sizes:
        size = sizes.pop()
        for first_only in (False, True):
            new = size
            while new > 4 and elements(args[:count], shapes or ()) > AIM:
                less = max(3, new // 4)
                tried = [_cut(a, new, less, first_only) for a in args[:count]] + args[count:]
                one = Case(subject, tried, checked, seed)
                if shapes is not None or elements(tried[:count]) <= LIMIT:
                    try:
                        one.prepare()
                    except CrashError:
                        break
                    if shapes is not None and not _fits(shapes, one.shapes):
                        break
                    shapes = one.shapes
                args, new = tried, less
            if new != size:
                cut.append(f"{size} to {new}")
                break
    if shapes is None or elements(args[:count], shapes) > LIMIT:
        return None, ""
    return replace(subject, args=tuple(args)), ", ".join(cut)


def _cut(a: Any, old: int, new: int, first_only: bool) -> Any:
    if not isinstance(a, Tensor):
        return a
    place = tuple(
        slice(0, new) if size == old and (d == 0 or not first_only) else slice(None)
        for d, size in enumerate(a.shape)
    )
    return a.detach()[place].clone().requires_grad_(a.requires_grad)


def _fits(before: Sequence[torch.Size], after: Sequence[torch.Size]) -> bool:
    """Whether the outputs are as many, of as many dimensions, and no larger."""
    return len(before) == len(after) and all(
        len(b) == len(a) and all(y <= x for x, y in zip(b, a, strict=True))
        for b, a in zip(before, after, strict=True)
    )
