"""Autocast: our operations are cast exactly as torch's are, and run as accurately."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from manual_bp import functional
from tests.correctness import compare
from tests.correctness.operations import LINEAR, OPERATIONS, Operation


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str
)
@pytest.mark.parametrize("inside", [False, True], ids=["backward outside", "backward inside"])
@pytest.mark.parametrize("op", OPERATIONS, ids=str)
def test_autocast_casts_as_it_casts_the_twin(
    op: Operation, dtype: torch.dtype, low: torch.dtype, inside: bool
) -> None:
    inputs = op.inputs(dtype)

    def run(function: Callable[..., Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        leaves = [t.detach().requires_grad_() for t in inputs]
        with torch.autocast("cpu", dtype=low):
            value = function(*leaves)
            if inside:
                return value, torch.autograd.grad(value, leaves, compare.make_cotangent(value))
        return value, torch.autograd.grad(value, leaves, compare.make_cotangent(value))

    value, gradients = run(op.ours)
    twin_value, twin_gradients = run(op.twin)
    if dtype == torch.float64:  # autocast leaves it alone
        compare.all_of(
            compare.agree, (value.detach(), *gradients), (twin_value.detach(), *twin_gradients)
        )
        return
    reference, references = compare.value_and_gradients(op.twin, [t.double() for t in inputs])
    for ours, twin, exact in zip(
        (value, *gradients), (twin_value, *twin_gradients), (reference, *references), strict=True
    ):
        compare.accurate(ours.detach(), twin.detach(), exact)


def test_autocast_off_inside_on_is_respected() -> None:
    x, weight, bias = LINEAR.inputs(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.autocast("cpu", enabled=False):
        assert functional.linear(x, weight, bias).dtype == torch.float32


def test_autocast_state_is_restored_after_an_error() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with pytest.raises(RuntimeError):
            functional.linear(torch.zeros(5, 3), torch.zeros(4, 2))
        functional.linear(torch.zeros(5, 2), torch.zeros(4, 2))
        assert torch.is_autocast_enabled("cpu")
