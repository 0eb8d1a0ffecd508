"""One example through a network, forward and backward, by the hand-derived formulas; autograd only
checks the result.

With δ = ∂C/∂z, for one example and column vectors of shape (n,):

    z = W a_prev + b          a = σ(z)
    error = ∂C/∂a             2 s (a − y) at the output, Wᵀ δ of the layer after it elsewhere
    δ = error ⊙ σ′(z)         σ′(z) = a (1 − a), or 1 where a layer has no sigmoid
    ∂C/∂W = δ a_prevᵀ         ∂C/∂b = δ
    W := W − η ∂C/∂W          b := b − η ∂C/∂b
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manual_bp.direct.layers import Layer, is_linear
from manual_bp.modules import Sigmoid
from manual_bp.ops.mse import REDUCTIONS, scale

COSTS = tuple(name for name in REDUCTIONS if name != "none")  # "none" is no single number


@dataclass(frozen=True)
class LayerPass:
    """One layer of one pass. All tensors are float64.

    Attributes:
        number: 1 for the first layer after the input.
        name: the prefix of its parameters in the model, such as "0".
        sigmoid: whether a sigmoid follows the linear map.
        weight: W (n_out, n_in).
        bias: b (n_out,), or None.
        before: a of the layer before, or x (n_in,).
        z: pre-activation (n_out,).
        a: activation (n_out,).
        error: ∂C/∂a (n_out,).
        slope: σ′(z) (n_out,).
        delta: δ = ∂C/∂z (n_out,).
        dW: ∂C/∂W (n_out, n_in).
        new_weight: W after the update.
        new_bias: b after the update, or None.
        dW_error: the largest |dW − autograd|, relative to the largest |autograd|.
        db_error: the same for the bias, or None.
    """

    number: int
    name: str
    sigmoid: bool
    weight: Tensor
    bias: Tensor | None
    before: Tensor
    z: Tensor
    a: Tensor
    error: Tensor
    slope: Tensor
    delta: Tensor
    dW: Tensor  # noqa: N815
    new_weight: Tensor
    new_bias: Tensor | None
    dW_error: float  # noqa: N815
    db_error: float | None


@dataclass(frozen=True)
class Trace:
    """A traced example.

    Attributes:
        x: the input (n_in,).
        y: the target (n_out,).
        cost: the `reduction` of `manual_bp.functional.mse_loss`.
        scale: s of C = s Σ (a − y)².
        lr: η.
        layers: the layers, the first one after the input first.
        value: C.
        value_after: C of the same example after the update.
    """

    x: Tensor
    y: Tensor
    cost: str
    scale: float
    lr: float
    layers: tuple[LayerPass, ...]
    value: float
    value_after: float

    @property
    def max_relative_error(self) -> float:
        """The largest disagreement with autograd over all parameters."""
        return max(
            e for layer in self.layers for e in (layer.dW_error, layer.db_error) if e is not None
        )


def compute(
    model: nn.Module | Iterable[nn.Module], x: Tensor, y: Tensor, *, cost: str, lr: float
) -> Trace:
    """Trace one example through a sequence of Linear and Sigmoid layers (documents 1, 2 and 3).

    The model is read, never run or changed; everything is computed in float64 on the CPU.

    Args:
        model: an `nn.Sequential`, or any iterable, of Linear and Sigmoid layers, ours or torch's.
        x: the input, (n_in,) or (1, n_in).
        y: the target, (n_out,) or (1, n_out).
        cost: "half_per_example", "half_per_element", "mean" or "sum".
        lr: the learning rate η.

    Raises:
        TypeError: `model` is no sequence of layers.
        ValueError: a layer that is neither Linear nor Sigmoid, more than one example, sizes that do
            not fit, or an unknown cost.
    """
    # In inference mode autograd could not check anything, and what is copied there could never be
    # used with it.
    with torch.inference_mode(False), torch.no_grad():
        return _compute(model, x, y, cost, lr)


def _compute(
    model: nn.Module | Iterable[nn.Module], x: Tensor, y: Tensor, cost: str, lr: float
) -> Trace:
    if cost not in COSTS:
        raise ValueError(f"trace: cost {cost!r} is not one of {', '.join(COSTS)}")
    layers = _layers(model)
    x, y = (
        _one_example("x", x, layers[0].weight.shape[1]),
        _one_example("y", y, layers[-1].weight.shape[0]),
    )

    a = [x]
    z: list[Tensor] = []
    for layer in layers:
        z.append(
            layer.weight @ a[-1] if layer.bias is None else layer.weight @ a[-1] + layer.bias
        )  # z = W a_prev + b
        a.append(torch.sigmoid(z[-1]) if layer.sigmoid else z[-1])  # a = σ(z)
    s = scale(cost, y.shape)
    autograd = _autograd(layers, x, y, s)

    passes: list[LayerPass] = []
    error = 2 * s * (a[-1] - y)  # ∂C/∂a = 2 s (a − y)  (n_out,)
    for index in reversed(range(len(layers))):
        layer, here, before = layers[index], a[index + 1], a[index]
        slope = (
            here * (1 - here) if layer.sigmoid else torch.ones_like(here)
        )  # σ′(z) = a (1 − a)  (n_out,)
        delta = error * slope  # δ = ∂C/∂a ⊙ σ′(z)  (n_out,)
        dW = delta.unsqueeze(1) * before  # ∂C/∂W = δ a_prevᵀ  (n_out, n_in)
        expected_dW, expected_db = autograd[index]
        passes.append(
            LayerPass(
                number=index + 1,
                name=layer.name,
                sigmoid=layer.sigmoid,
                weight=layer.weight,
                bias=layer.bias,
                before=before,
                z=z[index],
                a=here,
                error=error,
                slope=slope,
                delta=delta,
                dW=dW,
                new_weight=layer.weight - lr * dW,  # W := W − η ∂C/∂W
                new_bias=None if layer.bias is None else layer.bias - lr * delta,  # b := b − η δ
                dW_error=_relative(dW, expected_dW),
                db_error=None if expected_db is None else _relative(delta, expected_db),
            )
        )
        error = layer.weight.t() @ delta  # ∂C/∂a_prev = Wᵀ δ  (n_in,)
    passes.reverse()
    return Trace(x, y, cost, s, lr, tuple(passes), _cost(a[-1], y, s), _cost_after(passes, x, y, s))


def _layers(model: nn.Module | Iterable[nn.Module]) -> list[Layer]:
    if isinstance(model, nn.Module) and not isinstance(model, (nn.Sequential, nn.ModuleList)):
        raise TypeError(
            f"trace: {type(model).__name__}: a sequence of Linear and Sigmoid layers is needed"
        )
    layers: list[Layer] = []
    after_linear = False
    for position, module in enumerate(model):
        if isinstance(module, nn.Linear) and is_linear(
            module
        ):  # a subclass may compute something else
            bias = None if module.bias is None else _double(module.bias)
            layers.append(Layer(str(position), _double(module.weight), bias, sigmoid=False))
        elif type(module) in (Sigmoid, nn.Sigmoid) and after_linear:
            layers[-1] = Layer(layers[-1].name, layers[-1].weight, layers[-1].bias, sigmoid=True)
        else:
            raise ValueError(
                f"trace: layer {position} is {type(module).__name__}: only Linear layers, each "
                f"with or without a "
                f"Sigmoid after it, can be traced"
            )
        after_linear = isinstance(module, nn.Linear)
    if not layers:
        raise ValueError("trace: the model has no layers: one Linear layer is needed")
    return layers


def _double(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float64, copy=True)


def _one_example(name: str, tensor: Tensor, n: int) -> Tensor:
    if tuple(tensor.shape) not in ((n,), (1, n)):
        raise ValueError(
            f"trace: {name} {tuple(tensor.shape)}: one example is traced, of shape ({n},) or (1, "
            f"{n}); pick one row"
        )
    return _double(tensor).reshape(n)


def _cost(a: Tensor, y: Tensor, s: float) -> float:
    return float(s * ((a - y) ** 2).sum())  # C = s Σ (a − y)²


def _cost_after(passes: list[LayerPass], x: Tensor, y: Tensor, s: float) -> float:
    a = x
    for layer in passes:
        a = F.linear(a, layer.new_weight, layer.new_bias)
        a = torch.sigmoid(a) if layer.sigmoid else a
    return _cost(a, y, s)


def _autograd(
    layers: list[Layer], x: Tensor, y: Tensor, s: float
) -> list[tuple[Tensor, Tensor | None]]:
    """∂C/∂W and ∂C/∂b of each layer through torch's own operations: the oracle, which shares no
    formula with us.
    """
    leaves = [
        (
            layer.weight.clone().requires_grad_(),
            None if layer.bias is None else layer.bias.clone().requires_grad_(),
        )
        for layer in layers
    ]
    with torch.enable_grad():
        a = x
        for layer, (weight, bias) in zip(layers, leaves, strict=True):
            a = F.linear(a, weight, bias)
            a = torch.sigmoid(a) if layer.sigmoid else a
        (F.mse_loss(a, y, reduction="sum") * s).backward()
    return [(_grad(weight), None if bias is None else _grad(bias)) for weight, bias in leaves]


def _grad(leaf: Tensor) -> Tensor:
    assert leaf.grad is not None
    return leaf.grad


def _relative(ours: Tensor, expected: Tensor) -> float:
    """max |ours − expected| / max |expected|; the plain difference where the expected gradient is 0
    throughout.
    """
    largest = float(expected.abs().max())
    return float((ours - expected).abs().max()) / (largest or 1.0)
