"""Steps: how far to go from a point, along what, and what a few values say of the slope there."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from manual_bp.verify.crash import CrashError

FINE = (1e-3, 1e-4, 1e-5, 1e-6, 1e-2, 1e-7)
COARSE = (2e-2, 5e-3, 1e-1)  # for values with the rounding of float32


def extrapolate(
    p1: Tensor, m1: Tensor, p2: Tensor, m2: Tensor, h: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Derivative and error from the changes at h, −h, h/2 and −h/2."""
    coarse, fine = (p1 - m1) / (2 * h), (p2 - m2) / h
    best = (4 * fine - coarse) / 3
    jump = 2 * (p2 + m2) / (h / 2) - (p1 + m1) / h
    off = (coarse - fine).abs()
    # If coarse − fine is O(h²), an error of O(h⁴) is left. At a step of the function the
    # differences grow as 1/h instead.
    settled = off <= 0.2 * fine.abs()
    return best, torch.where(settled, 0.01 * off, off) + jump.abs()


def slope(
    function: Callable[[float], Tensor],
    noise: float,
    magnitude: Tensor | None = None,
    start: Tensor | None = None,
    enough: float = 1e-7,
) -> tuple[Tensor, Tensor]:
    """d/dt of a vector-valued function at t = 0, and its error, elementwise.

    `noise` is the rounding of the values relative to `magnitude`, by default their own size.
    `start` is the function's value at 0, if the caller has it. Steps are tried until every error is
    `enough`, relative to the largest derivative.
    """
    start = function(0.0) if start is None else start
    magnitude = start.abs() if magnitude is None else torch.maximum(magnitude, start.abs())
    value, error = torch.zeros_like(start), torch.full_like(start, torch.inf)
    flat_here = torch.zeros_like(start, dtype=torch.bool)
    for h in FINE[:5] if noise < 1e-11 else COARSE:
        try:
            p1, m1, p2, m2 = (function(t) - start for t in (h, -h, h / 2, -h / 2))
        except CrashError:
            continue
        d, e = extrapolate(p1, m1, p2, m2, h)
        e = (e + 8 * noise * magnitude / h).nan_to_num(torch.inf)
        better = (e < error) & ~flat_here
        # a staircase that does not move here may look like a slope over larger steps
        flat_here |= (p1 == 0) & (m1 == 0) & (p2 == 0) & (m2 == 0)
        value, error = torch.where(better, d, value), torch.where(better, e, error)
        if bool((error <= enough * value.abs().max()).all()):
            break
    return value, error


def third_difference(walk: Tensor) -> Tensor:
    """The size of a walk's third differences in units of one value's noise; dim 0 is the walk."""
    third = walk[3:] - 3 * walk[2:-1] + 3 * walk[1:-2] - walk[:-3]
    # the standard deviation of 1, 3, 3, 1 independent errors is √20
    return third.abs().amax(0) / 4.5


def spread(tensor: Tensor) -> Tensor:
    """A natural step for each element, flat: its own size, or the median size if that is larger."""
    x = (
        (torch.view_as_real(tensor) if tensor.is_complex() else tensor)
        .detach()
        .reshape(-1)
        .to("cpu", torch.float64)
        .abs()
    )
    x = torch.where(torch.isfinite(x), x, 0.0)
    used = x[x > 0]
    typical = float(used.median()) if used.numel() else 1.0
    return x.clamp(min=typical)


def unit(n: int, generator: torch.Generator) -> Tensor:
    """n numbers with random signs and sizes between ½ and 3/2: none is near 0."""
    sign = torch.randint(0, 2, (n,), generator=generator).double() * 2 - 1
    return sign * (0.5 + torch.rand(n, generator=generator, dtype=torch.float64))


def some(n: int, count: int) -> list[int]:
    """At most `count` of the numbers below n, evenly."""
    return list(range(n)) if n <= count else list(range(0, n, n // count + 1))


def length(tensor: Tensor) -> int:
    """How many real numbers a tensor holds."""
    return tensor.numel() * (2 if tensor.is_complex() else 1)
