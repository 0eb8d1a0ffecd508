"""`backward`: fill `.grad` as `loss.backward()` would, by the documents' algorithm."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from manual_bp import backprop
from manual_bp.direct import memory
from manual_bp.normalisation import scale


@torch.no_grad()
def backward(model: nn.Module, x: Tensor, y: Tensor, *, reduction: str = "mean") -> Tensor:
    """Add ∂C/∂W = δᵀ a_prev and ∂C/∂b = Σ_m δ to every parameter's `.grad` (documents 1, 2 and 3).

    The values are those of `mse_loss(model(x), y, reduction).backward()`. Frozen parameters are
    left alone, and neither x nor y receives a gradient. A parameter may belong to several layers.

    Args:
        model: an `MLP`, or any `nn.Sequential` of Linear and Sigmoid layers, ours or torch.nn's.
        x: input of shape (..., n_in).
        y: target of the output's shape, (..., n_out).
        reduction: "half_per_example", "half_per_element", "mean" or "sum"; it chooses s.

    Returns:
        C = s Σ (a − y)², a scalar without a graph.

    Raises:
        TypeError: a model that `backprop.read` refuses, a tensor that is not plain, or complex
            targets.
        RuntimeError: hooks, autocast, inference mode, or shapes that do not fit.
        ValueError: an unknown reduction.

        >>> backward(nn.Sequential(nn.Linear(3, 2)), torch.ones(5, 3), torch.ones(5, 2)).shape
        torch.Size([])
    """
    backprop.check_cost(reduction)
    memory.refuse_modes()
    memory.refuse_strangers(x=x, y=y)
    refuse_autocast(x.device)
    if y.is_complex():
        raise TypeError(f"target {y.dtype}: real numbers are needed")
    layers = backprop.read(model)
    memory.check_layers(layers)
    n_in, n_out = layers[0].weight.shape[1], layers[-1].weight.shape[0]
    if x.shape[-1:] != (n_in,):
        raise RuntimeError(f"input {tuple(x.shape)}: (..., {n_in}) is expected")
    expected = (*x.shape[:-1], n_out)
    if y.shape != expected:
        raise RuntimeError(f"target {tuple(y.shape)}: the output's shape {expected} is expected")
    x, y = x.reshape(-1, n_in), y.reshape(-1, n_out)  # rows are examples
    passes = backprop.backpropagate(layers, x, y, reduction)
    for found in passes:
        for parameter, gradient in ((found.layer.weight, found.dW), (found.layer.bias, found.db)):
            if parameter is None or gradient is None or not parameter.requires_grad:
                continue
            if parameter.grad is None:
                parameter.grad = gradient
            else:
                parameter.grad += gradient
    return scale(reduction, y.shape) * (passes[-1].a - y).square().sum()  # C = s Σ (a − y)²


def refuse_autocast(device: torch.device) -> None:
    """Raise a RuntimeError where autocast would compute the model in another precision."""
    if device.type != "meta" and torch.is_autocast_enabled(device.type):
        raise RuntimeError(
            "autocast is on, and direct training ignores it: leave it, or use autograd"
        )
