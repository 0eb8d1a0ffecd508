"""Mean squared error: C = s Σ (a − y)², with a and y of one shape.

    ∂C/∂a =  2 s (a − y)
    ∂C/∂y = −2 s (a − y)

s is the normalisation, which each document chooses otherwise: see `normalisation.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from manual_bp.function import (
    HandDerivedFunction,
    apply,
    autocast_dtype,
    keep,
    needed,
    not_floating,
    not_tensors,
    on_several_devices,
)
from manual_bp.normalisation import REDUCTIONS, scale


class MSELossFunction(HandDerivedFunction):
    """C = s Σ (a − y)², with ∂C/∂a = 2 s (a − y), ∂C/∂y = −2 s (a − y) (documents 1, 2 and 3).

    Shapes: a, y and their gradients (..., n_out); C a scalar, or (..., n_out) for "none".

        >>> MSELossFunction.apply(torch.ones(4, 3), torch.zeros(4, 3), "sum")
        tensor(12.)
    """

    @staticmethod
    def forward(a: Tensor, y: Tensor, reduction: str) -> Tensor:
        squares = (a - y).square()  # (a − y)²  (..., n_out)
        if reduction == "none":
            return squares
        if reduction == "sum":
            return squares.sum()  # C = Σ (a − y)²
        # C = (s m n_out) · mean of (a − y)². The mean is summed in float32 even where a is
        # float16, and cannot overflow; the factor is n_out/2, ½ or 1. It does not depend on m,
        # which torch.export may leave open.
        _, k, _, per_element, _ = REDUCTIONS[reduction]
        n_out = 1 if per_element or not a.dim() else a.shape[-1]
        return squares.mean() * (n_out / k) if k > 1 else squares.mean()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, str], C: Tensor) -> None:
        a, y, ctx.reduction = inputs
        keep(ctx, a, y, needed=(True, True))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        a, y = ctx.saved_tensors
        two_s = 2 * scale(ctx.reduction, a.shape)
        # 2 s (a − y) ⊙ ∂L/∂C  (..., n_out). A factor up to 1 goes to g first, one above 1 comes
        # last: nothing overflows in float16 on the way to a gradient that fits.
        gradient = (a - y) * (g * two_s) if two_s <= 1 else (a - y) * g * two_s
        needs_da, needs_dy, _ = needed(ctx)
        da = gradient if needs_da else None  # ∂C/∂a =  2 s (a − y)  (..., n_out)
        dy = -gradient if needs_dy else None  # ∂C/∂y = −2 s (a − y)  (..., n_out)
        return da, dy, None

    @staticmethod
    def jvp(ctx: Any, a_dot: Tensor, y_dot: Tensor, _: None) -> Tensor:
        a, y = ctx.saved_tensors
        two_s = 2 * scale(ctx.reduction, a.shape)
        terms: Tensor = (a - y) * (a_dot - y_dot) * two_s  # 2 s (a − y) ⊙ (ȧ − ẏ)  (..., n_out)
        return terms if ctx.reduction == "none" else terms.sum()  # Ċ = 2 s Σ …


def mse_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """C = s Σ (a − y)², with ∂C/∂a = 2 s (a − y), ∂C/∂y = −2 s (a − y) (documents 1, 2 and 3).

    `reduction` chooses s; m is the number of examples and n_out the last dimension (a 1-D input is
    one example): "half_per_example" 1/(2m) (documents 1 and 2), "half_per_element" 1/(2 m n_out)
    (document 3), "mean" 1/(m n_out) and "sum" 1 (both as torch), "none" the elementwise (a − y)²,
    as torch.

    Two dtypes are promoted to their common one, as `torch.nn.functional.mse_loss` does; under
    autocast both become float32.

    Args:
        input: a of shape (..., n_out), floating.
        target: y of exactly the shape of a: nothing is broadcast.
        reduction: one of the five names above.

    Returns:
        C, a scalar; for "none" of the shape of a.

    Raises:
        TypeError: an argument is not a tensor, or neither is floating.
        RuntimeError: shapes or devices differ.
        ValueError: an unknown reduction.

        >>> mse_loss(torch.ones(4, 3), torch.zeros(4, 3), "half_per_example")
        tensor(1.5000)
    """
    if not (isinstance(input, Tensor) and isinstance(target, Tensor)):
        return not_tensors(mse_loss, input=input, target=target, reduction=reduction)
    _check(input, target, reduction)
    if autocast_dtype(input) is not None:  # which computes this cost in float32 at least
        input, target = (t if t.dtype == torch.float64 else t.float() for t in (input, target))
        with torch.autocast(input.device.type, enabled=False):
            return mse_loss(input, target, reduction)
    if input.dtype != target.dtype:
        dtype = torch.promote_types(input.dtype, target.dtype)
        input, target = input.to(dtype), target.to(dtype)
    return apply(MSELossFunction, input, target, reduction)


def _check(input: Tensor, target: Tensor, reduction: str) -> None:
    if input.shape != target.shape:
        raise RuntimeError(
            f"mse_loss: input {tuple(input.shape)} and target {tuple(target.shape)}: the shapes "
            f"must be equal, nothing is broadcast; reshape or expand the target"
        )
    _check_reduction("mse_loss", reduction)
    if not (input.dtype.is_floating_point or target.dtype.is_floating_point):
        raise not_floating("mse_loss", input)
    if input.device != target.device:
        raise on_several_devices("mse_loss", input=input, target=target)


def _check_reduction(operation: str, reduction: str) -> None:
    if reduction not in REDUCTIONS:
        names = ", ".join(REDUCTIONS)
        raise ValueError(f"{operation}: reduction {reduction!r} is not one of {names}")


class MSELoss(nn.MSELoss):
    """C = s Σ (a − y)², with ∂C/∂a = 2 s (a − y): `torch.nn.MSELoss` with this backward pass.

    Args:
        reduction: "mean", "sum" or "none" as in torch, "half_per_example" (s = 1/(2m), documents 1
            and 2) or "half_per_element" (s = 1/(2 m n_out), document 3).

    Raises:
        ValueError: an unknown reduction. A call raises as `manual_bp.functional.mse_loss` does.

        >>> MSELoss("half_per_example")(torch.ones(4, 3), torch.zeros(4, 3))
        tensor(1.5000)
    """

    def __init__(self, reduction: str = "mean") -> None:
        _check_reduction("MSELoss", reduction)
        super().__init__(reduction=reduction)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return mse_loss(input, target, self.reduction)

    def extra_repr(self) -> str:
        # torch.nn.MSELoss does not print its reduction; names that torch does not know are printed.
        return f"reduction={self.reduction!r}" if self.reduction.startswith("half") else ""
