"""Once an epoch: one batch through the hand-derived backward pass and through torch.nn's, side by side."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from manual_bp.training.data import CLASSES, PIXEL_SCALE, Part
from manual_bp.training.engine import Engine
from manual_bp.training.errors import UserError
from manual_bp.training.network import builtin_twin, criterion

# Rounding errors of a sum of k terms grow like √k to k times the machine epsilon; a wrong formula is off by far more.
_TOLERANCE_IN_EPSILONS = 2000


@dataclass(frozen=True)
class Compared:
    """One parameter's gradient against the built-in's: the largest difference, absolute and over the largest entry."""

    name: str
    max_abs: float
    max_rel: float


def compare(model: nn.Sequential, gradients: list[Tensor], x: Tensor, y: Tensor, reduction: str) -> list[Compared]:
    """Compare `gradients`, one for each parameter of `model`, with those autograd finds through the torch.nn twin."""
    twin = builtin_twin(model)
    expected = torch.autograd.grad(criterion("builtin", reduction)(twin(x), y), list(twin.parameters()))
    compared = []
    for (name, _), seen, truth in zip(model.named_parameters(), gradients, expected, strict=True):
        difference = (seen - truth).abs().max()
        largest = truth.abs().max()
        # where every true entry is 0, any difference at all counts as wholly wrong
        relative = torch.where(largest > 0, difference / largest, difference.sign())
        compared.append(Compared(name, float(difference), float(relative)))
    return compared


def check(engine: Engine, model: nn.Sequential, part: Part, rows: Tensor, reduction: str) -> float:
    """The largest relative error of the engine's gradients on the examples `rows`.

    Raises:
        UserError: it is out of tolerance; the message is a table, a row a parameter.
    """
    dtype = next(model.parameters()).dtype
    x = part.images[rows].to(dtype) * PIXEL_SCALE
    y = torch.eye(CLASSES, dtype=dtype, device=x.device)[part.labels[rows]]
    gradients = engine.gradients(x, y)
    compared = compare(model, gradients, x, y, reduction)
    worst = max(entry.max_rel for entry in compared)
    tolerance = _TOLERANCE_IN_EPSILONS * torch.finfo(dtype).eps
    if not worst <= tolerance and all(g.isfinite().all() for g in gradients):
        table = "\n".join(f"  {e.name:<12} max abs {e.max_abs:.3e}   max rel {e.max_rel:.3e}" for e in compared)
        raise UserError(
            f"the hand-derived gradients differ from autograd's through torch.nn by more than {tolerance:.1e}:\n{table}"
        )
    return worst
