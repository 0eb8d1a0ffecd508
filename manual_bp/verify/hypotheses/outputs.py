"""What single output elements depend on, and where the gradient carries what comes from them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from manual_bp.verify.case import flat
from manual_bp.verify.crash import CrashError
from manual_bp.verify.experiment import Experiment
from manual_bp.verify.truth import Differences

OUTPUTS = 24  # that are looked at, at most


@dataclass
class Rows:
    """The Jacobian's rows for K output elements: measured, and the function's own. (K, n)"""

    chosen: list[int]  # flat indices of the output elements
    values: Tensor  # of these, (K,)
    true: Tensor
    error: Tensor
    own: Tensor
    known: Tensor  # (n,)

    def supports(self) -> tuple[Tensor, Tensor]:
        """Which elements each output element depends on, and acts on in the gradient. (K, n)"""
        size, mine = self.true.abs(), self.own.abs()
        true = (size > 1e-6 * size.amax(1, keepdim=True)) & (size > 10 * self.error) & self.known
        return true, (mine > 1e-6 * mine.amax(1, keepdim=True)) & self.known


def rows(experiment: Experiment, position: int) -> Rows | None:
    """Measure once for one argument; None where the values or the sizes do not allow it."""
    kept = experiment.kept_rows
    if position not in kept:
        kept[position] = _measured(experiment, position)
    found = kept[position]
    assert found is None or isinstance(found, Rows)
    return found


def _measured(experiment: Experiment, position: int) -> Rows | None:
    case, total = experiment.case, experiment.cotangents.shape[1]
    if (
        len(case.shapes) != 1
        or experiment.columns[position] is not None
        or experiment.differences.relative_noise > 1e-11
    ):
        return None
    chosen = list(range(0, total, max(1, math.ceil(total / OUTPUTS))))
    single = torch.zeros(len(chosen), total).double()
    single[torch.arange(len(chosen)), chosen] = 1.0
    differences = Differences(case, single)
    truth = differences.truth(position, None, int(0.5 / experiment.cost))
    own = []
    for row in single:
        try:
            found = case.gradients(row)[position]
        except CrashError:
            return None
        own.append(torch.zeros(truth.value.shape[1]).double() if found is None else flat([found]))
    return Rows(
        chosen,
        differences.start[chosen],
        truth.value,
        truth.error,
        torch.stack(own),
        truth.known,
    )


def span(masks: list[Tensor]) -> list[int]:
    """The dimensions along which one of the masks holds more than one index."""
    return [d for d in range(masks[0].dim()) if any(len(indices(m, d)) > 1 for m in masks)]


def indices(mask: Tensor, d: int) -> list[int]:
    others = [k for k in range(mask.dim()) if k != d]
    found: list[int] = (mask.any(others) if others else mask).nonzero().reshape(-1).tolist()
    return found
