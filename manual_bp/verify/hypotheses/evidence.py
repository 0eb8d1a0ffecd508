"""What every hypothesis looks at: gradients and derivatives of one argument."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from manual_bp.verify.agreement import close
from manual_bp.verify.crash import CrashError
from manual_bp.verify.experiment import Experiment

LOOSE = 1e-5  # relative: a hypothesis need not be as sharp as a verdict


class Evidence:
    """One argument's gradient beside the derivative, for two random cotangents."""

    def __init__(self, experiment: Experiment, position: int) -> None:
        self.experiment = experiment
        self.position = position
        self.case = experiment.case
        self.name = self.case.subject.names[position]
        self.rtol = max(experiment.rtol, LOOSE)
        self.gradient = [experiment.gradient(position, row) for row in (0, 1)]
        self.expected = [experiment.expected(position, row) for row in (0, 1)]

    def is_(self, candidates: list[Tensor], factor: float = 1.0) -> bool:
        """Whether the candidates are the derivative, for both cotangents."""
        return all(
            close(c, factor * e, abs(factor) * s, self.rtol)
            for c, (e, s) in zip(candidates, self.expected, strict=True)
        )

    def own(self, cotangent: Tensor) -> Tensor:
        found = self.case.gradients(cotangent)[self.position]
        zero = torch.zeros(self.experiment.shape(self.position)).double()
        return zero if found is None else found.detach().to("cpu", torch.float64)

    def ratio(self, gradient: Tensor, expected: Tensor) -> float:
        known = ~torch.isnan(expected)
        a, b = gradient[known], expected[known]
        below = float(b @ b)
        return float(a @ b) / below if below else math.nan

    def ratio_elsewhere(self) -> float | None:
        generator = torch.Generator().manual_seed(7)
        args = [
            a
            * (
                1
                + 0.05
                * torch.rand(a.shape, generator=generator, dtype=torch.float64)
                .to(a.real.dtype)
                .to(a.device)
            )
            if isinstance(a, Tensor) and (a.is_floating_point() or a.is_complex())
            else a
            for a in self.case.args
        ]
        try:
            value, _, gradient = self.experiment.at(args, self.position)
        except (CrashError, RuntimeError):
            return None
        ratio = self.ratio(gradient, value)
        return ratio if math.isfinite(ratio) else None
