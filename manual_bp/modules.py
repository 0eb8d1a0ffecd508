"""`nn.Module`s around the hand-derived operations: drop-in twins of `torch.nn`'s, and `convert`,
which swaps them in.

Each is a subclass of its twin and overrides `forward` alone. Parameters, initialisation,
`state_dict`, repr, `device=` and `dtype=` are therefore those of `torch.nn`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from numbers import Integral
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules import module as every

from manual_bp import functional
from manual_bp.ops import LinearSigmoidFunction
from manual_bp.ops.mse import REDUCTIONS

__all__ = ["MLP", "Linear", "MSELoss", "Sigmoid", "convert"]

M = TypeVar("M", bound=nn.Module)


class Linear(nn.Linear):
    """z = x Wᵀ + b: `torch.nn.Linear` with the backward pass of `manual_bp.functional.linear`.

    Shapes: x (..., n_in), W (n_out, n_in), b (n_out,), z (..., n_out).
    """

    def forward(self, input: Tensor) -> Tensor:
        return functional.linear(input, self.weight, self.bias)


class Sigmoid(nn.Sigmoid):
    """a = σ(z): `torch.nn.Sigmoid` with the backward pass of `manual_bp.functional.sigmoid`. Any
    shape.
    """

    def forward(self, input: Tensor) -> Tensor:
        return functional.sigmoid(input)


class MSELoss(nn.MSELoss):
    """C = s Σ (a − y)²: `torch.nn.MSELoss` with the backward pass of
    `manual_bp.functional.mse_loss`.

    Args:
        reduction: "mean", "sum" or "none" as in torch, "half_per_example" (s = 1/(2m), documents 1
            and 2) or "half_per_element" (s = 1/(2 m n_out), document 3).

    Raises:
        ValueError: an unknown reduction.
    """

    def __init__(self, reduction: str = "mean") -> None:
        if reduction not in REDUCTIONS:
            raise ValueError(
                f"MSELoss: reduction {reduction!r} is not one of {', '.join(REDUCTIONS)}"
            )
        super().__init__(reduction=reduction)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return functional.mse_loss(input, target, self.reduction)

    def extra_repr(self) -> str:
        # torch.nn.MSELoss does not print its reduction; the names it does not know are printed.
        return f"reduction={self.reduction!r}" if self.reduction.startswith("half") else ""


class MLP(nn.Sequential):
    """The documents' network: Linear, Sigmoid, Linear, Sigmoid, … as an `nn.Sequential`.

    In eager mode a Linear and the Sigmoid after it run as one Function,
    `manual_bp.functional.linear_sigmoid`: the same values and gradients in less time. Two of which
    one has a hook or a `forward` of its own run one by one, and all do where every module's call is
    looked at (hooks on all modules, torch.fx, tracing, the compiler).

    Args:
        sizes: the width of each layer, the input's first: [784, 128, 10].
        output: "sigmoid", or "linear" for document 2's linear output unit.
        bias: whether the Linear layers have one.
        device: as in `torch.nn.Linear`.
        dtype: as in `torch.nn.Linear`.

    Raises:
        ValueError: fewer than two sizes, a size below 1, or an unknown output.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        output: Literal["sigmoid", "linear"] = "sigmoid",
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        sizes = list(sizes) if isinstance(sizes, Iterable) else [sizes]
        if len(sizes) < 2 or any(not isinstance(n, Integral) or n < 1 for n in sizes):
            raise ValueError(
                f"MLP: sizes {sizes}: two or more widths of at least 1 are needed, such as [784, "
                f"128, 10]"
            )
        if output not in ("sigmoid", "linear"):
            raise ValueError(f"MLP: output {output!r} is not one of sigmoid, linear")
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(map(int, sizes)):
            layers += [Linear(n_in, n_out, bias=bias, device=device, dtype=dtype), Sigmoid()]
        if output == "linear":
            layers.pop()
        super().__init__(*layers)

    def forward(self, input: Tensor) -> Tensor:
        if torch.compiler.is_dynamo_compiling() or _every_call_is_watched():
            return super().forward(input)  # type: ignore[no-any-return, no-untyped-call]
        a: Any = input
        linear: Any = None  # a Linear that waits: with a Sigmoid after it, the two run as one
        for module in self._modules.values():
            if linear is not None:
                if type(module) is Sigmoid and type(a) is Tensor and not _is_watched(module):
                    own = linear._parameters  # linear.weight looks in three other places first
                    weight, bias = own.get("weight"), own.get("bias")
                    if type(weight) is nn.Parameter and type(bias) is nn.Parameter:
                        a = functional.linear_by(LinearSigmoidFunction, a, weight, bias)
                    else:
                        a = functional.linear_sigmoid(a, linear.weight, linear.bias)
                    linear = None
                    continue
                a = linear(a)
                linear = None
            if type(module) is Linear and not _is_watched(module):
                linear = module
            else:
                a = module(a)
        return a if linear is None else linear(a)  # type: ignore[no-any-return]

    def __getitem__(self, index: slice | int) -> Any:
        if isinstance(index, slice):  # nn.Sequential would call MLP(OrderedDict(...))
            return nn.Sequential(OrderedDict(list(self._modules.items())[index]))
        return super().__getitem__(index)


def _is_watched(module: nn.Module) -> bool:
    """Whether a call of `module` does more than its class's `forward`."""
    own = module.__dict__
    return bool(
        own["_forward_hooks"]
        or own["_forward_pre_hooks"]
        or own["_backward_hooks"]
        or own["_backward_pre_hooks"]
        or own.get("_compiled_call_impl")
        or "forward" in own
    )


_CALL, _LINEAR, _SIGMOID = nn.Module.__call__, Linear.forward, Sigmoid.forward


def _every_call_is_watched() -> bool:
    return bool(
        nn.Module.__call__ is not _CALL  # torch.fx has put its own there
        or Linear.forward is not _LINEAR
        or Sigmoid.forward is not _SIGMOID
        or torch._C._is_tracing()
        or every._global_forward_hooks
        or every._global_forward_pre_hooks
        or every._global_backward_hooks
        or every._global_backward_pre_hooks
    )


_TWINS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: Linear,
    nn.Sigmoid: Sigmoid,
    nn.MSELoss: MSELoss,
}


def convert(model: M) -> M:
    """Make every `nn.Linear`, `nn.Sigmoid` and `nn.MSELoss` in `model` run its hand-derived
    backward pass.

    The modules are changed in place: the same objects with the same parameters, buffers, hooks,
    mode and names, so optimizers and shared layers keep working. Exact types only: subclasses (also
    parametrized modules, which are subclasses) stay as they are, and so do complex layers. A second
    call changes nothing.

    Args:
        model: any module; a bare `nn.Linear` is converted too.

    Returns:
        The model itself.

    Raises:
        TypeError: `model` is not a module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"convert: a torch.nn.Module is needed, not {type(model).__name__}")
    for module in model.modules():
        twin = _TWINS.get(type(module))
        if twin is not None and not any(
            parameter.is_complex() for parameter in module.parameters(recurse=False)
        ):
            module.__class__ = twin
    return model
