"""The derivative from the function's own values: extrapolated central differences with errors.

For a step h along a coordinate, f(x ± h) and f(x ± h/2) give two central differences C(h), C(h/2)
and

    derivative  ≈ (4 C(h/2) − C(h)) / 3                    Richardson's extrapolation, error O(h⁴)
    jump        ≈ 2 J(h/2) − J(h),  J = D⁺ − D⁻            0 if smooth, the slope's jump at a kink

The error is |derivative − C(h/2)|/50 + |jump| + rounding. If no step makes it small, f is not
differentiable there, or too rough to measure. Such a coordinate is `rough`, and no verdict uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from manual_bp.verify.case import Case
from manual_bp.verify.crash import CrashError
from manual_bp.verify.steps import COARSE, FINE, extrapolate, length, spread, third_difference, unit

# an error below this, relative to the tensor's largest derivative, needs no further step
CONVERGED = 1e-7
ROUGH = 1e-4


@dataclass
class Truth:
    """For one argument: the derivative for each of K cotangents, flat, with its error."""

    value: Tensor  # (K, n)
    error: Tensor  # (K, n)
    known: Tensor  # (n,) measured, and differentiable there
    rough: Tensor  # (n,) measured, and not differentiable there

    @property
    def scale(self) -> Tensor:
        """The largest |derivative| for each cotangent. (K, 1)"""
        inside = self.value[:, self.known].abs()
        return (
            inside.amax(1, keepdim=True)
            if inside.numel()
            else torch.zeros(len(self.value), 1).double()
        )


class Differences:
    """Finite differences of ⟨cotangent, f⟩ for K cotangents at once. `cotangents` is (K, N)."""

    def __init__(self, case: Case, cotangents: Tensor, args: Sequence[Any] | None = None) -> None:
        self.case = case
        self.args = list(case.args if args is None else args)
        self.start = case.vector(self.args)
        finite = torch.isfinite(self.start)
        self.cotangents = torch.where(finite, cotangents, 0.0)
        self.finite = finite
        # (K, 1): one unit of rounding in the projected value
        safe = torch.where(finite, self.start, 0.0)
        self.magnitude = (self.cotangents * safe).square().sum(1, keepdim=True).sqrt()
        self.noise = 2.3e-16 * self.magnitude
        largest = float(self.cotangents.abs().max()) if self.cotangents.numel() else 0.0
        self.sizes = {
            i: largest * float(spread(self.args[i]).max())
            for i in case.checked
            if self.args[i].numel()
        }

    @property
    def relative_noise(self) -> float:
        """The relative noise of the values: 1e−16 in float64, 1e−7 with float32 inside."""
        used = self.magnitude > 0
        return (
            float((self.noise[used] / self.magnitude[used]).max()) if bool(used.any()) else 2.3e-16
        )

    def _change(self, position: int, direction: Callable[[Tensor], None]) -> Tensor:
        """f(x + change) − f(x); `direction` adds the change to a flat copy of the argument. (N,)"""
        original = self.args[position]
        moved = torch.view_as_real(original).clone() if original.is_complex() else original.clone()
        moved = moved.contiguous()
        direction(moved.view(-1))
        args = list(self.args)
        args[position] = torch.view_as_complex(moved) if original.is_complex() else moved
        change = self.case.vector(args) - self.start
        return change if bool(self.finite.all()) else torch.where(self.finite, change, 0.0)

    def along(self, position: int, j: int, t: float) -> Tensor:
        """f(x + t e_j) − f(x). (N,)"""

        def write(x: Tensor) -> None:
            x[j] += t

        return self._change(position, write)

    def stencil(self, position: int, along: int | Tensor, h: float) -> tuple[Tensor, Tensor]:
        """Derivative and error along one coordinate or one direction, with step h. Both (K,)."""
        moves = torch.stack(self._moves(position, along, h))
        value, error = self._slopes(position, moves, torch.tensor([h], dtype=torch.float64))
        return value[:, 0], error[:, 0]

    def _moves(self, position: int, along: int | Tensor, h: float) -> list[Tensor]:
        """⟨cotangent, f(x + t) − f(x)⟩ for the four steps t = h, −h, h/2, −h/2. Each (K,)."""

        def step(t: float) -> Tensor:
            def write(x: Tensor) -> None:
                if isinstance(along, int):
                    x[along] += t
                else:
                    x.add_(along.to(x), alpha=t)

            return self.cotangents @ self._change(position, write)  # (K,)

        return [step(h), step(-h), step(h / 2), step(-h / 2)]

    def _slopes(self, position: int, moves: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Derivatives and errors of C stencils at once, both (K, C).

        Args:
            position: of the argument.
            moves: (4 C, K), as `_moves` gives them.
            h: the steps, (C,).
        """
        p1, m1, p2, m2 = moves.reshape(len(h), 4, -1).permute(1, 2, 0)  # each (K, C)
        value, error = extrapolate(p1, m1, p2, m2, h)
        # All four differences are exactly 0: the real change may be below one rounding unit of the
        # input's size. Add that to the error.
        still = (p1 == 0) & (m1 == 0) & (p2 == 0) & (m2 == 0)
        return value, error + still * (2.3e-16 * self.sizes[position] / h)

    def measure_noise(
        self, positions: Sequence[int], generator: torch.Generator, *, stairs: bool = False
    ) -> None:
        """Raise `noise` to the values' roughness over tiny steps, by their third differences.

        Smooth change has almost no third difference. Half and bfloat16 do not move at all over tiny
        steps: with `stairs`, larger steps look for theirs. Use it only for a function that computes
        in such a dtype, because a quantiser has stairs on purpose.
        """
        found = torch.zeros_like(self.noise)
        for position in positions:
            n = length(self.args[position])
            if n == 0:
                continue
            v = unit(n, generator) * spread(self.args[position])
            sides = []
            for sign in (1.0, -1.0):  # an element next to a kink crosses it on one side only
                try:
                    sides.append(third_difference(self._walk(position, v, sign * 1e-6)))
                except CrashError:  # the edge of the function's domain
                    continue
            if sides:
                found = torch.maximum(
                    found, self._projected(self._common(torch.stack(sides).amin(0)))
                )
            for h in (1e-3, 1e-2) if stairs else ():
                try:
                    steps = self._projected(third_difference(self._walk(position, v, h)))
                except CrashError:
                    continue
                found = torch.maximum(found, torch.where(steps < 0.02 * self.magnitude, steps, 0.0))
        self.noise = torch.maximum(self.noise, torch.nan_to_num(found))

    def _walk(self, position: int, v: Tensor, h: float) -> Tensor:
        """Seven steps of size h along v. (7, N)"""
        return torch.stack([self._change(position, _adding(v, h * t)) for t in range(1, 8)])

    def _common(self, rough: Tensor) -> Tensor:
        """Roughness without the few elements that jump alone: rounding is in all elements."""
        sizes = [s.numel() for s in self.case.shapes]
        parts = list(zip(rough.split(sizes), self.start.abs().split(sizes), strict=True))
        for own, y in parts:
            if own.numel():
                own.clamp_(max=30 * (own.median() + y * (own / y).nan_to_num(0, 0, 0).median()))
        return torch.cat([own for own, _ in parts] or [rough])

    def _projected(self, rough: Tensor) -> Tensor:
        """The noise of ⟨cotangent, f⟩ from the noise of each output element. (K, 1)"""
        return (self.cotangents * rough.nan_to_num(0, 0, 0)).square().sum(1, keepdim=True).sqrt()

    def truth(self, position: int, columns: Sequence[int] | None, evaluations: int) -> Truth:
        """The derivative by every coordinate of one argument, or by those in `columns`.

        Each coordinate is measured with one step. Those that are not sharp are tried with other
        steps, until `evaluations` are spent.
        """
        n = length(self.args[position])
        k = len(self.cotangents)
        which = list(range(n)) if columns is None else list(columns)
        value, error = torch.zeros(k, n).double(), torch.full((k, n), torch.inf).double()
        steps = spread(self.args[position])
        ladder = FINE if self.relative_noise < 1e-11 else COARSE
        pending = which
        rounding = torch.zeros(k, n).double()
        for level, factor in enumerate(ladder):
            tried, moves = [], []
            for j in pending:
                if level and evaluations <= 0:
                    break
                evaluations -= 4
                try:
                    moves += self._moves(position, j, factor * float(steps[j]))
                except CrashError:  # outside the function's domain: a smaller step may be inside
                    continue
                tried.append(j)
            if tried:
                h = factor * steps[tried]
                d, e = self._slopes(position, torch.stack(moves), h)
                around = 8 * self.noise / h
                better = (e + around).nan_to_num(torch.inf) < error[:, tried] + rounding[:, tried]
                value[:, tried] = torch.where(better, d, value[:, tried])
                rounding[:, tried] = torch.where(better, around, rounding[:, tried])
                error[:, tried] = torch.where(better, e, error[:, tried])
            scale = _robust_scale(value, error, which)
            total = error[:, which]
            bad = (total > CONVERGED * scale + 2 * rounding[:, which]).any(0)
            pending = [j for j, again in zip(which, bad.tolist(), strict=True) if again]
            if not pending:
                break
        scale = _robust_scale(value, error, which)
        measured = torch.zeros(n, dtype=torch.bool)
        measured[which] = True
        limit = max(ROUGH, 300 * self.relative_noise) * scale + 20 * rounding
        rough = measured & ~(error <= limit).all(0)
        return Truth(value, error.nan_to_num(torch.inf) + rounding, measured & ~rough, rough)


def _adding(v: Tensor, t: float) -> Callable[[Tensor], None]:
    def write(x: Tensor) -> None:
        x.add_(v.to(x), alpha=t)

    return write


def _robust_scale(value: Tensor, error: Tensor, which: Sequence[int]) -> Tensor:
    """The largest |derivative| among the converged coordinates: at a jump it has no bound."""
    inside, wrong = value[:, which].abs(), error[:, which]
    good = wrong <= 0.01 * inside
    return (
        torch.where(good, inside, 0.0).amax(1, keepdim=True)
        if inside.numel()
        else torch.zeros(len(value), 1).double()
    )
