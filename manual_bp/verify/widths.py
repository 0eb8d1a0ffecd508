"""The dtype in which rounding is checked, and the dtype in which the function computes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from manual_bp.verify.case import Case
from manual_bp.verify.crash import CrashError

# The inputs are scaled by these: a dtype's grid shrinks with them, a quantiser's does not.
NEARER = (1.0, 0.6, 0.35, 0.2)


def narrower(given: Case) -> Case | None:
    """The case in the inputs' own dtype; for float64 inputs in float32, if its range holds them."""
    if given.dtype != torch.float64:
        return given
    if any(isinstance(a, Tensor) and a.is_complex() for a in given.args):
        return None
    floats = [a for a in given.args if isinstance(a, Tensor) and _strided(a)]
    sizes = (
        torch.cat([a.reshape(-1).abs().cpu().double() for a in floats]) if floats else torch.ones(1)
    )
    sizes = sizes[sizes > 0]
    if not bool(((sizes > 1e-6) & (sizes < 1e6)).all()):
        return None
    args = [a.float() if isinstance(a, Tensor) and _strided(a) else a for a in given.args]
    low = Case(given.subject, args, given.checked, given.seed)
    try:
        low.prepare()
    except CrashError:
        return None
    return low if low.shapes == given.shapes else None


def _strided(a: Tensor) -> bool:
    return a.is_floating_point() and a.layout == torch.strided and a.itemsize > 1


def computes_in(case: Case) -> tuple[torch.dtype | None, Tensor | None]:
    """float32, half or bfloat16, if the function computes in it though its inputs are wider.

    Stairs alone do not tell: rounding and quantisation have them on purpose. Either of these does:

    - At every point tried, rounding the inputs to the dtype changes no output, and a few units
      more do change it.
    - Every output fits the dtype and uses its last bit.

    Returns:
        The dtype, and a mask over the flat outputs if only some elements are computed in it.
    """
    part: tuple[torch.dtype, Tensor] | None = None
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        if torch.finfo(dtype).eps <= torch.finfo(case.dtype).eps:
            continue
        for test in (_rounds, _fits):
            whole, some = test(case, dtype)
            if whole:
                return dtype, None
            if part is None and some is not None and bool(some.any()):
                part = dtype, some
    return part or (None, None)


def _points(case: Case) -> Iterator[list[object]]:
    """Arguments around the given ones, and nearer to 0; more of them if there are few outputs."""
    generator = torch.Generator().manual_seed(9)
    rounds = max(2, -(-16 // max(1, sum(s.numel() for s in case.shapes))))
    yield from (_moved(case, case.args, t, 0.02, generator) for _ in range(rounds) for t in NEARER)


def _moved(
    case: Case, args: list[object], t: float, by: float, generator: torch.Generator
) -> list[object]:
    moved = list(args)
    for i in case.checked:
        a = moved[i]
        assert isinstance(a, Tensor)
        sign = 1.0 - 2.0 * torch.randint(0, 2, a.shape, generator=generator).double()
        moved[i] = a * (
            t * (1 + by * sign * (0.5 + torch.rand(a.shape, generator=generator).double() / 2))
        ).to(a.device, a.real.dtype)
    return moved


def _rounds(case: Case, dtype: torch.dtype) -> tuple[bool, Tensor | None]:
    """Whether rounding the inputs changes no output, and which elements it does not change."""
    generator = torch.Generator().manual_seed(10)
    eps = torch.finfo(dtype).eps
    changed, tried = 0.0, 0
    whole, equals, moves = True, None, None
    for args in _points(case):
        rounded = [
            _to(a, dtype) if i in case.checked and isinstance(a, Tensor) else a
            for i, a in enumerate(args)
        ]
        try:
            own, near = case.vector(args), case.vector(rounded)
            equal = (own == near) | (torch.isnan(own) & torch.isnan(near))
            if not bool(equal.any()):
                return False, None
            other = case.vector(_moved(case, rounded, 1.0, 4 * eps, generator))
        except CrashError:
            continue
        whole = whole and bool(equal.all())
        changed += float(((own != other) & torch.isfinite(own)).double().mean())
        tried += 1
        step = ((own - other).abs() > 0.02 * eps * own.abs()).double()
        equals = equal if equals is None else equals & equal
        moves = step if moves is None else moves + step
        if not bool(equals.any()):
            return False, None
    whole = whole and tried > 0 and changed > 0.25 * tried
    # a few units of a half are a step of many a quantiser
    if equals is None or moves is None or tried < 4 or eps > torch.finfo(torch.float32).eps:
        return whole, None
    return whole, equals & (moves > tried / 2)


def _to(a: Tensor, dtype: torch.dtype) -> Tensor:
    return (
        torch.view_as_complex(_to(torch.view_as_real(a), dtype))
        if a.is_complex()
        else a.to(dtype).to(a.dtype)
    )


def _fits(case: Case, dtype: torch.dtype) -> tuple[bool, Tensor | None]:
    """Whether the dtype holds every output, and many need its last bit; and which elements do."""
    bits = 1 - int(torch.tensor(torch.finfo(dtype).eps).log2())
    seen: list[Tensor] = []
    mask = None
    for args in _points(case):
        try:
            seen.append(case.vector(args))
        except CrashError:
            continue
        fit = (seen[-1] == seen[-1].to(dtype).double()) | torch.isnan(seen[-1])
        mask = fit if mask is None else mask & fit
        if not bool(mask.any()):
            return False, None
    if mask is None or len(seen) < 2:
        return False, None
    points = torch.stack(seen)
    used = torch.isfinite(points) & (points != 0)
    last = used & ((torch.frexp(points).mantissa * 2.0**bits) % 2 == 1)
    differ = bool((seen[0] != seen[1]).double().mean() > 0.5)
    whole = bool(mask.all()) and differ and float(last[used].double().mean()) > 0.3
    mask = mask & (points != points[0]).any(0)
    # a quantiser's grid needs the last bit at one size of the values, and not at the others
    if len(seen) % len(NEARER) or not bool(mask.any()):
        return whole, None
    each = last[:, mask].double().reshape(-1, len(NEARER), int(mask.sum())).mean((0, 2))
    return whole, mask if bool((each > 0.25).all()) else None
