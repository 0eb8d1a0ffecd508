"""--histograms: the distributions of weights, gradients, activations and δ."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def values(model: nn.Sequential, cost: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Weights, gradients, activations and δ for inputs x (m, n_in) and targets y (m, n_out), by
    tag.

    The gradients are those of C over these m examples. `.grad` is neither read nor written.

    Args:
        model: linear layers, each with or without a sigmoid after it.
        cost: C as a module of outputs and targets.
        x: the inputs.
        y: the targets.

    Returns:
        "weights/0.weight", "gradients/0.weight" of each parameter; "activations/0" a (m, n),
        "delta/0" δ = ∂C/∂z (m, n) of each layer, named after its linear module.
    """
    z: dict[str, Tensor] = {}
    activations: dict[str, Tensor] = {}
    name = ""
    with torch.enable_grad():
        a = x
        for child, module in model.named_children():
            a = module(a)
            if isinstance(module, nn.Linear):
                name = child
                z[name] = a
            activations[name] = a
        parameters = dict(model.named_parameters())
        gradients = torch.autograd.grad(cost(a, y), [*z.values(), *parameters.values()])
    found = {f"weights/{name}": parameter.detach() for name, parameter in parameters.items()}
    found |= {
        f"gradients/{name}": g for name, g in zip(parameters, gradients[len(z) :], strict=True)
    }
    found |= {f"activations/{name}": a.detach() for name, a in activations.items()}
    found |= {f"delta/{name}": delta for name, delta in zip(z, gradients, strict=False)}
    return found
