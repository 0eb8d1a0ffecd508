"""Mean squared error: C = s Σ (a − y)², with a and y of one shape.

    ∂C/∂a =  2 s (a − y)
    ∂C/∂y = −2 s (a − y)

The documents normalise the cost differently; `reduction` names each by its formula. m is the number
of examples, n_out the last dimension, and a 1-D input is one example.

    half_per_example   s = 1/(2m)         documents 1 and 2: ½ squared error
    half_per_element   s = 1/(2 m n_out)  document 3: 1/L_n Σ ½(a − y)², averaged over the batch
    mean               s = 1/(m n_out)    torch.nn.MSELoss
    sum                s = 1              torch.nn.MSELoss(reduction="sum")
    none               (a − y)², no sum: torch.nn.MSELoss(reduction="none"), not ½(a − y)²
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from manual_bp.ops.function import HandDerivedFunction, constant, forward_rule, is_plain

REDUCTIONS = ("half_per_example", "half_per_element", "mean", "sum", "none")
# What torch.nn.functional.mse_loss itself calls, after checks and a broadcast that have no place
# here.
_torch_mse_loss: Callable[[Tensor, Tensor, int], Tensor] = torch._C._nn.mse_loss  # type: ignore[assignment]
_TORCH_REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}


def scale(reduction: str, shape: torch.Size) -> float:
    """s of C = s Σ (a − y)² for an output a of `shape` (..., n_out). NaN where it divides by a
    count of 0, as torch.
    """
    if reduction in ("sum", "none"):
        return 1.0
    elements = shape.numel()  # m n_out
    if elements == 0:
        return math.nan
    if reduction == "mean":
        return 1 / elements  # 1/(m n_out)
    if reduction == "half_per_element":
        return 1 / (2 * elements)  # 1/(2 m n_out)
    n_out = shape[-1] if shape else 1
    return n_out / (2 * elements)  # 1/(2m)


class MSELossFunction(HandDerivedFunction):
    """C = s Σ (a − y)²; a and y (..., n_out), C a scalar (or (..., n_out) for "none"). Documents 1,
    2 and 3.
    """

    @staticmethod
    def forward(a: Tensor, y: Tensor, reduction: str) -> Tensor:
        known = _TORCH_REDUCTIONS.get(reduction)
        if known is not None:
            return _torch_mse_loss(a, y, known)
        # s Σ (a − y)² = (s m n_out) · mean: the mean is summed in float32 even where a is float16,
        # and cannot overflow.
        factor = a.shape[-1] / 2 if reduction == "half_per_example" and a.dim() else 0.5
        return _torch_mse_loss(a, y, _TORCH_REDUCTIONS["mean"]) * factor

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, str], output: Tensor) -> None:
        a, y, ctx.reduction = inputs
        ctx.save_for_backward(a, y)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        a, y = ctx.saved_tensors
        two_s, factor = _two_s(ctx.reduction, a)
        # 2 s (a − y) ⊙ ∂L/∂C  (..., n_out). A small factor goes to g first: nothing overflows
        # in float16 on the way to a gradient that fits.
        gradient = (a - y) * (g * factor) if two_s <= 1 else (a - y) * g * factor
        needs_da, needs_dy, _ = ctx.needs_input_grad
        everything = is_dynamo_compiling()
        da = gradient if needs_da or everything else None  # ∂C/∂a =  2 s (a − y)
        dy = -gradient if needs_dy or everything else None  # ∂C/∂y = −2 s (a − y)
        return da, dy, None


class MSELossForwardMode(MSELossFunction):
    """`MSELossFunction` with its forward-mode rule: Ċ = 2 s Σ (a − y) ⊙ (ȧ − ẏ), without the Σ for
    "none".
    """

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, str], output: Tensor) -> None:
        a, y, ctx.reduction = inputs
        HandDerivedFunction.save(ctx, a, y)

    @staticmethod
    @forward_rule
    def jvp(ctx: Any, saved: list[Tensor], a_dot: Tensor, y_dot: Tensor, _: None) -> Tensor:
        a, y = saved
        terms = (
            (a - y) * (a_dot - y_dot) * (2 * scale(ctx.reduction, a.shape))
        )  # 2 s (a − y) ⊙ (ȧ − ẏ)  (..., n_out)
        return terms if ctx.reduction == "none" else terms.sum()


MSELossFunction.forward_mode = MSELossForwardMode


def _two_s(reduction: str, a: Tensor) -> tuple[float, Any]:
    """2 s of `scale`, to compare and to multiply with: for the latter a `constant`, which float16
    would round.
    """
    dtype = a.dtype
    if (dtype is torch.float32 or dtype is torch.float64) and is_plain(a):
        return _two_s_of_plain(reduction, a.shape, dtype)
    two_s = 2 * scale(reduction, a.shape)
    return two_s, two_s


@lru_cache(maxsize=64)
def _two_s_of_plain(reduction: str, shape: torch.Size, dtype: torch.dtype) -> tuple[float, Tensor]:
    two_s = 2 * scale(reduction, shape)
    return two_s, constant(two_s, dtype)
