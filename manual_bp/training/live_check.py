"""Once an epoch: one batch through the hand-derived backward pass and through torch.nn's, side by side."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from manual_bp.training.data import Part
from manual_bp.training.engine import Engine
from manual_bp.training.errors import UserError
from manual_bp.training.network import builtin_twin, criterion

# Rounding errors of a sum of k terms grow like √k to k times the machine epsilon; a wrong formula is off by far more.
_TOLERANCE_IN_EPSILONS = 2000
EXAMPLES = 256  # of a batch, at most


@dataclass(frozen=True)
class Compared:
    """Each parameter's gradient against the built-in's; the figures are still on the device.

    Attributes:
        names: the parameters.
        max_abs: the largest difference of each.
        max_rel: the same over the largest entry of the built-in's gradient.
    """

    names: list[str]
    max_abs: Tensor
    max_rel: Tensor

    @property
    def worst(self) -> Tensor:
        """The largest relative error, a scalar; NaN where the built-in's gradient is not finite either."""
        return self.max_rel.max()

    def judge(self, worst: float) -> None:
        """Raise if `worst`, the largest relative error as read from the device, is out of tolerance.

        Raises:
            UserError: the message is a table, a row a parameter.
        """
        tolerance = _TOLERANCE_IN_EPSILONS * torch.finfo(self.max_rel.dtype).eps
        if not worst > tolerance:
            return
        rows = zip(self.names, self.max_abs.tolist(), self.max_rel.tolist(), strict=True)
        table = "\n".join(
            f"  {name:<12} max abs {absolute:.3e}   max rel {relative:.3e}" for name, absolute, relative in rows
        )
        raise UserError(
            f"the hand-derived gradients differ from autograd's through torch.nn by more than {tolerance:.1e}:\n{table}"
        )


def compare(model: nn.Sequential, gradients: list[Tensor], x: Tensor, y: Tensor, reduction: str) -> Compared:
    """Compare `gradients`, one for each parameter of `model`, with those autograd finds through the torch.nn twin."""
    twin = builtin_twin(model)
    expected = torch.autograd.grad(criterion("builtin", reduction)(twin(x), y), list(twin.parameters()))
    differences = torch.stack([(seen - truth).abs().max() for seen, truth in zip(gradients, expected, strict=True)])
    largest = torch.stack([truth.abs().max() for truth in expected])
    # where every true entry is 0, any difference at all counts as wholly wrong
    relative = torch.where(largest > 0, differences / largest, differences.sign())
    # and so does an entry that is not finite where the true ones are
    relative = torch.where(relative.isnan() & largest.isfinite(), math.inf, relative)
    return Compared([name for name, _ in model.named_parameters()], differences, relative)


def check(engine: Engine, model: nn.Sequential, part: Part, reduction: str) -> Compared:
    """Compare the engine's gradients on the batch `part` with the built-in's, without waiting for the device."""
    x, y = part.batch(next(model.parameters()).dtype)
    return compare(model, engine.gradients(part), x, y, reduction)
