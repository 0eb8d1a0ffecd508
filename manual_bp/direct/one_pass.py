"""`backward`: the documents' algorithm for one batch, line by line, without autograd.

Forward through the layers, δ of the output layer, then for each layer from the last to the first
its gradients and the error signal one layer back. No ∂C/∂x is formed for the input.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manual_bp.direct.layers import is_linear, sequence
from manual_bp.ops.mse import REDUCTIONS, scale


@torch.no_grad()
def backward(model: nn.Module, x: Tensor, y: Tensor, *, reduction: str = "mean") -> Tensor:
    """Add ∂C/∂W and ∂C/∂b to the `.grad` of every parameter, with the values of
    `mse_loss(model(x), y).backward()`.

    C = s Σ (a − y)² (see `manual_bp.functional.mse_loss` for `reduction`, which chooses s). Frozen
    parameters are left alone, and neither x nor y receives a gradient. Documents 1, 2 and 3.

    Args:
        model: an `MLP`, or any `nn.Sequential` of Linear and Sigmoid layers (ours or torch.nn's).
        x: input of shape (..., n_in).
        y: target of the shape of the output, (..., n_out).
        reduction: "half_per_example", "half_per_element", "mean" or "sum".

    Returns:
        C, a scalar without a graph.

    Raises:
        TypeError: a module other than Linear and Sigmoid.
        RuntimeError: hooks, autocast, or a target whose shape is not the output's.
        ValueError: an unknown reduction.
    """
    check_reduction(reduction)
    check_autocast(x.device)
    modules = [module for _, module in sequence(model)]
    n_out = next(
        module for module in reversed(modules) if isinstance(module, nn.Linear)
    ).out_features
    expected = (*x.shape[:-1], n_out)
    if tuple(y.shape) != expected:
        raise RuntimeError(
            f"direct: target {tuple(y.shape)}: the output's shape {expected} is expected"
        )
    s = scale(reduction, y.shape)
    done = one_pass(
        model, x.reshape(-1, x.shape[-1]) if x.dim() != 2 else x, y.reshape(-1, n_out), s
    )
    for parameter, gradient in done.gradients:
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = gradient
            else:
                parameter.grad += gradient
    return s * done.squared_error  # C = s Σ (a − y)²


@dataclass(frozen=True)
class Pass:
    """What one batch gives, forward and back."""

    output: Tensor  # a (m, n_out)
    squared_error: Tensor  # Σ (a − y)², a scalar
    deltas: list[Tensor]  # δ = ∂C/∂z (m, n) of each Linear, the first layer's first
    gradients: list[tuple[Tensor, Tensor]]  # each weight and bias with its gradient


@torch.no_grad()
def one_pass(model: nn.Module, x: Tensor, y: Tensor, s: float) -> Pass:
    """The documents' algorithm for C = s Σ (a − y)²: x (m, n_in), y (m, n_out). m may be 0."""
    modules = [module for _, module in sequence(model)]
    activations = [x]  # each module's input, then the output
    for module in modules:
        a = activations[-1]
        if isinstance(module, nn.Linear):
            activations.append(
                F.linear(a, module.weight, module.bias)
            )  # z = a_prev Wᵀ + b  (m, n_out)
        else:
            activations.append(torch.sigmoid(a))  # a = σ(z)  (m, n_out)

    output = activations.pop()
    residual = output - y  # a − y  (m, n_out)
    delta = (2 * s * residual).to(
        output.dtype
    )  # ∂C/∂a = 2 s (a − y), y may be of a wider dtype  (m, n_out)

    deltas: list[Tensor] = []
    gradients: list[tuple[Tensor, Tensor]] = []
    first_linear = next(i for i, module in enumerate(modules) if is_linear(module))
    after = output
    for i in range(len(modules) - 1, first_linear - 1, -1):
        module, before = modules[i], activations[i]
        if isinstance(module, nn.Linear):
            deltas.append(delta)
            gradients.append(
                (module.weight, delta.t() @ before)
            )  # ∂C/∂W = δᵀ a_prev  (n_out, n_in)
            if module.bias is not None:
                gradients.append((module.bias, delta.sum(0)))  # ∂C/∂b = Σ_m δ  (n_out,)
            if i > first_linear:
                delta = delta @ module.weight  # ∂C/∂a_prev = δ W  (m, n_in)
        else:
            delta = delta * (after * (1 - after))  # ∂C/∂z = ∂C/∂a ⊙ a ⊙ (1 − a)  (m, n)
        after = before
    return Pass(output, residual.square().sum(), deltas[::-1], gradients)


def check_autocast(device: torch.device) -> None:
    if device.type != "meta" and torch.is_autocast_enabled(device.type):
        raise RuntimeError(
            "direct: autocast is on, which this does not follow: use the autograd engine"
        )


def check_reduction(reduction: str) -> None:
    allowed = [name for name in REDUCTIONS if name != "none"]
    if reduction not in allowed:
        raise ValueError(f"direct: reduction {reduction!r} is not one of {', '.join(allowed)}")
