"""Linear: z = a_prev Wᵀ + b.

    ∂C/∂a_prev = δ W        (m, n_in)
    ∂C/∂W      = δᵀ a_prev  (n_out, n_in)
    ∂C/∂b      = Σ_m δ      (n_out,)

with δ = ∂C/∂z of shape (m, n_out). Document 1: (δ^(l+1))ᵀ a^(l), and δ^(l+1) Θ^(l) sent back one
layer. Document 2: Δw = −η δ z. Document 3: ∇W = δ (a^(l-1))ᵀ, ∇b = δ for one example; a batch sums
over its examples.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, mm
from torch.compiler import is_dynamo_compiling

from manual_bp.ops.function import HandDerivedFunction, forward_rule


class LinearFunction(HandDerivedFunction):
    """z = x Wᵀ + b; x (..., n_in), W (n_out, n_in), b (n_out,) or None; z (..., n_out). Documents
    1, 2 and 3.
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)  # z = x Wᵀ + b  (m, n_out)

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor
    ) -> None:
        # ∂C/∂W needs x alone, ∂C/∂x needs W alone: a frozen W frees x, and an input without
        # gradient frees W. b says no more than that ∂C/∂b is to be given.
        x, weight, bias = inputs
        if is_dynamo_compiling():
            ctx.save_for_backward(x, weight, bias)
        else:
            needs_dx, needs_dW, _ = ctx.needs_input_grad
            ctx.save_for_backward(x if needs_dW else None, weight if needs_dx else None, None)

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        return gradients(ctx, delta, *ctx.saved_tensors)


class LinearForwardMode(LinearFunction):
    """`LinearFunction` with its forward-mode rule: ż = ẋ Wᵀ + x Ẇᵀ + ḃ."""

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor
    ) -> None:
        x, weight, _ = inputs
        HandDerivedFunction.save(ctx, x, weight, None)

    @staticmethod
    @forward_rule
    def jvp(
        ctx: Any, saved: list[Tensor], x_dot: Tensor, weight_dot: Tensor, bias_dot: Tensor | None
    ) -> Tensor:
        x, weight, _ = saved
        return tangent(x, weight, x_dot, weight_dot, bias_dot)


LinearFunction.forward_mode = LinearForwardMode


def gradients(
    ctx: Any, delta: Tensor, x: Tensor | None, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """∂C/∂x, ∂C/∂W and ∂C/∂b from δ = ∂C/∂z and what was saved of x, W and b; None where it is not
    needed.
    """
    dx = dW = db = None
    two_dimensional = delta.dim() == 2
    if weight is not None:
        product = (
            mm if two_dimensional else torch.matmul
        )  # which takes longer to find out that it is mm
        dx = product(delta, weight)  # ∂C/∂a_prev = δ W  (..., n_in)
    if not two_dimensional:
        delta, x = _rows(delta), None if x is None else _rows(x)
    if x is not None:
        dW = mm(delta.t(), x)  # ∂C/∂W = δᵀ a_prev  (n_out, n_in)
    if bias is not None or ctx.needs_input_grad[2]:
        db = delta.sum(0)  # ∂C/∂b = Σ_m δ  (n_out,)
    return dx, dW, db


def tangent(
    x: Tensor, weight: Tensor, x_dot: Tensor, weight_dot: Tensor, bias_dot: Tensor | None
) -> Tensor:
    """ż of z = x Wᵀ + b."""
    z_dot = F.linear(x_dot, weight) + F.linear(x, weight_dot)  # ẋ Wᵀ + x Ẇᵀ  (..., n_out)
    return z_dot if bias_dot is None else z_dot + bias_dot  # + ḃ  (..., n_out)


def _rows(tensor: Tensor) -> Tensor:
    """(..., n) as (m, n). The count is spelled out, because reshape(-1, n) cannot infer it when n
    is 0.
    """
    return tensor.reshape(math.prod(tensor.shape[:-1]), tensor.shape[-1])
