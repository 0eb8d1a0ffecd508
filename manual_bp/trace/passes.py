"""One example: `backprop`'s pass over it, the update, and the check by autograd.

    W := W − η ∂C/∂W          b := b − η ∂C/∂b

As m = 1, vectors have the shape (n,) here, ∂C/∂W is δ a_prevᵀ, and ∂C/∂b is δ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from manual_bp.backprop import Layer, LayerPass, backpropagate, forward, read
from manual_bp.normalisation import COSTS, scale


@dataclass(frozen=True)
class Trace:
    """A traced example. All tensors are float64, on the CPU."""

    x: Tensor  # (n_in,)
    y: Tensor  # (n_out,)
    cost: str  # the `reduction` of `manual_bp.functional.mse_loss`
    scale: float  # s of C = s Σ (a − y)²
    lr: float  # η
    layers: tuple[LayerPass, ...]  # the first layer first; vectors are (n,), as m = 1
    updated: tuple[Layer, ...]  # the layers after the update
    value: float  # C
    value_after: float  # C of the same example after the update
    errors: Mapping[str, float]  # "layer01.weight": max |by hand − autograd| / max |autograd|

    @property
    def max_relative_error(self) -> float:
        """The largest disagreement with autograd over all parameters."""
        return max(self.errors.values())


def compute(
    model: nn.Module | Iterable[nn.Module], x: Tensor, y: Tensor, *, cost: str, lr: float
) -> Trace:
    """Trace one example through Linear and Sigmoid layers (documents 1, 2 and 3).

    The model is read, never run or changed; everything is computed in float64 on the CPU.

    Args:
        model: whatever `backprop.read` reads: an `MLP`, or any `nn.Sequential`, list or ModuleList
            of Linear and Sigmoid layers, ours or torch's.
        x: the input, (n_in,) or (1, n_in).
        y: the target, (n_out,) or (1, n_out).
        cost: "half_per_example", "half_per_element", "mean" or "sum".
        lr: the learning rate η.

    Raises:
        TypeError: another module than Linear and Sigmoid, or no Linear at all.
        RuntimeError: hooks or a `forward` of its own, or weights that do not fit each other.
        ValueError: more than one example, sizes that do not fit, or an unknown cost.
    """
    if cost not in COSTS:
        raise ValueError(f"trace: cost {cost!r} is not one of {', '.join(COSTS)}")
    # Not in inference mode: autograd could never use what is copied there.
    with torch.inference_mode(False), torch.no_grad():
        layers = [_changed(layer, _double) for layer in read(model)]
        x = _one_example("x", x, layers[0].weight.shape[1])
        y = _one_example("y", y, layers[-1].weight.shape[0])
        s = scale(cost, y.shape)
        told = backpropagate(layers, x, y, cost)
        updated = [_updated(p, lr) for p in told]
        before, after = (float(_cost(each, x, y, s)) for each in (layers, updated))
        errors = _errors(told, _autograd(layers, x, y, s))
    passes = tuple(map(_vectors, told))
    return Trace(x[0], y[0], cost, s, lr, passes, tuple(updated), before, after, errors)


def _one_example(name: str, tensor: Tensor, n: int) -> Tensor:
    if tuple(tensor.shape) not in ((n,), (1, n)):
        raise ValueError(
            f"trace: {name} {tuple(tensor.shape)}: one example is traced, of shape ({n},) or "
            f"(1, {n}); pick one row"
        )
    return _double(tensor).reshape(1, n)


def _double(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float64, copy=True)


def _changed(layer: Layer, change: Callable[[Tensor], Tensor]) -> Layer:
    """The layer with its parameters changed."""
    bias = None if layer.bias is None else change(layer.bias)
    return replace(layer, weight=change(layer.weight), bias=bias)


def _updated(p: LayerPass, lr: float) -> Layer:
    weight = p.layer.weight - lr * p.dW  # W := W − η ∂C/∂W  (n_out, n_in)
    if p.layer.bias is None or p.db is None:
        return replace(p.layer, weight=weight)
    return replace(p.layer, weight=weight, bias=p.layer.bias - lr * p.db)  # b := b − η ∂C/∂b


def _vectors(p: LayerPass) -> LayerPass:
    """The pass of a batch of one with the vectors of that one example: (n,) for (1, n)."""
    names = ("a_prev", "z", "a", "error", "slope", "delta")
    return replace(p, **{name: getattr(p, name)[0] for name in names})


def _cost(layers: Sequence[Layer], x: Tensor, y: Tensor, s: float) -> Tensor:
    *_, (_, a) = forward(layers, x)
    return s * ((a - y) ** 2).sum()  # C = s Σ (a − y)²


def _autograd(layers: Sequence[Layer], x: Tensor, y: Tensor, s: float) -> dict[str, Tensor]:
    """The oracle: each parameter's gradient by autograd, which shares no backward with us."""
    leaves = [_changed(layer, lambda t: t.clone().requires_grad_()) for layer in layers]
    named = {name: leaf for layer in leaves for name, leaf in layer.parameters.items()}
    with torch.enable_grad():
        cost = _cost(leaves, x, y, s)
    return dict(zip(named, torch.autograd.grad(cost, list(named.values())), strict=True))


def _errors(told: Sequence[LayerPass], exact: Mapping[str, Tensor]) -> dict[str, float]:
    """max |ours − exact| / max |exact|; the plain difference where an exact gradient is all 0."""
    errors = {}
    for p in told:
        gradients = [p.dW] if p.db is None else [p.dW, p.db]
        for name, ours in zip(p.layer.parameters, gradients, strict=True):
            largest = float(exact[name].abs().max())
            errors[name] = float((ours - exact[name]).abs().max()) / (largest or 1.0)
    return errors
