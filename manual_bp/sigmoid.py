"""Sigmoid: a = σ(z) = 1 / (1 + e^(−z)), elementwise.

    ∂C/∂z = ∂C/∂a ⊙ a ⊙ (1 − a)

Only a is kept: the slope σ′(z) = σ(z)(1 − σ(z)) is a(1 − a), at most ¼. Document 1 writes f′(a);
document 2 σ(s)(1 − σ(s)); document 3 a(1 − a).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from manual_bp.function import HandDerivedFunction, apply, keep, not_floating, not_tensors


class SigmoidFunction(HandDerivedFunction):
    """a = σ(z), with ∂C/∂z = ∂C/∂a ⊙ a ⊙ (1 − a) (documents 1, 2 and 3).

    Shapes: z, a and both gradients have one shape.

        >>> SigmoidFunction.apply(torch.zeros(2))
        tensor([0.5000, 0.5000])
    """

    @staticmethod
    def forward(z: Tensor) -> Tensor:
        return torch.sigmoid(z)  # a = σ(z)  (as z)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], a: Tensor) -> None:
        keep(ctx, a, needed=(True,))

    @staticmethod
    def backward(ctx: Any, da: Tensor) -> Tensor:
        (a,) = ctx.saved_tensors
        # 1 − a is exact near a = 1, where a − a² would cancel; torch multiplies in this order too.
        dz: Tensor = (1 - a) * da * a  # ∂C/∂z = ∂C/∂a ⊙ a ⊙ (1 − a)  (as z)
        return dz

    @staticmethod
    def jvp(ctx: Any, z_dot: Tensor) -> Tensor:
        (a,) = ctx.saved_tensors
        a_dot: Tensor = z_dot * (1 - a) * a  # ȧ = ż ⊙ (1 − a) ⊙ a  (as z)
        return a_dot


def sigmoid(input: Tensor) -> Tensor:
    """a = σ(z) = 1 / (1 + e^(−z)), with ∂C/∂z = ∂C/∂a ⊙ a ⊙ (1 − a) (documents 1, 2 and 3).

    Under autocast it runs in the dtype of its input, as `torch.sigmoid` does.

    Args:
        input: z of any shape, of a floating dtype.

    Returns:
        a of the shape of z.

    Raises:
        TypeError: the input is not a tensor of a floating dtype.

        >>> sigmoid(torch.zeros(2))
        tensor([0.5000, 0.5000])
    """
    if not isinstance(input, Tensor):
        return not_tensors(sigmoid, input=input)
    if not input.dtype.is_floating_point:
        raise not_floating("sigmoid", input)
    return apply(SigmoidFunction, input)


class Sigmoid(nn.Sigmoid):
    """a = σ(z), with ∂C/∂z = ∂C/∂a ⊙ a ⊙ (1 − a): `torch.nn.Sigmoid` with this backward pass.

    Any shape; errors as of `manual_bp.functional.sigmoid`. Documents 1, 2 and 3.

        >>> Sigmoid()(torch.zeros(2))
        tensor([0.5000, 0.5000])
    """

    def forward(self, input: Tensor) -> Tensor:
        return sigmoid(input)
