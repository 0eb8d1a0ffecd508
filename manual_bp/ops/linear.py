"""Linear: z = a_prev Wᵀ + b.

    ∂C/∂a_prev = δ W        (m, n_in)
    ∂C/∂W      = δᵀ a_prev  (n_out, n_in)
    ∂C/∂b      = Σ_m δ      (n_out,)

with δ = ∂C/∂z of shape (m, n_out). Document 1: (δ^(l+1))ᵀ a^(l), and δ^(l+1) Θ^(l) sent back one layer. Document 2:
Δw = −η δ z. Document 3: ∇W = δ (a^(l-1))ᵀ, ∇b = δ for one example; a batch sums over its examples.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from manual_bp.ops.function import HandDerivedFunction, forward_rule


class LinearFunction(HandDerivedFunction):
    """z = x Wᵀ + b; x (..., n_in), W (n_out, n_in), b (n_out,) or None; z (..., n_out). Documents 1, 2 and 3."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)  # z = x Wᵀ + b  (m, n_out)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        x, weight, bias = inputs
        needs_dx, needs_dW, needs_db = ctx.needs_input_grad
        everything = torch.compiler.is_dynamo_compiling  # asked only where it matters
        # ∂C/∂W needs x alone, ∂C/∂x needs W alone: a frozen W frees x, an input without gradient frees W.
        ctx.save_for_backward(
            x if needs_dW or everything() else None,
            weight if needs_dx or everything() else None,
            None if needs_db or not everything() else bias,  # only to say that ∂C/∂b is to be given all the same
        )

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight, bias = ctx.saved_tensors  # what was saved says what is needed
        needs_dx, needs_dW, needs_db = weight is not None, x is not None, bias is not None or ctx.needs_input_grad[2]
        dx = dW = db = None
        if needs_dx:
            dx = delta @ weight  # ∂C/∂a_prev = δ W  (..., n_in)
        if delta.dim() != 2:
            delta, x = _rows(delta), _rows(x) if needs_dW else None
        if needs_dW:
            dW = torch.mm(delta.t(), x)  # ∂C/∂W = δᵀ a_prev  (n_out, n_in)
        if needs_db:
            db = delta.sum(0)  # ∂C/∂b = Σ_m δ  (n_out,)
        return dx, dW, db


class LinearForwardMode(LinearFunction):
    """`LinearFunction` with its forward-mode rule: ż = ẋ Wᵀ + x Ẇᵀ + ḃ."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        x, weight, _ = inputs
        HandDerivedFunction.save(ctx, x, weight, None)

    @staticmethod
    @forward_rule
    def jvp(ctx: Any, saved: list[Tensor], x_dot: Tensor, weight_dot: Tensor, bias_dot: Tensor | None) -> Tensor:
        x, weight, _ = saved
        z_dot = F.linear(x_dot, weight) + F.linear(x, weight_dot)  # ẋ Wᵀ + x Ẇᵀ  (..., n_out)
        return z_dot if bias_dot is None else z_dot + bias_dot  # + ḃ  (..., n_out)


def _rows(tensor: Tensor) -> Tensor:
    """(..., n) as (m, n). The count is spelled out, because reshape(-1, n) cannot infer it when n is 0."""
    return tensor.reshape(math.prod(tensor.shape[:-1]), tensor.shape[-1])


LinearFunction.forward_mode = LinearForwardMode
