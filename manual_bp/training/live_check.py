"""Once an epoch: one batch through the hand-derived backward pass and through torch.nn's, side by
side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from manual_bp.ops.mse import scale
from manual_bp.training.data import Part
from manual_bp.training.engine import Engine
from manual_bp.training.errors import UserError
from manual_bp.training.network import builtin_twin, criterion

# Rounding errors of a sum of k terms grow like √k to k times the machine epsilon; a wrong formula
# is off by far more.
_TOLERANCE_IN_EPSILONS = 2000
_ROUNDING_IN_EPSILONS = 16  # of each term, where terms cancel
EXAMPLES = 256  # of a batch, at most


@dataclass(frozen=True)
class Compared:
    """Each parameter's gradient against the built-in's; the figures are still on the device.

    Attributes:
        names: the parameters.
        max_abs: the largest difference of each.
        max_rel: the same over the largest entry of the built-in's gradient, or over what rounding
            alone may do to it.
    """

    names: list[str]
    max_abs: Tensor
    max_rel: Tensor

    @property
    def worst(self) -> Tensor:
        """The largest relative error, a scalar; NaN where the built-in's gradient is not finite
        either.
        """
        return self.max_rel.max()

    def judge(self, worst: float) -> None:
        """Raise if `worst`, the largest relative error as read from the device, is out of
        tolerance.

        Raises:
            UserError: the message is a table, a row a parameter.
        """
        tolerance = _TOLERANCE_IN_EPSILONS * torch.finfo(self.max_rel.dtype).eps
        if not worst > tolerance:
            return
        rows = zip(self.names, self.max_abs.tolist(), self.max_rel.tolist(), strict=True)
        table = "\n".join(
            f"  {name:<12} max abs {absolute:.3e}   max rel {relative:.3e}"
            for name, absolute, relative in rows
        )
        raise UserError(
            f"the hand-derived gradients differ from autograd's through torch.nn by more than "
            f"{tolerance:.1e}:\n{table}"
        )


def compare(
    model: nn.Sequential, gradients: list[Tensor], x: Tensor, y: Tensor, reduction: str
) -> Compared:
    """Compare `gradients`, one for each parameter of `model`, with those autograd finds through the
    torch.nn twin.
    """
    twin = builtin_twin(model)
    expected = torch.autograd.grad(
        criterion("builtin", reduction)(twin(x), y), list(twin.parameters())
    )
    differences = torch.stack(
        [(seen - truth).abs().max() for seen, truth in zip(gradients, expected, strict=True)]
    )
    largest = torch.stack([truth.abs().max() for truth in expected])
    relative = differences / torch.maximum(
        largest, _rounding(twin, x, y, scale(reduction, y.shape))
    )
    # an entry that is not finite where the true ones are is wholly wrong
    relative = torch.where(relative.isnan() & largest.isfinite(), math.inf, relative)
    return Compared([name for name, _ in model.named_parameters()], differences, relative)


@torch.no_grad()
def _rounding(model: nn.Sequential, x: Tensor, y: Tensor, s: float) -> Tensor:
    """For each parameter a gradient so large that rounding stays within the tolerance of it.

    Where units are saturated a (1 − a) is a small difference, and where terms of z cancel z is one:
    a float has few digits of them, and two right ways to compute such a gradient need not agree in
    any. The bound is the backward pass over absolute values, with the largest slope, ¼, and the
    relative error of z, |a_prev| |W|ᵀ + |b|.
    """
    layers: list[
        tuple[nn.Linear, Tensor, Tensor, bool]
    ] = []  # with a_prev, |z| and whether a = σ(z)
    a = x
    for module in model:
        if isinstance(module, nn.Linear):
            bias = None if module.bias is None else module.bias.abs()
            layers.append(
                (module, a, nn.functional.linear(a.abs(), module.weight.abs(), bias), False)
            )
        else:
            layers[-1] = (*layers[-1][:3], True)
        a = module(a)
    error = 2 * s * (a - y).abs()  # |∂C/∂a|  (m, n_out)
    found: list[Tensor] = []
    for linear, a_prev, z, is_sigmoid in reversed(layers):
        delta = error * (1 + z) * (0.25 if is_sigmoid else 1.0)  # (m, n_out)
        if linear.bias is not None:
            found.append(delta.sum(0).max())
        found.append((delta.t() @ a_prev.abs()).max())
        error = delta @ linear.weight.abs()  # (m, n_in)
    limits = torch.finfo(x.dtype)
    return (
        torch.stack(found[::-1]) * (_ROUNDING_IN_EPSILONS / _TOLERANCE_IN_EPSILONS)
        + limits.tiny / limits.eps
    )


def check(engine: Engine, model: nn.Sequential, part: Part, reduction: str) -> Compared:
    """Compare the engine's gradients on the batch `part` with the built-in's, without waiting for
    the device.
    """
    x, y = part.batch(next(model.parameters()).dtype)
    return compare(model, engine.gradients(part), x, y, reduction)
