"""Once an epoch: one batch's gradients by the code that trains, against autograd's by torch.nn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from manual_bp import backprop
from manual_bp.backprop import Layer
from manual_bp.normalisation import scale
from manual_bp.training.errors import UserError
from manual_bp.training.network import criterion

# The rounding error of a sum of k terms is √k to k machine epsilons; a wrong formula is off by
# far more.
_TOLERANCE_IN_EPSILONS = 2000
# Where TF32 is on, a GPU rounds the factors of float32 products to 2⁻¹¹ of them.
_TF32_TOLERANCE = 8 * 2**-11
_ROUNDING_IN_EPSILONS = 16  # of each term, where terms cancel
EXAMPLES = 256  # of a batch, at most


@dataclass(frozen=True)
class Compared:
    """Each parameter's gradient against the built-in's; the figures are still on the device."""

    names: list[str]  # the parameters, as in "layer01.weight"
    max_abs: Tensor  # the largest difference of each
    # `max_abs` over the largest entry of the built-in's gradient, or over the bound of `_rounding`
    # where that is larger
    max_rel: Tensor

    @property
    def worst(self) -> Tensor:
        """The largest relative error; NaN where the built-in's gradient is not finite either."""
        return self.max_rel.max()

    def judge(self, worst: float) -> None:
        """Raise if `worst`, the largest relative error as read from the device, is too large.

        Raises:
            UserError: the message is a table with a row for each parameter.
        """
        tolerance = _TOLERANCE_IN_EPSILONS * torch.finfo(self.max_rel.dtype).eps
        if self.max_rel.is_cuda and self.max_rel.dtype == torch.float32 and _tf32():
            tolerance = _TF32_TOLERANCE
        if not worst > tolerance:
            return
        rows = zip(self.names, self.max_abs.tolist(), self.max_rel.tolist(), strict=True)
        table = "\n".join(
            f"  {name:<15} max abs {absolute:.3e}   max rel {relative:.3e}"
            for name, absolute, relative in rows
        )
        raise UserError(
            f"the hand-derived gradients differ from autograd's through torch.nn by more than "
            f"{tolerance:.1e}:\n{table}",
            table=True,
        )


def _tf32() -> bool:
    """Whether float32 products on CUDA may use TF32."""
    return str(torch.backends.cuda.matmul.fp32_precision) == "tf32"


def compare(
    model: nn.Sequential, gradients: Sequence[Tensor], x: Tensor, y: Tensor, reduction: str
) -> Compared:
    """Compare `gradients`, one for each parameter, with autograd's through the torch.nn twin.

    Nothing waits for the device.
    """
    layers = backprop.read(model)
    twin = _twin(layers)
    cost = criterion("builtin", reduction)(twin(x), y)
    expected = torch.autograd.grad(cost, list(twin.parameters()))
    pairs = zip(gradients, expected, strict=True)
    max_abs = torch.stack([(seen - truth).abs().max() for seen, truth in pairs])
    largest = torch.stack([truth.abs().max() for truth in expected])
    max_rel = max_abs / torch.maximum(largest, _rounding(layers, x, y, reduction))
    # A gradient that is not finite where the true one is finite is wholly wrong.
    max_rel = torch.where(max_rel.isnan() & largest.isfinite(), math.inf, max_rel)
    return Compared([name for layer in layers for name in layer.parameters], max_abs, max_rel)


def _twin(layers: Sequence[Layer]) -> nn.Sequential:
    """The same network of torch.nn's own layers, with parameters of its own."""
    modules: list[nn.Module] = []
    for layer in layers:
        n_out, n_in = layer.weight.shape
        # On meta: drawing first weights would take longer than all the rest.
        linear = nn.Linear(n_in, n_out, bias=layer.bias is not None, device="meta")
        linear.weight = nn.Parameter(layer.weight.detach().clone())
        if layer.bias is not None:
            linear.bias = nn.Parameter(layer.bias.detach().clone())
        modules += [linear, nn.Sigmoid()] if layer.sigmoid else [linear]
    return nn.Sequential(*modules)


@torch.no_grad()
def _rounding(layers: Sequence[Layer], x: Tensor, y: Tensor, reduction: str) -> Tensor:
    """For each parameter, the least gradient that rounding cannot move out of tolerance.

    a (1 − a) of a saturated unit is a small difference of large numbers, and so is a z whose terms
    cancel. A float holds few digits of such a number, so two right gradients may differ in all of
    them. The bound is the backward pass over absolute values, with slopes ¼ (1 + z̄): ¼ is the
    largest slope, and z̄ = |a_prev| |W|ᵀ + |b| bounds what rounding does to z.
    """
    a = [x, *(a for _, a in backprop.forward(layers, x))]
    a_prev = [t.abs() for t in a[:-1]]
    absolute, slope = [], []
    for layer, t in zip(layers, a_prev, strict=True):
        b = None if layer.bias is None else layer.bias.abs()
        absolute.append(replace(layer, weight=layer.weight.abs(), bias=b))
        z, _ = next(backprop.forward(absolute[-1:], t))  # z̄ = |a_prev| |W|ᵀ + |b|  (m, n_out)
        slope.append((0.25 if layer.sigmoid else 1.0) * (1 + z))  # ¼ (1 + z̄)  (m, n_out)
    error = 2 * scale(reduction, y.shape) * (a[-1] - y).abs()  # |∂C/∂a|  (m, n_out)
    bounds = backprop.back(absolute, a_prev, slope, error)
    largest = [g.max() for _, _, dW, db in bounds for g in (dW, db) if g is not None]
    limits = torch.finfo(x.dtype)
    factor = _ROUNDING_IN_EPSILONS / _TOLERANCE_IN_EPSILONS
    return torch.stack(largest) * factor + limits.tiny / limits.eps
