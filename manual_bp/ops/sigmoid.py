"""Sigmoid: a = σ(z) = 1 / (1 + e^(−z)), elementwise.

    ∂C/∂z = ∂C/∂a ⊙ a ⊙ (1 − a)

Only a is kept: the slope σ′(z) = σ(z)(1 − σ(z)) is a(1 − a), at most ¼. Document 1 writes it f′(a); document 2
σ(s)(1 − σ(s)); document 3 a(1 − a).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from manual_bp.ops.function import HandDerivedFunction, forward_rule

# 1 as a tensor: PyTorch makes one of a Python number at every call, which takes a small layer as long as the rest.
_ONE = torch.ones((), device="cpu")


class SigmoidFunction(HandDerivedFunction):
    """a = σ(z); z and a of one shape. Documents 1, 2 and 3."""

    @staticmethod
    def forward(z: Tensor) -> Tensor:
        return torch.sigmoid(z)  # a = σ(z)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, da: Tensor) -> Tensor:
        a: Tensor = ctx.saved_tensors[0]
        # Not without dimensions, where two tensors promote to the wider dtype; not in a subclass or compiled code.
        one = _ONE if type(a) is Tensor and a.dim() and not torch.compiler.is_compiling() else 1
        # Multiplied in the order of torch's own kernel: equal to it bit for bit.
        return da * (one - a) * a  # ∂C/∂z = ∂C/∂a ⊙ a ⊙ (1 − a)  (as z)


class SigmoidForwardMode(SigmoidFunction):
    """`SigmoidFunction` with its forward-mode rule: ȧ = ż ⊙ a ⊙ (1 − a)."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        HandDerivedFunction.save(ctx, output)

    @staticmethod
    @forward_rule
    def jvp(ctx: Any, saved: list[Tensor], z_dot: Tensor) -> Tensor:
        (a,) = saved
        return z_dot * (1 - a) * a  # ȧ = ż ⊙ σ′(z)  (as z)


SigmoidFunction.forward_mode = SigmoidForwardMode
