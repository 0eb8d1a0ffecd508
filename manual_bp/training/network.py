"""The network that a plan describes, and its cost."""

from __future__ import annotations

import torch
from torch import nn

from manual_bp.mlp import MLP
from manual_bp.mse import MSELoss
from manual_bp.training.initialisation import initialise
from manual_bp.training.plan import Plan
from manual_bp.twins import to_torch


def build(plan: Plan, device: torch.device) -> nn.Sequential:
    """The network that `plan` describes, seeded by it; for --impl builtin its torch.nn twin."""
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they are
        torch.manual_seed(plan.seed)
        # Drawn on the CPU, in float32: one seed is one network, on every device, in every precision
        model: nn.Sequential = MLP(plan.sizes, output=plan.output)
        generator = torch.Generator().manual_seed(plan.seed)
        initialise(model, plan.init, plan.init_epsilon, generator)
    if plan.impl == "builtin":
        model = to_torch(model)
    return model.to(device, getattr(torch, plan.dtype))


def criterion(impl: str, reduction: str) -> nn.Module:
    """The cost as a module: ours, or torch.nn's times the factor that turns its mean or sum into
    `reduction`.
    """
    return MSELoss(reduction) if impl == "manual" else _BuiltinCost(reduction)


class _BuiltinCost(nn.Module):
    """s Σ (a − y)² out of torch.nn.functional.mse_loss."""

    def __init__(self, reduction: str) -> None:
        super().__init__()
        self.base = "sum" if reduction == "sum" else "mean"
        self.reduction = reduction

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        cost = nn.functional.mse_loss(input, target, reduction=self.base)
        if self.reduction == "half_per_example":
            return cost * (input.shape[-1] / 2)  # Σ/(m n_out) · n_out/2 = Σ/(2m)
        if self.reduction == "half_per_element":
            return cost / 2
        return cost
