"""The documents' algorithm, once: a model read as layers, and one pass forward and back over them.

    forward     z = a_prev Wᵀ + b,  a = σ(z)                                  (m, n_out)
    error       ∂C/∂a = 2 s (a − y) at the output, δ_next W_next before it    (m, n_out)
    slope       σ′(z) = a (1 − a), or 1 where a layer has no sigmoid          (m, n_out)
    δ = ∂C/∂z = error ⊙ slope                                                 (m, n_out)
    gradients   ∂C/∂W = δᵀ a_prev  (n_out, n_in),  ∂C/∂b = Σ_m δ              (n_out,)

No autograd is used, and no ∂C/∂x is formed for the input. Documents 1, 2 and 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as every_module

from manual_bp.function import dtype_name
from manual_bp.linear import Linear
from manual_bp.normalisation import COSTS, scale
from manual_bp.sigmoid import Sigmoid

# Exact types, because a subclass may compute something else; each with its forward.
_LAYERS: dict[type[nn.Module], Any] = {
    kind: kind.forward for kind in (Linear, nn.Linear, Sigmoid, nn.Sigmoid)
}
_SEQUENTIAL = nn.Sequential.forward
# The tables in which a module, and torch's file for all modules, keep the hooks on calls.
_HOOKS = tuple(
    name
    for name in (*vars(nn.Module()), *vars(every_module))
    if name.endswith("_hooks") and ("forward" in name or "backward" in name)
)
_PARAMETER_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


@dataclass(frozen=True)
class Layer:
    """z = a_prev Wᵀ + b, and a = σ(z), or a = z where `sigmoid` is False."""

    number: int  # 1, 2, … L
    name: str  # prefix of its parameters in the state dict: "0.", "body.0."; "" for a bare Linear
    weight: Tensor  # W (n_out, n_in)
    bias: Tensor | None  # b (n_out,)
    sigmoid: bool

    def __str__(self) -> str:
        return f"layer {self.number} ({self.weight.shape[1]}→{self.weight.shape[0]})"

    @property
    def tag(self) -> str:
        """The layer's name where names are sorted: "layer01"."""
        return f"layer{self.number:02d}"

    @property
    def parameters(self) -> dict[str, Tensor]:
        """W and b, by "layer01.weight" and "layer01.bias"."""
        named = {f"{self.tag}.weight": self.weight}
        return named if self.bias is None else {**named, f"{self.tag}.bias": self.bias}


@dataclass(frozen=True)
class LayerPass:
    """Everything that one batch of m examples gives in one layer."""

    layer: Layer
    a_prev: Tensor  # (m, n_in)
    z: Tensor  # a_prev Wᵀ + b  (m, n_out)
    a: Tensor  # σ(z)  (m, n_out)
    error: Tensor  # ∂C/∂a  (m, n_out)
    slope: Tensor  # σ′(z)  (m, n_out)
    delta: Tensor  # δ = ∂C/∂z  (m, n_out)
    dW: Tensor  # ∂C/∂W  (n_out, n_in)
    db: Tensor | None  # ∂C/∂b  (n_out,)


