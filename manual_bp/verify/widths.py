"""The dtype in which rounding is checked, and the dtype in which the function computes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from manual_bp.verify.agreement import same
from manual_bp.verify.case import Case, CrashError

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


def computes_in(case: Case) -> torch.dtype | None:
    """float32, half or bfloat16, if the function computes in it though its inputs are wider.

    Stairs alone do not tell: rounding and quantisation have them on purpose. Either of these does:

    - At every point tried, rounding the inputs to the dtype changes no output, and a few units
      more do change it.
    - Every output fits the dtype and uses its last bit.
    """
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        if torch.finfo(dtype).eps > torch.finfo(case.dtype).eps and (
            _rounds(case, dtype) or _fits(case, dtype)
        ):
            return dtype
    return None


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


def _rounds(case: Case, dtype: torch.dtype) -> bool:
    generator = torch.Generator().manual_seed(10)
    changed, tried = 0.0, 0
    for args in _points(case):
        rounded = [
            _to(a, dtype) if i in case.checked and isinstance(a, Tensor) else a
            for i, a in enumerate(args)
        ]
        try:
            own = case.vector(args)
            if not same(own, case.vector(rounded)):
                return False
            other = case.vector(_moved(case, rounded, 1.0, 4 * torch.finfo(dtype).eps, generator))
        except CrashError:
            continue
        changed += float(((own != other) & torch.isfinite(own)).double().mean())
        tried += 1
    return tried > 0 and changed > 0.25 * tried


def _to(a: Tensor, dtype: torch.dtype) -> Tensor:
    return (
        torch.view_as_complex(_to(torch.view_as_real(a), dtype))
        if a.is_complex()
        else a.to(dtype).to(a.dtype)
    )


def _fits(case: Case, dtype: torch.dtype) -> bool:
    """Whether the dtype holds every output exactly, and every third output needs its last bit."""
    bits = 1 - int(torch.tensor(torch.finfo(dtype).eps).log2())
    seen = []
    for args in _points(case):
        try:
            seen.append(case.vector(args))
        except CrashError:
            continue
        if not same(seen[-1], seen[-1].to(dtype).double()):
            return False
    values = torch.cat(seen or [torch.zeros(0)])
    values = values[torch.isfinite(values) & (values != 0)]
    last = (torch.frexp(values).mantissa * 2.0**bits) % 2 == 1
    differ = len(seen) > 1 and bool((seen[0] != seen[1]).double().mean() > 0.5)
    return differ and values.numel() > 0 and float(last.double().mean()) > 0.3
