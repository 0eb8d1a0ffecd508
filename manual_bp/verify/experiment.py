"""The evidence on one case: derivative by differences and own gradient, for a few cotangents.

Each row of `cotangents` is a flat gradient for all differentiable outputs together. Rows 0 and 1
are random, row 2 is all ones. A function with several outputs has one more row for each output:
row 0 restricted to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from manual_bp.verify.agreement import close
from manual_bp.verify.case import Case, flat
from manual_bp.verify.cost import estimate, iterates
from manual_bp.verify.crash import CrashError
from manual_bp.verify.steps import length, spread, unit
from manual_bp.verify.truth import Differences, Truth
from manual_bp.verify.widths import computes_in

EVALUATIONS = 12000  # forwards that a full Jacobian may cost
SECONDS = 1.2  # of forwards, as `cost` counts them: two or three times the real time
COSTLY = 5e-3  # seconds of a forward, as `cost` counts them: fewer directions are tried


class Experiment:
    """Truth and gradients at one point, and any other measurement that a hypothesis asks for."""

    def __init__(self, case: Case, seed: int) -> None:
        self.case = case
        self.generator = torch.Generator().manual_seed(seed)
        sizes = [s.numel() for s in case.shapes]
        total = sum(sizes)
        rows = [
            unit(total, self.generator),
            unit(total, self.generator),
            torch.ones(total).double(),
        ]
        if len(sizes) > 1:
            for start, size in zip([sum(sizes[:i]) for i in range(len(sizes))], sizes, strict=True):
                only = torch.zeros(total).double()
                only[start : start + size] = rows[0][start : start + size]
                rows.append(only)
        self.cotangents = torch.stack(rows)
        self.differences = Differences(case, self.cotangents)
        self.cotangents = self.differences.cotangents
        self.lower, self.lower_at = computes_in(case)  # at all elements, or at some
        narrow = torch.finfo(self.lower or case.dtype).bits <= 16
        self.differences.measure_noise(case.checked, self.generator, stairs=narrow)
        self.rtol = min(0.05, max(1e-6, 3e3 * self.differences.relative_noise))
        self.rtols: dict[int, float] = {}  # wider ones, for a gradient in a coarser dtype
        elements = sum(a.numel() for a in case.args if isinstance(a, Tensor))
        self.cost = estimate(case.vector, elements)  # of a forward
        self.columns = self._plan()
        self.truths: dict[int, Truth] = {}
        self.gradients: dict[int, Tensor | None] = {}  # (K, n), or None if it gives none
        # the arguments for which the reference's gradient is right, and the derivative is not
        self.by_reference: set[int] = set()
        self.backward_noise = 0.0  # of the gradients, relative to their size
        self.iterating: bool | None = None  # not known yet
        self.kept_rows: dict[int, object] = {}  # see `hypotheses.outputs`
        self.symmetric = False  # right for changes that keep an argument symmetric, no others
        self.as_meant: set[int] = set()  # of these, those whose own gradient is taken

    @property
    def sampled(self) -> bool:
        """Whether the inputs are too large for a full Jacobian."""
        return any(c is not None for c in self.columns.values())

    def looked_at(self) -> tuple[int, int]:
        """How many elements are measured, and how many there are."""
        sizes = {i: length(self.case.args[i]) for i in self.case.checked}
        chosen = {i: sizes[i] if c is None else len(c) for i, c in self.columns.items()}
        return sum(chosen.values()), sum(sizes.values())

    def _plan(self) -> dict[int, list[int] | None]:
        """Every coordinate if that is affordable, else the same share of each argument."""
        lengths = {i: length(self.case.args[i]) for i in self.case.checked}
        affordable = int(min(EVALUATIONS, SECONDS / self.cost) / 4)
        if sum(lengths.values()) <= affordable:
            return dict.fromkeys(lengths)
        share = max(4, affordable // max(1, len(lengths)))
        plan: dict[int, list[int] | None] = {}
        for i, n in lengths.items():
            chosen = torch.randperm(n, generator=torch.Generator().manual_seed(n))[:share].tolist()
            plan[i] = (
                None if n <= share else sorted({*chosen, *self._mirrored(i, chosen[: share // 2])})
            )
        return plan

    def _mirrored(self, position: int, chosen: Sequence[int]) -> list[int]:
        """The coordinates that a transposition would exchange with the chosen ones."""
        shape = self.case.args[position].shape
        if len(shape) < 2 or shape[-1] != shape[-2]:
            return []
        index = torch.arange(self.case.args[position].numel()).reshape(shape)
        return [int(j) for j in index.mT.reshape(-1)[list(chosen)]]

    def measure_truth(self) -> None:
        """Fill `truths`."""
        for i in self.case.checked:
            evaluations = int(min(2 * EVALUATIONS, SECONDS / self.cost) / len(self.case.checked))
            self.truths[i] = self.differences.truth(i, self.columns[i], evaluations)

    def measure_gradients(self) -> None:
        """Fill `gradients`, each row from a fresh graph."""
        found = [self.case.gradients(row) for row in self.cotangents]
        for i in self.case.checked:
            self.gradients[i] = stack(
                [gradients[i] for gradients in found], length(self.case.args[i])
            )
            own, truth = self.gradients[i], self.truths[i]
            if own is not None and not bool(self.differences.finite.all()):
                # 0 · inf: it acts on outputs that are infinite or NaN, and nothing else is known
                lost = ~torch.isfinite(own).all(0) & (truth.value == 0).all(0)
                truth.known &= ~lost

    def gradient(self, position: int, row: int) -> Tensor:
        """The function's gradient in its argument's shape; None is 0."""
        shape = self.shape(position)
        found = self.gradients[position]
        return torch.zeros(shape).double() if found is None else found[row].reshape(shape)

    def expected(self, position: int, row: int) -> tuple[Tensor, Tensor]:
        """Derivative and error in the argument's shape; NaN where the derivative is not known."""
        truth = self.truths[position]
        value = torch.where(truth.known, truth.value[row], torch.nan)
        return value.reshape(self.shape(position)), truth.error[row].reshape(self.shape(position))

    def shape(self, position: int) -> torch.Size:
        """The argument's shape, a complex one's as two real numbers."""
        tensor = self.case.args[position]
        return torch.Size([*tensor.shape, 2]) if tensor.is_complex() else tensor.shape

    def floor(self, position: int) -> float:
        """The size of rounding in this argument's gradient.

        100 units of rounding of ‖g‖ max|y| / |x|, or of the gradient itself, if that is larger.
        """
        x = spread(self.case.args[position])
        if not x.numel():
            return 0.0
        size = (
            torch.where(self.differences.finite, self.differences.start, 0.0).abs().max()
            / x.median()
        )
        own = self.gradients.get(position)
        largest = 0.0 if own is None else float(own.abs().nan_to_num(0, 0, 0).max())
        return (
            100
            * self.differences.relative_noise
            * max(float(size) * float(self.cotangents.abs().max()), largest)
        )

    def undefined(self, position: int) -> Tensor:
        """Where the gradient is NaN though input and values are finite.

        At a kink any slope is accepted, but NaN is no slope.
        """
        shape = self.shape(position)
        found = self.gradients[position]
        if found is None or not bool(self.differences.finite.all()):
            return torch.zeros(shape, dtype=torch.bool)
        x = self.case.args[position]
        usable = torch.isfinite((torch.view_as_real(x) if x.is_complex() else x).cpu())
        # only the random rows: the others may hold zeros, and 0 · inf is NaN
        return found[:2].isnan().any(0).reshape(shape) & usable

    def iterates(self) -> bool:
        """Whether the forward's number of operations depends on the values of its arguments."""
        if self.iterating is None:

            def call(factor: float) -> None:
                moved = [
                    a * factor if i in self.case.checked else a
                    for i, a in enumerate(self.case.args)
                ]
                self.case.vector(moved)

            self.iterating = iterates(call)
        return self.iterating

    def take_as_meant(self, position: int) -> None:
        """Let the function's own gradient count as right: its values say something else."""
        n, found = length(self.case.args[position]), self.gradients[position]
        value = torch.zeros(len(self.cotangents), n).double() if found is None else found
        every = torch.ones(n, dtype=torch.bool)
        self.truths[position] = Truth(value, 1e-12 * value.abs(), every, ~every)
        self.by_reference.add(position)
        self.as_meant.add(position)

    def right(self, position: int) -> bool:
        """Whether the gradient is the derivative, for every cotangent."""
        return all(
            close(
                self.gradient(position, row),
                *self.expected(position, row),
                self.rtols.get(position, self.rtol),
            )
            for row in range(len(self.cotangents))
        )

    def at(self, args: Sequence[Any], position: int) -> tuple[Tensor, Tensor, Tensor]:
        """Derivative, its error and gradient for one argument at another point.

        Each is (2, *shape), for the two random cotangents. At most 64 coordinates are measured; the
        derivative is NaN at all others.
        """
        n = length(self.case.args[position])
        limit = max(4, min(64, int(0.02 / self.cost)))
        known = self.truths[position].known.nonzero().reshape(-1).tolist()
        columns = known if len(known) <= limit else known[:: len(known) // limit + 1]
        differences = Differences(self.case, self.cotangents[:2], args)
        differences.noise = torch.maximum(differences.noise, self.differences.noise[:2])
        truth = differences.truth(position, columns, 8 * len(columns))
        found = stack([self.case.gradients(row, args)[position] for row in self.cotangents[:2]], n)
        value = torch.where(truth.known, truth.value, torch.nan)
        gradient = torch.zeros(2, n).double() if found is None else found
        shape = (2, *self.shape(position))
        return value.reshape(shape), truth.error.reshape(shape), gradient.reshape(shape)

    def directional_fault(self, position: int) -> str | None:
        """Compare along random directions through the whole argument.

        A sample of coordinates may miss a fault in the others.
        """
        gradients = self.gradients[position]
        if gradients is None:
            gradients = torch.zeros(len(self.cotangents), length(self.case.args[position])).double()
        for _ in range(6 if self.cost < COSTLY else 2):
            v = unit(length(self.case.args[position]), self.generator)
            for h in (1e-5, 1e-6, 1e-4):
                try:
                    slope, error = self.differences.stencil(position, v, h)
                except CrashError:
                    continue
                around = (8 * self.differences.noise / h).squeeze(1)
                size = (gradients * v).square().sum(1).sqrt()  # the typical size of the product
                size = torch.maximum(size, slope.abs())
                if not bool((error <= 1e-4 * size + around).all()):
                    continue  # a kink on the way
                own = (gradients * v).sum(1)
                off = (own - slope).abs()
                if bool(
                    (
                        off
                        > max(1e-5, self.rtols.get(position, self.rtol)) * size
                        + 3 * (error + around)
                    ).any()
                ):
                    return (
                        f"along a random direction: analytic {float(own[0]):.6g}, "
                        f"numeric {float(slope[0]):.6g}"
                    )
                break
        return None


def stack(rows: Sequence[Tensor | None], n: int) -> Tensor | None:
    """Gradients for several cotangents as (K, n); a None among them is 0, all None stays None."""
    if all(r is None for r in rows):
        return None
    return torch.stack([torch.zeros(n).double() if r is None else flat([r]) for r in rows])