def read(model: nn.Module | Iterable[nn.Module]) -> list[Layer]:
    """`model` as layers: Linear modules in the order they run, each with the Sigmoid after it.

    Args:
        model: an `MLP`, or any `nn.Sequential`, list or ModuleList of Linear and Sigmoid modules,
            ours or torch.nn's; nested `nn.Sequential`s are opened.

    Raises:
        TypeError: another module, a Sigmoid that does not follow a Linear, no Linear at all, or a
            weight that is not floating.
        RuntimeError: something that a call of the model would run and the algorithm would not: a
            hook on a module, a parameter or all modules, a `forward` that was replaced. Or shapes
            that do not fit.
    """
    if isinstance(model, nn.ModuleList) or not isinstance(model, nn.Module):
        model = nn.Sequential(*model)
    if _has_hooks(vars(every_module)):
        raise RuntimeError("hooks on all modules would not run: remove them, or use autograd")
    found: list[Layer] = []
    open_ended = False  # whether the last module was a Linear
    for name, module in model.named_modules(remove_duplicate=False):
        shown, kind = f"module {name or 'model'!r}", type(module)
        if isinstance(module, nn.Sequential):
            if kind.forward is not _SEQUENTIAL:
                raise TypeError(
                    f"{shown}: {kind.__name__}.forward is not nn.Sequential.forward, and would not "
                    f"run; use autograd for this model"
                )
        elif kind not in _LAYERS:
            raise TypeError(
                f"{shown} is a {kind.__name__}: only Linear and Sigmoid modules in an "
                f"nn.Sequential are read as layers; use autograd for this model"
            )
        elif not _is_its_own(kind):
            raise RuntimeError(f"{shown}: {kind.__name__}.forward was replaced; use autograd")
        _check_hooks(shown, module)
        if isinstance(module, nn.Sequential):
            continue  # its modules come next
        if isinstance(module, nn.Linear):
            weight, bias = module.weight, module.bias
            _check_parameter_hooks(shown, weight=weight, bias=bias)
            prefix = f"{name}." if name else ""
            found.append(Layer(len(found) + 1, prefix, weight, bias, sigmoid=False))
        elif open_ended:
            found[-1] = replace(found[-1], sigmoid=True)
        else:
            raise TypeError(f"{shown}: a Sigmoid must follow a Linear; use autograd")
        open_ended = isinstance(module, nn.Linear)
    if not found:
        raise TypeError("the model has no Linear layer")
    _check_shapes(found)
    return found


def _check_hooks(shown: str, module: nn.Module) -> None:
    """Refuse what a call of `module` would run beside the formulas."""
    own = vars(module)
    if _has_hooks(own):
        raise RuntimeError(f"{shown} has hooks, which would not run: remove them, or use autograd")
    if "forward" in own:
        raise RuntimeError(
            f"{shown} has a forward of its own, which would not run: remove it, or use autograd"
        )


def _check_parameter_hooks(shown: str, **parameters: Tensor | None) -> None:
    for name, parameter in parameters.items():
        if any(getattr(parameter, hooks, None) for hooks in _PARAMETER_HOOKS):
            raise RuntimeError(
                f"parameter {name!r} of {shown} has hooks, which would not run: remove them, or "
                f"use autograd"
            )


def _is_its_own(kind: type[nn.Module]) -> bool:
    """Whether a class has the forward it was written with: nobody put another there, ever."""
    return kind.forward is _LAYERS[kind] and kind.forward.__module__ == kind.__module__


def _has_hooks(names: dict[str, Any]) -> bool:
    """Whether a hook is in `names`: the attributes of a module, or of torch's file for all."""
    return any(map(names.get, _HOOKS))


def _check_shapes(layers: Sequence[Layer]) -> None:
    """A loop outside of torch trusts them: a wrong one would reach into other memory."""
    n_in: int | None = None
    for layer in layers:
        if not layer.weight.is_floating_point():
            raise TypeError(
                f"layer {layer.number}: weight of dtype {dtype_name(layer.weight.dtype)}: a "
                f"floating dtype is expected"
            )
        weight = tuple(layer.weight.shape)
        if len(weight) != 2 or 0 in weight:
            raise RuntimeError(
                f"layer {layer.number}: weight {weight}: (n_out, n_in), none of them 0, is expected"
            )
        if n_in not in (None, weight[1]):
            raise RuntimeError(
                f"{layer}: weight {weight}: ({weight[0]}, {n_in}) is expected, as the layer before "
                f"it has {n_in} outputs"
            )
        if layer.bias is not None and tuple(layer.bias.shape) != weight[:1]:
            seen = tuple(layer.bias.shape)
            raise RuntimeError(f"{layer}: bias {seen}: {weight[:1]} is expected")
        n_in = weight[0]


