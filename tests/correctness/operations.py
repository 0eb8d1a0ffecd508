"""The operations under test, each beside its torch twin: the rows of every table here.

An operation takes its differentiable tensors as arguments, so that one check serves all of them.
`inputs` makes them in any dtype with any leading dimensions; no two sizes are equal by accident (5,
3, 4), so that a wrong dimension shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import manual_bp as mbp
from manual_bp import functional
from manual_bp.normalisation import REDUCTIONS

M, N_IN, N_OUT = 5, 3, 4


@dataclass(frozen=True)
class Operation:
    """One row: our function, torch's, their inputs, and the modules that wrap them."""

    name: str
    ours: Callable[..., Tensor]
    twin: Callable[..., Tensor]
    shapes: tuple[tuple[object, ...], ...]  # ... stands for the leading dimensions
    module: Callable[[], nn.Module]
    twin_module: Callable[[], nn.Module]
    batched: tuple[bool, ...]  # which inputs hold one row an example
    second_order: bool = True  # whether the second derivative is other than zero

    def inputs(
        self,
        dtype: torch.dtype = torch.float64,
        leading: tuple[int, ...] = (M,),
        seed: int = 0,
        device: str = "cpu",
    ) -> tuple[Tensor, ...]:
        """Fresh tensors between −1.5 and 1.5, the same for every dtype up to rounding."""
        generator = torch.Generator().manual_seed(seed)
        made = []
        for shape in self.shapes:
            sizes = [n for s in shape for n in (leading if s is ... else (s,))]
            values = torch.rand(sizes, generator=generator, dtype=torch.float64) * 3 - 1.5  # type: ignore[arg-type]
            made.append(values.to(dtype).to(device))
        return tuple(made)

    def __str__(self) -> str:
        return self.name


def twin_mse(a: Tensor, y: Tensor, reduction: str) -> Tensor:
    """C = s Σ (a − y)² by torch alone: its mean or sum, times the factor of the reduction."""
    if reduction == "half_per_example":
        return F.mse_loss(a, y, reduction="sum") / 2 / (a[..., 0].numel() if a.dim() else 1)
    if reduction == "half_per_element":
        return F.mse_loss(a, y, reduction="mean") / 2
    return F.mse_loss(a, y, reduction=reduction)


class TwinMSELoss(nn.Module):
    """`twin_mse` as a module."""

    def __init__(self, reduction: str) -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, a: Tensor, y: Tensor) -> Tensor:
        return twin_mse(a, y, self.reduction)


def _network(
    linear: Callable[..., Tensor], sigmoid: Callable[..., Tensor], mse: Callable[..., Tensor]
) -> Callable[..., Tensor]:
    def network(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, y: Tensor) -> Tensor:
        a1 = sigmoid(linear(x, w1, b1))
        a2 = sigmoid(linear(a1, w2, b2))
        return mse(a2, y, "half_per_example")

    return network


def twin_mlp(sizes: list[int]) -> nn.Sequential:
    """Linear, Sigmoid, … by torch.nn alone."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), nn.Sigmoid()]
    return nn.Sequential(*layers)


def _mse(reduction: str) -> Operation:
    return Operation(
        name=f"mse {reduction}",
        ours=lambda a, y: functional.mse_loss(a, y, reduction),
        twin=lambda a, y: twin_mse(a, y, reduction),
        shapes=((..., N_OUT), (..., N_OUT)),
        module=lambda: mbp.MSELoss(reduction),
        twin_module=lambda: TwinMSELoss(reduction),
        batched=(True, True),
    )


LINEAR = Operation(
    name="linear",
    ours=functional.linear,
    twin=F.linear,
    shapes=((..., N_IN), (N_OUT, N_IN), (N_OUT,)),
    module=lambda: mbp.Linear(N_IN, N_OUT),
    twin_module=lambda: nn.Linear(N_IN, N_OUT),
    batched=(True, False, False),
)
LINEAR_NO_BIAS = Operation(
    name="linear, no bias",
    ours=functional.linear,
    twin=F.linear,
    shapes=((..., N_IN), (N_OUT, N_IN)),
    module=lambda: mbp.Linear(N_IN, N_OUT, bias=False),
    twin_module=lambda: nn.Linear(N_IN, N_OUT, bias=False),
    batched=(True, False),
)
SIGMOID = Operation(
    name="sigmoid",
    ours=functional.sigmoid,
    twin=torch.sigmoid,
    shapes=((..., N_OUT),),
    module=mbp.Sigmoid,
    twin_module=nn.Sigmoid,
    batched=(True,),
)
MSE = {reduction: _mse(reduction) for reduction in REDUCTIONS}
NETWORK = Operation(
    name="network",
    ours=_network(functional.linear, functional.sigmoid, functional.mse_loss),
    twin=_network(F.linear, torch.sigmoid, twin_mse),
    shapes=((..., N_IN), (N_OUT, N_IN), (N_OUT,), (2, N_OUT), (2,), (..., 2)),
    module=lambda: mbp.MLP([N_IN, N_OUT, 2]),
    twin_module=lambda: twin_mlp([N_IN, N_OUT, 2]),
    batched=(True, False, False, False, False, True),
)
OPERATIONS = (LINEAR, LINEAR_NO_BIAS, SIGMOID, *MSE.values(), NETWORK)
