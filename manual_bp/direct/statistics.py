"""What an epoch of direct training reports, from a table with one row a step that stays on the device until the end."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from manual_bp.direct.layers import Layer

# Columns of the table: SQUARED_ERROR, CORRECT, then for each layer ‖δ‖², ‖∂C/∂W‖², ‖∂C/∂b‖².
SQUARED_ERROR, CORRECT, FIRST_NORM, NORMS_PER_LAYER = 0, 1, 2, 3


@dataclass(frozen=True)
class Statistics:
    """One epoch of `Trainer.run`, measured in passing: each batch before the update that it causes.

    Norms are Frobenius norms, averaged over the steps; with `norms=False` they are empty, and their total NaN.
    """

    steps: int
    examples: int
    squared_error: float  # Σ over examples of ‖a − y‖²
    cost: float  # s Σ (a − y)², all examples taken as one batch; for "sum" the sum over the epoch
    correct: int  # examples whose largest output is their target's largest
    grad_norm_total: float  # of all parameters together
    grad_norm: dict[str, float]  # by parameter name, "0.weight"
    delta_norm: dict[str, float]  # ‖∂C/∂z‖ by name of the Linear, "0"

    @classmethod
    def read(cls, table: Tensor, examples: int, scale: float, layers: list[Layer], norms: bool) -> Statistics:
        """Reduce the table (n_steps, 2 + 3 layers) on its device, and bring the result over in one transfer."""
        table = table.double()
        sums = table[:, :FIRST_NORM].sum(0)
        squares = table[:, FIRST_NORM:]
        gradients = torch.tensor([i % NORMS_PER_LAYER != 0 for i in range(squares.shape[1])], device=table.device)
        totals = (squares * gradients).sum(1, keepdim=True)
        means = torch.cat([squares, totals], 1).sqrt().mean(0)
        squared_error, correct, *values, total = torch.cat([sums, means]).tolist()
        grad_norm, delta_norm = {}, {}
        for i, layer in enumerate(layers if norms else []):
            delta, weight, bias = values[NORMS_PER_LAYER * i : NORMS_PER_LAYER * (i + 1)]
            delta_norm[layer.name] = delta
            grad_norm[f"{layer.name}.weight"] = weight
            if layer.bias is not None:
                grad_norm[f"{layer.name}.bias"] = bias
        return cls(
            steps=table.shape[0],
            examples=examples,
            squared_error=squared_error,
            cost=scale * squared_error,
            correct=int(correct),
            grad_norm_total=total if norms else math.nan,
            grad_norm=grad_norm,
            delta_norm=delta_norm,
        )