def forward(layers: Sequence[Layer], x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """z and a of each layer, the first layer first. Differentiable, if grad mode is on."""
    a = x
    for layer in layers:
        z = F.linear(a, layer.weight, layer.bias)  # z = a_prev Wᵀ + b  (m, n_out)
        a = torch.sigmoid(z) if layer.sigmoid else z  # a = σ(z)  (m, n_out)
        yield z, a


def back(
    layers: Sequence[Layer], a_prev: Sequence[Tensor], slope: Sequence[Tensor], error: Tensor
) -> list[tuple[Tensor, Tensor, Tensor, Tensor | None]]:
    """The δ recursion: error, δ, ∂C/∂W and ∂C/∂b of each layer, the first layer first.

    Args:
        layers: as `read` gives them.
        a_prev: what enters each layer, (m, n_in).
        slope: σ′(z) of each layer, (m, n_out).
        error: ∂C/∂a of the last layer, (m, n_out).
    """
    found = []
    for i, layer in reversed(list(enumerate(layers))):
        delta = error * slope[i]  # δ = ∂C/∂a ⊙ σ′(z)  (m, n_out)
        dW = delta.t() @ a_prev[i]  # ∂C/∂W = δᵀ a_prev  (n_out, n_in)
        db = None if layer.bias is None else delta.sum(0)  # ∂C/∂b = Σ_m δ  (n_out,)
        found.append((error, delta, dW, db))
        if i > 0:
            error = delta @ layer.weight  # ∂C/∂a_prev = δ W  (m, n_in)
    return found[::-1]


@torch.no_grad()
def backpropagate(layers: Sequence[Layer], x: Tensor, y: Tensor, reduction: str) -> list[LayerPass]:
    """One pass forward and back for C = s Σ (a − y)² (documents 1, 2 and 3).

    Args:
        layers: as `read` gives them.
        x: input of shape (m, n_in); m may be 0.
        y: target of shape (m, n_out).
        reduction: "half_per_example", "half_per_element", "mean" or "sum"; it chooses s.

    Raises:
        ValueError: an unknown reduction.
        RuntimeError: an input whose shape is not (m, n_in), or a target whose shape is not the
            output's.
    """
    check_cost(reduction)
    n_in = layers[0].weight.shape[1]
    if x.dim() != 2 or x.shape[1] != n_in:
        raise RuntimeError(f"input {tuple(x.shape)}: the shape (m, {n_in}) is expected")
    z, a = map(list, zip(*forward(layers, x), strict=True))
    if y.shape != a[-1].shape:
        seen, expected = tuple(y.shape), tuple(a[-1].shape)
        raise RuntimeError(f"target {seen}: the output's shape {expected} is expected")
    # ∂C/∂a = 2 s (a − y), in the dtype of a where y has a wider one  (m, n_out)
    last = (2 * scale(reduction, y.shape) * (a[-1] - y)).to(a[-1].dtype)
    slope = [_slope(layer, own) for layer, own in zip(layers, a, strict=True)]
    a_prev = [x, *a[:-1]]
    passes = []
    for i, (error, delta, dW, db) in enumerate(back(layers, a_prev, slope, last)):
        passes.append(
            LayerPass(
                layer=layers[i],
                a_prev=a_prev[i],
                z=z[i],
                a=a[i],
                error=error,
                slope=slope[i],
                delta=delta,
                dW=dW,
                db=db,
            )
        )
    return passes


def _slope(layer: Layer, a: Tensor) -> Tensor:
    return a * (1 - a) if layer.sigmoid else torch.ones_like(a)  # σ′(z) = a (1 − a), or 1


def check_cost(reduction: str) -> None:
    """Check that `reduction` names a cost that is one number.

    Raises:
        ValueError: another name.
    """
    if reduction not in COSTS:
        raise ValueError(f"reduction {reduction!r} is not one of {', '.join(COSTS)}")
