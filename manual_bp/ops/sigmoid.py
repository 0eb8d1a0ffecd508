"""Sigmoid: a = σ(z) = 1 / (1 + e^(−z)), elementwise.

    ∂C/∂z = ∂C/∂a ⊙ a ⊙ (1 − a)

Only a is kept: the slope σ′(z) = σ(z)(1 − σ(z)) is a(1 − a), at most ¼. Document 1 writes it f′(a);
document 2 σ(s)(1 − σ(s)); document 3 a(1 − a).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from manual_bp.ops.function import HandDerivedFunction, constant, forward_rule, is_plain


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
        return gradient(da, *ctx.saved_tensors)


class SigmoidForwardMode(SigmoidFunction):
    """`SigmoidFunction` with its forward-mode rule: ȧ = ż ⊙ a ⊙ (1 − a)."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        HandDerivedFunction.save(ctx, output)

    @staticmethod
    @forward_rule
    def jvp(ctx: Any, saved: list[Tensor], z_dot: Tensor) -> Tensor:
        (a,) = saved
        return tangent(a, z_dot)


SigmoidFunction.forward_mode = SigmoidForwardMode


def gradient(da: Tensor, a: Tensor) -> Tensor:
    """∂C/∂z from ∂C/∂a, equal to torch's own bit for bit in float32 and float64."""
    # In place, because new memory can take longer than the arithmetic; but under vmap ∂C/∂a may
    # have a batch that a has not, and hooks may give a saved tensor back in another dtype.
    if a.dtype is da.dtype and type(a) is Tensor and is_plain(da):
        return (constant(1, a.dtype) - a).mul_(da).mul_(a)  # ∂C/∂z = (1 − a) ⊙ ∂C/∂a ⊙ a  (as z)
    return (1 - a) * da * a


def tangent(a: Tensor, z_dot: Tensor) -> Tensor:
    """ȧ of a = σ(z)."""
    return z_dot * (1 - a) * a  # ȧ = ż ⊙ σ′(z)  (as z)
