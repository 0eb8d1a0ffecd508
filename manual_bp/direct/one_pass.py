"""`backward`: the documents' algorithm for one batch, line by line, without autograd.

Forward through the layers, δ of the output layer, then for each layer from the last to the first its gradients and the
error signal one layer back. No ∂C/∂x is formed for the input.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manual_bp.direct.layers import is_linear, sequence
from manual_bp.ops.mse import REDUCTIONS, scale


@torch.no_grad()
def backward(model: nn.Module, x: Tensor, y: Tensor, *, reduction: str = "mean") -> Tensor:
    """Add ∂C/∂W and ∂C/∂b to the `.grad` of every parameter, with the values of `mse_loss(model(x), y).backward()`.

    C = s Σ (a − y)² (see `manual_bp.functional.mse_loss` for `reduction`, which chooses s). Frozen parameters are left
    alone, and neither x nor y receives a gradient. Documents 1, 2 and 3.

    Args:
        model: an `MLP`, or any `nn.Sequential` of Linear and Sigmoid layers (ours or torch.nn's).
        x: input of shape (..., n_in).
        y: target of the shape of the output, (..., n_out).
        reduction: "half_per_example", "half_per_element", "mean" or "sum".

    Returns:
        C, a scalar without a graph.

    Raises:
        TypeError: a module other than Linear and Sigmoid.
        RuntimeError: hooks, or a target whose shape is not the output's.
        ValueError: an unknown reduction.
    """
    check_reduction(reduction)
    modules = [module for _, module in sequence(model)]
    activations = [x.reshape(-1, x.shape[-1]) if x.dim() != 2 else x]  # each module's input, then the output
    for module in modules:
        a = activations[-1]
        if isinstance(module, nn.Linear):
            activations.append(F.linear(a, module.weight, module.bias))  # z = a_prev Wᵀ + b  (m, n_out)
        else:
            activations.append(torch.sigmoid(a))  # a = σ(z)  (m, n_out)

    output = activations.pop()
    expected = (*x.shape[:-1], output.shape[-1])
    if tuple(y.shape) != expected:
        raise RuntimeError(f"direct: target {tuple(y.shape)}: the output's shape {expected} is expected")
    residual = output - y.reshape(output.shape)  # a − y  (m, n_out)
    s = scale(reduction, output.reshape(expected))
    cost = s * residual.square().sum()  # C = s Σ (a − y)²
    delta = 2 * s * residual  # ∂C/∂a = 2 s (a − y)  (m, n_out)

    first_linear = next(i for i, module in enumerate(modules) if is_linear(module))
    after = output
    for i in range(len(modules) - 1, first_linear - 1, -1):
        module, before = modules[i], activations[i]
        if isinstance(module, nn.Linear):
            _accumulate(module.weight, delta.t() @ before)  # ∂C/∂W = δᵀ a_prev  (n_out, n_in)
            if module.bias is not None:
                _accumulate(module.bias, delta.sum(0))  # ∂C/∂b = Σ_m δ  (n_out,)
            if i > first_linear:
                delta = delta @ module.weight  # ∂C/∂a_prev = δ W  (m, n_in)
        else:
            delta = delta * (after * (1 - after))  # ∂C/∂z = ∂C/∂a ⊙ a ⊙ (1 − a)  (m, n)
        after = before
    return cost


def check_reduction(reduction: str) -> None:
    allowed = [name for name in REDUCTIONS if name != "none"]
    if reduction not in allowed:
        raise ValueError(f"direct: reduction {reduction!r} is not one of {', '.join(allowed)}")


def _accumulate(parameter: Tensor, gradient: Tensor) -> None:
    if not parameter.requires_grad:
        return
    if parameter.grad is None:
        parameter.grad = gradient
    else:
        parameter.grad += gradient
