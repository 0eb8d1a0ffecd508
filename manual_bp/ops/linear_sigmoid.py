"""Linear and sigmoid in one: a = σ(z) with z = a_prev Wᵀ + b.

    δ          = ∂C/∂a ⊙ a ⊙ (1 − a)  (m, n_out)
    ∂C/∂a_prev = δ W                  (m, n_in)
    ∂C/∂W      = δᵀ a_prev            (n_out, n_in)
    ∂C/∂b      = Σ_m δ                (n_out,)

One step of the documents' recursion, `sigmoid.py`'s formula and then `linear.py`'s, in one node of
the graph. a is written over z, which nothing needs, unless somebody looks at the steps: selective
checkpointing keeps z.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from manual_bp.ops import linear, sigmoid
from manual_bp.ops.function import HandDerivedFunction, forward_rule, is_plain


class LinearSigmoidFunction(HandDerivedFunction):
    """a = σ(x Wᵀ + b); x (..., n_in), W (n_out, n_in), b (n_out,) or None; a (..., n_out).
    Documents 1, 2 and 3.
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        z = F.linear(x, weight, bias)  # z = x Wᵀ + b  (m, n_out)
        return z.sigmoid_() if is_plain(z) else z.sigmoid()  # a = σ(z)  (m, n_out)

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor
    ) -> None:
        x, weight, bias = inputs
        if is_dynamo_compiling():  # as in linear.py
            ctx.save_for_backward(x, weight, bias, output)
        else:
            needs_dx, needs_dW, _ = ctx.needs_input_grad
            ctx.save_for_backward(
                x if needs_dW else None, weight if needs_dx else None, None, output
            )

    @staticmethod
    def backward(ctx: Any, da: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight, bias, a = ctx.saved_tensors
        delta = sigmoid.gradient(da, a)  # δ = ∂C/∂a ⊙ a ⊙ (1 − a)  (..., n_out)
        return linear.gradients(ctx, delta, x, weight, bias)


class LinearSigmoidForwardMode(LinearSigmoidFunction):
    """`LinearSigmoidFunction` with its forward-mode rule: ȧ = (ẋ Wᵀ + x Ẇᵀ + ḃ) ⊙ a ⊙ (1 − a)."""

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor
    ) -> None:
        x, weight, _ = inputs
        HandDerivedFunction.save(ctx, x, weight, None, output)

    @staticmethod
    @forward_rule
    def jvp(
        ctx: Any, saved: list[Tensor], x_dot: Tensor, weight_dot: Tensor, bias_dot: Tensor | None
    ) -> Tensor:
        x, weight, _, a = saved
        return sigmoid.tangent(a, linear.tangent(x, weight, x_dot, weight_dot, bias_dot))


LinearSigmoidFunction.forward_mode = LinearSigmoidForwardMode
