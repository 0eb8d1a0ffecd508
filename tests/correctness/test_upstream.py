"""What PyTorch gets wrong and this package goes round; strict xfails tell when it is mended."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import jacfwd

from manual_bp import functional


class DocumentedSigmoid(torch.autograd.Function):
    """A forward-mode rule written as PyTorch's own documentation writes it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor) -> Tensor:
        return torch.sigmoid(z)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        (a,) = ctx.saved_tensors
        return g * a * (1 - a)

    @staticmethod
    def jvp(ctx: Any, z_dot: Tensor) -> Tensor:  # type: ignore[override]
        (a,) = ctx.saved_tensors
        return z_dot * a * (1 - a)


Z = torch.tensor(1.0, dtype=torch.float64)
SECOND = float(
    torch.sigmoid(Z) * (1 - torch.sigmoid(Z)) * (1 - 2 * torch.sigmoid(Z))
)  # σ″ = σ′(1 − 2σ)


@pytest.mark.xfail(
    strict=True,
    reason="PyTorch runs jvp with forward mode off: nested jacfwd gives 0 (pytorch#197867)",
)
def test_nested_jacfwd_of_a_function_as_documented() -> None:
    assert float(jacfwd(jacfwd(DocumentedSigmoid.apply))(Z)) == pytest.approx(SECOND, rel=1e-12)


def test_nested_jacfwd_of_ours() -> None:
    assert float(jacfwd(jacfwd(functional.sigmoid))(Z)) == pytest.approx(SECOND, rel=1e-12)
