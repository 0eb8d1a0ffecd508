"""How the sigmoids of a network stand: the slope σ′(z) per layer, measured on a fixed batch at the end of an epoch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SATURATED_SLOPE = 0.01  # σ′ below this lets less than a twenty-fifth of the best possible error signal through


@torch.no_grad()
def slopes(model: nn.Sequential, x: Tensor) -> tuple[list[str], Tensor]:
    """Mean slope and saturated share of every sigmoid layer for inputs x (m, n_in).

    The slope is σ′(z) = a(1 − a), at most ¼. A layer carries the name of the linear layer that feeds it.

    Returns:
        The layers' names, and a tensor (layers, 2): [mean σ′, share of σ′ < 0.01], still on the device.
    """
    names, rows = [], []
    linear = ""
    for name, module in model.named_children():
        x = module(x)
        if isinstance(module, nn.Linear):
            linear = name
        elif isinstance(module, nn.Sigmoid):
            slope = x * (1 - x)
            names.append(linear)
            rows.append(torch.stack([slope.mean(), (slope < SATURATED_SLOPE).to(slope.dtype).mean()]))
    return names, torch.stack(rows) if rows else x.new_zeros(0, 2)
